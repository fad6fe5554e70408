//! Values under names, and the generations of bundles.

use countersign_core::{names::PolicyName, time::UnixMillis};

use crate::{Store, StoreError, Tx};

impl Store {
    /// A value kept under a name.
    pub async fn meta(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query_scalar("SELECT value FROM meta WHERE name = $1").bind(name);
        Ok(row.fetch_optional(&self.readers).await?)
    }

    /// Keeps a value under a name.
    pub async fn set_meta(&self, name: &str, value: &str) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = $2")
            .bind(name)
            .bind(value)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Keeps `value` under `name` unless something is kept there; says what is kept afterwards. For what is made once, such
    /// as an installation's id.
    pub async fn meta_or_insert(&self, name: &str, value: &str) -> Result<String, StoreError> {
        sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
            .bind(name)
            .bind(value)
            .execute(&self.writer)
            .await?;
        Ok(self.meta(name).await?.unwrap_or_else(|| value.to_owned()))
    }

    /// The generation of a policy's latest bundle; 0 before the first.
    pub async fn generation(&self, policy: &PolicyName) -> Result<u64, StoreError> {
        let row = sqlx::query_scalar::<_, i64>("SELECT generation FROM bundles WHERE policy = $1").bind(policy.as_str());
        Ok(row.fetch_optional(&self.readers).await?.unwrap_or(0).unsigned_abs())
    }

    /// Takes the next generation: the last one plus one, or `now` in milliseconds if that is later, so that generations rise
    /// over restores of this database as well.
    pub async fn next_generation(&self, policy: &PolicyName, now: UnixMillis) -> Result<u64, StoreError> {
        let row = sqlx::query_scalar::<_, i64>(
            "INSERT INTO bundles (policy, generation) VALUES ($1, $2)
             ON CONFLICT (policy) DO UPDATE SET
               generation = CASE WHEN bundles.generation < $2 THEN $2 ELSE bundles.generation + 1 END
             RETURNING generation",
        )
        .bind(policy.as_str())
        .bind(now.0.max(1));
        Ok(row.fetch_one(&self.writer).await?.unsigned_abs())
    }
}

impl Tx {
    /// Keeps that something has happened, with the transaction. Whether nobody had kept it before.
    pub async fn note_once(&mut self, name: &str) -> Result<bool, StoreError> {
        let noted = sqlx::query("INSERT INTO meta (name, value) VALUES ($1, '') ON CONFLICT (name) DO NOTHING").bind(name);
        Ok(noted.execute(self.connection()).await?.rows_affected() == 1)
    }
}
