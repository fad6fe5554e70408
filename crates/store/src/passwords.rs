//! Passwords' hashes, and those they had before.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{AnyExecutor, Row as _};

use crate::{PasswordHash, Store, StoreError, Tx, columns};

/// An account's password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Password {
    /// Its hash.
    pub hash: PasswordHash,
    /// When it was set.
    pub changed: UnixMillis,
}

impl Store {
    /// An account's password, if it has one.
    pub async fn password(&self, policy: &PolicyName, user: &str) -> Result<Option<Password>, StoreError> {
        present(&self.readers, policy, user).await
    }

    /// The passwords that an account had before its present one, latest first.
    pub async fn old_passwords(
        &self,
        policy: &PolicyName,
        user: &str,
        at_most: u32,
    ) -> Result<Vec<PasswordHash>, StoreError> {
        let rows = sqlx::query_scalar(
            "SELECT hash FROM old_passwords WHERE policy = $1 AND user_id = $2 ORDER BY id DESC LIMIT $3",
        );
        let rows = rows.bind(policy.as_str()).bind(user).bind(i64::from(at_most)).fetch_all(&self.readers).await?;
        Ok(rows.into_iter().map(PasswordHash::new).collect())
    }
}

impl Tx {
    /// As [`Store::password`]: under [`Tx::lock_subject`] what a login rested on is read again before its tokens are minted.
    pub async fn password(&mut self, policy: &PolicyName, user: &str) -> Result<Option<Password>, StoreError> {
        present(self.connection(), policy, user).await
    }

    /// Sets an account's password and remembers at most `history` of those before it. With `instead_of` only when that is
    /// the present one, so that of two changes made on the same old password one fails with [`StoreError::Conflict`].
    pub async fn set_password(
        &mut self,
        policy: &PolicyName,
        user: &str,
        hash: &PasswordHash,
        instead_of: Option<&PasswordHash>,
        history: u32,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        self.lock_subject(policy, user).await?;
        let held: Option<String> = sqlx::query_scalar("SELECT hash FROM passwords WHERE policy = $1 AND user_id = $2")
            .bind(policy.as_str())
            .bind(user)
            .fetch_optional(self.connection())
            .await?;
        if instead_of.is_some_and(|expected| held.as_deref() != Some(expected.as_str())) {
            return Err(StoreError::Conflict("the password"));
        }
        if let Some(held) = held {
            sqlx::query("INSERT INTO old_passwords (policy, user_id, hash) VALUES ($1, $2, $3)")
                .bind(policy.as_str())
                .bind(user)
                .bind(held)
                .execute(self.connection())
                .await?;
        }
        sqlx::query(
            "DELETE FROM old_passwords WHERE policy = $1 AND user_id = $2 AND id NOT IN
               (SELECT id FROM old_passwords WHERE policy = $1 AND user_id = $2 ORDER BY id DESC LIMIT $3)",
        )
        .bind(policy.as_str())
        .bind(user)
        .bind(i64::from(history))
        .execute(self.connection())
        .await?;
        sqlx::query(
            "INSERT INTO passwords (policy, user_id, hash, changed) VALUES ($1, $2, $3, $4)
             ON CONFLICT (policy, user_id) DO UPDATE SET hash = $3, changed = $4",
        )
        .bind(policy.as_str())
        .bind(user)
        .bind(hash.as_str())
        .bind(now.0)
        .execute(self.connection())
        .await?;
        sqlx::query("UPDATE users SET password_changed = $3 WHERE policy = $1 AND id = $2")
            .bind(policy.as_str())
            .bind(user)
            .bind(now.0)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Puts another hash of the same password in the place of `old`; nothing else changes. Whether `old` was still there.
    pub async fn rehash_password(
        &mut self,
        policy: &PolicyName,
        user: &str,
        old: &PasswordHash,
        new: &PasswordHash,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE passwords SET hash = $4 WHERE policy = $1 AND user_id = $2 AND hash = $3")
            .bind(policy.as_str())
            .bind(user)
            .bind(old.as_str())
            .bind(new.as_str())
            .execute(self.connection())
            .await?;
        Ok(done.rows_affected() == 1)
    }
}

async fn present<'c>(
    executor: impl AnyExecutor<'c>,
    policy: &PolicyName,
    user: &str,
) -> Result<Option<Password>, StoreError> {
    let row = sqlx::query("SELECT hash, changed FROM passwords WHERE policy = $1 AND user_id = $2");
    let row = row.bind(policy.as_str()).bind(user).fetch_optional(executor).await?;
    row.map(|row| Ok(Password { hash: PasswordHash::new(row.try_get("hash")?), changed: columns::time(&row, "changed")? }))
        .transpose()
}
