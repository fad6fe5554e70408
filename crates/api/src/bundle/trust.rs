//! Whom to believe: the keys that the operator signs with what it hands on.

use countersign_core::{
    jose::{Algorithm, JwkSet, base64url},
    keys::{SigningKey, SigningKeyError, VerifyingKey, load_jwks},
};
use serde::{Deserialize, Serialize};

/// Whose bundles are believed.
#[derive(Debug)]
pub enum Trust {
    /// Whoever can write to the directory. A signature is not asked for.
    FileSystem,
    /// Whoever signed with one of these keys, found by their kid.
    Keys(Vec<VerifyingKey>),
}

/// A signature, and the key that made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The kid of the key.
    pub key: String,
    /// Ed25519, base64url.
    pub value: String,
}

/// Why a signature doesn't count.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureRefusal {
    /// There is none.
    #[error("it is not signed")]
    Unsigned,
    /// It was made with a key that isn't trusted.
    #[error("it is signed with a key that is not trusted: {0}")]
    UntrustedKey(String),
    /// It doesn't hold.
    #[error("its signature does not hold")]
    BadSignature,
}

impl Signature {
    /// A key's signature over `bytes`.
    pub fn of(bytes: &[u8], key: &SigningKey) -> Result<Self, SigningKeyError> {
        Ok(Self { key: key.kid().to_owned(), value: base64url::encode(key.sign(bytes)?) })
    }
}

impl Trust {
    /// Trust in the Ed25519 keys of a JWKS.
    pub fn from_jwks(set: &JwkSet) -> Self {
        Self::Keys(load_jwks(set, &[Algorithm::EdDSA]).keys)
    }

    /// Whether `bytes` may be believed by this signature.
    pub fn check(&self, bytes: &[u8], signature: Option<&Signature>) -> Result<(), SignatureRefusal> {
        let Self::Keys(keys) = self else { return Ok(()) };
        let signature = signature.ok_or(SignatureRefusal::Unsigned)?;
        let key = keys
            .iter()
            .find(|key| key.kid() == Some(&signature.key))
            .ok_or_else(|| SignatureRefusal::UntrustedKey(signature.key.chars().take(64).collect()))?;
        let value = base64url::decode(signature.value.as_bytes()).map_err(|_| SignatureRefusal::BadSignature)?;
        if key.verify(Algorithm::EdDSA, bytes, &value) { Ok(()) } else { Err(SignatureRefusal::BadSignature) }
    }
}
