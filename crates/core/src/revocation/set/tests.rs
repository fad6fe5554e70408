use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
};

use proptest::prelude::*;

use super::*;
use crate::revocation::Revocable;

const HOUR: i64 = 3_600_000;

fn policy(name: &str) -> PolicyName {
    format!("shop/{name}").parse().unwrap()
}

fn set() -> RevocationSet {
    RevocationSet::new(IdHasher::new(*b"0123456789abcdef"))
}

fn entry(kind: Kind, id: &str) -> Entry {
    Entry {
        policy: policy("a"),
        kind,
        issuer: None,
        id: id.into(),
        cutoff: UnixMillis::FOREVER,
        expires: UnixMillis(HOUR),
        version: 0,
        reason: String::new(),
        source: String::new(),
    }
}

/// An access token of policy `a` with everything that can be revoked about it.
fn ids(set: &RevocationSet, token: &str, session: &str, subject: &str) -> RevocationIds {
    set.hasher().ids_of(&Revocable {
        policy: &policy("a"),
        issuer: Some("https://own"),
        own: true,
        access_ring: true,
        token_kind: Kind::Token,
        token_id: Some(token),
        session_id: Some(session),
        subject: Some(subject),
        kid: Some("k"),
    })
}

#[test]
fn each_kind_of_entry_kills_what_it_names_and_nothing_else() {
    let at = Some(UnixMillis(10));
    for (kind, id, by) in [
        (Kind::Token, "t", RevokedBy::Token),
        (Kind::Session, "s", RevokedBy::Session),
        (Kind::Subject, "u", RevokedBy::Subject),
        (Kind::Key, "k", RevokedBy::Key),
        (Kind::Policy, "", RevokedBy::Policy),
        (Kind::Policy, ACCESS_RING_ONLY, RevokedBy::Policy),
    ] {
        let set = set();
        assert!(set.apply(&entry(kind, id)));
        assert!(!set.apply(&entry(kind, id)), "said twice, it changes nothing");
        let hit = Some(Hit { by, cutoff: UnixMillis::FOREVER });
        assert_eq!(set.lookup(&ids(&set, "t", "s", "u"), at), hit, "{kind:?}");
        assert_eq!(set.len_of(&policy("a")), 1);
        assert_eq!(set.len_of(&policy("b")), 0);
        let others = ids(&set, "t2", "s2", "u2");
        let spared = !matches!(kind, Kind::Key | Kind::Policy);
        assert_eq!(set.lookup(&others, at).is_none(), spared, "{kind:?}");
    }
}

#[test]
fn a_cutoff_kills_what_was_issued_up_to_it_and_whatever_has_no_time_of_issue() {
    let set = set();
    set.apply(&Entry { cutoff: UnixMillis(100), ..entry(Kind::Subject, "u") });
    let ids = ids(&set, "t", "s", "u");
    let hit = Some(Hit { by: RevokedBy::Subject, cutoff: UnixMillis(100) });
    for (issued, expected) in [(Some(99), hit), (Some(100), hit), (Some(101), None), (None, hit)] {
        assert_eq!(set.lookup(&ids, issued.map(UnixMillis)), expected, "{issued:?}");
    }
    assert_eq!(set.latest_cutoff(&ids), Some(UnixMillis(100)));
}

#[test]
fn an_old_cutoff_of_a_wide_scope_never_hides_a_stricter_one_of_a_narrow_scope() {
    let set = set();
    set.apply(&Entry { cutoff: UnixMillis(50), ..entry(Kind::Policy, "") });
    set.apply(&Entry { cutoff: UnixMillis(100), ..entry(Kind::Subject, "u") });
    let hit = set.lookup(&ids(&set, "t", "s", "u"), Some(UnixMillis(80)));
    assert_eq!(hit, Some(Hit { by: RevokedBy::Subject, cutoff: UnixMillis(100) }));
}

