//! What holds of a ring over any history.

use countersign_core::{
    jose::Algorithm,
    ring::{
        KeyState::{self, Active, Pending, Retiring, Revoked},
        OnUnacknowledged, Phase, Ring, next_change,
    },
};
use proptest::prelude::*;

use crate::ring_bench::{Bench, DAY, MINUTE};

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
