//! Room for what each policy has under way, so that one policy's crowd or dead server takes no other's.

use std::{collections::BTreeMap, sync::Arc};

use countersign_core::names::PolicyName;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How much room there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// What one policy may have under way or waiting.
    pub(crate) each: usize,
    /// What all of them may.
    pub(crate) all: usize,
    /// Of one policy's, how many have their turn at once.
    pub(crate) at_once: usize,
}

/// A lane for each policy that has anything under way. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Lanes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bounds: Bounds,
    inside: Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    all: usize,
    lanes: BTreeMap<PolicyName, Lane>,
}

#[derive(Debug)]
struct Lane {
    inside: usize,
    turns: Arc<Semaphore>,
}

/// A place in a policy's lane, given up when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    lanes: Lanes,
    policy: PolicyName,
    turns: Arc<Semaphore>,
}

impl Lanes {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Inner { bounds, inside: Mutex::default() }))
    }

    /// A place in the policy's lane, if there is one left.
    pub(crate) fn enter(&self, policy: &PolicyName) -> Option<Place> {
        let Bounds { each, all, at_once } = self.0.bounds;
        let mut inside = self.0.inside.lock();
        if inside.all >= all || inside.lanes.get(policy).is_some_and(|lane| lane.inside >= each) {
            return None;
        }
        inside.all += 1;
        let lane = inside.lanes.entry(policy.clone());
        let lane = lane.or_insert_with(|| Lane { inside: 0, turns: Arc::new(Semaphore::new(at_once)) });
        lane.inside += 1;
        Some(Place { lanes: self.clone(), policy: policy.clone(), turns: lane.turns.clone() })
    }

    /// The policies that have as many under way, or more.
    pub(crate) fn with_at_least(&self, count: usize) -> Vec<PolicyName> {
        let inside = self.0.inside.lock();
        inside.lanes.iter().filter(|(_, lane)| lane.inside >= count).map(|(policy, _)| policy.clone()).collect()
    }
}

impl Place {
    /// Waits for one of the turns that the policy's lane has at once, first come first served.
    pub(crate) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // Nobody closes them.
        self.turns.clone().acquire_owned().await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut inside = self.lanes.0.inside.lock();
        inside.all = inside.all.saturating_sub(1);
        if let Some(lane) = inside.lanes.get_mut(&self.policy) {
            lane.inside = lane.inside.saturating_sub(1);
            if lane.inside == 0 {
                inside.lanes.remove(&self.policy);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PolicyName {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn one_policy_s_crowd_takes_no_other_s_place_and_all_have_a_bound() {
        let lanes = Lanes::new(Bounds { each: 2, all: 3, at_once: 1 });
        let (shop, other) = (name("shop/shop"), name("shop/other"));
        let places = [lanes.enter(&shop).unwrap(), lanes.enter(&shop).unwrap()];
        assert!(lanes.enter(&shop).is_none());
        assert_eq!(lanes.with_at_least(2), std::slice::from_ref(&shop));
        // The turns of one are none of the other's.
        let _turn = places[0].turn().await.unwrap();
        let third = lanes.enter(&other).unwrap();
        let _its_turn = third.turn().await.unwrap();
        assert!(lanes.enter(&name("shop/third")).is_none(), "all together");
        drop(third);
        drop(places);
        assert!(lanes.0.inside.lock().lanes.is_empty(), "nothing is kept of who has left");
        assert!(lanes.enter(&shop).is_some());
    }
}
