//! Follows a directory.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use countersign_core::names::PolicyName;
use countersign_process::Trusted;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        enforced::{Acknowledged, Enforced},
        held::KeySets as _,
        jwks::{Client, ClientError, FetchRules, Fetched, Followers, Target},
        keeper::{Acknowledging, Post, Shared, SourceError},
        saved::Saved,
        status::KeySetProblem,
    },
    Directory, LOOK_EVERY, Listing, Revision,
};
use crate::app::{App, UnknownKey};

/// How long a start waits for key sets that were never fetched.
const FIRST_FETCH: Duration = Duration::from_secs(3);

/// Changes come in bursts: a writer that replaces many files is given this long.
const SETTLE: Duration = Duration::from_millis(10);

/// The task that follows a directory.
pub(crate) struct DirectoryKeeper {
    app: Arc<App>,
    enforced: Shared,
    directory: Option<Directory>,
    path: PathBuf,
    revision: Option<Revision>,
    rules: FetchRules,
    followers: Option<Followers>,
    fetched: Option<mpsc::Receiver<Fetched>>,
    unknown_keys: mpsc::Receiver<UnknownKey>,
    acks: Acknowledging,
}

impl DirectoryKeeper {
    /// Loads what there is.
    pub(in super::super) async fn start(
        path: PathBuf,
        disk: Option<Saved>,
        rules: FetchRules,
        post: Post,
    ) -> Result<Self, SourceError> {
        // A file of authorities that can't be read is an error now, not when the first policy needs it.
        if rules.ca_file.is_some() {
            Client::new(&rules)?;
        }
        let Post { app, follower, unknown_keys } = post;
        app.source.is_directory();
        let mut keeper = Self {
            enforced: Shared::new(Enforced::new(app.clone(), disk, Trusted::in_file_system())),
            app,
            directory: Some(Directory::new(path.clone())),
            path,
            revision: None,
            rules,
            followers: None,
            fetched: None,
            unknown_keys,
            acks: Acknowledging::new(follower),
        };
        keeper.enforced.blocking(Enforced::restore).await;
        if let Err(source) = keeper.reload().await {
            if keeper.enforced.with(|enforced| enforced.held.is_empty()) {
                return Err(SourceError::Directory { path: keeper.path, source });
            }
            keeper.report_blind(&source);
        }
        keeper.follow_key_sets()?;
        let _ = tokio::time::timeout(FIRST_FETCH, keeper.first_fetches()).await;
        keeper.enforced.blocking(Enforced::publish).await;
        keeper.acknowledge();
        Ok(keeper)
    }

    /// Follows the source until told to stop.
    pub(in super::super) async fn run(mut self, stop: CancellationToken) {
        let (_watcher, mut changes) = super::watch(&self.path);
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
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
        self.enforced.blocking(Enforced::save).await;
    }

    async fn look(&mut self) {
        match self.reload().await {
            Ok(()) => {
                if self.app.source.mended() {
                    tracing::info!(directory = %self.path.display(), "the bundle directory can be read again");
                }
                if let Err(error) = self.follow_key_sets() {
                    tracing::error!(%error, "trusted issuers' key sets can't be fetched");
                }
                self.acknowledge();
            }
            Err(error) => self.report_blind(&error),
        }
    }

    fn report_blind(&self, error: &io::Error) {
        if self.app.source.troubled(&error.to_string()) {
            tracing::error!(directory = %self.path.display(), %error, "the bundle directory can't be read; what is held stays in force");
        }
    }

    /// Reads the directory, and puts in force what it holds.
    async fn reload(&mut self) -> io::Result<()> {
        let mut directory = self.directory.take().unwrap_or_else(|| Directory::new(self.path.clone()));
        let (directory, listing) = self
            .enforced
            .blocking(move |enforced| {
                let listing = directory.read().map(|listing| apply(enforced, listing));
                (directory, listing)
            })
            .await;
        self.directory = Some(directory);
        self.revision = Some(listing?);
        Ok(())
    }

    fn follow_key_sets(&mut self) -> Result<(), ClientError> {
        let targets = self.enforced.with(|enforced| enforced.held.targets());
        self.app.source.key_sets_wanted(|target| targets.contains_key(target));
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
        let mut missing: Vec<Target> = self.enforced.with(|enforced| {
            let targets = enforced.held.targets().into_keys();
            targets.filter(|target| enforced.sets.key_set(target).is_none()).collect()
        });
        while !missing.is_empty()
            && let Some(fetched) = next_of(&mut self.fetched).await
        {
            missing.retain(|target| *target != fetched.target);
            self.took(fetched).await;
        }
    }

    async fn took(&mut self, fetched: Fetched) {
        let Fetched { target, result } = fetched;
        let metrics = &self.app.metrics;
        match result {
            Ok(set) => {
                metrics.jwks_fetched("ok");
                self.app.source.key_set_fetched(&target);
                let take = move |enforced: &mut Enforced| {
                    enforced.take_key_set(target, set);
                    enforced.publish();
                };
                self.enforced.blocking(take).await;
            }
            Err(error) => {
                metrics.jwks_fetched(error.reason());
                let known = self.enforced.with(|enforced| enforced.sets.key_set(&target).is_some());
                tracing::warn!(from = %target, %error, last_good_kept = known, "a trusted issuer's key set was not fetched");
                let users = self.enforced.with(|enforced| enforced.held.users_of(&target));
                let problem = |(policy, issuer): (PolicyName, String)| KeySetProblem {
                    policy: policy.to_string(),
                    issuer,
                    from: target.to_string(),
                    last_good_kept: known,
                    problem: error.to_string(),
                };
                let problems = users.into_iter().map(problem).collect();
                self.app.source.key_set_failed(target.clone(), problems);
            }
        }
    }

    fn look_again(&self, unknown: &UnknownKey) {
        let target = self.enforced.with(|enforced| enforced.held.target_of(&unknown.policy, &unknown.trusted_issuer));
        if let (Some(followers), Some(target)) = (&self.followers, target) {
            followers.look_again(&target);
        }
    }

    /// Says what is in force and saved, after it is.
    fn acknowledge(&mut self) {
        let Some(Revision { history, revision }) = &self.revision else { return };
        let of = Acknowledged { start_id: &self.acks.start_id, history, revision, generations: true };
        let ack = self.enforced.with(|enforced| enforced.ack(of));
        if let Some(ack) = ack {
            self.acks.say(ack);
        }
    }
}

/// Puts a listing in force, saves it, and says so: in this order, because confirmed means that the snapshot says it.
fn apply(enforced: &mut Enforced, listing: Listing) -> Revision {
    let Listing { revision, trusted, bundles } = listing;
    if trusted.digest != enforced.trusted.digest {
        enforced.trust(trusted);
    }
    for (name, offer) in &bundles {
        enforced.offer(name, offer);
    }
    enforced.keep_only(&|name| bundles.contains_key(name));
    enforced.publish();
    enforced.save();
    enforced.publish();
    enforced.app.confirm();
    revision
}

async fn next_of(fetched: &mut Option<mpsc::Receiver<Fetched>>) -> Option<Fetched> {
    match fetched {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}
