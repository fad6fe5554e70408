//! Figures of a policy, for people who look after it: as costly as what they count.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::Row as _;

use crate::{Store, StoreError};

const HOUR_MS: i64 = 3_600_000;

/// Logins of one hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptsByHour {
    /// When it began.
    pub hour: UnixMillis,
    /// Logins.
    pub succeeded: u64,
    /// Failed ones.
    pub failed: u64,
}

impl Store {
    /// How many subjects had a session that was seen since then.
    pub async fn active_subjects(&self, policy: &PolicyName, since: UnixMillis) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar::<_, i64>(
            "SELECT count(DISTINCT subject) FROM sessions WHERE policy = $1 AND last_seen >= $2",
        );
        Ok(count.bind(policy.as_str()).bind(since.0).fetch_one(&self.readers).await?.unsigned_abs())
    }

    /// Logins and failed logins since then, hour by hour; hours without any are left out.
    pub async fn login_attempts(&self, policy: &PolicyName, since: UnixMillis) -> Result<Vec<AttemptsByHour>, StoreError> {
        let rows = sqlx::query(
            "SELECT time / $3 AS hour, type, count(*) AS counted FROM audit_events
             WHERE policy = $1 AND time >= $2 AND type IN ('LOGIN_SUCCEEDED', 'LOGIN_FAILED') GROUP BY 1, 2 ORDER BY 1",
        );
        let rows = rows.bind(policy.as_str()).bind(since.0).bind(HOUR_MS).fetch_all(&self.readers).await?;
        let mut hours: Vec<AttemptsByHour> = Vec::new();
        for row in &rows {
            let hour = UnixMillis(row.try_get::<i64, _>("hour")? * HOUR_MS);
            let count = row.try_get::<i64, _>("counted")?.unsigned_abs();
            if hours.last().is_none_or(|last| last.hour != hour) {
                hours.push(AttemptsByHour { hour, succeeded: 0, failed: 0 });
            }
            if let Some(last) = hours.last_mut() {
                match row.try_get::<&str, _>("type")? {
                    "LOGIN_SUCCEEDED" => last.succeeded = count,
                    _ => last.failed = count,
                }
            }
        }
        Ok(hours)
    }

    /// How many sessions are alive, by the device they were begun on.
    pub async fn live_sessions_by_device(
        &self,
        policy: &PolicyName,
        now: UnixMillis,
    ) -> Result<Vec<(Option<String>, u64)>, StoreError> {
        let rows = sqlx::query(
            "SELECT device, count(*) AS counted FROM sessions WHERE policy = $1 AND ended IS NULL AND ends > $2
             GROUP BY device ORDER BY counted DESC",
        );
        let rows = rows.bind(policy.as_str()).bind(now.0).fetch_all(&self.readers).await?;
        rows.iter().map(|row| Ok((row.try_get("device")?, row.try_get::<i64, _>("counted")?.unsigned_abs()))).collect()
    }

    /// How many audit events matter at least as much as a warning since then: what operators look at.
    pub async fn incidents(&self, policy: &PolicyName, since: UnixMillis) -> Result<u64, StoreError> {
        // The first bound on severity is the index's.
        let count = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM audit_events WHERE policy = $1 AND time >= $2 AND severity >= 1 AND severity >= 2",
        );
        Ok(count.bind(policy.as_str()).bind(since.0).fetch_one(&self.readers).await?.unsigned_abs())
    }
}
