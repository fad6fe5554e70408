//! The operator's part in `dev`: keeps the rings, writes the bundles, hands the issuer what it may sign with.
//!
//! One task, one direction: what is declared, what is stored and what verifiers acknowledge go in; [`plan()`] decides; a ring
//! is stored before anything is done with it; then the bundle is written and the issuer told. A policy that fails stalls no
//! other.

mod managed;
mod shared;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use countersign_api::bundle::RingName;
use countersign_core::{
    keys::SigningKey,
    names::PolicyName,
    revocation::{Entry, Kind},
    ring::{self, Action, plan},
    time::UnixMillis,
};
use countersign_feed::{Clock, FeedState, Publisher};
use countersign_issuer::{Fleet, IssuerPolicy, Lives, Policies, Verifier, erase_people};
use countersign_store::{NewRevocation, Store, StoreError, Tenure};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::managed::{HeldRing, Known, Managed};
pub(crate) use self::shared::Shared;
use super::{
    bundles::{Bundles, BundlesError},
    declared::{Declaration, Declared, Withdrawn},
};

/// How often acknowledgements are looked at while a key waits for them.
const WHILE_WAITING: Duration = Duration::from_millis(25);
/// How often otherwise.
const IDLE: Duration = Duration::from_secs(1);
/// How many plans in a row may each find something to do.
const MAX_PLANS: usize = 16;
/// How long a first publication of the policy's own revocations may take.
const PUBLISH_WITHIN: Duration = Duration::from_secs(1);

/// Keeper of rings, writer of bundles.
pub(crate) struct Operator {
    bundles: Bundles,
    publisher: Arc<Publisher>,
    feed: Arc<FeedState>,
    fleet: Fleet,
    policies: Policies,
    shared: Arc<Shared>,
    store: Arc<Store>,
    managed: BTreeMap<PolicyName, Managed>,
}

