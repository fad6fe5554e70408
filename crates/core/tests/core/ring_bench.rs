//! A ring with its policy, its fleet and a clock, for tests to turn by hand.

use std::collections::{BTreeMap, BTreeSet};

use countersign_core::{
    jose::Algorithm,
    keys::SigningKey,
    ring::{Acks, Action, KeyState, OnUnacknowledged, Phase, Ring, RotationSpec, plan, status},
    time::UnixMillis,
};

pub(crate) const MINUTE: i64 = 60_000;
pub(crate) const DAY: i64 = 24 * 60 * MINUTE;
pub(crate) const START: UnixMillis = UnixMillis(1_700_000_000_000);

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
pub(crate) struct Bench {
    pub(crate) ring: Ring,
    pub(crate) spec: RotationSpec,
    pub(crate) now: UnixMillis,
    pub(crate) verifiers: usize,
    /// The keys that all verifiers have; `None`: whatever the ring has.
    pub(crate) held: Option<BTreeSet<String>>,
    pub(crate) issuers_hold: Option<u64>,
    /// No bundle with the ring's keys can be written.
    pub(crate) unpublished: bool,
    /// Since when the bundle holds each of the keys; `None`: since it was made.
    pub(crate) published_at: Option<UnixMillis>,
    pub(crate) feed_reachable: bool,
    keys_made: u8,
}

impl Bench {
    pub(crate) fn new(verifiers: usize) -> Self {
        Self {
            ring: Ring::default(),
            spec: spec(),
            now: START,
            verifiers,
            held: None,
            issuers_hold: None,
            unpublished: false,
            published_at: None,
            feed_reachable: true,
            keys_made: 0,
        }
    }

    /// With one key that signs and that everyone has.
    pub(crate) fn running() -> Self {
        let mut bench = Self::new(2);
        bench.settle();
        assert_eq!(bench.phase(), Phase::Ready);
        bench
    }

    pub(crate) fn acks(&self) -> Acks {
        let all = || self.ring.keys.iter().map(|key| key.kid.clone()).collect();
        Acks {
            known: self.verifiers,
            required: self.verifiers,
            held_by_all: self.held.clone().unwrap_or_else(all),
            published: self.published(),
            issuers_hold: self.issuers_hold.unwrap_or(self.ring.version),
            server_now: self.feed_reachable.then_some(self.now),
        }
    }

    fn published(&self) -> BTreeMap<String, UnixMillis> {
        let keys = self.ring.keys.iter().filter(|_| !self.unpublished);
        keys.map(|key| (key.kid.clone(), self.published_at.unwrap_or(key.created))).collect()
    }

    pub(crate) fn plan(&self) -> Vec<Action> {
        plan(&self.ring, &self.spec, &self.acks(), self.now)
    }

    /// One plan, carried out.
    pub(crate) fn step(&mut self) -> Vec<Action> {
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
    pub(crate) fn settle(&mut self) -> Vec<Action> {
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

    pub(crate) fn after(&mut self, millis: i64) -> Vec<Action> {
        self.now = self.now.plus(millis);
        self.settle()
    }

    pub(crate) fn nobody_has_new_keys(&mut self) {
        self.held = Some(self.ring.keys.iter().map(|key| key.kid.clone()).collect());
    }

    pub(crate) fn states(&self) -> Vec<(&str, KeyState)> {
        self.ring.keys.iter().map(|key| (key.kid.as_str(), key.state)).collect()
    }

    pub(crate) fn active(&self) -> Option<&str> {
        self.ring.active().map(|key| key.kid.as_str())
    }

    pub(crate) fn phase(&self) -> Phase {
        status(&self.ring, &self.spec, &self.acks(), self.now).phase
    }
}

fn key(number: u8, algorithm: Algorithm) -> Result<SigningKey, countersign_core::keys::SigningKeyError> {
    let kid = format!("k{number}");
    let made = SigningKey::generate(algorithm)?;
    SigningKey::from_pkcs8(algorithm, Some(&kid), &made.to_pkcs8()?)
}
