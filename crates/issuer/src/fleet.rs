//! Who verifies, and what each of them enforces.

use std::{sync::Arc, time::Duration};

use countersign_core::revocation::Position;
use countersign_feed::{Ack, FeedError, FeedServer, FeedState};
use serde::Serialize;
use tokio::time::Instant;

/// How often leases are looked at while a position is waited for.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// How long a caller waits for the verifier in this process, whatever else it waits for: so that who is told "revoked" by the
/// one is never told "valid" by the other.
const OWN_WITHIN: Duration = Duration::from_millis(500);

/// How many names an answer lists.
const MAX_LAGGING: usize = 100;

/// On how many verifiers something is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Enforcement {
    /// How many there are.
    pub total: usize,
    /// On how many of them it is.
    pub confirmed: usize,
    /// The others, by name.
    pub lagging: Vec<String>,
}

impl Enforcement {
    /// Whether it is in force on every one.
    pub fn complete(&self) -> bool {
        self.confirmed == self.total
    }

    /// Counts verifiers by whether it is in force on each.
    pub fn count<'a>(verifiers: impl IntoIterator<Item = (&'a str, bool)>) -> Self {
        let mut enforcement = Self::default();
        for (name, in_force) in verifiers {
            enforcement.total += 1;
            if in_force {
                enforcement.confirmed += 1;
            } else if enforcement.lagging.len() < MAX_LAGGING {
                enforcement.lagging.push(name.to_owned());
            }
        }
        enforcement
    }
}

/// A verifier with a live lease, or this process's own.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// Its name.
    pub name: String,
    /// Up to where it holds the feed.
    pub position: Option<Position>,
    /// What it has applied; absent until it says so.
    pub ack: Option<Ack>,
}

/// The verifiers that follow a feed.
#[derive(Clone, Debug)]
pub struct Fleet {
    server: Arc<dyn FeedServer>,
    /// The verifier in this process: its position is read where it lies, without waiting for its lease.
    own: Option<(String, Arc<FeedState>)>,
}

impl Fleet {
    /// The readers of `server`, one of which may be in this process.
    pub fn new(server: Arc<dyn FeedServer>, own: Option<(String, Arc<FeedState>)>) -> Self {
        Self { server, own }
    }

    /// The feed server.
    pub(crate) fn server(&self) -> &Arc<dyn FeedServer> {
        &self.server
    }

    /// The feed server in words.
    pub fn describe_server(&self) -> String {
        self.server.describe()
    }

    /// Whether verifiers acknowledge generations, one by one: they do where this process writes the bundles and has a verifier of
    /// its own. In a cluster they name a version of the API server, and the operator tells who lags.
    pub(crate) const fn acknowledges_generations(&self) -> bool {
        self.own.is_some()
    }

    /// The verifiers that are alive, by name.
    pub async fn verifiers(&self) -> Result<Vec<Verifier>, FeedError> {
        let leases = self.server.leases().await?.into_iter().filter(|lease| lease.issuer().is_none());
        let mut verifiers: Vec<Verifier> =
            leases.map(|l| Verifier { name: l.name, position: l.position, ack: l.ack }).collect();
        if let Some((name, state)) = &self.own {
            match verifiers.iter_mut().find(|v| v.name == *name) {
                Some(own) => own.position = own.position.max(state.position()),
                None => verifiers.push(Verifier { name: name.clone(), position: state.position(), ack: None }),
            }
        }
        verifiers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(verifiers)
    }

    /// On how many verifiers everything up to `position` is in force; waits up to `wait` for all of them.
    pub async fn enforcement(&self, position: Position, wait: Duration) -> Result<Enforcement, FeedError> {
        let until = Instant::now() + wait;
        if let Some((_, state)) = &self.own {
            state.wait_for(position, wait.max(OWN_WITHIN)).await;
        }
        loop {
            let verifiers = self.verifiers().await?;
            let holds = |v: &Verifier| v.position.is_some_and(|held| held >= position);
            let found = Enforcement::count(verifiers.iter().map(|v| (v.name.as_str(), holds(v))));
            if found.complete() || Instant::now() + LOOK_EVERY > until {
                return Ok(found);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::revocation::Entry;
    use countersign_feed::{BoxFuture, ISSUER_PREFIX, LeaseWrite, LiveStore, MemoryFeed, OutboxError};

    use super::*;

    /// No entry is alive.
    #[derive(Debug)]
    struct Nothing;

    impl LiveStore for Nothing {
        fn live_after(&self, _: Position, _: usize) -> BoxFuture<'_, Result<Vec<(Position, Entry)>, OutboxError>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn record<'a>(&'a self, _: u64, _: &'a [(Entry, Position)]) -> BoxFuture<'a, Result<(), OutboxError>> {
            Box::pin(async { Ok(()) })
        }
    }

    #[tokio::test]
    async fn issuers_that_keep_a_lease_are_no_verifiers() {
        let server = Arc::new(MemoryFeed::new(Arc::new(Nothing)));
        for name in ["node-1".to_owned(), format!("{ISSUER_PREFIX}pod-1")] {
            let lease = LeaseWrite { name, ttl: Duration::from_mins(1), position: None, ack: None };
            server.write_lease(&lease).await.unwrap();
        }
        let fleet = Fleet::new(server, None);
        assert!(!fleet.acknowledges_generations());
        let verifiers = fleet.verifiers().await.unwrap();
        assert_eq!(verifiers.iter().map(|verifier| verifier.name.as_str()).collect::<Vec<_>>(), ["node-1"]);
    }

    #[test]
    fn enforcement_counts_and_names_who_lags() {
        let found = Enforcement::count([("a", true), ("b", false), ("c", true)]);
        assert_eq!(found, Enforcement { total: 3, confirmed: 2, lagging: vec!["b".into()] });
        assert!(!found.complete());
        assert!(Enforcement::count([("a", true)]).complete());
    }
}
