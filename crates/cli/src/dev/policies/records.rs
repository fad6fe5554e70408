//! What is remembered of every policy that was ever in force here.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use countersign_api::policy::AuthPolicy;
use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_store::{Store, StoreError};
use serde::{Deserialize, Serialize};

use super::{Recorded, Withdrawn};

/// The store's value that holds them.
const PLACE: &str = "policies";

/// A policy's last good version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) uid: String,
    /// Where it was read from.
    pub(super) file: PathBuf,
    pub(super) policy: AuthPolicy,
    pub(super) references: Recorded,
    pub(super) issuer: Option<String>,
    pub(super) retain_ms: i64,
    pub(super) withdrawn_at: Option<UnixMillis>,
}

/// All of them.
pub(super) struct Records {
    by_name: BTreeMap<PolicyName, Record>,
    changed: bool,
}

impl Records {
    /// What the store holds.
    pub(super) async fn load(store: &Store) -> Result<Self, StoreError> {
        let by_name = match store.meta(PLACE).await? {
            None => BTreeMap::new(),
            Some(text) => serde_json::from_str(&text).map_err(|_| StoreError::Corrupt("the policies' records"))?,
        };
        Ok(Self { by_name, changed: false })
    }

    /// Writes them, if they changed.
    pub(super) async fn save(&mut self, store: &Store) -> Result<(), StoreError> {
        if self.changed {
            let text = serde_json::to_string(&self.by_name).map_err(|_| StoreError::Corrupt("a policy's record"))?;
            store.set_meta(PLACE, &text).await?;
            self.changed = false;
        }
        Ok(())
    }

    pub(super) fn get(&self, name: &PolicyName) -> Option<&Record> {
        self.by_name.get(name)
    }

    pub(super) fn put(&mut self, name: &PolicyName, record: Record) {
        if self.by_name.get(name) != Some(&record) {
            self.by_name.insert(name.clone(), record);
            self.changed = true;
        }
    }

    /// The policies that came from a file of this name: the directory may have been named otherwise then.
    pub(super) fn of_file(&self, file: &Path) -> impl Iterator<Item = &PolicyName> {
        let same = move |record: &Record| record.file.file_name() == file.file_name();
        self.by_name.iter().filter(move |(_, record)| same(record)).map(|(name, _)| name)
    }

    /// All but these are withdrawn.
    pub(super) fn withdraw_others<'a>(&mut self, present: impl Iterator<Item = &'a PolicyName>, now: UnixMillis) {
        let present: std::collections::BTreeSet<&PolicyName> = present.collect();
        for (name, record) in &mut self.by_name {
            if !present.contains(name) && record.withdrawn_at.is_none() {
                record.withdrawn_at = Some(now);
                self.changed = true;
            }
        }
    }

    /// Those that are, and until when their keys are kept.
    pub(super) fn withdrawn(&self) -> BTreeMap<PolicyName, Withdrawn> {
        let withdrawn = |record: &Record| {
            let erase_after = record.withdrawn_at?.plus(record.retain_ms);
            Some(Withdrawn { uid: record.uid.clone(), erase_after })
        };
        self.by_name.iter().filter_map(|(name, record)| Some((name.clone(), withdrawn(record)?))).collect()
    }

    /// Forgets those that were erased a while ago. Whether there were any.
    pub(super) fn forget(&mut self, now: UnixMillis, after_ms: i64) -> bool {
        let before = self.by_name.len();
        self.by_name.retain(|_, r| r.withdrawn_at.is_none_or(|at| now < at.plus(r.retain_ms).plus(after_ms)));
        let forgotten = self.by_name.len() < before;
        self.changed |= forgotten;
        forgotten
    }
}
