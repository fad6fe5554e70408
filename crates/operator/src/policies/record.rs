//! What is kept of a policy: the Secret with its rings, and the record beside them.
//!
//! Rings and record lie in one Secret, so that one write, fenced by one version, carries one plan. The Secret is sealed: signed
//! with the key that signs bundles. A ring that somebody edited by hand is not trusted.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{
    bundle::RingName,
    cluster::{ADOPT_ANNOTATION, FORMAT, KEY_RING_LABEL, OWNER_UID_LABEL, POLICY_ANNOTATION, ring_name},
};
use countersign_core::{
    digest::sha256,
    names::PolicyName,
    revocation::{ACCESS_RING_ONLY, Entry, Kind},
    ring::Ring,
    time::UnixMillis,
};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::signing::{BundleKeys, SigningError};
use crate::versions::version_of;

const ACCESS_KEY: &str = "access.json";
const API_KEY_KEY: &str = "api-key.json";
const RECORD_KEY: &str = "record.json";
/// How many ended sessions are kept one by one.
pub(crate) const MAX_SESSIONS: usize = 1_000;
const SEAL_KEY: &str = "seal.json";
/// What is sealed, in the order of the seal.
const SEALED: [&str; 3] = [ACCESS_KEY, API_KEY_KEY, RECORD_KEY];

/// What is remembered of a policy beside its rings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// Whose it is.
    pub(crate) policy: PolicyName,
    /// The uid of the AuthPolicy.
    pub(crate) uid: String,
    /// The uid of its namespace.
    pub(crate) namespace_uid: String,
    /// Its `iss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) issuer: Option<String>,
    /// The last generation that a bundle may have been written with.
    pub(crate) generation: u64,
    /// When the policy was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) withdrawn_time: Option<UnixMillis>,
    /// How long it is kept after that, milliseconds.
    pub(crate) retain_ms: i64,
    /// Up to when tokens may have been issued that go beyond the feed server's clock: no cut-off is earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) issued_until: Option<UnixMillis>,
    /// From where which fetched keys of trusted issuers came that the bundle has, by entry.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) key_sources: BTreeMap<String, String>,
    /// Ended declared sessions, until their last token expires. In the order of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) revoked: Vec<Entry>,
}

impl Record {
    /// Adds entries; of two for one thing the join stays.
    pub(crate) fn revoke(&mut self, entries: impl IntoIterator<Item = Entry>) {
        let mut by_key: BTreeMap<_, Entry> = self.revoked.drain(..).map(|entry| (entry.key(), entry)).collect();
        for entry in entries {
            let key = entry.key();
            let joined = match by_key.remove(&key) {
                Some(held) => held.join(entry),
                None => entry,
            };
            by_key.insert(key, joined);
        }
        self.revoked = by_key.into_values().collect();
    }

    /// From here on tokens may be issued up to `until`.
    pub(crate) fn reserve(&mut self, until: UnixMillis) {
        self.issued_until = Some(self.issued_until.map_or(until, |held| held.max(until)));
    }

    /// Past [`MAX_SESSIONS`] ended sessions one cut-off of all access tokens takes their place: clients refresh, and sessions
    /// that are alive get a new token. `at`: when the last token was issued. How many it took the place of.
    pub(crate) fn merge(&mut self, at: UnixMillis, life_ms: i64) -> usize {
        let is_session = |entry: &&Entry| entry.kind == Kind::Session;
        let sessions = self.revoked.iter().filter(is_session).count();
        if sessions <= MAX_SESSIONS {
            return 0;
        }
        let longest = self.revoked.iter().filter(is_session).map(|entry| entry.expires).max();
        self.revoked.retain(|entry| entry.kind != Kind::Session);
        self.revoke([Entry {
            policy: self.policy.clone(),
            kind: Kind::Policy,
            issuer: None,
            id: ACCESS_RING_ONLY.to_owned(),
            cutoff: at,
            expires: longest.map_or(at, |longest| longest.max(at.plus(life_ms))),
            version: 0,
            reason: "many declared sessions ended".to_owned(),
            source: "operator".to_owned(),
        }]);
        sessions
    }

