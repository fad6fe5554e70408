//! Until when a process leads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use countersign_feed::Clock;
use tokio::time::sleep;

/// How soon the end is noticed after a machine slept: while it does, timers stand still.
const NOTICED_WITHIN: Duration = Duration::from_millis(500);

/// Until when this process leads, by the clock that goes on while a machine sleeps. Whoever signs or writes asks first: a
/// process that was held up may not have been told yet that its time is over.
#[derive(Clone, Debug)]
pub struct Leading(Arc<AtomicI64>);

impl Default for Leading {
    /// Not at all.
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MIN)))
    }
}

impl Leading {
    /// Whether it does now.
    pub fn holds(&self) -> bool {
        Clock::boot_millis() < self.0.load(SeqCst)
    }

    /// A renewal was granted that was asked for at `asked` ([`Clock::boot_millis`]).
    pub(crate) fn extend(&self, asked: i64, deadline: Duration) {
        let deadline = i64::try_from(deadline.as_millis()).unwrap_or(i64::MAX);
        self.0.fetch_max(asked.saturating_add(deadline), SeqCst);
    }

    /// Somebody else leads.
    pub(super) fn end(&self) {
        self.0.store(i64::MIN, SeqCst);
    }

    /// Returns when it is over.
    pub(super) async fn over(&self) {
        loop {
            let left = self.0.load(SeqCst).saturating_sub(Clock::boot_millis());
            let Some(left) = u64::try_from(left).ok().filter(|left| *left > 0) else { return };
            sleep(Duration::from_millis(left).min(NOTICED_WITHIN)).await;
        }
    }
}
