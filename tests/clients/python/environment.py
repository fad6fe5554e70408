"""A deployment that keeps its environment when it moves over: each variable takes effect, what a policy says itself overrides it,
and the log names what doesn't count. Arguments: the `countersign` program, a directory of its own.
"""

import base64
import json
import pathlib
import sys
import time
import urllib.parse

import jwt
import pyotp
import requests

from deployment import Dev, MailServer, free_port
from steps import expect, run, step

PASSWORD = "Correct-horse-battery-1"
SECRET = "a-legacy-secret-of-at-least-32-bytes!"
# What a policy names that says itself which tokens from before it takes.
OTHER_SECRET = "another-secret-of-at-least-32-bytes!!"
FROM_BEFORE = {
    "JWT_SECRET_KEY": SECRET,
    "ACCESS_TOKEN_EXPIRE_MINUTES": "7",
    "REFRESH_TOKEN_EXPIRE_DAYS": "3",
    "MAX_CONCURRENT_SESSIONS": "2",
    "SESSION_TIMEOUT_MINUTES": "45",
    "MFA_ISSUER_NAME": "Old Shop",
    "MAX_LOGIN_ATTEMPTS": "3",
    "ACCOUNT_LOCKOUT_DURATION_MINUTES": "7",
    "PASSWORD_MIN_LENGTH": "16",
    "TOKEN_ENCRYPTION_KEY": "an-encryption-key-of-before",
    "CSRF_SECRET_KEY": "a-csrf-secret-of-before",
    "EMERGENCY_AUTH_MODE": "true",
    "DATABASE_URL": "sqlite+aiosqlite:///./app.db",
}
# What says the same by a later name, and so counts for nothing beside the first.
LOSERS = {
    "JWT_ACCESS_TOKEN_EXPIRE_MINUTES": "9",
    "JWT_EXPIRATION_SECONDS": "99",
    "JWT_REFRESH_TOKEN_EXPIRE_DAYS": "9",
    "2FA_ISSUER_NAME": "Older Shop",
}
# A policy that says nothing of what the environment says.
SILENT = {
    "issuer": "https://auth.shop.example",
    "audiences": ["shop-api"],
    "roles": [{"name": "user", "permissions": ["orders:read"]}],
    "login": {"cookies": {"mode": "Enabled"}, "registration": {"emailVerification": "Disabled", "defaultRoles": ["user"]}},
}
OWN = {
    **SILENT,
    "tokens": {"accessTTL": "11m", "refreshTTL": "120h"},
    "trustedIssuers": [
        {
            "name": "before",
            "algorithms": ["HS256"],
            "secretKeyRef": {"name": "old-jwt", "key": "secret"},
            "notAfter": "2099-01-01T00:00:00Z",
            "audiences": ["*"],
            "claimMappings": {
                "subject": {"expression": "string(claims.user_id)"},
                "roles": {"claim": "role", "allow": ["user"]},
            },
        }
    ],
    "emergency": {"mode": "Disabled"},
    "login": {
        **SILENT["login"],
        "sessions": {"maxConcurrent": 3, "idleTimeout": "50m"},
        "mfa": {"totp": {"issuerName": "New Shop"}},
        "lockout": {"maxFailures": 4, "duration": "12m"},
        "passwords": {"minLength": 10},
    },
}


class World:
    def __init__(self, binary, directory):
        self.binary, self.directory = binary, pathlib.Path(directory)

    def home(self, name, spec=None):
        """A directory to start in, with a policy or the built-in one; the arguments that go with it."""
        home = self.directory / name
        policies = home / "policies"
        policies.mkdir(parents=True, exist_ok=True)
        if spec is None:
            return home, []
        policy = {
            "apiVersion": "countersign.dev/v1alpha1",
            "kind": "AuthPolicy",
            "metadata": {"name": "app", "namespace": "shop"},
            "spec": spec,
        }
        policies.joinpath("app.yaml").write_text(json.dumps(policy))
        secret = policies / "secrets" / "old-jwt" / "secret"
        secret.parent.mkdir(parents=True, exist_ok=True)
        secret.write_text(OTHER_SECRET)
        return home, ["--policies", str(policies)]

    def dev(self, name, environment, spec=None, **more):
        home, arguments = self.home(name, spec)
        return Dev(self.binary, home, environment, arguments, **more)


class User:
    """Somebody who registers, and logs in."""

    def __init__(self, dev, name):
        self.dev, self.name, self.device = dev, name, None

    def post(self, path, body, **headers):
        return requests.post(self.dev.issuer(path), json=body, headers=headers, timeout=60)

    def register(self, password=PASSWORD):
        address = f"{self.name}@shop.example"
        return self.post("/auth/register", {"email": address, "username": self.name, "password": password})

    def login(self, password=PASSWORD, **more):
        return self.post("/auth/login", {"username": self.name, "password": password, **more})

    def bearer(self):
        answer = self.login()
        expect(answer.status_code, 200, answer)
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def sessions(self, bearer):
        return requests.get(self.dev.issuer("/auth/sessions"), headers=bearer, timeout=60).json()["sessions"]


