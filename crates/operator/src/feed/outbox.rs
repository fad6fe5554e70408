//! The operator's truth as a publisher of the feed needs it: what the bundles call revoked, held in memory.
//!
//! Nothing is lost with the process: the bundles are the truth, and the feed server keeps what was put into it. Positions are
//! forgotten, which costs one needless publication of each entry at the next leader's start.

use std::collections::{BTreeMap, HashMap, HashSet};

use countersign_core::{
    names::PolicyName,
    revocation::{Entry, EntryKey, Position},
    time::UnixMillis,
};
use countersign_feed::{BoxFuture, Mark, Outbox, OutboxError, OutboxRow, Removal};
use parking_lot::Mutex;

use super::epochs::Epochs;

/// What all bundles call revoked.
#[derive(Debug)]
pub struct BundleOutbox {
    epochs: Box<dyn Epochs>,
    rows: Mutex<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    last_id: i64,
    by_id: BTreeMap<i64, Row>,
    by_key: HashMap<EntryKey, i64>,
    by_policy: HashMap<PolicyName, Vec<i64>>,
}

#[derive(Debug)]
struct Row {
    entry: Entry,
    /// Changes whenever the entry does.
    revision: i64,
    position: Option<Position>,
    /// The epoch that it is published in.
    mark: u64,
}

impl BundleOutbox {
    /// An empty one.
    pub fn new(epochs: impl Epochs + 'static) -> Self {
        Self { epochs: Box::new(epochs), rows: Mutex::default() }
    }

    /// Sets what a policy's bundle calls revoked. Gives the rows that are new or say more than before. What the bundle no
    /// longer holds has expired; the feed server finds that out by itself.
    pub fn set(&self, policy: &PolicyName, revoked: &[Entry]) -> Vec<i64> {
        let rows = &mut *self.rows.lock();
        let before = rows.by_policy.remove(policy).unwrap_or_default();
        let mut kept = HashSet::with_capacity(revoked.len());
        let mut changed = Vec::new();
        for entry in revoked.iter().filter(|entry| entry.policy == *policy) {
            let (id, says_more) = rows.put(entry);
            if says_more {
                changed.push(id);
            }
            kept.insert(id);
        }
        for id in before.into_iter().filter(|id| !kept.contains(id)) {
            if let Some(row) = rows.by_id.remove(&id) {
                rows.by_key.remove(&row.entry.key());
            }
        }
        if !kept.is_empty() {
            rows.by_policy.insert(policy.clone(), kept.into_iter().collect());
        }
        changed
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.rows.lock().by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Rows {
    fn put(&mut self, entry: &Entry) -> (i64, bool) {
        let key = entry.key();
        if let Some(id) = self.by_key.get(&key)
            && let Some(row) = self.by_id.get_mut(id)
        {
            let joined = row.entry.clone().join(entry.clone());
            let says_more = joined != row.entry;
            if says_more {
                row.entry = joined;
                row.revision += 1;
                row.mark = 0;
            }
            return (*id, says_more);
        }
        self.last_id += 1;
        let row = Row { entry: entry.clone(), revision: 1, position: None, mark: 0 };
        self.by_id.insert(self.last_id, row);
        self.by_key.insert(key, self.last_id);
        (self.last_id, true)
    }
}

impl Row {
    fn shown(&self, id: i64, epoch: u64) -> OutboxRow {
        OutboxRow {
            id,
            revision: self.revision,
            entry: self.entry.clone(),
            // What it stood for before it came to say more is no place for it now.
            recorded: self.position.filter(|_| self.mark > 0),
            published: self.mark == epoch,
        }
    }
}

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, Result<T, OutboxError>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl Outbox for BundleOutbox {
    fn epoch(&self) -> BoxFuture<'_, Result<u64, OutboxError>> {
        self.epochs.present()
    }

    fn advance_epoch(&self, from: u64, to: u64, keep_positions: bool) -> BoxFuture<'_, Result<bool, OutboxError>> {
        Box::pin(async move {
            let advanced = self.epochs.advance(from, to).await?;
            if advanced && !keep_positions {
                self.rows.lock().by_id.values_mut().for_each(|row| row.position = None);
            }
            Ok(advanced)
        })
    }

    fn unpublished(&self, epoch: u64, limit: usize) -> BoxFuture<'_, Result<Vec<OutboxRow>, OutboxError>> {
        let rows = self.rows.lock();
        let found = rows.by_id.iter().filter(|(_, row)| row.mark < epoch).take(limit);
        ready(found.map(|(id, row)| row.shown(*id, epoch)).collect())
    }

    fn rows<'a>(&'a self, epoch: u64, ids: &'a [i64]) -> BoxFuture<'a, Result<Vec<OutboxRow>, OutboxError>> {
        let rows = self.rows.lock();
        ready(ids.iter().filter_map(|id| Some(rows.by_id.get(id)?.shown(*id, epoch))).collect())
    }

    fn mark<'a>(&'a self, epoch: u64, marks: &'a [Mark]) -> BoxFuture<'a, Result<(), OutboxError>> {
        Box::pin(async move {
            if self.epochs.present().await? != epoch {
                return Ok(());
            }
            let mut rows = self.rows.lock();
            for mark in marks {
                if let Some(row) = rows.by_id.get_mut(&mark.id).filter(|row| row.revision == mark.revision) {
                    row.mark = epoch;
                    row.position = Some(mark.position);
                }
            }
            Ok(())
        })
    }

    fn highest_position(&self) -> BoxFuture<'_, Result<Position, OutboxError>> {
        let highest = self.rows.lock().by_id.values().filter_map(|row| row.position).max();
        ready(highest.unwrap_or(Position::ZERO))
    }

    fn pending(&self, epoch: u64) -> BoxFuture<'_, Result<u64, OutboxError>> {
        ready(self.rows.lock().by_id.values().filter(|row| row.mark < epoch).count() as u64)
    }

    fn merged(&self, _limit: usize) -> BoxFuture<'_, Result<Vec<(i64, Removal)>, OutboxError>> {
        // Bundles are merged, if at all, before they are written.
        ready(Vec::new())
    }

    fn forget_merged<'a>(&'a self, _ids: &'a [i64]) -> BoxFuture<'a, Result<(), OutboxError>> {
        ready(())
    }

    fn purge(&self, _server_now: UnixMillis, _own_now: UnixMillis) -> BoxFuture<'_, Result<u64, OutboxError>> {
        // What has expired leaves with the bundle that no longer holds it.
        ready(0)
    }
}
