//! A ring's plan: each rule of rotation by example, and what holds over any history.

use std::collections::BTreeSet;

use countersign_core::{
    jose::Algorithm,
    keys::SigningKey,
    ring::{
        Acks, Action, Cause, KeyState, OnUnacknowledged, Phase, Ring, RotationSpec, key_set, next_change, plan, status,
    },
    time::UnixMillis,
};
use proptest::prelude::*;

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;
const START: UnixMillis = UnixMillis(1_700_000_000_000);

fn spec() -> RotationSpec {
    RotationSpec {
        algorithm: Algorithm::EdDSA,
        interval_ms: 30 * DAY,
        prepublish_ms: 10 * MINUTE,
        revision: Some("1".into()),
        rotation: None,
        revoked: BTreeSet::new(),
        on_unacknowledged: OnUnacknowledged::Wait,
        ack_timeout_ms: 5 * MINUTE,
        max_ttl_ms: 15 * MINUTE,
        clock_skew_ms: 30_000,
    }
}

/// A ring with its policy, its fleet and a clock.
struct Bench {
    ring: Ring,
    spec: RotationSpec,
    now: UnixMillis,
    verifiers: usize,
    /// The keys that all verifiers have; `None`: whatever the ring has.
    held: Option<BTreeSet<String>>,
    issuers_hold: Option<u64>,
    feed_reachable: bool,
    keys_made: u8,
}

impl Bench {
    fn new(verifiers: usize) -> Self {
        Self {
            ring: Ring::default(),
            spec: spec(),
            now: START,
            verifiers,
            held: None,
            issuers_hold: None,
            feed_reachable: true,
            keys_made: 0,
        }
    }

    /// With one key that signs and that everyone has.
    fn running() -> Self {
        let mut bench = Self::new(2);
        bench.settle();
        assert_eq!(bench.phase(), Phase::Ready);
        bench
    }

    fn acks(&self) -> Acks {
        let all = || self.ring.keys.iter().map(|key| key.kid.clone()).collect();
        Acks {
            known: self.verifiers,
            required: self.verifiers,
            held_by_all: self.held.clone().unwrap_or_else(all),
            issuers_hold: self.issuers_hold.unwrap_or(self.ring.version),
            server_now: self.feed_reachable.then_some(self.now),
        }
    }

    fn plan(&self) -> Vec<Action> {
        plan(&self.ring, &self.spec, &self.acks(), self.now)
    }

    /// One plan, carried out.
    fn step(&mut self) -> Vec<Action> {
        let actions = self.plan();
        let made = &mut self.keys_made;
        let ring = self.ring.apply(&actions, self.now, |algorithm| {
            *made += 1;
            key(*made, algorithm)
        });
        self.ring = ring.unwrap();
        actions
    }

    /// Plans until there is nothing to do.
    fn settle(&mut self) -> Vec<Action> {
        let mut done = Vec::new();
        for _ in 0..20 {
            let actions = self.step();
            if actions.is_empty() {
                return done;
            }
            done.extend(actions);
        }
        panic!("the plan never comes to rest: {done:?}")
    }

    fn after(&mut self, millis: i64) -> Vec<Action> {
        self.now = self.now.plus(millis);
        self.settle()
    }

    fn nobody_has_new_keys(&mut self) {
        self.held = Some(self.ring.keys.iter().map(|key| key.kid.clone()).collect());
    }

    fn states(&self) -> Vec<(&str, KeyState)> {
        self.ring.keys.iter().map(|key| (key.kid.as_str(), key.state)).collect()
    }

    fn active(&self) -> Option<&str> {
        self.ring.active().map(|key| key.kid.as_str())
    }

    fn phase(&self) -> Phase {
        status(&self.ring, &self.spec, &self.acks(), self.now).phase
    }
}

