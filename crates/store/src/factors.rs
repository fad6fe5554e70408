//! Second factors: TOTP secrets and backup codes. Of any code one use succeeds, whoever of several issuers sees it first.

use std::fmt;

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{AnyExecutor, Row as _, any::AnyRow};

use crate::{SecretHash, Store, StoreError, Tx, columns};

/// An account's TOTP secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Totp {
    /// The secret, encrypted.
    pub secret: Vec<u8>,
    /// What it is encrypted under.
    pub key_id: String,
    /// When it was made.
    pub created: UnixMillis,
    /// When its owner showed the first code. Absent: not in use yet.
    pub confirmed: Option<UnixMillis>,
    /// The time step of the last code that was taken; -1 before the first.
    pub last_step: i64,
}

impl fmt::Debug for Totp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Totp").field("key_id", &self.key_id).field("confirmed", &self.confirmed).finish_non_exhaustive()
    }
}

/// A secret under a key that is to be replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldTotp {
    /// Its policy.
    pub policy: PolicyName,
    /// Its account.
    pub user: String,
    /// The secret.
    pub totp: Totp,
}

impl Store {
    /// An account's TOTP secret, if it has one.
    pub async fn totp(&self, policy: &PolicyName, user: &str) -> Result<Option<Totp>, StoreError> {
        of_user(&self.readers, policy, user).await
    }

    /// Secrets that are encrypted under another key than `key_id`, page by page: at most so many after `after`.
    pub async fn totp_under_other_keys(
        &self,
        key_id: &str,
        after: Option<&HeldTotp>,
        at_most: u32,
    ) -> Result<Vec<HeldTotp>, StoreError> {
        let (key, policy, user) =
            after.map_or(("", "", ""), |held| (held.totp.key_id.as_str(), held.policy.as_str(), held.user.as_str()));
        let rows = sqlx::query(
            "SELECT * FROM totp WHERE key_id <> $1 AND (key_id, policy, user_id) > ($2, $3, $4)
             ORDER BY key_id, policy, user_id LIMIT $5",
        );
        let rows = rows.bind(key_id).bind(key).bind(policy).bind(user).bind(columns::page(at_most));
        rows.fetch_all(&self.readers)
            .await?
            .iter()
            .map(|row| Ok(HeldTotp { policy: columns::policy(row)?, user: row.try_get("user_id")?, totp: totp(row)? }))
            .collect()
    }

    /// How many backup codes an account has left.
    pub async fn backup_codes_left(&self, policy: &PolicyName, user: &str) -> Result<u32, StoreError> {
        let left = sqlx::query_scalar("SELECT count(*) FROM backup_codes WHERE policy = $1 AND user_id = $2");
        Ok(columns::count(left.bind(policy.as_str()).bind(user).fetch_one(&self.readers).await?))
    }
}

impl Tx {
    /// As [`Store::totp`]: under [`Tx::lock_subject`] what a login rested on is read again before its tokens are minted.
    pub async fn totp(&mut self, policy: &PolicyName, user: &str) -> Result<Option<Totp>, StoreError> {
        of_user(self.connection(), policy, user).await
    }

    /// Begins to set up TOTP: the secret takes the place of one that was not confirmed. [`StoreError::Conflict`] when one was.
    pub async fn begin_totp(
        &mut self,
        policy: &PolicyName,
        user: &str,
        secret: &[u8],
        key_id: &str,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        let begun = sqlx::query(
            "INSERT INTO totp (policy, user_id, secret, key_id, created) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (policy, user_id) DO UPDATE SET secret = $3, key_id = $4, created = $5, last_step = -1
             WHERE totp.confirmed IS NULL",
        )
        .bind(policy.as_str())
        .bind(user)
        .bind(secret)
        .bind(key_id)
        .bind(now.0)
        .execute(self.connection())
        .await?;
        if begun.rows_affected() == 1 { Ok(()) } else { Err(StoreError::Conflict("the second factor")) }
    }

