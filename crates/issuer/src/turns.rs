//! In which order, and by which clock, tokens are issued and cut off.
//!
//! A token must outlive no cut-off that is asked for after it. Issuing holds its policy's turn shared, cutting off holds it
//! alone, and each reads the clock within, so that what was issued before is issued no later. A clock that was stepped back
//! in between would break that: so the latest time of issue is remembered, and no cut-off is earlier. It is remembered on
//! disk as well, a little ahead, so that one write serves many tokens and a restart forgets nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use countersign_core::{names::PolicyName, time::UnixMillis};
use tokio::sync::{OnceCell, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

use crate::revoker::{Ledger, LedgerError};

/// How far ahead of the tokens the time on disk is written, milliseconds. After a restart a cut-off may be that far ahead of
/// the clock.
const AHEAD_MS: i64 = 1000;

/// Each policy's turn.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    ledger: Ledger,
    by_policy: Arc<Mutex<HashMap<PolicyName, Arc<Turn>>>>,
}

#[derive(Debug)]
struct Turn {
    lock: Arc<RwLock<()>>,
    read_from_disk: OnceCell<()>,
    /// The latest time of issue.
    latest: AtomicI64,
    /// Up to where the disk says so.
    written: AtomicI64,
}

/// Tokens of a policy may be issued while this is held.
#[derive(Debug)]
pub(crate) struct Issuing {
    policy: PolicyName,
    turn: Arc<Turn>,
    ledger: Ledger,
    _shared: OwnedRwLockReadGuard<()>,
}

/// Nothing of a policy is issued while this is held.
#[derive(Debug)]
pub(crate) struct Cutting {
    /// The time, and not before the last token's.
    pub(crate) now: UnixMillis,
    _alone: OwnedRwLockWriteGuard<()>,
}

impl Turns {
    pub(crate) fn new(ledger: Ledger) -> Self {
        Self { ledger, by_policy: Arc::default() }
    }

    /// A share in the policy's turn.
    pub(crate) async fn issue(&self, policy: &PolicyName) -> Result<Issuing, LedgerError> {
        let turn = self.of(policy).await?;
        let shared = turn.lock.clone().read_owned().await;
        Ok(Issuing { policy: policy.clone(), turn, ledger: self.ledger.clone(), _shared: shared })
    }

    /// The policy's turn alone, and the time by which to cut off.
    pub(crate) async fn cut(
        &self,
        policy: &PolicyName,
        clock: impl FnOnce() -> UnixMillis + Send,
    ) -> Result<Cutting, LedgerError> {
        let turn = self.of(policy).await?;
        let alone = turn.lock.clone().write_owned().await;
        let now = clock().max(UnixMillis(turn.latest.load(Relaxed)));
        Ok(Cutting { now, _alone: alone })
    }

    async fn of(&self, policy: &PolicyName) -> Result<Arc<Turn>, LedgerError> {
        let turn = {
            let mut turns = self.by_policy.lock().unwrap_or_else(PoisonError::into_inner);
            turns.entry(policy.clone()).or_insert_with(|| Arc::new(Turn::new())).clone()
        };
        let read = async {
            if let Some(until) = self.ledger.issued_until(policy).await? {
                turn.latest.fetch_max(until.0, Relaxed);
                turn.written.fetch_max(until.0, Relaxed);
            }
            Ok::<_, LedgerError>(())
        };
        turn.read_from_disk.get_or_try_init(|| read).await?;
        Ok(turn)
    }
}

impl Turn {
    fn new() -> Self {
        Self {
            lock: Arc::default(),
            read_from_disk: OnceCell::new(),
            latest: AtomicI64::new(i64::MIN),
            written: AtomicI64::new(i64::MIN),
        }
    }
}

impl Issuing {
    /// Remembers that a token is issued at `at`. To be called before anybody gets it.
    pub(crate) async fn remember(&self, at: UnixMillis) -> Result<(), LedgerError> {
        if at.0 > self.turn.written.load(Relaxed) {
            let until = at.plus(AHEAD_MS);
            self.ledger.issue_until(&self.policy, until).await?;
            self.turn.written.fetch_max(until.0, Relaxed);
        }
        self.turn.latest.fetch_max(at.0, Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use countersign_feed::{MemoryFeed, Publisher, PublisherConfig};
    use countersign_store::Store;

    use super::*;

    async fn turns(path: &Path) -> Turns {
        let store = Arc::new(Store::open(path).await.unwrap());
        let server = Arc::new(MemoryFeed::new(store.clone()));
        let publisher = Publisher::spawn(server, store.clone(), PublisherConfig::new("test"));
        Turns::new(Ledger::new(store, Arc::new(publisher)))
    }

    #[tokio::test]
    async fn no_cut_off_is_earlier_than_a_token_though_the_clock_went_back_and_the_process_ended() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let shop: PolicyName = "shop/shop".parse().unwrap();
        let (early, late) = (UnixMillis(1_800_000_000_000), UnixMillis(1_800_003_600_000));
        {
            let turns = turns(&path).await;
            assert_eq!(turns.cut(&shop, || early).await.unwrap().now, early, "nothing is issued yet");
            turns.issue(&shop).await.unwrap().remember(late).await.unwrap();
            turns.issue(&shop).await.unwrap().remember(early).await.unwrap();
            assert_eq!(turns.cut(&shop, || early).await.unwrap().now, late);
            assert_eq!(turns.cut(&shop, || late.plus(5)).await.unwrap().now, late.plus(5));
            let other: PolicyName = "shop/other".parse().unwrap();
            assert_eq!(turns.cut(&other, || early).await.unwrap().now, early, "another policy has its own");
        }
        let after = turns(&path).await.cut(&shop, || early).await.unwrap().now;
        assert!(after >= late && after <= late.plus(AHEAD_MS), "{after}");
    }
}
