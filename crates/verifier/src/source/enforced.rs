//! What is in force: held, compiled, served, saved, acknowledged. Whatever the source is, this is what its changes come to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use countersign_api::bundle::{self, SCHEMA, Trust};
use countersign_core::jose::JwkSet;
use countersign_feed::{Ack, Clock, MAX_REFUSED, RefusedPolicy};
use countersign_process::Trusted;
use countersign_telemetry::traces::TARGET;
use parking_lot::Mutex;

use super::{
    held::{Held, KeySets, Offer, Outcome, Unusable},
    jwks::Target,
    saved::{Saved, SavedBundle, ToSave},
};
use crate::{
    app::App,
    slot::{Loaded, PolicySlot, RefusedBundle},
};

/// Everything that does blocking work on policies, in one piece.
pub(crate) struct Enforced {
    pub(crate) app: Arc<App>,
    pub(crate) held: Held,
    pub(crate) sets: KnownSets,
    pub(crate) trusted: Trusted,
    saved: Option<Saved>,
    /// Whether what is saved is ours alone to write.
    owns_disk: bool,
    slots: BTreeMap<String, Arc<PolicySlot>>,
    /// Policies in force whose slot the snapshot doesn't show yet.
    unpublished: Vec<Arc<PolicySlot>>,
    /// Policies that the snapshot still shows and that are gone.
    gone: Vec<Arc<PolicySlot>>,
    /// In force since the last save.
    to_save: BTreeSet<String>,
    /// Good bundles that could not be saved: in force, but a restart would forget them.
    unsaved: BTreeMap<String, String>,
    /// Saved bundles that can't be used as they are, until the source brings others.
    unusable: BTreeMap<String, RefusedBundle>,
    /// Whether anything since the last publishing makes the snapshot out of date.
    dirty: bool,
    /// The highest generation that was ever in force here: never lowered, whatever is withdrawn.
    highest: u64,
}

/// Key sets as far as they are known: fetched in this run, else saved by an earlier one.
#[derive(Default)]
pub(crate) struct KnownSets {
    sets: Mutex<BTreeMap<Target, Option<Arc<JwkSet>>>>,
    saved: Option<Saved>,
}

impl KeySets for KnownSets {
    fn key_set(&self, target: &Target) -> Option<Arc<JwkSet>> {
        let read = || {
            let bytes = self.saved.as_ref()?.key_set(&target.file_name())?;
            JwkSet::parse(&bytes).ok().map(Arc::new)
        };
        self.sets.lock().entry(target.clone()).or_insert_with(read).clone()
    }
}

impl Enforced {
    pub(crate) fn new(app: Arc<App>, saved: Option<Saved>, trusted: Trusted) -> Self {
        Self {
            app,
            held: Held::default(),
            sets: KnownSets { saved: saved.clone(), ..KnownSets::default() },
            trusted,
            saved,
            owns_disk: false,
            slots: BTreeMap::new(),
            unpublished: Vec::new(),
            gone: Vec::new(),
            to_save: BTreeSet::new(),
            unsaved: BTreeMap::new(),
            unusable: BTreeMap::new(),
            dirty: false,
            highest: 0,
        }
    }

    pub(crate) const fn disk(&self) -> Option<&Saved> {
        self.saved.as_ref()
    }

    /// Puts in force what was saved. True when every saved bundle is in force, or known to be refused.
    pub(crate) fn restore(&mut self) -> bool {
        let mut whole = true;
        self.owns_disk = self.saved.as_ref().is_some_and(own);
        for SavedBundle { name, envelope, secrets } in self.saved.iter().flat_map(Saved::bundles).collect::<Vec<_>>() {
            match self.held.restore(&name, &envelope, secrets, &self.sets) {
                Ok(loaded) => self.take(&name, loaded),
                Err(Unusable(Some(refused))) => {
                    self.highest = self.highest.max(refused.held.unwrap_or(0));
                    self.unusable.insert(name, refused);
                }
                Err(Unusable(None)) => whole = false,
            }
        }
        whole
    }

    /// Considers what the source holds under a name now. As cheap with ten thousand policies as with one.
    pub(crate) fn offer(&mut self, name: &str, offer: &Offer) {
        self.consider(name, offer, false);
    }

    /// The same, but does nothing about a bundle whose verify-secrets aren't among what is offered; true for such a one.
    pub(crate) fn offer_unless_secrets_may_come(&mut self, name: &str, offer: &Offer) -> bool {
        self.consider(name, offer, true)
    }

    fn consider(&mut self, name: &str, offer: &Offer, secrets_may_come: bool) -> bool {
        match self.held.consider(name, offer, secrets_may_come, &self.trusted, &self.sets) {
            Outcome::WantsSecrets => return true,
            Outcome::Same(news) => self.dirty |= news,
            Outcome::Changed(loaded) => {
                self.take(name, loaded.map(|loaded| *loaded));
                self.to_save.insert(name.to_owned());
            }
            Outcome::Refused(refused) => {
                self.dirty = true;
                self.app.metrics.bundle_refused(refused.reason);
                tracing::error!(
                    policy = refused.policy,
                    held = refused.held,
                    reason = refused.reason,
                    detail = refused.detail,
                    "a bundle was refused"
                );
            }
        }
        self.dirty |= self.unusable.remove(name).is_some();
        false
    }