#[test]
fn an_entry_is_purged_only_when_both_clocks_say_it_expired_over_an_hour_ago() {
    let set = set();
    set.apply(&entry(Kind::Token, "t"));
    set.apply(&Entry { expires: UnixMillis::FOREVER, ..entry(Kind::Key, "k") });
    let past = UnixMillis(2 * HOUR + 1001);
    let version = set.version();
    assert_eq!(set.purge(past, UnixMillis(2 * HOUR)), 0);
    assert_eq!(set.purge(UnixMillis(2 * HOUR), past), 0);
    assert_eq!(set.version(), version);
    assert_eq!(set.purge(past, past), 1);
    assert!(set.version() > version);
    assert_eq!(set.purge(UnixMillis(i64::MAX), UnixMillis(i64::MAX)), 0, "keys never go");
    assert_eq!((set.len(), set.len_of(&policy("a"))), (1, 1));
}

#[test]
fn a_cutoff_of_the_access_ring_takes_the_place_of_what_it_says_and_of_nothing_else() {
    let set = set();
    let until = |expires: i64| Entry {
        cutoff: UnixMillis(100),
        expires: UnixMillis(expires),
        ..entry(Kind::Policy, ACCESS_RING_ONLY)
    };
    let merged = [entry(Kind::Token, "t1"), entry(Kind::Session, "s1")].map(|e| Entry { version: 100, ..e });
    let kept = [
        Entry { version: 101, ..entry(Kind::Token, "later") },
        entry(Kind::Token, "foreign"),
        entry(Kind::ApiKey, "a"),
        entry(Kind::Subject, "u"),
        entry(Kind::Key, "k2"),
    ];
    for e in merged.iter().chain(&kept) {
        set.apply(e);
    }
    assert!(set.apply(&until(HOUR)));
    assert_eq!(set.len(), kept.len() + 1);
    // Those that come after it, in whatever order, find their place taken; the cut-off lives as long as the longest of them.
    assert!(!set.apply(&merged[0]));
    assert!(set.apply(&Entry { expires: UnixMillis(3 * HOUR), ..merged[1].clone() }));
    assert_eq!(set.len(), kept.len() + 1);
    set.purge(UnixMillis(3 * HOUR), UnixMillis(3 * HOUR));
    let hit = set.lookup(&ids(&set, "t1", "s1", "nobody"), Some(UnixMillis(100)));
    assert_eq!(hit, Some(Hit { by: RevokedBy::Policy, cutoff: UnixMillis(100) }));
    assert_eq!(set.lookup(&ids(&set, "t9", "s9", "nobody"), Some(UnixMillis(101))), None);
}

#[test]
fn addresses_are_blocked_by_network_until_lifted_by_a_higher_version() {
    let set = set();
    let now = UnixMillis(1000);
    let block = |id: &str, version, cutoff| Entry { cutoff, version, ..entry(Kind::Ip, id) };
    for id in ["203.0.113.0/24", "2001:db8::/32", "::ffff:198.51.100.7"] {
        assert!(set.apply(&block(id, 1, UnixMillis::FOREVER)), "{id}");
    }
    assert!(!set.apply(&block("not an address", 1, UnixMillis::FOREVER)));
    for (ip, blocked) in [
        ("203.0.113.9", true),
        ("::ffff:203.0.113.9", true),
        ("203.0.114.9", false),
        ("2001:db8:1::1", true),
        ("2001:db9::1", false),
        ("198.51.100.7", true),
    ] {
        assert_eq!(set.ip_blocked(&policy("a"), ip.parse().unwrap(), now), blocked, "{ip}");
        assert!(!set.ip_blocked(&policy("b"), ip.parse().unwrap(), now));
    }
    let ip = "203.0.113.9".parse().unwrap();
    assert!(!set.ip_blocked(&policy("a"), ip, UnixMillis(HOUR)), "it ends at its expiry");
    assert!(set.apply(&block("203.0.113.0/24", 3, LIFTED)));
    assert!(!set.apply(&block("203.0.113.0/24", 2, UnixMillis::FOREVER)), "an older block doesn't come back");
    assert!(!set.ip_blocked(&policy("a"), ip, now));
    assert_eq!((set.len(), set.len_of(&policy("a"))), (3, 3));
    assert_eq!(set.purge(UnixMillis(3 * HOUR), UnixMillis(3 * HOUR)), 3);
    assert!(set.is_empty());
}

