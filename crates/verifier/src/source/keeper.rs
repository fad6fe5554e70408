//! Keeps the snapshot in step with its source.

use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};

use countersign_api::bundle::SCHEMA;
use countersign_core::jose::JwkSet;
use countersign_feed::{Ack, Clock, Follower, RefusedPolicy};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    directory::{Directory, LOOK_EVERY, Listing, Revision},
    held::{Held, KeySets},
    jwks::{Client, ClientError, FetchRules, Fetched, Followers, Target},
    saved::Saved,
};
use crate::{
    app::{App, UnknownKey},
    slot::{Loaded, PolicySlot, RefusedBundle, Snapshot},
};

/// How long a start waits for key sets that were never fetched.
const FIRST_FETCH: Duration = Duration::from_secs(3);

/// Changes come in bursts: a writer that replaces many files is given this long.
const SETTLE: Duration = Duration::from_millis(10);

/// Why there is nothing to start with.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory can't be read, and nothing is saved.
    #[error("the bundle directory {} cannot be read: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory can't be used.
    #[error("the data directory {} cannot be used: {source}", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Foreign key sets can't be fetched.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// The task that follows the source.
pub(crate) struct Keeper {
    core: Box<Core>,
    path: PathBuf,
    rules: FetchRules,
    followers: Option<Followers>,
    fetched: Option<mpsc::Receiver<Fetched>>,
    unknown_keys: mpsc::Receiver<UnknownKey>,
    follower: Option<Arc<Follower>>,
    start_id: String,
    last_ack: Option<Ack>,
    /// The directory could not be read the last time.
    blind: bool,
}

/// Everything that does blocking work, in one piece so that it can be lent to a thread that may block.
struct Core {
    app: Arc<App>,
    directory: Directory,
    saved: Option<Saved>,
    held: Held,
    sets: KnownSets,
    slots: BTreeMap<String, Arc<PolicySlot>>,
    revision: Option<Revision>,
    trusted_keys: Vec<String>,
    /// Good bundles that could not be saved: in force, but a restart would forget them.
    unsaved: BTreeMap<String, String>,
}

/// Key sets as far as they are known: fetched in this run, else saved by an earlier one.
#[derive(Default)]
struct KnownSets {
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

impl Keeper {
    /// Loads what there is. Binds nothing yet.
    pub(crate) async fn start(
        app: Arc<App>,
        bundles: PathBuf,
        data_dir: Option<PathBuf>,
        rules: FetchRules,
        follower: Option<Arc<Follower>>,
        unknown_keys: mpsc::Receiver<UnknownKey>,
    ) -> Result<Self, SourceError> {
        let saved = match data_dir {
            Some(path) => Some(Saved::open(&path).map_err(|source| SourceError::DataDir { path, source })?),
            None => None,
        };
        // A file of authorities that can't be read is an error now, not when the first policy needs it.
        if rules.ca_file.is_some() {
            Client::new(&rules)?;
        }
        let core = Box::new(Core {
            app,
            directory: Directory::new(bundles.clone()),
            sets: KnownSets { saved: saved.clone(), ..KnownSets::default() },
            saved,
            held: Held::default(),
            slots: BTreeMap::new(),
            revision: None,
            trusted_keys: Vec::new(),
            unsaved: BTreeMap::new(),
        });
        let mut keeper = Self {
            core,
            path: bundles,
            rules,
            followers: None,
            fetched: None,
            unknown_keys,
            follower,
            start_id: random_id(),
            last_ack: None,
            blind: false,
        };
        keeper.blocking(Core::restore).await;
        if let Err(source) = keeper.blocking(Core::reload).await {
            if keeper.core.held.is_empty() {
                return Err(SourceError::Directory { path: keeper.path, source });
            }
            keeper.report_blind(&source);
        }
        keeper.follow_key_sets()?;
        let _ = tokio::time::timeout(FIRST_FETCH, keeper.first_fetches()).await;
        keeper.core.publish();
        keeper.acknowledge();
        Ok(keeper)
    }

