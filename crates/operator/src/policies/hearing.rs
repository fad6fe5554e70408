//! Whether a new leader has heard all that others remember and it doesn't.
//!
//! A leader that begins knows what the API server holds, and that may come from a backup: keys that were retired or revoked
//! since are good ones there. What happened since is known to verifiers, who acknowledge the highest generation that they hold
//! and refuse lower ones, and to the feed, which names revoked keys. Until both are heard, no key of a policy that has a
//! record signs, no ring of it turns, and no bundle of it is written: what verifiers hold stays in force.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use countersign_core::names::PolicyName;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Reconciler,
    caches::Declared,
    living::Living,
    memory::{Managed, Next},
    reconcile::{ReconcileError, WHILE_WAITING},
    status::Acceptance,
    viewing::Voice,
};
use crate::{fleet::Fleet, registry::FeedPresent};

/// How long verifiers are waited for that the feed or the API server tells of, once the feed is read.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a leader has heard.
#[derive(Debug)]
pub(super) struct Hearing {
    began: Instant,
    /// Since when the feed has been read without interruption.
    reads_since: Mutex<Option<Instant>>,
    /// Set once it has heard all, to the highest generation of a bundle that the API server held then.
    heard: OnceLock<u64>,
}

impl Hearing {
    /// One who begins now.
    pub(super) fn new(began: Instant) -> Self {
        Self { began, reads_since: Mutex::default(), heard: OnceLock::new() }
    }

    /// Listens. True when that has brought it about that all is heard. `highest` is asked for then.
    pub(super) fn listen(&self, present: &FeedPresent, fleet: &Fleet, now: Instant, highest: impl FnOnce() -> u64) -> bool {
        if self.is_over() {
            return false;
        }
        let mut reads_since = self.reads_since.lock();
        if !(present.fresh && present.caught_up && fleet.reached) {
            *reads_since = None;
            return false;
        }
        let reads_for = now.duration_since(*reads_since.get_or_insert(now));
        let all = is_told_by_all(fleet);
        if !all && reads_for < PATIENCE {
            return false;
        }
        if !all {
            tracing::warn!("not every verifier has told what it holds; going on without those that are silent");
        }
        self.heard.set(highest()).is_ok()
    }

    /// Whether all is heard.
    pub(super) fn is_over(&self) -> bool {
        self.heard.get().is_some()
    }

    /// Whether it has taken so long that people should be told.
    pub(super) fn takes_long(&self, now: Instant) -> bool {
        !self.is_over() && now.duration_since(self.began) >= PATIENCE
    }

    /// Whether a policy may be held later by a verifier that refuses more policies than it can list: it does, if anybody
    /// holds a later bundle than the API server had of any policy.
    pub(super) fn is_lost_unnamed(&self, policy: &PolicyName, fleet: &Fleet) -> bool {
        let Some(listed) = self.heard.get() else { return false };
        let unnamed = fleet.verifiers.iter().filter_map(|verifier| verifier.ack.as_ref()).any(|ack| {
            ack.refused_more
                && is_present(&ack.history, fleet)
                && !ack.refused.iter().any(|refused| refused.policy == policy.as_str())
        });
        unnamed && fleet.highest_held() > *listed
    }
}

impl Reconciler {
    /// A policy of which a new leader has yet to hear what happened since: nothing of it is signed or written.
    pub(super) async fn keep_still(
        &self,
        name: &PolicyName,
        declared: Option<&Arc<Declared>>,
        namespace_uid: &str,
        managed: &mut Managed,
    ) -> Result<Next, ReconcileError> {
        let next = Next { within: Some(WHILE_WAITING), ..Next::default() };
        let Some(kept) = managed.stored.as_ref().map(|stored| stored.kept.clone()) else { return Ok(next) };
        let Some(declared) = declared.filter(|declared| !declared.deleting() && kept.record.uid == declared.uid()) else {
            self.publish_withdrawn(name, managed);
            return Ok(next);
        };
        let understood = self.understand(name, declared, managed);
        let effective = Self::effective(declared, &understood, managed);
        let acceptance = understood.err().unwrap_or(Acceptance::Accepted(Vec::new()));
        let living = Living { name, declared, namespace_uid, effective: effective.as_ref(), acceptance: &acceptance };
        self.publish(&living, &kept, Voice::Silent, managed)?;
        if self.hearing.takes_long(Instant::now()) {
            self.report_unheard(declared, &acceptance, !kept.rings.is_empty(), managed).await?;
        }
        Ok(next)
    }
}

