//! What is known at one moment: what lies in the cluster, and what is held of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use countersign_api::{
    bundle::SCHEMA,
    cluster::{HISTORY, HISTORY_KEY},
};
use countersign_core::{names::PolicyName, revocation::EntryKey};
use countersign_feed::{Ack, MAX_REFUSED, RefusedPolicy};
use countersign_issuer::{IssuerPolicy, Lives, Verifier};

use crate::{
    assembling::{Lying, Opened, Refused},
    trust::Trusted,
    watching::{Change, Object, Source},
};

/// A policy as it is held.
pub(super) struct Held {
    pub(super) policy: Arc<IssuerPolicy>,
    pub(super) generation: u64,
    pub(super) lives: Lives,
    pub(super) opened: Arc<Opened>,
    /// From which version on the bundle has held each key, and of which history these are.
    pub(super) since: BTreeMap<String, u64>,
    pub(super) history: String,
}

/// What is known at one moment.
#[derive(Default)]
pub(super) struct World {
    /// By the hash that their objects' names end with.
    pub(super) lying: HashMap<String, Lying>,
    pub(super) listed: BTreeSet<Source>,
    pub(super) history: String,
    /// The history under which rings were listed last, and up to which version they are read.
    rings_under: String,
    rings_read: u64,
    pub(super) held: BTreeMap<PolicyName, Held>,
    /// Whose objects' names end with which hash.
    pub(super) names: HashMap<String, PolicyName>,
    pub(super) refused: BTreeMap<String, Refused>,
    /// When each watch had last told everything that there was.
    pub(super) confirmed: BTreeMap<Source, i64>,
    pub(super) dirty: BTreeSet<String>,
    /// What was written into the store in this life.
    pub(super) revoked: BTreeMap<PolicyName, BTreeMap<EntryKey, i64>>,
    pub(super) verifiers: Vec<Verifier>,
}

impl World {
    pub(super) fn take(&mut self, change: Change) {
        match change {
            Change::Listed { source, objects, history } => {
                self.listed.insert(source);
                for (hash, lying) in &mut self.lying {
                    if slot(lying, source).take().is_some() {
                        self.dirty.insert(hash.clone());
                    }
                }
                if source == Source::Rings {
                    self.rings_under = history;
                    self.rings_read = 0;
                }
                for (name, object) in objects {
                    self.put(source, &name, Some(object));
                }
            }
            Change::Applied { source, name, object } => self.put(source, &name, Some(object)),
            Change::Gone { source, name } => self.put(source, &name, None),
            Change::Confirmed { source, at } => drop(self.confirmed.insert(source, at)),
        }
    }

    fn put(&mut self, source: Source, name: &str, object: Option<Object>) {
        let version = object.as_ref().map_or(0, |object| object.version);
        if source == Source::Rings {
            self.rings_read = self.rings_read.max(version);
        }
        if source == Source::Bundles && name == HISTORY {
            let text = object.and_then(|object| String::from_utf8(object.data.get(HISTORY_KEY)?.to_vec()).ok());
            self.history = text.unwrap_or_default();
            return;
        }
        let Some(hash) = hash_of(source, name) else { return };
        let lying = self.lying.entry(hash.to_owned()).or_default();
        *slot(lying, source) = object;
        if lying.is_empty() {
            self.lying.remove(hash);
        }
        self.dirty.insert(hash.to_owned());
    }

    pub(super) fn is_listed(&self) -> bool {
        self.listed.len() == Source::ALL.len()
    }

    /// Policies that are held as they were before, for whatever reason: they may sign by the ring before.
    fn behind(&self) -> Vec<RefusedPolicy> {
        let behind = self.refused.keys().chain(&self.dirty).filter_map(|hash| self.held.get(self.names.get(hash)?));
        let listed = behind.map(|held| RefusedPolicy {
            policy: held.policy.name.to_string(),
            held: Some(held.generation),
            reason: "not_together".to_owned(),
        });
        listed.collect()
    }

    /// What is acknowledged: up to which version key rings are read, and which policies go on by the ring before. Nothing
    /// before everything was read once, nor while rings were read under another history than the present one.
    pub(super) fn ack(&self, start_id: &str, trusted: &Trusted) -> Option<Ack> {
        if !self.is_listed() || self.history.is_empty() || self.rings_under != self.history {
            return None;
        }
        // What the store didn't take of a policy that nobody holds here, such as its end, can't be named below.
        if self.dirty.iter().any(|hash| !self.names.contains_key(hash)) {
            return None;
        }
        let mut refused = self.behind();
        let refused_more = refused.len() > MAX_REFUSED;
        refused.truncate(MAX_REFUSED);
        Some(Ack {
            start_id: start_id.to_owned(),
            history: self.history.clone(),
            revision: self.rings_read.to_string(),
            schemas: vec![SCHEMA],
            trusted_bundle_keys: trusted.kids.clone(),
            refused,
            refused_more,
            highest_held: self.held.values().map(|held| held.generation).max().unwrap_or(0),
            ..Ack::default()
        })
    }
}

/// `b-…`, `r-…`, `i-…`: what comes after is the policy's.
fn hash_of(source: Source, name: &str) -> Option<&str> {
    name.strip_prefix(match source {
        Source::Rings => "r-",
        Source::Sections => "i-",
        Source::Bundles | Source::VerifySecrets => "b-",
    })
}

const fn slot(lying: &mut Lying, source: Source) -> &mut Option<Object> {
    match source {
        Source::Rings => &mut lying.ring,
        Source::Sections => &mut lying.section,
        Source::Bundles => &mut lying.bundle,
        Source::VerifySecrets => &mut lying.secrets,
    }
}
