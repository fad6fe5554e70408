//! How entries and states look in Redis.

use aws_lc_rs::digest::{SHA256, digest};
use countersign_core::{
    names::PolicyName,
    revocation::{Entry, EntryKey, Kind, Position},
    time::UnixMillis,
};
use redis::{FromRedisValue, Value, from_redis_value_ref, streams::StreamId};
use serde::{Deserialize, Serialize};

use crate::{
    activity::{MAX_SESSION_ID, SeenSession},
    lease::{Ack, MAX_ACK_BYTES, is_lease_name},
    server::{EpochRecord, FeedError, LeaseWrite, ServerState, TailItem},
};

const DIGITS: usize = 20;

/// What stands in a lease's key.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct StoredLease {
    pub(super) position: Option<Position>,
    pub(super) ack: Option<Ack>,
}

/// A lease as it is stored. One too large is written without its acknowledgement: alive, and vouching for nothing.
pub(super) fn lease_text(lease: &LeaseWrite) -> Vec<u8> {
    let text = |ack| serde_json::to_vec(&StoredLease { position: lease.position, ack }).unwrap_or_default();
    let whole = text(lease.ack.clone());
    if whole.len() > MAX_ACK_BYTES { text(None) } else { whole }
}

/// A reader's name as it stands among the leases, if it can be one.
pub(super) fn lease_name(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok().filter(|name| is_lease_name(name))
}

/// What of an entry is not compared.
#[derive(Serialize, Deserialize)]
struct Body<'a> {
    p: PolicyName,
    k: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    i: Option<String>,
    d: String,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    r: std::borrow::Cow<'a, str>,
    #[serde(default, skip_serializing_if = "str::is_empty")]
    s: std::borrow::Cow<'a, str>,
}

/// The member that stands for an entry: short, whatever the length of its key.
pub(super) fn member(key: &EntryKey) -> Vec<u8> {
    digest(&SHA256, key.as_str().as_bytes()).as_ref()[..20].to_vec()
}

/// A signed number as text that sorts as the number does.
fn sortable(n: i64) -> String {
    format!("{:020}", n.cast_unsigned() ^ (1 << 63))
}

pub(super) struct EncodedEntry {
    pub(super) member: Vec<u8>,
    pub(super) cutoff: String,
    pub(super) expires: String,
    pub(super) version: String,
    pub(super) by_version: bool,
    pub(super) body: String,
    /// Seconds, rounded up; empty for ever.
    pub(super) expiry: String,
}

pub(super) fn encode(entry: &Entry) -> EncodedEntry {
    let body = Body {
        p: entry.policy.clone(),
        k: entry.kind,
        i: entry.issuer.clone(),
        d: entry.id.clone(),
        r: entry.reason.as_str().into(),
        s: entry.source.as_str().into(),
    };
    EncodedEntry {
        member: member(&entry.key()),
        cutoff: sortable(entry.cutoff.0),
        expires: sortable(entry.expires.0),
        version: format!("{:020}", entry.version),
        by_version: entry.kind == Kind::Ip,
        body: serde_json::to_string(&body).expect("names and strings always serialise"),
        expiry: if entry.expires == UnixMillis::FOREVER || entry.kind == Kind::Key {
            String::new()
        } else {
            entry.expires.0.saturating_add(999).div_euclid(1000).to_string()
        },
    }
}

pub(super) fn decode(value: &[u8]) -> Result<Entry, FeedError> {
    let wrong = || FeedError::Protocol("an entry that this release can't read".into());
    let text = std::str::from_utf8(value).map_err(|_| wrong())?;
    let number = |at: usize| -> Result<u64, FeedError> {
        text.get(at * DIGITS..(at + 1) * DIGITS).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)
    };
    let signed = |n: u64| UnixMillis((n ^ (1 << 63)).cast_signed());
    let body: Body<'_> = text.get(3 * DIGITS..).and_then(|json| serde_json::from_str(json).ok()).ok_or_else(wrong)?;
    Ok(Entry {
        policy: body.p,
        kind: body.k,
        issuer: body.i,
        id: body.d,
        cutoff: signed(number(0)?),
        expires: signed(number(1)?),
        version: number(2)?,
        reason: body.r.into_owned(),
        source: body.s.into_owned(),
    })
}

