//! The fleet: which verifiers a rotation waits for, and what each of them has applied.
//!
//! Required is every verifier pod on an existing node, Ready or not, and every live lease. A verifier is left out when its
//! node is deleted, all its containers have ended, or it has been absent for the policy's `absentAfter`. Absence is counted by
//! a clock that only runs while this leader sees the feed server fresh ([`Roll`]): so after a wiped Redis, or under a new
//! leader, everyone has that long to return. An empty set is never "all".

mod roll;
#[cfg(test)]
mod tests;
pub(crate) mod watching;

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use countersign_core::names::PolicyName;
use countersign_feed::Ack;
use parking_lot::Mutex;

pub(crate) use self::roll::{PodSeen, Roll};

/// How many names a status lists.
pub const MAX_NAMED: usize = 10;

/// The verifiers at one moment.
#[derive(Debug, Default)]
pub struct Fleet {
    /// By name.
    pub verifiers: Vec<Verifier>,
    /// The value of the ConfigMap `history`: acknowledgements of another one don't count.
    pub history: String,
    /// Whether the feed was reached, so that the acknowledgements here are the present ones.
    pub reached: bool,
    /// Whether it ever was in this leader's time. Until then verifiers may exist that nobody knows of.
    pub ever_reached: bool,
    /// How many issuer pods the API server lists.
    pub issuers: usize,
    quorums: Mutex<BTreeMap<i64, Arc<Quorum>>>,
    refusals: OnceLock<BTreeMap<String, Vec<usize>>>,
}

/// A verifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    /// Its name.
    pub name: String,
    /// Whether it is a pod; else it was seen by its lease alone.
    pub pod: bool,
    /// Whether its lease is alive.
    pub alive: bool,
    /// Why nobody waits for it, whatever its absence; absent: it is waited for.
    pub ended: Option<Ended>,
    /// For how long it has been absent, milliseconds.
    pub absent_ms: i64,
    /// What it has applied; only of live ones.
    pub ack: Option<Ack>,
}

/// Why a pod's verifier is not waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Its node is deleted, and so is its lease.
    NodeGone,
    /// All its containers have ended.
    Terminated,
}

/// From which write on a bundle holds something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// The API server's version of the write.
    pub version: u64,
    /// The bundle's generation.
    pub generation: u64,
}

/// Those that are waited for under one `absentAfter`.
#[derive(Debug, Default)]
pub struct Quorum {
    /// Indices of [`Fleet::verifiers`].
    pub required: Vec<usize>,
    /// Up to which version every one of them has applied everything, refused policies aside.
    pub floor: u64,
}

/// Who holds something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many should.
    pub required: usize,
    /// How many do.
    pub held: usize,
    /// How many hold it that aren't waited for.
    pub others: usize,
    /// Some of those that should and don't.
    pub lagging: Vec<String>,
    /// Some of those that refused the policy's present bundle.
    pub refused: Vec<String>,
}

impl Count {
    /// Whether all that should do, and there is anyone.
    pub const fn complete(&self) -> bool {
        self.required > 0 && self.held == self.required
    }
}

impl Fleet {
    /// The fleet of these verifiers.
    pub fn new(verifiers: Vec<Verifier>, history: String, reached: bool, ever_reached: bool, issuers: usize) -> Self {
        Self { verifiers, history, reached, ever_reached, issuers, ..Self::default() }
    }

    /// How many exist, waited for or not. Never 0 before the feed was reached once.
    pub fn known(&self) -> usize {
        let existing = self.verifiers.iter().filter(|v| v.ended.is_none()).count();
        if self.ever_reached { existing } else { existing.max(1) }
    }

    /// Those that are waited for. Reckoned once per fleet and `absent_after_ms`.
    pub fn quorum(&self, absent_after_ms: i64) -> Arc<Quorum> {
        let mut quorums = self.quorums.lock();
        let reckon = || {
            let required: Vec<usize> = (0..self.verifiers.len()).filter(|i| self.waits_for(*i, absent_after_ms)).collect();
            let floor = required.iter().map(|i| self.applied(*i)).min().unwrap_or(0);
            Arc::new(Quorum { required, floor })
        };
        quorums.entry(absent_after_ms).or_insert_with(reckon).clone()
    }

