//! A policy's key rings on their way from the operator to issuers: the Secret with the rings, and the record beside them.
//!
//! Rings and record lie in one Secret, so that one write, fenced by one version, carries one plan. The Secret is sealed: signed
//! with the key that signs bundles. A ring that somebody edited by hand is not trusted.

use std::{collections::BTreeMap, sync::Arc};

use countersign_core::{digest::sha256, names::PolicyName, revocation::Entry, ring::Ring, time::UnixMillis};
use serde::{Deserialize, Serialize};

use crate::bundle::{RingName, Signature, Trust};

/// The key of the Secret that holds the access ring.
pub const ACCESS_KEY: &str = "access.json";
/// The key that holds the ring of API keys.
pub const API_KEY_KEY: &str = "api-key.json";
/// The key that holds the record.
pub const RECORD_KEY: &str = "record.json";
/// The key that holds the seal over the others, a [`Signature`].
pub const SEAL_KEY: &str = "seal.json";
/// What is sealed, in the order of the seal.
const SEALED: [&str; 3] = [ACCESS_KEY, API_KEY_KEY, RECORD_KEY];

/// What is remembered of a policy beside its rings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Whose it is.
    pub policy: PolicyName,
    /// The uid of the AuthPolicy.
    pub uid: String,
    /// The uid of the first AuthPolicy of those that took over from one another; issuers keep people by it. Absent in what an
    /// earlier release wrote and nobody has taken over since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// The uid of its namespace.
    pub namespace_uid: String,
    /// Its `iss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The last generation that a bundle may have been written with.
    pub generation: u64,
    /// When the policy was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_time: Option<UnixMillis>,
    /// How long it is kept after that, milliseconds.
    pub retain_ms: i64,
    /// Up to when tokens may have been issued that go beyond the feed server's clock: no cut-off is earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_until: Option<UnixMillis>,
    /// From where which fetched keys of trusted issuers came that the bundle has, by entry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub key_sources: BTreeMap<String, String>,
    /// Ended declared sessions, until their last token expires. In the order of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub revoked: Vec<Entry>,
    /// The last spec that made sense, as JSON: a leader that begins while an edit makes none turns and signs by it, as the one
    /// before did. Absent when it is too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<String>,
}

/// A policy's rings. Whoever is shown one shares it: its private keys are in memory once.
pub type Rings = BTreeMap<RingName, Arc<Ring>>;

/// Record and rings.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// What is remembered.
    pub record: Record,
    /// Empty for a policy that only verifies.
    pub rings: Rings,
}

/// Why what is kept isn't used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// The seal is missing or doesn't hold.
    #[error("the key ring's Secret was changed by somebody else than the operator: its seal doesn't hold")]
    Seal,
    /// It can't be read.
    #[error("the key ring's Secret can't be read")]
    Corrupt,
    /// It says that it is another policy's.
    #[error("the key ring's Secret is another policy's")]
    Other,
}

impl Kept {
    /// What the data of a Secret hold of the policy under whose name it was found, if its seal is one of a trusted key's.
    pub fn open<V: AsRef<[u8]>>(policy: &PolicyName, data: &BTreeMap<String, V>, trust: &Trust) -> Result<Self, Untrusted> {
        trust.check(&sealed_bytes(policy, data), seal(data).as_ref()).map_err(|_| Untrusted::Seal)?;
        let record = data.get(RECORD_KEY).ok_or(Untrusted::Corrupt)?;
        let record: Record = serde_json::from_slice(record.as_ref()).map_err(|_| Untrusted::Corrupt)?;
        if record.policy != *policy {
            return Err(Untrusted::Other);
        }
        let mut rings = Rings::new();
        for ring in RingName::ALL {
            if let Some(bytes) = data.get(data_key(ring)) {
                let held: Ring = serde_json::from_slice(bytes.as_ref()).map_err(|_| Untrusted::Corrupt)?;
                rings.insert(ring, Arc::new(held));
            }
        }
        Ok(Self { record, rings })
    }
}

