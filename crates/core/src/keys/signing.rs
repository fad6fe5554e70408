//! Keys that sign. Only an issuer holds one.

use std::fmt;

use aws_lc_rs::{
    encoding::AsDer as _,
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, KeySize},
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
        RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaSignatureEncoding,
    },
};
use zeroize::Zeroizing;

use crate::jose::{Algorithm, Jwk, base64url};

/// Why a key can't sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningKeyError {
    /// HMAC secrets verify tokens from before a migration; nothing is signed with one.
    #[error("{0} is symmetric: Countersign signs with asymmetric keys only")]
    Symmetric(Algorithm),
    /// The system's randomness or the library failed.
    #[error("the cryptographic library could not make a key")]
    Generate,
    /// Not the PKCS#8 of a key for that algorithm.
    #[error("not the PKCS#8 of a key for {0}")]
    Rejected(Algorithm),
    /// A scope that would read as several, or none: `scope` joins them with spaces.
    #[error("a scope is empty, or holds a space or a control character (RFC 6749 section 3.3)")]
    Scope,
    /// The library failed to sign.
    #[error("the cryptographic library could not sign")]
    Sign,
}

/// A private key with its name and its one algorithm.
pub struct SigningKey {
    pair: Pair,
    algorithm: Algorithm,
    kid: String,
    public: Jwk,
}

enum Pair {
    Ed25519(Box<Ed25519KeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
    Rsa(Box<RsaKeyPair>, &'static RsaSignatureEncoding),
}

impl SigningKey {
    /// A fresh key from the system's randomness (RSA: 2048 bits, which takes tens to hundreds of milliseconds). Its `kid` is
    /// its RFC 7638 thumbprint.
    pub fn generate(algorithm: Algorithm) -> Result<Self, SigningKeyError> {
        let failed = |_| SigningKeyError::Generate;
        let pair = match scheme(algorithm)? {
            Scheme::Ed25519 => Pair::Ed25519(Box::new(Ed25519KeyPair::generate().map_err(failed)?)),
            Scheme::Ecdsa(curve) => Pair::Ecdsa(Box::new(EcdsaKeyPair::generate(curve).map_err(failed)?)),
            Scheme::Rsa(encoding) => Pair::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?), encoding),
        };
        Self::named(pair, algorithm, None)
    }

    /// The key in `pkcs8`, under the name it had; without a name, under its thumbprint.
    pub fn from_pkcs8(algorithm: Algorithm, kid: Option<&str>, pkcs8: &[u8]) -> Result<Self, SigningKeyError> {
        let rejected = |_| SigningKeyError::Rejected(algorithm);
        let pair = match scheme(algorithm)? {
            // The second door takes what OpenSSL writes, which lacks the public half.
            Scheme::Ed25519 => {
                Pair::Ed25519(Box::new(Ed25519KeyPair::from_pkcs8_maybe_unchecked(pkcs8).map_err(rejected)?))
            }
            Scheme::Ecdsa(curve) => Pair::Ecdsa(Box::new(EcdsaKeyPair::from_pkcs8(curve, pkcs8).map_err(rejected)?)),
            Scheme::Rsa(encoding) => Pair::Rsa(Box::new(RsaKeyPair::from_pkcs8(pkcs8).map_err(rejected)?), encoding),
        };
        Self::named(pair, algorithm, kid.map(str::to_owned))
    }

    fn named(pair: Pair, algorithm: Algorithm, kid: Option<String>) -> Result<Self, SigningKeyError> {
        let mut public = pair.public_jwk(algorithm).ok_or(SigningKeyError::Rejected(algorithm))?;
        let kid = kid.or_else(|| public.thumbprint()).ok_or(SigningKeyError::Rejected(algorithm))?;
        public.kid = Some(kid.clone());
        Ok(Self { pair, algorithm, kid, public })
    }

