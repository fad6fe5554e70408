//! What verifiers saw of people's sessions, brought to where sessions are kept: an idle session is one that neither was
//! refreshed nor had a token of it accepted anywhere.

use std::sync::Arc;

use countersign_feed::{ACTIVITY_KEPT_FOR, ActivityKeeper, BoxFuture, OutboxError, SeenSession};
use countersign_store::{Store, StoreError, transact};

/// Sessions that are written in one transaction, so that none holds the database for long.
const AT_ONCE: usize = 100;

/// Writes when sessions were seen.
#[derive(Clone, Debug)]
pub struct SessionActivity(Arc<Store>);

impl SessionActivity {
    /// Into the sessions of `store`.
    pub fn new(store: Arc<Store>) -> Self {
        Self(store)
    }

    async fn write(&self, seen: &[SeenSession]) -> Result<(), StoreError> {
        for some in seen.chunks(AT_ONCE) {
            transact!(&self.0, |tx| {
                // A verifier whose clock is ahead lengthens no session.
                let now = tx.database_now().await?;
                // No moment waits longer than this: who tells of an earlier one would only revive what is over.
                let earliest = now.minus(i64::try_from(ACTIVITY_KEPT_FOR.as_millis()).unwrap_or(i64::MAX));
                for SeenSession { policy, session, at } in some.iter().filter(|seen| seen.at >= earliest) {
                    tx.session_seen(policy, session, (*at).min(now)).await?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl ActivityKeeper for SessionActivity {
    fn keep<'a>(&'a self, seen: &'a [SeenSession]) -> BoxFuture<'a, Result<(), OutboxError>> {
        Box::pin(async move { self.write(seen).await.map_err(|error| OutboxError(Box::new(error))) })
    }
}
