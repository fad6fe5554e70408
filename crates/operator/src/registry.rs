//! What the operator's parts know of one another: the one place where they meet.
//!
//! ```text
//!   policy reconciler ── PolicyView, per policy ──▶ declared sessions, minting, foreign key sets, feed writer, metrics
//!   declared sessions ── end(policy, entries) ────▶ policy reconciler ── written into ring and bundle ──▶ Ok
//!   feed follower ───── FeedPresent, revoked kids ─▶ fleet, policy reconciler
//!   foreign key sets ── ForeignKeys, per entry ────▶ policy reconciler
//! ```
//! Views are values behind an `Arc`: whoever reads one sees one state throughout. A view is published *after* what it says is
//! written to the API server, never before; a key that a spec revokes is revoked by what stands in that spec.

mod counts;
mod foreign;
mod present;
mod turn;
mod view;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use countersign_core::{names::PolicyName, revocation::Entry, time::UnixMillis};
use parking_lot::RwLock;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

pub use self::{
    counts::{Counts, EventFate, RotationStep, SessionToken, Tally},
    foreign::ForeignKeys,
    present::FeedPresent,
    turn::{Cutting, Issuing, Turn},
    view::{OwnKeys, PolicyView, RingView},
};
use crate::fleet::Fleet;

/// How many changes a subscriber may lag behind before it is told to look at everything.
const CHANGES: usize = 4096;
/// How many requests may wait for the policy reconciler.
const REQUESTS: usize = 4096;

/// Why a session could not be ended: the process is on its way out. Whoever leads next is asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operator is ending; ask again")]
pub struct Ending;

/// What the policy reconciler is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Look at a policy.
    Look(PolicyName),
    /// Put entries into a policy's ring and bundle.
    End { policy: PolicyName, entries: Vec<Entry>, done: oneshot::Sender<()> },
    /// Write into a policy's record that tokens may be issued up to then; answered once that is done.
    Reserve { policy: PolicyName, until: UnixMillis, done: oneshot::Sender<()> },
    /// The fleet, or what it holds, changed.
    Fleet,
    /// The API server's version went back: what it holds may be older than what was written.
    WentBack,
}

/// The shared state of a leading operator.
#[derive(Debug)]
pub struct Registry {
    policies: RwLock<BTreeMap<PolicyName, Arc<PolicyView>>>,
    changes: broadcast::Sender<PolicyName>,
    requests: mpsc::Sender<Request>,
    revoked_keys: RwLock<BTreeMap<PolicyName, Arc<BTreeSet<String>>>>,
    foreign: RwLock<BTreeMap<PolicyName, BTreeMap<String, Arc<ForeignKeys>>>>,
    feed: watch::Sender<Arc<FeedPresent>>,
    fleet: watch::Sender<Arc<Fleet>>,
    waiting: watch::Sender<usize>,
    counts: Counts,
    turns: RwLock<HashMap<PolicyName, Arc<Turn>>>,
    synced: watch::Sender<bool>,
}

