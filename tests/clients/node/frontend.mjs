// A front end's user, as pages and services in Node have them that call a home-grown FastAPI login: plain fetch, and jose where
// a token is read. Arguments: JSON with `issuer`, `verifier`, `policy`, `outbox`, `jwt_secret_key`; the node_modules with jose.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";

import { eventually, run, step } from "./steps.mjs";

const [given, modules] = [JSON.parse(process.argv[2]), process.argv[3]];
const { main } = JSON.parse(await readFile(path.join(modules, "jose", "package.json"), "utf8"));
const jose = await import(pathToFileURL(path.join(modules, "jose", main)));

const PASSWORD = "Correct-horse-battery-1";
const OTHER = "Another-horse-battery-2";
const TOTP_STEP_S = 30;

const ISSUER = `http://${given.issuer}`;
const VERIFIER = `http://${given.verifier}/v1/policies/${given.policy}`;

/** What a page shows of an error: its detail, which FastAPI gives as a text or as a list. */
class ApiError extends Error {
  constructor(status, body) {
    super(Array.isArray(body.detail) ? body.detail.map((one) => one.msg).join("; ") : body.detail);
    assert.equal(typeof this.message, "string");
    assert.notEqual(this.message, "");
    Object.assign(this, { status, body });
  }
}

/** One user's login. It keeps the refresh token that the login gave, and never looks at another. */
class AuthClient {
  constructor(base = ISSUER) {
    this.base = base;
    this.cookies = new Map();
  }

  /** `body` goes out as it is: fetch types a string `text/plain`, and bytes not at all. */
  async call(method, where, { body, headers = {}, retry = true } = {}) {
    const sent = { "User-Agent": "shop-frontend/2.3 (node)", ...headers };
    if (this.accessToken && !sent["X-API-Key"]) sent.Authorization = `Bearer ${this.accessToken}`;
    if (this.cookies.size) sent.Cookie = [...this.cookies].map(([name, value]) => `${name}=${value}`).join("; ");
    const answer = await fetch(this.base + where, { method, headers: sent, body });
    this.keepCookies(answer);
    if (answer.status === 401 && retry && this.refreshToken) {
      await this.refresh();
      return this.call(method, where, { body, headers, retry: false });
    }
    const read = await answer.json();
    if (!answer.ok) throw new ApiError(answer.status, read);
    return read;
  }

  keepCookies(answer) {
    for (const line of answer.headers.getSetCookie()) {
      const [name, value] = line.split(";")[0].split(/=(.*)/s);
      if (/; *Max-Age=0/i.test(line)) this.cookies.delete(name);
      else this.cookies.set(name, value);
    }
  }

  post(where, fields, more = {}) {
    return this.call("POST", where, { body: JSON.stringify(fields), ...more });
  }

  async login(fields, where = "/auth/login") {
    return this.take(await this.post(where, fields, { retry: false }));
  }

  async loginForm(username, password, where = "/auth/login") {
    const body = new URLSearchParams({ grant_type: "password", username, password, scope: "" });
    return this.take(await this.call("POST", where, { body, retry: false }));
  }

  take(tokens) {
    if (tokens.access_token) {
      [this.accessToken, this.refreshToken, this.sessionId] = [tokens.access_token, tokens.refresh_token, tokens.session_id];
    }
    return tokens;
  }

  async refresh() {
    const body = JSON.stringify({ refresh_token: this.refreshToken });
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(`${this.base}/auth/refresh`, { method: "POST", headers, body });
    const read = await answer.json();
    if (!answer.ok) throw new ApiError(answer.status, read);
    this.accessToken = read.access_token;
  }
}

const refused = (status, promise) => assert.rejects(promise, (error) => {
  assert.equal(error.status, status, String(error));
  return true;
});

const verify = (token, more = {}) => fetch(`${VERIFIER}/verify`, {
  method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ token, ...more }),
});
const authorize = (headers) => fetch(`${VERIFIER}/authorize`, { headers });
const refusedAtLast = (token) => eventually("the verifier refuses the token", async () => (await verify(token)).status === 401);

const read = new Set();

