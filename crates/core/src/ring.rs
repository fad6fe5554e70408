//! A key ring: the keys of one policy that sign access tokens, or API keys, and how they follow one another.
//!
//! ```text
//!            every required verifier              a successor            the last token it
//!            has acknowledged it                  signs                  signed has expired
//!   Pending ─────────────────────────▶ Active ────────────────▶ Retiring ─────────────────▶ gone
//!      └──────────────┬──────────────────┴────────────┬────────────┘
//!                     └────────▶ Revoked, for good ◀──┘
//! ```
//! [`plan()`] decides and [`Ring::apply`] carries out; both are functions of values. Whoever runs them observes, plans,
//! applies, and writes the ring back under the version that it was read at, or starts over. One plan is one write.

mod apply;
mod plan;
mod restore;
mod status;
mod view;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use zeroize::Zeroizing;

pub use apply::ApplyError;
pub use plan::{Acks, Action, Cause, EMERGENCY_WAIT_MS, OnUnacknowledged, RotationSpec, plan};
pub use status::{Phase, RingStatus, Waiting, next_change, status};
pub use view::{KeyView, StatusView};

use crate::{
    jose::{Algorithm, Jwk, base64url},
    keys::{KeyEntry, KeyError, KeySet, SigningKey, SigningKeyError, VerifyingKey},
    time::UnixMillis,
};

/// A ring as it is stored, private keys included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ring {
    /// Rises with every change, over restores from a backup too: what issuers acknowledge.
    pub version: u64,
    /// Its keys, oldest first. At most one is Active.
    pub keys: Vec<RingKey>,
    /// The `revision` of the last rotation that came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled_revision: Option<String>,
    /// The rotation annotation of the last rotation that came to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled_rotation: Option<String>,
}

/// A key of a ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingKey {
    /// Its name: the RFC 7638 thumbprint, unless it was imported under another.
    pub kid: String,
    /// What it signs with.
    pub algorithm: Algorithm,
    /// Where it stands.
    pub state: KeyState,
    /// When it was made, which is when it was published.
    pub created: UnixMillis,
    /// When it first signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activated: Option<UnixMillis>,
    /// When a successor took over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retiring_since: Option<UnixMillis>,
    /// The ring's version that told issuers to stop signing with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired_in: Option<u64>,
    /// When nothing that it signed lives any more. Unknown until every issuer has stopped signing with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_after: Option<UnixMillis>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<UnixMillis>,
    /// The longest life of a token that it may have signed, milliseconds.
    #[serde(default)]
    pub longest_ttl_ms: i64,
    /// Whether it signs although not every required verifier has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unacknowledged: bool,
    /// The private key. Erased when the key stops signing for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pkcs8: Option<PrivateKey>,
    /// The public key.
    pub public: Jwk,
}

/// Where a key stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum KeyState {
    /// Published; verifies, doesn't sign.
    Pending,
    /// Signs and verifies.
    Active,
    /// Verifies what it has signed.
    Retiring,
    /// Verifies nothing, for good.
    Revoked,
}

impl KeyState {
    /// The word in status and on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Active => "Active",
            Self::Retiring => "Retiring",
            Self::Revoked => "Revoked",
        }
    }
}

/// A key of a ring as verifiers get it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicRingKey {
    /// Its name.
    pub kid: String,
    /// What it signs with.
    pub alg: Algorithm,
    /// Where it stands.
    pub state: KeyState,
    /// The public key.
    pub jwk: Jwk,
}

/// PKCS#8 bytes: erased from memory when dropped, base64url in storage, never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<Vec<u8>>);

impl PrivateKey {
    /// These bytes.
    pub const fn new(pkcs8: Zeroizing<Vec<u8>>) -> Self {
        Self(pkcs8)
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl Serialize for PrivateKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(base64url::encode(self.expose())))
    }
}

impl<'de> Deserialize<'de> for PrivateKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        base64url::decode(text.as_str()).map(|bytes| Self(Zeroizing::new(bytes))).map_err(de::Error::custom)
    }
}

impl Ring {
    /// The key that signs, if one does.
    pub fn active(&self) -> Option<&RingKey> {
        self.in_state(KeyState::Active).next()
    }

    /// The keys in a state, oldest first.
    pub fn in_state(&self, state: KeyState) -> impl Iterator<Item = &RingKey> {
        self.keys.iter().filter(move |key| key.state == state)
    }

    /// The key named `kid`.
    pub fn key(&self, kid: &str) -> Option<&RingKey> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// The private half of the Active key, ready to sign. `None`: issuers answer 503.
    pub fn signing_key(&self) -> Result<Option<SigningKey>, SigningKeyError> {
        let Some(key) = self.active() else { return Ok(None) };
        let Some(pkcs8) = &key.pkcs8 else { return Ok(None) };
        SigningKey::from_pkcs8(key.algorithm, Some(&key.kid), pkcs8.expose()).map(Some)
    }

    /// What verifiers get, oldest first, revoked keys included.
    pub fn public_keys(&self) -> Vec<PublicRingKey> {
        let public = |key: &RingKey| PublicRingKey {
            kid: key.kid.clone(),
            alg: key.algorithm,
            state: key.state,
            jwk: key.public.clone(),
        };
        self.keys.iter().map(public).collect()
    }

    /// Whether any key of this ring ever signed.
    pub fn has_signed(&self) -> bool {
        self.keys.iter().any(|key| key.activated.is_some())
    }
}

/// A ring's public keys, parsed to verify with.
pub fn key_set(keys: &[PublicRingKey]) -> Result<KeySet, KeyError> {
    let entry = |key: &PublicRingKey| {
        let jwk = Jwk { kid: Some(key.kid.clone()), ..key.jwk.clone() };
        Ok(KeyEntry { key: VerifyingKey::from_jwk(&jwk, &[key.alg])?, revoked: key.state == KeyState::Revoked })
    };
    keys.iter().map(entry).collect::<Result<_, _>>().map(KeySet::new)
}
