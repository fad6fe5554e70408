//! What verifiers need and may not be read by everyone: symmetric keys from before a migration, and hashes of opaque keys.

use std::{collections::BTreeMap, fmt};

use countersign_core::{
    digest::sha256,
    jose::{base64url, strict_json},
    names::PolicyName,
    opaque::{OpaqueKey, parse_keys},
};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// How large the file may be: three Secrets of opaque keys at 1 MiB each, and some symmetric keys.
const MAX_BYTES: usize = 4 << 20;

/// The verify-secrets of one policy.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VerifySecrets {
    /// Whose they are.
    pub policy: PolicyName,
    /// Symmetric keys by the trusted issuer's entry name, base64url.
    pub symmetric: BTreeMap<String, String>,
    /// The `keys.json` files of opaque keys, as they were given.
    pub opaque: Vec<String>,
}

/// Why verify-secrets aren't used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretsRefusal {
    /// Not verify-secrets.
    #[error("the verify-secrets do not parse")]
    Corrupt,
    /// Not the content that the bundle names.
    #[error("the verify-secrets are not those that the bundle names")]
    Mismatch,
    /// A file of opaque keys is wrong.
    #[error("opaque keys: {0}")]
    OpaqueKeys(String),
}

impl VerifySecrets {
    /// Verify-secrets without anything in them.
    pub const fn empty(policy: PolicyName) -> Self {
        Self { policy, symmetric: BTreeMap::new(), opaque: Vec::new() }
    }

    /// Whether there is nothing in them, so that no file needs to be written.
    pub fn is_empty(&self) -> bool {
        self.symmetric.is_empty() && self.opaque.is_empty()
    }

    /// Adds a symmetric key, byte for byte.
    pub fn add_symmetric(&mut self, entry: &str, secret: &[u8]) {
        self.symmetric.insert(entry.to_owned(), base64url::encode(secret));
    }

    /// The file's text.
    pub fn to_json(&self) -> Zeroizing<String> {
        Zeroizing::new(serde_json::to_string(self).expect("strings always serialise"))
    }

    /// SHA-256 of the file's text, in hex: what the bundle names.
    pub fn sha256(&self) -> String {
        hex::encode(sha256(self.to_json().as_bytes()))
    }

    /// Reads the file, if it is the one that `expected` (hex) names.
    pub fn parse(bytes: &[u8], expected: &str) -> Result<Self, SecretsRefusal> {
        if bytes.len() > MAX_BYTES {
            return Err(SecretsRefusal::Corrupt);
        }
        if hex::encode(sha256(bytes)) != expected {
            return Err(SecretsRefusal::Mismatch);
        }
        let raw = strict_json::parse(bytes, 8).map_err(|_| SecretsRefusal::Corrupt)?;
        serde_json::from_value(raw).map_err(|_| SecretsRefusal::Corrupt)
    }

    /// The symmetric key of an entry.
    pub fn symmetric_key(&self, entry: &str) -> Option<Zeroizing<Vec<u8>>> {
        base64url::decode(self.symmetric.get(entry)?).ok().map(Zeroizing::new)
    }

    /// All opaque keys.
    pub fn opaque_keys(&self) -> Result<Vec<OpaqueKey>, SecretsRefusal> {
        let mut keys = Vec::new();
        for file in &self.opaque {
            keys.extend(parse_keys(file.as_bytes()).map_err(|e| SecretsRefusal::OpaqueKeys(e.to_string()))?);
        }
        Ok(keys)
    }
}

impl Drop for VerifySecrets {
    fn drop(&mut self) {
        self.symmetric.values_mut().for_each(Zeroize::zeroize);
    }
}

impl fmt::Debug for VerifySecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifySecrets")
            .field("policy", &self.policy)
            .field("symmetric", &self.symmetric.keys())
            .field("opaque", &self.opaque.len())
            .finish()
    }
}
