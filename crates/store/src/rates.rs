//! Rate limits where there is no Redis: hits in a window that begins with the first.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::Row as _;

use crate::{Store, StoreError, columns};

/// A window as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateWindow {
    /// Hits in it, this one included.
    pub hits: u32,
    /// When it is over.
    pub ends: UnixMillis,
}

impl Store {
    /// Counts a hit on the window `name` of a policy, and says how the window stands with it.
    pub async fn count_hit(
        &self,
        policy: &PolicyName,
        name: &str,
        window_ms: i64,
        now: UnixMillis,
    ) -> Result<RateWindow, StoreError> {
        let row = sqlx::query(
            "INSERT INTO rate_buckets (policy, name, hits, expires) VALUES ($1, $2, 1, $4)
             ON CONFLICT (policy, name) DO UPDATE SET
               hits = CASE WHEN rate_buckets.expires <= $3 THEN 1 WHEN rate_buckets.hits < $5 THEN rate_buckets.hits + 1
                 ELSE rate_buckets.hits END,
               expires = CASE WHEN rate_buckets.expires <= $3 THEN $4 ELSE rate_buckets.expires END
             RETURNING hits, expires",
        )
        .bind(policy.as_str())
        .bind(name)
        .bind(now.0)
        .bind(now.plus(window_ms).0)
        .bind(i64::from(u32::MAX))
        .fetch_one(&self.writer)
        .await?;
        Ok(RateWindow { hits: columns::count(row.try_get("hits")?), ends: columns::time(&row, "expires")? })
    }

    /// Takes back a hit. A window of which nothing is left is gone, so that the next hit begins another.
    pub async fn take_back_hit(&self, policy: &PolicyName, name: &str) -> Result<(), StoreError> {
        let less = sqlx::query("UPDATE rate_buckets SET hits = hits - 1 WHERE policy = $1 AND name = $2 AND hits > 1");
        if less.bind(policy.as_str()).bind(name).execute(&self.writer).await?.rows_affected() == 0 {
            let gone = sqlx::query("DELETE FROM rate_buckets WHERE policy = $1 AND name = $2 AND hits <= 1");
            gone.bind(policy.as_str()).bind(name).execute(&self.writer).await?;
        }
        Ok(())
    }

    /// A window as it stands, without a hit; absent when it is over.
    pub async fn rate_window(
        &self,
        policy: &PolicyName,
        name: &str,
        now: UnixMillis,
    ) -> Result<Option<RateWindow>, StoreError> {
        let row = sqlx::query("SELECT hits, expires FROM rate_buckets WHERE policy = $1 AND name = $2 AND expires > $3");
        let row = row.bind(policy.as_str()).bind(name).bind(now.0).fetch_optional(&self.readers).await?;
        row.map(|row| Ok(RateWindow { hits: columns::count(row.try_get("hits")?), ends: columns::time(&row, "expires")? }))
            .transpose()
    }

    /// Forgets a window. Whether there was one.
    pub async fn clear_rate_window(&self, policy: &PolicyName, name: &str) -> Result<bool, StoreError> {
        let gone = sqlx::query("DELETE FROM rate_buckets WHERE policy = $1 AND name = $2");
        Ok(gone.bind(policy.as_str()).bind(name).execute(&self.writer).await?.rows_affected() == 1)
    }
}
