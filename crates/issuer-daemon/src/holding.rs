//! Keeps an issuer's policies true: what the watches show goes in, [`Policies`] and an acknowledgement come out.
//!
//! One task, one direction. A policy whose parts don't go together yet, or that isn't trusted, stays as it was; only its
//! tombstone ends it. What a bundle calls revoked is written into the store before the policy is put in force.

mod lapsing;
mod told;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use countersign_api::bundle::Bundle;
use countersign_core::{
    names::PolicyName,
    revocation::{Entry, EntryKey},
};
use countersign_feed::{Clock, Follower, Publisher};
use countersign_issuer::{Confirmation, Fleet, Lives, Policies};
use countersign_store::{NewRevocation, Store, StoreError};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

pub(crate) use self::told::Told;
use self::world::{Held, World};
use crate::{
    assembling::{self, FleetSeen, Lying, Opened, Refused, Stands},
    people,
    trust::Trusted,
    watching::{Change, missing},
};

/// How often verifiers are looked at, and what failed is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long publishing what a bundle calls revoked may take before the sweep is left to it.
const PUBLISH_WITHIN: Duration = Duration::from_secs(1);
/// How many changes are taken in before anything is put together.
const BATCH: usize = 256;

/// What the task works with.
pub(crate) struct Holder {
    pub(crate) store: Arc<Store>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) follower: Arc<Follower>,
    pub(crate) fleet: Fleet,
    pub(crate) policies: Policies,
    pub(crate) default: Option<PolicyName>,
    pub(crate) trusted: watch::Receiver<Arc<Trusted>>,
    pub(crate) start_id: String,
    pub(crate) told: Arc<Told>,
    /// When the API server last confirmed what is held: every policy's keys sign by that.
    pub(crate) confirmed: Confirmation,
    /// The watches are told here within how long that has to be, milliseconds.
    pub(crate) within_ms: watch::Sender<i64>,
}

/// What became of a policy.
enum Outcome {
    Held(Box<Held>),
    Withdrawn(PolicyName),
}

/// Why it could not be looked at now.
enum Failed {
    Refused(Refused),
    Store(StoreError),
}

