//! What an older copy of a database must be told before it is used: what was revoked since, by whoever knows; or that nobody
//! does, and everything is cut off.

use std::collections::BTreeMap;

use countersign_api::bundle::RingName;
use countersign_core::{
    names::PolicyName,
    revocation::{ACCESS_RING_ONLY, Entry, EntryKey, Kind, Position},
    ring::Ring,
    time::UnixMillis,
};
use countersign_feed::{FeedServer as _, Outbox as _, RedisFeed};
use countersign_store::{AuditEvent, NewRevocation, Recorded, Severity, Store, StoreError, transact};
use serde_json::json;

use crate::{
    dev::VERIFIER_NAME,
    failure::{Failure, chain},
};

/// Entries that are read, and written, at once.
const PAGE: u32 = 1000;
/// Who wrote what a restore writes.
const SOURCE: &str = "restore";

/// Who knows what was revoked since.
pub(super) enum Known {
    /// The database that is replaced, the Redis that it published to, or both.
    By { present: Option<Store>, redis: Option<Box<RedisFeed>> },
    /// Nobody.
    Nothing,
}

/// What was done to a copy.
pub(super) struct Reconciled {
    pub(super) policies: Vec<PolicyName>,
    /// Revocations that the copy didn't have; none where everything was cut off.
    pub(super) taken_over: Option<usize>,
}

/// What is known of the time since.
#[derive(Default)]
struct Since {
    revocations: Vec<NewRevocation>,
    issued: BTreeMap<PolicyName, UnixMillis>,
    epoch: u64,
}

/// Makes a copy safe to use.
pub(super) async fn reconcile(copy: &Store, known: Known, now: UnixMillis) -> Result<Reconciled, Failure> {
    let failed = |error: StoreError| Failure::unable(chain(&error));
    let policies = copy.known_policies().await.map_err(failed)?;
    let (since, cut_off) = match known {
        Known::Nothing => (everything(copy, &policies, now).await.map_err(failed)?, true),
        Known::By { present, redis } => (heard(copy, present, redis, now).await?, false),
    };
    apply(copy, &policies, &since, cut_off, now).await.map_err(failed)?;
    let taken_over = (!cut_off).then_some(since.revocations.len());
    Ok(Reconciled { policies, taken_over })
}

/// What cuts everything off: a cut-off of each policy that matches whatever was issued, and the end of its keys, because one
/// that was revoked since could sign what the cut-off doesn't match.
async fn everything(copy: &Store, policies: &[PolicyName], now: UnixMillis) -> Result<Since, StoreError> {
    let mut since = Since::default();
    for policy in policies {
        let until = copy.issued_until(policy).await?.unwrap_or(now).max(now);
        since.issued.insert(policy.clone(), until);
        since.revocations.push(end(policy, Kind::Policy, "", until));
        for name in RingName::ALL {
            let ring = copy.ring(policy, name).await?;
            let kids = ring.iter().flat_map(|ring| &ring.keys).map(|key| key.kid.as_str());
            since.revocations.extend(kids.map(|kid| end(policy, Kind::Key, kid, UnixMillis::FOREVER)));
        }
    }
    Ok(since)
}

fn end(policy: &PolicyName, kind: Kind, id: &str, cutoff: UnixMillis) -> NewRevocation {
    let entry = Entry {
        policy: policy.clone(),
        kind,
        issuer: None,
        id: id.to_owned(),
        cutoff,
        expires: UnixMillis::FOREVER,
        version: 0,
        reason: "restored without the feed".to_owned(),
        source: SOURCE.to_owned(),
    };
    NewRevocation { entry, subject: None, access_only: false }
}

/// An entry of the copy.
struct Held {
    entry: Entry,
    /// Whether the feed had it.
    published: bool,
}

/// What the database in use, and the feed, say that the copy doesn't. Where both say something, both count.
async fn heard(
    copy: &Store,
    present: Option<Store>,
    redis: Option<Box<RedisFeed>>,
    now: UnixMillis,
) -> Result<Since, Failure> {
    let mut since = Since::default();
    let mut have = BTreeMap::new();
    each_revocation(copy, |recorded| {
        let held = Held { published: recorded.position.is_some(), entry: recorded.entry };
        have.insert(held.entry.key(), held);
    })
    .await
    .map_err(|error| Failure::unable(chain(&error)))?;
    let mut more: BTreeMap<EntryKey, NewRevocation> = BTreeMap::new();
    let mut take = |new: NewRevocation| {
        let key = new.entry.key();
        if have.get(&key).map(|held| &held.entry) != Some(&new.entry) {
            let both = match more.remove(&key) {
                Some(other) => joined(other, new),
                None => new,
            };
            more.insert(key, both);
        }
    };
    if let Some(redis) = redis {
        of_redis(copy, &redis, &have, now, &mut take).await?;
    }
    if let Some(present) = present {
        let read = of_present(copy, &present, &mut since, &mut take).await;
        present.close().await;
        read?;
    }
    since.revocations = more.into_values().collect();
    Ok(since)
}

