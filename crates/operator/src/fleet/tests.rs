use std::collections::BTreeSet;

use countersign_core::names::PolicyName;
use countersign_feed::{Ack, Lease, RefusedPolicy};

use super::{roll::Listed, *};
use crate::registry::FeedPresent;

const MINUTE: i64 = 60_000;
const ABSENT_AFTER: i64 = 10 * MINUTE;
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

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
        ..Ack::default()
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
    Fleet::new(verifiers, "h".into(), true, true).at(NOW)
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
    let away = Fleet::new(vec![verifier("a", Some(ack("5")))], "h".into(), false, true);
    assert!(!away.all_hold(&policy(), since, ABSENT_AFTER));
    let never_written = Since::default();
    assert!(!fleet(vec![verifier("a", Some(ack("5")))]).all_hold(&policy(), never_written, ABSENT_AFTER));
}

#[test]
fn what_a_forged_acknowledgement_says_to_hold_is_not_believed_for_its_size_or_of_another_history() {
    let now = u64::try_from(NOW.0).unwrap();
    let hour = 3_600_000;
    for (given, ahead, why) in [
        (refusing("5", Some(now - 7)), Some(now - 7), "a restore"),
        (refusing("5", Some(now + hour)), Some(now + hour), "a clock that runs ahead"),
        (refusing("5", Some(now + hour + 1)), None, "made by nobody's clock"),
        (refusing("5", Some(u64::MAX)), None, "no generation has a next one then"),
        (refusing("5", None), None, "holds nothing"),
        (Ack { history: "earlier".into(), ..refusing("5", Some(now)) }, None, "of another history"),
        (Ack { refused: Vec::new(), refused_more: true, ..ack("5") }, None, "holds who knows what"),
    ] {
        let verifiers = || vec![verifier("a", Some(ack("9"))), verifier("b", Some(given.clone()))];
        assert_eq!(fleet(verifiers()).held_ahead(&policy()), ahead, "{why}");
        let between = Fleet::new(verifiers(), String::new(), true, true).at(NOW);
        assert_eq!(between.held_ahead(&policy()), None, "while there is no history: {why}");
    }
    let holding = |highest_held| Some(Ack { highest_held, ..ack("1") });
    let verifiers = vec![verifier("a", holding(now)), verifier("b", holding(now - 5)), verifier("c", holding(u64::MAX))];
    assert_eq!(fleet(verifiers).highest_held(), now);
}

#[test]
fn a_key_is_trusted_when_everybody_who_is_waited_for_says_so_in_this_history() {
    let trusting = |kids: &[&str]| Ack { trusted_bundle_keys: kids.iter().map(ToString::to_string).collect(), ..ack("1") };
    let old = Ack { history: "earlier".into(), ..trusting(&["k1", "k2"]) };
    for (given, complete, why) in [
        (Some(trusting(&["k1", "k2"])), true, "both"),
        (Some(trusting(&["k1"])), false, "its mount is not there yet"),
        (Some(old), false, "of another history"),
        (None, false, "says nothing"),
    ] {
        let fleet = fleet(vec![verifier("a", Some(trusting(&["k2"]))), verifier("b", given)]);
        let count = fleet.trusting("k2", ABSENT_AFTER);
        assert_eq!(count.complete(), complete, "{why}");
        assert_eq!(count.lagging, if complete { vec![] } else { vec!["b".to_owned()] }, "{why}");
    }
    assert!(!fleet(Vec::new()).trusting("k2", ABSENT_AFTER).complete(), "an empty set is never all");
}

#[test]
fn nothing_acknowledged_counts_while_there_is_no_history() {
    let blank = Ack { history: String::new(), ..ack("5") };
    let between = Fleet::new(vec![verifier("a", Some(blank))], String::new(), true, true);
    assert!(!between.all_hold(&policy(), Since { version: 1, generation: 1 }, ABSENT_AFTER));
}

#[test]
fn one_that_refuses_more_than_it_lists_holds_nothing_that_it_doesn_t_list() {
    let since = Since { version: 100, generation: 7 };
    let listed = Ack { refused_more: true, ..refusing("100", Some(7)) };
    assert!(fleet(vec![verifier("a", Some(listed))]).all_hold(&policy(), since, ABSENT_AFTER));
    let unlisted = Ack { refused_more: true, ..ack("100") };
    let fleet = fleet(vec![verifier("a", Some(unlisted)), verifier("b", Some(ack("100")))]);
    assert!(!fleet.all_hold(&policy(), since, ABSENT_AFTER));
    let count = fleet.count(&policy(), since, ABSENT_AFTER);
    assert_eq!((count.held, count.lagging, count.refused), (1, vec!["a".to_owned()], vec!["a".to_owned()]));
}