fn key(number: u8, algorithm: Algorithm) -> Result<SigningKey, countersign_core::keys::SigningKeyError> {
    let kid = format!("k{number}");
    let made = SigningKey::generate(algorithm)?;
    SigningKey::from_pkcs8(algorithm, Some(&kid), &made.to_pkcs8()?)
}

use KeyState::{Active, Pending, Retiring, Revoked};

#[test]
fn a_first_key_signs_at_once_where_nobody_verifies() {
    let mut bench = Bench::new(0);
    let actions = bench.settle();
    assert!(matches!(
        actions[..],
        [Action::Create { cause: Cause::First, .. }, Action::Activate { unacknowledged: false, .. }]
    ));
    assert_eq!(bench.phase(), Phase::Ready);
    assert_eq!(bench.ring.signing_key().unwrap().unwrap().kid(), "k1");
}

#[test]
fn a_first_key_waits_for_verifiers_but_no_longer_than_the_timeout() {
    let mut bench = Bench::new(1);
    bench.held = Some(BTreeSet::new());
    bench.settle();
    assert_eq!(bench.states(), [("k1", Pending)]);
    assert_eq!(bench.phase(), Phase::Generating);
    assert!(bench.ring.signing_key().unwrap().is_none());

    assert_eq!(bench.after(5 * MINUTE - 1), []);
    assert!(matches!(bench.after(1)[..], [Action::Activate { unacknowledged: true, .. }]));
    assert_eq!(bench.phase(), Phase::EmergencyUnacknowledged);

    bench.held = None;
    assert_eq!(bench.settle(), [Action::Acknowledged { kid: "k1".into() }]);
    assert_eq!(bench.phase(), Phase::Ready);
}

#[test]
fn a_scheduled_successor_is_published_before_it_is_due_and_signs_when_it_is() {
    let mut bench = Bench::running();
    assert_eq!(bench.after(30 * DAY - 10 * MINUTE - 1), []);
    assert!(matches!(bench.after(1)[..], [Action::Create { cause: Cause::Scheduled, .. }]));
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    assert_eq!(bench.phase(), Phase::Ready);
    assert_eq!(bench.after(10 * MINUTE - 1), []);
    assert!(matches!(bench.after(1)[0], Action::Activate { unacknowledged: false, .. }));
    assert_eq!(bench.states(), [("k1", Retiring), ("k2", Active)]);
}

#[test]
fn a_successor_that_comes_late_is_published_for_its_full_time_all_the_same() {
    let mut bench = Bench::running();
    bench.after(31 * DAY);
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    assert_eq!(bench.after(10 * MINUTE - 1), []);
    bench.after(1);
    assert_eq!(bench.active(), Some("k2"));
}

#[test]
fn a_rotation_waits_for_its_last_verifier_however_long() {
    let mut bench = Bench::running();
    bench.nobody_has_new_keys();
    bench.after(30 * DAY);
    bench.after(90 * DAY);
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    assert_eq!(bench.phase(), Phase::RotationWaiting);
    bench.held = None;
    bench.settle();
    assert_eq!(bench.active(), Some("k2"));
}

#[test]
fn no_verifier_at_all_is_not_every_verifier() {
    let mut bench = Bench::running();
    bench.verifiers = 0;
    bench.after(30 * DAY);
    bench.after(30 * DAY);
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    assert_eq!(bench.phase(), Phase::RotationWaiting);
}

#[test]
fn an_owner_who_chose_so_goes_on_without_acknowledgements_after_the_timeout() {
    let mut bench = Bench::running();
    bench.spec.on_unacknowledged = OnUnacknowledged::Proceed;
    bench.nobody_has_new_keys();
    bench.spec.revision = Some("2".into());
    bench.settle();
    assert_eq!(bench.after(5 * MINUTE - 1), []);
    bench.after(1);
    assert_eq!(bench.active(), Some("k2"));
    assert_eq!(bench.phase(), Phase::EmergencyUnacknowledged);
}

