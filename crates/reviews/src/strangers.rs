//! Whose tokens the API server is asked about: it is asked in this process' own name, and a stranger can make up tokens
//! faster than it answers.

use std::{
    collections::HashMap,
    net::IpAddr,
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

/// How many tokens that nobody knows are asked about: so many at once, then so many in a second.
#[derive(Clone, Copy, Debug)]
struct Pace {
    at_once: f64,
    per_second: f64,
}

/// Of all strangers together.
const OF_ALL: Pace = Pace { at_once: 40.0, per_second: 10.0 };
/// Of those at one address: one of them alone leaves most of what there is to others.
const OF_ONE: Pace = Pace { at_once: 10.0, per_second: 2.0 };

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
    of_all: Allowance,
    /// What is left to addresses that have used some of it lately.
    of_one: HashMap<IpAddr, Allowance>,
}

/// What is left of a pace.
#[derive(Clone, Copy, Debug)]
struct Allowance {
    pace: Pace,
    left: f64,
    at: Instant,
}

impl Allowance {
    const fn full(pace: Pace, now: Instant) -> Self {
        Self { pace, left: pace.at_once, at: now }
    }

    fn left(&self, now: Instant) -> f64 {
        let passed = now.duration_since(self.at).as_secs_f64();
        passed.mul_add(self.pace.per_second, self.left).min(self.pace.at_once)
    }

    fn is_used(&self, now: Instant) -> bool {
        self.left(now) < self.pace.at_once
    }

    /// With one less, if there is one.
    fn less(&self, now: Instant) -> Option<Self> {
        let left = self.left(now);
        (left >= 1.0).then_some(Self { left: left - 1.0, at: now, ..*self })
    }
}

impl Strangers {
    pub(super) fn new(now: Instant) -> Self {
        let of_all = Allowance::full(OF_ALL, now);
        Self(Mutex::new(Memory { refused: HashMap::new(), known: HashMap::new(), of_all, of_one: HashMap::new() }))
    }

    /// What to do about a token that somebody at `source` shows; absent: nobody says where.
    pub(super) fn admit(&self, token: &str, source: Option<IpAddr>, now: Instant) -> Admission {
        let hash = sha256(token.as_bytes());
        let mut memory = self.0.lock();
        let is_within = |since: Option<&Instant>, limit| since.is_some_and(|since| now.duration_since(*since) < limit);
        if is_within(memory.refused.get(&hash), REFUSED_FOR) {
            return Admission::Refused;
        }
        if is_within(memory.known.get(&hash), KNOWN_FOR) {
            return Admission::Ask;
        }
        if memory.take(source.map(|source| source.to_canonical()), now) { Admission::Ask } else { Admission::TooMany }
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

impl Memory {
    /// Takes one of what an address has left, and of what all have. What the one refuses uses up none of the other, so that
    /// no more addresses are remembered than all together could have used some of theirs.
    fn take(&mut self, source: Option<IpAddr>, now: Instant) -> bool {
        let of_one = match source {
            None => None,
            Some(source) => {
                let held = self.of_one.get(&source).copied().unwrap_or_else(|| Allowance::full(OF_ONE, now));
                let Some(less) = held.less(now) else { return false };
                Some((source, less))
            }
        };
        let Some(of_all) = self.of_all.less(now) else { return false };
        self.of_all = of_all;
        if let Some((source, less)) = of_one {
            self.of_one.retain(|_, held| held.is_used(now));
            self.of_one.insert(source, less);
        }
        true
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
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    const POD: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)));

    fn asked(strangers: &Strangers, source: impl Fn(u8) -> Option<IpAddr>, now: Instant) -> usize {
        let admits = |n: &u32| {
            let source = source(u8::try_from(n % 200).unwrap());
            strangers.admit(&format!("made-up-{n}-{now:?}"), source, now) == Admission::Ask
        };
        (0..1000).filter(admits).count()
    }

    #[test]
    fn a_flood_of_made_up_tokens_is_asked_about_slowly_and_shuts_nobody_out_who_is_known() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        assert_eq!(strangers.admit("ann", POD, start), Admission::Ask);
        strangers.note("ann", true, start);
        let of_many = |n| Some(IpAddr::V4(Ipv4Addr::new(10, 1, 0, n)));
        assert_eq!(asked(&strangers, of_many, start), 39);
        assert_eq!(strangers.admit("ann", POD, start), Admission::Ask);
        assert_eq!(strangers.admit("bob", None, start), Admission::TooMany);
        assert_eq!(strangers.admit("bob", None, start + Duration::from_millis(200)), Admission::Ask);
        assert!(strangers.0.lock().of_one.len() <= 40, "who was asked about is remembered");
    }

    #[test]
    fn a_flood_from_one_address_leaves_strangers_elsewhere_what_there_is() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        assert_eq!(asked(&strangers, |_| POD, start), 10);
        let mapped = Some(IpAddr::V6(Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped()));
        assert_eq!(strangers.admit("eve", mapped, start), Admission::TooMany, "it is the same address");
        let elsewhere = Some(IpAddr::V6(Ipv6Addr::LOCALHOST));
        assert_eq!(strangers.admit("bob", elsewhere, start), Admission::Ask);
        assert_eq!(asked(&strangers, |_| POD, start + Duration::from_secs(1)), 2);
        assert_eq!(strangers.admit("cat", elsewhere, start + Duration::from_mins(1)), Admission::Ask);
        assert_eq!(strangers.0.lock().of_one.len(), 1, "whoever has everything left is forgotten");
    }

    #[test]
    fn a_token_that_the_api_server_doesn_t_know_is_not_asked_about_again_for_a_while() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        strangers.note("bad", false, start);
        for (after, expected) in [(1, Admission::Refused), (9, Admission::Refused), (11, Admission::Ask)] {
            assert_eq!(strangers.admit("bad", POD, start + Duration::from_secs(after)), expected, "{after}");
        }
        strangers.note("ann", true, start);
        strangers.note("ann", false, start);
        assert_eq!(strangers.admit("ann", POD, start), Admission::Refused, "it was withdrawn");
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
