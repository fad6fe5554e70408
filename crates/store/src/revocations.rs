//! Revocations as they are made, and their history.

use std::collections::{BTreeMap, BTreeSet};

use countersign_core::{
    names::PolicyName,
    revocation::{ACCESS_RING_ONLY, Entry, Kind, LIFTED, Position},
    time::UnixMillis,
};
use sqlx::{Row as _, any::AnyRow};

use crate::{Store, StoreError, Tx, row};

/// A revocation to commit.
#[derive(Clone, Debug)]
pub struct NewRevocation {
    /// What it says.
    pub entry: Entry,
    /// Whom it concerns, where that is known: for the history.
    pub subject: Option<String>,
    /// Whether it names the policy's own access tokens and nothing else (its token or session is known to be of the access
    /// ring), so that past the policy's bound a cut-off of that ring may stand in its place.
    pub access_only: bool,
}

/// What was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The rows to publish.
    pub ids: Vec<i64>,
    /// The policies of which so many entries lived that one cut-off was put in their place.
    pub merged: Vec<PolicyName>,
}

/// A revocation of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Rises with time; for paging.
    pub id: i64,
    /// What it says.
    pub entry: Entry,
    /// Whom it concerns, where that is known.
    pub subject: Option<String>,
    /// When it was made.
    pub created: UnixMillis,
    /// Where it stands in the feed; absent while it is not published.
    pub position: Option<Position>,
}

/// Which part of a history is asked for, latest first.
#[derive(Clone, Debug, Default)]
pub struct HistoryFilter {
    /// Only what concerns this subject.
    pub subject: Option<String>,
    /// Only this kind.
    pub kind: Option<Kind>,
    /// Only what came before this row.
    pub before: Option<i64>,
    /// At most so many; at most 1,000 anyway.
    pub limit: Option<u32>,
}

const HISTORY_PAGE: u32 = 1000;

/// Each has the index that bounds what is read, as of the trail's questions.
const HISTORY: &str =
    "SELECT id, policy, kind, issuer, name, cutoff, expires, version, reason, source, subject, created, position
     FROM revocations WHERE policy = $1 AND ($2 IS NULL OR subject = $2) AND ($3 IS NULL OR kind = $3) AND id < $4
     ORDER BY id DESC LIMIT $5";
const HISTORY_OF_SUBJECT: &str =
    "SELECT id, policy, kind, issuer, name, cutoff, expires, version, reason, source, subject, created, position
     FROM revocations WHERE policy = $1 AND subject = $2 AND ($3 IS NULL OR kind = $3) AND id < $4
     ORDER BY id DESC LIMIT $5";

impl Store {
    /// As [`Tx::revoke`], in a transaction of its own.
    pub async fn revoke(
        &self,
        revocations: &[NewRevocation],
        now: UnixMillis,
        max_entries: impl Fn(&PolicyName) -> usize + Send,
    ) -> Result<Appended, StoreError> {
        let bounds = bounds(revocations, max_entries);
        crate::transact!(self, |tx| { revoke(tx, revocations, now, &bounds).await })
    }

    /// Revocations of a policy, latest first, for as long as what they match can live.
    pub async fn history(&self, policy: &PolicyName, filter: &HistoryFilter) -> Result<Vec<Recorded>, StoreError> {
        let rows = sqlx::query(match filter.subject {
            Some(_) => HISTORY_OF_SUBJECT,
            None => HISTORY,
        })
        .bind(policy.as_str())
        .bind(filter.subject.as_deref())
        .bind(filter.kind.map(row::kind_word))
        .bind(filter.before.unwrap_or(i64::MAX))
        .bind(i64::from(filter.limit.unwrap_or(HISTORY_PAGE).min(HISTORY_PAGE)))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(recorded).collect()
    }

