//! How long the audit trail goes back.

use std::str::FromStr;

use countersign_api::values::Duration;
use countersign_core::time::UnixMillis;
use countersign_feed::Clock;
use countersign_store::{Store, StoreError};

use super::{BATCH, STEPS, Trail};

/// How long events of the audit trail are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AuditRetention(Option<Duration>);

/// Why a text says nothing of how long events are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("how long events are kept is a duration of at least 24h, for example 9600h, or off")]
pub struct InvalidRetention;

impl AuditRetention {
    /// 400 days.
    pub const DEFAULT: &str = "9600h";
    /// For ever.
    pub const OFF: Self = Self(None);
    /// Less would take away what an incident is looked into by.
    const LEAST_MS: i64 = 24 * 3_600_000;
}

impl FromStr for AuditRetention {
    type Err = InvalidRetention;

    fn from_str(text: &str) -> Result<Self, InvalidRetention> {
        if text == "off" {
            return Ok(Self::OFF);
        }
        let kept: Duration = text.parse().map_err(|_| InvalidRetention)?;
        if kept.as_millis() < Self::LEAST_MS { Err(InvalidRetention) } else { Ok(Self(Some(kept))) }
    }
}

/// Removes events that both clocks call older than that, in bounded steps. Every chain then begins later, and can still be
/// verified.
pub(super) async fn forget(store: &Store, trail: &Trail) -> Result<(), StoreError> {
    let AuditRetention(Some(kept)) = trail.retention else { return Ok(()) };
    let before = store.database_now().await?.min(Clock::wall()).minus(kept.as_millis());
    forget_before(store, before, trail.has_log).await
}

async fn forget_before(store: &Store, before: UnixMillis, only_logged: bool) -> Result<(), StoreError> {
    for policy in store.audited_policies().await? {
        for _ in 0..STEPS {
            let removed = store.forget_audit(&policy, before, BATCH, only_logged).await?;
            if removed == 0 {
                break;
            }
            tracing::info!(target: "countersign::audit", %policy, removed, %before, "events beyond retention removed");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        pin::{Pin, pin},
        task::Poll,
    };

    use countersign_core::names::PolicyName;
    use countersign_store::{AuditEvent, AuditFilter, Link, Location, Severity, transact};
    use tokio::sync::watch;

    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn shop() -> PolicyName {
        "shop/shop".parse().unwrap()
    }

    /// Events of these times, sealed. Where their chain ends.
    async fn happened(store: &Store, policy: &PolicyName, times: impl IntoIterator<Item = UnixMillis>) -> Link {
        let event = |time| AuditEvent {
            policy: policy.clone(),
            time,
            kind: "LOGIN_SUCCEEDED".into(),
            severity: Severity::Info,
            subject: None,
            session: None,
            ip: None,
            user_agent: None,
            request: None,
            details: "{}".into(),
        };
        let events: Vec<_> = times.into_iter().map(event).collect();
        transact!(store, |tx| {
            for event in &events {
                tx.append_audit(event).await?;
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
        let mut end = None;
        while let Some(head) = store.seal_audit(policy, BATCH).await.unwrap() {
            end = Some(head);
        }
        end.unwrap()
    }

    async fn times(store: &Store, policy: &PolicyName) -> Vec<UnixMillis> {
        let all = store.audit(policy, &AuditFilter { limit: BATCH, ..AuditFilter::default() }).await.unwrap();
        all.into_iter().map(|kept| kept.event.time).collect()
    }

    #[tokio::test]
    async fn events_leave_once_they_are_older_than_the_period_and_no_other_does() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::connect(&Location::File(directory.path().join("store.db"))).await.unwrap();
        let now = store.database_now().await.unwrap();
        let (old, young) = (now.minus(24 * HOUR_MS + 1), now.minus(23 * HOUR_MS));
        let other: PolicyName = "shop/other".parse().unwrap();
        happened(&store, &shop(), [old.minus(1), old, young, now]).await;
        happened(&store, &other, [old, young]).await;
        let trail =
            |kept: &str, has_log| Trail { retention: kept.parse().unwrap(), has_log, sealed: watch::Sender::new(()) };
        for keeps_all in [trail("off", false), trail("25h", false), trail("24h", true)] {
            forget(&store, &keeps_all).await.unwrap();
            assert_eq!(times(&store, &shop()).await, [now, young, old, old.minus(1)], "{:?}", keeps_all.retention);
        }
        forget(&store, &trail("24h", false)).await.unwrap();
        assert_eq!(times(&store, &shop()).await, [now, young]);
        assert_eq!(times(&store, &other).await, [young]);
    }

    #[tokio::test]
    async fn what_is_exactly_as_old_as_the_period_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::connect(&Location::File(directory.path().join("store.db"))).await.unwrap();
        happened(&store, &shop(), (1..=5).map(UnixMillis)).await;
        forget_before(&store, UnixMillis(3), false).await.unwrap();
        assert_eq!(times(&store, &shop()).await, [5, 4, 3].map(UnixMillis));
    }

    /// Goes so far with some work as that many turns take it, and drops it there, as a kill does. What came of it, if it ended
    /// before.
    async fn killed_after<T>(turns: usize, work: impl Future<Output = T>) -> Option<T> {
        let (mut left, mut work) = (turns, pin!(work));
        poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(None);
            }
            left -= 1;
            Pin::as_mut(&mut work).poll(cx).map(Some)
        })
        .await
    }

    #[tokio::test]
    async fn killed_anywhere_it_leaves_a_chain_that_holds_and_all_that_is_younger_and_the_next_goes_on() {
        let directory = tempfile::tempdir().unwrap();
        let file = Location::File(directory.path().join("store.db"));
        let store = Store::connect(&file).await.unwrap();
        let (old, young) = (i64::from(BATCH) + 200, 300);
        let end = happened(&store, &shop(), (1..=old + young).map(UnixMillis)).await;
        store.close().await;
        let mut kills = 0;
        loop {
            let store = Store::connect(&file).await.unwrap();
            let done = killed_after(kills + 1, forget_before(&store, UnixMillis(old + 1), false)).await;
            drop(store);
            let store = Store::connect(&file).await.unwrap();
            assert_eq!(store.verify_audit(&shop(), &[end]).await.unwrap(), Ok(end), "after {} turns", kills + 1);
            let kept = times(&store, &shop()).await;
            let latest: Vec<_> = (1..=old + young).rev().map(UnixMillis).take(kept.len()).collect();
            assert_eq!(kept, latest, "the oldest are gone, and none between");
            assert!(kept.len() >= usize::try_from(young).unwrap());
            store.close().await;
            if let Some(done) = done {
                done.unwrap();
                assert_eq!(kept.len(), usize::try_from(young).unwrap());
                break;
            }
            kills += 1;
        }
        assert!(kills > 2, "killed {kills} times");
    }

    #[test]
    fn events_are_kept_for_a_day_at_least_or_for_ever() {
        assert_eq!("off".parse(), Ok(AuditRetention::OFF));
        assert_eq!(AuditRetention::DEFAULT.parse(), Ok(AuditRetention(Some(Duration::hours(9600)))));
        assert_eq!("24h".parse(), Ok(AuditRetention(Some(Duration::hours(24)))));
        for wrong in ["", "23h59m", "0s", "400d", "never", "-24h"] {
            assert_eq!(wrong.parse::<AuditRetention>(), Err(InvalidRetention), "{wrong}");
        }
    }
}
