//! Key rings, private keys included: the file's mode is their guard.

use countersign_api::bundle::RingName;
use countersign_core::{names::PolicyName, ring::Ring};
use sqlx::Row as _;

use crate::{Store, StoreError};

impl Store {
    /// A policy's ring, if it has one.
    pub async fn ring(&self, policy: &PolicyName, ring: RingName) -> Result<Option<Ring>, StoreError> {
        let row = sqlx::query_scalar::<_, String>("SELECT content FROM rings WHERE policy = $1 AND ring = $2")
            .bind(policy.as_str())
            .bind(ring.word())
            .fetch_optional(&self.readers)
            .await?;
        row.map(|content| parse(&content)).transpose()
    }

    /// Every ring.
    pub async fn rings(&self) -> Result<Vec<(PolicyName, RingName, Ring)>, StoreError> {
        let rows =
            sqlx::query("SELECT policy, ring, content FROM rings ORDER BY policy, ring").fetch_all(&self.readers).await?;
        rows.iter()
            .map(|row| {
                let policy = row.try_get::<&str, _>(0)?.parse().map_err(|_| StoreError::Corrupt("a policy's name"))?;
                let word: &str = row.try_get(1)?;
                let ring = RingName::ALL.into_iter().find(|ring| ring.word() == word);
                let ring = ring.ok_or(StoreError::Corrupt("a ring's name"))?;
                Ok((policy, ring, parse(row.try_get::<&str, _>(2)?)?))
            })
            .collect()
    }

    /// Writes a ring that was read at version `read_at` (`None`: there was none). [`StoreError::Conflict`] when another
    /// version stands there by now.
    pub async fn save_ring(
        &self,
        policy: &PolicyName,
        name: RingName,
        ring: &Ring,
        read_at: Option<u64>,
    ) -> Result<(), StoreError> {
        let content = serde_json::to_string(ring).map_err(|_| StoreError::Corrupt("a key ring"))?;
        let number = |version: u64| i64::try_from(version).map_err(|_| StoreError::Corrupt("a ring's version"));
        let sql = match read_at {
            None => "INSERT INTO rings (policy, ring, version, content) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            Some(_) => "UPDATE rings SET version = $3, content = $4 WHERE policy = $1 AND ring = $2 AND version = $5",
        };
        let query = sqlx::query(sql).bind(policy.as_str()).bind(name.word()).bind(number(ring.version)?).bind(content);
        let query = match read_at {
            None => query,
            Some(version) => query.bind(number(version)?),
        };
        match query.execute(&self.writer).await?.rows_affected() {
            0 => Err(StoreError::Conflict("the key ring")),
            _ => Ok(()),
        }
    }

    /// Erases a policy's rings.
    pub async fn delete_rings(&self, policy: &PolicyName) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM rings WHERE policy = $1").bind(policy.as_str()).execute(&self.writer).await?;
        Ok(())
    }
}

fn parse(content: &str) -> Result<Ring, StoreError> {
    serde_json::from_str(content).map_err(|_| StoreError::Corrupt("a key ring"))
}
