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