#[test]
fn a_saved_set_answers_as_the_set_did_and_a_damaged_one_is_refused() {
    let set = set();
    for n in 0..1000 {
        set.apply(&Entry { cutoff: UnixMillis(n), ..entry(Kind::Subject, &n.to_string()) });
    }
    set.apply(&Entry { policy: policy("b"), ..entry(Kind::Ip, "203.0.113.0/24") });
    set.apply(&Entry { cutoff: UnixMillis(7), ..entry(Kind::Policy, ACCESS_RING_ONLY) });
    let mut bytes = Vec::new();
    set.write_to(&mut bytes).unwrap();
    let read = RevocationSet::read_from(&mut bytes.as_slice()).unwrap();
    assert_eq!(read.len(), set.len());
    let sorted = |set: &RevocationSet| {
        let mut counts = set.counts();
        counts.sort();
        counts
    };
    assert_eq!(sorted(&read), sorted(&set));
    for n in 0..1000 {
        let subject = n.to_string();
        let issued = Some(UnixMillis(500));
        let expected = set.lookup(&ids(&set, "t", "s", &subject), issued);
        assert_eq!(read.lookup(&ids(&read, "t", "s", &subject), issued), expected);
    }
    assert!(!read.apply(&Entry { version: 7, ..entry(Kind::Token, "t") }), "it remembers what the cut-off stands for");
    for damage in [0, 9, 100, bytes.len() / 2, bytes.len() - 1] {
        let mut damaged = bytes.clone();
        damaged[damage] ^= 1;
        assert!(RevocationSet::read_from(&mut damaged.as_slice()).is_err(), "byte {damage}");
        assert!(RevocationSet::read_from(&mut &bytes[..damage]).is_err(), "cut at {damage}");
    }
}

/// Merges entries away while the set is being written.
struct MergingWriter<'a> {
    set: &'a RevocationSet,
    bytes: Vec<u8>,
    after: usize,
}

impl std::io::Write for MergingWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.after == 0 {
            self.set.apply(&Entry { cutoff: UnixMillis(100), ..entry(Kind::Policy, ACCESS_RING_ONLY) });
        }
        self.after = self.after.wrapping_sub(1);
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_set_that_is_merged_while_it_is_saved_is_saved_with_the_entries_or_with_what_took_their_place() {
    // A magic number, then length, checksum and bytes of 64 shards and a header.
    for after in 0..=(65 * 3) {
        let set = set();
        for n in 0..64 {
            set.apply(&Entry { version: 100, ..entry(Kind::Token, &n.to_string()) });
        }
        let mut out = MergingWriter { set: &set, bytes: Vec::new(), after };
        set.write_to(&mut out).unwrap();
        let read = RevocationSet::read_from(&mut out.bytes.as_slice()).unwrap();
        for n in 0..64 {
            let dead = read.lookup(&ids(&read, &n.to_string(), "s", "u"), Some(UnixMillis(100)));
            assert!(dead.is_some(), "merged at write {after}: token {n} passes");
        }
    }
}

#[test]
fn an_entry_of_a_key_never_expires_whatever_it_says() {
    let set = set();
    set.apply(&entry(Kind::Key, "k"));
    assert_eq!(set.purge(UnixMillis(i64::MAX), UnixMillis(i64::MAX)), 0);
}

#[test]
fn an_entry_takes_at_most_48_bytes_at_any_size() {
    let set = set();
    let mut worst = 0.0_f64;
    for n in 1..=200_000_usize {
        set.apply(&entry(Kind::Token, &n.to_string()));
        if n >= 2_000 && n % 500 == 0 {
            #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
            let per_entry = set.memory_bytes() as f64 / n as f64;
            worst = worst.max(per_entry);
        }
    }
    assert_eq!(set.len(), 200_000);
    assert!(worst <= 48.0, "{worst} bytes an entry");
}

