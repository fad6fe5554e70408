//! Every interleaving of a small fleet: two planners of which either may be stale, verifiers that miss bundles, restart from an
//! old disk or are cut off and go on answering, an issuer that lags behind the ring or is gone for ever, lost
//! acknowledgements, a revoked signing key, and clocks that step.
//!
//! In none of them does a verifier that vouches for its state refuse a living token whose key came into use the ordinary way.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
};

use countersign_core::{
    jose::Algorithm,
    keys::SigningKey,
    ring::{Acks, Action, KeyState, OnUnacknowledged, Ring, RotationSpec, plan},
    time::UnixMillis,
};
use stateright::{Checker, Model, Property};

/// Time goes in ticks of a second. A verifier that is cut off stops vouching after one tick, and is no longer waited for after
/// two.
const ABSENT_AFTER: u8 = 2;
const TTL: u8 = 1;

/// What may happen in a run, and for how long it is followed. Runs with several planners split each of their steps into
/// reading, writing and publishing; with one, the three are one, to leave room for other trouble.
#[derive(Clone, Debug, Default)]
struct Fleet {
    verifiers: usize,
    planners: usize,
    horizon: u8,
    rotations: u8,
    revocations: u8,
    restarts: u8,
    partitions: u8,
    lost_acks: bool,
    issuer_may_vanish: bool,
    clock_steps: Vec<i8>,
    proceed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    time: u8,
    /// How far the planners' clock is from the truth.
    clock_error: i8,
    ring: StoredRing,
    /// What the published bundle makes verifiers accept.
    bundle: BTreeSet<String>,
    planners: Vec<Option<Decision>>,
    verifiers: Vec<Verifier>,
    issuer: Option<u64>,
    /// Which key an issuer signs with, by version.
    active_by_version: BTreeMap<u64, Option<String>>,
    /// When the last token of each key dies.
    tokens: BTreeMap<String, u8>,
    /// Keys that came into use before all had them, as an emergency or the policy's owner wanted.
    exempt: BTreeSet<String>,
    revision: u8,
    revoked: BTreeSet<String>,
    keys_made: u8,
    left: Left,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Left {
    rotations: u8,
    revocations: u8,
    restarts: u8,
    partitions: u8,
    clock_steps: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct StoredRing(Ring);

impl Hash for StoredRing {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.version.hash(state);
        self.0.handled_revision.hash(state);
        for k in &self.0.keys {
            (&k.kid, k.state, k.created, k.activated, k.retired_in, k.remove_after, k.unacknowledged, k.longest_ttl_ms)
                .hash(state);
        }
    }
}

/// What a planner has decided and not yet written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Decision {
    version: u64,
    actions: Vec<Action>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Verifier {
    /// What the bundle in memory makes it accept; that on disk is the same.
    bundle: BTreeSet<String>,
    acknowledged: Option<BTreeSet<String>>,
    /// Whether it has confirmed the present state since it started.
    confirmed: bool,
    cut_off_since: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Step {
    Tick,
    PlanAtOnce,
    Decide(usize),
    Write(usize),
    Publish,
    Fetch(usize),
    Acknowledge(usize),
    LoseAcks,
    Restart(usize),
    CutOff(usize),
    Reconnect(usize),
    IssuerReads,
    IssuerVanishes,
    AskForRotation,
    RevokeTheSigningKey,
    ClockSteps(i8),
}

impl World {
    fn planner_now(&self) -> UnixMillis {
        UnixMillis::from_secs(100 + i64::from(self.time) + i64::from(self.clock_error))
    }

    fn spec(&self, fleet: &Fleet) -> RotationSpec {
        RotationSpec {
            algorithm: Algorithm::EdDSA,
            interval_ms: 3_000,
            prepublish_ms: 1_000,
            revision: Some(self.revision.to_string()),
            rotation: None,
            revoked: self.revoked.clone(),
            on_unacknowledged: if fleet.proceed { OnUnacknowledged::Proceed } else { OnUnacknowledged::Wait },
            ack_timeout_ms: 1_000,
            max_ttl_ms: i64::from(TTL) * 1000,
            clock_skew_ms: 0,
        }
    }

    fn acks(&self) -> Acks {
        let absent = |v: &Verifier| v.cut_off_since.is_some_and(|since| self.time >= since + ABSENT_AFTER);
        let required: Vec<&Verifier> = self.verifiers.iter().filter(|v| !absent(v)).collect();
        let held = |v: &&Verifier| v.acknowledged.clone().unwrap_or_default();
        let held_by_all =
            required.iter().map(held).reduce(|a, b| a.intersection(&b).cloned().collect()).unwrap_or_default();
        Acks {
            known: self.verifiers.len(),
            required: required.len(),
            held_by_all,
            issuers_hold: self.issuer.unwrap_or(self.ring.0.version),
            server_now: Some(UnixMillis::from_secs(100 + i64::from(self.time))),
        }
    }

    /// The issuer signs whenever it can: the worst that it may do.
    fn sign(&mut self) {
        let signing = self.issuer.and_then(|version| self.active_by_version.get(&version).cloned().flatten());
        if let Some(kid) = signing {
            // It follows the feed, which knows of revocations at once.
            if !self.revoked.contains(&kid) {
                self.tokens.insert(kid, self.time + TTL);
            }
        }
    }

    /// Whether a verifier answers 401 rather than 503 for a key that it doesn't know.
    fn vouches(&self, v: &Verifier) -> bool {
        v.confirmed && v.cut_off_since.is_none_or(|since| self.time < since + ABSENT_AFTER / 2)
    }

    fn good_tokens_are_accepted(&self) -> bool {
        self.verifiers.iter().filter(|v| self.vouches(v)).all(|v| {
            self.tokens.iter().all(|(kid, dies)| {
                *dies <= self.time || self.revoked.contains(kid) || self.exempt.contains(kid) || v.bundle.contains(kid)
            })
        })
    }

    fn decide(&mut self, fleet: &Fleet, at: usize) {
        let actions = plan(&self.ring.0, &self.spec(fleet), &self.acks(), self.planner_now());
        self.planners[at] = Some(Decision { version: self.ring.0.version, actions });
    }

    /// Writes a decision, unless the ring has changed since.
    fn write(&mut self, at: usize) {
        let Some(Decision { version, actions }) = self.planners[at].take() else { return };
        if version != self.ring.0.version {
            return;
        }
        let now = self.planner_now();
        let made = &mut self.keys_made;
        let ring = self.ring.0.apply(&actions, now, |_| {
            *made += 1;
            Ok(key(*made))
        });
        self.ring = StoredRing(ring.expect("a plan fits the ring that it was made for"));
        for action in &actions {
            if let Action::Activate { kid, unacknowledged: true, .. } = action {
                self.exempt.insert(kid.clone());
            }
        }
        let (now, issuer) = (self.ring.0.version, self.issuer);
        self.active_by_version.insert(now, self.ring.0.active().map(|k| k.kid.clone()));
        self.active_by_version.retain(|version, _| Some(*version) == issuer || *version == now);
    }

    /// What the ring makes verifiers accept, once it is published.
    fn to_publish(&self) -> BTreeSet<String> {
        self.ring.0.keys.iter().filter(|k| k.state != KeyState::Revoked).map(|k| k.kid.clone()).collect()
    }
}

fn key(number: u8) -> SigningKey {
    let pkcs8 = [&hex::decode("302e020100300506032b657004220420").unwrap()[..], &[number; 32]].concat();
    SigningKey::from_pkcs8(Algorithm::EdDSA, Some(&format!("k{number}")), &pkcs8).unwrap()
}

impl Model for Fleet {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let verifier = Verifier { bundle: BTreeSet::new(), acknowledged: None, confirmed: false, cut_off_since: None };
        vec![World {
            time: 0,
            clock_error: 0,
            ring: StoredRing(Ring::default()),
            bundle: BTreeSet::new(),
            planners: vec![None; self.planners],
            verifiers: vec![verifier; self.verifiers],
            issuer: Some(0),
            active_by_version: BTreeMap::from([(0, None)]),
            tokens: BTreeMap::new(),
            exempt: BTreeSet::new(),
            revision: 0,
            revoked: BTreeSet::new(),
            keys_made: 0,
            left: Left {
                rotations: self.rotations,
                revocations: self.revocations,
                restarts: self.restarts,
                partitions: self.partitions,
                clock_steps: self.clock_steps.len(),
            },
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        steps.push(Step::Tick);
        let spec = world.spec(self);
        for (at, decision) in world.planners.iter().enumerate() {
            match decision {
                None if !plan(&world.ring.0, &spec, &world.acks(), world.planner_now()).is_empty() => {
                    steps.push(if self.planners == 1 { Step::PlanAtOnce } else { Step::Decide(at) });
                }
                Some(_) => steps.push(Step::Write(at)),
                None => {}
            }
        }
        if world.bundle != world.to_publish() {
            steps.push(Step::Publish);
        }
        for (at, v) in world.verifiers.iter().enumerate() {
            match v.cut_off_since {
                None => {
                    if v.bundle != world.bundle || !v.confirmed {
                        steps.push(Step::Fetch(at));
                    }
                    if v.confirmed && v.acknowledged.as_ref() != Some(&v.bundle) {
                        steps.push(Step::Acknowledge(at));
                    }
                    if world.left.partitions > 0 {
                        steps.push(Step::CutOff(at));
                    }
                }
                Some(_) => steps.push(Step::Reconnect(at)),
            }
            if world.left.restarts > 0 {
                steps.push(Step::Restart(at));
            }
        }
        if self.lost_acks && world.verifiers.iter().any(|v| v.acknowledged.is_some()) {
            steps.push(Step::LoseAcks);
        }
        if let Some(version) = world.issuer {
            if version != world.ring.0.version {
                steps.push(Step::IssuerReads);
            }
            if self.issuer_may_vanish {
                steps.push(Step::IssuerVanishes);
            }
        }
        if world.ring.0.active().is_some() {
            if world.left.rotations > 0 {
                steps.push(Step::AskForRotation);
            }
            if world.left.revocations > 0 {
                steps.push(Step::RevokeTheSigningKey);
            }
            if world.left.clock_steps > 0 {
                steps.push(Step::ClockSteps(self.clock_steps[self.clock_steps.len() - world.left.clock_steps]));
            }
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let mut world = before.clone();
        match step {
            Step::Tick => {
                world.time += 1;
                let now = world.time;
                world.tokens.values_mut().filter(|dies| **dies <= now).for_each(|dies| *dies = 0);
                world.sign();
            }
            Step::PlanAtOnce => {
                world.decide(self, 0);
                world.write(0);
                world.bundle = world.to_publish();
            }
            Step::Decide(at) => world.decide(self, at),
            Step::Write(at) => world.write(at),
            Step::Publish => world.bundle = world.to_publish(),
            Step::Fetch(at) => {
                world.verifiers[at].bundle.clone_from(&world.bundle);
                world.verifiers[at].confirmed = true;
            }
            Step::Acknowledge(at) => {
                let bundle = world.verifiers[at].bundle.clone();
                world.verifiers[at].acknowledged = Some(bundle);
            }
            Step::LoseAcks => world.verifiers.iter_mut().for_each(|v| v.acknowledged = None),
            Step::Restart(at) => {
                // The old life's acknowledgement may outlive it; what it says is on the disk.
                world.verifiers[at].confirmed = false;
                world.left.restarts -= 1;
            }
            Step::CutOff(at) => {
                world.verifiers[at].cut_off_since = Some(world.time);
                world.left.partitions -= 1;
            }
            Step::Reconnect(at) => {
                let since = world.verifiers[at].cut_off_since.take()?;
                if world.time >= since + ABSENT_AFTER / 2 {
                    // It stopped vouching, and starts again only with the present state.
                    world.verifiers[at].confirmed = false;
                }
            }
            Step::IssuerReads => {
                world.issuer = Some(world.ring.0.version);
                world.sign();
            }
            Step::IssuerVanishes => world.issuer = None,
            Step::AskForRotation => {
                world.revision += 1;
                world.left.rotations -= 1;
            }
            Step::RevokeTheSigningKey => {
                let kid = world.ring.0.active()?.kid.clone();
                world.revoked.insert(kid);
                world.left.revocations -= 1;
            }
            Step::ClockSteps(by) => {
                world.clock_error += by;
                world.left.clock_steps -= 1;
            }
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a living token is never refused", |_, world: &World| world.good_tokens_are_accepted()),
            Property::always("at most one key signs", |_, world: &World| {
                world.ring.0.in_state(KeyState::Active).count() <= 1
            }),
            Property::always("a key that signs has its private half", |_, world: &World| {
                world.ring.0.active().is_none_or(|k| k.pkcs8.is_some())
            }),
            Property::always("a revoked key stays revoked, without its private half", |_, world: &World| {
                let revoked = |kid: &String| world.ring.0.key(kid).map(|k| (k.state, k.pkcs8.is_some()));
                let was = world.ring.0.keys.iter().filter(|k| k.revoked.is_some());
                was.map(|k| &k.kid).all(|kid| revoked(kid) == Some((KeyState::Revoked, false)))
            }),
            Property::sometimes("a key signs", |_, world: &World| !world.tokens.is_empty()),
            Property::sometimes("a second key signs", |_, world: &World| world.tokens.len() > 1),
            Property::sometimes("a key has come to its end", |_, world: &World| {
                world.tokens.keys().any(|kid| world.ring.0.key(kid).is_none_or(|k| k.state == KeyState::Revoked))
            }),
        ]
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.time <= self.horizon && world.keys_made <= 4
    }
}

#[track_caller]
fn check(fleet: Fleet) {
    let checker = fleet.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
}

#[test]
fn a_requested_rotation_with_two_planners_refuses_no_token() {
    check(Fleet { verifiers: 1, planners: 2, horizon: 2, rotations: 1, ..Fleet::default() });
}

#[test]
fn verifiers_that_restart_and_lose_acknowledgements_refuse_no_token() {
    check(Fleet { verifiers: 2, planners: 1, horizon: 2, rotations: 1, restarts: 1, lost_acks: true, ..Fleet::default() });
}

#[test]
fn a_verifier_that_is_cut_off_and_goes_on_answering_refuses_no_token() {
    check(Fleet { verifiers: 2, planners: 1, horizon: 3, rotations: 1, partitions: 1, ..Fleet::default() });
}

#[test]
fn emergencies_one_after_another_refuse_no_token_of_other_keys() {
    check(Fleet { verifiers: 1, planners: 2, horizon: 2, revocations: 1, ..Fleet::default() });
    check(Fleet { verifiers: 1, planners: 1, horizon: 4, revocations: 2, ..Fleet::default() });
}

#[test]
fn clocks_that_step_both_ways_refuse_no_token() {
    for clock_steps in [vec![9, -9], vec![-9, 9]] {
        check(Fleet { verifiers: 1, planners: 1, horizon: 3, rotations: 1, clock_steps, ..Fleet::default() });
    }
}

#[test]
fn an_issuer_that_is_gone_for_ever_holds_nothing_up() {
    check(Fleet { verifiers: 1, planners: 1, horizon: 2, rotations: 1, issuer_may_vanish: true, ..Fleet::default() });
}

#[test]
fn proceeding_without_acknowledgement_fails_only_the_keys_that_it_was_chosen_for() {
    check(Fleet { verifiers: 2, planners: 1, horizon: 2, rotations: 1, proceed: true, ..Fleet::default() });
}

#[test]
fn a_schedule_alone_rotates() {
    check(Fleet { verifiers: 1, planners: 2, horizon: 5, ..Fleet::default() });
}
