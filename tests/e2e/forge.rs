//! Tokens of every kind, made by hand with `aws-lc-rs` alone: nothing of the code under test takes part.

use std::{
    sync::OnceLock,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::AsDer as _,
    hmac,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// Strict base64url.
pub(crate) fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn from_base64url(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

/// An identity provider with a key of each kind.
pub(crate) struct Provider {
    pub(crate) issuer: &'static str,
    ed25519: Ed25519KeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    p521: EcdsaKeyPair,
    rsa: &'static RsaKeyPair,
}

/// Every algorithm of a provider with the `kid` of its key.
pub(crate) const ALGORITHMS: &[(&str, &str)] = &[
    ("EdDSA", "ed"),
    ("ES256", "p256"),
    ("ES384", "p384"),
    ("ES512", "p521"),
    ("RS256", "rsa"),
    ("RS384", "rsa"),
    ("RS512", "rsa"),
    ("PS256", "rsa"),
    ("PS384", "rsa"),
    ("PS512", "rsa"),
];

/// RSA keys are slow to make: a few are shared by all tests.
fn rsa(index: usize) -> &'static RsaKeyPair {
    static KEYS: [OnceLock<RsaKeyPair>; 2] = [OnceLock::new(), OnceLock::new()];
    KEYS[index].get_or_init(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
}

impl Provider {
    /// A provider with fresh keys; `index` (0 or 1) tells two of them apart, their kids are the same.
    pub(crate) fn new(issuer: &'static str, index: usize) -> Self {
        let ecdsa = |algorithm| EcdsaKeyPair::generate(algorithm).unwrap();
        Self {
            issuer,
            ed25519: Ed25519KeyPair::generate().unwrap(),
            p256: ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            p384: ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            p521: ecdsa(&signature::ECDSA_P521_SHA512_FIXED_SIGNING),
            rsa: rsa(index),
        }
    }

    /// Its public keys.
    pub(crate) fn jwks(&self) -> Value {
        let ec = |kid: &str, curve: &str, key: &EcdsaKeyPair| {
            let point = &key.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "crv": curve, "kid": kid, "use": "sig", "x": base64url(x), "y": base64url(y)})
        };
        let (n, e) = self.rsa_numbers();
        json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig", "x": base64url(self.ed25519.public_key())},
            ec("p256", "P-256", &self.p256),
            ec("p384", "P-384", &self.p384),
            ec("p521", "P-521", &self.p521),
            {"kty": "RSA", "kid": "rsa", "use": "sig", "n": base64url(n), "e": base64url(e)},
        ]})
    }

    fn rsa_numbers(&self) -> (Vec<u8>, Vec<u8>) {
        let public = self.rsa.public_key();
        (
            public.modulus().big_endian_without_leading_zero().to_vec(),
            public.exponent().big_endian_without_leading_zero().to_vec(),
        )
    }

    /// The bytes that an attacker may hope are taken for an HMAC secret: the public keys in every usual form.
    pub(crate) fn public_key_texts(&self) -> Vec<(&'static str, String, Vec<u8>)> {
        let spki = self.rsa.public_key().as_der().unwrap().as_ref().to_vec();
        let pem = |label: &str, der: &[u8]| {
            let text = base64::engine::general_purpose::STANDARD.encode(der);
            let lines: Vec<&str> = text.as_bytes().chunks(64).map(|chunk| std::str::from_utf8(chunk).unwrap()).collect();
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n")).into_bytes()
        };
        let jwks = self.jwks();
        let key = |at: usize| jwks["keys"][at].to_string().into_bytes();
        vec![
            ("the RSA key as DER", "rsa".into(), spki.clone()),
            ("the RSA key as PEM", "rsa".into(), pem("PUBLIC KEY", &spki)),
            ("the RSA key as PEM without the last newline", "rsa".into(), pem("PUBLIC KEY", &spki).trim_ascii().to_vec()),
            ("the RSA modulus", "rsa".into(), self.rsa_numbers().0),
            ("the RSA key as JWK", "rsa".into(), key(4)),
            ("the Ed25519 key's bytes", "ed".into(), self.ed25519.public_key().as_ref().to_vec()),
            ("the Ed25519 key as JWK", "ed".into(), key(0)),
            ("the P-256 point", "p256".into(), self.p256.public_key().as_ref().to_vec()),
            ("the P-256 key as JWK", "p256".into(), key(1)),
            ("the whole set", "ed".into(), jwks.to_string().into_bytes()),
            ("nothing", "ed".into(), Vec::new()),
        ]
    }

    /// A signature by the key that `algorithm` calls for.
    pub(crate) fn sign(&self, algorithm: &str, input: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let ecdsa = |key: &EcdsaKeyPair| key.sign(&random, input).unwrap().as_ref().to_vec();
        let rsa = |padding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(padding, &random, input, &mut signature).unwrap();
            signature
        };
        match algorithm {
            "EdDSA" => self.ed25519.sign(input).as_ref().to_vec(),
            "ES256" => ecdsa(&self.p256),
            "ES384" => ecdsa(&self.p384),
            "ES512" => ecdsa(&self.p521),
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "RS384" => rsa(&signature::RSA_PKCS1_SHA384),
            "RS512" => rsa(&signature::RSA_PKCS1_SHA512),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "PS384" => rsa(&signature::RSA_PSS_SHA384),
            "PS512" => rsa(&signature::RSA_PSS_SHA512),
            other => panic!("no key for {other}"),
        }
    }

    /// Claims that every policy of the tests accepts from it.
    pub(crate) fn claims(&self) -> Value {
        let now = now();
        json!({
            "iss": self.issuer, "sub": "alice", "aud": "shop-api", "iat": now, "exp": now + 600,
            "jti": format!("t-{}", unique()), "sid": "s-1",
        })
    }

    /// Its claims with members replaced, or removed where null is given.
    pub(crate) fn claims_with(&self, changes: Value) -> Value {
        let mut claims = self.claims();
        let Value::Object(changes) = changes else { panic!("changes are an object") };
        for (name, value) in changes {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(&name);
            } else {
                claims[name] = value;
            }
        }
        claims
    }

    /// A good token by one of [`ALGORITHMS`].
    pub(crate) fn token(&self, algorithm: &str) -> String {
        self.token_of(algorithm, &self.claims())
    }

    /// A rightly signed token with these claims.
    pub(crate) fn token_of(&self, algorithm: &str, claims: &Value) -> String {
        let kid = ALGORITHMS.iter().find(|(name, _)| *name == algorithm).unwrap().1;
        let header = json!({"alg": algorithm, "kid": kid, "typ": "JWT"});
        self.seal(header.to_string(), claims.to_string(), algorithm)
    }

    /// A token of this header and payload, whatever they are, signed by the key for `algorithm`.
    pub(crate) fn seal(&self, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>, algorithm: &str) -> String {
        seal(header, payload, |input| self.sign(algorithm, input))
    }
}