#[test]
fn a_count_says_the_same_however_it_is_reckoned() {
    let acks = |seed: usize| {
        let revision = (90 + seed * 7 % 20).to_string();
        match seed % 5 {
            0 => None,
            1 => Some(refusing(&revision, Some(5 + seed as u64 % 4))),
            2 => Some(refusing(&revision, None)),
            _ => Some(ack(&revision)),
        }
    };
    let verifiers: Vec<Verifier> = (0..60).map(|i| verifier(&format!("v{i:02}"), acks(i))).collect();
    let fleet = fleet(verifiers.clone());
    for version in 88..112 {
        let since = Since { version, generation: 7 };
        let plainly = |v: &&Verifier| {
            v.ack.as_ref().is_some_and(|ack| {
                let spares = |r: &RefusedPolicy| r.held.is_some_and(|held| held >= since.generation);
                ack.revision.parse::<u64>().unwrap() >= version && ack.refused.iter().all(spares)
            })
        };
        let expected = verifiers.iter().filter(plainly).count();
        let count = fleet.count(&policy(), since, ABSENT_AFTER);
        assert_eq!((count.held, count.required), (expected, 60), "{version}");
        assert_eq!(fleet.held(&policy(), since, ABSENT_AFTER), (expected, 60));
        let lagging: Vec<&str> = verifiers.iter().filter(|v| !plainly(v)).map(|v| &*v.name).take(MAX_NAMED).collect();
        assert_eq!(count.lagging, lagging);
    }
}