impl Registry {
    /// An empty one, and where the policy reconciler hears what it is asked.
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<Request>) {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let registry = Self {
            policies: RwLock::default(),
            changes: broadcast::channel(CHANGES).0,
            requests,
            revoked_keys: RwLock::default(),
            foreign: RwLock::default(),
            feed: watch::Sender::default(),
            fleet: watch::Sender::default(),
            waiting: watch::Sender::default(),
            counts: Counts::default(),
            turns: RwLock::default(),
            synced: watch::Sender::new(false),
        };
        (Arc::new(registry), inbox)
    }

    /// A policy as it stands.
    pub fn policy(&self, name: &PolicyName) -> Option<Arc<PolicyView>> {
        self.policies.read().get(name).cloned()
    }

    /// Every policy, withdrawn ones that are still kept included.
    pub fn policies(&self) -> Vec<Arc<PolicyView>> {
        self.policies.read().values().cloned().collect()
    }

    /// The names of policies whose view changed, appeared or went. A receiver that lagged looks at [`Registry::policies`].
    pub fn changes(&self) -> broadcast::Receiver<PolicyName> {
        self.changes.subscribe()
    }

    /// Publishes a policy's view.
    pub(crate) fn publish(&self, view: PolicyView) {
        let name = view.name.clone();
        self.policies.write().insert(name.clone(), Arc::new(view));
        // Nobody listening is no fault.
        let _ = self.changes.send(name);
    }

    /// Forgets a policy.
    pub(crate) fn forget(&self, name: &PolicyName) {
        if self.policies.write().remove(name).is_some() {
            let _ = self.changes.send(name.clone());
        }
        self.foreign.write().remove(name);
    }

    /// Durably ends what `entries` match: they are written into the policy's ring Secret, then into its bundle, where they stay
    /// until they expire. Returns once the bundle's ConfigMap that carries them is written; entries that it already carries
    /// cost nothing. `Ok` for a policy of which nothing is kept, too: none of its tokens verifies.
    ///
    /// While the API server is away this waits; bound it with a time-out and ask again.
    pub async fn end(&self, policy: &PolicyName, entries: Vec<Entry>) -> Result<(), Ending> {
        let (done, written) = oneshot::channel();
        let request = Request::End { policy: policy.clone(), entries, done };
        self.requests.send(request).await.map_err(|_| Ending)?;
        written.await.map_err(|_| Ending)
    }

    /// Has it written into a policy's record that tokens may be issued up to `until`. Returns once that is so; an error when
    /// the policy has no keys of its own, or the operator is ending. Bound it with a time-out.
    pub async fn reserve(&self, policy: &PolicyName, until: UnixMillis) -> Result<(), Ending> {
        let (done, written) = oneshot::channel();
        self.ask(Request::Reserve { policy: policy.clone(), until, done }).await?;
        written.await.map_err(|_| Ending)
    }

    /// A policy's turn: who signs tokens or cuts them off takes it first. There is one per name as long as this leader is.
    pub fn turn(&self, policy: &PolicyName) -> Arc<Turn> {
        if let Some(turn) = self.turns.read().get(policy) {
            return turn.clone();
        }
        self.turns.write().entry(policy.clone()).or_default().clone()
    }

    /// Every policy has been looked at, whatever came of it.
    pub(crate) fn set_synced(&self) {
        self.synced.send_replace(true);
    }

    /// Returns once every policy that was there at the start has been looked at: from then on a policy without a view is one
    /// that could not be brought forward, or isn't there.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in this very registry.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Has a policy looked at.
    pub async fn look(&self, policy: &PolicyName) -> Result<(), Ending> {
        self.ask(Request::Look(policy.clone())).await
    }

    pub(crate) async fn ask(&self, request: Request) -> Result<(), Ending> {
        self.requests.send(request).await.map_err(|_| Ending)
    }

    /// Adds names of a policy's own keys that the feed calls revoked. They are final: no name is ever taken back.
    pub async fn keys_revoked(&self, policy: &PolicyName, kids: impl IntoIterator<Item = String>) -> Result<(), Ending> {
        let changed = {
            let mut all = self.revoked_keys.write();
            let held = all.entry(policy.clone()).or_default();
            let before = held.len();
            Arc::make_mut(held).extend(kids);
            held.len() > before
        };
        if changed { self.look(policy).await } else { Ok(()) }
    }

    /// The names of a policy's keys that the feed calls revoked.
    pub fn revoked_keys(&self, policy: &PolicyName) -> Arc<BTreeSet<String>> {
        self.revoked_keys.read().get(policy).cloned().unwrap_or_default()
    }

    /// Sets what was fetched of a trusted issuer's keys, by the name of its entry in the policy.
    pub async fn set_foreign_keys(&self, policy: &PolicyName, entry: &str, keys: ForeignKeys) -> Result<(), Ending> {
        let changed = {
            let mut all = self.foreign.write();
            let held = all.entry(policy.clone()).or_default();
            let same = held.get(entry).is_some_and(|held| **held == keys);
            if !same {
                held.insert(entry.to_owned(), Arc::new(keys));
            }
            !same
        };
        if changed { self.look(policy).await } else { Ok(()) }
    }

    /// Forgets what was fetched for entries that a policy has no more.
    pub(crate) fn retain_foreign_keys(&self, policy: &PolicyName, wanted: impl Fn(&str) -> bool) {
        let mut all = self.foreign.write();
        if let Some(held) = all.get_mut(policy) {
            held.retain(|entry, _| wanted(entry));
            if held.is_empty() {
                all.remove(policy);
            }
        }
    }

    /// What was fetched for a policy, by entry.
    pub(crate) fn foreign_keys(&self, policy: &PolicyName) -> BTreeMap<String, Arc<ForeignKeys>> {
        self.foreign.read().get(policy).cloned().unwrap_or_default()
    }

    /// Says how the feed stands. To be called at least each second, also when nothing changed or it can't be reached; every
    /// 50 ms or so while [`Registry::waiting`] is above zero.
    pub fn set_feed(&self, present: FeedPresent) {
        self.feed.send_replace(Arc::new(present));
    }

    /// How the feed stands.
    pub fn feed(&self) -> watch::Receiver<Arc<FeedPresent>> {
        self.feed.subscribe()
    }

    /// What parts count of themselves.
    pub const fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many policies wait for verifiers: while there are any, leases are worth reading often.
    pub fn waiting(&self) -> watch::Receiver<usize> {
        self.waiting.subscribe()
    }

    pub(crate) fn set_waiting(&self, waiting: usize) {
        self.waiting.send_if_modified(|held| std::mem::replace(held, waiting) != waiting);
    }

    /// Who verifies, and what each has applied.
    pub fn fleet(&self) -> Arc<Fleet> {
        self.fleet.borrow().clone()
    }

    pub(crate) fn set_fleet(&self, fleet: Fleet) {
        self.fleet.send_replace(Arc::new(fleet));
    }
}

#[cfg(test)]
mod tests;