    /// Puts TOTP in use, by a code of `step` made with `secret` as it is kept. Whether this call did.
    pub async fn confirm_totp(
        &mut self,
        policy: &PolicyName,
        user: &str,
        secret: &[u8],
        step: i64,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        let confirmed = sqlx::query(
            "UPDATE totp SET confirmed = $4, last_step = $5
             WHERE policy = $1 AND user_id = $2 AND secret = $3 AND confirmed IS NULL",
        );
        let confirmed = confirmed.bind(policy.as_str()).bind(user).bind(secret).bind(now.0).bind(step);
        Ok(confirmed.execute(self.connection()).await?.rows_affected() == 1)
    }

    /// Takes a code of `step`. Whether it was taken: not when one of that step or a later one was taken before.
    pub async fn take_totp(&mut self, policy: &PolicyName, user: &str, step: i64) -> Result<bool, StoreError> {
        let taken = sqlx::query(
            "UPDATE totp SET last_step = $3
             WHERE policy = $1 AND user_id = $2 AND confirmed IS NOT NULL AND last_step < $3",
        );
        let taken = taken.bind(policy.as_str()).bind(user).bind(step).execute(self.connection()).await?;
        Ok(taken.rows_affected() == 1)
    }

    /// Puts the same secret under another key in the place of `held`. Whether `held` was still there.
    pub async fn reencrypt_totp(&mut self, held: &HeldTotp, secret: &[u8], key_id: &str) -> Result<bool, StoreError> {
        let done =
            sqlx::query("UPDATE totp SET secret = $4, key_id = $5 WHERE policy = $1 AND user_id = $2 AND secret = $3")
                .bind(held.policy.as_str())
                .bind(&held.user)
                .bind(held.totp.secret.as_slice())
                .bind(secret)
                .bind(key_id)
                .execute(self.connection())
                .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Removes an account's TOTP secret and backup codes. Whether there was a secret.
    pub async fn remove_factors(&mut self, policy: &PolicyName, user: &str) -> Result<bool, StoreError> {
        self.replace_backup_codes(policy, user, &[]).await?;
        let gone = sqlx::query("DELETE FROM totp WHERE policy = $1 AND user_id = $2").bind(policy.as_str()).bind(user);
        Ok(gone.execute(self.connection()).await?.rows_affected() == 1)
    }

    /// Puts these backup codes in the place of an account's.
    pub async fn replace_backup_codes(
        &mut self,
        policy: &PolicyName,
        user: &str,
        codes: &[SecretHash],
    ) -> Result<(), StoreError> {
        self.lock_subject(policy, user).await?;
        sqlx::query("DELETE FROM backup_codes WHERE policy = $1 AND user_id = $2")
            .bind(policy.as_str())
            .bind(user)
            .execute(self.connection())
            .await?;
        for code in codes {
            sqlx::query("INSERT INTO backup_codes (policy, user_id, hash) VALUES ($1, $2, $3)")
                .bind(policy.as_str())
                .bind(user)
                .bind(code.bytes())
                .execute(self.connection())
                .await?;
        }
        Ok(())
    }

    /// Takes a backup code. Whether it was there; it is no more.
    pub async fn take_backup_code(
        &mut self,
        policy: &PolicyName,
        user: &str,
        code: &SecretHash,
    ) -> Result<bool, StoreError> {
        let taken = sqlx::query("DELETE FROM backup_codes WHERE policy = $1 AND user_id = $2 AND hash = $3");
        let taken = taken.bind(policy.as_str()).bind(user).bind(code.bytes()).execute(self.connection()).await?;
        Ok(taken.rows_affected() == 1)
    }
}

async fn of_user<'c>(executor: impl AnyExecutor<'c>, policy: &PolicyName, user: &str) -> Result<Option<Totp>, StoreError> {
    let row = sqlx::query("SELECT * FROM totp WHERE policy = $1 AND user_id = $2").bind(policy.as_str()).bind(user);
    row.fetch_optional(executor).await?.as_ref().map(totp).transpose()
}

fn totp(row: &AnyRow) -> Result<Totp, StoreError> {
    Ok(Totp {
        secret: row.try_get("secret")?,
        key_id: row.try_get("key_id")?,
        created: columns::time(row, "created")?,
        confirmed: columns::time_if_any(row, "confirmed")?,
        last_step: row.try_get("last_step")?,
    })
}