    /// Drops what both clocks say expired a while ago.
    pub(crate) fn purge(&mut self, now: UnixMillis, server_now: Option<UnixMillis>) {
        let Some(server_now) = server_now else { return };
        let passed = now.min(server_now).minus(countersign_core::revocation::PURGE_AFTER_MS);
        self.revoked.retain(|entry| entry.expires > passed);
    }
}

/// Record and rings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Kept {
    pub(crate) record: Record,
    /// Empty for a policy that only verifies.
    pub(crate) rings: BTreeMap<RingName, Ring>,
}

/// A key ring's Secret as the watch shows it.
#[derive(Clone, Debug)]
pub(crate) struct RingSecret {
    pub(crate) version: u64,
    /// The policy that its annotation or its record says it is for, if that goes with its name.
    pub(crate) policy: Option<PolicyName>,
    /// An administrator's word on who may take over what: as [`RingSecret::adoption`] spells it.
    pub(crate) adopt: Option<String>,
    /// Whether labels and annotation are as they should be for the policy of this uid.
    pub(crate) owner: Option<String>,
    data: Arc<BTreeMap<String, Zeroizing<Vec<u8>>>>,
}

impl PartialEq for RingSecret {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

/// Why what is kept isn't used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Untrusted {
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

#[derive(Serialize, Deserialize)]
struct Seal {
    key: String,
    value: String,
}

fn data_key(ring: RingName) -> &'static str {
    match ring {
        RingName::Access => ACCESS_KEY,
        RingName::ApiKey => API_KEY_KEY,
    }
}

impl RingSecret {
    /// The Secret, whatever it holds.
    pub(crate) fn of(secret: Secret) -> Self {
        let metadata = secret.metadata;
        let annotation = |name: &str| metadata.annotations.as_ref().and_then(|a| a.get(name)).cloned();
        let data = secret.data.unwrap_or_default();
        let policy = annotation(POLICY_ANNOTATION).and_then(|name| name.parse().ok()).or_else(|| {
            // The annotation may have been removed; the record says the same.
            let record: Record = serde_json::from_slice(&data.get(RECORD_KEY)?.0).ok()?;
            Some(record.policy)
        });
        let its_name = |policy: &PolicyName| metadata.name.as_deref() == Some(ring_name(policy).as_str());
        Self {
            version: version_of(&metadata),
            policy: policy.filter(its_name),
            adopt: annotation(ADOPT_ANNOTATION),
            owner: metadata.labels.as_ref().and_then(|labels| labels.get(OWNER_UID_LABEL)).cloned(),
            data: Arc::new(data.into_iter().map(|(key, value)| (key, Zeroizing::new(value.0))).collect()),
        }
    }

    /// Whether labels and annotation are as they ought to be for the policy of this uid.
    pub(crate) fn is_marked(&self, policy: &PolicyName, uid: &str) -> bool {
        self.owner.as_deref() == Some(uid) && self.policy.as_ref() == Some(policy)
    }

    /// The word with which an administrator lets the policy of this uid take over exactly what is here now: a later forgery
    /// isn't covered by it.
    pub(crate) fn adoption(&self, policy: &PolicyName, uid: &str) -> String {
        format!("{uid}:{}", hex::encode(sha256(&sealed_bytes(policy, &self.data))))
    }

    /// Whether an administrator's word says so.
    pub(crate) fn is_vouched_for(&self, policy: &PolicyName, uid: &str) -> bool {
        self.adopt.as_ref() == Some(&self.adoption(policy, uid))
    }

