//! The roll of verifiers: who was seen when.

use std::collections::{BTreeMap, BTreeSet};

use countersign_core::time::UnixMillis;
use countersign_feed::{Ack, Lease};

use super::{Ended, Fleet, Heard, Verifier};
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

/// What the API server tells of pods and nodes at one moment.
#[derive(Debug)]
pub(crate) struct Listed<'a> {
    pub(crate) pods: &'a [PodSeen],
    pub(crate) nodes: &'a BTreeSet<String>,
    /// Pods that were seen to have ended since the last look, whether or not they are still listed.
    pub(crate) ended: &'a BTreeSet<String>,
    /// The names of verifiers outside pods.
    pub(crate) remembered: &'a BTreeSet<String>,
    /// The longest `absentAfter` of any policy: one that vanished is waited for no longer than that.
    pub(crate) longest_absent_after_ms: i64,
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
    /// Names that were pods in this leader's time, and may still be heard of.
    were_pods: BTreeSet<String>,
    /// Pods as they were last listed.
    listed: BTreeMap<String, PodSeen>,
    /// Pods that are listed no more and were not seen to have ended: deleted by force, their containers may still run.
    vanished: BTreeMap<String, PodSeen>,
    /// Pods that ended and are listed still, perhaps as they were before.
    ended: BTreeSet<String>,
    /// What live verifiers say, and since when.
    acks: BTreeMap<String, (Ack, UnixMillis)>,
    /// Issuers that sign or may: by name, from when on their absence counts, by our clock.
    issuers: BTreeMap<String, i64>,
    /// Those of them that were seen to have ended, as long as their leases live on.
    issuers_ended: BTreeSet<String>,
    /// How long one that vanished is waited for.
    longest_absent_after_ms: i64,
}

