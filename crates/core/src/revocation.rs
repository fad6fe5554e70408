//! Revocations: what ends which credentials, and the set that a verifier holds of them.
//!
//! An entry matches claims (issuer and `jti`, `sid`, `sub`, `kid`), never a hash of the token's text: ECDSA signatures and
//! base64 are malleable, so a text has variants that mean the same token. Entries are idempotent and commutative: whatever
//! order they come in, the strictest wins, and nothing is ever lifted (only `ip` entries are replaced, by a higher version).

mod position;
mod set;

use serde::{Deserialize, Serialize};

pub use position::{InvalidPosition, Position};
pub use set::{Hit, LIFTED, PURGE_AFTER_MS, RevocationSet, SnapshotError};

use crate::{names::PolicyName, time::UnixMillis, verdict::RevokedBy};

/// What an entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One token, by `jti`.
    Token,
    /// One session, by `sid`.
    Session,
    /// A subject's tokens issued up to the cut-off, by `sub`.
    Subject,
    /// One API key, by `jti`; for an imported opaque key, by the SHA-256 of it in lower-case hex.
    ApiKey,
    /// A signing key, by `kid`. Never expires.
    Key,
    /// All tokens of the policy issued up to the cut-off. The id is empty, or `access` for access tokens alone.
    Policy,
    /// A client address or network, by its CIDR text. Denied, not revoked.
    Ip,
}

/// The id of a [`Kind::Policy`] entry that speaks of access tokens alone (the merged form of many entries).
pub const ACCESS_RING_ONLY: &str = "access";

/// One revocation, as it travels from its writer to every verifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The policy it belongs to.
    pub policy: PolicyName,
    /// What it names.
    pub kind: Kind,
    /// The issuer whose credentials it matches. Absent: any issuer of the policy (for [`Kind::Key`]: the policy's own rings).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The `jti`, `sid`, `sub`, `kid` or CIDR.
    pub id: String,
    /// Credentials issued up to and including this instant are dead. [`UnixMillis::FOREVER`]: whenever issued.
    pub cutoff: UnixMillis,
    /// When nothing that it can match lives any more. [`UnixMillis::FOREVER`] for keys.
    pub expires: UnixMillis,
    /// Orders `ip` entries of one address; elsewhere 0.
    #[serde(default)]
    pub version: u64,
    /// Why, for people. Never secret.
    #[serde(default)]
    pub reason: String,
    /// Who wrote it: an issuer's, operator's or person's name.
    #[serde(default)]
    pub source: String,
}

/// What an entry is stored under: two entries with one key speak of the same thing, and the stricter replaces the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKey(String);

impl EntryKey {
    /// Unambiguous text: the parts as a JSON array.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Entry {
    /// Its key.
    pub fn key(&self) -> EntryKey {
        let parts = (&self.policy, self.kind, self.issuer.as_deref(), &self.id);
        EntryKey(serde_json::to_string(&parts).expect("names and strings always serialise"))
    }

    /// Whether this entry says more than `other`, which has the same key.
    pub fn is_stricter_than(&self, other: &Self) -> bool {
        if self.kind == Kind::Ip {
            self.version > other.version
        } else {
            (self.cutoff, self.expires) > (other.cutoff, other.expires)
                && (self.cutoff > other.cutoff || self.expires > other.expires)
        }
    }

    /// The join of both: at least as strict as each. `other` must have the same key.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        if self.kind == Kind::Ip {
            return if other.version > self.version { other } else { self };
        }
        let (cutoff, expires) = (self.cutoff.max(other.cutoff), self.expires.max(other.expires));
        let newer = if other.is_stricter_than(&self) { other } else { self };
        Self { cutoff, expires, ..newer }
    }
}

/// What a credential can be revoked by. Borrowed from its verified claims.
#[derive(Clone, Copy, Debug)]
pub struct Revocable<'a> {
    /// The policy it was presented to.
    pub policy: &'a PolicyName,
    /// Its issuer; `None` for tokens of an issuer-less trusted entry.
    pub issuer: Option<&'a str>,
    /// Whether the policy itself issued it: then key entries without an issuer match.
    pub own: bool,
    /// Whether cut-offs for the access ring match it (own access tokens).
    pub access_ring: bool,
    /// [`Kind::Token`] or [`Kind::ApiKey`].
    pub token_kind: Kind,
    /// `jti`.
    pub token_id: Option<&'a str>,
    /// `sid`.
    pub session_id: Option<&'a str>,
    /// `sub`.
    pub subject: Option<&'a str>,
    /// The key that signed it.
    pub kid: Option<&'a str>,
}

/// The hashed names under which a credential can be revoked: computed once per token, looked up on every call.
#[derive(Clone, Debug)]
pub struct RevocationIds(Vec<(RevokedBy, u128)>);

impl RevocationIds {
    /// The ids, in the order token, session, subject, key, policy.
    pub fn iter(&self) -> impl Iterator<Item = (RevokedBy, u128)> + '_ {
        self.0.iter().copied()
    }
}

/// Turns names into 128-bit ids with a key of the process's own, so that nobody can prepare collisions.
#[derive(Clone, Copy)]
pub struct IdHasher {
    key: [u8; 16],
}

