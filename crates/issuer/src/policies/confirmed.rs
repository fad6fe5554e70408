//! Whether what an issuer holds of a policy is still what there is.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering::Relaxed},
};

use countersign_feed::Clock;

/// Nothing was confirmed yet.
const NEVER: i64 = i64::MIN;

/// When it was last confirmed that what is held is what there is. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Confirmation(Arc<AtomicI64>);

impl Default for Confirmation {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(NEVER)))
    }
}

impl Confirmation {
    /// What is held was what there is at `at` ([`Clock::boot_millis`]).
    pub fn note(&self, at: i64) {
        self.0.fetch_max(at, Relaxed);
    }

    /// For how long it has gone unconfirmed, milliseconds; absent: it never was confirmed.
    pub fn age_ms(&self) -> Option<i64> {
        match self.0.load(Relaxed) {
            NEVER => None,
            at => Some(Clock::boot_millis().saturating_sub(at).max(0)),
        }
    }
}

/// What a policy's keys sign by.
#[derive(Clone, Debug)]
pub struct SignsWhile {
    /// When what is held was confirmed last.
    pub confirmed: Confirmation,
    /// How long it may go unconfirmed, milliseconds.
    pub within_ms: i64,
}

impl SignsWhile {
    /// The shortest time that anything may be asked to be confirmed in, milliseconds.
    pub const SHORTEST_MS: i64 = 10_000;

    /// Within half of a policy's `absentAfter`: who isn't confirmed for longer has stopped before anybody stops waiting for it.
    pub fn of(confirmed: Confirmation, absent_after_ms: i64) -> Self {
        Self { confirmed, within_ms: (absent_after_ms / 2).max(Self::SHORTEST_MS) }
    }

    /// Whether the keys may sign.
    pub fn holds(&self) -> bool {
        self.confirmed.age_ms().is_some_and(|age| age < self.within_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sign_while_they_are_confirmed_and_an_earlier_word_takes_nothing_back() {
        let confirmed = Confirmation::default();
        let signs = SignsWhile::of(confirmed.clone(), 600_000);
        assert!(!signs.holds(), "nobody has said so yet");
        let now = Clock::boot_millis();
        for (at, holds) in [(now - 300_000, false), (now - 200_000, true), (now - 300_000, true), (now, true)] {
            confirmed.note(at);
            assert_eq!(signs.holds(), holds, "{}", now - at);
        }
        assert_eq!(SignsWhile::of(confirmed, 1000).within_ms, SignsWhile::SHORTEST_MS);
    }
}
