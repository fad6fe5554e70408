"""`countersign dev` as a deployment starts it, and a mail server to go with it."""

import json
import os
import pathlib
import re
import socket
import socketserver
import subprocess
import threading

from steps import eventually

LISTENERS = ["verifier", "verifier-health", "issuer", "issuer-health", "admin"]


class Dev:
    """A running `dev`, with nothing in its environment but what is given. It ends with the `with` that holds it."""

    def __init__(self, binary, home, environment, arguments=(), own_port=False):
        self.binary, self.home = binary, pathlib.Path(home)
        self.data = self.home / "data"
        self.data.joinpath("addresses.json").unlink(missing_ok=True)
        # PORT is the issuer's when no flag says another.
        listeners = [name for name in LISTENERS if not (own_port and name == "issuer")]
        flags = [word for name in listeners for word in (f"--{name}-listen", "127.0.0.1:0")]
        self.command = [binary, "dev", "--data-dir", str(self.data), *flags, *arguments]
        self.environment = {"PATH": os.environ["PATH"], "NO_COLOR": "1", **environment}
        self.log_file = self.home / "log"

    def __enter__(self):
        with self.log_file.open("ab") as log:
            self.said_before = log.tell()
            self.process = subprocess.Popen(
                self.command, cwd=self.home, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            self.addresses = eventually("dev has started", self._addresses)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)

    def _addresses(self):
        if self.process.poll() is not None:
            raise AssertionError(f"dev has ended: {self.said()}")
        try:
            return json.loads(self.data.joinpath("addresses.json").read_text())
        except FileNotFoundError:
            return None

    def said(self):
        """What it has said since its start."""
        return self.log_file.read_bytes()[self.said_before :].decode()

    def issuer(self, path):
        return f"http://{self.addresses['issuer']}{path}"

    def verify_at(self, policy):
        return f"http://{self.addresses['verifier']}/v1/policies/{policy}/verify"

    def run(self, *arguments):
        """A command of the command line, on this one; its exit status and what it printed."""
        server = ["--server", f"unix:{self.addresses['admin_socket']}"]
        command = [self.binary, *arguments, *server]
        done = subprocess.run(command, env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout.strip(), done.stderr.strip()


def free_port():
    """A port that nobody has, below those that the system gives away."""
    for port in range(20_000 + os.getpid() % 5_000, 30_000):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


class MailServer(socketserver.ThreadingTCPServer):
    """Takes mails as an SMTP server does that wants a name and a password (RFC 5321, RFC 4954)."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Session)
        self.port, self.mails, self.logins = self.server_address[1], [], []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def link_to(self, address):
        """The token in the mail to an address."""

        def sent():
            for sender, to, text in self.mails:
                link = re.search(r"token=([\w-]+)", text.replace("=\n", ""))
                if to == address and link:
                    return sender, link[1]
            return None

        return eventually(f"a mail to {address}", sent)


class _Session(socketserver.StreamRequestHandler):
    def handle(self):
        self.say("220 mail.example")
        sender = to = None
        while line := self.rfile.readline().decode().strip():
            verb, _, rest = line.partition(" ")
            match verb.upper():
                case "EHLO":
                    self.say("250-mail.example\r\n250 AUTH PLAIN")
                case "AUTH":
                    self.server.logins.append(rest)
                    self.say("235 welcome")
                case "MAIL":
                    sender = re.search("<(.*?)>", rest)[1]
                    self.say("250 ok")
                case "RCPT":
                    to = re.search("<(.*?)>", rest)[1]
                    self.say("250 ok")
                case "DATA":
                    self.say("354 go on")
                    self.server.mails.append((sender, to, self.text()))
                    self.say("250 taken")
                case "QUIT":
                    self.say("221 bye")
                    return
                case _:
                    self.say("250 ok")

    def text(self):
        lines = []
        while (line := self.rfile.readline().decode().rstrip("\r\n")) != ".":
            lines.append(line)
        return "\n".join(lines)

    def say(self, line):
        self.wfile.write(line.encode() + b"\r\n")
