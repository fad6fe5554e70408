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
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use countersign_core::{names::PolicyName, revocation::Position, time::UnixMillis};
use countersign_feed::Ack;
use parking_lot::Mutex;

pub(crate) use self::roll::{PodSeen, Roll};

/// How many names a status lists.
pub const MAX_NAMED: usize = 10;

/// How far ahead of the clock a generation may be that a verifier says to hold: it is made of the clock.
const PLAUSIBLY_AHEAD_MS: i64 = 3_600_000;

/// The verifiers at one moment.
#[derive(Debug, Default)]
pub struct Fleet {
    /// By name.
    pub verifiers: Vec<Verifier>,
    /// The value of the ConfigMap `history`: acknowledgements of another one don't count. Empty: none does.
    pub history: String,
    /// Whether the feed was reached, so that the acknowledgements here are the present ones.
    pub reached: bool,
    /// Whether it ever was in this leader's time. Until then verifiers may exist that nobody knows of.
    pub ever_reached: bool,
    /// The issuer pods that the API server lists, each of which may sign, by name; with what it has applied, if it is alive.
    pub issuers: BTreeMap<String, Option<Ack>>,
    /// The latest moment that anybody's clock is at, the operator's or the feed server's; absent: not told.
    pub now: Option<UnixMillis>,
    /// By name, where live verifiers stand in the feed, and since when they have said what they say.
    pub heard: BTreeMap<String, Heard>,
    quorums: Mutex<BTreeMap<i64, Arc<Quorum>>>,
    refusals: OnceLock<Refusals>,
}

/// Who refuses what, of those whose acknowledgements count. Indices of [`Fleet::verifiers`], ascending.
#[derive(Debug, Default)]
struct Refusals {
    /// By policy, with the generation that is held in its place.
    listed: HashMap<String, Vec<(usize, Option<u64>)>>,
    /// Those that refuse more than they list.
    more: Vec<usize>,
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

/// What else is known of a live verifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Up to where it holds the feed.
    pub position: Option<Position>,
    /// When this leader first saw its present acknowledgement.
    pub acknowledged: Option<UnixMillis>,
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
    /// Indices of [`Fleet::verifiers`], ascending.
    pub required: Vec<usize>,
    /// Up to which version every one of them has applied everything, refused policies aside.
    pub floor: u64,
    /// Up to which version each of them has, in the order of `required`.
    applied: Vec<u64>,
    /// The same, ascending.
    ascending: Vec<u64>,
}

impl Quorum {
    fn requires(&self, index: usize) -> bool {
        self.required.binary_search(&index).is_ok()
    }
}