    /// Every `key` entry of a policy: they never expire, and bind every ring that is read, restored ones included.
    pub async fn revoked_keys(&self, policy: &PolicyName) -> Result<Vec<Recorded>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, policy, kind, issuer, name, cutoff, expires, version, reason, source, subject, created, position
             FROM revocations WHERE policy = $1 AND kind = 'key' ORDER BY id",
        );
        rows.bind(policy.as_str()).fetch_all(&self.readers).await?.iter().map(recorded).collect()
    }

    /// Live entries of a policy that no cut-off may take the place of: what API keys and subjects are revoked by.
    pub async fn unmergeable_entries(&self, policy: &PolicyName) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM revocations WHERE policy = $1 AND merged_into IS NULL
             AND (kind IN ('api_key', 'subject') OR version = 0 AND kind IN ('token', 'session'))",
        );
        Ok(count.bind(policy.as_str()).fetch_one(&self.readers).await?.unsigned_abs())
    }
}

impl Tx {
    /// Blocks of a policy that are in force at `now`, but for that of `network`. Two that come at once see each other.
    pub async fn other_blocks(&mut self, policy: &PolicyName, network: &str, now: UnixMillis) -> Result<u64, StoreError> {
        self.lock_revocations(policy).await?;
        let count = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM revocations WHERE policy = $1 AND kind = 'ip' AND name <> $2 AND expires > $3 AND cutoff <> $4",
        );
        let count = count.bind(policy.as_str()).bind(network).bind(now.0).bind(LIFTED.0);
        Ok(count.fetch_one(self.connection()).await?.unsigned_abs())
    }

    /// Commits revocations with the transaction, and says which rows to publish after it. What is already said as strictly is
    /// not said again. `now` is this process' clock; the times recorded for a policy never go back. `max_entries` is each
    /// policy's bound of live entries about its access tokens: past it, by a 64th at most, one cut-off of the access ring, at the
    /// last of their times, takes their place. Mints that these could concern come before or after the whole transaction.
    pub async fn revoke(
        &mut self,
        revocations: &[NewRevocation],
        now: UnixMillis,
        max_entries: impl Fn(&PolicyName) -> usize + Send,
    ) -> Result<Appended, StoreError> {
        let bounds = bounds(revocations, max_entries);
        revoke(self, revocations, now, &bounds).await
    }
}

type Bounds = BTreeMap<PolicyName, usize>;

fn bounds(revocations: &[NewRevocation], max_entries: impl Fn(&PolicyName) -> usize) -> Bounds {
    revocations.iter().map(|r| (r.entry.policy.clone(), max_entries(&r.entry.policy))).collect()
}

async fn revoke(
    tx: &mut Tx,
    revocations: &[NewRevocation],
    now: UnixMillis,
    bounds: &Bounds,
) -> Result<Appended, StoreError> {
    for policy in bounds.keys() {
        let of_policy = || revocations.iter().map(|r| &r.entry).filter(|entry| entry.policy == *policy);
        if of_policy().any(|entry| entry.kind == Kind::Policy) {
            tx.lock_policy(policy).await?;
        }
        let subjects: BTreeSet<&str> = of_policy().filter(|e| e.kind == Kind::Subject).map(|e| e.id.as_str()).collect();
        for subject in subjects {
            tx.lock_subject(policy, subject).await?;
        }
    }
    let (mut ids, mut merged) = (BTreeSet::new(), Vec::new());
    for (policy, bound) in bounds {
        tx.lock_revocations(policy).await?;
        let latest: Option<i64> = sqlx::query_scalar("SELECT max(created) FROM revocations WHERE policy = $1")
            .bind(policy.as_str())
            .fetch_one(tx.connection())
            .await?;
        let created = latest.map_or(now.0, |latest| latest.max(now.0));
        let mut added = 0;
        for revocation in revocations.iter().filter(|r| r.entry.policy == *policy) {
            added += i64::from(revocation.access_only && matches!(revocation.entry.kind, Kind::Token | Kind::Session));
            ids.insert(append(tx, revocation, created).await?);
        }
        if has_room(tx, policy, *bound, added).await? {
            continue;
        }
        if let Some(id) = merge_past(tx, policy, *bound, created).await? {
            let gone = sqlx::query_scalar::<_, i64>("SELECT id FROM revocations WHERE merged_into = $1 AND removed = 0");
            for id in gone.bind(id).fetch_all(tx.connection()).await? {
                ids.remove(&id);
            }
            ids.insert(id);
            merged.push(policy.clone());
        }
    }
    Ok(Appended { ids: ids.into_iter().collect(), merged })
}

