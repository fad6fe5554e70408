use std::collections::BTreeSet;

use countersign_core::names::PolicyName;
use countersign_feed::{Ack, Lease, RefusedPolicy};

use super::*;
use crate::registry::FeedPresent;

const MINUTE: i64 = 60_000;
const ABSENT_AFTER: i64 = 10 * MINUTE;

fn policy() -> PolicyName {
    PolicyName::try_new("shop", "shop").unwrap()
}

fn ack(revision: &str) -> Ack {
    Ack {
        start_id: "s".into(),
        history: "h".into(),
        revision: revision.into(),
        generations: BTreeMap::new(),
        schemas: vec![1],
        trusted_bundle_keys: vec!["k".into()],
        refused: Vec::new(),
        unknown_keys: Vec::new(),
    }
}

fn refusing(revision: &str, held: Option<u64>) -> Ack {
    let refused = RefusedPolicy { policy: policy().to_string(), held, reason: "corrupt".into() };
    Ack { refused: vec![refused], ..ack(revision) }
}

fn verifier(name: &str, ack: Option<Ack>) -> Verifier {
    Verifier { name: name.into(), pod: true, alive: ack.is_some(), ended: None, absent_ms: 0, ack }
}

fn fleet(verifiers: Vec<Verifier>) -> Fleet {
    Fleet::new(verifiers, "h".into(), true, true, 0)
}

#[test]
fn a_verifier_holds_a_write_when_its_ack_is_of_this_history_not_older_and_not_refusing() {
    let since = Since { version: 100, generation: 7 };
    for (given, holds, why) in [
        (Some(ack("100")), true, "has come to it"),
        (Some(ack("1000")), true, "compared as numbers"),
        (Some(ack("99")), false, "one short of it"),
        (Some(ack("x")), false, "not a number"),
        (Some(Ack { history: "earlier".into(), ..ack("100") }), false, "another history"),
        (Some(refusing("100", None)), false, "refuses, holds nothing"),
        (Some(refusing("100", Some(6))), false, "refuses, holds an older one"),
        (Some(refusing("100", Some(7))), true, "refuses what came later"),
        (None, false, "says nothing"),
    ] {
        let fleet = fleet(vec![verifier("a", Some(ack("100"))), verifier("b", given)]);
        assert_eq!(fleet.all_hold(&policy(), since, ABSENT_AFTER), holds, "{why}");
        assert_eq!(fleet.count(&policy(), since, ABSENT_AFTER).complete(), holds, "{why}");
    }
}

#[test]
fn an_empty_set_is_never_all_and_nothing_counts_while_the_feed_is_away() {
    let since = Since { version: 1, generation: 1 };
    assert!(!fleet(Vec::new()).all_hold(&policy(), since, ABSENT_AFTER));
    let away = Fleet::new(vec![verifier("a", Some(ack("5")))], "h".into(), false, true, 0);
    assert!(!away.all_hold(&policy(), since, ABSENT_AFTER));
    let never_written = Since::default();
    assert!(!fleet(vec![verifier("a", Some(ack("5")))]).all_hold(&policy(), never_written, ABSENT_AFTER));
}

#[test]
fn before_the_feed_was_reached_once_nobody_is_known_to_be_nobody() {
    assert_eq!(Fleet::new(Vec::new(), "h".into(), false, false, 0).known(), 1);
    assert_eq!(Fleet::new(Vec::new(), "h".into(), false, true, 0).known(), 0);
}

#[test]
fn a_count_names_laggards_and_refusers_and_not_more_than_ten() {
    let mut verifiers: Vec<Verifier> = (0..15).map(|i| verifier(&format!("v{i:02}"), None)).collect();
    verifiers.push(verifier("w", Some(refusing("100", None))));
    verifiers.push(verifier("x", Some(ack("100"))));
    let count = fleet(verifiers).count(&policy(), Since { version: 100, generation: 1 }, ABSENT_AFTER);
    assert_eq!((count.required, count.held), (17, 1));
    assert_eq!(count.lagging.len(), MAX_NAMED);
    assert_eq!(count.refused, ["w"]);
}

/// A roll with what goes into it.
struct Scene {
    roll: Roll,
    now: i64,
    pods: Vec<PodSeen>,
    nodes: BTreeSet<String>,
    remembered: BTreeSet<String>,
    present: FeedPresent,
}

impl Scene {
    fn new(pods: &[&str]) -> Self {
        let pod = |name: &&str| PodSeen { name: (*name).to_owned(), node: Some("n".into()), terminated: false };
        let present = FeedPresent { fresh: true, epoch: Some(1), seeded: true, ..FeedPresent::default() };
        Self {
            roll: Roll::default(),
            now: 1_000_000,
            pods: pods.iter().map(pod).collect(),
            nodes: BTreeSet::from(["n".to_owned()]),
            remembered: BTreeSet::new(),
            present,
        }
    }

