//! Accounts that were brought from another schema: by which import, from which row, and how the import left them, so that a
//! row is brought once and what nobody has used since can be taken back.

use aws_lc_rs::digest::{SHA256, digest};
use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{Row as _, any::AnyRow};

use crate::{SecretHash, Store, StoreError, Tx, columns};

/// An import, under the name by which it goes on when it is run again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Its policy.
    pub policy: PolicyName,
    /// Its name.
    pub name: String,
    /// Where it reads from, as people know it; never a password.
    pub source: String,
    /// When it was first run.
    pub begun: UnixMillis,
    /// When it had read all rows. Absent: it stopped before, or has begun anew.
    pub finished: Option<UnixMillis>,
}

/// What an import made of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedUser {
    /// What tells rows apart where they come from.
    pub row_key: String,
    /// The account.
    pub user: String,
    /// [`Tx::account_state`] as the import left it.
    pub state: SecretHash,
}

impl Store {
    /// An import of a policy.
    pub async fn import(&self, policy: &PolicyName, name: &str) -> Result<Option<Import>, StoreError> {
        let row = sqlx::query("SELECT * FROM imports WHERE policy = $1 AND name = $2").bind(policy.as_str()).bind(name);
        row.fetch_optional(&self.readers).await?.as_ref().map(import).transpose()
    }

    /// How many rows an import has brought.
    pub async fn count_imported(&self, policy: &PolicyName, import: &str) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM imported_users WHERE policy = $1 AND import = $2");
        Ok(count.bind(policy.as_str()).bind(import).fetch_one(&self.readers).await?.unsigned_abs())
    }

    /// What an import has brought, in the order of its rows' keys, after the key `after`.
    pub async fn imported_users(
        &self,
        policy: &PolicyName,
        import: &str,
        after: &str,
        limit: u32,
    ) -> Result<Vec<ImportedUser>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM imported_users WHERE policy = $1 AND import = $2 AND row_key > $3 ORDER BY row_key LIMIT $4",
        );
        let rows = rows.bind(policy.as_str()).bind(import).bind(after).bind(columns::page(limit));
        rows.fetch_all(&self.readers).await?.iter().map(imported).collect()
    }
}

impl Tx {
    /// Begins an import, or goes on with it. Whether it is new.
    pub async fn begin_import(&mut self, import: &Import) -> Result<bool, StoreError> {
        let begun = sqlx::query(
            "INSERT INTO imports (policy, name, source, begun) VALUES ($1, $2, $3, $4) ON CONFLICT (policy, name) DO NOTHING",
        )
        .bind(import.policy.as_str())
        .bind(&import.name)
        .bind(&import.source)
        .bind(import.begun.0)
        .execute(self.connection())
        .await?;
        Ok(begun.rows_affected() == 1)
    }

    /// Says that an import has read all rows. Whether there is such an import.
    pub async fn finish_import(&mut self, policy: &PolicyName, name: &str, now: UnixMillis) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE imports SET finished = $3 WHERE policy = $1 AND name = $2");
        let done = done.bind(policy.as_str()).bind(name).bind(now.0).execute(self.connection()).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Forgets an import of which nothing is left. Whether it did.
    pub async fn forget_import(&mut self, policy: &PolicyName, name: &str) -> Result<bool, StoreError> {
        let gone = sqlx::query(
            "DELETE FROM imports WHERE policy = $1 AND name = $2
             AND NOT EXISTS (SELECT 1 FROM imported_users WHERE policy = $1 AND import = $2)",
        );
        let gone = gone.bind(policy.as_str()).bind(name).execute(self.connection()).await?;
        Ok(gone.rows_affected() == 1)
    }

    /// Whether another account than `id` has that name, or that address, as those compare.
    pub async fn names_taken(
        &mut self,
        policy: &PolicyName,
        id: &str,
        username: Option<&str>,
        email: Option<&str>,
    ) -> Result<(bool, bool), StoreError> {
        let row = sqlx::query(
            "SELECT CAST(coalesce(max(CASE WHEN username_folded = $3 THEN 1 ELSE 0 END), 0) AS BIGINT) AS by_name,
                    CAST(coalesce(max(CASE WHEN email_folded = $4 THEN 1 ELSE 0 END), 0) AS BIGINT) AS by_address
             FROM users WHERE policy = $1 AND id <> $2 AND (username_folded = $3 OR email_folded = $4)",
        );
        let row = row.bind(policy.as_str()).bind(id).bind(username).bind(email).fetch_one(self.connection()).await?;
        Ok((columns::flag(&row, "by_name")?, columns::flag(&row, "by_address")?))
    }