/** The token of the next mail to an address that has a link. */
const mailed = (to) => eventually(`a mail with a link to ${to}`, async () => {
  const files = await readdir(given.outbox).catch(() => []);
  for (const file of files.filter((name) => name.endsWith(".eml") && !read.has(name)).sort()) {
    const mail = await readFile(path.join(given.outbox, file), "utf8");
    const link = mail.match(/https:\/\/\S+token=([\w-]+)/);
    if (link && mail.includes(`To: ${to}`)) {
      read.add(file);
      return link[1];
    }
  }
  return null;
});

/** RFC 6238 with SHA-1, six digits. */
function totp(secret, atMs) {
  const bits = [...secret].map((c) => "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567".indexOf(c).toString(2).padStart(5, "0")).join("");
  const key = Buffer.from(bits.match(/.{8}/g).map((byte) => parseInt(byte, 2)));
  const counter = Buffer.alloc(8);
  counter.writeBigUInt64BE(BigInt(Math.floor(atMs / 1000 / TOTP_STEP_S)));
  const mac = createHmac("sha1", key).update(counter).digest();
  const offset = mac.at(-1) & 15;
  return String((mac.readUInt32BE(offset) & 0x7fffffff) % 1e6).padStart(6, "0");
}

async function account(name) {
  const client = new AuthClient();
  const email = `${name}@shop.example`;
  const user = await client.post("/auth/register", { email, password: PASSWORD, username: name });
  await client.post("/auth/verify-email", { token: await mailed(email) });
  return user.id;
}

step("register, and log in with a body that fetch types text/plain", async (world) => {
  world.aliceId = await account("alice");
  world.alice = new AuthClient();
  const tokens = await world.alice.login({ username: "alice", password: PASSWORD });
  assert.equal(tokens.user.id, world.aliceId);
});

