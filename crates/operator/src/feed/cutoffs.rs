//! What the feed and the bundles have ended, as verifiers know it.

use std::sync::Arc;

use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Hit, IdHasher, Kind, Revocable, RevocationSet},
    time::UnixMillis,
};
use tokio::sync::broadcast;

/// How many changes a subscriber may lag behind.
const CHANGES: usize = 4096;

/// Something that may have ended declared sessions' tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ended {
    /// The policy.
    pub policy: PolicyName,
    /// What the entry names.
    pub kind: Kind,
    /// Its name.
    pub id: String,
}

/// The set of revocations, and who hears of changes. The same set by which verifiers judge, so that a session is renewed
/// exactly when they would refuse its token.
#[derive(Debug)]
pub struct Cutoffs {
    set: RevocationSet,
    changes: broadcast::Sender<Arc<Ended>>,
}

impl Cutoffs {
    /// Nothing has ended yet.
    pub fn new() -> Self {
        let mut key = [0; 16];
        aws_lc_rs::rand::fill(&mut key).expect("the system's randomness works");
        Self { set: RevocationSet::new(IdHasher::new(key)), changes: broadcast::channel(CHANGES).0 }
    }

    /// Takes an entry in, and tells about it when it says more than what was known.
    pub fn apply(&self, entry: &Entry) {
        if entry.kind != Kind::Ip && self.set.apply(entry) {
            let ended = Ended { policy: entry.policy.clone(), kind: entry.kind, id: entry.id.clone() };
            // Nobody listening is no fault.
            let _ = self.changes.send(Arc::new(ended));
        }
    }

    /// What has ended since. A receiver that lagged looks at everything.
    pub fn changes(&self) -> broadcast::Receiver<Arc<Ended>> {
        self.changes.subscribe()
    }

    /// By what a credential issued at `issued` is refused, if it is.
    pub fn hit(&self, credential: &Revocable<'_>, issued: UnixMillis) -> Option<Hit> {
        self.set.lookup(&self.set.hasher().ids_of(credential), Some(issued))
    }

    /// The latest finite cut-off for a credential: it must be issued after it.
    pub fn latest(&self, credential: &Revocable<'_>) -> Option<UnixMillis> {
        self.set.latest_cutoff(&self.set.hasher().ids_of(credential))
    }

    /// Forgets what both clocks call long expired.
    pub fn purge(&self, server_now: UnixMillis, own_now: UnixMillis) {
        self.set.purge(server_now, own_now);
    }
}

impl Default for Cutoffs {
    fn default() -> Self {
        Self::new()
    }
}
