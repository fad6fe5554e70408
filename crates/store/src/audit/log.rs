//! The trail on its way to the audit log: how far each policy's chain is written there, and who writes it.
//!
//! One process writes at a time, for as long as it holds the log, which it does anew with whatever it has written. What is
//! written counts from the moment at which it is noted here: who is killed between the two has it written again.

use countersign_core::names::PolicyName;
use sqlx::Row as _;

use super::{KeptEvent, sealed_after};
use crate::{Store, StoreError, columns, transact};

/// A policy's chain that goes further than the audit log does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlogged {
    /// Whose chain it is.
    pub policy: PolicyName,
    /// The last place that is in the log.
    pub logged: i64,
    /// The last place that is sealed.
    pub sealed: i64,
}

/// Places of a policy's chain that were written to the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// Whose chain it is.
    pub policy: PolicyName,
    /// The last place before them.
    pub after: i64,
    /// The last of them.
    pub to: i64,
}

impl Store {
    /// The chains that go further than the audit log.
    pub async fn unlogged_audit(&self) -> Result<Vec<Unlogged>, StoreError> {
        let rows = sqlx::query("SELECT policy, logged, place FROM audit_chains WHERE logged < place ORDER BY policy");
        let unlogged = |row: &sqlx::any::AnyRow| {
            Ok(Unlogged { policy: columns::policy(row)?, logged: row.try_get("logged")?, sealed: row.try_get("place")? })
        };
        rows.fetch_all(&self.readers).await?.iter().map(unlogged).collect()
    }

    /// How many sealed events are kept that aren't in the audit log.
    pub async fn unlogged_events(&self) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar::<_, i64>(
            "SELECT CAST(COALESCE(SUM(place - CASE WHEN logged < from_place THEN from_place ELSE logged END), 0) AS BIGINT)
             FROM audit_chains WHERE logged < place",
        );
        Ok(count.fetch_one(&self.readers).await?.unsigned_abs())
    }

    /// A policy's sealed events after a place of its chain, in its order; at most so many.
    pub async fn sealed_audit(&self, policy: &PolicyName, after: i64, limit: u32) -> Result<Vec<KeptEvent>, StoreError> {
        sealed_after(&self.readers, policy, after, limit).await
    }

    /// Has `holder` be who writes the audit log, for so long by the database's clock. Whether it is: not while somebody else
    /// holds it.
    pub async fn hold_audit_log(&self, holder: &str, for_ms: i64) -> Result<bool, StoreError> {
        transact!(self, |tx| {
            let now = tx.database_now().await?;
            let held = sqlx::query(
                "UPDATE audit_log_writer SET holder = $1, held_until = $2 WHERE holder = $1 OR held_until <= $3",
            )
            .bind(holder)
            .bind(now.plus(for_ms).0)
            .bind(now.0)
            .execute(tx.connection())
            .await?;
            Ok(held.rows_affected() == 1)
        })
    }

    /// Lets somebody else write the audit log.
    pub async fn release_audit_log(&self, holder: &str) -> Result<(), StoreError> {
        let released = sqlx::query("UPDATE audit_log_writer SET holder = '', held_until = 0 WHERE holder = $1");
        released.bind(holder).execute(&self.writer).await?;
        Ok(())
    }

    /// Notes what `holder` wrote to the audit log, and that it goes on holding it. False, and nothing is noted, when somebody
    /// else holds it by now: what it wrote may then be there twice.
    pub async fn audit_logged(&self, holder: &str, logged: &[Logged], for_ms: i64) -> Result<bool, StoreError> {
        transact!(self, |tx| {
            let until = tx.database_now().await?.plus(for_ms);
            let held = sqlx::query("UPDATE audit_log_writer SET held_until = $2 WHERE holder = $1");
            if held.bind(holder).bind(until.0).execute(tx.connection()).await?.rows_affected() == 0 {
                return Ok(false);
            }
            for Logged { policy, after, to } in logged {
                sqlx::query("UPDATE audit_chains SET logged = $3 WHERE policy = $1 AND logged = $2")
                    .bind(policy.as_str())
                    .bind(after)
                    .bind(to)
                    .execute(tx.connection())
                    .await?;
            }
            Ok(true)
        })
    }
}