#[test]
fn a_request_rotates_once_and_as_soon_as_everyone_has_the_key() {
    type Ask = fn(&mut RotationSpec, &str);
    let asks: [Ask; 2] =
        [|spec, value| spec.revision = Some(value.into()), |spec, value| spec.rotation = Some(value.into())];
    for ask in asks {
        let mut bench = Bench::running();
        ask(&mut bench.spec, "now");
        let actions = bench.step();
        assert!(matches!(actions[..], [Action::Create { cause: Cause::Requested, .. }]));
        bench.settle();
        assert_eq!(bench.states(), [("k1", Retiring), ("k2", Active)], "without waiting for prepublish");
        assert_eq!(bench.after(MINUTE), []);

        bench.spec.revision = None;
        bench.spec.rotation = None;
        assert_eq!(bench.after(MINUTE), [], "taking a request away asks for nothing");
        ask(&mut bench.spec, "now");
        assert_eq!(bench.after(MINUTE), [], "the same value again asks for nothing");
        ask(&mut bench.spec, "again");
        bench.settle();
        assert_eq!(bench.active(), Some("k3"));
    }
}

#[test]
fn a_request_hastens_a_scheduled_successor_instead_of_making_another() {
    let mut bench = Bench::running();
    bench.after(30 * DAY - 5 * MINUTE);
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    bench.spec.revision = Some("2".into());
    bench.settle();
    assert_eq!(bench.states(), [("k1", Retiring), ("k2", Active)]);
}

#[test]
fn a_request_that_is_taken_back_leaves_its_key_to_the_schedule() {
    let mut bench = Bench::running();
    bench.nobody_has_new_keys();
    bench.spec.revision = Some("2".into());
    bench.settle();
    bench.spec.revision = Some("1".into());
    bench.held = None;
    assert_eq!(bench.settle(), []);
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    bench.after(30 * DAY);
    assert_eq!(bench.active(), Some("k2"));
}

#[test]
fn another_algorithm_starts_a_rotation_and_coming_back_to_the_old_one_ends_it() {
    let mut bench = Bench::running();
    bench.nobody_has_new_keys();
    bench.spec.algorithm = Algorithm::ES256;
    assert!(matches!(bench.settle()[..], [Action::Create { algorithm: Algorithm::ES256, cause: Cause::Algorithm }]));
    bench.spec.algorithm = Algorithm::EdDSA;
    assert_eq!(bench.settle(), [Action::Remove { kid: "k2".into() }]);

    bench.spec.algorithm = Algorithm::ES384;
    bench.held = None;
    bench.settle();
    let active = bench.ring.active().unwrap();
    assert_eq!((active.kid.as_str(), active.algorithm), ("k3", Algorithm::ES384));
}

#[test]
fn revoking_the_key_that_signs_makes_a_fresh_one_in_the_same_write() {
    let mut bench = Bench::running();
    bench.after(30 * DAY - 5 * MINUTE);
    assert_eq!(bench.states(), [("k1", Active), ("k2", Pending)]);
    bench.nobody_has_new_keys();
    bench.spec.revoked.insert("k1".into());

    let actions = bench.step();
    assert!(
        matches!(&actions[..], [Action::Revoke { kid }, Action::Create { cause: Cause::Emergency, .. }] if kid == "k1")
    );
    // The successor lay beside the stolen key: it goes too.
    assert_eq!(bench.states(), [("k1", Revoked), ("k3", Pending)]);
    assert_eq!(bench.phase(), Phase::NoSigningKey);
    assert!(bench.ring.signing_key().unwrap().is_none());

    assert_eq!(bench.after(1_999), []);
    bench.after(1);
    assert_eq!(bench.active(), Some("k3"));
    assert_eq!(bench.phase(), Phase::EmergencyUnacknowledged);
}

#[test]
fn an_emergency_key_that_everyone_has_signs_before_its_two_seconds_are_over() {
    let mut bench = Bench::running();
    bench.spec.revoked.insert("k1".into());
    bench.settle();
    assert_eq!(bench.active(), Some("k2"));
    assert_eq!(bench.phase(), Phase::Ready);
}