    /// The source holds nothing under a name any more.
    pub(crate) fn vanished(&mut self, name: &str) {
        self.dirty = true;
        if self.held.vanish(name) {
            self.withdraw(name);
        } else if let Some(bundle) = self.held.bundle(name).filter(|bundle| bundle.verify.is_some()) {
            tracing::warn!(policy = %bundle.policy, generation = bundle.generation, "a bundle vanished; it is served on");
        }
    }

    /// The source holds nothing but these.
    pub(crate) fn keep_only(&mut self, names: &dyn Fn(&str) -> bool) {
        let before = self.held.refused();
        for name in self.held.keep_only(names) {
            self.withdraw(&name);
        }
        self.unusable.retain(|name, _| names(name));
        self.dirty |= before != self.held.refused();
    }

    /// Another trust: everything is judged anew.
    pub(crate) fn trust(&mut self, trusted: Trusted) {
        self.dirty = true;
        self.trusted = trusted;
        let rejudged = self.held.rejudge(&self.trusted);
        for name in rejudged.withdrawn {
            self.withdraw(&name);
        }
        for (name, offer) in rejudged.offers {
            self.offer(&name, &offer);
        }
    }

    fn withdraw(&mut self, name: &str) {
        self.leave(name);
        if let Some(saved) = &self.saved
            && let Err(error) = saved.forget_bundle(name)
        {
            tracing::error!(file = name, %error, "the saved bundle of a policy that is gone could not be removed");
        }
        self.to_save.remove(name);
        self.unsaved.remove(name);
    }

    /// Puts a policy in its slot, with the revocations that its bundle brings.
    fn take(&mut self, name: &str, loaded: Option<Loaded>) {
        let now = Clock::wall();
        let app = &self.app;
        let _span = self.held.bundle(name).map(|bundle| {
            let (policy, generation) = (&bundle.policy, bundle.generation);
            tracing::info_span!(target: TARGET, "put_in_force", %policy, generation).entered()
        });
        if let Some(bundle) = self.held.bundle(name) {
            self.highest = self.highest.max(bundle.generation);
            for entry in &bundle.revoked {
                app.feed.revocations().apply(entry);
            }
            let what = if loaded.is_some() { "policy in force" } else { "policy withdrawn" };
            tracing::info!(policy = %bundle.policy, generation = bundle.generation, "{what}");
        }
        self.dirty = true;
        match loaded {
            Some(loaded) => {
                let before = self.slots.get(name).map(|slot| &**slot);
                let slot = Arc::new(PolicySlot::new(loaded, before, app.settings.cache_bytes, &app.metrics, now));
                self.slots.insert(name.to_owned(), slot.clone());
                self.unpublished.push(slot);
            }
            None => self.leave(name),
        }
    }

    fn leave(&mut self, name: &str) {
        if let Some(slot) = self.slots.remove(name) {
            self.app.metrics.forget(&slot.policy().name);
            self.gone.push(slot);
        }
    }

    /// Lets requests see what is in force. A policy's slot that came and went in between is not shown.
    pub(crate) fn publish(&mut self) {
        let app = &self.app;
        if !std::mem::take(&mut self.dirty) && app.is_loaded() {
            return;
        }
        let slots = std::mem::take(&mut self.unpublished);
        let gone = std::mem::take(&mut self.gone);
        let in_force: Vec<_> = slots.into_iter().filter(|slot| self.is_in_force(slot)).collect();
        let gone: Vec<_> = gone.iter().map(|slot| slot.policy().name.as_str()).collect();
        let next = app.snapshot.load().with(&gone, in_force, self.refused(), self.unready());
        app.publish(next);
    }

    fn is_in_force(&self, slot: &Arc<PolicySlot>) -> bool {
        let name = bundle::file_name(&slot.policy().name);
        self.slots.get(&name).is_some_and(|present| Arc::ptr_eq(present, slot))
    }

    /// Saves what came into force since the last time, and what couldn't be saved then.
    pub(crate) fn save(&mut self) {
        let Some(saved) = self.saved.clone() else {
            self.to_save.clear();
            return;
        };
        if !self.owns_disk {
            if !own(&saved) {
                return;
            }
            self.owns_disk = true;
            self.adopt(&saved);
        }
        let mut names = std::mem::take(&mut self.to_save);
        names.extend(self.unsaved.keys().cloned());
        names.retain(|name| self.held.bundle(name).is_some());
        let bundles: Vec<ToSave<'_>> = names
            .iter()
            .filter_map(|name| self.held.to_save(name).map(|(envelope, secrets)| ToSave { name, envelope, secrets }))
            .collect();
        let results = saved.keep_bundles(&bundles);
        for (name, result) in names.iter().zip(results) {
            match result {
                Ok(()) => {
                    self.held.saved(name);
                    self.dirty |= self.unsaved.remove(name).is_some();
                }
                Err(error) => {
                    self.dirty = true;
                    if self.unsaved.insert(name.clone(), error.to_string()).is_none() {
                        tracing::error!(file = name, %error, "a bundle in force could not be saved");
                    }
                }
            }
        }
    }

