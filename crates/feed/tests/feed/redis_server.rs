//! A Redis of a test's own.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use countersign_feed::{RedisFeed, RedisOptions};
use rustix::process::{Pid, Signal, kill_process};

pub(crate) struct RedisServer {
    dir: tempfile::TempDir,
    port: u16,
    args: Vec<String>,
    child: Option<Child>,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one on a free port, in a directory of its own.
    pub(crate) fn start_with(args: &[&str]) -> Self {
        let mut server = Self {
            dir: tempfile::tempdir().unwrap(),
            port: free_port(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            child: None,
        };
        server.launch();
        server
    }

    /// Starts it again after [`Self::kill`], on the same port and directory.
    pub(crate) fn launch(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while Instant::now() < deadline {
            let child = Command::new("redis-server")
                .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"])
                .arg("--dir")
                .arg(self.dir.path())
                .args(&self.args)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn();
            let mut child = match child {
                Ok(child) => child,
                Err(error) => panic!("redis-server can't be run ({error}); `cargo xtask test` installs it"),
            };
            while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
                if self.answers() {
                    self.child = Some(child);
                    return;
                }
                std::thread::yield_now();
            }
            // Someone else took the port meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            self.port = free_port();
        }
        panic!("redis-server did not come up");
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn feed(&self) -> RedisFeed {
        feed_at(&self.url())
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().unwrap().id();
        kill_process(Pid::from_raw(id.cast_signed()).unwrap(), signal).unwrap();
    }

    /// One command, its words separated by spaces.
    pub(crate) fn run(&self, command: &str) -> redis::Value {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        let mut words = command.split(' ');
        let mut cmd = redis::cmd(words.next().unwrap());
        for word in words {
            cmd.arg(word);
        }
        cmd.query(&mut connection).unwrap()
    }

    fn answers(&self) -> bool {
        if self.args.iter().any(|arg| arg == "--tls-port" || arg == "--unixsocket") {
            return std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        }
        let Ok(client) = redis::Client::open(self.url()) else { return false };
        let Ok(mut connection) = client.get_connection_with_timeout(Duration::from_secs(1)) else { return false };
        // One that asks for a password answers too; one that is loading doesn't yet.
        !matches!(redis::cmd("PING").exec(&mut connection), Err(error) if error.to_string().contains("loading"))
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub(crate) fn feed_at(url: &str) -> RedisFeed {
    let options = RedisOptions { timeout: Duration::from_millis(400), ..RedisOptions::default() };
    RedisFeed::new(url.parse().unwrap(), options).unwrap()
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