step("jose takes the token, by the keys that discovery names", async (world) => {
  const about = await (await fetch(`${ISSUER}/.well-known/openid-configuration`)).json();
  assert.match(about.jwks_uri, /^https:\/\/auth\.shop\.example\//);
  const keys = jose.createRemoteJWKSet(new URL(new URL(about.jwks_uri).pathname, ISSUER));
  const { payload } = await jose.jwtVerify(world.alice.accessToken, keys, { issuer: about.issuer, audience: "shop-api" });
  assert.deepEqual([payload.sub, payload.roles], [world.aliceId, ["user"]]);
});

step("log in by form, and by e-mail address under /api", async (world) => {
  const form = new AuthClient(`${ISSUER}/api`);
  await form.loginForm("alice", PASSWORD);
  assert.equal((await form.call("GET", "/auth/me")).id, world.aliceId);
  const byEmail = new AuthClient(`${ISSUER}/api`);
  await byEmail.login({ email: "ALICE@shop.example", password: PASSWORD });
  assert.equal((await byEmail.call("GET", "/users/me")).id, world.aliceId);
});

step("refresh again and again with the first refresh token, behind the caller's back", async (world) => {
  for (let n = 0; n < 3; n += 1) {
    world.alice.accessToken = "stale";
    assert.equal((await world.alice.call("GET", "/auth/me")).id, world.aliceId);
  }
});

step("X-API-Key at the issuer and at the verifier, until the key is revoked", async (world) => {
  const made = await world.alice.post("/auth/api-keys", { name: "export", scopes: ["orders:read"] });
  const headers = { "X-API-Key": made.key };
  assert.equal((await new AuthClient().call("GET", "/users/me", { headers })).id, world.aliceId);
  const through = await authorize(headers);
  assert.deepEqual([through.status, through.headers.get("x-auth-subject")], [200, world.aliceId]);
  await world.alice.call("DELETE", `/auth/api-keys/${made.id}`);
  await eventually("the verifier refuses the key", async () => (await authorize(headers)).status === 401);
});

step("tokens from before, signed with JWT_SECRET_KEY, are good at the verifier", async () => {
  const sign = (secret) => new jose.SignJWT({ type: "access" }).setProtectedHeader({ alg: "HS256", typ: "JWT" })
    .setSubject("42").setIssuedAt().setExpirationTime("15m").sign(new TextEncoder().encode(secret));
  const answer = await verify(await sign(given.jwt_secret_key));
  const { kind, subject } = await answer.json();
  assert.deepEqual([answer.status, kind, subject], [200, "external", "42"]);
  assert.equal((await verify(await sign("another-secret-of-at-least-32-bytes!"))).status, 401);
});

step("end sessions with a body that has no Content-Type", async (world) => {
  const { sessions } = await world.alice.call("GET", "/auth/sessions");
  const body = new TextEncoder().encode(JSON.stringify({ keep_current: true }));
  const { revoked } = await world.alice.call("DELETE", "/auth/sessions", { body });
  assert.deepEqual([sessions.length, revoked], [3, 2]);
  assert.equal((await verify(world.alice.accessToken)).status, 200);
});

step("set up a second factor; log in with it, and again with the same code: one session", async (world) => {
  await account("bob");
  const bob = new AuthClient();
  await bob.login({ username: "bob", password: PASSWORD });
  const { secret } = await bob.call("POST", "/auth/2fa/setup/totp");
  const confirmed = Date.now();
  const { backup_codes: codes } = await bob.post("/auth/2fa/verify/totp", { code: totp(secret, confirmed) });
  const client = new AuthClient();
  const challenged = await client.login({ username: "bob", password: PASSWORD });
  assert.deepEqual([challenged.requires_2fa, challenged.access_token], [true, undefined]);
  // The authenticator's clock is a step ahead, so that the code isn't the one that confirmed.
  const code = totp(secret, confirmed + TOTP_STEP_S * 1000);
  const verified = await client.post("/auth/2fa/verify", { challenge_id: challenged.challenge_id, code });
  // It ignores what it got, and sends the whole login again.
  await client.login({ username: "bob", password: PASSWORD, mfa_code: code });
  assert.equal(client.sessionId, verified.session_id);
  assert.equal((await client.call("GET", "/auth/sessions")).sessions.length, 2);
  await refused(401, new AuthClient().login({ username: "bob", password: PASSWORD, mfa_code: code }));
  await new AuthClient().login({ username: "bob", password: PASSWORD, mfa_code: codes[0] });
  world.bob = client;
});

step("cookies: double submit of the CSRF token", async (world) => {
  const browser = new AuthClient();
  const body = await browser.login({ username: "alice", password: PASSWORD, cookies: true });
  assert.equal(body.access_token, undefined);
  const access = [...browser.cookies].find(([name]) => name.endsWith("access"))[1];
  const rename = (headers) => browser.call("PATCH", "/users/me", { body: '{"first_name": "Alicia"}', headers });
  await refused(403, rename({}));
  const { csrf_token: csrf } = await browser.call("GET", "/auth/csrf");
  await refused(403, rename({ "X-CSRF-Token": `${csrf}x` }));
  const headers = { "X-CSRF-Token": csrf };
  assert.equal((await rename(headers)).first_name, "Alicia");
  await browser.call("POST", "/auth/refresh", { headers });
  await browser.call("POST", "/auth/logout", { headers });
  assert.ok(![...browser.cookies.keys()].some((name) => /(access|refresh)$/.test(name)));
  await refusedAtLast(access);
});

step("forget a password, and reset it by the mailed link: every session ends", async (world) => {
  const client = new AuthClient();
  for (const email of ["bob@shop.example", "nobody@shop.example"]) await client.post("/auth/forgot-password", { email });
  const token = await mailed("bob@shop.example");
  await refused(422, client.post("/auth/reset-password", { token, new_password: "short" }));
  await client.post("/auth/reset-password", { token, new_password: OTHER });
  await refused(401, client.post("/auth/reset-password", { token, new_password: OTHER }));
  await refused(401, world.bob.refresh());
  await refusedAtLast(world.bob.accessToken);
});

step("change a password, log out: nothing of it is good any more", async (world) => {
  const { alice } = world;
  const change = { current_password: PASSWORD, new_password: OTHER, confirm_password: OTHER };
  await refused(401, alice.post("/auth/change-password", { ...change, current_password: "wrong" }, { retry: false }));
  await alice.post("/auth/change-password", change);
  await alice.call("POST", "/auth/logout");
  await refusedAtLast(alice.accessToken);
  await refused(401, alice.refresh());
});

step("errors have a detail to show", async () => {
  const client = new AuthClient();
  await refused(400, client.call("POST", "/auth/login", { body: "{" }));
  await refused(401, client.login({ username: "nobody", password: "wrong" }));
  await refused(401, client.call("GET", "/auth/me"));
  await refused(404, client.call("GET", "/auth/no-such-thing"));
  await refused(422, client.login({ username: "alice" }));
});

await run({});
