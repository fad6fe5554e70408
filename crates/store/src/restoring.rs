//! Copies of a database, and what makes one that was put back from an older copy safe to use.
//!
//! An older copy doesn't know what happened since: which refresh tokens and mailed links were used, and what was revoked. The
//! first are void from then on; the second has to come from whoever still knows, before the copy is used.

use std::path::Path;

use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Kind},
    time::UnixMillis,
};
use sqlx::{AnyConnection, Connection as _, Executor as _};

use crate::{
    Location, Recorded, Store, StoreError, Tx,
    connection::{file_options, pool},
    revocations::recorded,
};

impl Store {
    /// Writes the SQLite database at `from`, as it is at one moment and whoever uses it meanwhile, to a file `to` that isn't
    /// there yet.
    pub async fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
        let options = file_options(from, true).map_err(|source| StoreError::Open { path: from.to_owned(), source })?;
        let source = pool("PRAGMA busy_timeout = 5000;", 1).connect_with(options).await?;
        let name = to.to_str().ok_or(StoreError::Corrupt("a path"))?;
        let copied = sqlx::query("VACUUM INTO $1").bind(name.to_owned()).execute(&source).await;
        source.close().await;
        copied?;
        Ok(())
    }

    /// How many others are connected to a PostgreSQL database as the same user. Of a file nobody knows.
    pub async fn others_on(location: &Location) -> Result<u64, StoreError> {
        let Location::Server(server) = location else { return Ok(0) };
        sqlx::any::install_default_drivers();
        let mut connection = AnyConnection::connect(server.url()).await?;
        let count = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()",
        );
        let count = count.fetch_one(&mut connection).await;
        connection.close().await?;
        Ok(count?.unsigned_abs())
    }

    /// Every policy that has anything here.
    pub async fn known_policies(&self) -> Result<Vec<PolicyName>, StoreError> {
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT policy FROM bundles UNION SELECT policy FROM rings UNION SELECT policy FROM issued
             UNION SELECT policy FROM users UNION SELECT policy FROM api_keys ORDER BY policy",
        )
        .fetch_all(&self.readers)
        .await?;
        names.iter().map(|name| name.parse().map_err(|_| StoreError::Corrupt("a policy's name"))).collect()
    }

    /// Revocations of every policy, those that were merged included, in the order of their rows after `after`.
    pub async fn revocations_after(&self, after: i64, limit: u32) -> Result<Vec<Recorded>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, policy, kind, issuer, name, cutoff, expires, version, reason, source, subject, created, position
             FROM revocations WHERE id > $1 ORDER BY id LIMIT $2",
        );
        let rows = rows.bind(after).bind(crate::columns::page(limit)).fetch_all(&self.readers).await?;
        rows.iter().map(recorded).collect()
    }

    /// Empties the write-ahead log into the file, so that the file alone is the database once it is closed.
    pub async fn settle_file(&self) -> Result<(), StoreError> {
        if self.dialect == crate::connection::Dialect::Sqlite {
            self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").await?;
        }
        Ok(())
    }
}

impl Tx {
    /// Voids what a copy can't know to be used since: refresh tokens, mailed links and codes. Sessions stay, for as long as
    /// their access tokens live. How many refresh families ended.
    pub async fn void_single_use(&mut self, now: UnixMillis) -> Result<u64, StoreError> {
        let ended = sqlx::query("UPDATE refresh_families SET ended = $1 WHERE ended IS NULL").bind(now.0);
        let ended = ended.execute(self.connection()).await?.rows_affected();
        for sql in [
            "UPDATE refresh_tokens SET bits = NULL, bits_until = NULL WHERE bits IS NOT NULL",
            "DELETE FROM one_time_tokens",
            "DELETE FROM challenges",
        ] {
            sqlx::query(sql).execute(self.connection()).await?;
        }
        Ok(ended)
    }

    /// Has every revocation published anew, in an epoch above `above`: where the feed's server has the rows of a later copy,
    /// none of it is taken for this one's word.
    pub async fn publish_all_anew(&mut self, above: u64) -> Result<(), StoreError> {
        self.lock_epoch_alone().await?;
        let above = i64::try_from(above).map_err(|_| StoreError::Corrupt("an epoch"))?;
        let raised = sqlx::query("UPDATE feed SET epoch = CASE WHEN epoch < $1 THEN $1 ELSE epoch END").bind(above);
        raised.execute(self.connection()).await?;
        sqlx::query("UPDATE revocations SET mark = 0, position = NULL, position_revision = NULL")
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Ends a policy's sessions and marks its API keys as revoked, where a cut-off of the policy ends whatever was issued for
    /// them.
    pub async fn end_all_of_policy(&mut self, policy: &PolicyName, now: UnixMillis, why: &str) -> Result<(), StoreError> {
        self.lock_policy(policy).await?;
        sqlx::query("UPDATE sessions SET ended = $2, ended_because = $3 WHERE policy = $1 AND ended IS NULL")
            .bind(policy.as_str())
            .bind(now.0)
            .bind(why)
            .execute(self.connection())
            .await?;
        sqlx::query("UPDATE api_keys SET revoked = $2 WHERE policy = $1 AND revoked IS NULL")
            .bind(policy.as_str())
            .bind(now.0)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Marks API keys that entries end as revoked, so that their lists say so.
    pub async fn mark_api_keys_of_entries(&mut self, entries: &[Entry], now: UnixMillis) -> Result<(), StoreError> {
        for entry in entries {
            match entry.kind {
                Kind::ApiKey => {
                    self.mark_api_key_revoked(&entry.policy, &entry.id, now).await?;
                }
                Kind::Subject => {
                    sqlx::query(
                        "UPDATE api_keys SET revoked = $3
                         WHERE policy = $1 AND owner = $2 AND revoked IS NULL AND hash IS NULL AND created <= $4",
                    )
                    .bind(entry.policy.as_str())
                    .bind(&entry.id)
                    .bind(now.0)
                    .bind(entry.cutoff.0)
                    .execute(self.connection())
                    .await?;
                }
                Kind::Token | Kind::Session | Kind::Key | Kind::Policy | Kind::Ip => {}
            }
        }
        Ok(())
    }
}