async fn of_present(
    copy: &Store,
    present: &Store,
    since: &mut Since,
    take: &mut impl FnMut(NewRevocation),
) -> Result<(), Failure> {
    let failed =
        |error: StoreError| Failure::unable(format!("the database that is replaced can't be read: {}", chain(&error)));
    let installation = async |store: &Store| store.meta(VERIFIER_NAME).await.map_err(failed);
    if installation(present).await? != installation(copy).await? {
        return Err(Failure::unable(
            "what is in the data directory is another installation's, and knows nothing of this backup",
        )
        .fix("restore into an empty directory, with --redis or --without-feed"));
    }
    for policy in present.known_policies().await.map_err(failed)? {
        if let Some(until) = present.issued_until(&policy).await.map_err(failed)? {
            since.issued.insert(policy, until);
        }
    }
    since.epoch = present.epoch().await.map_err(|error| Failure::unable(chain(&error)))?;
    each_revocation(present, |recorded| take(of_entry(recorded.entry, recorded.subject))).await.map_err(failed)
}

async fn each_revocation(store: &Store, mut take: impl FnMut(Recorded)) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        let page = store.revocations_after(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id;
        page.into_iter().for_each(&mut take);
    }
}

fn of_entry(entry: Entry, subject: Option<String>) -> NewRevocation {
    // A version says of these when a cut-off of the access ring would say the same; 0 that none does.
    let access_only = matches!(entry.kind, Kind::Token | Kind::Session) && entry.version > 0;
    NewRevocation { entry, subject, access_only }
}

/// Two words about one thing: as strict as either.
fn joined(one: NewRevocation, other: NewRevocation) -> NewRevocation {
    NewRevocation {
        entry: one.entry.join(other.entry),
        subject: one.subject.or(other.subject),
        access_only: one.access_only && other.access_only,
    }
}

/// Whether a feed says of an entry's credentials what the entry says, or more: itself, or by the cut-off of the access ring that
/// took its place. Blocks of addresses are lifted, and may be gone.
fn stands(entry: &Entry, standing: &BTreeMap<EntryKey, Entry>) -> bool {
    if entry.kind == Kind::Ip || standing.get(&entry.key()).is_some_and(|found| !entry.is_stricter_than(found)) {
        return true;
    }
    if !matches!(entry.kind, Kind::Token | Kind::Session) || entry.version == 0 {
        return false;
    }
    let ring = Entry {
        kind: Kind::Policy,
        issuer: None,
        id: ACCESS_RING_ONLY.to_owned(),
        policy: entry.policy.clone(),
        cutoff: entry.cutoff,
        expires: entry.expires,
        version: 0,
        reason: String::new(),
        source: String::new(),
    };
    let at = if entry.cutoff == UnixMillis::FOREVER {
        UnixMillis(i64::try_from(entry.version).unwrap_or(i64::MAX))
    } else {
        entry.cutoff
    };
    standing.get(&ring.key()).is_some_and(|ring| ring.cutoff >= at)
}

async fn of_redis(
    copy: &Store,
    redis: &RedisFeed,
    have: &BTreeMap<EntryKey, Held>,
    now: UnixMillis,
    take: &mut impl FnMut(NewRevocation),
) -> Result<(), Failure> {
    let unable = |said: String| Failure::unable(format!("{}: {said}", redis.describe()));
    let state = redis.state().await.map_err(|error| unable(chain(&error)))?;
    let held = copy.epoch().await.map_err(|error| Failure::unable(chain(&error)))?;
    let whole = state
        .present()
        .is_some_and(|record| record.seeded && record.whole && record.ahead.is_none() && record.epoch >= held.max(1));
    if !whole {
        return Err(unable(
            "it holds no whole feed of this installation: it was emptied or restarted, or is another".into(),
        )
        .fix("--without-feed cuts off everything issued before"));
    }
    let (mut after, mut standing) = (Position::ZERO, BTreeMap::new());
    let server_now = loop {
        let page = redis.page(after, PAGE as usize).await.map_err(|error| unable(chain(&error)))?;
        if !page.unreadable.is_empty() {
            return Err(unable("it holds entries of a later release".into()).fix("restore with that release"));
        }
        let (last, more) = (page.last(), page.more);
        standing.extend(page.entries.into_iter().map(|(_, entry)| (entry.key(), entry)));
        match last {
            Some(last) if more => after = last,
            _ => break UnixMillis(page.state.now_micros.div_euclid(1000)),
        }
    };
    // By whichever clock is ahead: what has run out by it may be gone.
    let now = now.max(server_now);
    let owed = |held: &&Held| held.published && held.entry.expires > now;
    if have.values().filter(owed).any(|held| !stands(&held.entry, &standing)) {
        let said = "it lacks revocations that this backup has: it is another installation's, or has lost some";
        return Err(unable(said.to_owned()).fix(
            "name the Redis that this installation published to; or give --without-feed, which cuts off everything issued before",
        ));
    }
    for entry in standing.into_values() {
        take(of_entry(entry, None));
    }
    Ok(())
}

