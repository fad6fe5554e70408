//! What an issuer does beside answering: it seals the audit trail, removes what is over, and brings secrets under its present
//! key.

mod retention;

use std::{sync::Arc, time::Duration};

use countersign_feed::Clock;
use countersign_store::{Store, StoreError};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

pub use self::retention::{AuditRetention, InvalidRetention};
use crate::{Policies, Secrets, lockout::MAX_UNKNOWN_NAMES, second_factor};

/// How often events are sealed and refresh tokens' bits erased.
const SEAL_EVERY: Duration = Duration::from_secs(1);
/// After so many of these what is over is removed.
const TICKS_PER_REMOVAL: u32 = 60;
/// After so many of these what an earlier key sealed is sealed anew: a replica of before a change may still use that key.
const TICKS_PER_RESEALING: u32 = 3600;
/// Rows in one step, so that none holds the database for long.
const BATCH: u32 = 1000;
/// Steps in a row before others have their turn.
const STEPS: u32 = 20;

/// What becomes of the audit trail.
pub(crate) struct Trail {
    /// How long events are kept.
    pub(crate) retention: AuditRetention,
    /// Whether there is an audit log: events stay until they are in it.
    pub(crate) has_log: bool,
    /// Shown whenever events were sealed.
    pub(crate) sealed: watch::Sender<()>,
}

/// Works until `stop`. Any number of issuers may do so on one database.
pub(crate) async fn keep(
    store: Arc<Store>,
    secrets: Arc<Secrets>,
    policies: Policies,
    trail: Trail,
    stop: CancellationToken,
) {
    let mut ticks = interval(SEAL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count: u32 = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => {
                // What was answered is sealed before the process ends.
                report("sealing the audit trail", seal(&store, &trail.sealed).await);
                return;
            }
            _ = ticks.tick() => {}
        }
        report("sealing the audit trail", seal(&store, &trail.sealed).await);
        report("erasing refresh tokens' bits", erase(&store).await);
        if count.is_multiple_of(TICKS_PER_REMOVAL) {
            report("removing what has expired", remove(&store).await);
            report("forgetting unknown names", trim(&store, &policies, MAX_UNKNOWN_NAMES).await);
            report("removing events beyond retention", retention::forget(&store, &trail).await);
        }
        if count.is_multiple_of(TICKS_PER_RESEALING) {
            report("sealing secrets under the present key", second_factor::reseal(&store, &secrets).await);
        }
        count = count.wrapping_add(1);
    }
}

fn report(what: &str, done: Result<(), StoreError>) {
    if let Err(error) = done {
        tracing::warn!(%error, "{what} failed; it is tried again");
    }
}

async fn seal(store: &Store, sealed: &watch::Sender<()>) -> Result<(), StoreError> {
    for policy in store.unsealed_policies().await? {
        for _ in 0..STEPS {
            let Some(head) = store.seal_audit(&policy, BATCH).await? else { break };
            // Outside SQL, so that whoever can change the database can't change this as well.
            tracing::info!(target: "countersign::audit", %policy, place = head.place, hash = hex::encode(head.hash), "audit trail sealed");
            sealed.send_replace(());
        }
    }
    Ok(())
}

async fn erase(store: &Store) -> Result<(), StoreError> {
    for _ in 0..STEPS {
        // By the later of two clocks honest replays would be taken for theft.
        let now = store.database_now().await?.min(Clock::wall());
        if store.erase_refresh_bits(now, BATCH).await? == 0 {
            break;
        }
    }
    Ok(())
}

async fn remove(store: &Store) -> Result<(), StoreError> {
    for _ in 0..STEPS {
        if store.remove_expired(Clock::wall(), BATCH).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Failures with names that nobody has are counted, as many as `at_most` of each policy: a stranger chooses how many there are.
async fn trim(store: &Store, policies: &Policies, at_most: u32) -> Result<(), StoreError> {
    let names: Vec<_> = policies.load().by_name.keys().cloned().collect();
    for policy in names {
        for _ in 0..STEPS {
            if store.trim_unknown_names(&policy, at_most, BATCH).await? < u64::from(BATCH) {
                break;
            }
        }
    }
    Ok(())
}
