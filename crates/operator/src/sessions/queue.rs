//! Which session is looked at when: each by one worker at a time, and none forgotten.

use std::collections::{BTreeMap, HashMap};

use tokio::time::Instant;

/// Sessions by when they are due.
#[derive(Debug, Default)]
pub(super) struct Queue {
    due: BTreeMap<(Instant, u64), String>,
    places: HashMap<String, (Instant, u64)>,
    /// Being looked at; with when it was asked for again meanwhile.
    busy: HashMap<String, Option<Instant>>,
    failures: HashMap<String, u32>,
    last: u64,
}

impl Queue {
    /// Has a session looked at, at `at` or before.
    pub(super) fn add(&mut self, key: String, at: Instant) {
        if let Some(again) = self.busy.get_mut(&key) {
            *again = Some(again.map_or(at, |before| before.min(at)));
            return;
        }
        if let Some(place) = self.places.get(&key) {
            if place.0 <= at {
                return;
            }
            self.due.remove(place);
        }
        self.last += 1;
        let place = (at, self.last);
        self.due.insert(place, key.clone());
        self.places.insert(key, place);
    }

    /// Takes out the session that has been due the longest.
    pub(super) fn take(&mut self, now: Instant) -> Option<String> {
        let first = self.due.first_entry().filter(|first| first.key().0 <= now)?;
        let key = first.remove();
        self.places.remove(&key);
        self.busy.insert(key.clone(), None);
        Some(key)
    }

    /// A session was looked at; `next` is when it wants to be again.
    pub(super) fn done(&mut self, key: String, next: Option<Instant>) {
        let again = self.busy.remove(&key).flatten();
        let at = match (again, next) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        if let Some(at) = at {
            self.add(key, at);
        }
    }

    /// Counts failures in a row.
    pub(super) fn failed(&mut self, key: &str) -> u32 {
        let failures = self.failures.entry(key.to_owned()).or_default();
        *failures += 1;
        *failures
    }

    /// Forgets them.
    pub(super) fn went_well(&mut self, key: &str) {
        self.failures.remove(key);
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_session_is_in_one_worker_s_hands_and_what_is_asked_meanwhile_is_not_lost() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let later = now + Duration::from_mins(1);
        queue.add("a".into(), later);
        assert_eq!(queue.take(now), None);
        queue.add("a".into(), now);
        queue.add("a".into(), later);
        assert_eq!(queue.take(now).as_deref(), Some("a"));
        assert_eq!((queue.take(later), queue.next()), (None, None), "once, at the earliest");
        queue.add("a".into(), now);
        assert_eq!(queue.take(later), None, "busy");
        queue.done("a".into(), Some(later));
        assert_eq!(queue.take(now).as_deref(), Some("a"), "what was asked meanwhile comes first");
        queue.done("a".into(), Some(later));
        assert_eq!(queue.next(), Some(later));
        assert_eq!(queue.take(later).as_deref(), Some("a"));
        queue.done("a".into(), None);
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn sessions_are_taken_in_the_order_in_which_they_became_due() {
        let mut queue = Queue::default();
        let now = Instant::now();
        for (key, seconds) in [("c", 3), ("a", 1), ("b", 2)] {
            queue.add(key.into(), now + Duration::from_secs(seconds));
        }
        let all = now + Duration::from_secs(9);
        let taken: Vec<String> = std::iter::from_fn(|| queue.take(all)).collect();
        assert_eq!(taken, ["a", "b", "c"]);
    }
}
