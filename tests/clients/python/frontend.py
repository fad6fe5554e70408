"""A front end's user, as FastAPI back ends with a home-grown login have them. Its one argument is JSON: `issuer`, `verifier`,
`policy`, `outbox`, `jwt_secret_key`.
"""

import email
import email.policy
import json
import pathlib
import re
import sys
import time

import jwt
import pyotp
import requests

from service import Refused, current_user
from steps import eventually, expect, run, step

PASSWORD = "Correct-horse-battery-1"
OTHER = "Another-horse-battery-2"
AGENT = "shop-frontend/2.3 (python-requests)"


class ApiError(Exception):
    """What a caller of the client sees: the status, and `detail` as a text, which FastAPI gives as a text or as a list."""

    def __init__(self, answer):
        detail = answer.json().get("detail")
        if isinstance(detail, list):
            detail = "; ".join(one["msg"] for one in detail)
        assert isinstance(detail, str) and detail, answer.text
        super().__init__(detail)
        self.status, self.detail, self.answer = answer.status_code, detail, answer


class AuthClient:
    """One user's login. It keeps the refresh token that the login gave, and never looks at another."""

    def __init__(self, base):
        self.base = base.rstrip("/")
        self.http = requests.Session()
        self.http.headers["User-Agent"] = AGENT
        self.access_token = self.refresh_token = self.session_id = None

    def call(self, method, path, again=True, **more):
        headers = dict(more.pop("headers", {}))
        if self.access_token and "X-API-Key" not in headers:
            headers["Authorization"] = f"Bearer {self.access_token}"
        answer = self.http.request(method, self.base + path, headers=headers, timeout=60, **more)
        if answer.status_code == 401 and again and self.refresh_token:
            self.refresh()
            return self.call(method, path, again=False, headers=headers, **more)
        if not answer.ok:
            raise ApiError(answer)
        return answer

    def login(self, username, password, path="/auth/login", **more):
        return self._take(self.call("POST", path, again=False, json={"username": username, "password": password, **more}))

    def login_form(self, username, password, path="/auth/login"):
        """What OAuth2PasswordRequestForm reads, as Swagger's "Authorize" and generated clients send it."""
        form = {
            "grant_type": "password", "username": username, "password": password,
            "scope": "", "client_id": "", "client_secret": "",
        }
        return self._take(self.call("POST", path, again=False, data=form))

    def _take(self, answer):
        body = answer.json()
        if "access_token" in body:
            expect(body["token_type"].lower(), "bearer")
            self.access_token, self.refresh_token = body["access_token"], body["refresh_token"]
            self.session_id = body["session_id"]
        return body

    def refresh(self, path="/auth/refresh"):
        body = {"refresh_token": self.refresh_token}
        answer = self.http.post(self.base + path, json=body, timeout=60)
        if not answer.ok:
            raise ApiError(answer)
        self.access_token = answer.json()["access_token"]

    def me(self, path="/auth/me"):
        return self.call("GET", path).json()


