//! What an older copy of a database must be told before it is used: what was revoked since, by whoever knows; or that nobody
//! does, and everything is cut off.

use std::collections::BTreeMap;

use countersign_api::bundle::RingName;
use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Kind, Position},
    ring::Ring,
    time::UnixMillis,
};
use countersign_feed::{FeedServer as _, Outbox as _, RedisFeed};
use countersign_store::{AuditEvent, NewRevocation, Severity, Store, StoreError, transact};
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
        Known::By { present, redis } => (heard(copy, present, redis).await?, false),
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

/// What the database in use, and the feed, say that the copy doesn't.
async fn heard(copy: &Store, present: Option<Store>, redis: Option<Box<RedisFeed>>) -> Result<Since, Failure> {
    let mut since = Since::default();
    let mut have = BTreeMap::new();
    each_revocation(copy, |new| {
        have.insert(new.entry.key(), new.entry);
    })
    .await
    .map_err(|error| Failure::unable(chain(&error)))?;
    let mut more = BTreeMap::new();
    let mut take = |new: NewRevocation| {
        let key = new.entry.key();
        if have.get(&key) != Some(&new.entry) {
            more.insert(key, new);
        }
    };
    if let Some(redis) = redis {
        of_redis(copy, &redis, &mut take).await?;
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
    each_revocation(present, take).await.map_err(failed)
}

async fn each_revocation(store: &Store, mut take: impl FnMut(NewRevocation)) -> Result<(), StoreError> {
    let mut after = 0;
    loop {
        let page = store.revocations_after(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = last.id;
        for recorded in page {
            take(of_entry(recorded.entry, recorded.subject));
        }
    }
}

fn of_entry(entry: Entry, subject: Option<String>) -> NewRevocation {
    // A version says of these when a cut-off of the access ring would say the same; 0 that none does.
    let access_only = matches!(entry.kind, Kind::Token | Kind::Session) && entry.version > 0;
    NewRevocation { entry, subject, access_only }
}

async fn of_redis(copy: &Store, redis: &RedisFeed, take: &mut impl FnMut(NewRevocation)) -> Result<(), Failure> {
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
    let mut after = Position::ZERO;
    loop {
        let page = redis.page(after, PAGE as usize).await.map_err(|error| unable(chain(&error)))?;
        if !page.unreadable.is_empty() {
            return Err(unable("it holds entries of a later release".into()).fix("restore with that release"));
        }
        for (_, entry) in &page.entries {
            take(of_entry(entry.clone(), None));
        }
        match page.entries.last() {
            Some((last, _)) if page.more => after = *last,
            _ => return Ok(()),
        }
    }
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