pub(super) fn state(value: &Value) -> Result<ServerState, FeedError> {
    let fields: Vec<String> = typed(value)?;
    let field = |at: usize| fields.get(at).map_or("", String::as_str);
    let number = |at: usize| field(at).parse::<u64>().map_err(|_| FeedError::Protocol("a broken state".into()));
    let micros = number(1)?.saturating_mul(1_000_000).saturating_add(number(2)?);
    let record = if fields.len() > 4 {
        Some(EpochRecord {
            epoch: number(4)?,
            run_id: field(5).to_owned(),
            seeded: field(6) == "1",
            place: number(7)?,
            ahead: if field(8).is_empty() { None } else { Position::from_score(number(8)?) },
            whole: field(9) == "1",
        })
    } else {
        None
    };
    Ok(ServerState {
        run_id: field(0).to_owned(),
        now_micros: i64::try_from(micros).unwrap_or(i64::MAX),
        record,
        writer_seen_ms: field(3).parse().ok(),
    })
}

/// One item of the tail: all entries that were put in together, the last of them at the item's id.
pub(super) fn tail_items(item: &StreamId, items: &mut Vec<TailItem>) -> Result<(), FeedError> {
    let wrong = || FeedError::Protocol("a tail entry that is none of ours".into());
    let (epoch, last) = item.id.split_once('-').ok_or_else(wrong)?;
    let (epoch, last): (u64, u64) = (epoch.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    let number = |name: &str| item.get::<i64>(name).ok_or_else(wrong);
    let at_micros = number("t")?.saturating_mul(1_000_000).saturating_add(number("u")?);
    let mut place = number("f")?.unsigned_abs();
    let value: Vec<u8> = item.get("e").ok_or_else(wrong)?;
    let mut rest = value.as_slice();
    while !rest.is_empty() {
        let colon = rest.iter().take(8).position(|b| *b == b':').ok_or_else(wrong)?;
        let len = std::str::from_utf8(&rest[..colon]).ok().and_then(|digits| digits.parse::<usize>().ok());
        let (value, after) = rest[colon + 1..].split_at_checked(len.ok_or_else(wrong)?).ok_or_else(wrong)?;
        let position = Position::new(epoch, place).ok_or_else(wrong)?;
        items.push(TailItem { position, at_micros, entry: decode(value).ok() });
        rest = after;
        place += 1;
    }
    if last.checked_add(1) == Some(place) { Ok(()) } else { Err(wrong()) }
}

pub(super) fn position(text: &str) -> Result<Position, FeedError> {
    text.parse()
        .ok()
        .and_then(Position::from_score)
        .ok_or_else(|| FeedError::Protocol("a score that is no position".into()))
}

pub(super) fn typed<T: FromRedisValue>(value: &Value) -> Result<T, FeedError> {
    from_redis_value_ref(value).map_err(|error| FeedError::Protocol(error.to_string()))
}

/// A session, as it stands in the set of those that were seen. No policy's name holds a space.
pub(super) fn seen_member(seen: &SeenSession) -> String {
    format!("{} {}", seen.policy, seen.session)
}

/// A session and when it was seen; none when the two name neither.
pub(super) fn seen(member: &[u8], at: &str) -> Option<SeenSession> {
    let (policy, session) = std::str::from_utf8(member).ok()?.split_once(' ')?;
    // Every verifier may write here: what is no id goes no further.
    if session.is_empty() || session.len() > MAX_SESSION_ID || session.chars().any(char::is_control) {
        return None;
    }
    // Scores are doubles, which hold milliseconds exactly for longer than there will be any.
    #[expect(clippy::cast_possible_truncation, reason = "a moment beyond every calendar saturates")]
    let at = UnixMillis(at.parse::<f64>().ok()? as i64);
    Some(SeenSession { policy: policy.parse().ok()?, session: session.to_owned(), at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_reads_back_as_it_was_and_its_numbers_sort_as_text() {
        let entry = Entry {
            policy: "shop/shop".parse().unwrap(),
            kind: Kind::Session,
            issuer: Some("https://kc.example/\"quoted\"".into()),
            id: "s\n1".into(),
            cutoff: UnixMillis::FOREVER,
            expires: UnixMillis(1_700_000_000_001),
            version: u64::MAX,
            reason: "left".into(),
            source: String::new(),
        };
        let e = encode(&entry);
        assert_eq!(e.expiry, "1700000001");
        let value = [e.cutoff, e.expires, e.version, e.body].concat();
        assert_eq!(decode(value.as_bytes()), Ok(entry));
        let mut numbers = [i64::MIN, -1, 0, 1, 9, 10, i64::MAX - 1, i64::MAX].map(sortable);
        let sorted = numbers.clone();
        numbers.sort();
        assert_eq!(numbers, sorted);
        assert!(numbers.iter().all(|n| n.len() == DIGITS));
    }

    #[test]
    fn a_tail_item_that_nobody_of_ours_put_in_is_an_error_and_never_a_panic() {
        let text = |t: &str| Value::BulkString(t.into());
        for (id, first, entries) in [
            ("1-18446744073709551615", "0", ""),
            ("18446744073709551615-1", "1", "1:x"),
            ("1-1", "-9223372036854775808", ""),
            ("1-1", "1", "99999999:x"),
            ("1-1", "1", ":"),
            ("1", "1", ""),
        ] {
            let map = [("t", "0"), ("u", "0"), ("f", first), ("e", entries)];
            let map = map.into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
            let item = StreamId { id: id.into(), map, ..StreamId::default() };
            assert!(tail_items(&item, &mut Vec::new()).is_err(), "{id} {first} {entries}");
        }
    }

    #[test]
    fn a_tail_item_with_an_entry_that_can_t_be_read_says_where_it_stands() {
        let entry = Entry {
            policy: "shop/shop".parse().unwrap(),
            kind: Kind::Session,
            issuer: None,
            id: "s1".into(),
            cutoff: UnixMillis::FOREVER,
            expires: UnixMillis(1),
            version: 0,
            reason: String::new(),
            source: String::new(),
        };
        let e = encode(&entry);
        let good = [e.cutoff, e.expires, e.version, e.body].concat();
        let both = format!("3:new{}:{good}", good.len());
        let map = [("t", "0"), ("u", "0"), ("f", "1"), ("e", &both)];
        let map = map.into_iter().map(|(name, value)| (name.to_owned(), Value::BulkString(value.into()))).collect();
        let item = StreamId { id: "1-2".into(), map, ..StreamId::default() };
        let mut items = Vec::new();
        tail_items(&item, &mut items).unwrap();
        let seen: Vec<(u64, Option<Entry>)> = items.into_iter().map(|item| (item.position.place(), item.entry)).collect();
        assert_eq!(seen, [(1, None), (2, Some(entry))]);
    }

    #[test]
    fn what_is_no_reader_s_name_is_nobody_s() {
        for (bytes, name) in [
            (&b"countersign-verifier-x7k2p"[..], Some("countersign-verifier-x7k2p")),
            ("caf\u{e9}.example".as_bytes(), Some("caf\u{e9}.example")),
            (&[0xff, 0xfe], None),
            (b"", None),
            (b"a\nb", None),
            (&[b'a'; 254], None),
        ] {
            assert_eq!(lease_name(bytes.to_vec()).as_deref(), name);
        }
    }

    #[test]
    fn what_is_no_session_s_id_is_dropped_whoever_wrote_it() {
        let (longest, longer) = ("s".repeat(MAX_SESSION_ID), "s".repeat(MAX_SESSION_ID + 1));
        for (id, good) in [("s1", true), (&*longest, true), (&*longer, false), ("", false), ("a\nb", false), ("a\0", false)]
        {
            let found = seen(format!("shop/shop {id}").as_bytes(), "1700000000000");
            assert_eq!(found.map(|seen| seen.session), good.then(|| id.to_owned()), "{id:?}");
        }
        assert_eq!(seen(b"no policy s1", "1"), None);
    }

    #[test]
    fn broken_values_are_errors_and_never_panics() {
        for value in [&b""[..], b"x", &[0xff; 80], "é".repeat(40).as_bytes(), &[b'0'; 60]] {
            assert!(matches!(decode(value), Err(FeedError::Protocol(_))));
        }
    }
}