/// Who holds something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many should.
    pub required: usize,
    /// How many do.
    pub held: usize,
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
    /// The fleet of these verifiers, without issuers.
    pub fn new(verifiers: Vec<Verifier>, history: String, reached: bool, ever_reached: bool) -> Self {
        Self { verifiers, history, reached, ever_reached, ..Self::default() }
    }

    /// The same at a moment.
    #[must_use]
    pub fn at(self, now: UnixMillis) -> Self {
        Self { now: Some(now), ..self }
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
            let applied: Vec<u64> = required.iter().map(|i| self.applied(*i)).collect();
            let mut ascending = applied.clone();
            ascending.sort_unstable();
            Arc::new(Quorum { required, floor: ascending.first().copied().unwrap_or(0), applied, ascending })
        };
        quorums.entry(absent_after_ms).or_insert_with(reckon).clone()
    }

    fn waits_for(&self, index: usize, absent_after_ms: i64) -> bool {
        let verifier = &self.verifiers[index];
        verifier.ended.is_none() && (verifier.alive || verifier.absent_ms < absent_after_ms)
    }

    /// What a verifier says, if it counts: of the present history. While there is none, or the feed is away, nothing does.
    fn counted(&self, index: usize) -> Option<&Ack> {
        self.verifiers[index].ack.as_ref().filter(|ack| self.is_of_now(ack))
    }

    fn is_of_now(&self, ack: &Ack) -> bool {
        self.reached && !self.history.is_empty() && ack.history == self.history
    }

    /// How many issuers have applied a policy's key rings as they stand at a version of the API server, of how many. One that
    /// refuses the policy may still sign by what it held before.
    pub fn issuers_at(&self, policy: &PolicyName, version: u64) -> (usize, usize) {
        let revision = |ack: &Ack| ack.revision.parse().unwrap_or(0_u64);
        let refuses = |ack: &Ack| ack.refused_more || ack.refused.iter().any(|refused| refused.policy == policy.as_str());
        let acks = self.issuers.values().flatten().filter(|ack| self.is_of_now(ack) && !refuses(ack));
        (acks.filter(|ack| version > 0 && revision(ack) >= version).count(), self.issuers.len())
    }

    /// The version up to which a verifier has applied everything, in the present history.
    fn applied(&self, index: usize) -> u64 {
        self.counted(index).and_then(|ack| ack.revision.parse().ok()).unwrap_or(0)
    }

    fn refusals(&self) -> &Refusals {
        self.refusals.get_or_init(|| {
            let mut refusals = Refusals::default();
            for index in 0..self.verifiers.len() {
                let Some(ack) = self.counted(index) else { continue };
                let mut held: BTreeMap<&str, Option<u64>> = BTreeMap::new();
                for refused in &ack.refused {
                    let generation = held.entry(&refused.policy).or_default();
                    *generation = (*generation).max(refused.held);
                }
                for (policy, held) in held {
                    refusals.listed.entry(policy.to_owned()).or_default().push((index, held));
                }
                if ack.refused_more {
                    refusals.more.push(index);
                }
            }
            refusals
        })
    }

    /// Who refuses a policy's present bundle, with the generation in its place.
    fn refusing(&self, policy: &PolicyName) -> impl Iterator<Item = (usize, Option<u64>)> {
        let refusals = self.refusals();
        let listed = refusals.listed.get(policy.as_str()).map_or(&[][..], Vec::as_slice);
        let lists = |index: &usize| listed.binary_search_by_key(index, |(index, _)| *index).is_ok();
        let more = refusals.more.iter().filter(move |index| !lists(index)).map(|index| (*index, None));
        listed.iter().copied().chain(more)
    }

    /// Those of a quorum that have come to a write and hold what it wrote all the same not, because they refuse it.
    fn refusing_among(&self, quorum: &Quorum, policy: &PolicyName, since: Since) -> Vec<usize> {
        let refuses = |(index, held): &(usize, Option<u64>)| {
            quorum.requires(*index)
                && self.applied(*index) >= since.version
                && held.is_none_or(|held| held < since.generation)
        };
        self.refusing(policy).filter(refuses).map(|(index, _)| index).collect()
    }

    /// Whether every verifier that is waited for holds what a policy's bundle holds `since` then. Doesn't cost more in a
    /// larger fleet.
    pub fn all_hold(&self, policy: &PolicyName, since: Since, absent_after_ms: i64) -> bool {
        let quorum = self.quorum(absent_after_ms);
        let come_to_it = since.version > 0 && quorum.floor >= since.version;
        !quorum.required.is_empty() && come_to_it && self.refusing_among(&quorum, policy, since).is_empty()
    }

    /// How many hold what a policy's bundle holds `since` then, of how many that should. Doesn't cost more in a larger fleet.
    pub fn held(&self, policy: &PolicyName, since: Since, absent_after_ms: i64) -> (usize, usize) {
        let quorum = self.quorum(absent_after_ms);
        let required = quorum.required.len();
        if since.version == 0 {
            return (0, required);
        }
        let short_of_it = quorum.ascending.partition_point(|applied| *applied < since.version);
        (required - short_of_it - self.refusing_among(&quorum, policy, since).len(), required)
    }

    /// Who holds what a policy's bundle holds `since` then.
    pub fn count(&self, policy: &PolicyName, since: Since, absent_after_ms: i64) -> Count {
        let quorum = self.quorum(absent_after_ms);
        let (held, required) = self.held(policy, since, absent_after_ms);
        let name = |index: usize| self.verifiers[index].name.clone();
        let mut count = Count { required, held, ..Count::default() };
        if held < required {
            let refusing = self.refusing_among(&quorum, policy, since);
            let lags = |(index, applied): &(usize, u64)| {
                since.version == 0 || *applied < since.version || refusing.binary_search(index).is_ok()
            };
            let applied = quorum.required.iter().copied().zip(quorum.applied.iter().copied());
            count.lagging = applied.filter(lags).map(|(index, _)| name(index)).take(MAX_NAMED).collect();
        }
        // One that has not come to the present bundle yet may still speak of an earlier one.
        let has_seen_it = |index: &usize| since.version > 0 && self.applied(*index) >= since.version;
        let refused =
            self.refusing(policy).map(|(index, _)| index).filter(|index| quorum.requires(*index) && has_seen_it(index));
        count.refused = refused.take(MAX_NAMED).map(name).collect();
        count
    }

    /// Who of those that are waited for believes bundles signed with a key.
    pub fn trusting(&self, kid: &str, absent_after_ms: i64) -> Count {
        let quorum = self.quorum(absent_after_ms);
        let believes =
            |index: &usize| self.counted(*index).is_some_and(|ack| ack.trusted_bundle_keys.iter().any(|k| k == kid));
        let held = quorum.required.iter().filter(|index| believes(index)).count();
        let lagging = quorum.required.iter().filter(|index| !believes(index)).take(MAX_NAMED);
        let lagging = lagging.map(|index| self.verifiers[*index].name.clone()).collect();
        Count { required: quorum.required.len(), held, lagging, refused: Vec::new() }
    }

    /// Which issuers believe what is signed with a key. One that doesn't yet goes on by what it held before, without the keys
    /// that were made and revoked since.
    pub fn issuers_trusting(&self, kid: &str) -> Count {
        let believes = |ack: &Option<Ack>| {
            ack.as_ref().is_some_and(|ack| self.is_of_now(ack) && ack.trusted_bundle_keys.iter().any(|k| k == kid))
        };
        let held = self.issuers.values().filter(|ack| believes(ack)).count();
        let lagging = self.issuers.iter().filter(|(_, ack)| !believes(ack)).map(|(name, _)| name.clone());
        Count { required: self.issuers.len(), held, lagging: lagging.take(MAX_NAMED).collect(), refused: Vec::new() }
    }

    /// The latest generation that anybody can have made: they are made of the clock.
    fn plausible(&self) -> u64 {
        self.now.and_then(|now| u64::try_from(now.plus(PLAUSIBLY_AHEAD_MS).0).ok()).unwrap_or(0)
    }

    /// The highest generation of a policy that any verifier serves although the present bundle has a lower one: the API
    /// server was restored from a backup. Acknowledgements of another history say nothing of the present bundle, and a
    /// generation of the far future is nobody's.
    pub fn held_ahead(&self, policy: &PolicyName) -> Option<u64> {
        let held = self.refusing(policy).filter_map(|(_, held)| held);
        held.filter(|held| *held <= self.plausible()).max()
    }

    /// The highest generation of any policy that any verifier holds. What is of the far future is nobody's.
    pub fn highest_held(&self) -> u64 {
        let held = (0..self.verifiers.len()).filter_map(|index| self.counted(index)).map(|ack| ack.highest_held);
        held.filter(|held| *held <= self.plausible()).max().unwrap_or(0)
    }

    /// The policies that any verifier refuses, with the generations in their place.
    pub(crate) fn refused(&self) -> BTreeMap<&str, Vec<(&str, Option<u64>)>> {
        let named = |by: &[(usize, Option<u64>)]| by.iter().map(|(i, held)| (&*self.verifiers[*i].name, *held)).collect();
        self.refusals().listed.iter().map(|(policy, by)| (policy.as_str(), named(by))).collect()
    }
}