    /// The private key, for storage: PKCS#8 (RFC 5208, RFC 5958).
    pub fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, SigningKeyError> {
        let failed = |_| SigningKeyError::Generate;
        let bytes = match &self.pair {
            Pair::Ed25519(pair) => pair.to_pkcs8().map_err(failed)?.as_ref().to_vec(),
            Pair::Ecdsa(pair) => pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(),
            Pair::Rsa(pair, _) => pair.as_der().map_err(failed)?.as_ref().to_vec(),
        };
        Ok(Zeroizing::new(bytes))
    }

    /// Its name.
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// Its algorithm.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The public half, with `use`, `alg` and `kid`.
    pub const fn public_jwk(&self) -> &Jwk {
        &self.public
    }

    /// A signature over `input`; ECDSA's in the fixed form of RFC 7518 section 3.4.
    pub fn sign(&self, input: &[u8]) -> Result<Vec<u8>, SigningKeyError> {
        let failed = |_| SigningKeyError::Sign;
        match &self.pair {
            Pair::Ed25519(pair) => Ok(pair.try_sign(input).map_err(failed)?.as_ref().to_vec()),
            Pair::Ecdsa(pair) => Ok(pair.sign(&SystemRandom::new(), input).map_err(failed)?.as_ref().to_vec()),
            Pair::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &SystemRandom::new(), input, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

enum Scheme {
    Ed25519,
    Ecdsa(&'static EcdsaSigningAlgorithm),
    Rsa(&'static RsaSignatureEncoding),
}

fn scheme(algorithm: Algorithm) -> Result<Scheme, SigningKeyError> {
    Ok(match algorithm {
        Algorithm::EdDSA => Scheme::Ed25519,
        Algorithm::ES256 => Scheme::Ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
        Algorithm::ES384 => Scheme::Ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
        Algorithm::ES512 => Scheme::Ecdsa(&ECDSA_P521_SHA512_FIXED_SIGNING),
        Algorithm::RS256 => Scheme::Rsa(&RSA_PKCS1_SHA256),
        Algorithm::RS384 => Scheme::Rsa(&RSA_PKCS1_SHA384),
        Algorithm::RS512 => Scheme::Rsa(&RSA_PKCS1_SHA512),
        Algorithm::PS256 => Scheme::Rsa(&RSA_PSS_SHA256),
        Algorithm::PS384 => Scheme::Rsa(&RSA_PSS_SHA384),
        Algorithm::PS512 => Scheme::Rsa(&RSA_PSS_SHA512),
        Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => return Err(SigningKeyError::Symmetric(algorithm)),
    })
}

impl Pair {
    fn public_jwk(&self, algorithm: Algorithm) -> Option<Jwk> {
        let public =
            Jwk { public_key_use: Some("sig".to_owned()), alg: Some(algorithm.as_str().to_owned()), ..Jwk::default() };
        Some(match self {
            Self::Ed25519(pair) => Jwk {
                kty: "OKP".to_owned(),
                crv: Some("Ed25519".to_owned()),
                x: Some(base64url::encode(pair.public_key())),
                ..public
            },
            Self::Ecdsa(pair) => {
                let (curve, length) = match algorithm {
                    Algorithm::ES256 => ("P-256", 32),
                    Algorithm::ES384 => ("P-384", 48),
                    _ => ("P-521", 66),
                };
                // SEC 1 section 2.3.3: 04, then both coordinates at full length.
                let (x, y) = pair.public_key().as_ref().strip_prefix(&[0x04])?.split_at_checked(length)?;
                Jwk {
                    kty: "EC".to_owned(),
                    crv: Some(curve.to_owned()),
                    x: Some(base64url::encode(x)),
                    y: Some(base64url::encode(y)),
                    ..public
                }
            }
            Self::Rsa(pair, _) => Jwk {
                kty: "RSA".to_owned(),
                n: Some(base64url::encode(pair.public_key().modulus().big_endian_without_leading_zero())),
                e: Some(base64url::encode(pair.public_key().exponent().big_endian_without_leading_zero())),
                ..public
            },
        })
    }
}