pub(crate) fn recorded(row: &AnyRow) -> Result<Recorded, StoreError> {
    Ok(Recorded {
        id: row.try_get("id")?,
        entry: row::entry(row)?,
        subject: row.try_get("subject")?,
        created: UnixMillis(row.try_get("created")?),
        position: row::position(row.try_get("position")?),
    })
}

/// Commits one entry, joined with what is held under its key. Its row's number.
async fn append(tx: &mut Tx, new: &NewRevocation, created: i64) -> Result<i64, StoreError> {
    let mut entry = new.entry.clone();
    if matches!(entry.kind, Kind::Token | Kind::Session) {
        // The time at which a cut-off of the access ring says the same: no token that this ends is issued later. 0 where none
        // does.
        entry.version =
            if new.access_only { created.max(issued_until(tx, &entry.policy).await?).unsigned_abs() } else { 0 };
    }
    let key = entry.key();
    let held = sqlx::query(
        "SELECT id, policy, kind, issuer, name, cutoff, expires, version, reason, source, merged_into
         FROM revocations WHERE key = $1",
    )
    .bind(key.as_str())
    .fetch_optional(tx.connection())
    .await?;
    if let Some(row) = held {
        let (id, held): (i64, Entry) = (row.try_get("id")?, row::entry(&row)?);
        let merged = row.try_get::<Option<i64>, _>("merged_into")?.is_some();
        if entry.kind == Kind::Ip {
            // Whoever asks later has the last word, whatever the clock that made the version says.
            entry.version = entry.version.max(held.version.saturating_add(1));
        }
        let entry = if merged { entry } else { joined(held.clone(), entry) };
        if merged || says_more(&entry, &held) {
            sqlx::query(
                "UPDATE revocations SET cutoff = $2, expires = $3, version = $4, reason = $5, source = $6,
                 subject = coalesce($7, subject), created = $8, revision = revision + 1, mark = 0, merged_into = NULL, removed = 0
                 WHERE id = $1",
            )
            .bind(id)
            .bind(entry.cutoff.0)
            .bind(entry.expires.0)
            .bind(row::version(entry.version))
            .bind(&entry.reason)
            .bind(&entry.source)
            .bind(new.subject.as_deref())
            .bind(created)
            .execute(tx.connection())
            .await?;
        }
        return Ok(id);
    }
    let id = sqlx::query_scalar(
        "INSERT INTO revocations (key, policy, kind, issuer, name, cutoff, expires, version, reason, source, subject, created)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING id",
    )
    .bind(key.as_str())
    .bind(entry.policy.as_str())
    .bind(row::kind_word(entry.kind))
    .bind(entry.issuer.as_deref())
    .bind(&entry.id)
    .bind(entry.cutoff.0)
    .bind(entry.expires.0)
    .bind(row::version(entry.version))
    .bind(&entry.reason)
    .bind(&entry.source)
    .bind(new.subject.as_deref())
    .bind(created)
    .fetch_one(tx.connection())
    .await?;
    Ok(id)
}

async fn issued_until(tx: &mut Tx, policy: &PolicyName) -> Result<i64, StoreError> {
    let row = sqlx::query_scalar("SELECT until FROM issued WHERE policy = $1").bind(policy.as_str());
    Ok(row.fetch_optional(tx.connection()).await?.unwrap_or(0))
}

/// At least as strict as each; replaceable by a cut-off only when each is.
fn joined(held: Entry, new: Entry) -> Entry {
    let (a, b) = (held.version, new.version);
    let kind = new.kind;
    let mut joined = held.join(new);
    if matches!(kind, Kind::Token | Kind::Session) {
        joined.version = if a == 0 || b == 0 { 0 } else { a.max(b) };
    }
    joined
}

