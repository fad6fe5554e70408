// Verifies the tokens on its input with `jose`, and answers with tokens of its own. See ../interop.rs.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [, , modules] = process.argv;
const { main } = JSON.parse(readFileSync(join(modules, "jose", "package.json"), "utf8"));
const jose = await import(pathToFileURL(join(modules, "jose", main)));

const given = JSON.parse(readFileSync(0, "utf8"));

const keySet = jose.createLocalJWKSet(given.jwks);
const verified = [];
for (const token of given.tokens) {
  const { payload } = await jose.jwtVerify(token, keySet, {
    issuer: given.issuer,
    audience: given.audience,
    typ: "at+jwt",
    requiredClaims: ["exp", "iat", "sub", "jti"],
  });
  verified.push(payload);
}

const keys = [];
const tokens = [];
const asymmetric = ["EdDSA", "ES256", "ES384", "ES512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
for (const alg of asymmetric) {
  const pair = await jose.generateKeyPair(alg, { extractable: true });
  // The private half goes along, as it does in careless hands: it must play no part.
  keys.push({ ...(await jose.exportJWK(pair.privateKey)), kid: alg, alg, use: "sig" });
  tokens.push(await new jose.SignJWT(given.claims).setProtectedHeader({ alg, kid: alg }).sign(pair.privateKey));
}

const secret = Uint8Array.from({ length: 64 }, (_, index) => index);
for (const alg of ["HS256", "HS384", "HS512"]) {
  tokens.push(await new jose.SignJWT(given.claims).setProtectedHeader({ alg }).sign(secret));
}

process.stdout.write(JSON.stringify({ verified, jwks: { keys }, secret: Buffer.from(secret).toString("hex"), tokens }));
