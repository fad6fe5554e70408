//! API keys: what is known of them. A key itself is a signed token, or opaque and imported by its hash.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{Row as _, any::AnyRow};

use crate::{SecretHash, Store, StoreError, Tx, columns};

/// An API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its policy.
    pub policy: PolicyName,
    /// Its id: the token's `jti`.
    pub id: String,
    /// The subject it speaks for.
    pub owner: String,
    /// What its owner calls it.
    pub name: String,
    /// Enough of it to recognise it by, too little to use it.
    pub hint: String,
    /// The hash of an opaque key that was imported.
    pub hash: Option<SecretHash>,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// Its roles.
    pub roles: Vec<String>,
    /// When it was made.
    pub created: UnixMillis,
    /// Until when it is good.
    pub expires: UnixMillis,
    /// When it was last used, to the minute.
    pub last_used: Option<UnixMillis>,
    /// When it was revoked.
    pub revoked: Option<UnixMillis>,
}

impl Store {
    /// The key of that id.
    pub async fn api_key(&self, policy: &PolicyName, id: &str) -> Result<Option<ApiKey>, StoreError> {
        let row = sqlx::query("SELECT * FROM api_keys WHERE policy = $1 AND id = $2").bind(policy.as_str()).bind(id);
        row.fetch_optional(&self.readers).await?.as_ref().map(api_key).transpose()
    }

    /// The imported key of that hash.
    pub async fn api_key_by_hash(&self, policy: &PolicyName, hash: &SecretHash) -> Result<Option<ApiKey>, StoreError> {
        let row = sqlx::query("SELECT * FROM api_keys WHERE policy = $1 AND hash = $2");
        let row = row.bind(policy.as_str()).bind(hash.bytes());
        row.fetch_optional(&self.readers).await?.as_ref().map(api_key).transpose()
    }

    /// Keys in the order of their ids, of one owner or of everyone, after the id `after`; revoked ones included.
    pub async fn api_keys(
        &self,
        policy: &PolicyName,
        owner: Option<&str>,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<ApiKey>, StoreError> {
        let (after, limit) = (after.unwrap_or(""), columns::page(limit));
        let rows = match owner {
            Some(owner) => {
                sqlx::query("SELECT * FROM api_keys WHERE policy = $1 AND owner = $2 AND id > $3 ORDER BY id LIMIT $4")
                    .bind(policy.as_str())
                    .bind(owner)
                    .bind(after)
                    .bind(limit)
            }
            None => sqlx::query("SELECT * FROM api_keys WHERE policy = $1 AND id > $2 ORDER BY id LIMIT $3")
                .bind(policy.as_str())
                .bind(after)
                .bind(limit),
        };
        rows.fetch_all(&self.readers).await?.iter().map(api_key).collect()
    }
}

impl Tx {
    /// Keeps a key. [`StoreError::Taken`] when one of its id or hash is there.
    pub async fn insert_api_key(&mut self, new: &ApiKey) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO api_keys (policy, id, owner, name, hint, hash, scopes, roles, created, expires)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(new.policy.as_str())
        .bind(&new.id)
        .bind(&new.owner)
        .bind(&new.name)
        .bind(&new.hint)
        .bind(new.hash.as_ref().map(SecretHash::bytes))
        .bind(columns::list(&new.scopes)?)
        .bind(columns::list(&new.roles)?)
        .bind(new.created.0)
        .bind(new.expires.0)
        .execute(self.connection())
        .await
        .map_err(|error| StoreError::taken(error, "the API key"))?;
        Ok(())
    }

    /// Marks a key as revoked; its revocation is written beside it, by [`Tx::revoke`]. Whether it was not revoked before.
    pub async fn mark_api_key_revoked(
        &mut self,
        policy: &PolicyName,
        id: &str,
        now: UnixMillis,
    ) -> Result<bool, StoreError> {
        let marked = sqlx::query("UPDATE api_keys SET revoked = $3 WHERE policy = $1 AND id = $2 AND revoked IS NULL");
        let marked = marked.bind(policy.as_str()).bind(id).bind(now.0).execute(self.connection()).await?;
        Ok(marked.rows_affected() == 1)
    }

    /// Marks every key of an owner as revoked, whose tokens a cut-off of the subject ends. Which were not before.
    pub async fn mark_api_keys_of_revoked(
        &mut self,
        policy: &PolicyName,
        owner: &str,
        now: UnixMillis,
    ) -> Result<Vec<String>, StoreError> {
        let marked = sqlx::query_scalar(
            "UPDATE api_keys SET revoked = $3 WHERE policy = $1 AND owner = $2 AND revoked IS NULL RETURNING id",
        );
        Ok(marked.bind(policy.as_str()).bind(owner).bind(now.0).fetch_all(self.connection()).await?)
    }

    /// An API key as this transaction sees it.
    pub async fn api_key(&mut self, policy: &PolicyName, id: &str) -> Result<Option<ApiKey>, StoreError> {
        let row = sqlx::query("SELECT * FROM api_keys WHERE policy = $1 AND id = $2").bind(policy.as_str()).bind(id);
        row.fetch_optional(self.connection()).await?.as_ref().map(api_key).transpose()
    }

    /// How many keys of an owner are in force.
    pub async fn live_api_keys(&mut self, policy: &PolicyName, owner: &str, now: UnixMillis) -> Result<u64, StoreError> {
        let live = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM api_keys WHERE policy = $1 AND owner = $2 AND revoked IS NULL AND expires > $3",
        );
        let live = live.bind(policy.as_str()).bind(owner).bind(now.0);
        Ok(live.fetch_one(self.connection()).await?.unsigned_abs())
    }

    /// Says that a key was used at `at`; written at most once a minute.
    pub async fn api_key_used(&mut self, policy: &PolicyName, id: &str, at: UnixMillis) -> Result<bool, StoreError> {
        let used = sqlx::query(
            "UPDATE api_keys SET last_used = $3
             WHERE policy = $1 AND id = $2 AND (last_used IS NULL OR last_used <= $4)",
        );
        let used = used.bind(policy.as_str()).bind(id).bind(at.0).bind(at.minus(crate::sessions::SEEN_EVERY_MS).0);
        Ok(used.execute(self.connection()).await?.rows_affected() == 1)
    }
}

fn api_key(row: &AnyRow) -> Result<ApiKey, StoreError> {
    let hashed = row.try_get::<Option<&[u8]>, _>("hash")?.is_some();
    Ok(ApiKey {
        policy: columns::policy(row)?,
        id: row.try_get("id")?,
        owner: row.try_get("owner")?,
        name: row.try_get("name")?,
        hint: row.try_get("hint")?,
        hash: hashed.then(|| columns::hash(row, "hash").map(SecretHash)).transpose()?,
        scopes: columns::strings(row, "scopes")?,
        roles: columns::strings(row, "roles")?,
        created: columns::time(row, "created")?,
        expires: columns::time(row, "expires")?,
        last_used: columns::time_if_any(row, "last_used")?,
        revoked: columns::time_if_any(row, "revoked")?,
    })
}