/// The seal that a Secret bears, if any. Says nothing of whether it holds.
pub fn seal<V: AsRef<[u8]>>(data: &BTreeMap<String, V>) -> Option<Signature> {
    serde_json::from_slice(data.get(SEAL_KEY)?.as_ref()).ok()
}

/// The key of the Secret that holds a ring.
pub const fn data_key(ring: RingName) -> &'static str {
    match ring {
        RingName::Access => ACCESS_KEY,
        RingName::ApiKey => API_KEY_KEY,
    }
}

/// What the seal is over: each part by its hash, so that no two contents read alike.
pub fn sealed_bytes<V: AsRef<[u8]>>(policy: &PolicyName, data: &BTreeMap<String, V>) -> Vec<u8> {
    let part = |key: &str| data.get(key).map_or_else(|| "-".to_owned(), |bytes| hex::encode(sha256(bytes.as_ref())));
    let [access, api_key, record] = SEALED.map(part);
    format!("countersign key ring v1\n{policy}\n{access}\n{api_key}\n{record}").into_bytes()
}

#[cfg(test)]
mod tests {
    use countersign_core::{
        jose::{Algorithm, JwkSet},
        keys::SigningKey,
    };

    use super::*;

    type Data = BTreeMap<String, Vec<u8>>;

    fn name() -> PolicyName {
        "shop/shop".parse().unwrap()
    }

    fn trust(keys: &[&SigningKey]) -> Trust {
        Trust::from_jwks(&JwkSet { keys: keys.iter().map(|key| key.public_jwk().clone()).collect() })
    }

    fn sealed(key: &SigningKey) -> Data {
        let record = r#"{"policy":"shop/shop","uid":"u","namespaceUid":"n","generation":7,"retainMs":1}"#;
        let ring = serde_json::to_vec(&Ring::default()).unwrap();
        let mut data = Data::from([(RECORD_KEY.into(), record.into()), (ACCESS_KEY.into(), ring)]);
        let seal = Signature::of(&sealed_bytes(&name(), &data), key).unwrap();
        data.insert(SEAL_KEY.into(), serde_json::to_vec(&seal).unwrap());
        data
    }

    #[test]
    fn what_the_operator_sealed_is_read_by_whoever_trusts_its_key() {
        let [key, other] = [(); 2].map(|()| SigningKey::generate(Algorithm::EdDSA).unwrap());
        let data = sealed(&key);
        let kept = Kept::open(&name(), &data, &trust(&[&other, &key])).unwrap();
        assert_eq!((kept.record.uid.as_str(), kept.record.generation), ("u", 7));
        assert_eq!(kept.rings, Rings::from([(RingName::Access, Arc::default())]));
        assert_eq!(seal(&data).unwrap().key, key.kid());
        for trust in [trust(&[&other]), trust(&[])] {
            assert_eq!(Kept::open(&name(), &data, &trust), Err(Untrusted::Seal));
        }
    }

    #[test]
    fn no_part_can_be_altered_added_left_out_or_brought_under_another_name() {
        type Change = fn(&mut Data);
        let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
        let changes: [(&str, Change); 6] = [
            ("a ring", |data| data.get_mut(ACCESS_KEY).unwrap().push(b' ')),
            ("the record", |data| data.get_mut(RECORD_KEY).unwrap().push(b' ')),
            ("a ring more", |data| drop(data.insert(API_KEY_KEY.into(), data[ACCESS_KEY].clone()))),
            ("a ring less", |data| drop(data.remove(ACCESS_KEY))),
            ("no seal", |data| drop(data.remove(SEAL_KEY))),
            ("a seal that is none", |data| drop(data.insert(SEAL_KEY.into(), b"{}".to_vec()))),
        ];
        for (what, change) in changes {
            let mut data = sealed(&key);
            change(&mut data);
            assert_eq!(Kept::open(&name(), &data, &trust(&[&key])), Err(Untrusted::Seal), "{what}");
        }
        let other = "shop/other".parse().unwrap();
        assert_eq!(Kept::open(&other, &sealed(&key), &trust(&[&key])), Err(Untrusted::Seal));
        assert_eq!(Kept::open(&other, &sealed(&key), &Trust::FileSystem), Err(Untrusted::Other));
    }
}
