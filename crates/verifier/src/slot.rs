//! The policies that are served: an immutable snapshot, replaced whole.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use countersign_core::{names::PolicyName, policy::Policy, time::UnixMillis};
use hashbrown::{HashTable, hash_table::Entry};

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

/// Parts of a snapshot: a change copies one of them and shares the rest with the snapshot before.
const PARTS: usize = 128;

/// Everything that is served at one moment.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// By the hash of the policy's full name.
    parts: [Arc<HashTable<Arc<PolicySlot>>>; PARTS],
    hasher: RandomState,
    pub(crate) refused: Vec<RefusedBundle>,
    /// Policies of which there is a bundle but none that can be served: not unknown, not ready.
    pub(crate) unready: Vec<String>,
}

impl Default for Snapshot {
    fn default() -> Self {
        let empty = Arc::new(HashTable::new());
        Self {
            parts: std::array::from_fn(|_| empty.clone()),
            hasher: RandomState::new(),
            refused: Vec::new(),
            unready: Vec::new(),
        }
    }
}

impl Snapshot {
    /// The next snapshot: without the policies of `gone`, then with `slots`, which replace those of the same name. As cheap with
    /// ten thousand policies as with a hundred.
    pub(crate) fn with(
        &self,
        gone: &[&str],
        slots: Vec<Arc<PolicySlot>>,
        refused: Vec<RefusedBundle>,
        unready: Vec<String>,
    ) -> Self {
        let mut next = Self { parts: self.parts.clone(), hasher: self.hasher.clone(), refused, unready };
        for name in gone {
            let hash = next.hasher.hash_one(*name);
            let part = Arc::make_mut(&mut next.parts[part_of(hash)]);
            if let Ok(entry) = part.find_entry(hash, |slot| slot.policy().name.as_str() == *name) {
                entry.remove();
            }
        }
        for slot in slots {
            let hash = next.hasher.hash_one(slot.policy().name.as_str());
            let hasher = &next.hasher;
            let rehash = |slot: &Arc<PolicySlot>| hasher.hash_one(slot.policy().name.as_str());
            let part = Arc::make_mut(&mut next.parts[part_of(hash)]);
            match part.entry(hash, |held| held.policy().name == slot.policy().name, rehash) {
                Entry::Occupied(mut held) => *held.get_mut() = slot,
                Entry::Vacant(place) => {
                    place.insert(slot);
                }
            }
        }
        next
    }

    /// The policy of this full name.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<PolicySlot>> {
        let hash = self.hasher.hash_one(name);
        self.parts[part_of(hash)].find(hash, |slot| slot.policy().name.as_str() == name)
    }

    /// All policies, by name.
    pub(crate) fn sorted(&self) -> Vec<&Arc<PolicySlot>> {
        let mut slots: Vec<_> = self.slots().collect();
        slots.sort_by(|a, b| a.policy().name.cmp(&b.policy().name));
        slots
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &PolicyName> {
        self.slots().map(|slot| &slot.policy().name)
    }

    fn slots(&self) -> impl Iterator<Item = &Arc<PolicySlot>> {
        self.parts.iter().flat_map(|part| part.iter())
    }
}

/// Bits that a small table uses for neither place nor tag.
fn part_of(hash: u64) -> usize {
    usize::try_from(hash >> 32).unwrap_or_default() % PARTS
}
