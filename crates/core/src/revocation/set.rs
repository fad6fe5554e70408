//! The revocations that a process holds in memory: read on every verdict, written by the feed.
//!
//! 64 shards of open addressing, 32 bytes a record, grown by a fifth at a time: under 48 bytes an entry at any size, and one
//! growth copies a 64th of the set. Names are hashed with a key of the process's own ([`IdHasher`]), so nobody can prepare
//! collisions. Addresses are few and need their text, so they live in a table of their own.

mod addresses;
mod policies;
mod snapshot;
mod table;

use std::{
    cell::Cell,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::RwLock;

use self::{
    addresses::BlockedAddresses,
    policies::Policies,
    table::{Record, Table},
};
use super::{ACCESS_RING_ONLY, Entry, IdHasher, Kind, RevocationIds};
use crate::{names::PolicyName, time::UnixMillis, verdict::RevokedBy};

pub use snapshot::SnapshotError;

/// How long past its expiry an entry stays, on every clock that is asked: no clock step may revive a token.
pub const PURGE_AFTER_MS: i64 = 3_600_000;

/// The cut-off of an `ip` entry that lifts a block: it denies no request.
pub const LIFTED: UnixMillis = UnixMillis(i64::MIN);

const SHARDS: usize = 64;

/// Why a credential is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// What was revoked.
    pub by: RevokedBy,
    /// Credentials issued up to here are dead; [`UnixMillis::FOREVER`]: whenever issued.
    pub cutoff: UnixMillis,
}

/// A concurrent set of revocations. Entries are idempotent and commutative: in whatever order they are applied, the strictest
/// wins. Nothing is lifted; [`RevocationSet::purge`] removes only what can match no living credential.
pub struct RevocationSet {
    hasher: IdHasher,
    shards: Vec<RwLock<Table>>,
    policies: Policies,
    addresses: BlockedAddresses,
    version: AtomicU64,
}

impl std::fmt::Debug for RevocationSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevocationSet").field("len", &self.len()).field("version", &self.version()).finish_non_exhaustive()
    }
}

impl RevocationSet {
    /// An empty set.
    pub fn new(hasher: IdHasher) -> Self {
        Self {
            hasher,
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            policies: Policies::default(),
            addresses: BlockedAddresses::default(),
            version: AtomicU64::new(1),
        }
    }

    /// What turns names into this set's ids.
    pub const fn hasher(&self) -> &IdHasher {
        &self.hasher
    }

    /// Rises after every change, before the call that made it returns: a lookup after this was read knows of every change that
    /// it counts, and while it stays no call that changed anything has returned.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Takes an entry in. True when that made the set stricter.
    pub fn apply(&self, entry: &Entry) -> bool {
        let changed = if entry.kind == Kind::Ip { self.addresses.apply(entry) } else { self.apply_record(entry) };
        if changed {
            self.version.fetch_add(1, Ordering::AcqRel);
        }
        changed
    }

    fn apply_record(&self, entry: &Entry) -> bool {
        let policy = self.policies.index_of(&entry.policy);
        let record = Record::of(entry, policy);
        let access = self.policies.access_cutoff(policy);
        if record.is_subsumed_by(access) {
            // A cut-off that says the same stands in its place, and must then live as long.
            let id = self.hasher.id(&entry.policy, Kind::Policy, None, ACCESS_RING_ONLY);
            return self.insert(id, record.as_cutoff(access));
        }
        let id = self.hasher.entry_id(entry);
        let changed = self.insert(id, record);
        if entry.kind == Kind::Policy && entry.id == ACCESS_RING_ONLY && entry.issuer.is_none() && entry.cutoff > access {
            self.policies.raise_access_cutoff(policy, entry.cutoff);
            // What it takes the place of may name tokens that live longer than the cut-off was told.
            let longest = Cell::new(record);
            self.retain(|held| {
                let keeps = held.policy() != policy || !held.is_subsumed_by(entry.cutoff);
                if !keeps {
                    longest.set(longest.get().outliving(*held));
                }
                keeps
            });
            return self.insert(id, longest.get()) || changed;
        }
        changed
    }

