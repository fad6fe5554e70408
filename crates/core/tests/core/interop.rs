//! Python's PyJWT and Node's `jose` take our tokens and key sets, and we theirs.
//!
//! Each peer is a script that gets our key set and tokens on its input, verifies them, and answers with what it read and with
//! a key set, a secret and tokens of its own.

use std::{
    env,
    io::Write as _,
    process::{Command, Stdio},
    time::SystemTime,
};

use countersign_core::{
    jose::{Algorithm, JwkSet, compact},
    keys::{SigningKey, VerifyingKey, load_jwks},
    mint::{AccessTokenSpec, mint_access},
    time::UnixMillis,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

const ISSUER: &str = "https://auth.shop.example";
const AUDIENCE: &str = "shop-api";

#[derive(Deserialize)]
struct Answer {
    verified: Vec<Value>,
    jwks: Value,
    secret: String,
    tokens: Vec<String>,
}

#[test]
#[ignore = "needs PyJWT: run `cargo xtask test`"]
fn pyjwt_takes_our_tokens_and_we_take_its() {
    let python = variable("COUNTERSIGN_TEST_PYTHON");
    converse(Command::new(python).arg(script("pyjwt_peer.py")));
}

#[test]
#[ignore = "needs Node's jose: run `cargo xtask test`"]
fn jose_takes_our_tokens_and_we_take_its() {
    let modules = variable("COUNTERSIGN_TEST_NODE_MODULES");
    converse(Command::new("node").arg(script("jose_peer.mjs")).arg(modules));
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("{name} is not set: `cargo xtask test` installs what this needs and sets it"))
}

fn script(name: &str) -> String {
    format!("{}/tests/core/interop/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn converse(peer: &mut Command) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    let now = UnixMillis(i64::try_from(now).unwrap());

    let asymmetric = Algorithm::ALL.into_iter().filter(|a| !a.is_symmetric());
    let keys: Vec<SigningKey> = asymmetric.map(|a| SigningKey::generate(a).unwrap()).collect();
    let tokens: Vec<String> = keys.iter().map(|key| mint_access(key, &our_claims(now)).unwrap()).collect();
    let jwks = JwkSet { keys: keys.iter().map(|key| key.public_jwk().clone()).collect() };
    let their_claims = json!({"iss": "https://peer.example", "sub": "zoë", "exp": now.as_secs() + 60, "big": u64::MAX});
    let question = json!({"issuer": ISSUER, "audience": AUDIENCE, "jwks": jwks, "tokens": tokens, "claims": their_claims});

    let answer: Answer = serde_json::from_slice(&ask(peer, &question.to_string())).expect("the peer answers with JSON");

    assert_eq!(answer.verified.len(), keys.len());
    for claims in &answer.verified {
        assert_eq!(claims["sub"], "user-1");
        assert_eq!(claims["iat_ms"], now.0);
        assert_eq!(claims["roles"], json!(["user", "auditor"]));
    }

    let theirs = load_jwks(&JwkSet::try_from(answer.jwks).unwrap(), &Algorithm::ALL);
    assert_eq!(theirs.skipped, []);
    let secret = VerifyingKey::hmac(&hex::decode(answer.secret).unwrap(), &Algorithm::ALL).unwrap();
    assert_eq!(answer.tokens.len(), Algorithm::ALL.len());
    for (token, algorithm) in answer.tokens.iter().zip(Algorithm::ALL) {
        let parsed = compact::parse(token).unwrap();
        assert_eq!(parsed.header.alg, algorithm.as_str());
        let key = match &parsed.header.kid {
            Some(kid) => theirs.keys.iter().find(|key| key.kid() == Some(kid)).unwrap(),
            None => &secret,
        };
        assert!(key.verify(algorithm, parsed.signing_input, &parsed.signature), "{algorithm}");
        assert_eq!(parsed.payload["sub"], "zoë");
    }
}

fn ask(peer: &mut Command, question: &str) -> Vec<u8> {
    let mut child = peer.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the peer starts");
    child.stdin.take().unwrap().write_all(question.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "the peer refused our tokens: its reason is above");
    output.stdout
}

fn our_claims(now: UnixMillis) -> AccessTokenSpec {
    AccessTokenSpec {
        issuer: ISSUER.into(),
        subject: "user-1".into(),
        audiences: vec![AUDIENCE.into()],
        roles: vec!["user".into(), "auditor".into()],
        scopes: vec!["orders:read".into()],
        session_id: Some("session-1".into()),
        token_id: "token-1".into(),
        issued_at: now,
        expires: now.plus(60_000),
        amr: vec!["pwd".into()],
        client_id: None,
        extra: Map::new(),
    }
}
