//! Sessions: one for each login.

mod ending;

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{AnyExecutor, Row as _, any::AnyRow};

pub(crate) use ending::{END, END_FAMILIES, OPEN};
pub use ending::{Ended, Ending};

use crate::{Appended, Store, StoreError, Tx, columns};

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its policy.
    pub policy: PolicyName,
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub subject: String,
    /// When it began.
    pub created: UnixMillis,
    /// When its owner last proved who they are.
    pub auth_time: UnixMillis,
    /// The last activity that is known of, to the minute.
    pub last_seen: UnixMillis,
    /// For how long it may be idle.
    pub idle_ms: i64,
    /// When it ends whatever happens.
    pub absolute_end: UnixMillis,
    /// Where it was last seen to come from.
    pub ip: Option<String>,
    /// With which agent.
    pub user_agent: Option<String>,
    /// The client's own name for the device: a label, no proof.
    pub device_id: Option<String>,
    /// The device, in words.
    pub device: Option<String>,
    /// Whether the longer pair of times was asked for.
    pub remember_me: bool,
    /// How its owner proved who they are (RFC 8176).
    pub amr: Vec<String>,
    /// When it was ended, if it was.
    pub ended: Option<UnixMillis>,
    /// Why.
    pub ended_because: Option<String>,
}

impl Session {
    /// When it ends by itself if nothing more happens in it.
    pub fn ends(&self) -> UnixMillis {
        self.last_seen.plus(self.idle_ms).min(self.absolute_end)
    }

    /// How long activity in it may go unwritten, milliseconds: a minute, and less where it ends soon without any.
    pub fn seen_every_ms(&self) -> i64 {
        SEEN_EVERY_MS.min(self.idle_ms / SEEN_WITHIN_IDLE)
    }

    /// Whether it is alive.
    pub fn is_live(&self, now: UnixMillis) -> bool {
        self.ended.is_none() && self.ends() > now
    }
}

/// How many sessions a subject may have, and what happens when one more begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimit {
    /// So many.
    pub max: u32,
    /// What happens then.
    pub beyond: BeyondLimit,
}

/// What happens when one session more than allowed begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BeyondLimit {
    /// The one that began first ends.
    EvictOldest,
    /// The one least recently seen ends.
    EvictIdle,
    /// It doesn't begin.
    Reject,
}

/// What came of beginning a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opening {
    /// It has begun; these have ended for it.
    Opened(Ended),
    /// There are as many as there may be, and nothing was written.
    Refused,
}

/// Activity is written at most this often.
pub(crate) const SEEN_EVERY_MS: i64 = 60_000;
/// How often it is written in a session's idle time-out, where that is short: as in [`SEEN`].
const SEEN_WITHIN_IDLE: i64 = 30;

/// Live sessions of a subject, page by page.
pub(crate) const PAGE: &str = "SELECT * FROM sessions
             WHERE policy = $1 AND subject = $2 AND ended IS NULL AND (created, id) > ($3, $4) AND ends > $5
             ORDER BY created, id LIMIT $6";
/// The live sessions of a subject beyond those that began last: what goes first is last. Policy, subject, now, how many stay,
/// limit.
pub(crate) const BEYOND_OLDEST: &str = "SELECT * FROM sessions
             WHERE policy = $1 AND subject = $2 AND ended IS NULL AND ends > $3
             ORDER BY created DESC, id DESC LIMIT $5 OFFSET $4";
/// Those beyond the ones that were seen last.
pub(crate) const BEYOND_IDLE: &str = "SELECT * FROM sessions
             WHERE policy = $1 AND subject = $2 AND ended IS NULL AND ends > $3
             ORDER BY last_seen DESC, created DESC, id DESC LIMIT $5 OFFSET $4";
/// Policy, session, when; how long activity may go unwritten at most.
pub(crate) const SEEN: &str = "UPDATE sessions SET last_seen = $3,
               ends = CASE WHEN $3 + idle_ms < absolute_end THEN $3 + idle_ms ELSE absolute_end END
             WHERE policy = $1 AND id = $2 AND ended IS NULL AND ends > $3
               AND last_seen <= $3 - CASE WHEN idle_ms / 30 < $4 THEN idle_ms / 30 ELSE $4 END";

impl Store {
    /// A session, ended ones included as long as they are kept.
    pub async fn session(&self, policy: &PolicyName, id: &str) -> Result<Option<Session>, StoreError> {
        by_id(&self.readers, policy, id).await
    }

    /// A subject's live sessions in the order in which they began, after that of `after`.
    pub async fn sessions(
        &self,
        policy: &PolicyName,
        subject: &str,
        after: Option<&Session>,
        limit: u32,
        now: UnixMillis,
    ) -> Result<Vec<Session>, StoreError> {
        let (created, id) = after.map_or((i64::MIN, ""), |after| (after.created.0, after.id.as_str()));
        let rows = sqlx::query(PAGE);
        let rows = rows.bind(policy.as_str()).bind(subject).bind(created).bind(id).bind(now.0).bind(columns::page(limit));
        rows.fetch_all(&self.readers).await?.iter().map(session).collect()
    }

    /// How many sessions of a policy are alive, for its figures: as costly as they are many.
    pub async fn live_sessions(&self, policy: &PolicyName, now: UnixMillis) -> Result<u64, StoreError> {
        let live =
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM sessions WHERE policy = $1 AND ended IS NULL AND ends > $2");
        Ok(live.bind(policy.as_str()).bind(now.0).fetch_one(&self.readers).await?.unsigned_abs())
    }
}

impl Tx {
    /// A session. What is decided on it holds only under [`Tx::lock_subject`], taken before.
    pub async fn session(&mut self, policy: &PolicyName, id: &str) -> Result<Option<Session>, StoreError> {
        by_id(self.connection(), policy, id).await
    }

