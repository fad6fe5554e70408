//! When people's sessions were last seen, on its way from the verifiers that saw them to whoever keeps sessions.
//!
//! It goes the other way than revocations and through the same server, which holds one moment for each session, the latest.
//! It is told at most once: what is lost with a server or an issuer on the way is made good by the next call within the session.

use std::{sync::Arc, time::Duration};

use countersign_core::{names::PolicyName, time::UnixMillis};
use tokio_util::sync::CancellationToken;

use crate::{
    collecting::{CollectError, every_second},
    outbox::OutboxError,
    server::{BoxFuture, FeedServer},
};

/// How many sessions' moments wait on a server at most. Beyond that it takes no other session's.
pub const MAX_WAITING_SESSIONS: usize = 100_000;

/// How long moments wait where nobody takes them.
pub const KEPT_FOR: Duration = Duration::from_hours(1);

/// The longest id of a session that is told, bytes: ours are shorter.
pub const MAX_SESSION_ID: usize = 128;

/// How many are written down at a time.
const PAGE: usize = 500;

/// When a session was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenSession {
    /// Its policy.
    pub policy: PolicyName,
    /// Its id: at most [`MAX_SESSION_ID`] bytes.
    pub session: String,
    /// When, by the clock of whoever saw it.
    pub at: UnixMillis,
}

/// Whoever keeps sessions.
pub trait ActivityKeeper: Send + Sync {
    /// Writes down when sessions were seen.
    fn keep<'a>(&'a self, seen: &'a [SeenSession]) -> BoxFuture<'a, Result<(), OutboxError>>;
}

/// Brings what verifiers saw from `server` to `keeper`, until `stop`.
pub async fn collect_activity(server: Arc<dyn FeedServer>, keeper: Arc<dyn ActivityKeeper>, stop: CancellationToken) {
    let warning = "what verifiers see of sessions isn't written down; idle ones end by what the issuer saw alone";
    let collect = || {
        let (server, keeper) = (server.clone(), keeper.clone());
        async move { collect_waiting_activity(&*server, &*keeper).await }
    };
    every_second(warning, stop, collect).await;
}

/// Brings all that waits on `server` to `keeper`. What the keeper can't write down waits on.
pub async fn collect_waiting_activity(server: &dyn FeedServer, keeper: &dyn ActivityKeeper) -> Result<(), CollectError> {
    loop {
        let seen = server.take_activity(PAGE).await?;
        if seen.is_empty() {
            return Ok(());
        }
        if let Err(error) = keeper.keep(&seen).await {
            server.report_activity(&seen).await?;
            return Err(CollectError::Keeper(error));
        }
        if seen.len() < PAGE {
            return Ok(());
        }
    }
}
