//! The policies that are served: an immutable snapshot, replaced whole.

use std::{collections::HashMap, sync::Arc};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use countersign_core::{names::PolicyName, policy::Policy, time::UnixMillis};

use crate::{
    cache::VerdictCache,
    metrics::{Metrics, VerdictCounters},
};

/// A compiled policy with what is told of it beside verdicts.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) policy: Policy,
    pub(crate) keys: Vec<ListedKey>,
    /// How long a new key is published before it signs, milliseconds.
    pub(crate) prepublish_ms: i64,
    /// What the names of the policy's cookies begin with, where it has cookies.
    pub(crate) cookie_prefix: Option<String>,
    /// How long the state may stay unconfirmed before unknown keys are answered 503, milliseconds.
    pub(crate) unconfirmed_after_ms: i64,
}

/// A key as the listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct ListedKey {
    pub(crate) kid: String,
    pub(crate) ring: &'static str,
    pub(crate) alg: String,
    pub(crate) state: String,
}

/// One policy with what was proven under it.
pub(crate) struct PolicySlot {
    pub(crate) loaded: Loaded,
    pub(crate) cache: Arc<VerdictCache>,
    pub(crate) counters: Arc<VerdictCounters>,
    pub(crate) loaded_at: UnixMillis,
    pub(crate) jwks: ArcSwapOption<PublishedKeys>,
}

/// A policy's own keys as they are published, good for one version of the revocation set.
#[derive(Debug)]
pub(crate) struct PublishedKeys {
    pub(crate) version: u64,
    pub(crate) body: Bytes,
    pub(crate) etag: String,
}

impl PolicySlot {
    /// A slot for `loaded`. What was proven is kept when `before` has the same digest, and only then.
    pub(crate) fn new(loaded: Loaded, before: Option<&Self>, cache_bytes: u64, metrics: &Metrics, now: UnixMillis) -> Self {
        let same = before.filter(|b| b.loaded.policy.digest == loaded.policy.digest);
        Self {
            cache: same.map_or_else(|| Arc::new(VerdictCache::new(cache_bytes)), |b| b.cache.clone()),
            counters: metrics.of(&loaded.policy.name),
            loaded_at: same.map_or(now, |b| b.loaded_at),
            jwks: ArcSwapOption::empty(),
            loaded,
        }
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.loaded.policy
    }
}

/// Why something that lies in the source isn't served.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) struct RefusedBundle {
    /// The policy, or the file where even that can't be told.
    pub(crate) policy: String,
    /// The generation that is served in its place.
    pub(crate) held: Option<u64>,
    /// A word from a fixed set.
    pub(crate) reason: &'static str,
    /// A sentence for people.
    pub(crate) detail: String,
}

/// Everything that is served at one moment.
#[derive(Default)]
pub(crate) struct Snapshot {
    slots: HashMap<Box<str>, Arc<PolicySlot>>,
    pub(crate) refused: Vec<RefusedBundle>,
    /// Policies of which there is a bundle but none that can be served: not unknown, not ready.
    pub(crate) unready: Vec<String>,
}

impl Snapshot {
    pub(crate) fn new(
        slots: impl IntoIterator<Item = Arc<PolicySlot>>,
        refused: Vec<RefusedBundle>,
        unready: Vec<String>,
    ) -> Self {
        let slots = slots.into_iter().map(|slot| (slot.policy().name.as_str().into(), slot)).collect();
        Self { slots, refused, unready }
    }

    /// The policy of this full name.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<PolicySlot>> {
        self.slots.get(name)
    }

    /// All policies, by name.
    pub(crate) fn sorted(&self) -> Vec<&Arc<PolicySlot>> {
        let mut slots: Vec<_> = self.slots.values().collect();
        slots.sort_by(|a, b| a.policy().name.cmp(&b.policy().name));
        slots
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &PolicyName> {
        self.slots.values().map(|slot| &slot.policy().name)
    }
}
