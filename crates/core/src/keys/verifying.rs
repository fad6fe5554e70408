//! Keys that verify.

use std::{fmt, sync::Arc};

use aws_lc_rs::{
    hmac,
    signature::{self, ParsedPublicKey, VerificationAlgorithm},
};

use super::material;
use crate::jose::{Algorithm, Jwk};

/// Why a key can't be used. The texts name no part of the key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The JWK itself is wrong.
    #[error("the key {0}")]
    Malformed(&'static str),
    /// `use` or `key_ops` say that it doesn't verify signatures.
    #[error("the key is not meant for verifying signatures")]
    NotForSignatures,
    /// A `kty` or `crv` that Countersign doesn't know.
    #[error("the key is of a type or on a curve that is not supported")]
    UnsupportedType,
    /// A symmetric key among public ones.
    #[error("the key is a symmetric one: those come from a Secret, never from a key set")]
    Symmetric,
    /// It serves no algorithm of those that its owner may use.
    #[error("the key serves no allowed algorithm")]
    AlgorithmNotAllowed,
    /// An RSA modulus under 2048 bits.
    #[error("the RSA key has {0} bits: at least 2048 are needed")]
    ShortModulus(usize),
    /// An RSA modulus that costs too much to compute with.
    #[error("the RSA key has {0} bits: at most 8192 are supported")]
    LongModulus(usize),
    /// An even RSA exponent, one under 65537, or one over 33 bits.
    #[error("the RSA key has a public exponent that is even, under 65537 or over 33 bits")]
    WeakExponent,
    /// An RSA modulus whose factors the faulty generator of CVE-2017-15361 (ROCA) chose.
    #[error("the RSA key comes from a faulty generator (CVE-2017-15361)")]
    Roca,
    /// A point that is not on its curve, or is its point at infinity.
    #[error("the key is not a point on its curve")]
    OffCurve,
    /// A point of small order: it makes signatures that anyone can forge.
    #[error("the key is a point of small order")]
    SmallOrder,
    /// An HMAC secret under 32 bytes.
    #[error("the secret has {0} bytes: at least 32 are needed")]
    ShortSecret(usize),
    /// The set holds more keys than are read.
    #[error("the key set holds more than {max} keys", max = super::MAX_KEYS_IN_SET)]
    BeyondLimit,
}

impl KeyError {
    /// Whether the key is well-formed and of a known kind, but gives no security.
    pub const fn is_weak(&self) -> bool {
        matches!(
            self,
            Self::ShortModulus(_)
                | Self::WeakExponent
                | Self::Roca
                | Self::OffCurve
                | Self::SmallOrder
                | Self::ShortSecret(_)
        )
    }
}

/// A key that verifies signatures, with the algorithms that it may be used for.
#[derive(Clone)]
pub struct VerifyingKey(Arc<Inner>);

struct Inner {
    /// `None` for symmetric keys.
    public: Option<Jwk>,
    /// Never empty.
    verifiers: Vec<(Algorithm, Verifier)>,
}

enum Verifier {
    Public(ParsedPublicKey),
    Hmac(Box<hmac::Key>),
}

impl VerifyingKey {
    /// The shortest HMAC secret, bytes: RFC 7518 section 3.2 asks for the length of the hash.
    pub const MIN_SECRET_BYTES: usize = 32;

    /// The key that `jwk` describes, for those of the `allowed` algorithms that it can serve (all of its type, or only its
    /// own `alg` when it names one). Private members play no part.
    pub fn from_jwk(jwk: &Jwk, allowed: &[Algorithm]) -> Result<Self, KeyError> {
        if let Some(flaw) = jwk.flaw {
            return Err(KeyError::Malformed(flaw));
        }
        let for_signatures = jwk.public_key_use.as_deref().is_none_or(|u| u == "sig")
            && jwk.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        if !for_signatures {
            return Err(KeyError::NotForSignatures);
        }
        let algorithms = algorithms_of(jwk, allowed)?;
        let material = material::read(jwk)?;
        let parse = |algorithm| {
            let parsed = ParsedPublicKey::new(parameters(algorithm)?, &material.encoded);
            Some((algorithm, Verifier::Public(parsed.ok()?)))
        };
        let verifiers: Option<Vec<_>> = algorithms.iter().copied().map(parse).collect();
        let verifiers = verifiers.ok_or(material.when_rejected)?;
        let public = Jwk {
            public_key_use: Some("sig".to_owned()),
            key_ops: None,
            alg: match algorithms.as_slice() {
                [one] => Some(one.as_str().to_owned()),
                _ => None,
            },
            kid: jwk.kid.clone(),
            ..material.canonical
        };
        Ok(Self(Arc::new(Inner { public: Some(public), verifiers })))
    }