fn says_more(new: &Entry, held: &Entry) -> bool {
    if new.kind == Kind::Ip {
        return new.version > held.version;
    }
    // One that may no longer be replaced by a cut-off has to be published again, to say so.
    new.cutoff > held.cutoff || new.expires > held.expires || (new.version == 0 && held.version > 0)
}

/// How many live entries a cut-off could take the place of, and the latest of their times. Policy, the end of time, now.
pub(crate) const MERGEABLE: &str = "SELECT count(*), max(CASE WHEN cutoff = $2 THEN version ELSE cutoff END), max(expires)
   FROM revocations WHERE policy = $1 AND expires > $3 AND merged_into IS NULL AND version > 0 AND kind IN ('token', 'session')";
/// Takes room for entries that came, of what there was under the same bound. Policy, how many, bound.
pub(crate) const ROOM: &str = "UPDATE revocation_room SET room = room - $2 WHERE policy = $1 AND bound = $3 RETURNING room";
/// Near its bound a policy's entries are counted again after so large a part of it: each count reads them all.
const UNCOUNTED_PART: i64 = 64;

/// Whether so many more entries can't have gone past the bound since they were counted last.
async fn has_room(tx: &mut Tx, policy: &PolicyName, bound: usize, added: i64) -> Result<bool, StoreError> {
    if added == 0 {
        return Ok(true);
    }
    let room = sqlx::query_scalar::<_, i64>(ROOM).bind(policy.as_str()).bind(added).bind(as_count(bound));
    Ok(room.fetch_optional(tx.connection()).await?.is_some_and(|room| room >= 0))
}

/// Keeps how many entries may come before they are counted again.
async fn leave_room(tx: &mut Tx, policy: &PolicyName, bound: usize, counted: i64) -> Result<(), StoreError> {
    let bound = as_count(bound);
    sqlx::query(
        "INSERT INTO revocation_room (policy, bound, room) VALUES ($1, $2, $3)
         ON CONFLICT (policy) DO UPDATE SET bound = $2, room = $3",
    )
    .bind(policy.as_str())
    .bind(bound)
    .bind((bound - counted).max(bound / UNCOUNTED_PART))
    .execute(tx.connection())
    .await?;
    Ok(())
}

fn as_count(bound: usize) -> i64 {
    i64::try_from(bound).unwrap_or(i64::MAX)
}

/// Puts one cut-off in the place of a policy's entries about access tokens when more than `bound` live.
async fn merge_past(tx: &mut Tx, policy: &PolicyName, bound: usize, created: i64) -> Result<Option<i64>, StoreError> {
    let row = sqlx::query(MERGEABLE).bind(policy.as_str()).bind(i64::MAX).bind(created).fetch_one(tx.connection()).await?;
    let live: i64 = row.try_get(0)?;
    if live <= as_count(bound) {
        leave_room(tx, policy, bound, live).await?;
        return Ok(None);
    }
    leave_room(tx, policy, bound, 0).await?;
    let cutoff = Entry {
        policy: policy.clone(),
        kind: Kind::Policy,
        issuer: None,
        id: ACCESS_RING_ONLY.into(),
        cutoff: UnixMillis(row.try_get(1)?),
        expires: UnixMillis(row.try_get(2)?),
        version: 0,
        reason: format!("more than {bound} revocations of access tokens were live"),
        source: String::new(),
    };
    let new = NewRevocation { entry: cutoff, subject: None, access_only: false };
    let id = append(tx, &new, created).await?;
    sqlx::query(
        "UPDATE revocations SET merged_into = $2
         WHERE policy = $1 AND merged_into IS NULL AND version > 0 AND kind IN ('token', 'session')",
    )
    .bind(policy.as_str())
    .bind(id)
    .execute(tx.connection())
    .await?;
    Ok(Some(id))
}
