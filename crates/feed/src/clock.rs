//! Ages, by a clock that neither steps nor stops while the machine sleeps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use countersign_core::time::UnixMillis;
use rustix::time::{ClockId, clock_gettime};

/// Where time is read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clock;

impl Clock {
    /// Microseconds since the machine started, suspended time included (`CLOCK_BOOTTIME`).
    pub fn boot_micros() -> i64 {
        let t = clock_gettime(ClockId::Boottime);
        t.tv_sec.saturating_mul(1_000_000).saturating_add(t.tv_nsec / 1000)
    }

    /// Milliseconds since the machine started, suspended time included.
    pub fn boot_millis() -> i64 {
        Self::boot_micros() / 1000
    }

    /// This machine's own wall clock.
    pub fn wall() -> UnixMillis {
        let since = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        UnixMillis(match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => since(after),
            Err(before) => -since(before.duration()),
        })
    }
}

/// The wall clock, but for its steps forward, which are believed only once they have stood for a day: for a server that has no
/// other clock than its clients. Entries are purged by two clocks, and here one step would move both.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SteadyClock {
    wall: UnixMillis,
    boot_ms: i64,
    /// Since when the wall clock has been ahead, by the other one.
    ahead_since: Option<i64>,
}

impl SteadyClock {
    /// What counts as a step, and not as a clock that is being adjusted.
    const STEP_MS: i64 = 60_000;
    const BELIEVED_AFTER_MS: i64 = 24 * 3_600_000;

    pub(crate) const fn start(wall: UnixMillis, boot_ms: i64) -> Self {
        Self { wall, boot_ms, ahead_since: None }
    }

    /// The time, given both clocks now.
    pub(crate) fn read(&mut self, wall: UnixMillis, boot_ms: i64) -> UnixMillis {
        let expected = self.wall.plus(boot_ms.saturating_sub(self.boot_ms));
        if wall.since(expected) > Self::STEP_MS {
            let since = *self.ahead_since.get_or_insert(boot_ms);
            if boot_ms.saturating_sub(since) < Self::BELIEVED_AFTER_MS {
                return expected;
            }
        }
        *self = Self::start(wall, boot_ms);
        wall
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_forward_is_believed_only_after_a_day_and_one_back_at_once() {
        const HOUR: i64 = 3_600_000;
        let mut clock = SteadyClock::start(UnixMillis(0), 0);
        let at = |clock: &mut SteadyClock, wall, boot| clock.read(UnixMillis(wall), boot).0;
        assert_eq!(at(&mut clock, HOUR + 5_000, HOUR), HOUR + 5_000, "adjusted");
        assert_eq!(at(&mut clock, 9 * HOUR, 2 * HOUR), 2 * HOUR + 5_000, "stepped");
        assert_eq!(at(&mut clock, 10 * HOUR, 3 * HOUR), 3 * HOUR + 5_000, "still");
        assert_eq!(at(&mut clock, 4 * HOUR, 4 * HOUR), 4 * HOUR, "and back");
        assert_eq!(at(&mut clock, HOUR, 5 * HOUR), HOUR, "further back");
        assert_eq!(at(&mut clock, 100 * HOUR, 6 * HOUR), 2 * HOUR);
        assert_eq!(at(&mut clock, 124 * HOUR, 30 * HOUR), 124 * HOUR, "set right, then");
    }
}
