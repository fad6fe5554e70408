//! What happened: written in the transaction that did it, read page by page, chained so that a change shows.

mod chain;
mod log;
mod sealing;

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{AnyExecutor, AssertSqlSafe, Row as _, any::AnyRow};

pub use chain::{Break, Chain, Link};
pub use log::{Logged, Unlogged};
pub use sealing::Followed;

use crate::{Store, StoreError, Tx, columns};

/// How much an event matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Everyday.
    Info,
    /// Somebody should look at it when there are many.
    Warning,
    /// Somebody should look at it.
    Critical,
}

impl Severity {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Info, Self::Warning, Self::Critical];

    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Critical => "CRITICAL",
        }
    }

    const fn number(self) -> i64 {
        match self {
            Self::Info => 0,
            Self::Warning => 1,
            Self::Critical => 2,
        }
    }
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEvent {
    /// Its policy.
    pub policy: PolicyName,
    /// When it happened.
    pub time: UnixMillis,
    /// What happened, by the contract's word.
    pub kind: String,
    /// How much it matters.
    pub severity: Severity,
    /// Whom it concerns.
    pub subject: Option<String>,
    /// In which session.
    pub session: Option<String>,
    /// From where.
    pub ip: Option<String>,
    /// With which agent.
    pub user_agent: Option<String>,
    /// In which request.
    pub request: Option<String>,
    /// What else is to be said: a JSON object, never a secret.
    pub details: String,
}

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptEvent {
    /// Its number: with its time the cursor.
    pub id: i64,
    /// The event.
    pub event: AuditEvent,
    /// Its place in the chain. Absent: not sealed yet.
    pub link: Option<Link>,
}

/// Where a page ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditCursor {
    /// The last event's time.
    pub time: UnixMillis,
    /// Its number.
    pub id: i64,
}

/// Which events of a policy are asked for, latest first.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only those that concern this subject.
    pub subject: Option<String>,
    /// Only those of this kind.
    pub kind: Option<String>,
    /// Only those from this address.
    pub ip: Option<String>,
    /// Only those that matter at least so much.
    pub at_least: Option<Severity>,
    /// Only those of this time or later.
    pub since: Option<UnixMillis>,
    /// Only those after this page.
    pub before: Option<AuditCursor>,
    /// At most so many; at most 1,000 anyway.
    pub limit: u32,
}

/// Each shape of a filter has the index that bounds what is read; conditions beside it only sift.
pub(crate) const BY_SUBJECT: &str = "SELECT * FROM audit_events
     WHERE policy = $1 AND subject = $2 AND (time, id) < ($3, $4) AND time >= $5
       AND ($6 IS NULL OR type = $6) AND severity >= $7 AND ($9 IS NULL OR ip = $9) ORDER BY time DESC, id DESC LIMIT $8";
pub(crate) const BY_IP: &str = "SELECT * FROM audit_events
     WHERE policy = $1 AND ($2 IS NULL OR subject = $2) AND (time, id) < ($3, $4) AND time >= $5
       AND ($6 IS NULL OR type = $6) AND severity >= $7 AND ip = $9 ORDER BY time DESC, id DESC LIMIT $8";
pub(crate) const BY_KIND: &str = "SELECT * FROM audit_events
     WHERE policy = $1 AND ($2 IS NULL OR subject = $2) AND (time, id) < ($3, $4) AND time >= $5
       AND type = $6 AND severity >= $7 AND ($9 IS NULL OR ip = $9) ORDER BY time DESC, id DESC LIMIT $8";
pub(crate) const OF_CONCERN: &str = "SELECT * FROM audit_events
     WHERE policy = $1 AND ($2 IS NULL OR subject = $2) AND (time, id) < ($3, $4) AND time >= $5
       AND ($6 IS NULL OR type = $6) AND severity >= 1 AND severity >= $7 AND ($9 IS NULL OR ip = $9) ORDER BY time DESC, id DESC LIMIT $8";
pub(crate) const ALL: &str = "SELECT * FROM audit_events
     WHERE policy = $1 AND ($2 IS NULL OR subject = $2) AND (time, id) < ($3, $4) AND time >= $5
       AND ($6 IS NULL OR type = $6) AND severity >= $7 AND ($9 IS NULL OR ip = $9) ORDER BY time DESC, id DESC LIMIT $8";

impl AuditFilter {
    const fn sql(&self) -> &'static str {
        match self {
            Self { subject: Some(_), .. } => BY_SUBJECT,
            Self { ip: Some(_), .. } => BY_IP,
            Self { kind: Some(_), .. } => BY_KIND,
            Self { at_least: Some(Severity::Warning | Severity::Critical), .. } => OF_CONCERN,
            _ => ALL,
        }
    }
}