    fn waits_for(&self, index: usize, absent_after_ms: i64) -> bool {
        let verifier = &self.verifiers[index];
        verifier.ended.is_none() && (verifier.alive || verifier.absent_ms < absent_after_ms)
    }

    /// The version up to which a verifier has applied everything, in the present history.
    fn applied(&self, index: usize) -> u64 {
        let ack = self.verifiers[index].ack.as_ref().filter(|ack| self.reached && ack.history == self.history);
        ack.and_then(|ack| ack.revision.parse().ok()).unwrap_or(0)
    }

    fn refusals(&self, policy: &PolicyName) -> &[usize] {
        let reckon = || {
            let mut by_policy: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (index, verifier) in self.verifiers.iter().enumerate() {
                for refused in verifier.ack.iter().flat_map(|ack| &ack.refused) {
                    by_policy.entry(refused.policy.clone()).or_default().push(index);
                }
            }
            by_policy
        };
        self.refusals.get_or_init(reckon).get(policy.as_str()).map_or(&[], Vec::as_slice)
    }

    /// The generation of a policy that a verifier which refuses its present bundle still serves.
    fn held_in_spite(&self, index: usize, policy: &PolicyName) -> Option<u64> {
        let refused = self.verifiers[index].ack.iter().flat_map(|ack| &ack.refused);
        refused.filter(|r| r.policy == policy.as_str()).filter_map(|r| r.held).max()
    }

    fn holds(&self, index: usize, policy: &PolicyName, since: Since) -> bool {
        if since.version == 0 || self.applied(index) < since.version {
            return false;
        }
        let refuses = self.refusals(policy).contains(&index);
        !refuses || self.held_in_spite(index, policy).is_some_and(|held| held >= since.generation)
    }

    /// Whether every verifier that is waited for holds what a policy's bundle holds `since` then. Doesn't cost more in a
    /// larger fleet.
    pub fn all_hold(&self, policy: &PolicyName, since: Since, absent_after_ms: i64) -> bool {
        let quorum = self.quorum(absent_after_ms);
        let nobody_refuses = || {
            let refusing = self.refusals(policy).iter().filter(|i| quorum.required.contains(i));
            refusing.into_iter().all(|i| self.holds(*i, policy, since))
        };
        !quorum.required.is_empty() && since.version > 0 && quorum.floor >= since.version && nobody_refuses()
    }

    /// Who holds what a policy's bundle holds `since` then.
    pub fn count(&self, policy: &PolicyName, since: Since, absent_after_ms: i64) -> Count {
        let quorum = self.quorum(absent_after_ms);
        let mut count = Count { required: quorum.required.len(), ..Count::default() };
        for index in &quorum.required {
            let name = &self.verifiers[*index].name;
            if self.holds(*index, policy, since) {
                count.held += 1;
            } else if count.lagging.len() < MAX_NAMED {
                count.lagging.push(name.clone());
            }
            // One that has not come to the present bundle yet may still speak of an earlier one.
            let has_seen_it = since.version > 0 && self.applied(*index) >= since.version;
            if has_seen_it && self.refusals(policy).contains(index) && count.refused.len() < MAX_NAMED {
                count.refused.push(name.clone());
            }
        }
        count
    }

    /// The highest generation of a policy that any verifier serves although the present bundle has a lower one: the API
    /// server was restored from a backup.
    pub fn held_ahead(&self, policy: &PolicyName) -> Option<u64> {
        self.refusals(policy).iter().filter_map(|i| self.held_in_spite(*i, policy)).max()
    }

    /// The policies that any verifier refuses, with the generations in their place.
    pub(crate) fn refused(&self) -> BTreeMap<&str, Vec<(&str, Option<u64>)>> {
        let mut refused: BTreeMap<&str, Vec<(&str, Option<u64>)>> = BTreeMap::new();
        for verifier in &self.verifiers {
            for policy in verifier.ack.iter().flat_map(|ack| &ack.refused) {
                refused.entry(&policy.policy).or_default().push((&verifier.name, policy.held));
            }
        }
        refused
    }
}
