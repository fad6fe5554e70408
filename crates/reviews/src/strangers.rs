//! Whose tokens the API server is asked about: it is asked in this process' own name, and a stranger can make up tokens
//! faster than it answers.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// How long a token that the API server didn't know isn't asked about again.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// How long a token is asked about beside strangers' after the API server knew it, and without bound after whoever shows it was
/// let in.
const KNOWN_FOR: Duration = Duration::from_hours(1);
/// How many of each are remembered.
const REMEMBERED: usize = 4096;
/// How many addresses are remembered from which somebody came who was let in: those of API servers, and of who passes on for
/// them.
const HOMES: usize = 64;

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

/// Of those at one address from which somebody was let in within the hour: what strangers do elsewhere is not felt there.
const OF_HOME: Pace = Pace { at_once: 40.0, per_second: 10.0 };
/// With one token whose owner is known and was never let in.
const OF_TOKEN: Pace = Pace { at_once: 40.0, per_second: 10.0 };

/// Who shows a token, as far as that can be told before the API server is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// Somebody who was let in a while ago.
    Known,
    /// Somebody at an address from which others were let in.
    AtHome,
    /// Anybody.
    Strange,
}

/// SHA-256 of a token.
pub(super) type TokenHash = [u8; 32];

/// What to do about a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// The API server is asked.
    Ask(Whose),
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
    refused: HashMap<TokenHash, Instant>,
    known: HashMap<TokenHash, Known>,
    of_all: Allowance,
    /// What is left to addresses that have used some of it lately.
    of_one: HashMap<IpAddr, Allowance>,
    /// What is left to addresses from which somebody was let in, and when that was.
    homes: HashMap<IpAddr, (Instant, Allowance)>,
}

/// A token that the API server knew. That alone says little: whoever runs a pod has one.
#[derive(Clone, Copy, Debug)]
struct Known {
    since: Instant,
    /// Whether its owner was let in; who wasn't has a bound.
    let_in: bool,
    left: Allowance,
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

    /// Takes one, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        let less = self.less(now);
        *self = less.unwrap_or(*self);
        less.is_some()
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
        Self(Mutex::new(Memory {
            refused: HashMap::new(),
            known: HashMap::new(),
            of_all,
            of_one: HashMap::new(),
            homes: HashMap::new(),
        }))
    }

    /// What to do about a token that somebody at `source` shows; absent: nobody says where.
    pub(super) fn admit(&self, token: TokenHash, source: Option<IpAddr>, now: Instant) -> Admission {
        let mut memory = self.0.lock();
        if memory.refused.get(&token).is_some_and(|since| now.duration_since(*since) < REFUSED_FOR) {
            return Admission::Refused;
        }
        let source = source.map(|source| source.to_canonical());
        let whose = if memory.is_home(source, now) { Whose::AtHome } else { Whose::Strange };
        let is_within = match memory.known.get_mut(&token).filter(|known| now.duration_since(known.since) < KNOWN_FOR) {
            Some(Known { let_in: true, .. }) => return Admission::Ask(Whose::Known),
            Some(known) => known.left.take(now),
            None if whose == Whose::AtHome => memory.take_of_home(source, now),
            None => memory.take(source, now),
        };
        if is_within { Admission::Ask(whose) } else { Admission::TooMany }
    }

    /// The API server knows this token.
    pub(super) fn known(&self, token: TokenHash, now: Instant) {
        self.0.lock().know(token, now);
    }

    /// The API server doesn't know this token.
    pub(super) fn refused(&self, token: TokenHash, now: Instant) {
        let mut memory = self.0.lock();
        memory.known.remove(&token);
        make_room(&mut memory.refused, |since| now.duration_since(*since) < REFUSED_FOR);
        if memory.refused.len() < REMEMBERED {
            memory.refused.insert(token, now);
        }
    }

    /// Who shows this token, at `source`, was let in.
    pub(super) fn let_in(&self, token: TokenHash, source: Option<IpAddr>, now: Instant) {
        let mut memory = self.0.lock();
        if let Some(known) = memory.know(token, now) {
            (known.let_in, known.since) = (true, now);
        }
        let Some(source) = source.map(|source| source.to_canonical()) else { return };
        let homes = &mut memory.homes;
        if let Some((since, _)) = homes.get_mut(&source) {
            *since = now;
            return;
        }
        if homes.len() >= HOMES {
            homes.retain(|_, (since, _)| now.duration_since(*since) < KNOWN_FOR);
        }
        if homes.len() < HOMES {
            homes.insert(source, (now, Allowance::full(OF_HOME, now)));
        }
    }
}