/// A compact JWS.
pub(crate) fn seal(header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let input = format!("{}.{}", base64url(header), base64url(payload));
    let signature = sign(input.as_bytes());
    format!("{input}.{}", base64url(signature))
}

/// A token by a shared secret.
pub(crate) fn hmac_token(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let algorithm = match header["alg"].as_str() {
        Some("HS384") => hmac::HMAC_SHA384,
        Some("HS512") => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    };
    let key = hmac::Key::new(algorithm, secret);
    seal(header.to_string(), claims.to_string(), |input| hmac::sign(&key, input).as_ref().to_vec())
}

/// A token's parts.
pub(crate) fn parts(token: &str) -> [&str; 3] {
    let parts: Vec<&str> = token.split('.').collect();
    parts.try_into().expect("three parts")
}

/// The same token with its signature's bytes changed.
pub(crate) fn with_signature(token: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    let [header, payload, signature] = parts(token);
    format!("{header}.{payload}.{}", base64url(change(from_base64url(signature))))
}

/// The order of P-256's base point.
const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17,
    0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// The order of Ed25519's base point, little-endian.
const ED25519_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// P-256's order as the bytes of a signature's half.
pub(crate) fn p256_order() -> Vec<u8> {
    P256_ORDER.to_vec()
}

/// The other signature that holds for the same message: (r, n − s).
pub(crate) fn ecdsa_twin(mut signature: Vec<u8>) -> Vec<u8> {
    let mut borrow = 0;
    for at in (0..32).rev() {
        let difference = i16::from(P256_ORDER[at]) - i16::from(signature[32 + at]) - borrow;
        borrow = i16::from(difference < 0);
        signature[32 + at] = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
    signature
}

/// The twin that lax EdDSA verifiers take: S + L (RFC 8032 section 5.1.7 forbids it).
pub(crate) fn eddsa_twin(mut signature: Vec<u8>) -> Vec<u8> {
    let mut carry = 0;
    for at in 0..32 {
        let sum = u16::from(signature[32 + at]) + u16::from(ED25519_ORDER[at]) + carry;
        carry = sum >> 8;
        signature[32 + at] = u8::try_from(sum & 0xff).unwrap();
    }
    signature
}

/// An ECDSA signature as DER, which JWS does not use.
pub(crate) fn ecdsa_as_der(signature: &[u8]) -> Vec<u8> {
    let integer = |bytes: &[u8]| {
        let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
        let mut value = bytes[start..].to_vec();
        if value[0] & 0x80 != 0 {
            value.insert(0, 0);
        }
        let mut der = vec![2, u8::try_from(value.len()).unwrap()];
        der.extend(value);
        der
    };
    let (r, s) = signature.split_at(signature.len() / 2);
    let body = [integer(r), integer(s)].concat();
    let mut der = vec![0x30, u8::try_from(body.len()).unwrap()];
    der.extend(body);
    der
}

/// A number that no other call gives.
pub(crate) fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[test]
fn the_twins_are_really_other_signatures_of_the_same_message() {
    let provider = Provider::new("https://twins.example", 0);
    let token = provider.token("ES256");
    let twin = with_signature(&token, ecdsa_twin);
    assert_ne!(token, twin);
    let point = provider.p256.public_key().as_ref().to_vec();
    let input = token.rsplit_once('.').unwrap().0;
    let signature = from_base64url(parts(&twin)[2]);
    signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point)
        .verify(input.as_bytes(), &signature)
        .unwrap();
}