impl Roll {
    /// Takes in what is seen now. `boot_ms` is the machine's monotonic clock.
    pub(crate) fn observe(&mut self, seen: &Listed<'_>, present: &FeedPresent, boot_ms: i64) -> Vec<Verifier> {
        self.advance(present, boot_ms);
        self.issuers_ended.extend(seen.ended.iter().filter(|name| self.issuers.contains_key(*name)).cloned());
        self.longest_absent_after_ms = seen.longest_absent_after_ms;
        let leases = if present.fresh { present.leases.as_slice() } else { &[] };
        let leases: BTreeMap<&str, &Lease> = leases.iter().map(|lease| (lease.name.as_str(), lease)).collect();
        self.note_pods(seen, &leases, present.fresh);
        self.note_outside(&leases, seen.remembered);

        let pods = || self.listed.keys().chain(self.vanished.keys());
        let mut names: BTreeSet<String> = pods().cloned().chain(leases.keys().map(|name| (*name).to_owned())).collect();
        names.extend(seen.remembered.iter().chain(self.outside.keys()).cloned());
        self.present_until.retain(|name, _| names.contains(name));
        let now = self.clock_ms;
        let mut verifiers = Vec::with_capacity(names.len());
        for name in names {
            let pod = self.listed.get(&name).or_else(|| self.vanished.get(&name));
            let lease = leases.get(name.as_str());
            // One that was not known before is counted from now: its pod has just been made, or we have just begun.
            let until = self.present_until.entry(name.clone()).or_insert(now);
            if lease.is_some() {
                *until = now;
            }
            let ended = pod.and_then(|pod| {
                if pod.terminated {
                    Some(Ended::Terminated)
                } else {
                    // Whether its lease lives on is only known while the feed is.
                    (node_gone(pod, seen.nodes) && lease.is_none() && present.fresh).then_some(Ended::NodeGone)
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

    /// Pods, and those that were and may still run.
    fn note_pods(&mut self, seen: &Listed<'_>, leases: &BTreeMap<&str, &Lease>, fresh: bool) {
        let present: BTreeMap<String, PodSeen> = seen.pods.iter().map(|pod| (pod.name.clone(), pod.clone())).collect();
        let before = std::mem::replace(&mut self.listed, present);
        self.ended.extend(seen.ended.iter().cloned());
        let (listed, ended) = (&self.listed, &self.ended);
        let may_run = |pod: &PodSeen| !pod.terminated && pod.node.is_some();
        self.vanished.extend(before.into_iter().filter(|(name, pod)| !listed.contains_key(name) && may_run(pod)));
        let (now, until) = (self.clock_ms, &self.present_until);
        self.vanished.retain(|name, pod| {
            let alive = leases.contains_key(name.as_str());
            let long_gone = until.get(name).is_some_and(|until| now - until >= seen.longest_absent_after_ms);
            let over = ended.contains(name) || fresh && !alive && (long_gone || node_gone(pod, seen.nodes));
            !listed.contains_key(name) && !over
        });
        self.ended.retain(|name| listed.contains_key(name));
        self.were_pods.extend(listed.keys().cloned());
        let vanished = &self.vanished;
        let heard_of = |name: &String| {
            listed.contains_key(name) || vanished.contains_key(name) || !fresh || leases.contains_key(name.as_str())
        };
        self.were_pods.retain(heard_of);
    }

    /// Whether a pod is waited for that isn't listed any more, or perhaps an issuer.
    pub(crate) fn misses_any(&self) -> bool {
        !self.vanished.is_empty() || self.issuers.values().any(|until| *until < self.clock_ms)
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

    /// The fleet of what [`Roll::observe`] gave, and of the issuer pods that the API server lists. An issuer whose lease lives
    /// signs, whether or not a pod of its name is listed. One that vanished without having ended may sign still, until nobody
    /// has confirmed its keys for half of `absentAfter`: it is waited for like a verifier.
    pub(crate) fn fleet(
        &mut self,
        verifiers: Vec<Verifier>,
        history: &str,
        present: &FeedPresent,
        issuers: impl IntoIterator<Item = String>,
        now: UnixMillis,
    ) -> Fleet {
        let latest = present.server_now().map_or(now, |server| server.max(now));
        let heard = self.hear(present, now);
        let with_ack = |name: String| {
            let ack = present.issuers.get(&name).filter(|_| present.fresh).cloned().flatten();
            (name, ack)
        };
        let alive = present.issuers.keys().filter(|_| present.fresh).cloned();
        let seen: BTreeSet<String> = issuers.into_iter().chain(alive).collect();
        let issuers = self.signing(seen).into_iter().map(with_ack).collect();
        let fleet = Fleet::new(verifiers, history.to_owned(), present.fresh, self.ever_reached()).at(latest);
        Fleet { issuers, heard, ..fleet }
    }

    /// Issuers that sign or may, of whom these are listed or alive.
    fn signing(&mut self, seen: BTreeSet<String>) -> BTreeSet<String> {
        let (now, longest, ended) = (self.clock_ms, self.longest_absent_after_ms, &self.issuers_ended);
        self.issuers.retain(|name, until| !ended.contains(name) && now - *until < longest);
        self.issuers_ended.retain(|name| seen.contains(name));
        self.issuers.extend(seen.into_iter().map(|name| (name, now)));
        self.issuers.keys().cloned().collect()
    }

    /// Where live verifiers stand, and since when they have said what they say.
    fn hear(&mut self, present: &FeedPresent, now: UnixMillis) -> BTreeMap<String, Heard> {
        if !present.fresh {
            return BTreeMap::new();
        }
        let mut before = std::mem::take(&mut self.acks);
        let mut heard = BTreeMap::new();
        for lease in &present.leases {
            let acknowledged = lease.ack.as_ref().map(|ack| {
                let held = before.remove(&lease.name).filter(|(held, _)| held == ack);
                let (ack, since) = held.unwrap_or_else(|| (ack.clone(), now));
                self.acks.insert(lease.name.clone(), (ack, since));
                since
            });
            heard.insert(lease.name.clone(), Heard { position: lease.position, acknowledged });
        }
        heard
    }
}

fn node_gone(pod: &PodSeen, nodes: &BTreeSet<String>) -> bool {
    pod.node.as_ref().is_some_and(|node| !nodes.contains(node))
}