impl Memory {
    /// Remembers that the API server knows a token, if there is room.
    fn know(&mut self, token: TokenHash, now: Instant) -> Option<&mut Known> {
        let known = &mut self.known;
        let is_within = |known: &Known| now.duration_since(known.since) < KNOWN_FOR;
        if !known.get(&token).is_some_and(is_within) {
            known.remove(&token);
            make_room(known, is_within);
            if known.len() < REMEMBERED {
                known.insert(token, Known { since: now, let_in: false, left: Allowance::full(OF_TOKEN, now) });
            }
        }
        known.get_mut(&token)
    }

    fn is_home(&self, source: Option<IpAddr>, now: Instant) -> bool {
        let home = source.and_then(|source| self.homes.get(&source));
        home.is_some_and(|(since, _)| now.duration_since(*since) < KNOWN_FOR)
    }

    /// Takes one of what an address has left from which somebody was let in.
    fn take_of_home(&mut self, source: Option<IpAddr>, now: Instant) -> bool {
        source.and_then(|source| self.homes.get_mut(&source)).is_some_and(|(_, left)| left.take(now))
    }

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

/// Forgets what is over, once there is no room for more.
fn make_room<T>(held: &mut HashMap<TokenHash, T>, is_within: impl Fn(&T) -> bool) {
    if held.len() >= REMEMBERED {
        held.retain(|_, held| is_within(held));
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use countersign_core::digest::sha256;

    use super::*;

    fn hash(token: &str) -> TokenHash {
        sha256(token.as_bytes())
    }

    const ASK: Admission = Admission::Ask(Whose::Strange);
    const POD: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7)));

    fn asked(strangers: &Strangers, source: impl Fn(u8) -> Option<IpAddr>, now: Instant) -> usize {
        let admits = |n: &u32| {
            let source = source(u8::try_from(n % 200).unwrap());
            strangers.admit(hash(&format!("made-up-{n}-{now:?}")), source, now) == ASK
        };
        (0..1000).filter(admits).count()
    }

    #[test]
    fn a_flood_of_made_up_tokens_is_asked_about_slowly_and_shuts_nobody_out_who_is_known() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        assert_eq!(strangers.admit(hash("ann"), POD, start), ASK);
        strangers.let_in(hash("ann"), None, start);
        let of_many = |n| Some(IpAddr::V4(Ipv4Addr::new(10, 1, 0, n)));
        assert_eq!(asked(&strangers, of_many, start), 39);
        assert_eq!(strangers.admit(hash("ann"), POD, start), Admission::Ask(Whose::Known));
        assert_eq!(strangers.admit(hash("bob"), None, start), Admission::TooMany);
        assert_eq!(strangers.admit(hash("bob"), None, start + Duration::from_millis(200)), ASK);
        assert!(strangers.0.lock().of_one.len() <= 40, "who was asked about is remembered");
    }

    #[test]
    fn a_flood_from_one_address_leaves_strangers_elsewhere_what_there_is() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        assert_eq!(asked(&strangers, |_| POD, start), 10);
        let mapped = Some(IpAddr::V6(Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped()));
        assert_eq!(strangers.admit(hash("eve"), mapped, start), Admission::TooMany, "it is the same address");
        let elsewhere = Some(IpAddr::V6(Ipv6Addr::LOCALHOST));
        assert_eq!(strangers.admit(hash("bob"), elsewhere, start), ASK);
        assert_eq!(asked(&strangers, |_| POD, start + Duration::from_secs(1)), 2);
        assert_eq!(strangers.admit(hash("cat"), elsewhere, start + Duration::from_mins(1)), ASK);
        assert_eq!(strangers.0.lock().of_one.len(), 1, "whoever has everything left is forgotten");
    }

    #[test]
    fn a_flood_from_elsewhere_is_not_felt_where_somebody_was_let_in() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        let proxy = Ipv4Addr::new(10, 9, 0, 1);
        strangers.let_in(hash("ann"), Some(IpAddr::V6(proxy.to_ipv6_mapped())), start);
        let of_many = |n| Some(IpAddr::V4(Ipv4Addr::new(10, 1, 0, n)));
        assert_eq!(asked(&strangers, of_many, start), 40);
        let home = Some(IpAddr::V4(proxy));
        assert_eq!(strangers.admit(hash("bob"), of_many(1), start), Admission::TooMany);
        assert_eq!(
            strangers.admit(hash("bob"), home, start),
            Admission::Ask(Whose::AtHome),
            "a new token, where others came from"
        );
        let at_home = |n: &u32| strangers.admit(hash(&format!("new-{n}")), home, start) != Admission::TooMany;
        assert_eq!((0..1000).filter(at_home).count(), 39, "and no more than can be asked about");
        let later = start + KNOWN_FOR;
        assert_eq!(strangers.admit(hash("cat"), home, later), ASK, "nobody was let in there for long");
        let homes = (0..=255).map(|n| IpAddr::V4(Ipv4Addr::new(10, 2, 0, n)));
        homes.for_each(|home| strangers.let_in(hash("ann"), Some(home), later));
        assert_eq!(strangers.0.lock().homes.len(), HOMES);
    }

    #[test]
    fn whoever_is_known_and_was_never_let_in_has_a_bound_of_their_own() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        strangers.known(hash("pod"), start);
        let asks = |token: &str| strangers.admit(hash(token), POD, start);
        let asked = (0..1000).filter(|_| asks("pod") == ASK).count();
        assert_eq!((asked, asks("pod")), (40, Admission::TooMany));
        assert_eq!(asks("another"), ASK, "which is none of others'");
        strangers.let_in(hash("pod"), POD, start);
        assert_eq!(asks("pod"), Admission::Ask(Whose::Known));
        strangers.known(hash("pod"), start);
        assert_eq!(asks("pod"), Admission::Ask(Whose::Known), "it was let in once");
    }

    #[test]
    fn a_token_that_the_api_server_doesn_t_know_is_not_asked_about_again_for_a_while() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        strangers.refused(hash("bad"), start);
        for (after, expected) in [(1, Admission::Refused), (9, Admission::Refused), (11, ASK)] {
            assert_eq!(strangers.admit(hash("bad"), POD, start + Duration::from_secs(after)), expected, "{after}");
        }
        strangers.let_in(hash("ann"), POD, start);
        strangers.refused(hash("ann"), start);
        assert_eq!(strangers.admit(hash("ann"), POD, start), Admission::Refused, "it was withdrawn");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let start = Instant::now();
        let strangers = Strangers::new(start);
        (0..2 * REMEMBERED).for_each(|n| strangers.refused(hash(&n.to_string()), start));
        assert_eq!(strangers.0.lock().refused.len(), REMEMBERED);
        strangers.refused(hash("later"), start + Duration::from_mins(1));
        assert_eq!(strangers.0.lock().refused.len(), 1);
        (0..2 * REMEMBERED).for_each(|n| strangers.known(hash(&n.to_string()), start));
        assert_eq!(strangers.0.lock().known.len(), REMEMBERED);
        strangers.let_in(hash("later"), None, start + KNOWN_FOR);
        assert_eq!(strangers.0.lock().known.len(), 1);
    }
}
