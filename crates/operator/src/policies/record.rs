//! What is kept of a policy, as the operator alone needs it: how a record goes on, and the Secret that holds it.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{
    bundle::{RingName, Trust},
    cluster::{ADOPT_ANNOTATION, FORMAT, KEY_RING_LABEL, OWNER_UID_LABEL, POLICY_ANNOTATION, ring_name},
    key_ring::{self, Kept, RECORD_KEY, Record, SEAL_KEY, Untrusted, data_key, sealed_bytes},
    policy::{AuthPolicy, AuthPolicySpec, EffectivePolicy},
};
use countersign_core::{
    digest::sha256,
    names::PolicyName,
    revocation::{ACCESS_RING_ONLY, Entry, Kind},
    time::UnixMillis,
};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use zeroize::Zeroizing;

use super::signing::{BundleKeys, SigningError};
use crate::versions::version_of;

/// How many ended sessions are kept one by one.
pub(crate) const MAX_SESSIONS: usize = 1_000;
/// The longest spec that is kept beside the rings, bytes.
const MAX_SPEC: usize = 32 << 10;

/// How a record goes on.
pub(crate) trait Recording {
    /// Adds entries; of two for one thing the join stays.
    fn revoke(&mut self, entries: impl IntoIterator<Item = Entry>);

    /// The policy object of this uid takes over.
    fn pass_to(&mut self, uid: &str);

    /// From here on tokens may be issued up to `until`.
    fn reserve(&mut self, until: UnixMillis);

    /// Notes a spec that makes sense.
    fn note_spec(&mut self, spec: &AuthPolicySpec);

    /// What the policy comes to by the last spec of this object that made sense, if that is kept and still does.
    fn last_effective(&self, declared: &AuthPolicy) -> Option<EffectivePolicy>;

    /// Past [`MAX_SESSIONS`] ended sessions one cut-off of all access tokens takes their place: clients refresh, and sessions
    /// that are alive get a new token. `at`: when the last token was issued. How many it took the place of.
    fn merge(&mut self, at: UnixMillis, life_ms: i64) -> usize;

    /// Drops what both clocks say expired a while ago.
    fn purge(&mut self, now: UnixMillis, server_now: Option<UnixMillis>);
}

