//! Up to when tokens of a policy may have been issued.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::AnyExecutor;

use crate::{Store, StoreError, Tx};

impl Store {
    /// Up to when tokens of a policy may have been issued; absent before the first.
    pub async fn issued_until(&self, policy: &PolicyName) -> Result<Option<UnixMillis>, StoreError> {
        issued_until(&self.readers, policy).await
    }

    /// From here on tokens of a policy may be issued up to `until`. Never goes back.
    pub async fn issue_until(&self, policy: &PolicyName, until: UnixMillis) -> Result<(), StoreError> {
        issue_until(&self.writer, policy, until).await
    }
}

impl Tx {
    /// As [`Store::issued_until`]. Where several issue, it is read and raised under [`Tx::lock_subject`] by those who mint, and
    /// read under the same locks by those who cut off: so no cut-off is earlier than a token issued before it.
    pub async fn issued_until(&mut self, policy: &PolicyName) -> Result<Option<UnixMillis>, StoreError> {
        issued_until(self.connection(), policy).await
    }

    /// As [`Store::issue_until`]. Others of that policy wait for this transaction's end, so it is raised a little ahead.
    pub async fn issue_until(&mut self, policy: &PolicyName, until: UnixMillis) -> Result<(), StoreError> {
        issue_until(self.connection(), policy, until).await
    }
}

async fn issued_until<'c>(executor: impl AnyExecutor<'c>, policy: &PolicyName) -> Result<Option<UnixMillis>, StoreError> {
    let row = sqlx::query_scalar("SELECT until FROM issued WHERE policy = $1").bind(policy.as_str());
    Ok(row.fetch_optional(executor).await?.map(UnixMillis))
}

async fn issue_until<'c>(executor: impl AnyExecutor<'c>, policy: &PolicyName, until: UnixMillis) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO issued (policy, until) VALUES ($1, $2)
         ON CONFLICT (policy) DO UPDATE SET
           until = CASE WHEN excluded.until > issued.until THEN excluded.until ELSE issued.until END",
    )
    .bind(policy.as_str())
    .bind(until.0)
    .execute(executor)
    .await?;
    Ok(())
}