/// Why a policy could not be brought forward now. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OperatorError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The bundles.
    #[error(transparent)]
    Bundles(#[from] BundlesError),
    /// A ring.
    #[error(transparent)]
    Ring(#[from] ring::ApplyError),
    /// A policy that was accepted makes no bundle, or one that doesn't compile.
    #[error("{0}")]
    Bundle(String),
}

impl Operator {
    /// An operator that manages nothing yet.
    pub(crate) fn new(
        bundles: Bundles,
        publisher: Arc<Publisher>,
        feed: Arc<FeedState>,
        fleet: Fleet,
        policies: Policies,
        shared: Arc<Shared>,
        store: Arc<Store>,
    ) -> Self {
        Self { bundles, publisher, feed, fleet, policies, shared, store, managed: BTreeMap::new() }
    }

    /// Works until `stop`. `settled` turns true when every policy that has an issuer can sign.
    pub(crate) async fn run(
        mut self,
        mut declarations: watch::Receiver<Arc<Declaration>>,
        settled: watch::Sender<bool>,
        stop: CancellationToken,
    ) {
        loop {
            let declaration = declarations.borrow_and_update().clone();
            self.adopt(&declaration).await;
            let wait = self.step(&declaration).await;
            if self.managed.len() == declaration.policies.len() && self.managed.values().all(Managed::signs) {
                settled.send_if_modified(|is| !std::mem::replace(is, true));
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = declarations.changed() => if changed.is_err() { return },
                // Keys may have been revoked.
                () = self.shared.woken() => self.managed.values_mut().for_each(|managed| managed.revoked = None),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Takes over what is declared now, and withdraws what isn't any more.
    async fn adopt(&mut self, declaration: &Declaration) {
        for (name, declared) in &declaration.policies {
            let known = self.managed.get(name).is_some_and(|m| Arc::ptr_eq(&m.declared, declared));
            if known {
                continue;
            }
            match self.manage(name, declared).await {
                Ok(managed) => {
                    self.managed.insert(name.clone(), managed);
                }
                Err(error) => {
                    tracing::error!(policy = %name, %error, "the policy can't be taken over now; it is tried again");
                }
            }
        }
        let gone: Vec<PolicyName> =
            self.managed.keys().filter(|n| !declaration.policies.contains_key(*n)).cloned().collect();
        for name in gone {
            self.managed.remove(&name);
            tracing::info!(policy = %name, "the policy is withdrawn");
        }
        for (name, withdrawn) in &declaration.withdrawn {
            if let Err(error) = self.withdraw(name, withdrawn).await {
                tracing::error!(policy = %name, %error, "the policy can't be withdrawn now; it is tried again");
            }
        }
    }

    async fn withdraw(&mut self, name: &PolicyName, withdrawn: &Withdrawn) -> Result<(), OperatorError> {
        let Some(present) = self.bundles.present(name) else { return Ok(()) };
        if Clock::wall() < withdrawn.erase_after {
            if present.verify.is_some() {
                self.bundles.publish(managed::tombstone(name, &withdrawn.uid), None).await?;
            }
            return Ok(());
        }
        let (uid, generation) = (withdrawn.uid.as_str(), present.generation);
        let tenure = Tenure { policy: name, uid, origin: None, generation };
        self.store.withdraw_people(&tenure, withdrawn.erase_after).await?;
        // The bundle goes after them, so that a process that ends on the way begins again.
        if erase_people(&self.store, name).await? {
            self.bundles.erase(name)?;
            self.store.delete_rings(name).await?;
        }
        Ok(())
    }

    /// A policy's state, from the store and what lies in the bundles' directory.
    async fn manage(&mut self, name: &PolicyName, declared: &Arc<Declared>) -> Result<Managed, OperatorError> {
        let mut rings = BTreeMap::new();
        if declared.effective.issuer.is_some() {
            for ring in RingName::ALL {
                let stored = self.store.ring(name, ring).await?;
                rings.insert(ring, HeldRing::new(stored));
            }
        }
        // Until the new version is in force, the issuer goes on with the one before.
        let (since, compiled, view) = match self.managed.get(name) {
            Some(before) => (before.since.clone(), before.compiled.clone(), before.view.clone()),
            None => (self.bundles.present(name).map(managed::kids_of).unwrap_or_default(), None, None),
        };
        let lives = Lives::kept(&self.store, name, &declared.effective, declared.opaque_end, Clock::wall()).await?;
        self.publish_declared_revocations(name, declared).await?;
        self.shared.heed_annotations(name, declared).await?;
        Ok(Managed { declared: declared.clone(), rings, since, lives, revoked: None, dirty: true, compiled, view })
    }

    /// Keys that the policy calls revoked become rows like any revocation: final, and in the feed.
    async fn publish_declared_revocations(&self, name: &PolicyName, declared: &Declared) -> Result<(), OperatorError> {
        let known: BTreeSet<String> = self.store.revoked_keys(name).await?.into_iter().map(|r| r.entry.id).collect();
        let rows: Vec<NewRevocation> = declared
            .effective
            .keys
            .revoked
            .iter()
            .filter(|key| !known.contains(&key.kid))
            .map(|key| NewRevocation { entry: key_entry(name, &key.kid, &key.reason), subject: None, access_only: false })
            .collect();
        if !rows.is_empty() {
            let appended = self.store.revoke(&rows, Clock::wall(), |_| usize::MAX).await?;
            // Pending: the sweep has it.
            let _ = self.publisher.publish(appended.ids, PUBLISH_WITHIN).await;
        }
        Ok(())
    }

    /// Brings every policy as far as it goes now. Says how long to wait before the next step.
    async fn step(&mut self, declaration: &Declaration) -> Duration {
        let verifiers = self.fleet.verifiers().await.map_err(|error| tracing::debug!(%error, "no acknowledgements")).ok();
        let mut wait = IDLE;
        let names: Vec<PolicyName> = self.managed.keys().cloned().collect();
        for name in names {
            let Some(mut managed) = self.managed.remove(&name) else { continue };
            match self.reconcile(&name, &mut managed, verifiers.as_deref()).await {
                Ok(next) => wait = wait.min(next),
                Err(error) => {
                    tracing::error!(policy = %name, %error, "the policy stays as it is for now");
                    // What is in memory may not be what is stored.
                    managed.reload(&self.store, &name).await;
                }
            }
            self.managed.insert(name, managed);
        }
        if let Err(error) = self.bundles.commit().await {
            tracing::error!(%error, "the bundles' revision can't be written");
        }
        self.hand_over(declaration);
        wait
    }

    async fn reconcile(
        &mut self,
        name: &PolicyName,
        managed: &mut Managed,
        verifiers: Option<&[Verifier]>,
    ) -> Result<Duration, OperatorError> {
        let revoked = match &managed.revoked {
            Some(revoked) => revoked.clone(),
            None => self.revoked_kids(name, managed).await?,
        };
        managed.revoked = Some(revoked.clone());
        let server_now = self.feed.server_now();
        let known = Known { name, verifiers: verifiers.unwrap_or_default(), revoked: &revoked, server_now };
        for ring in RingName::ALL {
            self.turn(managed, ring, &known).await?;
        }
        if managed.dirty {
            self.publish(name, managed).await?;
        }
        managed.look(&known, |ring| self.shared.requested(name, ring), Clock::wall())
    }

    async fn revoked_kids(&self, name: &PolicyName, managed: &Managed) -> Result<Arc<BTreeSet<String>>, OperatorError> {
        if managed.rings.is_empty() {
            return Ok(Arc::default());
        }
        let own = managed.declared.effective.issuer.as_deref();
        let entries = self.store.revoked_keys(name).await?.into_iter().map(|r| r.entry);
        Ok(entries
            .filter(|e| e.issuer.is_none() || e.issuer.as_deref() == own)
            .map(|e| e.id)
            .collect::<BTreeSet<_>>()
            .into())
    }

    /// Plans and carries out until there is nothing more to do about a ring now.
    async fn turn(&mut self, managed: &mut Managed, ring: RingName, known: &Known<'_>) -> Result<(), OperatorError> {
        let name = known.name;
        for _ in 0..MAX_PLANS {
            let asked = self.shared.requested(name, ring);
            let spec = managed.spec(ring, known.revoked, asked);
            let acks = managed.acks(ring, known);
            let Some(held) = managed.rings.get_mut(&ring) else { return Ok(()) };
            let now = Clock::wall();
            let actions = plan(&held.ring, &spec, &acks, now);
            if actions.is_empty() {
                return Ok(());
            }
            let next = tokio::task::block_in_place(|| held.ring.apply(&actions, now, SigningKey::generate))?;
            self.store.save_ring(name, ring, &next, held.stored).await?;
            report(name, ring, &actions);
            *held = HeldRing::new(Some(next));
            managed.dirty = true;
            let published = actions.iter().any(|a| matches!(a, Action::Create { .. } | Action::Revoke { .. }));
            if published {
                // The key has to be in a bundle before anyone can acknowledge it.
                self.publish(name, managed).await?;
            }
        }
        Ok(())
    }

    async fn publish(&mut self, name: &PolicyName, managed: &mut Managed) -> Result<(), OperatorError> {
        let declared = managed.declared.clone();
        let [access, api_key] = RingName::ALL.map(|ring| managed.public_keys(ring));
        let revoked = declared.effective.keys.revoked.iter().map(|key| key_entry(name, &key.kid, &key.reason));
        let (bundle, secrets) = declared.bundle(name, &access, &api_key, revoked.collect());
        let kids: Vec<String> = managed::kids_of(&bundle).into_keys().collect();
        let (generation, written) = self.bundles.publish(bundle, secrets.as_ref()).await?;
        managed.dirty = false;
        managed.since.retain(|kid, _| kids.contains(kid));
        for kid in kids {
            managed.since.entry(kid).or_insert(generation);
        }
        if let Some(bundle) = self.bundles.present(name) {
            managed.compile(bundle, secrets.as_ref())?;
        }
        if written {
            tracing::debug!(policy = %name, generation, "bundle written");
        }
        Ok(())
    }

    fn hand_over(&self, declaration: &Declaration) {
        let views: BTreeMap<PolicyName, Arc<IssuerPolicy>> =
            self.managed.iter().filter_map(|(name, m)| Some((name.clone(), m.view.clone()?))).collect();
        self.policies.store(views, declaration.default.clone());
    }
}

fn key_entry(policy: &PolicyName, kid: &str, reason: &str) -> Entry {
    Entry {
        policy: policy.clone(),
        kind: Kind::Key,
        issuer: None,
        id: kid.to_owned(),
        cutoff: UnixMillis::FOREVER,
        expires: UnixMillis::FOREVER,
        version: 0,
        reason: reason.to_owned(),
        source: "policy".into(),
    }
}

fn report(policy: &PolicyName, ring: RingName, actions: &[Action]) {
    let ring = ring.word();
    for action in actions {
        match action {
            Action::Create { cause, algorithm } => tracing::info!(%policy, ring, ?cause, %algorithm, "a key is made"),
            Action::Activate { kid, unacknowledged: false, .. } => tracing::info!(%policy, ring, kid, "the key signs"),
            Action::Activate { kid, .. } => {
                tracing::warn!(%policy, ring, kid, "the key signs although not every verifier has acknowledged it");
            }
            Action::Revoke { kid } => tracing::warn!(%policy, ring, kid, "the key is revoked"),
            Action::Remove { kid } => tracing::info!(%policy, ring, kid, "the key is gone"),
            _ => {}
        }
    }
}
