//! The store and the feed behind it: a revocation is committed first, then published.

use std::{sync::Arc, time::Duration};

use countersign_core::{
    names::PolicyName,
    revocation::{Entry, EntryKey},
    time::UnixMillis,
};
use countersign_feed::{Publication, Publisher};
use countersign_store::{HistoryFilter, NewRevocation, Recorded, Store, StoreError};

/// What is written, and what publishes it.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    store: Arc<Store>,
    publisher: Arc<Publisher>,
}

/// The store failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct LedgerError(#[from] StoreError);

impl Ledger {
    pub(crate) fn new(store: Arc<Store>, publisher: Arc<Publisher>) -> Self {
        Self { store, publisher }
    }

    /// Commits a revocation, made at `now`; says which rows to publish. `max_entries` is its policy's bound.
    pub(crate) async fn write(
        &self,
        revocation: NewRevocation,
        now: UnixMillis,
        max_entries: usize,
    ) -> Result<Vec<i64>, LedgerError> {
        let appended = self.store.revoke(&[revocation], now, |_| max_entries).await?;
        for policy in &appended.merged {
            tracing::warn!(%policy, max_entries, "too many live revocations: one cut-off of the access ring takes their place");
        }
        Ok(appended.ids)
    }

    /// Publishes rows, within `timeout`.
    pub(crate) async fn publish(&self, rows: Vec<i64>, timeout: Duration) -> Publication {
        self.publisher.publish(rows, timeout).await
    }

    /// What has ended under these names.
    pub(crate) async fn find(&self, keys: &[EntryKey]) -> Result<Vec<Entry>, LedgerError> {
        Ok(self.store.entries(keys).await?)
    }

    /// Blocks in force at `now` beside that of `network`.
    pub(crate) async fn other_blocks(
        &self,
        policy: &PolicyName,
        network: &str,
        now: UnixMillis,
    ) -> Result<u64, LedgerError> {
        Ok(self.store.other_blocks(policy, network, now).await?)
    }

    /// Up to when tokens of a policy may have been issued.
    pub(crate) async fn issued_until(&self, policy: &PolicyName) -> Result<Option<UnixMillis>, LedgerError> {
        Ok(self.store.issued_until(policy).await?)
    }

    /// From here on they may be issued up to `until`.
    pub(crate) async fn issue_until(&self, policy: &PolicyName, until: UnixMillis) -> Result<(), LedgerError> {
        Ok(self.store.issue_until(policy, until).await?)
    }

    /// A policy's revocations, latest first.
    pub(crate) async fn history(&self, policy: &PolicyName, filter: &HistoryFilter) -> Result<Vec<Recorded>, LedgerError> {
        Ok(self.store.history(policy, filter).await?)
    }
}