fn is_present(history: &str, fleet: &Fleet) -> bool {
    !history.is_empty() && history == fleet.history
}

/// Whether everyone who is there has said what it holds, under the present history.
fn is_told_by_all(fleet: &Fleet) -> bool {
    let there = fleet.verifiers.iter().filter(|verifier| verifier.ended.is_none());
    there.into_iter().all(|verifier| verifier.ack.as_ref().is_some_and(|ack| is_present(&ack.history, fleet)))
}

#[cfg(test)]
mod tests {
    use countersign_feed::{Ack, RefusedPolicy};

    use super::*;
    use crate::fleet::Verifier;

    fn verifier(ack: Option<Ack>) -> Verifier {
        Verifier { name: "v".into(), pod: true, alive: ack.is_some(), ended: None, absent_ms: 0, ack }
    }

    fn says(history: &str) -> Ack {
        Ack { history: history.into(), highest_held: 9, ..Ack::default() }
    }

    fn fleet(acks: Vec<Option<Ack>>) -> Fleet {
        let fleet = Fleet::new(acks.into_iter().map(verifier).collect(), "h".into(), true, true);
        fleet.at(countersign_core::time::UnixMillis(100))
    }

    fn reads() -> FeedPresent {
        FeedPresent { fresh: true, caught_up: true, ..FeedPresent::default() }
    }

    #[test]
    fn all_is_heard_when_the_feed_was_read_and_everyone_has_spoken_under_the_present_history() {
        let away = FeedPresent { fresh: false, ..reads() };
        let not_read = FeedPresent { caught_up: false, ..reads() };
        for (present, acks, expected, why) in [
            (away, vec![Some(says("h"))], false, "the feed is away"),
            (not_read, vec![Some(says("h"))], false, "its entries aren't read yet"),
            (reads(), vec![Some(says("h")), None], false, "one is silent"),
            (reads(), vec![Some(says("earlier"))], false, "it speaks of another history"),
            (reads(), vec![Some(says("h")), Some(says("h"))], true, "all have spoken"),
            (reads(), vec![], true, "nobody is there"),
        ] {
            let now = Instant::now();
            let hearing = Hearing::new(now);
            assert_eq!(hearing.listen(&present, &fleet(acks), now, || 1), expected, "{why}");
            assert_eq!(hearing.is_over(), expected, "{why}");
        }
    }

    #[test]
    fn who_is_silent_is_waited_for_ten_seconds_of_a_feed_that_can_be_read_and_a_feed_that_is_away_for_ever() {
        let began = Instant::now();
        let hearing = Hearing::new(began);
        let silent = || fleet(vec![Some(says("h")), None]);
        let away = FeedPresent { fresh: false, ..reads() };
        let later = |seconds| began + Duration::from_hours(1) + Duration::from_secs(seconds);
        assert!(!hearing.listen(&away, &silent(), later(0), || 1) && hearing.takes_long(later(0)));
        assert!(!hearing.listen(&reads(), &silent(), later(0), || 1));
        assert!(!hearing.listen(&reads(), &silent(), later(9), || 1));
        assert!(hearing.listen(&reads(), &silent(), later(10), || 1), "tells once");
        assert!(!hearing.listen(&reads(), &silent(), later(10), || 1));
        assert!(hearing.is_over() && !hearing.takes_long(later(99)));
    }

    #[test]
    fn a_policy_that_nobody_had_room_to_name_is_lost_if_anybody_holds_more_than_was_there() {
        let named = RefusedPolicy { policy: "shop/named".into(), held: Some(9), reason: "lower_generation".into() };
        let ack = Ack { refused: vec![named], refused_more: true, ..says("h") };
        let lost = |listed: u64, ack: &Ack, policy: &str| {
            let hearing = Hearing::new(Instant::now());
            let fleet = fleet(vec![Some(ack.clone())]);
            assert!(hearing.listen(&reads(), &fleet, Instant::now(), || listed));
            hearing.is_lost_unnamed(&policy.parse().unwrap(), &fleet)
        };
        assert!(lost(5, &ack, "shop/other"));
        assert!(!lost(5, &ack, "shop/named"), "it is told by its name");
        assert!(!lost(9, &ack, "shop/other"), "nothing was lost");
        assert!(!lost(5, &Ack { refused_more: false, ..ack.clone() }, "shop/other"));
    }
}
