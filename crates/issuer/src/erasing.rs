//! The end of a policy's people, once it has been gone for as long as it said that they are kept.

use countersign_core::names::PolicyName;
use countersign_store::{Erasure, Store, StoreError};

/// Rows of each table that are erased in one step.
const ROWS_AT_ONCE: u32 = 1000;

/// Erases all that is kept of the people of a policy that was withdrawn ([`Store::withdraw_people`]), a bounded number of rows at
/// a time. Whether nothing of them is left: their time may not be over. What is killed on the way is taken up where it stopped.
pub async fn erase_people(store: &Store, policy: &PolicyName) -> Result<bool, StoreError> {
    let mut erased = 0;
    loop {
        match store.erase_people(policy, ROWS_AT_ONCE).await? {
            Erasure::Rows(rows) => erased += rows,
            Erasure::NotDue => return Ok(false),
            Erasure::Done => break,
        }
    }
    if erased > 0 {
        tracing::info!(%policy, rows = erased, "the people of a policy that is gone for good are erased");
    }
    Ok(true)
}
