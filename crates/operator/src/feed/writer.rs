//! The feed's writer where no issuer is installed.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use countersign_core::names::PolicyName;
use countersign_feed::{FeedServer, Publication, Publisher, PublisherConfig, PublisherStatus};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::outbox::BundleOutbox;
use crate::registry::Registry;

/// How long one publication is waited for before the next changes are taken in; the sweep goes on with it.
const PUBLISH_WITHIN: Duration = Duration::from_secs(1);

/// How often it is looked how publishing goes.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// Publishes what bundles call revoked, as soon as they are written.
#[derive(Debug)]
pub struct FeedWriter {
    registry: Arc<Registry>,
    outbox: Arc<BundleOutbox>,
    publisher: Publisher,
    changes: broadcast::Receiver<PolicyName>,
}

impl FeedWriter {
    /// A writer under `name`. `outbox` holds what the bundles of before call revoked: a writer calls the feed complete when
    /// nothing that it knows of is missing in it. Must be called within a Tokio runtime.
    pub fn spawn(server: Arc<dyn FeedServer>, outbox: BundleOutbox, registry: Arc<Registry>, name: &str) -> Self {
        // Before the first look, so that no change falls between.
        let changes = registry.changes();
        for view in registry.policies() {
            outbox.set(&view.name, &view.revoked);
        }
        let outbox = Arc::new(outbox);
        let publisher = Publisher::spawn(server, outbox.clone(), PublisherConfig::new(name));
        Self { registry, outbox, publisher, changes }
    }

    /// How publishing goes.
    pub fn status(&self) -> PublisherStatus {
        self.publisher.status()
    }

    /// Writes until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(STATUS_EVERY);
        loop {
            self.registry.counts().unpublished(self.publisher.status().pending);
            let changed = tokio::select! {
                () = stop.cancelled() => break,
                _ = tick.tick() => continue,
                changed = changed(&mut self.changes) => changed,
            };
            let Some(changed) = changed else { break };
            let ids = match changed {
                Changed::These(names) => names.iter().flat_map(|name| self.take(name)).collect(),
                Changed::Any => self.take_all(),
            };
            if !ids.is_empty() {
                let count = ids.len();
                match self.publisher.publish(ids, PUBLISH_WITHIN).await {
                    Publication::Published(position) => tracing::debug!(count, %position, "revocations are in the feed"),
                    Publication::Pending => tracing::warn!(count, "revocations wait for the feed; bundles carry them too"),
                }
            }
        }
        self.publisher.shutdown().await;
    }

    fn take(&self, name: &PolicyName) -> Vec<i64> {
        match self.registry.policy(name) {
            Some(view) => self.outbox.set(name, &view.revoked),
            None => self.outbox.set(name, &[]),
        }
    }

    fn take_all(&self) -> Vec<i64> {
        self.registry.policies().iter().flat_map(|view| self.outbox.set(&view.name, &view.revoked)).collect()
    }
}

pub(crate) enum Changed {
    These(BTreeSet<PolicyName>),
    /// Too many to have been told each.
    Any,
}

/// What changed, all that is known by now at once. `None`: nothing will any more.
pub(crate) async fn changed(changes: &mut broadcast::Receiver<PolicyName>) -> Option<Changed> {
    use broadcast::error::{RecvError, TryRecvError};

    let mut names = BTreeSet::new();
    match changes.recv().await {
        Ok(name) => drop(names.insert(name)),
        Err(RecvError::Lagged(_)) => return Some(Changed::Any),
        Err(RecvError::Closed) => return None,
    }
    loop {
        match changes.try_recv() {
            Ok(name) => drop(names.insert(name)),
            Err(TryRecvError::Lagged(_)) => return Some(Changed::Any),
            Err(TryRecvError::Empty | TryRecvError::Closed) => return Some(Changed::These(names)),
        }
    }
}