class World:
    """What the steps share."""

    def __init__(self, given):
        self.issuer, self.verifier = f"http://{given['issuer']}", f"http://{given['verifier']}"
        self.policy, self.outbox = given["policy"], pathlib.Path(given["outbox"])
        self.jwt_secret_key = given["jwt_secret_key"]
        self.alice, self.read = AuthClient(self.issuer), set()

    def client(self, base=""):
        return AuthClient(self.issuer + base)

    def verify(self, token):
        return requests.post(f"{self.verifier}/v1/policies/{self.policy}/verify", json={"token": token}, timeout=60)

    def authorize(self, **headers):
        """As a reverse proxy asks before it lets a request through."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.get(f"{self.verifier}/v1/policies/{self.policy}/authorize", headers=sent, timeout=60)

    def refused_at_last(self, token):
        return eventually("the verifier refuses the token", lambda: self.verify(token).status_code == 401)

    def mailed(self, to):
        """The token of the next mail to an address that has a link."""

        def unread():
            for path in sorted(self.outbox.glob("*.eml")):
                mail = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
                link = re.search(r"https://\S+token=([\w-]+)", mail.get_body(("plain",)).get_content())
                if path not in self.read and mail["To"] == to and link:
                    self.read.add(path)
                    return link[1]
            return None

        return eventually(f"a mail with a link to {to}", unread)

    def account(self, name):
        """A registered and verified account."""
        address = f"{name}@shop.example"
        body = {"email": address, "password": PASSWORD, "username": name, "first_name": name.title(), "last_name": "Doe"}
        made = self.client().call("POST", "/auth/register", json=body)
        expect(made.status_code, 201, made)
        self.client().call("POST", "/auth/verify-email", json={"token": self.mailed(address)})
        return made.json()


def refused(status, call, *given, **more):
    """The error of a call that must fail."""
    try:
        found = call(*given, **more)
    except ApiError as error:
        expect(error.status, status, error.answer)
        return error
    raise AssertionError(f"{status} expected: {getattr(found, 'text', found)}")


@step("register, and log in only once the mailed link was used")
def _(world):
    body = {"email": "alice@shop.example", "password": PASSWORD, "username": "alice", "first_name": "Alice"}
    made = world.client().call("POST", "/auth/register", json=body)
    expect(made.status_code, 201, made)
    refused(403, world.client().login, "alice", PASSWORD)
    world.client().call("POST", "/auth/verify-email", json={"token": world.mailed("alice@shop.example")})
    world.alice_id = made.json()["id"]


@step("log in with JSON; the token is what PyJWT expects of one")
def _(world):
    body = world.alice.login("alice", PASSWORD)
    expect(body["user"]["id"], world.alice_id)
    keys = jwt.PyJWKClient(f"{world.issuer}/.well-known/jwks.json")
    key = keys.get_signing_key_from_jwt(body["access_token"])
    claims = jwt.decode(body["access_token"], key, algorithms=["EdDSA", "ES256", "RS256"], audience="shop-api")
    expect(claims["sub"], world.alice_id)
    expect(claims["roles"], ["user"])
    expect(claims["exp"] - claims["iat"], body["expires_in"])


@step("log in with the OAuth2 password form, with and without /api")
def _(world):
    for path in ("/auth/login", "/api/auth/login"):
        client = world.client()
        body = client.login_form("alice", PASSWORD, path)
        expect(body["user"]["username"], "alice")
        expect(client.me()["id"], world.alice_id)


@step("log in by e-mail address under /api")
def _(world):
    client = world.client("/api")
    body = {"email": "Alice@Shop.example", "password": PASSWORD}
    tokens = client._take(client.call("POST", "/auth/login", json=body))
    expect(tokens["user"]["email"], "alice@shop.example")
    expect(client.me("/users/me")["id"], world.alice_id)


@step("who am I, by either path, and by a token that nobody gave")
def _(world):
    for path in ("/auth/me", "/api/auth/me", "/users/me"):
        expect(world.alice.me(path)["email"], "alice@shop.example")
    stranger = world.client()
    error = refused(401, stranger.me)
    expect(error.answer.headers["WWW-Authenticate"], "Bearer")
    stranger.access_token = world.alice.access_token[:-8] + "AAAAAAAA"
    refused(401, stranger.me)


@step("services ask the verifier")
def _(world):
    at = {"verifier": f"{world.verifier}/v1/policies/{world.policy}"}
    expect(current_user(world.alice.access_token, "orders:read", **at)["subject"], world.alice_id)
    for status, token, permission in ((403, world.alice.access_token, "orders:write"), (401, "nonsense", "orders:read")):
        try:
            current_user(token, permission, **at)
            raise AssertionError(f"{permission}: not refused")
        except Refused as refusal:
            expect(refusal.status, status, refusal.detail)
            assert status == 403 or refusal.headers["WWW-Authenticate"].startswith("Bearer"), refusal.headers
    through = world.authorize(Authorization=f"Bearer {world.alice.access_token}")
    expect((through.status_code, through.headers["X-Auth-Subject"]), (200, world.alice_id), through)


@step("refresh again and again with the first refresh token")
def _(world):
    seen = {world.alice.access_token}
    for path in ("/auth/refresh", "/api/auth/refresh", "/auth/refresh", "/auth/refresh"):
        world.alice.refresh(path)
        seen.add(world.alice.access_token)
    expect(len(seen), 5)
    expect([world.verify(token).status_code for token in seen], [200] * 5)


@step("a stale access token is renewed behind the caller's back")
def _(world):
    world.alice.access_token = "stale"
    expect(world.alice.me()["id"], world.alice_id)


@step("X-API-Key at the issuer and at the verifier, until the key is revoked")
def _(world):
    body = {"name": "nightly export", "scopes": ["orders:read"], "expires_in": 86_400}
    made = world.alice.call("POST", "/auth/api-keys", json=body)
    expect(made.status_code, 201, made)
    key, by_key = made.json()["key"], world.client()
    assert key.startswith("csk_"), key
    expect(by_key.call("GET", "/auth/me", headers={"X-API-Key": key}).json()["id"], world.alice_id)
    through = world.authorize(X_API_Key=key)
    expect((through.status_code, through.headers["X-Auth-Subject"]), (200, world.alice_id), through)
    expect(world.alice.call("GET", "/auth/api-keys").json()["api_keys"][0]["name"], "nightly export")
    world.alice.call("DELETE", f"/auth/api-keys/{made.json()['id']}")
    eventually("the verifier refuses the key", lambda: world.authorize(X_API_Key=key).status_code == 401)
    refused(401, by_key.call, "GET", "/auth/me", headers={"X-API-Key": key})


@step("tokens from before, signed with JWT_SECRET_KEY, are good at the verifier")
def _(world):
    now = int(time.time())
    claims = {"sub": "42", "type": "access", "iat": now, "exp": now + 900}
    token = jwt.encode(claims, world.jwt_secret_key, algorithm="HS256")
    for one in (token, jwt.encode({**claims, "iss": "old-shop"}, world.jwt_secret_key, algorithm="HS256")):
        answer = world.verify(one)
        expect((answer.status_code, answer.json()["verdict"]), (200, "valid"), answer)
        expect((answer.json()["kind"], answer.json()["subject"], answer.json()["roles"]), ("external", "42", []))
    expect(world.authorize(Authorization=f"Bearer {token}").headers["X-Auth-Subject"], "42")
    forged = [
        jwt.encode(claims, "another-secret-of-at-least-32-bytes!", algorithm="HS256"),
        jwt.encode(claims, world.jwt_secret_key * 2, algorithm="HS512"),
        jwt.encode(claims, None, algorithm="none"),
        jwt.encode({**claims, "exp": now - 3600}, world.jwt_secret_key, algorithm="HS256"),
    ]
    expect([world.verify(one).status_code for one in forged], [401] * 4)
    stranger = world.client()
    stranger.access_token = token
    refused(401, stranger.me)


@step("end sessions with a body that has no Content-Type")
def _(world):
    listed = world.alice.call("GET", "/auth/sessions").json()["sessions"]
    assert len(listed) > 2 and sum(one["current"] for one in listed) == 1, listed
    victim = next(one["session_id"] for one in listed if not one["current"])
    expect(world.alice.call("DELETE", f"/auth/sessions/{victim}").json()["revoked"], 1)
    # requests gives a body of bytes no type.
    answer = world.alice.call("DELETE", "/auth/sessions", data=json.dumps({"keep_current": True}).encode())
    assert "Content-Type" not in answer.request.headers, answer.request.headers
    expect(answer.json()["revoked"], len(listed) - 2)
    expect([one["current"] for one in world.alice.call("GET", "/auth/sessions").json()["sessions"]], [True])


@step("set up a second factor from its QR code's address")
def _(world):
    world.account("bob")
    bob = world.bob = world.client()
    bob.login("bob", PASSWORD)
    shown = bob.call("POST", "/auth/2fa/setup/totp").json()
    assert shown["qr_code"].startswith("data:image/png;base64,"), shown["qr_code"][:40]
    world.totp = pyotp.parse_uri(shown["otpauth_url"])
    expect(world.totp.secret, shown["secret"])
    refused(401, bob.call, "POST", "/auth/2fa/verify/totp", again=False, json={"code": "000000"})
    world.confirmed = time.time()
    confirmed = bob.call("POST", "/auth/2fa/verify/totp", json={"code": world.totp.at(world.confirmed)})
    world.backup_codes = confirmed.json()["backup_codes"]
    expect(bob.call("GET", "/auth/2fa").json()["enabled"], True)


@step("log in with a second factor, and again with the same code: one session")
def _(world):
    before = len(world.bob.call("GET", "/auth/sessions").json()["sessions"])
    client = world.client()
    challenged = client.login("bob", PASSWORD)
    expect((challenged["requires_2fa"], challenged.get("access_token")), (True, None))
    assert "totp" in challenged["methods"], challenged
    # The authenticator's clock is a step ahead, so that the code isn't the one that confirmed.
    code = world.totp.at(world.confirmed + 30)
    verified = client.call("POST", "/auth/2fa/verify", json={"challenge_id": challenged["challenge_id"], "code": code})
    # It ignores what it got, and sends the whole login again.
    client.login("bob", PASSWORD, mfa_code=code)
    expect(client.session_id, verified.json()["session_id"])
    expect(client.me()["mfa_enabled"], True)
    expect(len(client.call("GET", "/auth/sessions").json()["sessions"]), before + 1)
    refused(401, world.client().login, "bob", PASSWORD, mfa_code=code)
    client.refresh()


@step("a backup code logs in once")
def _(world):
    client = world.client()
    client.login("bob", PASSWORD, mfa_code=world.backup_codes[0])
    expect(client.me()["username"], "bob")
    refused(401, world.client().login, "bob", PASSWORD, mfa_code=world.backup_codes[0])


def as_on_loopback(browser):
    """Browsers send Secure cookies to loopback without TLS; Python's cookie jar doesn't."""
    for cookie in browser.http.cookies:
        cookie.secure = False


@step("cookies: double submit of the CSRF token")
def _(world):
    browser = world.client()
    body = browser.login("alice", PASSWORD, cookies=True)
    as_on_loopback(browser)
    assert "access_token" not in body and "refresh_token" not in body, body
    expect(browser.me()["id"], world.alice_id)
    error = refused(403, browser.call, "PATCH", "/users/me", json={"first_name": "Mallory"})
    expect(error.answer.json()["error"], "csrf_failed")
    csrf = {"X-CSRF-Token": browser.call("GET", "/auth/csrf").json()["csrf_token"]}
    changed = browser.call("PATCH", "/users/me", json={"first_name": "Alicia"}, headers=csrf)
    expect(changed.json()["first_name"], "Alicia")
    access = next(cookie.value for cookie in browser.http.cookies if cookie.name.endswith("access"))
    browser.call("POST", "/auth/refresh", headers=csrf)
    as_on_loopback(browser)
    browser.call("POST", "/auth/logout", headers=csrf)
    assert not any(cookie.name.endswith(("access", "refresh")) for cookie in browser.http.cookies)
    world.refused_at_last(access)


@step("change a password: the other sessions end")
def _(world):
    world.account("carol")
    here, there = world.client(), world.client()
    here.login("carol", PASSWORD)
    there.login("carol", PASSWORD)
    change = {"current_password": PASSWORD, "new_password": OTHER, "confirm_password": OTHER}
    wrong = {**change, "current_password": "wrong"}
    refused(401, here.call, "POST", "/auth/change-password", again=False, json=wrong)
    refused(422, here.call, "POST", "/auth/change-password", json={**change, "confirm_password": "differs"})
    expect(here.call("POST", "/auth/change-password", json=change).json()["revoked"], 1)
    world.refused_at_last(there.access_token)
    refused(401, there.refresh)
    here.refresh()


@step("forget a password, and reset it by the mailed link")
def _(world):
    for address in ("carol@shop.example", "nobody@shop.example"):
        expect(world.client().call("POST", "/auth/forgot-password", json={"email": address}).status_code, 202)
    token = world.mailed("carol@shop.example")
    weak = refused(422, world.client().call, "POST", "/auth/reset-password", json={"token": token, "new_password": "short"})
    expect(weak.answer.json()["violations"][0]["rule"], "min_length")
    new = {"token": token, "new_password": "Third-horse-battery-3"}
    expect(world.client().call("POST", "/auth/reset-password", json=new).status_code, 200)
    refused(401, world.client().call, "POST", "/auth/reset-password", json=new)
    refused(401, world.client().login, "carol", OTHER)
    world.client().login("carol", "Third-horse-battery-3")


@step("errors have a detail to show")
def _(world):
    client = world.client()
    for status, method, path, more in [
        (400, "POST", "/auth/login", {"data": b"{"}),
        (401, "POST", "/auth/login", {"json": {"username": "nobody", "password": "wrong"}}),
        (401, "POST", "/auth/refresh", {"json": {"refresh_token": "csr_nonsense"}}),
        (404, "GET", "/auth/no-such-thing", {}),
        (405, "GET", "/auth/login", {}),
        (422, "POST", "/auth/login", {"json": {"username": "alice"}}),
        (422, "POST", "/auth/register", {"json": {"email": "nonsense", "password": PASSWORD}}),
    ]:
        refused(status, client.call, method, path, **more)


@step("log out: the token is dead on the verifier, and nothing refreshes")
def _(world):
    token = world.alice.access_token
    expect(world.alice.call("POST", "/auth/logout").json()["revoked"], 1)
    world.refused_at_last(token)
    refused(401, world.alice.refresh)


if __name__ == "__main__":
    run(World(json.loads(sys.argv[1])))