#[test]
fn a_second_emergency_is_handled_like_the_first() {
    let mut bench = Bench::running();
    bench.nobody_has_new_keys();
    bench.spec.revoked.insert("k1".into());
    bench.settle();
    bench.spec.revoked.insert("k2".into());
    bench.settle();
    assert_eq!(bench.states(), [("k1", Revoked), ("k2", Revoked), ("k3", Pending)], "revoked before it signed");
    bench.after(2_000);
    bench.spec.revoked.insert("k3".into());
    bench.settle();
    bench.after(2_000);
    assert_eq!(bench.active(), Some("k4"));
}

#[test]
fn a_revocation_is_final_and_erases_the_private_key() {
    let mut bench = Bench::running();
    bench.spec.revoked.insert("k1".into());
    bench.settle();
    bench.spec.revoked.clear();
    bench.after(400 * DAY);
    let revoked = bench.ring.key("k1").unwrap();
    assert_eq!((revoked.state, revoked.revoked, &revoked.pkcs8), (Revoked, Some(START), &None));
    let set = key_set(&bench.ring.public_keys()).unwrap();
    assert!(set.with_kid("k1").all(|entry| entry.revoked), "recognised, in order to say so");
    assert!(set.jwks().keys.iter().all(|jwk| jwk.kid.as_deref() != Some("k1")), "and no longer published");
}

#[test]
fn a_name_that_the_ring_does_not_have_is_revoked_in_vain() {
    let mut bench = Bench::running();
    bench.spec.revoked.insert("somebody else's".into());
    assert_eq!(bench.settle(), []);
}

#[test]
fn a_retired_key_verifies_until_its_last_token_is_dead_and_no_issuer_signs() {
    let mut bench = Bench::running();
    bench.issuers_hold = Some(bench.ring.version);
    bench.spec.revision = Some("2".into());
    bench.settle();
    assert_eq!(bench.after(DAY), [], "an issuer may still be signing with it");
    assert_eq!(bench.states(), [("k1", Retiring), ("k2", Active)]);

    bench.issuers_hold = None;
    let at = bench.now.plus(15 * MINUTE + 30_000);
    assert_eq!(bench.settle(), [Action::ScheduleRemoval { kid: "k1".into(), at }]);
    assert_eq!(bench.ring.key("k1").unwrap().pkcs8, None, "nobody needs its private half any more");
    assert_eq!(bench.after(15 * MINUTE + 29_999), []);
    bench.feed_reachable = false;
    assert_eq!(bench.after(1), [], "one clock is not enough");
    bench.feed_reachable = true;
    assert_eq!(bench.settle(), [Action::Remove { kid: "k1".into() }]);
}

#[test]
fn a_key_outlives_the_longest_token_that_it_ever_signed() {
    let mut bench = Bench::running();
    bench.spec.max_ttl_ms = DAY;
    assert_eq!(bench.settle(), [Action::NoteLifetime { kid: "k1".into(), ttl_ms: DAY }]);
    bench.spec.max_ttl_ms = MINUTE;
    bench.spec.revision = Some("2".into());
    bench.settle();
    bench.after(DAY);
    assert_eq!(bench.states(), [("k1", Retiring), ("k2", Active)]);
    bench.after(MINUTE);
    assert_eq!(bench.states(), [("k2", Active)]);
}

#[test]
fn a_clock_that_goes_back_delays_nothing_for_long() {
    let mut bench = Bench::running();
    bench.nobody_has_new_keys();
    bench.spec.revoked.insert("k1".into());
    bench.settle();
    bench.after(-DAY);
    bench.after(2_000);
    assert_eq!(bench.active(), Some("k2"), "an emergency waits two seconds, not a day");

    bench.held = None;
    bench.settle();
    bench.spec.revision = Some("2".into());
    bench.settle();
    bench.after(-DAY);
    bench.after(20 * MINUTE);
    assert_eq!(bench.states(), [("k1", Revoked), ("k3", Active)], "nor does a retired key stay a day too long");
    bench.after(30 * DAY);
    bench.after(10 * MINUTE);
    assert_eq!(bench.active(), Some("k4"), "nor a rotation");
}

