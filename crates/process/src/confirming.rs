//! Until when a watch of the API server is known to show the present: how long it lasts, how often the present version is asked
//! for beside it, and which of those answers it has come to.

use std::{collections::VecDeque, time::Duration};

/// How long a watch is asked to last, where nothing may go unconfirmed for longer than so many milliseconds.
///
/// An API server says where it stands about once a minute, and two seconds before the end of a watch. What it says then confirms
/// a reading of up to [`confirm_every`] before, so that nothing goes unconfirmed for longer than half of that time.
pub fn watch_for(within_ms: i64) -> Duration {
    (millis(within_ms) / 3).clamp(Duration::from_secs(3), Duration::from_secs(290))
}

/// How often the present version is asked for.
pub fn confirm_every(within_ms: i64) -> Duration {
    (millis(within_ms) / 6).clamp(Duration::from_secs(1), Duration::from_mins(1))
}

fn millis(within_ms: i64) -> Duration {
    Duration::from_millis(within_ms.max(0).unsigned_abs())
}

/// Versions that the API server gave as the present ones, and that a watch has still to come to.
#[derive(Debug, Default)]
pub struct Unreached(VecDeque<(i64, u64)>);

impl Unreached {
    /// Remembers a version that is later than those before, and when it was asked for.
    pub fn push(&mut self, asked_at: i64, version: u64) {
        self.0.push_back((asked_at, version));
    }

    /// The watch has come to `position`: the latest moment of which it is known to have shown everything, if there is a later
    /// one than before.
    pub fn reached(&mut self, position: u64) -> Option<i64> {
        let mut confirmed = None;
        while let Some((asked_at, _)) = self.0.front().copied().filter(|(_, version)| *version <= position) {
            self.0.pop_front();
            confirmed = Some(asked_at);
        }
        confirmed
    }

    /// Forgets all: another watch begins.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_confirmed_once_the_watch_has_come_to_it() {
        let mut unreached = Unreached::default();
        assert_eq!(unreached.reached(9), None);
        for (asked_at, version) in [(100, 3), (200, 5), (300, 5), (400, 8)] {
            unreached.push(asked_at, version);
        }
        assert_eq!(unreached.reached(2), None);
        assert_eq!(unreached.reached(6), Some(300));
        assert_eq!(unreached.reached(7), None, "told already");
        unreached.clear();
        assert_eq!(unreached.reached(9), None);
    }
}