def registered(dev, name):
    user = User(dev, name)
    answer = user.register()
    expect(answer.status_code, 201, answer)
    return user


def look(dev, *, access_s, refresh_s, sessions, idle_s, app, failures, locked_s, shortest):
    """What one user sees of every setting."""
    user = registered(dev, "alice")
    tokens = user.login().json()
    expect(tokens["expires_in"], access_s)
    cookies = user.login(cookies=True)
    kept = [line for line in cookies.raw.headers.getlist("Set-Cookie") if "refresh=" in line]
    expect([f"Max-Age={refresh_s};" in line for line in kept], [True], kept)
    for _ in range(2):
        bearer = user.bearer()
    listed = user.sessions(bearer)
    expect(len(listed), sessions)
    expect({one["expires_at"] - one["last_seen_at"] for one in listed}, {idle_s})
    shown = user.post("/auth/2fa/setup/totp", {}, **bearer).json()
    uri = urllib.parse.urlsplit(shown["otpauth_url"])
    expect(urllib.parse.parse_qs(uri.query)["issuer"], [app])
    weak = User(dev, "weak").register(password="Aa1-" + "x" * (shortest - 5))
    expect((weak.status_code, weak.json().get("violations", [{}])[0].get("rule")), (422, "min_length"), weak)
    expect(User(dev, "strong").register(password="Aa1-" + "xy" * (shortest - 4)).status_code, 201)
    strong = User(dev, "strong")
    expect([strong.login("wrong").status_code for _ in range(failures + 1)], [401] * failures + [423])
    left_s = strong.login("wrong").json()["locked_until"] - time.time()
    assert locked_s - 60 < left_s <= locked_s + 1, left_s


def token_from_before(secret=SECRET, **more):
    now = int(time.time())
    return jwt.encode({"sub": "42", "iat": now, "exp": now + 900, **more}, secret, algorithm="HS256")


@step("the built-in policy: PORT, DATABASE_URL and SMTP_… as they were, and addresses are verified by mail")
def _(world):
    mails, port = MailServer(), free_port()
    smtp = {
        "SMTP_HOST": "127.0.0.1", "SMTP_PORT": str(mails.port), "SMTP_USER": "shop", "SMTP_PASSWORD": "mail secret",
        "SMTP_FROM_EMAIL": "no-reply@shop.example",
    }
    with world.dev("built-in", {**FROM_BEFORE, **smtp, "PORT": str(port)}, own_port=True) as dev:
        expect(dev.addresses["issuer"], f"127.0.0.1:{port}")
        assert dev.home.joinpath("app.db").stat().st_size > 0
        assert not dev.data.joinpath("countersign.db").exists()
        user = registered(dev, "ann")
        expect(user.login().status_code, 403)
        sender, token = mails.link_to("ann@shop.example")
        expect(sender, "no-reply@shop.example")
        said = base64.b64decode(mails.logins[0].split()[-1]).decode()
        expect(said.split("\0")[-2:], ["shop", "mail secret"])
        expect(user.post("/auth/verify-email", {"token": token}).status_code, 200)
        expect(user.login().json()["expires_in"], 7 * 60)
        assert not dev.data.joinpath("outbox").exists()


@step("each variable fills in what the policy doesn't say, and of two names for one thing the log names the loser")
def _(world):
    with world.dev("silent", {**FROM_BEFORE, **LOSERS}, SILENT) as dev:
        look(
            dev, access_s=7 * 60, refresh_s=3 * 86_400, sessions=2, idle_s=45 * 60, app="Old Shop", failures=3,
            locked_s=7 * 60, shortest=16,
        )
        for loser in LOSERS:
            assert f"; {loser}, which means the same, is ignored" in dev.said(), dev.said()
        assert "CSRF_SECRET_KEY is not needed" in dev.said() and "EMERGENCY_AUTH_MODE: until" in dev.said(), dev.said()
        assert SECRET not in dev.said() and "a-csrf-secret" not in dev.said()