#[test]
fn readers_see_every_change_that_was_made_before_the_version_they_read() {
    let set = Arc::new(set());
    let first = set.version();
    let done = Arc::new(AtomicBool::new(false));
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (set, done) = (Arc::clone(&set), Arc::clone(&done));
            scope.spawn(move || {
                let subject = ids(&set, "t", "s", "u");
                let mut last = UnixMillis(i64::MIN);
                while !done.load(Ordering::Acquire) {
                    let counted = set.version() - first;
                    let cutoff = set.latest_cutoff(&subject);
                    // The cut-off began at 0 and rose by 1 with every change; every other entry is a change of its own.
                    let raised = cutoff.map_or(0, |cutoff| cutoff.0.unsigned_abs() + 1);
                    let others = set.len().saturating_sub(1) as u64;
                    assert!(
                        raised + others >= counted,
                        "reader {reader}: {raised} and {others} of {counted} changes are seen"
                    );
                    let cutoff = cutoff.unwrap_or(UnixMillis(i64::MIN));
                    assert!(cutoff >= last, "reader {reader}: a cut-off went back");
                    last = cutoff;
                }
            });
        }
        for writer in 0..2 {
            let set = Arc::clone(&set);
            let done = Arc::clone(&done);
            scope.spawn(move || {
                for n in 0..20_000_i64 {
                    let before = set.version();
                    let applied = set.apply(&Entry { cutoff: UnixMillis(n), ..entry(Kind::Subject, "u") });
                    assert!(!applied || set.version() > before);
                    set.apply(&entry(Kind::Token, &format!("{writer}-{n}")));
                }
                if writer == 0 {
                    done.store(true, Ordering::Release);
                }
            });
        }
    });
    assert_eq!(set.len(), 40_001);
}

