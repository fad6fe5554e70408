//! Whose tokens the API server is asked about: it is asked in this process' own name, and a stranger can make up tokens
//! faster than it answers.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use countersign_core::digest::sha256;
use parking_lot::Mutex;

/// How long a token that the API server didn't know isn't asked about again.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// How long a token that it knew is asked about ahead of strangers'.
const KNOWN_FOR: Duration = Duration::from_hours(1);
/// How many of each are remembered.
const REMEMBERED: usize = 4096;
/// How many tokens that nobody knows are asked about in a second, and at once.
const PER_SECOND: f64 = 10.0;
const AT_ONCE: f64 = 40.0;

/// What to do about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// The API server is asked.
    Ask,
    /// It didn't know this one a moment ago.
    Refused,
    /// It is asked about too many.
    TooMany,
}

/// What is remembered of tokens, by their hashes. A token that is known is asked about all the same, each time.
#[derive(Debug)]
pub(super) struct Strangers(Mutex<Memory>);

#[derive(Debug)]
struct Memory {
    refused: HashMap<[u8; 32], Instant>,
    known: HashMap<[u8; 32], Instant>,
    left: f64,
    at: Instant,
}

impl Strangers {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(Memory { refused: HashMap::new(), known: HashMap::new(), left: AT_ONCE, at: now }))
    }

    pub(super) fn admit(&self, token: &str, now: Instant) -> Admission {
        let hash = sha256(token.as_bytes());
        let mut memory = self.0.lock();
        let is_within = |since: Option<&Instant>, limit| since.is_some_and(|since| now.duration_since(*since) < limit);
        if is_within(memory.refused.get(&hash), REFUSED_FOR) {
            return Admission::Refused;
        }
        if is_within(memory.known.get(&hash), KNOWN_FOR) {
            return Admission::Ask;
        }
        let passed = now.duration_since(memory.at).as_secs_f64();
        memory.left = (memory.left + passed * PER_SECOND).min(AT_ONCE);
        memory.at = now;
        if memory.left < 1.0 {
            return Admission::TooMany;
        }
        memory.left -= 1.0;
        Admission::Ask
    }

    /// What the API server said of it.
    pub(super) fn note(&self, token: &str, is_known: bool, now: Instant) {
        let hash = sha256(token.as_bytes());
        let mut memory = self.0.lock();
        if is_known {
            remember(&mut memory.known, hash, KNOWN_FOR, now);
        } else {
            memory.known.remove(&hash);
            remember(&mut memory.refused, hash, REFUSED_FOR, now);
        }
    }
}

fn remember(held: &mut HashMap<[u8; 32], Instant>, hash: [u8; 32], limit: Duration, now: Instant) {
    if held.len() >= REMEMBERED {
        held.retain(|_, since| now.duration_since(*since) < limit);
    }
    if held.len() < REMEMBERED {
        held.insert(hash, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_made_up_tokens_is_asked_about_slowly_and_shuts_nobody_out_who_is_known() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        assert_eq!(strangers.admit("ann", start), Admission::Ask);
        strangers.note("ann", true, start);
        let asked = (0..1000).filter(|n| strangers.admit(&format!("made-up-{n}"), start) == Admission::Ask).count();
        assert_eq!(asked, 39);
        assert_eq!(strangers.admit("ann", start), Admission::Ask);
        assert_eq!(strangers.admit("bob", start), Admission::TooMany);
        assert_eq!(strangers.admit("bob", start + Duration::from_millis(200)), Admission::Ask);
    }

    #[test]
    fn a_token_that_the_api_server_doesn_t_know_is_not_asked_about_again_for_a_while() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        strangers.note("bad", false, start);
        for (after, expected) in [(1, Admission::Refused), (9, Admission::Refused), (11, Admission::Ask)] {
            assert_eq!(strangers.admit("bad", start + Duration::from_secs(after)), expected, "{after}");
        }
        strangers.note("ann", true, start);
        strangers.note("ann", false, start);
        assert_eq!(strangers.admit("ann", start), Admission::Refused, "it was withdrawn");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        (0..2 * REMEMBERED).for_each(|n| strangers.note(&n.to_string(), false, start));
        assert_eq!(strangers.0.lock().refused.len(), REMEMBERED);
        strangers.note("later", false, start + Duration::from_mins(1));
        assert_eq!(strangers.0.lock().refused.len(), 1);
    }
}