    /// What it holds of the policy under whose name it was found, if its seal holds or `unsealed` says that an administrator
    /// vouches for it.
    pub(crate) fn open(&self, policy: &PolicyName, keys: &BundleKeys, unsealed: bool) -> Result<Kept, Untrusted> {
        if !unsealed {
            let seal = self.data.get(SEAL_KEY).ok_or(Untrusted::Seal)?;
            let seal: Seal = serde_json::from_slice(seal).map_err(|_| Untrusted::Seal)?;
            if !keys.holds(&seal.key, &sealed_bytes(policy, &self.data), &seal.value) {
                return Err(Untrusted::Seal);
            }
        }
        let record = self.data.get(RECORD_KEY).ok_or(Untrusted::Corrupt)?;
        let record: Record = serde_json::from_slice(record).map_err(|_| Untrusted::Corrupt)?;
        if record.policy != *policy {
            return Err(Untrusted::Other);
        }
        let mut rings = BTreeMap::new();
        for ring in RingName::ALL {
            if let Some(bytes) = self.data.get(data_key(ring)) {
                rings.insert(ring, serde_json::from_slice(bytes).map_err(|_| Untrusted::Corrupt)?);
            }
        }
        Ok(Kept { record, rings })
    }
}

/// What the seal is over: each part by its hash, so that no two contents read alike.
fn sealed_bytes(policy: &PolicyName, data: &BTreeMap<String, Zeroizing<Vec<u8>>>) -> Vec<u8> {
    let part = |key: &str| data.get(key).map_or_else(|| "-".to_owned(), |bytes| hex::encode(sha256(bytes)));
    let [access, api_key, record] = SEALED.map(part);
    format!("countersign key ring v1\n{policy}\n{access}\n{api_key}\n{record}").into_bytes()
}

impl Kept {
    /// Whether this is an older state than `other`, in anything: each part only ever rises.
    pub(crate) fn is_older_than(&self, other: &Self) -> bool {
        let ring = |kept: &Self, name| kept.rings.get(&name).map(|ring: &Ring| ring.version);
        self.record.generation < other.record.generation
            || self.record.issued_until < other.record.issued_until
            || RingName::ALL.into_iter().any(|name| ring(self, name) < ring(other, name))
    }

