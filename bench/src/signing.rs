//! A foreign issuer's keys: tokens without number for the uncached measurements, and the bare verification to compare with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use aws_lc_rs::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, ParsedPublicKey},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

/// The issuer's name.
pub(crate) const ISSUER: &str = "https://bench.example";

/// A kind of signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    EdDsa,
    Es256,
    Rs256,
}

impl Algorithm {
    pub(crate) const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }
}

/// One key of each kind.
pub(crate) struct Keys {
    ed25519: Ed25519KeyPair,
    p256: EcdsaKeyPair,
    rsa: RsaKeyPair,
    random: SystemRandom,
}

impl Keys {
    pub(crate) fn generate() -> Result<Self> {
        Ok(Self {
            ed25519: Ed25519KeyPair::generate().ok().context("no Ed25519 key")?,
            p256: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).ok().context("no P-256 key")?,
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).ok().context("no RSA key")?,
            random: SystemRandom::new(),
        })
    }

    /// The public halves.
    pub(crate) fn jwks(&self) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let point = &self.p256.public_key().as_ref()[1..];
        let rsa = self.rsa.public_key();
        json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "kid": "EdDSA", "x": text(self.ed25519.public_key().as_ref())},
            {"kty": "EC", "crv": "P-256", "kid": "ES256", "x": text(&point[..32]), "y": text(&point[32..])},
            {"kty": "RSA", "kid": "RS256", "n": text(rsa.modulus().big_endian_without_leading_zero()),
             "e": text(rsa.exponent().big_endian_without_leading_zero())},
        ]})
    }

    fn sign(&self, algorithm: Algorithm, input: &[u8]) -> Result<Vec<u8>> {
        Ok(match algorithm {
            Algorithm::EdDsa => self.ed25519.sign(input).as_ref().to_vec(),
            Algorithm::Es256 => self.p256.sign(&self.random, input).ok().context("no signature")?.as_ref().to_vec(),
            Algorithm::Rs256 => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa
                    .sign(&signature::RSA_PKCS1_SHA256, &self.random, input, &mut signature)
                    .ok()
                    .context("no signature")?;
                signature
            }
        })
    }

    /// A token that no other call gives.
    pub(crate) fn token(&self, algorithm: Algorithm, number: usize) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let header = json!({"alg": algorithm.name(), "kid": algorithm.name(), "typ": "at+jwt"});
        // Of the size of one of our own.
        let claims = json!({
            "iss": ISSUER, "sub": format!("user-{number:08}"), "aud": "bench", "iat": now, "exp": now + 3600,
            "jti": format!("0193f3b2-7e80-7a53-b2c4-{number:012}"), "sid": format!("0193f3b2-7e80-7a53-b2c5-{number:012}"),
            "scope": "orders:read orders:write", "client_id": "countersign",
        });
        let input =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
        let signature = self.sign(algorithm, input.as_bytes())?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The CPU time of one bare verification with a key that is parsed already: the least of several rounds.
    pub(crate) fn bare_verification(&self, algorithm: Algorithm, rounds: usize) -> Result<Duration> {
        const EACH: u32 = 2_000;

        let key = match algorithm {
            Algorithm::EdDsa => ParsedPublicKey::new(&signature::ED25519, self.ed25519.public_key().as_ref()),
            Algorithm::Es256 => ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, self.p256.public_key().as_ref()),
            Algorithm::Rs256 => {
                ParsedPublicKey::new(&signature::RSA_PKCS1_2048_8192_SHA256, self.rsa.public_key().as_ref())
            }
        };
        let key = key.ok().context("the key can't be read")?;
        let token = self.token(algorithm, 0)?;
        let (input, signature) = token.rsplit_once('.').context("a token has dots")?;
        let signature = URL_SAFE_NO_PAD.decode(signature)?;
        let mut least = Duration::MAX;
        for _ in 0..rounds {
            let start = clock_gettime(ClockId::ThreadCPUTime);
            for _ in 0..EACH {
                if key.verify_sig(input.as_bytes(), &signature).is_err() {
                    bail!("the signature doesn't hold");
                }
            }
            let end = clock_gettime(ClockId::ThreadCPUTime);
            least = least.min(since(start, end) / EACH);
        }
        Ok(least)
    }
}

fn since(start: rustix::time::Timespec, end: rustix::time::Timespec) -> Duration {
    let nanos = (end.tv_sec - start.tv_sec) * 1_000_000_000 + (end.tv_nsec - start.tv_nsec);
    Duration::from_nanos(nanos.unsigned_abs())
}