@step("EMERGENCY_AUTH_MODE lets emergency tokens be minted, and verifiers take them")
def _(world):
    mint = ["token", "mint", "-q", "--policy", "shop/app", "--subject", "alice", "--emergency", "--reason", "INC-42"]
    with world.dev("emergency", {"EMERGENCY_AUTH_MODE": "true"}, SILENT) as dev:
        status, token, said = dev.run(*mint, "--role", "user")
        expect(status, 0, said)
        verdict = requests.post(dev.verify_at("shop/app"), json={"token": token}, timeout=60)
        expect((verdict.status_code, verdict.json()["kind"]), (200, "emergency"), verdict)
    with world.dev("emergency", {"EMERGENCY_AUTH_MODE": "false"}, SILENT) as dev:
        status, token, said = dev.run(*mint, "--role", "user")
        assert status != 0 and not token and "emergency" in said, (status, token, said)


@step("what the policy says itself overrides every variable, and the log says so")
def _(world):
    with world.dev("own", FROM_BEFORE, OWN) as dev:
        look(
            dev, access_s=11 * 60, refresh_s=5 * 86_400, sessions=3, idle_s=50 * 60, app="New Shop", failures=4,
            locked_s=12 * 60, shortest=10,
        )
        overridden = [line for line in dev.said().splitlines() if "the default policy's own field counts" in line]
        for variable in FROM_BEFORE.keys() - {
            "JWT_SECRET_KEY", "TOKEN_ENCRYPTION_KEY", "CSRF_SECRET_KEY", "DATABASE_URL",
        }:
            assert any(f'"{variable}"' in line for line in overridden), (variable, overridden)
        assert "JWT_SECRET_KEY is not used" in dev.said(), dev.said()
        refused = requests.post(dev.verify_at("shop/app"), json={"token": token_from_before()}, timeout=60)
        expect(refused.status_code, 401, refused)
        # An account's number and a role of before, as the policy reads them.
        token = token_from_before(OTHER_SECRET, user_id=42, role=["user", "admin"])
        found = requests.post(dev.verify_at("shop/app"), json={"token": token}, timeout=60)
        expect((found.status_code, found.json().get("subject"), found.json().get("roles")), (200, "42", ["user"]), found)


@step("the later names count where the first aren't set, and JWT_SECRET_KEY until its date")
def _(world):
    environment = {**LOSERS, "JWT_SECRET_KEY": SECRET, "LEGACY_TOKENS_NOT_AFTER": "2999-01-01"}
    del environment["JWT_ACCESS_TOKEN_EXPIRE_MINUTES"]
    with world.dev("later", environment, SILENT) as dev:
        user = registered(dev, "alice")
        expect(user.login().json()["expires_in"], 99)
        kept = [line for line in user.login(cookies=True).raw.headers.getlist("Set-Cookie") if "refresh=" in line]
        expect([f"Max-Age={9 * 86_400};" in line for line in kept], [True], kept)
        shown = user.post("/auth/2fa/setup/totp", {}, **user.bearer()).json()
        expect(pyotp.parse_uri(shown["otpauth_url"]).issuer, "Older Shop")
        for token in (token_from_before(), token_from_before(iss="old-shop", type="access")):
            verdict = requests.post(dev.verify_at("shop/app"), json={"token": token}, timeout=60)
            expect((verdict.status_code, verdict.json()["subject"]), (200, "42"), verdict)
        assert "accepted until 2999-01-01" in dev.said(), dev.said()
    with world.dev("later", {**environment, "LEGACY_TOKENS_NOT_AFTER": "2020-01-01"}, SILENT) as dev:
        verdict = requests.post(dev.verify_at("shop/app"), json={"token": token_from_before()}, timeout=60)
        expect((verdict.status_code, verdict.json()["verdict"]), (401, "untrusted_issuer"), verdict)
        assert "JWT_SECRET_KEY are refused: they were accepted until 2020-01-01" in dev.said(), dev.said()


@step("TOKEN_ENCRYPTION_KEY seals the secrets of authenticators: without it no code is right")
def _(world):
    key = {"TOKEN_ENCRYPTION_KEY": "an-encryption-key-of-before"}
    with world.dev("sealed", key, SILENT) as dev:
        user = registered(dev, "alice")
        bearer = user.bearer()
        totp = pyotp.TOTP(user.post("/auth/2fa/setup/totp", {}, **bearer).json()["secret"])
        confirmed = time.time()
        expect(user.post("/auth/2fa/verify/totp", {"code": totp.at(confirmed)}, **bearer).status_code, 200)
    # A step ahead, so that the code isn't the one that confirmed.
    code = totp.at(confirmed + 30)
    with world.dev("sealed", {}, SILENT) as dev:
        user.dev = dev
        answer = user.login(mfa_code=code)
        assert answer.status_code != 200, answer.text
    with world.dev("sealed", key, SILENT) as dev:
        user.dev = dev
        answer = user.login(mfa_code=code)
        expect((answer.status_code, answer.json().get("token_type")), (200, "bearer"), answer)


if __name__ == "__main__":
    run(World(*sys.argv[1:3]))