    /// Begins a session within the limit, of which no two that begin at once make one too many. Those that end for it, end
    /// as `ending` says.
    pub async fn open_session(
        &mut self,
        new: &Session,
        limit: Option<SessionLimit>,
        ending: &Ending,
    ) -> Result<Opening, StoreError> {
        self.lock_subject(&new.policy, &new.subject).await?;
        let mut evicted = Ended { sessions: Vec::new(), revocations: Appended { ids: Vec::new(), merged: Vec::new() } };
        if let Some(SessionLimit { max, beyond }) = limit {
            // With a limit of none there is nothing whose end would make room.
            let Some(others) = max.checked_sub(1) else { return Ok(Opening::Refused) };
            let (sql, at_most) = match beyond {
                BeyondLimit::EvictOldest => (BEYOND_OLDEST, u32::MAX),
                BeyondLimit::EvictIdle => (BEYOND_IDLE, u32::MAX),
                BeyondLimit::Reject => (BEYOND_OLDEST, 1),
            };
            let rows = sqlx::query(sql).bind(new.policy.as_str()).bind(&new.subject).bind(ending.now.0);
            let rows = rows.bind(i64::from(others)).bind(i64::from(at_most)).fetch_all(self.connection()).await?;
            if !rows.is_empty() {
                if beyond == BeyondLimit::Reject {
                    return Ok(Opening::Refused);
                }
                let beyond = rows.iter().rev().map(session).collect::<Result<Vec<_>, _>>()?;
                evicted = self.end(beyond, ending).await?;
            }
        }
        self.insert_session(new).await?;
        Ok(Opening::Opened(evicted))
    }

    async fn insert_session(&mut self, new: &Session) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO sessions (policy, id, subject, created, auth_time, last_seen, idle_ms, absolute_end, ends, ip,
               user_agent, device_id, device, remember_me, amr)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        )
        .bind(new.policy.as_str())
        .bind(&new.id)
        .bind(&new.subject)
        .bind(new.created.0)
        .bind(new.auth_time.0)
        .bind(new.last_seen.0)
        .bind(new.idle_ms)
        .bind(new.absolute_end.0)
        .bind(new.ends().0)
        .bind(new.ip.as_deref())
        .bind(new.user_agent.as_deref())
        .bind(new.device_id.as_deref())
        .bind(new.device.as_deref())
        .bind(i64::from(new.remember_me))
        .bind(columns::list(&new.amr)?)
        .execute(self.connection())
        .await
        .map_err(|error| StoreError::taken(error, "the session's id"))?;
        Ok(())
    }

    /// Says that something happened in a session at `at`; written once in [`Session::seen_every_ms`]. It revives none that was
    /// over by then. Whether anything was written.
    pub async fn session_seen(&mut self, policy: &PolicyName, id: &str, at: UnixMillis) -> Result<bool, StoreError> {
        self.seen(policy, id, at, SEEN_EVERY_MS).await
    }

    /// The same, written however little time has passed: for whoever goes by which session was seen last.
    pub async fn session_used(&mut self, policy: &PolicyName, id: &str, at: UnixMillis) -> Result<bool, StoreError> {
        self.seen(policy, id, at, 0).await
    }

    async fn seen(&mut self, policy: &PolicyName, id: &str, at: UnixMillis, every_ms: i64) -> Result<bool, StoreError> {
        let seen = sqlx::query(SEEN).bind(policy.as_str()).bind(id).bind(at.0).bind(every_ms);
        Ok(seen.execute(self.connection()).await?.rows_affected() == 1)
    }

    /// Writes where a live session now comes from, with its agent and that in a few words, and when its owner last proved who
    /// they are.
    pub async fn session_client(
        &mut self,
        policy: &PolicyName,
        id: &str,
        ip: Option<&str>,
        (user_agent, device): (Option<&str>, Option<&str>),
        auth_time: UnixMillis,
    ) -> Result<bool, StoreError> {
        let written = sqlx::query(
            "UPDATE sessions SET ip = $3, user_agent = $4, device = $5, auth_time = $6
             WHERE policy = $1 AND id = $2 AND ended IS NULL",
        );
        let written = written.bind(policy.as_str()).bind(id).bind(ip).bind(user_agent).bind(device).bind(auth_time.0);
        Ok(written.execute(self.connection()).await?.rows_affected() == 1)
    }
}

async fn by_id<'c>(executor: impl AnyExecutor<'c>, policy: &PolicyName, id: &str) -> Result<Option<Session>, StoreError> {
    let row = sqlx::query("SELECT * FROM sessions WHERE policy = $1 AND id = $2").bind(policy.as_str()).bind(id);
    row.fetch_optional(executor).await?.as_ref().map(session).transpose()
}

pub(crate) fn session(row: &AnyRow) -> Result<Session, StoreError> {
    Ok(Session {
        policy: columns::policy(row)?,
        id: row.try_get("id")?,
        subject: row.try_get("subject")?,
        created: columns::time(row, "created")?,
        auth_time: columns::time(row, "auth_time")?,
        last_seen: columns::time(row, "last_seen")?,
        idle_ms: row.try_get("idle_ms")?,
        absolute_end: columns::time(row, "absolute_end")?,
        ip: row.try_get("ip")?,
        user_agent: row.try_get("user_agent")?,
        device_id: row.try_get("device_id")?,
        device: row.try_get("device")?,
        remember_me: columns::flag(row, "remember_me")?,
        amr: columns::strings(row, "amr")?,
        ended: columns::time_if_any(row, "ended")?,
        ended_because: row.try_get("ended_because")?,
    })
}