#[test]
fn a_ring_is_stored_and_read_back_and_never_shown() {
    let mut bench = Bench::running();
    bench.spec.rotation = Some("a".into());
    bench.settle();
    let text = serde_json::to_string(&bench.ring).unwrap();
    let read: Ring = serde_json::from_str(&text).unwrap();
    assert_eq!(read, bench.ring);
    assert_eq!(read.signing_key().unwrap().unwrap().kid(), "k2");

    let stored: serde_json::Value = serde_json::from_str(&text).unwrap();
    let secret = stored["keys"][1]["pkcs8"].as_str().unwrap();
    let shown = format!("{:?} {:?}", bench.ring, bench.ring.public_keys());
    assert!(!shown.contains(secret) && !shown.contains("pkcs8: Some(PrivateKey([") && shown.contains("PrivateKey(..)"));
    assert!(!serde_json::to_string(&bench.ring.public_keys()).unwrap().contains(secret));
}

#[test]
fn a_plan_for_another_ring_is_not_carried_out() {
    let bench = Bench::running();
    let plans = [
        vec![Action::Remove { kid: "k9".into() }],
        vec![Action::Activate { kid: "k1".into(), unacknowledged: false, ttl_ms: 0, revision: None, rotation: None }],
    ];
    for actions in plans {
        assert!(bench.ring.apply(&actions, START, SigningKey::generate).is_err(), "{actions:?}");
    }
}

#[derive(Clone, Debug)]
enum Event {
    Wait(i64),
    StepBack(i64),
    Revise(u8),
    Annotate(Option<u8>),
    Algorithm(bool),
    RevokeNewest,
    RevokeActive,
    Lifetime(i64),
    HoldNothingNew,
    HoldAll,
    Verifiers(usize),
    IssuersLag,
    IssuersCatchUp,
    Feed(bool),
    Proceed(bool),
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..20 * MINUTE).prop_map(Event::Wait),
        3 => (0..31 * DAY).prop_map(Event::Wait),
        1 => (0..2 * DAY).prop_map(Event::StepBack),
        2 => (0..3_u8).prop_map(Event::Revise),
        1 => prop::option::of(0..3_u8).prop_map(Event::Annotate),
        1 => any::<bool>().prop_map(Event::Algorithm),
        1 => Just(Event::RevokeNewest),
        1 => Just(Event::RevokeActive),
        1 => (MINUTE..DAY).prop_map(Event::Lifetime),
        2 => Just(Event::HoldNothingNew),
        2 => Just(Event::HoldAll),
        1 => (0..3_usize).prop_map(Event::Verifiers),
        1 => Just(Event::IssuersLag),
        1 => Just(Event::IssuersCatchUp),
        1 => any::<bool>().prop_map(Event::Feed),
        1 => any::<bool>().prop_map(Event::Proceed),
    ]
}

impl Bench {
    fn happens(&mut self, event: &Event) {
        match event {
            Event::Wait(millis) => self.now = self.now.plus(*millis),
            Event::StepBack(millis) => self.now = self.now.minus(*millis),
            Event::Revise(value) => self.spec.revision = Some(value.to_string()),
            Event::Annotate(value) => self.spec.rotation = value.map(|v| v.to_string()),
            Event::Algorithm(ed) => self.spec.algorithm = if *ed { Algorithm::EdDSA } else { Algorithm::ES256 },
            Event::RevokeNewest => self.spec.revoked.extend(self.ring.keys.last().map(|k| k.kid.clone())),
            Event::RevokeActive => self.spec.revoked.extend(self.ring.active().map(|k| k.kid.clone())),
            Event::Lifetime(millis) => self.spec.max_ttl_ms = *millis,
            Event::HoldNothingNew => self.nobody_has_new_keys(),
            Event::HoldAll => self.held = None,
            Event::Verifiers(count) => self.verifiers = *count,
            Event::IssuersLag => self.issuers_hold = Some(self.ring.version),
            Event::IssuersCatchUp => self.issuers_hold = None,
            Event::Feed(reachable) => self.feed_reachable = *reachable,
            Event::Proceed(proceed) => {
                self.spec.on_unacknowledged = if *proceed { OnUnacknowledged::Proceed } else { OnUnacknowledged::Wait };
            }
        }
    }