impl Recording for Record {
    fn revoke(&mut self, entries: impl IntoIterator<Item = Entry>) {
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

    fn pass_to(&mut self, uid: &str) {
        let before = std::mem::replace(&mut self.uid, uid.to_owned());
        self.origin.get_or_insert(before);
    }

    fn reserve(&mut self, until: UnixMillis) {
        self.issued_until = Some(self.issued_until.map_or(until, |held| held.max(until)));
    }

    fn note_spec(&mut self, spec: &AuthPolicySpec) {
        self.spec = serde_json::to_string(spec).ok().filter(|spec| spec.len() <= MAX_SPEC);
    }

    fn last_effective(&self, declared: &AuthPolicy) -> Option<EffectivePolicy> {
        let spec = self.spec.as_ref().filter(|_| declared.metadata.uid.as_deref() == Some(&self.uid))?;
        let spec = serde_json::from_str(spec).ok()?;
        EffectivePolicy::try_from(&AuthPolicy { metadata: declared.metadata.clone(), spec, status: None }).ok()
    }

    fn merge(&mut self, at: UnixMillis, life_ms: i64) -> usize {
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

    fn purge(&mut self, now: UnixMillis, server_now: Option<UnixMillis>) {
        let Some(server_now) = server_now else { return };
        let passed = now.min(server_now).minus(countersign_core::revocation::PURGE_AFTER_MS);
        self.revoked.retain(|entry| entry.expires > passed);
    }
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

/// The kid of the key that a ring's Secret says to be sealed with. Says nothing of whether that seal holds.
pub(crate) fn sealed_by(secret: &Secret) -> Option<String> {
    let data = secret.data.as_ref()?.iter().map(|(key, value)| (key.clone(), &value.0)).collect();
    Some(key_ring::seal::<&Vec<u8>>(&data)?.key)
}

impl RingSecret {
    /// Whether it is sealed with the key that signs now; one that isn't is to be written anew.
    pub(crate) fn is_sealed_by(&self, keys: &BundleKeys) -> bool {
        key_ring::seal(&self.data).is_some_and(|seal| keys.signs(&seal.key))
    }

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
        Kept::open(policy, &self.data, &if unsealed { Trust::FileSystem } else { keys.trust() })
    }
}

/// What is kept of a ring's Secret that a watch showed.
#[derive(Clone, Debug)]
pub(crate) enum RingSeen {
    /// All of it.
    Whole(RingSecret),
    /// What tells whether it is the one that is remembered.
    Remembered {
        version: u64,
        policy: Option<PolicyName>,
        /// The kid of the key that it says to be sealed with.
        sealed_by: Option<String>,
    },
}

impl PartialEq for RingSeen {
    fn eq(&self, other: &Self) -> bool {
        self.version() == other.version()
    }
}

impl RingSeen {
    pub(crate) const fn version(&self) -> u64 {
        match self {
            Self::Whole(RingSecret { version, .. }) | Self::Remembered { version, .. } => *version,
        }
    }

    /// The policy that it is for, as [`RingSecret::policy`] has it.
    pub(crate) const fn policy(&self) -> Option<&PolicyName> {
        match self {
            Self::Whole(RingSecret { policy, .. }) | Self::Remembered { policy, .. } => policy.as_ref(),
        }
    }

    /// The Secret, unless its content is remembered elsewhere.
    pub(crate) fn whole(self) -> Option<RingSecret> {
        match self {
            Self::Whole(secret) => Some(secret),
            Self::Remembered { .. } => None,
        }
    }

    /// Whether it is sealed with the key that signs now; one that isn't is to be written anew.
    pub(crate) fn is_sealed_by(&self, keys: &BundleKeys) -> bool {
        match self {
            Self::Whole(secret) => secret.is_sealed_by(keys),
            Self::Remembered { sealed_by, .. } => sealed_by.as_ref().is_some_and(|key| keys.signs(key)),
        }
    }

    /// Lets go of what the Secret holds: of this version it is remembered. An administrator's word covers the content, which
    /// stays as long as that does.
    pub(crate) fn remember(&mut self, version: u64) {
        if let Self::Whole(secret) = self
            && secret.version == version
            && secret.adopt.is_none()
        {
            let sealed_by = key_ring::seal(&secret.data).map(|seal| seal.key);
            *self = Self::Remembered { version, policy: secret.policy.take(), sealed_by };
        }
    }
}

/// How record and rings are kept.
pub(crate) trait Storing: Sized {
    /// Whether this is an older state than `other`, in anything: each part only ever rises.
    fn is_older_than(&self, other: &Self) -> bool;

    /// The Secret that holds this, sealed. `version`: the one that it was decided on; `None` for one that isn't there yet.
    fn to_secret(&self, keys: &BundleKeys, version: Option<u64>) -> Result<Secret, SigningError>;
}

impl Storing for Kept {
    fn is_older_than(&self, other: &Self) -> bool {
        let ring = |kept: &Self, name| kept.rings.get(&name).map(|ring| ring.version);
        self.record.generation < other.record.generation
            || self.record.issued_until < other.record.issued_until
            || RingName::ALL.into_iter().any(|name| ring(self, name) < ring(other, name))
    }

    fn to_secret(&self, keys: &BundleKeys, version: Option<u64>) -> Result<Secret, SigningError> {
        let json = |value: serde_json::Result<Vec<u8>>| value.map(Zeroizing::new).map_err(|_| SigningError::Corrupt);
        let mut data = BTreeMap::from([(RECORD_KEY.to_owned(), json(serde_json::to_vec(&self.record))?)]);
        for (name, ring) in &self.rings {
            data.insert(data_key(*name).to_owned(), json(serde_json::to_vec(&**ring))?);
        }
        let policy = &self.record.policy;
        let seal = keys.seal(&sealed_bytes(policy, &data))?;
        data.insert(SEAL_KEY.to_owned(), json(serde_json::to_vec(&seal))?);
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
mod tests;