    /// What an import made of a row, if it has brought it.
    pub async fn imported_user(
        &mut self,
        policy: &PolicyName,
        import: &str,
        row_key: &str,
    ) -> Result<Option<ImportedUser>, StoreError> {
        let row = sqlx::query("SELECT * FROM imported_users WHERE policy = $1 AND import = $2 AND row_key = $3");
        let row = row.bind(policy.as_str()).bind(import).bind(row_key);
        row.fetch_optional(self.connection()).await?.as_ref().map(imported).transpose()
    }

    /// Remembers what an import made of a row, as the account is in this transaction. [`StoreError::Taken`] when the row was
    /// brought before.
    pub async fn record_imported_user(
        &mut self,
        policy: &PolicyName,
        import: &str,
        row_key: &str,
        user: &str,
    ) -> Result<(), StoreError> {
        let state = self.account_state(policy, user).await?.ok_or(StoreError::Conflict("the account"))?;
        sqlx::query("INSERT INTO imported_users (policy, import, row_key, user_id, state) VALUES ($1, $2, $3, $4, $5)")
            .bind(policy.as_str())
            .bind(import)
            .bind(row_key)
            .bind(user)
            .bind(state.bytes())
            .execute(self.connection())
            .await
            .map_err(|error| StoreError::taken(error, "the row"))?;
        Ok(())
    }

    /// Forgets that an import brought a row. Whether it had.
    pub async fn forget_imported_user(
        &mut self,
        policy: &PolicyName,
        import: &str,
        row_key: &str,
    ) -> Result<bool, StoreError> {
        let gone = sqlx::query("DELETE FROM imported_users WHERE policy = $1 AND import = $2 AND row_key = $3");
        let gone = gone.bind(policy.as_str()).bind(import).bind(row_key).execute(self.connection()).await?;
        Ok(gone.rows_affected() == 1)
    }

    /// A hash of all that somebody may change of an account, or that using it changes: two that are alike are of an account
    /// that nobody has touched in between. How its second factor is encrypted doesn't count.
    pub async fn account_state(&mut self, policy: &PolicyName, id: &str) -> Result<Option<SecretHash>, StoreError> {
        let Some(user) = self.user(policy, id).await? else { return Ok(None) };
        let password = self.password(policy, id).await?;
        let totp = self.totp(policy, id).await?;
        let name = |name: &Option<crate::Folded>| name.as_ref().map(|name| name.written.clone());
        let state = serde_json::json!([
            name(&user.username),
            name(&user.email),
            name(&user.pending_email),
            user.first_name,
            user.last_name,
            user.status.word(),
            user.status_reason,
            columns::ms(user.status_until),
            user.roles,
            user.email_verified,
            columns::ms(user.last_login),
            password.map(|password| (password.hash.as_str().to_owned(), password.changed.0)),
            totp.map(|totp| (totp.created.0, columns::ms(totp.confirmed))),
        ]);
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, state.to_string().as_bytes()).as_ref());
        Ok(Some(SecretHash(hash)))
    }

    /// The opaque API keys of an owner that were imported and are not revoked, by their ids.
    pub async fn imported_api_keys(&mut self, policy: &PolicyName, owner: &str) -> Result<Vec<String>, StoreError> {
        let ids = sqlx::query_scalar(
            "SELECT id FROM api_keys WHERE policy = $1 AND owner = $2 AND hash IS NOT NULL AND revoked IS NULL ORDER BY id",
        );
        Ok(ids.bind(policy.as_str()).bind(owner).fetch_all(self.connection()).await?)
    }

    /// Whether an owner has API keys that were made here, revoked ones included.
    pub async fn has_own_api_keys(&mut self, policy: &PolicyName, owner: &str) -> Result<bool, StoreError> {
        let count =
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM api_keys WHERE policy = $1 AND owner = $2 AND hash IS NULL");
        Ok(count.bind(policy.as_str()).bind(owner).fetch_one(self.connection()).await? > 0)
    }

    /// Forgets an owner's imported API keys. How many there were.
    pub async fn forget_imported_api_keys(&mut self, policy: &PolicyName, owner: &str) -> Result<u64, StoreError> {
        let gone = sqlx::query("DELETE FROM api_keys WHERE policy = $1 AND owner = $2 AND hash IS NOT NULL");
        let gone = gone.bind(policy.as_str()).bind(owner).execute(self.connection()).await?;
        Ok(gone.rows_affected())
    }
}

fn import(row: &AnyRow) -> Result<Import, StoreError> {
    Ok(Import {
        policy: columns::policy(row)?,
        name: row.try_get("name")?,
        source: row.try_get("source")?,
        begun: columns::time(row, "begun")?,
        finished: columns::time_if_any(row, "finished")?,
    })
}

fn imported(row: &AnyRow) -> Result<ImportedUser, StoreError> {
    Ok(ImportedUser {
        row_key: row.try_get("row_key")?,
        user: row.try_get("user_id")?,
        state: SecretHash(columns::hash(row, "state")?),
    })
}
