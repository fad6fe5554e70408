//! Telephone numbers, to which codes are sent once one has shown that the number is its owner's.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{AnyExecutor, Row as _};

use crate::{SecretHash, Store, StoreError, Tx, columns};

/// What came of a code for a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NumberProof {
    /// It was right: this is the account's number now.
    Confirmed(String),
    /// It was wrong; so many more are taken.
    Wrong(u32),
    /// No number waits for a code, or not any more.
    Nothing,
}

impl Store {
    /// An account's number, once it was confirmed.
    pub async fn phone(&self, policy: &PolicyName, user: &str) -> Result<Option<String>, StoreError> {
        confirmed(&self.readers, policy, user).await
    }
}

impl Tx {
    /// As [`Store::phone`].
    pub async fn phone(&mut self, policy: &PolicyName, user: &str) -> Result<Option<String>, StoreError> {
        confirmed(self.connection(), policy, user).await
    }

    /// Keeps a number that waits for its code, in the place of another one that waits. A confirmed number stays meanwhile.
    pub async fn begin_phone(
        &mut self,
        policy: &PolicyName,
        user: &str,
        number: &str,
        code: &SecretHash,
        expires: UnixMillis,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO phones (policy, user_id, pending_number, code_hash, code_expires) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (policy, user_id) DO UPDATE SET
               pending_number = $3, code_hash = $4, code_expires = $5, attempts = 0",
        )
        .bind(policy.as_str())
        .bind(user)
        .bind(number)
        .bind(code.bytes())
        .bind(expires.0)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Holds a code, by its hash under each key, against the one that was sent to the number that waits; `at_most` are taken.
    pub async fn prove_phone(
        &mut self,
        policy: &PolicyName,
        user: &str,
        codes: &[SecretHash],
        at_most: u32,
        now: UnixMillis,
    ) -> Result<NumberProof, StoreError> {
        let row = sqlx::query(
            "UPDATE phones SET attempts = attempts + 1
             WHERE policy = $1 AND user_id = $2 AND code_hash IS NOT NULL AND code_expires > $3 AND attempts < $4
             RETURNING pending_number, code_hash, attempts",
        );
        let row = row.bind(policy.as_str()).bind(user).bind(now.0).bind(i64::from(at_most));
        let Some(row) = row.fetch_optional(self.connection()).await? else { return Ok(NumberProof::Nothing) };
        let (kept, attempts) = (columns::hash(&row, "code_hash")?, columns::count(row.try_get("attempts")?));
        if !codes.iter().any(|code| code.0 == kept) {
            return Ok(NumberProof::Wrong(at_most.saturating_sub(attempts)));
        }
        sqlx::query(
            "UPDATE phones SET number = pending_number, confirmed = $3, pending_number = NULL, code_hash = NULL
             WHERE policy = $1 AND user_id = $2",
        )
        .bind(policy.as_str())
        .bind(user)
        .bind(now.0)
        .execute(self.connection())
        .await?;
        Ok(NumberProof::Confirmed(row.try_get("pending_number")?))
    }

    /// Removes an account's number, and one that waits. Whether there was any.
    pub async fn remove_phone(&mut self, policy: &PolicyName, user: &str) -> Result<bool, StoreError> {
        let gone = sqlx::query("DELETE FROM phones WHERE policy = $1 AND user_id = $2").bind(policy.as_str()).bind(user);
        Ok(gone.execute(self.connection()).await?.rows_affected() == 1)
    }
}

async fn confirmed<'c>(
    executor: impl AnyExecutor<'c>,
    policy: &PolicyName,
    user: &str,
) -> Result<Option<String>, StoreError> {
    let number = sqlx::query_scalar("SELECT number FROM phones WHERE policy = $1 AND user_id = $2 AND number IS NOT NULL");
    Ok(number.bind(policy.as_str()).bind(user).fetch_optional(executor).await?)
}
