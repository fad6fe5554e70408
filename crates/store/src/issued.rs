//! Up to when tokens may have been issued.

use countersign_core::{names::PolicyName, time::UnixMillis};

use crate::{Store, StoreError};

impl Store {
    /// Up to when tokens of a policy may have been issued; absent before the first.
    pub async fn issued_until(&self, policy: &PolicyName) -> Result<Option<UnixMillis>, StoreError> {
        let row = sqlx::query_scalar("SELECT until FROM issued WHERE policy = $1").bind(policy.as_str());
        Ok(row.fetch_optional(&self.readers).await?.map(UnixMillis))
    }

    /// From here on tokens of a policy may be issued up to `until`. Never goes back.
    pub async fn issue_until(&self, policy: &PolicyName, until: UnixMillis) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO issued (policy, until) VALUES ($1, $2)
             ON CONFLICT (policy) DO UPDATE SET until = CASE WHEN excluded.until > issued.until THEN excluded.until ELSE issued.until END",
        )
        .bind(policy.as_str())
        .bind(until.0)
        .execute(&self.writer)
        .await?;
        Ok(())
    }
}