    fn check(&self, before: &Ring) -> Result<(), TestCaseError> {
        prop_assert!(self.ring.in_state(Active).count() <= 1);
        prop_assert!(self.ring.in_state(Pending).count() <= 1);
        prop_assert!(self.ring.active().is_none_or(|k| k.pkcs8.is_some() && k.activated.is_some()));
        prop_assert!(self.ring.in_state(Revoked).all(|k| k.pkcs8.is_none() && k.revoked.is_some()));
        prop_assert!(self.ring.version >= before.version && (self.ring.version > before.version || self.ring == *before));
        for old in &before.keys {
            let new = self.ring.key(&old.kid).map(|k| k.state);
            let allowed: &[Option<KeyState>] = match old.state {
                Pending => &[Some(Pending), Some(Active), Some(Retiring), Some(Revoked), None],
                Active => &[Some(Active), Some(Retiring), Some(Revoked)],
                Retiring => &[Some(Retiring), Some(Revoked), None],
                Revoked => &[Some(Revoked)],
            };
            prop_assert!(allowed.contains(&new), "{} went from {:?} to {:?}", old.kid, old.state, new);
            let noted = self.ring.key(&old.kid).map_or(i64::MAX, |k| k.longest_ttl_ms);
            prop_assert!(noted >= old.longest_ttl_ms);
        }
        if before.active().is_some_and(|k| !self.spec.revoked.contains(&k.kid)) {
            prop_assert!(self.ring.active().is_some(), "a rotation left a moment without a key that signs");
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn over_any_history_the_ring_keeps_its_promises_and_comes_to_rest(history in prop::collection::vec(events(), 1..40)) {
        let mut bench = Bench::new(1);
        for event in &history {
            bench.happens(event);
            let before = bench.ring.clone();
            bench.settle();
            bench.check(&before)?;
        }
        // Once the trouble is over, a key signs that everyone has and that is what the policy asks for.
        bench.held = None;
        bench.verifiers = 1;
        bench.issuers_hold = None;
        bench.feed_reachable = true;
        bench.settle();
        bench.after(31 * DAY);
        bench.after(10 * MINUTE);
        let active = bench.ring.active().expect("a key signs");
        prop_assert!(!bench.spec.revoked.contains(&active.kid));
        prop_assert_eq!(active.algorithm, bench.spec.algorithm);
        prop_assert_eq!(bench.phase(), Phase::Ready);
        bench.after(2 * DAY);
        prop_assert_eq!(bench.ring.in_state(Retiring).count(), 0);
    }

    #[test]
    fn until_the_next_change_there_is_nothing_to_do(
        history in prop::collection::vec(events(), 1..20),
        part in 0.0..1.0_f64,
    ) {
        let mut bench = Bench::new(1);
        for event in &history {
            bench.happens(event);
            bench.settle();
        }
        let next = next_change(&bench.ring, &bench.spec, &bench.acks(), bench.now);
        let wait = next.map_or(400 * DAY, |at| at.since(bench.now));
        prop_assert!(wait > 0, "nothing is left to do, yet the next change is now");
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "any instant in between will do")]
        let within = ((wait - 1) as f64 * part) as i64;
        bench.now = bench.now.plus(within);
        prop_assert_eq!(bench.plan(), []);
    }
}