    /// The process before us is gone. What it saved last may be newer than what we began with; then all is saved anew.
    fn adopt(&mut self, saved: &Saved) {
        tracing::info!("the data directory is ours: the process that used it has ended");
        for SavedBundle { name, envelope, secrets } in saved.bundles() {
            let held = self.held.bundle(&name).map(|bundle| bundle.generation);
            let found = bundle::open(&envelope, &Trust::FileSystem, None).ok().map(|bundle| bundle.generation);
            if found > held {
                self.offer(&name, &Offer { content: Ok(envelope), secrets, policy: None });
            }
        }
        self.to_save.extend(self.held.names());
    }

    /// Whether something still waits to be saved.
    pub(crate) fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty() || !self.is_kept()
    }

    /// Whether what is in force is saved, where it is to be: else nothing may be acknowledged.
    const fn is_kept(&self) -> bool {
        self.owns_disk || self.saved.is_none()
    }

    pub(crate) fn take_key_set(&mut self, target: Target, set: Arc<JwkSet>) {
        if self.sets.key_set(&target).as_ref() == Some(&set) {
            return;
        }
        if let Some(saved) = &self.saved
            && let Ok(bytes) = serde_json::to_vec(&*set)
            && let Err(error) = saved.keep_key_set(&target.file_name(), &bytes)
        {
            tracing::warn!(from = %target, %error, "a key set could not be saved");
        }
        tracing::info!(from = %target, keys = set.keys.len(), "a trusted issuer's key set changed");
        let users = self.held.targets().remove(&target).unwrap_or_default();
        self.sets.sets.lock().insert(target, Some(set));
        for name in users {
            match self.held.compile(&name, &self.sets) {
                Some(Ok(loaded)) => self.take(&name, Some(loaded)),
                Some(Err(error)) => {
                    tracing::error!(file = name, %error, "a policy can't be used with its issuer's new keys");
                }
                None => {}
            }
        }
    }

    /// The shortest time for which any policy may go unconfirmed, milliseconds.
    pub(crate) fn shortest_unconfirmed_ms(&self) -> Option<i64> {
        self.slots.values().map(|slot| slot.loaded.unconfirmed_after_ms).min()
    }

    /// An acknowledgement of what is in force and saved, if that can be said. `generations` only where the source's revision doesn't tell them.
    pub(crate) fn ack(&self, of: Acknowledged<'_>) -> Option<Ack> {
        if !self.is_kept() {
            return None;
        }
        let of_bundle = |r: RefusedBundle| RefusedPolicy { policy: r.policy, held: r.held, reason: r.reason.to_owned() };
        let unsaved = self.unsaved.keys().filter_map(|name| {
            let bundle = self.held.bundle(name)?;
            // What a restart would forget isn't held.
            let held = self.held.saved_generation(name);
            Some(RefusedPolicy { policy: bundle.policy.to_string(), held, reason: UNSAVED.into() })
        });
        let mut refused = self.held.refused().into_iter().chain(self.unusable()).map(of_bundle).chain(unsaved);
        let listed: Vec<RefusedPolicy> = refused.by_ref().take(MAX_REFUSED).collect();
        Some(Ack {
            start_id: of.start_id.to_owned(),
            history: of.history.to_owned(),
            revision: of.revision.to_owned(),
            generations: if of.generations { self.held.generations() } else { BTreeMap::new() },
            schemas: (1..=SCHEMA).collect(),
            trusted_bundle_keys: self.trusted.kids.clone(),
            refused: listed,
            refused_more: refused.next().is_some(),
            highest_held: self.highest,
            unknown_keys: Vec::new(),
        })
    }

    fn unusable(&self) -> impl Iterator<Item = RefusedBundle> {
        self.unusable.values().cloned()
    }

    fn refused(&self) -> Vec<RefusedBundle> {
        let unsaved = self.unsaved.iter().filter_map(|(name, error)| {
            let bundle = self.held.bundle(name)?;
            Some(RefusedBundle {
                policy: bundle.policy.to_string(),
                held: Some(bundle.generation),
                reason: UNSAVED,
                detail: format!("in force, but a restart would forget it: {error}"),
            })
        });
        self.held.refused().into_iter().chain(self.unusable()).chain(unsaved).collect()
    }

    fn unready(&self) -> Vec<String> {
        self.held.unready().into_iter().chain(self.unusable.keys().cloned()).collect()
    }
}

fn own(saved: &Saved) -> bool {
    saved.own().unwrap_or_else(|error| {
        tracing::error!(%error, "the data directory can't be locked; nothing is saved or acknowledged");
        false
    })
}

/// The word for a bundle in force that isn't on disk.
const UNSAVED: &str = "unsaved";

/// Up to where, and of what, an acknowledgement speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledged<'a> {
    pub(crate) start_id: &'a str,
    pub(crate) history: &'a str,
    pub(crate) revision: &'a str,
    pub(crate) generations: bool,
}