impl From<Refused> for Failed {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Holder {
    /// Works until `stop`.
    pub(crate) async fn run(mut self, mut changes: mpsc::Receiver<Change>, stop: CancellationToken) {
        let mut world = World::default();
        let mut look = tokio::time::interval(LOOK_EVERY);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                taken = changes.recv_many(&mut batch, BATCH) => {
                    if taken == 0 { return }
                    batch.drain(..).for_each(|change| world.take(change));
                }
                trust = self.trusted.changed() => {
                    if trust.is_err() { return }
                    world.dirty.extend(world.lying.keys().cloned());
                }
                _ = look.tick() => self.look_at_verifiers(&mut world).await,
            }
            if world.is_listed() {
                self.bring_forward(&mut world).await;
            }
        }
    }

    /// Those that live, and what each holds. A view that shows it differently is made anew.
    async fn look_at_verifiers(&self, world: &mut World) {
        // What they wait for is in the store, and no watch tells of it.
        let waiting =
            world.refused.iter().filter(|(_, why)| matches!(why, Refused::People(_))).map(|(hash, _)| hash.clone());
        world.dirty.extend(waiting);
        match self.fleet.verifiers().await {
            Ok(verifiers) => {
                world.verifiers = verifiers;
                // What every one of them held stays held: only the others are counted again, some at a time.
                let waits =
                    |name: &PolicyName| world.held.get(name).is_some_and(|held| !FleetSeen::is_complete(&held.policy));
                let again = world.names.iter().filter(|(_, name)| waits(name)).map(|(hash, _)| hash.clone());
                world.dirty.extend(again.take(BATCH).collect::<Vec<_>>());
            }
            Err(error) => tracing::debug!(%error, "no acknowledgements"),
        }
    }

    async fn bring_forward(&self, world: &mut World) {
        let trusted = self.trusted.borrow().clone();
        let dirty = std::mem::take(&mut world.dirty);
        let (mut changed, mut unread) = (false, BTreeSet::new());
        for hash in dirty {
            tokio::task::yield_now().await;
            let name = format!("b-{hash}");
            match self.look(&name, &hash, world, &trusted).await {
                Ok(Some(Outcome::Held(held))) => {
                    world.refused.remove(&hash);
                    world.names.insert(hash, held.policy.name.clone());
                    world.held.insert(held.policy.name.clone(), *held);
                    changed = true;
                }
                Ok(Some(Outcome::Withdrawn(policy))) => {
                    world.refused.remove(&hash);
                    world.names.remove(&hash);
                    if world.held.remove(&policy).is_some() {
                        tracing::info!(%policy, "the policy is withdrawn");
                        changed = true;
                    }
                }
                Ok(None) => drop(world.refused.remove(&hash)),
                Err(Failed::Refused(why)) => {
                    if world.refused.get(&hash) != Some(&why) {
                        tracing::warn!(object = name, %why, "a policy stays as it was");
                    }
                    world.refused.insert(hash, why);
                }
                Err(Failed::Store(error)) => {
                    tracing::error!(object = name, %error, "a policy stays as it was until the store can be reached");
                    unread.insert(hash);
                }
            }
        }
        world.dirty.extend(unread);
        if let Some(at) = world.confirmed() {
            self.confirmed.note(at);
        }
        if changed {
            let within_ms = world.within_ms();
            self.within_ms.send_if_modified(|held| std::mem::replace(held, within_ms) != within_ms);
            let views = world.held.iter().map(|(name, held)| (name.clone(), held.policy.clone())).collect();
            let default = self.default.clone().filter(|name| world.held.contains_key(name));
            self.policies.store(views, default);
            let effective = world.held.iter().map(|(name, held)| (name.clone(), held.opened.effective.clone()));
            self.told.state.write().effective = effective.collect();
        }
        self.follower.set_ack(world.ack(&self.start_id, &trusted));
        self.tell(world);
    }

    /// Looks at what lies under one policy's names. `None`: nothing of an issuer.
    async fn look(
        &self,
        object: &str,
        hash: &str,
        world: &mut World,
        trusted: &Trusted,
    ) -> Result<Option<Outcome>, Failed> {
        let is_held = world.names.contains_key(hash);
        let nothing = Lying::default();
        let lying = world.lying.get(hash).unwrap_or(&nothing);
        if !is_held && (lying.bundle.is_none() || lying.section.is_none() && lying.ring.is_none()) {
            // A policy that only verifies others' tokens has neither rings nor a section. One that is held ends by its tombstone
            // alone.
            return Ok(None);
        }
        let bundle = match assembling::stands(object, lying, trusted)? {
            Stands::Withdrawn(tombstone) => return self.withdraw(&tombstone, lying, world, trusted).await.map(Some),
            Stands::Lives(bundle) => bundle,
        };
        if bundle.verify.as_ref().is_some_and(|verify| verify.issuer.is_none()) {
            // Another policy under this name, that issues nothing.
            return Ok(is_held.then(|| Outcome::Withdrawn(bundle.policy.clone())));
        }
        let max_entries = world.held.get(&bundle.policy).map_or(usize::MAX, |held| held.policy.max_entries);
        // Before anything else is asked of the policy: what is revoked is, whatever is wrong with the rest.
        self.take_over_revocations(&bundle, max_entries, &mut world.revoked).await?;
        let before = world.held.get(&bundle.policy);
        if let Some(before) = before.filter(|before| bundle.generation < before.generation) {
            let why = format!("the bundle has generation {}, older than {}", bundle.generation, before.generation);
            return Err(Refused::Bundle(why).into());
        }
        let opened = Arc::new(assembling::open(bundle, lying, trusted)?);
        // Whoever isn't given the people that lie under its name serves none.
        let claimed = people::claim(&self.store, &opened.kept.record, &opened.bundle, lying.ring.as_ref()).await?;
        claimed.map_err(Refused::People)?;
        let lives = match before.filter(|before| before.opened.section == opened.section) {
            Some(before) => before.lives,
            None => Lives::kept(&self.store, &opened.name, &opened.effective, opened.opaque_end(), Clock::wall()).await?,
        };
        let since = since(&opened, before.filter(|before| before.history == world.history));
        let fleet = FleetSeen { verifiers: &world.verifiers, history: &world.history, since: &since };
        let policy = opened.policy(lives, before.map(|before| &*before.policy), &fleet, &self.confirmed, Clock::wall())?;
        let generation = opened.bundle.generation;
        Ok(Some(Outcome::Held(Box::new(Held {
            policy: Arc::new(policy),
            generation,
            lives,
            opened,
            since,
            history: world.history.clone(),
        }))))
    }

    /// Ends a policy by its tombstone, unless that is an earlier one than what is known.
    async fn withdraw(
        &self,
        tombstone: &Bundle,
        lying: &Lying,
        world: &World,
        trusted: &Trusted,
    ) -> Result<Outcome, Failed> {
        let (name, generation) = (&tombstone.policy, tombstone.generation);
        let is_older = world.held.get(name).is_some_and(|held| generation < held.generation);
        if is_older || !people::withdraw(&self.store, tombstone, lying.ring.as_ref(), trusted).await? {
            return Err(
                Refused::Bundle(format!("the tombstone has generation {generation}, older than what is known")).into()
            );
        }
        Ok(Outcome::Withdrawn(name.clone()))
    }

    /// What the bundle calls revoked becomes rows like any revocation, once in this process' life; the sweep publishes what
    /// can't be at once.
    async fn take_over_revocations(
        &self,
        bundle: &Bundle,
        max_entries: usize,
        revoked: &mut BTreeMap<PolicyName, BTreeMap<EntryKey, i64>>,
    ) -> Result<(), StoreError> {
        let known = revoked.entry(bundle.policy.clone()).or_default();
        let strictness = |entry: &Entry| entry.cutoff.0.max(entry.expires.0);
        let is_news = |entry: &&Entry| known.get(&entry.key()).is_none_or(|held| *held < strictness(entry));
        let news: Vec<NewRevocation> = bundle
            .revoked
            .iter()
            .filter(is_news)
            .map(|entry| NewRevocation { entry: entry.clone(), subject: None, access_only: false })
            .collect();
        if !news.is_empty() {
            let appended = self.store.revoke(&news, Clock::wall(), |_| max_entries).await?;
            let publisher = self.publisher.clone();
            // Nobody waits for the feed here: other policies' news comes after this.
            tokio::spawn(async move { publisher.publish(appended.ids, PUBLISH_WITHIN).await });
        }
        // What the bundle names no more has expired.
        *known = bundle.revoked.iter().map(|entry| (entry.key(), strictness(entry))).collect();
        Ok(())
    }

    fn tell(&self, world: &World) {
        let mut state = self.told.state.write();
        let mut problems = missing(&world.listed);
        let mut broken = BTreeSet::new();
        for (hash, why) in &world.refused {
            let policy = world.names.get(hash).cloned();
            let what = policy.as_ref().map_or_else(|| format!("b-{hash}"), ToString::to_string);
            problems.push(format!("{what}: {why}"));
            broken.extend(policy);
        }
        let lapsed = world.lapsed();
        if let Some(problem) = lapsing::told(&lapsed, self.confirmed.age_ms()) {
            if state.lapsed.is_empty() {
                tracing::error!("{problem}");
            }
            problems.push(problem);
        } else if !state.lapsed.is_empty() {
            tracing::info!("the API server confirms what is held again: tokens are signed");
        }
        state.lapsed = lapsed;
        state.problems = problems;
        state.broken = broken;
        if !state.settled && world.is_listed() && world.dirty.is_empty() {
            state.settled = true;
            self.told.settle();
        }
    }
}

/// From which version on the bundle has held each key: what was held before stays, what is new counts from this write.
fn since(opened: &Opened, before: Option<&Held>) -> BTreeMap<String, u64> {
    let keys = opened.bundle.verify.iter().flat_map(|verify| &verify.keys);
    let kids = keys.filter_map(|key| key.jwk.kid.clone());
    kids.map(|kid| {
        let held = before.and_then(|before| before.since.get(&kid).copied());
        (kid, held.unwrap_or(opened.version))
    })
    .collect()
}

#[cfg(test)]
mod tests;