#[test]
fn before_the_feed_was_reached_once_nobody_is_known_to_be_nobody() {
    assert_eq!(Fleet::new(Vec::new(), "h".into(), false, false).known(), 1);
    assert_eq!(Fleet::new(Vec::new(), "h".into(), false, true).known(), 0);
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
    ended: BTreeSet<String>,
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
            ended: BTreeSet::new(),
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
        let listed = Listed {
            pods: &self.pods,
            nodes: &self.nodes,
            ended: &self.ended,
            remembered: &self.remembered,
            longest_absent_after_ms: ABSENT_AFTER,
        };
        self.roll.observe(&listed, &self.present, self.now)
    }

    fn required(&mut self) -> Vec<String> {
        let fleet = self.look();
        let fleet = self.roll.fleet(fleet, "h", &self.present, [], NOW);
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
fn a_pod_that_is_deleted_by_force_is_waited_for_as_long_as_its_containers_may_run() {
    let vanished = || {
        let mut scene = Scene::new(&["a", "b"]);
        scene.alive(&["a", "b"]).after(1);
        scene.pods.pop();
        assert_eq!(scene.required(), ["a", "b"], "its lease lives");
        scene.after(2);
        assert_eq!(scene.roll.to_remember(), Vec::<String>::new(), "it is none outside pods");
        assert_eq!(scene.alive(&["a"]).after(9).required(), ["a", "b"], "absent from its lease's end on");
        scene
    };
    let mut scene = vanished();
    assert_eq!(scene.after(2).required(), ["a"], "absent for too long");
    assert_eq!(scene.look().len(), 1, "and forgotten");
    assert!(!scene.roll.misses_any());

    let mut scene = vanished();
    scene.ended.insert("b".to_owned());
    assert_eq!(scene.required(), ["a"], "its last word was that its containers have ended");

    let mut scene = vanished();
    scene.nodes.clear();
    scene.pods[0].node = None;
    assert_eq!(scene.required(), ["a"], "its node is deleted");

    let mut scene = vanished();
    scene.present.fresh = false;
    assert_eq!(scene.after(30).required(), ["a", "b"], "nobody's absence is known");

    let mut scene = vanished();
    assert_eq!(scene.alive(&["a", "b"]).after(30).required(), ["a", "b"], "cut off from the cluster, and still there");
}

#[test]
fn a_pod_that_ended_or_was_never_placed_is_not_missed() {
    let mut scene = Scene::new(&["a", "b", "c"]);
    scene.pods[1].terminated = true;
    scene.pods[2].node = None;
    assert_eq!(scene.alive(&["a"]).required(), ["a", "c"]);
    scene.pods.truncate(1);
    assert_eq!(scene.required(), ["a"]);
    assert!(!scene.roll.misses_any());
}

#[test]
fn every_issuer_that_is_listed_or_alive_counts_and_holds_what_its_live_lease_says() {
    let mut scene = Scene::new(&["a"]);
    let lease = |name: &str, ack: Option<Ack>| (name.to_owned(), ack);
    scene.present.issuers = [lease("one", Some(ack("7"))), lease("unlisted", Some(ack("9"))), lease("mute", None)].into();
    let verifiers = scene.look();
    let listed = ["one", "mute", "silent"].map(str::to_owned);
    let mut fleet = |present: &FeedPresent| scene.roll.fleet(verifiers.clone(), "h", present, listed.clone(), NOW);
    let present = scene.present.clone();
    let now = fleet(&present);
    let shop = "shop/shop".parse().unwrap();
    assert_eq!([0, 7, 8].map(|version| now.issuers_at(&shop, version)), [(0, 4), (2, 4), (1, 4)]);
    let away = fleet(&FeedPresent { fresh: false, ..present });
    assert_eq!(away.issuers_at(&shop, 7), (0, 4), "nobody knows");
}

#[test]
fn an_issuer_that_refuses_a_policy_may_sign_by_what_it_held_before() {
    let mut scene = Scene::new(&["a"]);
    let verifiers = scene.look();
    let refused = vec![RefusedPolicy { policy: "shop/shop".into(), held: None, reason: "NotOne".into() }];
    let refusing = Ack { refused, ..ack("9") };
    let of_one = FeedPresent { issuers: [("one".to_owned(), Some(refusing))].into(), ..scene.present.clone() };
    let now = scene.roll.fleet(verifiers, "h", &of_one, ["one".to_owned()], NOW);
    assert_eq!(now.issuers_at(&"shop/shop".parse().unwrap(), 7), (0, 1));
    assert_eq!(now.issuers_at(&"shop/other".parse().unwrap(), 7), (1, 1));
}

#[test]
fn an_issuer_that_vanished_is_waited_for_like_a_verifier_and_one_that_ended_is_not() {
    let mut scene = Scene::new(&["a"]);
    let shop = "shop/shop".parse().unwrap();
    let count = |scene: &mut Scene, listed: &[&str]| {
        let verifiers = scene.look();
        let listed: Vec<String> = listed.iter().map(|name| (*name).to_owned()).collect();
        scene.roll.fleet(verifiers, "h", &scene.present.clone(), listed, NOW).issuers_at(&shop, 7).1
    };
    assert_eq!(count(&mut scene, &["one", "two"]), 2);
    scene.ended = ["two".to_owned()].into();
    assert_eq!(count(&mut scene, &["one"]), 1, "its containers have ended");
    scene.ended.clear();
    assert_eq!(count(&mut scene, &[]), 1, "deleted by force: it may sign still");
    scene.now += ABSENT_AFTER - 1;
    assert_eq!(count(&mut scene, &[]), 1);
    scene.now += 1;
    assert_eq!(count(&mut scene, &[]), 0, "it has stopped by itself");
}

#[test]
fn what_issuers_trust_is_what_their_live_leases_say() {
    let mut fleet = fleet(vec![verifier("a", Some(ack("1")))]);
    assert_eq!(fleet.issuers_trusting("k"), Count::default(), "there are none");
    fleet.issuers = [("one".to_owned(), Some(ack("1"))), ("two".to_owned(), None)].into();
    let count = fleet.issuers_trusting("k");
    assert_eq!((count.held, count.required, count.lagging), (1, 2, vec!["two".to_owned()]));
    assert_eq!(fleet.issuers_trusting("another").held, 0);
}

#[test]
fn of_an_acknowledgement_it_is_known_since_when_it_has_been_so() {
    let mut scene = Scene::new(&["a"]);
    let mut heard = |revision: &str, now: i64| {
        let lease = Lease { name: "a".into(), position: Position::new(1, 7), ack: Some(ack(revision)) };
        scene.present.leases = vec![lease];
        let verifiers = scene.look();
        let fleet = scene.roll.fleet(verifiers, "h", &scene.present, [], UnixMillis(now));
        fleet.heard["a"].clone()
    };
    let since = |now: i64| Heard { position: Position::new(1, 7), acknowledged: Some(UnixMillis(now)) };
    assert_eq!(heard("1", 1000), since(1000));
    assert_eq!(heard("1", 2000), since(1000));
    assert_eq!(heard("2", 3000), since(3000));
}
