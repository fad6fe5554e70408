//! Stricter limits while many logins fail.
//!
//! A limit per address is set so that a crowded network can live with it. While logins fail at a rate that no crowd of
//! forgetful people causes, that generosity is what an attacker lives on: so limits on logins per address are halved for as
//! long as the failures of a policy, over one sliding minute, exceed twenty times what its limit allows one account.

/// The span over which failures are counted, milliseconds.
pub(super) const MINUTE_MS: i64 = 60_000;
/// So many times an account's limit in a minute, over all accounts, is an attack.
const CROWD: u64 = 20;

/// How many logins of a policy fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pressure {
    /// In the minute before this one.
    pub(crate) last_minute: u32,
    /// In this one so far.
    pub(crate) this_minute: u32,
    /// How far this one has got, milliseconds.
    pub(crate) into_minute_ms: i64,
}

impl Pressure {
    /// Failures in the sixty seconds that end now, taking those of the last minute as spread evenly.
    fn per_minute(self) -> u64 {
        let rest = MINUTE_MS.saturating_sub(self.into_minute_ms).clamp(0, MINUTE_MS).unsigned_abs();
        u64::from(self.this_minute) + u64::from(self.last_minute) * rest / MINUTE_MS.unsigned_abs()
    }

    /// Whether that is an attack, where one account has so many tries.
    pub(crate) fn is_attack(self, account_limit: u32) -> bool {
        self.per_minute() > CROWD * u64::from(account_limit.max(1))
    }
}

/// The limit per address as it holds now: half of it, and at least one, under attack.
pub(crate) const fn halved_under_attack(limit: u32, attack: bool) -> u32 {
    match (attack, limit / 2) {
        (false, _) => limit,
        (true, 0) => {
            if limit == 0 {
                0
            } else {
                1
            }
        }
        (true, half) => half,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn twenty_times_an_account_s_limit_in_a_minute_is_an_attack() {
        for (last_minute, this_minute, into_minute_ms, attack) in [
            (0, 0, 0, false),
            (0, 100, 1_000, false),
            (0, 101, 1_000, true),
            // What failed in the last minute counts less and less.
            (200, 0, 0, true),
            (200, 0, 29_000, true),
            (200, 0, 30_000, false),
            (200, 60, 45_000, true),
            (u32::MAX, u32::MAX, 0, true),
            (u32::MAX, 0, 60_000, false),
        ] {
            let pressure = Pressure { last_minute, this_minute, into_minute_ms };
            assert_eq!(pressure.is_attack(5), attack, "{pressure:?}");
        }
        assert!(Pressure { last_minute: 0, this_minute: 21, into_minute_ms: 0 }.is_attack(0));
    }

    #[test]
    fn under_attack_a_limit_is_halved_and_never_nothing() {
        for (limit, under_attack) in [(0, 0), (1, 1), (2, 1), (3, 1), (100, 50), (u32::MAX, u32::MAX / 2)] {
            assert_eq!(halved_under_attack(limit, true), under_attack, "{limit}");
            assert_eq!(halved_under_attack(limit, false), limit);
        }
    }

    proptest! {
        #[test]
        fn more_failures_are_never_less_of_an_attack(last: u32, this: u32, into in 0..MINUTE_MS, limit in 0..10_000u32) {
            let pressure = |last_minute, this_minute| Pressure { last_minute, this_minute, into_minute_ms: into };
            let attack = pressure(last, this).is_attack(limit);
            prop_assert!(!attack || pressure(last.saturating_add(1), this).is_attack(limit));
            prop_assert!(!attack || pressure(last, this.saturating_add(1)).is_attack(limit));
        }
    }
}
