//! What the parts of a leader count of themselves, for its metrics.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use countersign_api::bundle::RingName;
use parking_lot::Mutex;

/// How often each of a few things happened.
#[derive(Debug)]
pub struct Tally<K>(Mutex<BTreeMap<K, u64>>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Copy> Tally<K> {
    /// It happened once more.
    pub fn count(&self, what: K) {
        self.add(what, 1);
    }

    /// It happened so many times more.
    pub fn add(&self, what: K, times: u64) {
        let mut all = self.0.lock();
        let counted = all.entry(what).or_default();
        *counted = counted.saturating_add(times);
    }

    /// How often it happened.
    pub fn of(&self, what: K) -> u64 {
        self.0.lock().get(&what).copied().unwrap_or(0)
    }

    /// What happened at all.
    pub fn seen(&self) -> Vec<K> {
        self.0.lock().keys().copied().collect()
    }
}

/// A step of a key's way into signing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RotationStep {
    /// A key was made.
    Started,
    /// A key began to sign.
    Signed,
}

impl RotationStep {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Started, Self::Signed];

    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Signed => "signed",
        }
    }
}

/// What came of a declared session's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionToken {
    /// A session got its first.
    Issued,
    /// A later one is in its Secret.
    Renewed,
    /// The session could not be brought forward; it is tried again.
    Failed,
}

impl SessionToken {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Issued, Self::Renewed, Self::Failed];

    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Renewed => "renewed",
            Self::Failed => "failed",
        }
    }
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventFate {
    /// It is on the API server.
    Written,
    /// The API server didn't take it.
    Failed,
    /// Too many waited.
    Dropped,
}

impl EventFate {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Written, Self::Failed, Self::Dropped];

    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Counters and gauges.
#[derive(Debug, Default)]
pub struct Counts {
    /// Steps of keys.
    pub rotations: Tally<(RingName, RotationStep)>,
    /// How long keys that sign now were held back by verifiers, milliseconds.
    pub rotations_waited_ms: Tally<RingName>,
    /// Declared sessions' tokens.
    pub session_tokens: Tally<SessionToken>,
    /// Events.
    pub events: Tally<EventFate>,
    /// Looks at policies that failed, by why.
    pub failed_looks: Tally<&'static str>,
    looks: AtomicU64,
    looked_micros: AtomicU64,
    queued: AtomicU64,
    unpublished: AtomicU64,
}

impl Counts {
    /// A look at a policy took so long, and went well or failed for a reason of a fixed set.
    pub fn looked(&self, took: Duration, result: Result<(), &'static str>) {
        match result {
            Ok(()) => drop(self.looks.fetch_add(1, Relaxed)),
            Err(reason) => self.failed_looks.count(reason),
        }
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
        let failed = self.failed_looks.seen().into_iter().map(|reason| self.failed_looks.of(reason)).sum();
        (self.looks.load(Relaxed), failed)
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
