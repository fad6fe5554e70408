//! What has ended, by name.

use countersign_core::{
    names::PolicyName,
    revocation::{Entry, EntryKey},
    time::UnixMillis,
};
use sqlx::{AnyExecutor, Row as _};

use crate::{Store, StoreError, Tx, columns, connection::Dialect, row};

impl Store {
    /// The entries under these keys, those included that a cut-off has taken the place of. What committed before the call is
    /// seen.
    pub async fn entries(&self, keys: &[EntryKey]) -> Result<Vec<Entry>, StoreError> {
        entries(&self.readers, self.dialect, keys).await
    }
}

impl Tx {
    /// As [`Store::entries`]: what has ended, when read under the lock of whom it concerns, is all that ends before this
    /// transaction.
    pub async fn entries(&mut self, keys: &[EntryKey]) -> Result<Vec<Entry>, StoreError> {
        let dialect = self.dialect;
        entries(self.connection(), dialect, keys).await
    }

    /// [`Tx::entries`] and [`Tx::issued_until`] of a policy in one question: what whoever mints has to heed.
    pub async fn mint_bounds(&mut self, policy: &PolicyName, keys: &[EntryKey]) -> Result<MintBounds, StoreError> {
        let sql = self.dialect.with_elements(
            "SELECT i.until, r.policy, r.kind, r.issuer, r.name, r.cutoff, r.expires, r.version, r.reason, r.source
             FROM (SELECT CAST($2 AS TEXT) AS policy) AS asked
             LEFT JOIN issued i ON i.policy = asked.policy
             LEFT JOIN revocations r ON r.key IN (SELECT value FROM elements($1))",
        );
        let rows = sqlx::query(sql).bind(list(keys)?).bind(policy.as_str()).fetch_all(self.connection()).await?;
        let mut bounds = MintBounds::default();
        for row in &rows {
            bounds.issued_until = columns::time_if_any(row, "until")?;
            if row.try_get::<Option<&str>, _>("kind")?.is_some() {
                bounds.ended.push(row::entry(row)?);
            }
        }
        Ok(bounds)
    }
}

/// What whoever mints has to heed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MintBounds {
    /// What has ended of what the token rests on.
    pub ended: Vec<Entry>,
    /// Up to when tokens of the policy may have been issued; absent before the first.
    pub issued_until: Option<UnixMillis>,
}

fn list(keys: &[EntryKey]) -> Result<String, StoreError> {
    serde_json::to_string(&keys.iter().map(EntryKey::as_str).collect::<Vec<_>>()).map_err(|_| StoreError::Corrupt("a key"))
}

async fn entries<'c>(
    executor: impl AnyExecutor<'c>,
    dialect: Dialect,
    keys: &[EntryKey],
) -> Result<Vec<Entry>, StoreError> {
    let rows = sqlx::query(dialect.with_elements(
        "SELECT policy, kind, issuer, name, cutoff, expires, version, reason, source
         FROM revocations WHERE key IN (SELECT value FROM elements($1))",
    ));
    rows.bind(list(keys)?).fetch_all(executor).await?.iter().map(row::entry).collect()
}
