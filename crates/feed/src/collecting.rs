//! Taking out, again and again, what verifiers leave on a server.

use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::{outbox::OutboxError, server::FeedError};

/// How often it is looked whether something waits.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why what verifiers told waits on.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// It can't be taken from the server.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// It can't be written down.
    #[error("it can't be written down: {0}")]
    Keeper(OutboxError),
}

/// Takes a step each second until `stop`; the first of failures in a row is told.
pub(crate) async fn every_second<F>(warning: &'static str, stop: CancellationToken, collect: impl Fn() -> F)
where
    F: Future<Output = Result<(), CollectError>>,
{
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_failing = false;
    loop {
        let collected = async {
            tick.tick().await;
            collect().await
        };
        let collected = tokio::select! {
            collected = collected => collected,
            () = stop.cancelled() => return,
        };
        if let Err(error) = &collected
            && !is_failing
        {
            tracing::warn!(%error, "{warning}");
        }
        is_failing = collected.is_err();
    }
}