    /// A symmetric key, for those of `algorithms` that are HMACs. The secret is used byte for byte.
    pub fn hmac(secret: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        if secret.len() < Self::MIN_SECRET_BYTES {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        let verifiers: Vec<_> = algorithms
            .iter()
            .filter_map(|&algorithm| {
                let hash = match algorithm {
                    Algorithm::HS256 => hmac::HMAC_SHA256,
                    Algorithm::HS384 => hmac::HMAC_SHA384,
                    Algorithm::HS512 => hmac::HMAC_SHA512,
                    _ => return None,
                };
                Some((algorithm, Verifier::Hmac(Box::new(hmac::Key::new(hash, secret)))))
            })
            .collect();
        if verifiers.is_empty() {
            return Err(KeyError::AlgorithmNotAllowed);
        }
        Ok(Self(Arc::new(Inner { public: None, verifiers })))
    }

    /// Its `kid`. Symmetric keys have none.
    pub fn kid(&self) -> Option<&str> {
        self.0.public.as_ref()?.kid.as_deref()
    }

    /// The algorithms that it may be used for.
    pub fn algorithms(&self) -> impl Iterator<Item = Algorithm> + '_ {
        self.0.verifiers.iter().map(|(algorithm, _)| *algorithm)
    }

    /// Whether it may be used for `algorithm`.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithms().any(|a| a == algorithm)
    }

    /// Whether `signature` is this key's over `input`. ECDSA signatures are the fixed form of RFC 7518 section 3.4. Always
    /// false for an algorithm that the key doesn't [fit](Self::fits).
    pub fn verify(&self, algorithm: Algorithm, input: &[u8], signature: &[u8]) -> bool {
        match self.0.verifiers.iter().find(|(a, _)| *a == algorithm) {
            Some((_, Verifier::Public(key))) => key.verify_sig(input, signature).is_ok(),
            Some((_, Verifier::Hmac(key))) => hmac::verify(key, input, signature).is_ok(),
            None => false,
        }
    }

    /// The public key for a key set; `None` for a symmetric one.
    pub fn to_jwk(&self) -> Option<Jwk> {
        self.0.public.clone()
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithms: Vec<_> = self.algorithms().collect();
        f.debug_struct("VerifyingKey").field("kid", &self.kid()).field("algorithms", &algorithms).finish_non_exhaustive()
    }
}

fn algorithms_of(jwk: &Jwk, allowed: &[Algorithm]) -> Result<Vec<Algorithm>, KeyError> {
    use Algorithm as A;

    let family: &[Algorithm] = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("OKP", Some("Ed25519")) => &[A::EdDSA],
        ("EC", Some("P-256")) => &[A::ES256],
        ("EC", Some("P-384")) => &[A::ES384],
        ("EC", Some("P-521")) => &[A::ES512],
        ("RSA", _) => &[A::RS256, A::RS384, A::RS512, A::PS256, A::PS384, A::PS512],
        ("oct", _) => return Err(KeyError::Symmetric),
        _ => return Err(KeyError::UnsupportedType),
    };
    let own = jwk.alg.as_deref();
    let served: Vec<Algorithm> =
        family.iter().copied().filter(|a| allowed.contains(a) && own.is_none_or(|own| own == a.as_str())).collect();
    if served.is_empty() { Err(KeyError::AlgorithmNotAllowed) } else { Ok(served) }
}

/// `None` for the symmetric algorithms.
fn parameters(algorithm: Algorithm) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match algorithm {
        Algorithm::EdDSA => &signature::ED25519,
        Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
        Algorithm::ES512 => &signature::ECDSA_P521_SHA512_FIXED,
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => return None,
    })
}
