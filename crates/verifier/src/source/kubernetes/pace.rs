//! How often the API server is asked.

use std::time::Duration;

/// Half of `absentAfter` where no policy says.
const UNCONFIRMED_MS: i64 = 5 * 60_000;
const FIRST_BACKOFF: Duration = Duration::from_millis(250);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// How long a watch is asked to last, when policies may go unconfirmed for so long.
pub(super) fn watch_for(unconfirmed_ms: Option<i64>) -> Duration {
    countersign_process::watch_for(unconfirmed_ms.unwrap_or(UNCONFIRMED_MS))
}

/// How often the present version is asked for.
pub(super) fn confirm_every(unconfirmed_ms: Option<i64>) -> Duration {
    countersign_process::confirm_every(unconfirmed_ms.unwrap_or(UNCONFIRMED_MS))
}

/// Waits that grow with each failure in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The next wait: between half of what it may be, and all.
    pub(super) fn next(&mut self) -> Duration {
        let longest = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(10)).min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        longest.mul_f64(random_fraction().mul_add(0.5, 0.5))
    }

    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// Evenly from 0 to 1.
pub(super) fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's randomness works");
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_state_is_proven_well_within_the_time_that_a_policy_allows() {
        for (allowed, watch, confirm) in
            [(None, 100, 50), (Some(300_000), 100, 50), (Some(30_000), 10, 5), (Some(500), 3, 1)]
        {
            assert_eq!((watch_for(allowed).as_secs(), confirm_every(allowed).as_secs()), (watch, confirm), "{allowed:?}");
        }
        assert_eq!(watch_for(Some(i64::MAX)).as_secs(), 290, "no watch may be asked to last longer");
    }

    #[test]
    fn waits_grow_and_begin_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.next()).collect();
        assert!(waits[0] <= FIRST_BACKOFF && waits[0] >= FIRST_BACKOFF / 2);
        assert!(waits.iter().all(|wait| *wait <= MAX_BACKOFF) && waits[11] >= MAX_BACKOFF / 2);
        backoff.reset();
        assert!(backoff.next() <= FIRST_BACKOFF);
    }
}
