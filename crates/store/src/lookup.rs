//! What has ended, by name.

use countersign_core::revocation::{Entry, EntryKey};

use crate::{Store, StoreError, row};

impl Store {
    /// The entries under these keys, those included that a cut-off has taken the place of. What committed before the call is
    /// seen.
    pub async fn entries(&self, keys: &[EntryKey]) -> Result<Vec<Entry>, StoreError> {
        let keys = serde_json::to_string(&keys.iter().map(EntryKey::as_str).collect::<Vec<_>>())
            .map_err(|_| StoreError::Corrupt("a key"))?;
        let rows = sqlx::query(
            "SELECT policy, kind, issuer, name, cutoff, expires, version, reason, source
             FROM revocations WHERE key IN (SELECT value FROM json_each(?1))",
        );
        rows.bind(keys).fetch_all(&self.readers).await?.iter().map(row::entry).collect()
    }
}
