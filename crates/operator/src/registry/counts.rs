//! What the parts of a leader count of themselves, for its metrics.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Counters and gauges. Writing them never waits.
#[derive(Debug, Default)]
pub struct Counts {
    looks: AtomicU64,
    failed_looks: AtomicU64,
    looked_micros: AtomicU64,
    queued: AtomicU64,
    unpublished: AtomicU64,
}

impl Counts {
    /// A look at a policy took so long, and went well or not.
    pub fn looked(&self, took: Duration, well: bool) {
        let counter = if well { &self.looks } else { &self.failed_looks };
        counter.fetch_add(1, Relaxed);
        self.looked_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// So many policies wait for a look that is due at some time.
    pub fn queued(&self, queued: usize) {
        self.queued.store(queued as u64, Relaxed);
    }

    /// So many revocations aren't in the feed yet.
    pub fn unpublished(&self, unpublished: u64) {
        self.unpublished.store(unpublished, Relaxed);
    }

    /// Looks that went well, and that didn't.
    pub fn looks(&self) -> (u64, u64) {
        (self.looks.load(Relaxed), self.failed_looks.load(Relaxed))
    }

    /// What all looks took together, microseconds.
    pub fn looked_micros(&self) -> u64 {
        self.looked_micros.load(Relaxed)
    }

    /// Policies that wait for a look.
    pub fn waiting_for_a_look(&self) -> u64 {
        self.queued.load(Relaxed)
    }

    /// Revocations that aren't in the feed yet.
    pub fn not_published(&self) -> u64 {
        self.unpublished.load(Relaxed)
    }
}
