//! Verifications per subject, counted on this node alone.
//!
//! At most `limit` in any window, never more. A window is kept as up to nine runs of calls: a run holds the calls of at most
//! an eighth of the window, and counts until its last one is a window old. So memory per key is fixed, no burst at the edge of
//! a window gets double, and what is refused too much is at most what was made in an eighth of a window.

use std::collections::HashMap;

use parking_lot::Mutex;

use crate::{policy::RateLimit, time::UnixMillis};

const SHARDS: usize = 16;
const RUNS_PER_WINDOW: i64 = 8;
/// One more than [`RUNS_PER_WINDOW`]: the oldest may lie partly outside the window.
const RUNS: usize = 9;

/// Counts calls per key in bounded memory. Keys are expected to be keyed hashes: nobody outside can choose them.
pub struct RateLimiter {
    shards: [Mutex<HashMap<u128, Window>>; SHARDS],
    keys_per_shard: usize,
}

/// Calls that were not far apart.
#[derive(Clone, Copy, Debug, Default)]
struct Run {
    first: i64,
    last: i64,
    calls: u32,
}

/// One key's recent calls, oldest run first.
#[derive(Clone, Copy, Debug)]
struct Window {
    runs: [Run; RUNS],
    used: usize,
    length_ms: i64,
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self::new()
    }
}

impl RateLimiter {
    /// A limiter that remembers up to 65,536 keys (about 17 MB when full).
    pub fn new() -> Self {
        Self::with_capacity(65_536)
    }

    /// A limiter that remembers up to about this many keys. When there are more, those with the fewest calls are forgotten.
    pub fn with_capacity(keys: usize) -> Self {
        Self { shards: std::array::from_fn(|_| Mutex::default()), keys_per_shard: keys.div_ceil(SHARDS).max(8) }
    }

    /// Counts one call, or says how many whole seconds (at least 1) must pass until one can succeed. A refused call is not
    /// counted.
    pub fn try_acquire(&self, key: u128, limit: RateLimit, now: UnixMillis) -> Result<(), u32> {
        let mut shard = self.shards[(key % SHARDS as u128) as usize].lock();
        if let Some(window) = shard.get_mut(&key) {
            return window.try_acquire(limit, now.0);
        }
        if shard.len() >= self.keys_per_shard {
            make_room(&mut shard, self.keys_per_shard, now.0);
        }
        shard.entry(key).or_insert_with(Window::new).try_acquire(limit, now.0)
    }

    /// How many keys are remembered.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether no key is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for RateLimiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RateLimiter").field("keys", &self.len()).finish_non_exhaustive()
    }
}

/// Forgets keys whose windows have passed; if that is not a quarter of them, those with the fewest calls besides, so that a
/// flood of new keys can't lift the limit of a busy one.
fn make_room(shard: &mut HashMap<u128, Window>, capacity: usize, now: i64) {
    shard.retain(|_, window| window.calls_at(now) > 0);
    let keep = capacity - capacity / 4;
    if shard.len() > keep {
        let mut by_calls: Vec<(u32, u128)> = shard.iter().map(|(key, w)| (w.calls_at(now), *key)).collect();
        let drop = by_calls.len() - keep;
        by_calls.select_nth_unstable(drop);
        for (_, key) in &by_calls[..drop] {
            shard.remove(key);
        }
    }
}

impl Window {
    fn new() -> Self {
        Self { runs: [Run::default(); RUNS], used: 0, length_ms: 0 }
    }

    fn live(&self) -> &[Run] {
        &self.runs[..self.used]
    }

    fn calls_at(&self, now: i64) -> u32 {
        let oldest = now.saturating_sub(self.length_ms);
        self.live().iter().filter(|run| run.last > oldest).map(|run| run.calls).fold(0, u32::saturating_add)
    }

    fn try_acquire(&mut self, limit: RateLimit, now: i64) -> Result<(), u32> {
        self.length_ms = limit.window_ms.max(1);
        let newest = self.live().last().map_or(i64::MIN, |run| run.last);
        // A clock that went back a little counts as standing still; one that went back by more than a window starts afresh.
        let now = if newest > now.saturating_add(self.length_ms) {
            self.used = 0;
            now
        } else {
            now.max(newest)
        };
        self.drop_passed(now);
        if self.calls_at(now) >= limit.limit {
            return Err(self.retry_after_s(limit, now));
        }
        match self.used.checked_sub(1).map(|last| &mut self.runs[last]) {
            Some(run) if now.saturating_sub(run.first) < self.length_ms / RUNS_PER_WINDOW || self.used == RUNS => {
                run.last = now;
                run.calls = run.calls.saturating_add(1);
            }
            _ => {
                self.runs[self.used] = Run { first: now, last: now, calls: 1 };
                self.used += 1;
            }
        }
        Ok(())
    }

