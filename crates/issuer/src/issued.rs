//! Up to when tokens of a policy may have been issued, so that no cut-off is earlier than a token that it shall end.
//!
//! The database's clock tells both. Should it go back, what was issued before counts: this process remembers the latest time of
//! issue, and the disk a time up to [`AHEAD_MS`] ahead of it, for whoever comes after.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_store::{StoreError, Tx};

/// How far ahead of the tokens the time on disk is written, milliseconds. After a restart a cut-off may be that far ahead of
/// the clock.
const AHEAD_MS: i64 = 1000;

/// The latest time of issue of each policy.
#[derive(Clone, Debug, Default)]
pub(crate) struct Issued(Arc<Mutex<HashMap<PolicyName, UnixMillis>>>);

impl Issued {
    /// Remembers that something is issued at `at`, in the transaction that issues it and holds its subject, and has read the
    /// time on disk.
    pub(crate) async fn remember(
        &self,
        tx: &mut Tx,
        policy: &PolicyName,
        at: UnixMillis,
        until: Option<UnixMillis>,
    ) -> Result<(), StoreError> {
        if until.is_none_or(|until| at > until) {
            tx.issue_until(policy, at.plus(AHEAD_MS)).await?;
        }
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = latest.entry(policy.clone()).or_insert(at);
        *held = at.max(*held);
        Ok(())
    }

    /// The time by which to cut off, in the transaction that does and holds whom it concerns.
    pub(crate) async fn cut(&self, tx: &mut Tx, policy: &PolicyName) -> Result<UnixMillis, StoreError> {
        let now = tx.database_now().await?;
        let until = tx.issued_until(policy).await?;
        let latest = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(policy).copied();
        Ok(cut(now, latest, until))
    }
}

fn cut(now: UnixMillis, latest: Option<UnixMillis>, until: Option<UnixMillis>) -> UnixMillis {
    match (latest, until) {
        (Some(latest), Some(until)) if until <= now.plus(AHEAD_MS) => now.max(latest),
        (_, Some(until)) => now.max(until),
        (_, None) => now,
    }
}

#[cfg(test)]
mod tests {
    use countersign_store::{Store, transact};

    use super::*;

    #[tokio::test]
    async fn no_cut_off_is_earlier_than_a_token_though_the_clock_went_back_and_the_process_ended() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.db")).await.unwrap();
        let shop: PolicyName = "shop/shop".parse().unwrap();
        let issued = Issued::default();
        let now = store.database_now().await.unwrap();
        let cut = async |issued: &Issued| transact!(&store, |tx| { issued.cut(tx, &shop).await }).unwrap();
        assert!(cut(&issued).await.since(now) < AHEAD_MS, "nothing is issued yet");
        // Issued when the clock was an hour ahead.
        let late = now.plus(3_600_000);
        for at in [late, now] {
            transact!(&store, |tx| {
                let until = tx.issued_until(&shop).await?;
                issued.remember(tx, &shop, at, until).await
            })
            .unwrap();
        }
        assert!(cut(&issued).await >= late);
        assert!(cut(&Issued::default()).await >= late, "of a process that was ended");
    }

    #[test]
    fn a_cut_off_is_now_as_long_as_the_clock_goes_on() {
        let at = UnixMillis;
        for (now, latest, until, expected) in [
            (1000, None, None, 1000),
            (5000, Some(4000), Some(4500), 5000),
            (4100, Some(4000), Some(4900), 4100),
            (3900, Some(4000), Some(4900), 4000),
            (4100, None, Some(4900), 4900),
            (1000, Some(900), Some(9000), 9000),
        ] {
            assert_eq!(cut(at(now), latest.map(at), until.map(at)), at(expected), "{now} {latest:?} {until:?}");
        }
    }
}
