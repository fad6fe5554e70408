//! The policies that entries belong to: a small index for each, how many entries it has, its access ring's cut-off.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
};

use parking_lot::RwLock;

use crate::{names::PolicyName, time::UnixMillis};

#[derive(Default)]
pub(super) struct Policies(RwLock<Inner>);

#[derive(Default)]
struct Inner {
    by_name: HashMap<PolicyName, u32>,
    slots: Vec<Slot>,
}

struct Slot {
    name: PolicyName,
    count: AtomicUsize,
    access_cutoff: AtomicI64,
}

impl Policies {
    /// The index of a policy, made when it is new.
    pub(super) fn index_of(&self, name: &PolicyName) -> u32 {
        if let Some(index) = self.0.read().by_name.get(name) {
            return *index;
        }
        let mut inner = self.0.write();
        if let Some(index) = inner.by_name.get(name) {
            return *index;
        }
        let index = u32::try_from(inner.slots.len()).unwrap_or(u32::MAX);
        inner.slots.push(Slot { name: name.clone(), count: AtomicUsize::new(0), access_cutoff: AtomicI64::new(i64::MIN) });
        inner.by_name.insert(name.clone(), index);
        index
    }

    pub(super) fn names(&self) -> Vec<PolicyName> {
        self.0.read().slots.iter().map(|slot| slot.name.clone()).collect()
    }

    pub(super) fn add(&self, index: u32, n: usize) {
        self.with(index, |slot| slot.count.fetch_add(n, Ordering::Relaxed));
    }

    pub(super) fn remove(&self, index: u32, n: usize) {
        self.with(index, |slot| slot.count.fetch_sub(n, Ordering::Relaxed));
    }

    pub(super) fn raise_access_cutoff(&self, index: u32, cutoff: UnixMillis) {
        self.with(index, |slot| slot.access_cutoff.fetch_max(cutoff.0, Ordering::AcqRel));
    }

    pub(super) fn access_cutoff(&self, index: u32) -> UnixMillis {
        UnixMillis(self.with(index, |slot| slot.access_cutoff.load(Ordering::Acquire)).unwrap_or(i64::MIN))
    }

    pub(super) fn access_cutoffs(&self) -> Vec<i64> {
        self.0.read().slots.iter().map(|slot| slot.access_cutoff.load(Ordering::Acquire)).collect()
    }

    pub(super) fn count_of(&self, name: &PolicyName) -> usize {
        let inner = self.0.read();
        inner.by_name.get(name).map_or(0, |index| inner.slots[*index as usize].count.load(Ordering::Relaxed))
    }

    pub(super) fn counts(&self) -> Vec<(PolicyName, usize)> {
        self.0.read().slots.iter().map(|slot| (slot.name.clone(), slot.count.load(Ordering::Relaxed))).collect()
    }

    fn with<T>(&self, index: u32, f: impl FnOnce(&Slot) -> T) -> Option<T> {
        self.0.read().slots.get(index as usize).map(f)
    }
}