    fn drop_passed(&mut self, now: i64) {
        let oldest = now.saturating_sub(self.length_ms);
        let passed = self.live().iter().take_while(|run| run.last <= oldest).count();
        if passed > 0 {
            self.runs.copy_within(passed..self.used, 0);
            self.used -= passed;
        }
    }

    /// When so many runs have left the window that one call fits.
    fn retry_after_s(&self, limit: RateLimit, now: i64) -> u32 {
        let mut left = self.calls_at(now);
        for run in self.live() {
            left = left.saturating_sub(run.calls);
            if left < limit.limit {
                return whole_seconds(run.last.saturating_add(self.length_ms).saturating_sub(now));
            }
        }
        // A limit of 0 lets nothing through; ask again when the window is over.
        whole_seconds(self.length_ms)
    }
}

fn whole_seconds(millis: i64) -> u32 {
    let seconds = millis.max(0).saturating_add(999) / 1000;
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: RateLimit = RateLimit { limit: 3, window_ms: 8_000 };

    fn at(ms: i64) -> UnixMillis {
        UnixMillis(1_700_000_000_000 + ms)
    }

    #[test]
    fn a_burst_passes_up_to_the_limit_and_the_next_after_the_time_that_was_told() {
        let limiter = RateLimiter::new();
        for ms in [0, 10, 20] {
            assert_eq!(limiter.try_acquire(1, LIMIT, at(ms)), Ok(()));
        }
        assert_eq!(limiter.try_acquire(1, LIMIT, at(30)), Err(8));
        assert_eq!(limiter.try_acquire(2, LIMIT, at(30)), Ok(()), "another key has its own count");
        assert_eq!(limiter.try_acquire(1, LIMIT, at(30 + 8_000)), Ok(()));
    }

    #[test]
    fn a_refused_call_is_not_counted() {
        let limiter = RateLimiter::new();
        for _ in 0..1000 {
            let _ = limiter.try_acquire(1, LIMIT, at(0));
        }
        assert_eq!(limiter.try_acquire(1, LIMIT, at(8_000)), Ok(()));
    }

    #[test]
    fn a_clock_that_steps_back_far_does_not_lock_a_key_out() {
        let limiter = RateLimiter::new();
        for _ in 0..3 {
            assert_eq!(limiter.try_acquire(1, LIMIT, at(3_600_000)), Ok(()));
        }
        assert_eq!(limiter.try_acquire(1, LIMIT, at(3_599_000)), Err(8), "a small step counts as standing still");
        assert_eq!(limiter.try_acquire(1, LIMIT, at(0)), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_a_flood_of_keys_does_not_lift_a_busy_keys_limit() {
        let limiter = RateLimiter::with_capacity(1_000);
        for _ in 0..3 {
            assert_eq!(limiter.try_acquire(u128::MAX, LIMIT, at(0)), Ok(()));
        }
        for key in 0..20_000 {
            assert_eq!(limiter.try_acquire(key, LIMIT, at(1)), Ok(()));
        }
        assert!(limiter.len() <= 1_008, "{}", limiter.len());
        assert!(limiter.try_acquire(u128::MAX, LIMIT, at(2)).is_err());
    }

    #[test]
    fn strange_limits_and_instants_neither_panic_nor_pass() {
        let limiter = RateLimiter::new();
        for now in [i64::MIN, -1, 0, i64::MAX] {
            let nothing = RateLimit { limit: 0, window_ms: i64::MAX };
            assert!(limiter.try_acquire(1, nothing, UnixMillis(now)).is_err());
            let tiny = RateLimit { limit: u32::MAX, window_ms: i64::MIN };
            assert_eq!(limiter.try_acquire(2, tiny, UnixMillis(now)), Ok(()));
        }
    }

    proptest::proptest! {
        #[test]
        fn no_window_ever_holds_more_than_the_limit(
            limit in 1u32..20,
            window_ms in 1i64..5_000,
            gaps in proptest::collection::vec(0i64..600, 1..400),
        ) {
            let limiter = RateLimiter::new();
            let limit = RateLimit { limit, window_ms };
            let mut now = 0;
            let mut allowed = Vec::new();
            for gap in gaps {
                now += gap;
                match limiter.try_acquire(7, limit, at(now)) {
                    Ok(()) => allowed.push(now),
                    Err(retry) => {
                        // The told time is enough.
                        let after = at(now + i64::from(retry) * 1000);
                        let mut alone = limiter.shards[7].lock().get(&7).copied().unwrap();
                        proptest::prop_assert!(alone.try_acquire(limit, after.0).is_ok());
                    }
                }
            }
            for (i, start) in allowed.iter().enumerate() {
                let inside = allowed[i..].iter().take_while(|t| *t - start < window_ms).count();
                proptest::prop_assert!(inside <= limit.limit as usize);
            }
        }
    }
}