impl std::fmt::Debug for IdHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdHasher(..)")
    }
}

impl IdHasher {
    /// A hasher with 128 random bits as its key. Kept beside saved sets.
    pub const fn new(key: [u8; 16]) -> Self {
        Self { key }
    }

    /// The key, for saving beside a set.
    pub const fn key(&self) -> &[u8; 16] {
        &self.key
    }

    fn id(&self, policy: &PolicyName, kind: Kind, issuer: Option<&str>, id: &str) -> u128 {
        self.hash(kind as u8, &[Some(policy.as_str()), issuer, Some(id)])
    }

    /// The id under which verifications of a subject or key are counted. `what` tells the two apart.
    pub fn rate_id(&self, policy: &PolicyName, issuer: Option<&str>, what: &str, id: &str) -> u128 {
        self.hash(u8::MAX, &[Some(policy.as_str()), issuer, Some(what), Some(id)])
    }

    /// SipHash-2-4-128 over the parts, each with its length, so that no two lists of parts read alike.
    fn hash(&self, domain: u8, parts: &[Option<&str>]) -> u128 {
        use std::hash::Hasher as _;

        use siphasher::sip128::{Hasher128 as _, SipHasher24};

        let mut hasher = SipHasher24::new_with_key(&self.key);
        // Nearly all names are short: hashed in one piece, which takes half as long as part by part.
        let mut message = [0; 256];
        if let Some(len) = join(&mut message, domain, parts) {
            return hasher.hash(&message[..len]).as_u128();
        }
        hasher.write_u8(domain);
        for part in parts {
            hasher.write_u64(length_of(*part));
            hasher.write(part.unwrap_or_default().as_bytes());
        }
        hasher.finish128().as_u128()
    }

    /// The id of an entry.
    pub fn entry_id(&self, entry: &Entry) -> u128 {
        self.id(&entry.policy, entry.kind, entry.issuer.as_deref(), &entry.id)
    }

    /// Every id under which `credential` can be revoked.
    pub fn ids_of(&self, credential: &Revocable<'_>) -> RevocationIds {
        let r = credential;
        let mut ids = Vec::with_capacity(9);
        let named = [
            (RevokedBy::Token, r.token_kind, r.token_id),
            (RevokedBy::Session, Kind::Session, r.session_id),
            (RevokedBy::Subject, Kind::Subject, r.subject),
        ];
        for (by, kind, id) in named {
            let Some(id) = id else { continue };
            ids.push((by, self.id(r.policy, kind, None, id)));
            if r.issuer.is_some() {
                ids.push((by, self.id(r.policy, kind, r.issuer, id)));
            }
        }
        if let Some(kid) = r.kid {
            if r.own {
                ids.push((RevokedBy::Key, self.id(r.policy, Kind::Key, None, kid)));
            }
            if r.issuer.is_some() {
                ids.push((RevokedBy::Key, self.id(r.policy, Kind::Key, r.issuer, kid)));
            }
        }
        ids.push((RevokedBy::Policy, self.id(r.policy, Kind::Policy, None, "")));
        if r.issuer.is_some() {
            ids.push((RevokedBy::Policy, self.id(r.policy, Kind::Policy, r.issuer, "")));
        }
        if r.access_ring {
            ids.push((RevokedBy::Policy, self.id(r.policy, Kind::Policy, None, ACCESS_RING_ONLY)));
        }
        RevocationIds(ids)
    }
}

/// An absent part has a length that no present one has.
fn length_of(part: Option<&str>) -> u64 {
    part.map_or(u64::MAX, |p| p.len() as u64)
}

/// Writes what is hashed into one buffer; `None` where it doesn't fit.
fn join(message: &mut [u8], domain: u8, parts: &[Option<&str>]) -> Option<usize> {
    *message.first_mut()? = domain;
    let mut len = 1;
    for part in parts {
        for bytes in [&length_of(*part).to_le_bytes(), part.unwrap_or_default().as_bytes()] {
            message.get_mut(len..len + bytes.len())?.copy_from_slice(bytes);
            len += bytes.len();
        }
    }
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_names_id_is_the_same_in_one_piece_and_part_by_part() {
        let hasher = IdHasher::new(*b"0123456789abcdef");
        for len in 0..400 {
            let id = "i".repeat(len);
            for issuer in [None, Some(""), Some("https://shop.example")] {
                let parts = [Some("shop/shop"), issuer, Some(id.as_str())];
                let padded = [parts[0], parts[1], parts[2], Some("x")];
                assert_eq!(hasher.hash(3, &parts), part_by_part(&hasher, 3, &parts), "{len}");
                assert_ne!(hasher.hash(3, &parts), hasher.hash(3, &padded));
            }
        }
    }

    fn part_by_part(hasher: &IdHasher, domain: u8, parts: &[Option<&str>]) -> u128 {
        use std::hash::Hasher as _;

        use siphasher::sip128::{Hasher128 as _, SipHasher24};

        let mut sip = SipHasher24::new_with_key(&hasher.key);
        sip.write_u8(domain);
        for part in parts {
            sip.write_u64(part.map_or(u64::MAX, |p| p.len() as u64));
            sip.write(part.unwrap_or_default().as_bytes());
        }
        sip.finish128().as_u128()
    }
}
