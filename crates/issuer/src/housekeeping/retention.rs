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
    use super::*;

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
