//! What a transaction holds so that no other does the same at once.
//!
//! SQLite has one writer, so there a transaction holds everything. On PostgreSQL these are advisory locks, held until the
//! transaction ends, under a hash of what they guard: two names with one hash wait for each other and nothing else happens.
//! They are taken in the order of the functions below, so that no two transactions wait for each other; where a caller's own
//! order differs, PostgreSQL ends one of them and [`crate::transact!`] does it again. Each tells the server's clock as it was
//! once the lock was got: the time of what is decided under it.

use aws_lc_rs::digest::{SHA256, digest};
use countersign_core::names::PolicyName;

use crate::{
    StoreError, Tx, columns,
    connection::{Dialect, server_clock},
};

impl Tx {
    /// Holds whatever is decided for a whole policy, such as its cut-off: no mint of that policy is under way meanwhile.
    pub async fn lock_policy(&mut self, policy: &PolicyName) -> Result<(), StoreError> {
        self.lock(&["policy", policy.as_str()], Share::Alone).await
    }

    /// Holds a subject: its account, its sessions, and whether tokens may be minted for it. Taken before they are read; costs
    /// nothing where this transaction holds it already.
    pub async fn lock_subject(&mut self, policy: &PolicyName, subject: &str) -> Result<(), StoreError> {
        let held = number(&["subject", policy.as_str(), subject]);
        if self.dialect == Dialect::Sqlite || self.subjects.contains(&held) {
            return Ok(());
        }
        let sql =
            concat!("SELECT pg_advisory_xact_lock_shared($1), pg_advisory_xact_lock($2), ", server_clock!(), " AS now");
        let row =
            sqlx::query(sql).bind(number(&["policy", policy.as_str()])).bind(held).fetch_one(self.connection()).await?;
        self.locked = Some(columns::time(&row, "now")?);
        self.subjects.push(held);
        Ok(())
    }

    /// Holds a row of a table that may not be there yet.
    pub(crate) async fn lock_row(&mut self, table: &str, policy: &PolicyName, row: &str) -> Result<(), StoreError> {
        self.lock(&[table, policy.as_str(), row], Share::Alone).await
    }

    /// Holds a policy's revocations: their times rise in the order of their rows.
    pub(crate) async fn lock_revocations(&mut self, policy: &PolicyName) -> Result<(), StoreError> {
        self.lock(&["revocations", policy.as_str()], Share::Alone).await
    }

    /// Holds the feed's epoch as it is.
    pub(crate) async fn lock_epoch(&mut self) -> Result<(), StoreError> {
        self.lock(&["epoch"], Share::WithOthers).await
    }

    /// Holds the feed's epoch, to change it.
    pub(crate) async fn lock_epoch_alone(&mut self) -> Result<(), StoreError> {
        self.lock(&["epoch"], Share::Alone).await
    }

    async fn lock(&mut self, name: &[&str], share: Share) -> Result<(), StoreError> {
        let sql = match (self.dialect, share) {
            (Dialect::Sqlite, _) => return Ok(()),
            (Dialect::Postgres, Share::Alone) => concat!("SELECT pg_advisory_xact_lock($1), ", server_clock!(), " AS now"),
            (Dialect::Postgres, Share::WithOthers) => {
                concat!("SELECT pg_advisory_xact_lock_shared($1), ", server_clock!(), " AS now")
            }
        };
        let row = sqlx::query(sql).bind(number(name)).fetch_one(self.connection()).await?;
        self.locked = Some(columns::time(&row, "now")?);
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Share {
    Alone,
    WithOthers,
}

/// The parts are joined by what no part holds.
fn number(name: &[&str]) -> i64 {
    let hash = digest(&SHA256, format!("countersign\0{}", name.join("\0")).as_bytes());
    let mut first = [0; 8];
    for (to, from) in first.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    i64::from_be_bytes(first)
}