    /// The first of `ids` that is revoked for a credential issued at `issued`. Without a time of issue any match kills;
    /// otherwise a match with a cut-off at or after that time. All scopes are asked, so the strictest holds.
    pub fn lookup(&self, ids: &RevocationIds, issued: Option<UnixMillis>) -> Option<Hit> {
        ids.iter().find_map(|(by, id)| {
            let cutoff = self.shard(id).read().find(id)?.cutoff();
            (cutoff == UnixMillis::FOREVER || issued.is_none_or(|at| at <= cutoff)).then_some(Hit { by, cutoff })
        })
    }

    /// Whether one of the policy's own keys is revoked, whatever its ring says.
    pub fn is_key_revoked(&self, policy: &PolicyName, issuer: Option<&str>, kid: &str) -> bool {
        let is_revoked = |of| {
            let id = self.hasher.id(policy, Kind::Key, of, kid);
            self.shard(id).read().find(id).is_some()
        };
        is_revoked(None) || issuer.is_some_and(|issuer| is_revoked(Some(issuer)))
    }

    /// The latest finite cut-off among `ids`: a credential minted under them must be issued after it.
    pub fn latest_cutoff(&self, ids: &RevocationIds) -> Option<UnixMillis> {
        ids.iter()
            .filter_map(|(_, id)| self.shard(id).read().find(id).map(Record::cutoff))
            .filter(|cutoff| *cutoff != UnixMillis::FOREVER)
            .max()
    }

    /// Whether the policy blocks requests from `ip` at `now`.
    pub fn ip_blocked(&self, policy: &PolicyName, ip: IpAddr, now: UnixMillis) -> bool {
        self.addresses.blocked(policy, ip, now)
    }

    /// Removes what the feed server's and this process's own clock both call expired for over an hour. Returns how many.
    pub fn purge(&self, server_now: UnixMillis, own_now: UnixMillis) -> usize {
        let before = server_now.min(own_now).minus(PURGE_AFTER_MS);
        let removed = self.retain(|record| !record.expired_before(before)) + self.addresses.purge(before);
        if removed > 0 {
            self.version.fetch_add(1, Ordering::AcqRel);
        }
        removed
    }

    /// Entries held.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum::<usize>() + self.addresses.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries of one policy, addresses included.
    pub fn len_of(&self, policy: &PolicyName) -> usize {
        self.policies.count_of(policy) + self.addresses.len_of(policy)
    }

    /// Entries of each policy that has any, addresses included.
    pub fn counts(&self) -> Vec<(PolicyName, usize)> {
        let mut counts = self.policies.counts();
        for (policy, n) in self.addresses.counts() {
            match counts.iter_mut().find(|(name, _)| *name == policy) {
                Some((_, count)) => *count += n,
                None => counts.push((policy, n)),
            }
        }
        counts.retain(|(_, count)| *count > 0);
        counts
    }

    /// Bytes that records take, free slots included.
    pub fn memory_bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().bytes()).sum()
    }

    fn shard(&self, id: u128) -> &RwLock<Table> {
        &self.shards[shard_of(id)]
    }

    fn insert(&self, id: u128, record: Record) -> bool {
        let inserted = self.shard(id).write().insert(id, record);
        if inserted.is_new {
            self.policies.add(record.policy(), 1);
        }
        inserted.changed
    }

    fn retain(&self, keep: impl Fn(&Record) -> bool) -> usize {
        let mut removed = 0;
        for shard in &self.shards {
            let mut gone = std::collections::HashMap::<u32, usize>::new();
            shard.write().retain(|record| {
                let keeps = keep(record);
                if !keeps {
                    *gone.entry(record.policy()).or_default() += 1;
                }
                keeps
            });
            for (policy, n) in gone {
                self.policies.remove(policy, n);
                removed += n;
            }
        }
        removed
    }
}

/// The low bits choose the shard; the high half places a record within it.
const fn shard_of(id: u128) -> usize {
    (id % SHARDS as u128) as usize
}

#[cfg(test)]
mod tests;
