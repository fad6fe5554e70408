//! Networks that may not log in for a while.

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{Row as _, any::AnyRow};

use crate::{Store, StoreError, Tx, columns};

/// The most blocks in force of one policy.
pub const MAX_BLOCKS: u32 = 10_000;

/// A block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressBlock {
    /// Its policy.
    pub policy: PolicyName,
    /// The network, in the form in which its maker always writes it.
    pub network: String,
    /// Why.
    pub reason: String,
    /// Who says so.
    pub source: String,
    /// When it was made.
    pub created: UnixMillis,
    /// Until when it is in force.
    pub expires: UnixMillis,
}

impl Store {
    /// The first of these networks that is blocked at `now`: an address' own and those around it.
    pub async fn blocked(
        &self,
        policy: &PolicyName,
        networks: &[String],
        now: UnixMillis,
    ) -> Result<Option<AddressBlock>, StoreError> {
        let row = sqlx::query(self.dialect.with_elements(
            "SELECT * FROM address_blocks WHERE policy = $2 AND network IN (SELECT value FROM elements($1)) AND expires > $3
             ORDER BY network LIMIT 1",
        ));
        let row = row.bind(columns::list(networks)?).bind(policy.as_str()).bind(now.0);
        row.fetch_optional(&self.readers).await?.as_ref().map(block).transpose()
    }

    /// Blocks in force at `now`, page by page in the order of their networks.
    pub async fn blocks(
        &self,
        policy: &PolicyName,
        after: &str,
        limit: u32,
        now: UnixMillis,
    ) -> Result<Vec<AddressBlock>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM address_blocks WHERE policy = $1 AND network > $2 AND expires > $3 ORDER BY network LIMIT $4",
        );
        let rows = rows.bind(policy.as_str()).bind(after).bind(now.0).bind(columns::page(limit));
        rows.fetch_all(&self.readers).await?.iter().map(block).collect()
    }
}

impl Tx {
    /// Blocks a network, or blocks it anew. [`StoreError::Full`] when a policy has [`MAX_BLOCKS`] others in force.
    pub async fn block(&mut self, new: &AddressBlock) -> Result<(), StoreError> {
        self.lock_row("address_blocks", &new.policy, "").await?;
        let others = sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM address_blocks WHERE policy = $1 AND expires > $2 AND network <> $3",
        );
        let others = others.bind(new.policy.as_str()).bind(new.created.0).bind(&new.network);
        if others.fetch_one(self.connection()).await? >= i64::from(MAX_BLOCKS) {
            return Err(StoreError::Full("address blocks"));
        }
        sqlx::query(
            "INSERT INTO address_blocks (policy, network, reason, source, created, expires) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (policy, network) DO UPDATE SET reason = $3, source = $4, created = $5, expires = $6",
        )
        .bind(new.policy.as_str())
        .bind(&new.network)
        .bind(&new.reason)
        .bind(&new.source)
        .bind(new.created.0)
        .bind(new.expires.0)
        .execute(self.connection())
        .await?;
        Ok(())
    }

    /// Lifts the block of a network. Whether it was in force at `now`.
    pub async fn unblock(&mut self, policy: &PolicyName, network: &str, now: UnixMillis) -> Result<bool, StoreError> {
        let gone =
            sqlx::query_scalar::<_, i64>("DELETE FROM address_blocks WHERE policy = $1 AND network = $2 RETURNING expires");
        let gone = gone.bind(policy.as_str()).bind(network).fetch_all(self.connection()).await?;
        Ok(gone.iter().any(|expires| *expires > now.0))
    }
}

fn block(row: &AnyRow) -> Result<AddressBlock, StoreError> {
    Ok(AddressBlock {
        policy: columns::policy(row)?,
        network: row.try_get("network")?,
        reason: row.try_get("reason")?,
        source: row.try_get("source")?,
        created: columns::time(row, "created")?,
        expires: columns::time(row, "expires")?,
    })
}
