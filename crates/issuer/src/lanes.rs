//! Room for what each policy has under way, so that one policy's crowd or dead server takes no other's, and many policies of
//! one namespace, which are one tenant's, take no other tenant's.

use std::{collections::BTreeMap, sync::Arc};

use countersign_core::names::PolicyName;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How much room there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// What one policy may have under way or waiting.
    pub(crate) each: usize,
    /// What those of one namespace may together.
    pub(crate) namespace: usize,
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
    namespaces: BTreeMap<String, usize>,
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
        let Bounds { each, namespace, all, at_once } = self.0.bounds;
        let mut inside = self.0.inside.lock();
        let of_namespace = inside.namespaces.get(policy.namespace()).copied().unwrap_or_default();
        let of_policy = inside.lanes.get(policy).map_or(0, |lane| lane.inside);
        if inside.all >= all || of_namespace >= namespace || of_policy >= each {
            return None;
        }
        inside.all += 1;
        inside.namespaces.insert(policy.namespace().to_owned(), of_namespace + 1);
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
        if let Some(held) = inside.namespaces.get_mut(self.policy.namespace()) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                inside.namespaces.remove(self.policy.namespace());
            }
        }
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
        let lanes = Lanes::new(Bounds { each: 2, namespace: 3, all: 3, at_once: 1 });
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
        {
            let inside = lanes.0.inside.lock();
            assert!(inside.lanes.is_empty() && inside.namespaces.is_empty(), "nothing is kept of who has left");
        }
        assert!(lanes.enter(&shop).is_some());
    }

    #[test]
    fn many_policies_of_one_namespace_take_no_other_namespaces_place() {
        let lanes = Lanes::new(Bounds { each: 2, namespace: 3, all: 100, at_once: 1 });
        let crowd = |n: usize| lanes.enter(&name(&format!("shop/p{n}")));
        let places: Vec<_> = (0..10).filter_map(crowd).collect();
        assert_eq!(places.len(), 3);
        assert!(lanes.enter(&name("other/p0")).is_some());
        drop(places);
        assert!(crowd(11).is_some());
    }
}