    /// The Secret that holds this, sealed. `version`: the one that it was decided on; `None` for one that isn't there yet.
    pub(crate) fn to_secret(&self, keys: &BundleKeys, version: Option<u64>) -> Result<Secret, SigningError> {
        let json = |value: serde_json::Result<Vec<u8>>| value.map(Zeroizing::new).map_err(|_| SigningError::Corrupt);
        let mut data = BTreeMap::from([(RECORD_KEY.to_owned(), json(serde_json::to_vec(&self.record))?)]);
        for (name, ring) in &self.rings {
            data.insert(data_key(*name).to_owned(), json(serde_json::to_vec(ring))?);
        }
        let policy = &self.record.policy;
        let (key, value) = keys.seal(&sealed_bytes(policy, &data))?;
        data.insert(SEAL_KEY.to_owned(), json(serde_json::to_vec(&Seal { key, value }))?);
        Ok(Secret {
            metadata: ObjectMeta {
                name: Some(ring_name(policy)),
                resource_version: version.map(|version| version.to_string()),
                labels: Some(BTreeMap::from([
                    (KEY_RING_LABEL.to_owned(), FORMAT.to_owned()),
                    (OWNER_UID_LABEL.to_owned(), self.record.uid.clone()),
                ])),
                annotations: Some(BTreeMap::from([(POLICY_ANNOTATION.to_owned(), policy.to_string())])),
                ..ObjectMeta::default()
            },
            data: Some(data.into_iter().map(|(key, value)| (key, ByteString(value.to_vec()))).collect()),
            ..Secret::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> PolicyName {
        PolicyName::try_new("shop", "shop").unwrap()
    }

    fn kept(keys: &BundleKeys) -> (Kept, RingSecret) {
        let record = Record {
            policy: PolicyName::try_new("shop", "shop").unwrap(),
            uid: "u".into(),
            namespace_uid: "n".into(),
            issuer: Some("https://auth.example".into()),
            generation: 7,
            withdrawn_time: None,
            retain_ms: 1,
            issued_until: None,
            key_sources: BTreeMap::new(),
            revoked: Vec::new(),
        };
        let kept = Kept { record, rings: BTreeMap::from([(RingName::Access, Ring::default())]) };
        let mut secret = kept.to_secret(keys, Some(3)).unwrap();
        assert_eq!(secret.metadata.resource_version.as_deref(), Some("3"));
        secret.metadata.resource_version = Some("4".into());
        (kept, RingSecret::of(secret))
    }

    fn edited(secret: &RingSecret, key: &str, edit: impl FnOnce(&mut Vec<u8>)) -> RingSecret {
        let mut data = (*secret.data).clone();
        edit(data.get_mut(key).unwrap());
        RingSecret { data: Arc::new(data), ..secret.clone() }
    }

    #[test]
    fn what_was_kept_is_read_back() {
        let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
        let (kept, secret) = kept(&keys);
        assert_eq!(secret.open(&name(), &keys, false), Ok(kept));
        assert_eq!((secret.version, secret.owner.as_deref()), (4, Some("u")));
    }

    #[test]
    fn a_ring_that_somebody_edited_is_not_trusted_unless_an_administrator_vouches_for_it() {
        let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
        let (_, secret) = kept(&keys);
        let with_another_version = edited(&secret, ACCESS_KEY, |bytes| *bytes = br#"{"version":9,"keys":[]}"#.to_vec());
        assert_eq!(with_another_version.open(&name(), &keys, false), Err(Untrusted::Seal));
        assert_eq!(with_another_version.open(&name(), &keys, true).unwrap().rings[&RingName::Access].version, 9);
        for (key, bytes) in [(RECORD_KEY, "{}"), (SEAL_KEY, "{}"), (SEAL_KEY, r#"{"key":"x","value":""}"#)] {
            let changed = edited(&secret, key, |held| *held = bytes.as_bytes().to_vec());
            assert_eq!(changed.open(&name(), &keys, false), Err(Untrusted::Seal), "{key} {bytes}");
        }
        let mut without_a_ring = (*secret.data).clone();
        without_a_ring.remove(ACCESS_KEY);
        let without_a_ring = RingSecret { data: Arc::new(without_a_ring), ..secret.clone() };
        assert_eq!(without_a_ring.open(&name(), &keys, false), Err(Untrusted::Seal));
        let other_keys = BundleKeys::generate(UnixMillis(0)).unwrap();
        assert_eq!(secret.open(&name(), &other_keys, false), Err(Untrusted::Seal));
    }

    #[test]
    fn another_policy_s_secret_under_this_policy_s_name_is_not_ours() {
        let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
        let (kept, _) = kept(&keys);
        let mut secret = kept.to_secret(&keys, None).unwrap();
        let other = PolicyName::try_new("shop", "other").unwrap();
        secret.metadata.name = Some(ring_name(&other));
        let found = RingSecret::of(secret);
        assert_eq!((found.policy.as_ref(), found.open(&other, &keys, false)), (None, Err(Untrusted::Seal)));
        assert_eq!(found.open(&other, &keys, true), Err(Untrusted::Other), "whoever vouches for it");
    }

    #[test]
    fn a_secret_of_ours_is_known_by_its_seal_though_everything_around_was_taken_off() {
        let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
        let (kept, _) = kept(&keys);
        let mut secret = kept.to_secret(&keys, None).unwrap();
        (secret.metadata.annotations, secret.metadata.labels) = (None, None);
        let found = RingSecret::of(secret);
        assert_eq!(found.open(&name(), &keys, false), Ok(kept));
        assert!(!found.is_marked(&name(), "u"), "so that it is marked anew");
    }

    #[test]
    fn an_administrator_s_word_covers_what_is_there_and_no_later_forgery() {
        let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
        let (_, secret) = kept(&keys);
        let forged = edited(&secret, ACCESS_KEY, |bytes| *bytes = br#"{"version":9,"keys":[]}"#.to_vec());
        let word = forged.adoption(&name(), "u2");
        assert!(word.starts_with("u2:"), "{word}");
        let vouched = RingSecret { adopt: Some(word.clone()), ..forged.clone() };
        assert!(vouched.is_vouched_for(&name(), "u2") && !vouched.is_vouched_for(&name(), "u3"));
        let again = edited(&vouched, ACCESS_KEY, |bytes| *bytes = br#"{"version":10,"keys":[]}"#.to_vec());
        assert!(!again.is_vouched_for(&name(), "u2"));
        let of_old = RingSecret { adopt: Some("u2".into()), ..forged };
        assert!(!of_old.is_vouched_for(&name(), "u2"), "a uid alone vouches for nothing");
    }

    #[test]
    fn any_part_that_goes_back_makes_a_state_an_older_one() {
        type Back = fn(&mut Kept);
        let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
        let (mut later, _) = kept(&keys);
        later.record.issued_until = Some(UnixMillis(5));
        later.rings.insert(RingName::Access, Ring { version: 3, ..Ring::default() });
        assert!(!later.is_older_than(&later));
        let parts: [Back; 4] = [
            |kept| kept.record.generation = 6,
            |kept| kept.record.issued_until = None,
            |kept| kept.rings.get_mut(&RingName::Access).unwrap().version = 2,
            |kept| drop(kept.rings.remove(&RingName::Access)),
        ];
        for (at, back) in parts.into_iter().enumerate() {
            let mut older = later.clone();
            back(&mut older);
            assert!(older.is_older_than(&later) && !later.is_older_than(&older), "{at}");
        }
    }

    #[test]
    fn ended_sessions_stay_until_both_clocks_say_that_they_expired() {
        let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
        let (Kept { mut record, .. }, _) = kept(&keys);
        let entry = |id: &str, expires: i64| Entry {
            policy: record.policy.clone(),
            kind: Kind::Session,
            issuer: None,
            id: id.into(),
            cutoff: UnixMillis::FOREVER,
            expires: UnixMillis(expires),
            version: 0,
            reason: String::new(),
            source: "operator".into(),
        };
        let (b, a, longer) = (entry("b", 100), entry("a", 100), entry("a", 200));
        record.revoke([b, a]);
        record.revoke([longer]);
        let said: Vec<(&str, i64)> = record.revoked.iter().map(|e| (e.id.as_str(), e.expires.0)).collect();
        assert_eq!(said, [("a", 200), ("b", 100)]);
        let after = UnixMillis(150).plus(countersign_core::revocation::PURGE_AFTER_MS);
        record.purge(after, None);
        record.purge(after, Some(UnixMillis(0)));
        record.purge(UnixMillis(0), Some(after));
        assert_eq!(record.revoked.len(), 2);
        record.purge(after, Some(after));
        assert_eq!(record.revoked.len(), 1);
    }

    #[test]
    fn past_a_thousand_ended_sessions_one_cut_off_of_access_tokens_takes_their_place() {
        let keys = BundleKeys::generate(UnixMillis(0)).unwrap();
        let (Kept { mut record, .. }, _) = kept(&keys);
        let entry = |kind, id: String, expires| Entry {
            policy: name(),
            kind,
            issuer: None,
            id,
            cutoff: UnixMillis::FOREVER,
            expires,
            version: 0,
            reason: String::new(),
            source: "operator".into(),
        };
        record.revoke([entry(Kind::Key, "k".into(), UnixMillis::FOREVER)]);
        record.revoke((0..1_000).map(|i| entry(Kind::Session, i.to_string(), UnixMillis(100 + i))));
        assert_eq!((record.merge(UnixMillis(50), 10), record.revoked.len()), (0, 1_001));
        record.revoke([entry(Kind::Session, "one more".into(), UnixMillis(7))]);
        assert_eq!(record.merge(UnixMillis(50), 10), 1_001);
        let said: Vec<(Kind, &str)> = record.revoked.iter().map(|e| (e.kind, e.id.as_str())).collect();
        assert_eq!(said, [(Kind::Key, "k"), (Kind::Policy, ACCESS_RING_ONLY)]);
        assert_eq!((record.revoked[1].cutoff, record.revoked[1].expires), (UnixMillis(50), UnixMillis(1_099)));
        record.revoke((0..1_001).map(|i| entry(Kind::Session, i.to_string(), UnixMillis(100))));
        record.merge(UnixMillis(80), 5_000);
        assert_eq!(
            (record.revoked.len(), record.revoked[1].cutoff, record.revoked[1].expires),
            (2, UnixMillis(80), UnixMillis(5_080))
        );
    }
}
