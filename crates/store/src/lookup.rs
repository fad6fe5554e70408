//! What has ended, by name.

use countersign_core::revocation::{Entry, EntryKey};
use sqlx::AnyExecutor;

use crate::{Store, StoreError, Tx, connection::Dialect, row};

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
}

async fn entries<'c>(
    executor: impl AnyExecutor<'c>,
    dialect: Dialect,
    keys: &[EntryKey],
) -> Result<Vec<Entry>, StoreError> {
    let keys = serde_json::to_string(&keys.iter().map(EntryKey::as_str).collect::<Vec<_>>())
        .map_err(|_| StoreError::Corrupt("a key"))?;
    let rows = sqlx::query(dialect.with_elements(
        "SELECT policy, kind, issuer, name, cutoff, expires, version, reason, source
         FROM revocations WHERE key IN (SELECT value FROM elements($1))",
    ));
    rows.bind(keys).fetch_all(executor).await?.iter().map(row::entry).collect()
}
