//! Keys that belong together: a ring, or a foreign issuer's set.

use super::{KeyError, VerifyingKey};
use crate::jose::{Algorithm, Jwk, JwkSet};

/// How many keys of a set are read.
pub const MAX_KEYS_IN_SET: usize = 100;

/// A key and what has become of it.
#[derive(Clone, Debug)]
pub struct KeyEntry {
    /// The key.
    pub key: VerifyingKey,
    /// Whether it was revoked: its signatures are still recognised, in order to say so.
    pub revoked: bool,
}

/// The keys of one ring or issuer, in their order.
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<KeyEntry>);

impl KeySet {
    /// A set of these keys.
    pub const fn new(entries: Vec<KeyEntry>) -> Self {
        Self(entries)
    }

    /// All of them.
    pub fn all(&self) -> &[KeyEntry] {
        &self.0
    }

    /// Those named `kid`. More than one may share a name.
    pub fn with_kid(&self, kid: &str) -> impl Iterator<Item = &KeyEntry> {
        self.0.iter().filter(move |entry| entry.key.kid() == Some(kid))
    }

    /// What is published: the public keys that are not revoked.
    pub fn jwks(&self) -> JwkSet {
        let published = self.0.iter().filter(|entry| !entry.revoked);
        JwkSet { keys: published.filter_map(|entry| entry.key.to_jwk()).collect() }
    }
}

impl FromIterator<VerifyingKey> for KeySet {
    fn from_iter<I: IntoIterator<Item = VerifyingKey>>(keys: I) -> Self {
        Self(keys.into_iter().map(|key| KeyEntry { key, revoked: false }).collect())
    }
}

/// What was found in a foreign key set.
#[derive(Debug, Default)]
pub struct LoadedKeys {
    /// The usable keys, in their order.
    pub keys: Vec<VerifyingKey>,
    /// The others: their `kid`, and why. Keys that aren't meant for signatures are not among them.
    pub skipped: Vec<(Option<String>, KeyError)>,
}

/// The usable keys of `set` for an issuer that may use `algorithms`.
pub fn load_jwks(set: &JwkSet, algorithms: &[Algorithm]) -> LoadedKeys {
    let mut loaded = LoadedKeys::default();
    let skip = |jwk: &Jwk, error| (jwk.kid.clone(), error);
    for jwk in set.keys.iter().take(MAX_KEYS_IN_SET) {
        match VerifyingKey::from_jwk(jwk, algorithms) {
            Ok(key) => loaded.keys.push(key),
            Err(KeyError::NotForSignatures) => {}
            Err(error) => loaded.skipped.push(skip(jwk, error)),
        }
    }
    // One line for all that are beyond the limit: their number is the peer's choice.
    if let Some(jwk) = set.keys.get(MAX_KEYS_IN_SET) {
        loaded.skipped.push(skip(jwk, KeyError::BeyondLimit));
    }
    loaded
}