    /// Follows the source for ever.
    pub(crate) async fn run(mut self) {
        let (_watcher, mut changes) = self.core.directory.watch();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(()) = changes.recv() => {
                    tokio::time::sleep(SETTLE).await;
                    while changes.try_recv().is_ok() {}
                    self.look().await;
                }
                _ = look.tick() => self.look().await,
                Some(fetched) = next_of(&mut self.fetched) => self.took(fetched).await,
                Some(unknown) = self.unknown_keys.recv() => self.look_again(&unknown),
            }
        }
    }

    async fn look(&mut self) {
        match self.blocking(Core::reload).await {
            Ok(changed) => {
                if std::mem::take(&mut self.blind) {
                    tracing::info!(directory = %self.path.display(), "the bundle directory can be read again");
                }
                if changed {
                    if let Err(error) = self.follow_key_sets() {
                        tracing::error!(%error, "trusted issuers' key sets can't be fetched");
                    }
                    self.core.publish();
                }
                self.acknowledge();
            }
            Err(error) => self.report_blind(&error),
        }
    }

    fn report_blind(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.blind, true) {
            tracing::error!(directory = %self.path.display(), %error, "the bundle directory can't be read; what is held stays in force");
        }
    }

    /// Runs blocking work on a thread for it.
    async fn blocking<R: Send + 'static>(&mut self, work: impl FnOnce(&mut Core) -> R + Send + 'static) -> R {
        let empty = Box::new(Core {
            app: self.core.app.clone(),
            directory: Directory::new(PathBuf::new()),
            saved: None,
            held: Held::default(),
            sets: KnownSets::default(),
            slots: BTreeMap::new(),
            revision: None,
            trusted_keys: Vec::new(),
            unsaved: BTreeMap::new(),
        });
        let mut core = std::mem::replace(&mut self.core, empty);
        let lent = tokio::task::spawn_blocking(move || {
            let result = work(&mut core);
            (core, result)
        });
        match lent.await {
            Ok((core, result)) => {
                self.core = core;
                result
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn follow_key_sets(&mut self) -> Result<(), ClientError> {
        let targets = self.core.held.targets();
        if self.followers.is_none() {
            if targets.is_empty() {
                return Ok(());
            }
            let (followers, fetched) = Followers::new(Client::new(&self.rules)?);
            self.followers = Some(followers);
            self.fetched = Some(fetched);
        }
        if let Some(followers) = &mut self.followers {
            followers.follow(targets.keys());
        }
        Ok(())
    }

    /// Waits until each key set has been tried once, where there is none from before.
    async fn first_fetches(&mut self) {
        let mut missing: Vec<Target> =
            self.core.held.targets().into_keys().filter(|t| self.core.sets.key_set(t).is_none()).collect();
        while !missing.is_empty()
            && let Some(fetched) = next_of(&mut self.fetched).await
        {
            missing.retain(|target| *target != fetched.target);
            self.took(fetched).await;
        }
    }

    async fn took(&mut self, fetched: Fetched) {
        let Fetched { target, result } = fetched;
        let metrics = self.core.app.metrics.clone();
        match result {
            Ok(set) => {
                metrics.jwks_fetched("ok");
                if self.blocking(move |core| core.take_key_set(target, set)).await {
                    self.core.publish();
                }
            }
            Err(error) => {
                metrics.jwks_fetched(error.reason());
                let known = self.core.sets.key_set(&target).is_some();
                tracing::warn!(from = %target, %error, last_good_kept = known, "a trusted issuer's key set was not fetched");
            }
        }
    }

    fn look_again(&self, unknown: &UnknownKey) {
        let target = self.core.held.target_of(&unknown.policy, &unknown.trusted_issuer);
        if let (Some(followers), Some(target)) = (&self.followers, target) {
            followers.look_again(&target);
        }
    }

    /// Says what is in force and saved, after it is.
    fn acknowledge(&mut self) {
        let Some(ack) = self.core.ack(&self.start_id) else { return };
        if self.last_ack.as_ref() != Some(&ack) {
            if let Some(follower) = &self.follower {
                follower.set_ack(Some(ack.clone()));
            }
            self.last_ack = Some(ack);
        }
    }
}

impl Core {
    fn restore(&mut self) {
        for saved in self.saved.iter().flat_map(Saved::bundles).collect::<Vec<_>>() {
            let loaded = self.held.restore(&saved.name, &saved.envelope, saved.secrets, &self.sets);
            self.take(&saved.name, loaded);
        }
    }

    /// Reads the source; true when something in force, or a refusal, changed.
    fn reload(&mut self) -> io::Result<bool> {
        let Listing { revision, trust, trusted_keys, bundles, trust_digest } = self.directory.read()?;
        let before = self.held.refused();
        let update = self.held.update(&bundles, &trust, trust_digest, &self.sets);
        for refused in &update.refused {
            self.app.metrics.bundle_refused(refused.reason);
            tracing::error!(
                policy = refused.policy,
                held = refused.held,
                reason = refused.reason,
                detail = refused.detail,
                "a bundle was refused"
            );
        }
        let mut changed = !update.changed.is_empty() || before != self.held.refused();
        for (name, loaded) in update.changed {
            self.take(&name, loaded);
            self.save(&name);
        }
        for name in self.unsaved.keys().cloned().collect::<Vec<_>>() {
            self.save(&name);
            changed = true;
        }
        self.revision = Some(revision);
        self.trusted_keys = trusted_keys;
        if changed || !self.app.is_loaded() {
            // Confirmed means that the snapshot says it, so the snapshot comes first.
            self.publish();
        }
        self.app.confirm();
        Ok(changed)
    }

    /// Puts a policy in its slot, with the revocations that its bundle brings.
    fn take(&mut self, name: &str, loaded: Option<Loaded>) {
        let now = Clock::wall();
        let app = &self.app;
        if let Some(bundle) = self.held.bundle(name) {
            for entry in &bundle.revoked {
                app.feed.revocations().apply(entry);
            }
            let what = if loaded.is_some() { "policy in force" } else { "policy withdrawn" };
            tracing::info!(policy = %bundle.policy, generation = bundle.generation, "{what}");
        }
        match loaded {
            Some(loaded) => {
                let before = self.slots.get(name).map(|slot| &**slot);
                let slot = PolicySlot::new(loaded, before, app.settings.cache_bytes, &app.metrics, now);
                self.slots.insert(name.to_owned(), Arc::new(slot));
            }
            None => {
                if let Some(slot) = self.slots.remove(name) {
                    app.metrics.forget(&slot.policy().name);
                }
            }
        }
    }

    fn save(&mut self, name: &str) {
        let (Some(saved), Some((envelope, secrets))) = (&self.saved, self.held.to_save(name)) else { return };
        match saved.keep_bundle(name, envelope, secrets) {
            Ok(()) => {
                self.unsaved.remove(name);
            }
            Err(error) => {
                if self.unsaved.insert(name.to_owned(), error.to_string()).is_none() {
                    tracing::error!(file = name, %error, "a bundle in force could not be saved");
                }
            }
        }
    }

    fn take_key_set(&mut self, target: Target, set: Arc<JwkSet>) -> bool {
        if self.sets.key_set(&target).as_ref() == Some(&set) {
            return false;
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
        true
    }

    fn publish(&self) {
        let refused = self.held.refused().into_iter().chain(self.unsaved());
        self.app.publish(Snapshot::new(self.slots.values().cloned(), refused.collect(), self.held.unready()));
    }

    fn unsaved(&self) -> impl Iterator<Item = RefusedBundle> {
        self.unsaved.iter().filter_map(|(name, error)| {
            let bundle = self.held.bundle(name)?;
            Some(RefusedBundle {
                policy: bundle.policy.to_string(),
                held: Some(bundle.generation),
                reason: "unsaved",
                detail: format!("in force, but a restart would forget it: {error}"),
            })
        })
    }

    fn ack(&self, start_id: &str) -> Option<Ack> {
        let revision = self.revision.clone()?;
        let refused = self.held.refused().into_iter().chain(self.unsaved());
        Some(Ack {
            start_id: start_id.to_owned(),
            history: revision.history,
            revision: revision.revision,
            generations: self.held.generations(),
            schemas: (1..=SCHEMA).collect(),
            trusted_bundle_keys: self.trusted_keys.clone(),
            unknown_keys: Vec::new(),
            refused: refused
                .map(|r| RefusedPolicy { policy: r.policy, held: r.held, reason: r.reason.to_owned() })
                .collect(),
        })
    }
}

async fn next_of(fetched: &mut Option<mpsc::Receiver<Fetched>>) -> Option<Fetched> {
    match fetched {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

fn random_id() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's randomness works");
    hex::encode(bytes)
}