#[derive(Clone, Debug)]
enum Op {
    Apply { kind: Kind, id: u8, cutoff: i64, expires: i64, mergeable: bool },
    Purge(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![Just(Kind::Token), Just(Kind::Session), Just(Kind::Subject), Just(Kind::Key)];
    let cutoff = prop_oneof![Just(i64::MAX), 0..50_i64];
    let expires = prop_oneof![Just(i64::MAX), 0..10 * HOUR];
    prop_oneof![
        20 => (kind, 0..24_u8, cutoff, expires, any::<bool>())
            .prop_map(|(kind, id, cutoff, expires, mergeable)| Op::Apply { kind, id, cutoff, expires, mergeable }),
        1 => (0..12 * HOUR).prop_map(Op::Purge),
    ]
}

proptest! {
    /// Against a map that keeps whole entries and joins them.
    #[test]
    fn the_set_answers_as_a_map_of_joined_entries_does(ops in prop::collection::vec(op(), 1..200), issued in 0..60_i64) {
        let set = set();
        let mut model: HashMap<(Kind, u8), (i64, i64)> = HashMap::new();
        for op in ops {
            match op {
                Op::Apply { kind, id, cutoff, expires, mergeable } => {
                    let expires = if kind == Kind::Key { i64::MAX } else { expires };
                    let version = u64::from(mergeable);
                    let applied = Entry {
                        cutoff: UnixMillis(cutoff),
                        expires: UnixMillis(expires),
                        version,
                        ..entry(kind, &id.to_string())
                    };
                    let held = model.get(&(kind, id)).copied();
                    let joined = held.map_or((cutoff, expires), |(c, e)| (c.max(cutoff), e.max(expires)));
                    let seconds = |ms: i64| ms.saturating_add(999).div_euclid(1000);
                    let changed = held.is_none_or(|(c, e)| joined.0 > c || seconds(joined.1) > seconds(e));
                    prop_assert_eq!(set.apply(&applied), changed);
                    model.insert((kind, id), joined);
                }
                Op::Purge(now) => {
                    set.purge(UnixMillis(now), UnixMillis(now));
                    model.retain(|_, (_, e)| *e == i64::MAX || (*e + 999).div_euclid(1000) * 1000 >= now - HOUR);
                }
            }
            prop_assert_eq!(set.len(), model.len());
            prop_assert_eq!(set.len_of(&policy("a")), model.len());
        }
        for id in 0..24_u8 {
            let name = id.to_string();
            let found = set.hasher().ids_of(&Revocable {
                policy: &policy("a"), issuer: None, own: true, access_ring: true, token_kind: Kind::Token,
                token_id: Some(&name), session_id: Some(&name), subject: Some(&name), kid: Some(&name),
            });
            let expected = [
                (Kind::Token, RevokedBy::Token), (Kind::Session, RevokedBy::Session),
                (Kind::Subject, RevokedBy::Subject), (Kind::Key, RevokedBy::Key),
            ].into_iter().find_map(|(kind, by)| {
                let cutoff = model.get(&(kind, id))?.0;
                (cutoff == i64::MAX || issued <= cutoff).then_some(Hit { by, cutoff: UnixMillis(cutoff) })
            });
            prop_assert_eq!(set.lookup(&found, Some(UnixMillis(issued))), expected);
        }
    }

    /// Wherever a cut-off of the access ring comes in between: what an entry names stays dead for as long as the entry was to
    /// live, though the cut-off itself was told a shorter life.
    #[test]
    fn a_merged_cutoff_outlives_whatever_it_took_the_place_of(
        ops in prop::collection::vec(op(), 1..40),
        place in any::<prop::sample::Index>(),
        access in 0..3_i64,
        now in 0..12 * HOUR,
    ) {
        let set = set();
        let mut entries: Vec<Entry> = ops.iter().filter_map(|op| match op {
            Op::Apply { kind, id, cutoff, expires, mergeable } => Some(Entry {
                cutoff: UnixMillis(*cutoff),
                expires: UnixMillis(*expires),
                version: u64::from(*mergeable),
                ..entry(*kind, &id.to_string())
            }),
            Op::Purge(_) => None,
        }).collect();
        entries.insert(place.index(entries.len() + 1), Entry { cutoff: UnixMillis(access), ..entry(Kind::Policy, ACCESS_RING_ONLY) });
        for entry in &entries {
            set.apply(entry);
        }
        set.purge(UnixMillis(now), UnixMillis(now));
        for named in entries.iter().filter(|e| e.kind != Kind::Policy && e.expires.plus(PURGE_AFTER_MS) >= UnixMillis(now)) {
            let issued = UnixMillis(0);
            let dead = set.lookup(&ids(&set, &named.id, &named.id, &named.id), Some(issued)).is_some();
            let by_key = named.kind == Kind::Key;
            prop_assert!(dead || by_key || named.cutoff < issued, "{named:?} was forgotten");
        }
    }

    /// Whatever the order: no loss, no credential revived.
    #[test]
    fn entries_commute(
        (order, shuffled) in prop::collection::vec(op(), 1..40).prop_flat_map(|ops| (Just(ops.clone()), Just(ops).prop_shuffle())),
        access in 0..3_i64,
    ) {
        let build = |ops: &[Op], first: bool| {
            let set = set();
            let cutoff = Entry { cutoff: UnixMillis(access), ..entry(Kind::Policy, ACCESS_RING_ONLY) };
            if first {
                set.apply(&cutoff);
            }
            for op in ops {
                if let Op::Apply { kind, id, cutoff, expires, mergeable } = op {
                    let e = entry(*kind, &id.to_string());
                    let version = u64::from(*mergeable);
                    set.apply(&Entry { cutoff: UnixMillis(*cutoff), expires: UnixMillis(*expires), version, ..e });
                }
            }
            if !first {
                set.apply(&cutoff);
            }
            set
        };
        let (a, b) = (build(&order, true), build(&shuffled, false));
        for id in 0..24_u8 {
            let name = id.to_string();
            for issued in [0, 1, 2, 10, 49, 51] {
                let issued = Some(UnixMillis(issued));
                let dead = |set: &RevocationSet| set.lookup(&ids(set, &name, &name, &name), issued).is_some();
                // What a cut-off of the access ring says, it says of tokens issued up to it; later ones of a merged session
                // or token can't exist, so only those issued by then are compared.
                if issued <= Some(UnixMillis(access)) {
                    prop_assert_eq!(dead(&a), dead(&b));
                }
            }
        }
    }
}