    fn alive(&mut self, names: &[&str]) -> &mut Self {
        let lease = |name: &&str| Lease { name: (*name).to_owned(), position: None, ack: Some(ack("1")) };
        self.present.leases = names.iter().map(lease).collect();
        self
    }

    fn after(&mut self, minutes: i64) -> &mut Self {
        // Observed each second, as in the process.
        for _ in 0..minutes * 60 {
            self.now += 1000;
            self.look();
        }
        self
    }

    fn look(&mut self) -> Vec<Verifier> {
        self.roll.observe(&self.pods, &self.nodes, &self.remembered, &self.present, self.now)
    }

    fn required(&mut self) -> Vec<String> {
        let fleet = self.look();
        let fleet = self.roll.fleet(fleet, "h", &self.present, 0);
        fleet.quorum(ABSENT_AFTER).required.iter().map(|i| fleet.verifiers[*i].name.clone()).collect()
    }
}

#[test]
fn a_pod_is_waited_for_until_it_has_been_absent_long_enough() {
    let mut scene = Scene::new(&["a", "b"]);
    assert_eq!(scene.alive(&["a"]).required(), ["a", "b"], "from the leader's own start");
    assert_eq!(scene.after(9).required(), ["a", "b"]);
    assert_eq!(scene.after(2).required(), ["a"]);
    assert_eq!(scene.alive(&["a", "b"]).required(), ["a", "b"], "it returns");
    assert_eq!(scene.alive(&["a"]).after(9).required(), ["a", "b"], "and counts anew from its lease's end");
    assert_eq!(scene.after(2).required(), ["a"]);
}

#[test]
fn absence_doesn_t_count_while_the_feed_is_away_and_starts_over_with_a_new_epoch() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.alive(&["a"]).after(8);
    scene.present.fresh = false;
    assert_eq!(scene.after(60).required(), ["a", "b"], "nobody's absence is known");
    scene.present.fresh = true;
    assert_eq!(scene.after(1).required(), ["a", "b"]);
    scene.present.seeded = false;
    scene.present.epoch = Some(2);
    scene.after(1);
    scene.present.seeded = true;
    assert_eq!(scene.after(9).required(), ["a", "b"], "since it was seeded");
    assert_eq!(scene.after(2).required(), ["a"]);
}

#[test]
fn a_pod_whose_node_is_gone_or_whose_containers_ended_is_left_out_at_once() {
    let mut scene = Scene::new(&["a", "b", "c"]);
    assert_eq!(scene.alive(&["a", "b", "c"]).required(), ["a", "b", "c"]);
    scene.pods[1].terminated = true;
    assert_eq!(scene.required(), ["a", "c"], "whatever is left of its lease");
    scene.pods[2].node = Some("deleted".into());
    assert_eq!(scene.required(), ["a", "c"], "a lease that lives answers");
    assert_eq!(scene.alive(&["a"]).required(), ["a"]);
    scene.pods[2].node = None;
    assert_eq!(scene.required(), ["a", "c"], "not placed yet");
}

#[test]
fn a_verifier_outside_pods_is_remembered_until_it_is_forgotten() {
    let mut scene = Scene::new(&["a"]);
    scene.alive(&["a", "edge"]);
    assert_eq!(scene.required(), ["a", "edge"]);
    assert_eq!(scene.roll.to_remember(), Vec::<String>::new(), "it may be a pod that is on its way out");
    scene.after(2);
    assert_eq!(scene.roll.to_remember(), ["edge"]);
    scene.remembered = BTreeSet::from(["edge".to_owned()]);
    scene.after(1);
    assert_eq!(scene.roll.to_remember(), Vec::<String>::new());
    assert_eq!(scene.alive(&["a"]).after(9).required(), ["a", "edge"]);
    assert_eq!(scene.after(2).required(), ["a"], "absent for too long");
    assert_eq!(scene.look().len(), 2, "and still known");
    scene.remembered.clear();
    assert_eq!(scene.look().len(), 1, "until it is forgotten");

    let mut next_leader = Scene::new(&["a"]);
    next_leader.remembered = BTreeSet::from(["edge".to_owned()]);
    assert_eq!(next_leader.alive(&["a"]).required(), ["a", "edge"], "a leader without memory waits for it");
}

#[test]
fn a_deleted_pod_s_lease_counts_while_it_lives_and_its_name_is_not_remembered() {
    let mut scene = Scene::new(&["a", "b"]);
    scene.alive(&["a", "b"]).after(1);
    scene.pods.pop();
    assert_eq!(scene.required(), ["a", "b"]);
    scene.after(2);
    assert_eq!(scene.roll.to_remember(), Vec::<String>::new());
    assert_eq!(scene.alive(&["a"]).required(), ["a"]);
}