impl Store {
    /// Events of a policy, latest first.
    pub async fn audit(&self, policy: &PolicyName, filter: &AuditFilter) -> Result<Vec<KeptEvent>, StoreError> {
        asked(&self.readers, policy, filter).await
    }
}

async fn asked<'c>(
    executor: impl AnyExecutor<'c>,
    policy: &PolicyName,
    filter: &AuditFilter,
) -> Result<Vec<KeptEvent>, StoreError> {
    let (time, id) = filter.before.map_or((i64::MAX, i64::MAX), |before| (before.time.0, before.id));
    let rows = sqlx::query(filter.sql())
        .bind(policy.as_str())
        .bind(filter.subject.as_deref())
        .bind(time)
        .bind(id)
        .bind(filter.since.map_or(i64::MIN, |since| since.0))
        .bind(filter.kind.as_deref())
        .bind(filter.at_least.map_or(0, Severity::number))
        .bind(columns::page(filter.limit))
        .bind(filter.ip.as_deref());
    rows.fetch_all(executor).await?.iter().map(kept).collect()
}

impl Tx {
    /// As [`Store::audit`], as this transaction sees it.
    pub async fn audit(&mut self, policy: &PolicyName, filter: &AuditFilter) -> Result<Vec<KeptEvent>, StoreError> {
        asked(self.connection(), policy, filter).await
    }

    /// Writes an event with what it tells of.
    pub async fn append_audit(&mut self, event: &AuditEvent) -> Result<(), StoreError> {
        self.append_audits(std::slice::from_ref(event)).await
    }

    /// Writes events with what they tell of, in this order.
    pub async fn append_audits(&mut self, events: &[AuditEvent]) -> Result<(), StoreError> {
        for events in events.chunks(ROWS) {
            let rows: Vec<String> = (0..events.len()).map(placeholders).collect();
            let sql = format!(
                "INSERT INTO audit_events (policy, time, type, severity, subject, session_id, ip, user_agent, request_id, details)
                 VALUES {}",
                rows.join(", ")
            );
            let rows = sqlx::query(AssertSqlSafe(sql));
            let rows = events.iter().fold(rows, |rows, event| {
                rows.bind(event.policy.as_str())
                    .bind(event.time.0)
                    .bind(&event.kind)
                    .bind(event.severity.number())
                    .bind(event.subject.as_deref())
                    .bind(event.session.as_deref())
                    .bind(event.ip.as_deref())
                    .bind(event.user_agent.as_deref())
                    .bind(event.request.as_deref())
                    .bind(&event.details)
            });
            rows.execute(self.connection()).await?;
        }
        Ok(())
    }
}

/// The columns of an event that are written, and how many events one statement writes.
const COLUMNS: usize = 10;
const ROWS: usize = 20;

/// The placeholders of a row: `($1, …, $10)` for the first.
fn placeholders(row: usize) -> String {
    let numbers: Vec<String> = (1..=COLUMNS).map(|column| format!("${}", row * COLUMNS + column)).collect();
    format!("({})", numbers.join(", "))
}

async fn sealed_after<'c>(
    executor: impl AnyExecutor<'c>,
    policy: &PolicyName,
    place: i64,
    limit: u32,
) -> Result<Vec<KeptEvent>, StoreError> {
    let rows = sqlx::query("SELECT * FROM audit_events WHERE policy = $1 AND place > $2 ORDER BY place LIMIT $3");
    let rows = rows.bind(policy.as_str()).bind(place).bind(columns::page(limit));
    rows.fetch_all(executor).await?.iter().map(kept).collect()
}

fn kept(row: &AnyRow) -> Result<KeptEvent, StoreError> {
    let severity: i64 = row.try_get("severity")?;
    let severity = Severity::ALL.into_iter().find(|known| known.number() == severity);
    let place: Option<i64> = row.try_get("place")?;
    Ok(KeptEvent {
        id: row.try_get("id")?,
        event: AuditEvent {
            policy: columns::policy(row)?,
            time: columns::time(row, "time")?,
            kind: row.try_get("type")?,
            severity: severity.ok_or(StoreError::Corrupt("an event's severity"))?,
            subject: row.try_get("subject")?,
            session: row.try_get("session_id")?,
            ip: row.try_get("ip")?,
            user_agent: row.try_get("user_agent")?,
            request: row.try_get("request_id")?,
            details: row.try_get("details")?,
        },
        link: place.map(|place| Ok::<_, StoreError>(Link { place, hash: columns::hash(row, "hash")? })).transpose()?,
    })
}
