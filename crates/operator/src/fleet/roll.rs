//! The roll of verifiers: who was seen when.

use std::collections::{BTreeMap, BTreeSet};

use countersign_feed::Lease;

use super::{Ended, Fleet, Verifier};
use crate::registry::FeedPresent;

/// How long a verifier is seen by its lease alone before it is remembered by name: a deleted pod's lease ends sooner.
const REMEMBERED_AFTER_MS: i64 = 60_000;

/// A verifier's pod, as the API server lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodSeen {
    pub(crate) name: String,
    /// Where it runs, or will; absent: not yet decided.
    pub(crate) node: Option<String>,
    /// All its containers have ended for good.
    pub(crate) terminated: bool,
}

/// How long one that was never remembered is kept after its lease ended.
const FORGOTTEN_AFTER_MS: i64 = 3_600_000;

/// What this leader remembers of verifiers. Its clock only runs while the feed is fresh.
#[derive(Debug, Default)]
pub(crate) struct Roll {
    /// Milliseconds of this leader's time with a fresh feed.
    clock_ms: i64,
    /// The machine's clock at the last observation, if the feed was fresh then.
    last_fresh: Option<i64>,
    ever_reached: bool,
    epoch: Option<(u64, bool)>,
    /// By name: from when on its absence counts, by our clock.
    present_until: BTreeMap<String, i64>,
    /// Verifiers that were seen by their leases alone, and since when.
    outside: BTreeMap<String, i64>,
    /// Those of them that are alive.
    outside_alive: BTreeSet<String>,
    /// The names that were remembered at the last observation.
    remembered: BTreeSet<String>,
    /// Names that were pods in this leader's time.
    were_pods: BTreeSet<String>,
}

impl Roll {
    /// Takes in what is seen now. `remembered` are the names of verifiers outside pods; `boot_ms` is the machine's
    /// monotonic clock.
    pub(crate) fn observe(
        &mut self,
        pods: &[PodSeen],
        nodes: &BTreeSet<String>,
        remembered: &BTreeSet<String>,
        present: &FeedPresent,
        boot_ms: i64,
    ) -> Vec<Verifier> {
        self.advance(present, boot_ms);
        let leases = if present.fresh { present.leases.as_slice() } else { &[] };
        let leases: BTreeMap<&str, &Lease> = leases.iter().map(|lease| (lease.name.as_str(), lease)).collect();
        let by_pod: BTreeMap<&str, &PodSeen> = pods.iter().map(|pod| (pod.name.as_str(), pod)).collect();
        self.were_pods.extend(pods.iter().map(|pod| pod.name.clone()));
        self.note_outside(&leases, remembered);

        let mut names: BTreeSet<String> = by_pod.keys().chain(leases.keys()).map(|name| (*name).to_owned()).collect();
        names.extend(remembered.iter().chain(self.outside.keys()).cloned());
        self.present_until.retain(|name, _| names.contains(name));
        let now = self.clock_ms;
        let mut verifiers = Vec::with_capacity(names.len());
        for name in names {
            let (pod, lease) = (by_pod.get(name.as_str()), leases.get(name.as_str()));
            // One that was not known before is counted from now: its pod has just been made, or we have just begun.
            let until = self.present_until.entry(name.clone()).or_insert(now);
            if lease.is_some() {
                *until = now;
            }
            let ended = pod.and_then(|pod| {
                let node_gone = pod.node.as_ref().is_some_and(|node| !nodes.contains(node));
                if pod.terminated {
                    Some(Ended::Terminated)
                } else {
                    // Whether its lease lives on is only known while the feed is.
                    (node_gone && lease.is_none() && present.fresh).then_some(Ended::NodeGone)
                }
            });
            verifiers.push(Verifier {
                pod: pod.is_some(),
                alive: lease.is_some(),
                ended,
                absent_ms: now - *until,
                ack: lease.and_then(|lease| lease.ack.clone()),
                name,
            });
        }
        verifiers
    }

    /// Verifiers outside pods: kept until they are forgotten by name, or were never remembered and are long gone.
    fn note_outside(&mut self, leases: &BTreeMap<&str, &Lease>, remembered: &BTreeSet<String>) {
        let now = self.clock_ms;
        let were_pods = &self.were_pods;
        let alive = leases.keys().filter(|name| !were_pods.contains(**name));
        let alive: BTreeSet<String> = alive.map(|name| (*name).to_owned()).collect();
        for name in &alive {
            self.outside.entry(name.clone()).or_insert(now);
        }
        let forgotten: Vec<String> = self.remembered.difference(remembered).cloned().collect();
        let until = &self.present_until;
        self.outside.retain(|name, _| {
            let long_gone = || until.get(name).is_some_and(|until| now - until > FORGOTTEN_AFTER_MS);
            alive.contains(name) || !(were_pods.contains(name) || forgotten.contains(name) || long_gone())
        });
        self.outside_alive = alive;
        self.remembered.clone_from(remembered);
    }

    /// Lets the clock run, if it may; a newly seeded epoch gives everyone their time anew.
    fn advance(&mut self, present: &FeedPresent, boot_ms: i64) {
        if !present.fresh {
            self.last_fresh = None;
            return;
        }
        if let Some(last) = self.last_fresh {
            self.clock_ms += boot_ms.saturating_sub(last).max(0);
        }
        self.last_fresh = Some(boot_ms);
        self.ever_reached = true;
        let epoch = present.epoch.map(|epoch| (epoch, present.seeded));
        if self.epoch != epoch {
            self.epoch = epoch;
            let now = self.clock_ms;
            self.present_until.values_mut().for_each(|until| *until = now);
        }
    }

    /// Whether the feed was ever reached in this leader's time.
    pub(crate) const fn ever_reached(&self) -> bool {
        self.ever_reached
    }

    /// The names of verifiers outside pods that ought to be remembered and aren't.
    pub(crate) fn to_remember(&self) -> Vec<String> {
        let long_enough = |since: &i64| self.clock_ms - since >= REMEMBERED_AFTER_MS;
        let lasting = self.outside.iter().filter(|(name, since)| long_enough(since) && self.outside_alive.contains(*name));
        lasting.map(|(name, _)| name).filter(|name| !self.remembered.contains(*name)).cloned().collect()
    }

    /// The fleet of what [`Roll::observe`] gave.
    pub(crate) fn fleet(&self, verifiers: Vec<Verifier>, history: &str, present: &FeedPresent, issuers: usize) -> Fleet {
        Fleet::new(verifiers, history.to_owned(), present.fresh, self.ever_reached(), issuers)
    }
}