async fn apply(
    copy: &Store,
    policies: &[PolicyName],
    since: &Since,
    cut_off: bool,
    now: UnixMillis,
) -> Result<(), StoreError> {
    for chunk in since.revocations.chunks(PAGE as usize) {
        copy.revoke(chunk, now, |_| usize::MAX).await?;
    }
    for (policy, until) in &since.issued {
        copy.issue_until(policy, *until).await?;
    }
    for (policy, name, ring) in copy.rings().await? {
        let restored = restored(&ring, now);
        copy.save_ring(&policy, name, &restored, Some(ring.version)).await?;
    }
    let entries: Vec<Entry> = since.revocations.iter().map(|new| new.entry.clone()).collect();
    transact!(copy, |tx| {
        let families = tx.void_single_use(now).await?;
        tx.publish_all_anew(since.epoch).await?;
        tx.mark_api_keys_of_entries(&entries, now).await?;
        for policy in policies {
            if cut_off {
                tx.end_all_of_policy(policy, now, "restored without the feed").await?;
            }
            let details = json!({
                "action": "restore backup",
                "cut_off": cut_off,
                "revocations_taken_over": entries.iter().filter(|entry| entry.policy == *policy).count(),
                "refresh_families_ended": families,
            });
            tx.append_audit(&AuditEvent {
                policy: policy.clone(),
                time: now,
                kind: "ADMIN_ACTION".into(),
                severity: Severity::Info,
                subject: None,
                session: None,
                ip: None,
                user_agent: None,
                request: None,
                details: details.to_string(),
            })
            .await?;
        }
        Ok(())
    })
}

/// A ring of unknown age (decision 4): no key of it signs again, and each verifies on.
fn restored(ring: &Ring, now: UnixMillis) -> Ring {
    let longest_ms = ring.keys.iter().map(|key| key.longest_ttl_ms).max().unwrap_or(0);
    ring.restored(longest_ms, ring.version, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, id: &str, cutoff: i64) -> Entry {
        Entry {
            policy: "shop/shop".parse().unwrap(),
            kind,
            issuer: None,
            id: id.into(),
            cutoff: UnixMillis(cutoff),
            expires: UnixMillis(1_000_000),
            version: 0,
            reason: String::new(),
            source: String::new(),
        }
    }

    #[test]
    fn of_two_that_know_of_one_thing_the_stricter_counts_whoever_is_asked_first() {
        let new = |cutoff, subject: Option<&str>, access_only| NewRevocation {
            entry: entry(Kind::Subject, "carol", cutoff),
            subject: subject.map(str::to_owned),
            access_only,
        };
        let (early, late) = (new(1, Some("carol"), true), new(2, None, false));
        for both in [joined(early.clone(), late.clone()), joined(late, early)] {
            assert_eq!((both.entry.cutoff, both.subject.as_deref()), (UnixMillis(2), Some("carol")));
            assert!(!both.access_only);
        }
    }

    #[test]
    fn a_feed_says_what_the_copy_says_or_is_not_its_own() {
        let token = |version| Entry { version, ..entry(Kind::Token, "t", i64::MAX) };
        let ring = |cutoff| entry(Kind::Policy, ACCESS_RING_ONLY, cutoff);
        for (held, found, expected) in [
            (entry(Kind::Subject, "carol", 5), None, false),
            (entry(Kind::Subject, "carol", 5), Some(entry(Kind::Subject, "carol", 5)), true),
            (entry(Kind::Subject, "carol", 5), Some(entry(Kind::Subject, "carol", 6)), true),
            (entry(Kind::Subject, "carol", 5), Some(entry(Kind::Subject, "carol", 4)), false),
            (entry(Kind::Subject, "carol", 5), Some(entry(Kind::Subject, "dave", 5)), false),
            (entry(Kind::Subject, "carol", 5), Some(ring(9)), false),
            (token(7), Some(ring(7)), true),
            (token(7), Some(ring(6)), false),
            (token(0), Some(ring(9)), false),
            (entry(Kind::Ip, "192.0.2.0/24", 5), None, true),
        ] {
            let standing = found.iter().map(|found| (found.key(), found.clone())).collect();
            assert_eq!(stands(&held, &standing), expected, "{held:?} {found:?}");
        }
    }
}
