//! In which order, and by which clocks, a policy's tokens are issued and cut off.
//!
//! No token may outlive a cut-off that is made after it. Signing holds its policy's turn shared, cutting off holds it alone,
//! and each reads the clocks within. The latest time of issue is remembered, and no cut-off is earlier: a clock that was
//! stepped back in between changes nothing. What goes beyond the feed server's clock, by which every later cut-off is made as
//! well, is *reserved* first: the policy's record says up to when tokens may have been issued, so that whoever leads next
//! knows too.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering::SeqCst},
};

use countersign_core::time::UnixMillis;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// A policy's turn.
#[derive(Debug)]
pub struct Turn {
    lock: Arc<RwLock<()>>,
    /// The latest time of issue that is known.
    latest: AtomicI64,
    /// Up to when the record says that tokens may have been issued.
    reserved: AtomicI64,
}

/// Tokens may be signed while this is held.
#[derive(Debug)]
pub struct Issuing(#[expect(dead_code, reason = "held, and let go")] OwnedRwLockReadGuard<()>);

/// Nothing is signed while this is held: until everybody here knows of the cut-off.
#[derive(Debug)]
pub struct Cutting {
    /// The time to cut off at: no token that was issued so far is later.
    pub at: UnixMillis,
    _alone: OwnedRwLockWriteGuard<()>,
}

impl Default for Turn {
    fn default() -> Self {
        Self { lock: Arc::default(), latest: AtomicI64::new(i64::MIN), reserved: AtomicI64::new(i64::MIN) }
    }
}

impl Turn {
    /// A share in it.
    pub async fn issue(&self) -> Issuing {
        Issuing(self.lock.clone().read_owned().await)
    }

    /// The turn alone, and the time by which to cut off. `clock` is read within: this machine's, and the feed server's if it
    /// is in reach.
    pub async fn cut(&self, clock: impl FnOnce() -> (UnixMillis, Option<UnixMillis>) + Send) -> Cutting {
        let alone = self.lock.clone().write_owned().await;
        let (now, server_now) = clock();
        let issued = UnixMillis(self.latest.load(SeqCst).max(self.reserved.load(SeqCst)));
        Cutting { at: now.max(server_now.unwrap_or(now)).max(issued), _alone: alone }
    }

    /// Takes in what the policy's record says.
    pub fn raise(&self, issued_until: Option<UnixMillis>) {
        if let Some(until) = issued_until {
            self.reserved.fetch_max(until.0, SeqCst);
        }
    }

    /// Whether a token issued at `at` is within what is reserved.
    pub fn covers(&self, at: UnixMillis) -> bool {
        at.0 <= self.reserved.load(SeqCst)
    }

    /// Remembers that a token is issued at `at`. To be called in the turn, before anybody gets it.
    pub fn remember(&self, at: UnixMillis) {
        self.latest.fetch_max(at.0, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EARLY: UnixMillis = UnixMillis(1_800_000_000_000);
    const LATE: UnixMillis = UnixMillis(1_800_003_600_000);

    #[tokio::test]
    async fn no_cut_off_is_earlier_than_a_token_though_the_clock_went_back_or_another_leads() {
        let turn = Turn::default();
        assert_eq!(turn.cut(|| (EARLY, None)).await.at, EARLY, "nothing is issued yet");
        assert_eq!(turn.cut(|| (EARLY, Some(EARLY.plus(7)))).await.at, EARLY.plus(7), "the later of the clocks");
        turn.remember(LATE);
        turn.remember(EARLY);
        assert_eq!(turn.cut(|| (EARLY, Some(EARLY))).await.at, LATE);
        let after = Turn::default();
        after.raise(Some(LATE));
        after.raise(None);
        after.raise(Some(EARLY));
        assert_eq!(after.cut(|| (EARLY, Some(EARLY))).await.at, LATE, "what the record says");
        assert!(after.covers(LATE) && !after.covers(LATE.plus(1)));
    }

    #[tokio::test]
    async fn nothing_is_issued_while_somebody_cuts_off() {
        let turn = Turn::default();
        let cutting = turn.cut(|| (EARLY, None)).await;
        let mut issuing = std::pin::pin!(turn.issue());
        assert!(futures_util::poll!(&mut issuing).is_pending());
        drop(cutting);
        issuing.await;
    }
}
