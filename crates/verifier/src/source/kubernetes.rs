//! Bundles in a cluster: one ordered watch of ConfigMaps, read-only.
//!
//! [`reader`] hands over what the API server holds, in order; here it is put in force, saved, and only then acknowledged with
//! the history and version that it brings everything up to. What is refused is named in the same acknowledgement. When the API
//! server is away, what is in force stays, a restart begins with what was saved, and what can't be known is answered
//! `not_ready` once the present state has gone unconfirmed for too long.

mod connect;
mod message;
mod object;
mod pace;
mod probe;
mod reader;
mod secrets;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use countersign_feed::UnknownIssuerKey;
use countersign_process::{TrustFile, Trusted};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use connect::ApiError;

use self::{message::Message, object::Change, pace::Backoff, reader::Reader, secrets::SecretReader};
use super::{
    enforced::{Acknowledged, Enforced},
    held::Offer,
    keeper::{Acknowledging, Post, Shared, SourceError},
    saved::{Saved, SavedPosition},
};
use crate::{
    app::{App, UnknownKey},
    config::KubernetesSource,
};

/// How often the trust file is looked at, and what could not be saved is tried again.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long a start that has something saved waits for the API server's next word.
const FIRST_WORD: Duration = Duration::from_secs(5);
/// How long an issuer's unknown key is told after the last token that named it, and how many are.
const TELL_UNKNOWN: Duration = Duration::from_secs(30);
const MAX_UNKNOWN: usize = 64;
/// Messages that wait to be put in force.
const QUEUE: usize = 16;

/// The task that follows a cluster.
pub(crate) struct KubernetesKeeper {
    app: Arc<App>,
    enforced: Shared,
    messages: mpsc::Receiver<Message>,
    _reader: AbortOnDropHandle<()>,
    secrets: SecretReader,
    /// When missing verify-secrets are asked for again.
    ask_for_secrets: Option<Instant>,
    secrets_backoff: Backoff,
    trust: TrustFile,
    /// Up to where everything is in force and saved; `None` until that is known.
    position: Option<Position>,
    /// What a list that is under way has brought.
    listed: BTreeSet<String>,
    unconfirmed_ms: watch::Sender<Option<i64>>,
    unknown_keys: mpsc::Receiver<UnknownKey>,
    /// Issuers of unknown keys, with the moment of the last token.
    unknown: BTreeMap<(String, String), Instant>,
    acks: Acknowledging,
}

/// A version of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    history: String,
    version: u64,
}

impl KubernetesKeeper {
    /// Puts in force what was saved, then what the API server holds. Without anything saved it waits for the API server; only
    /// what somebody has to mend is an error.
    pub(super) async fn start(source: KubernetesSource, disk: Option<Saved>, post: Post) -> Result<Self, SourceError> {
        let Post { app, follower, unknown_keys } = post;
        app.source.is_kubernetes();
        let client = connect::connect(&source).await?;
        let mut enforced = Enforced::new(app.clone(), disk, Trusted::in_nobody(&[]));
        let (whole, saved) = (enforced.restore(), enforced.disk().and_then(Saved::position));
        let has_something = !enforced.held.is_empty();
        let mut trust = TrustFile::new(source.trust.clone());
        match Trusted::read(trust.path()) {
            Ok(trusted) => enforced.trust(trusted),
            Err(source) if !has_something => {
                return Err(SourceError::Trust { path: trust.path().to_owned(), source });
            }
            Err(_) => {
                // Says why, and stays what it is: trust in nobody new.
                let _ = trust.changed(enforced.trusted.digest);
                app.source.trust(trust.problem());
            }
        }
        let unconfirmed_ms = watch::Sender::new(enforced.shortest_unconfirmed_ms());
        let (tell, messages) = mpsc::channel(QUEUE);
        let reader = Reader::new(app.clone(), client.clone(), &source, tell, unconfirmed_ms.subscribe());
        let mut keeper = Self {
            app,
            enforced: Shared::new(enforced),
            messages,
            _reader: AbortOnDropHandle::new(tokio::spawn(reader.run())),
            secrets: SecretReader::new(client, &source.namespace),
            ask_for_secrets: None,
            secrets_backoff: Backoff::default(),
            trust,
            position: None,
            listed: BTreeSet::new(),
            unconfirmed_ms,
            unknown_keys,
            unknown: BTreeMap::new(),
            acks: Acknowledging::new(follower),
        };
        keeper.first_list(has_something).await?;
        if keeper.position.is_none() {
            keeper.resume_from_disk(saved.filter(|_| whole)).await;
        }
        Ok(keeper)
    }

    /// Waits for everything that the API server holds; not for long when there is something to begin with.
    async fn first_list(&mut self, has_something: bool) -> Result<(), SourceError> {
        while self.position.is_none() {
            let wait = if has_something { FIRST_WORD } else { Duration::MAX };
            match timeout(wait, self.messages.recv()).await {
                Ok(Some(Message::Trouble(error))) if has_something => {
                    self.trouble(&error);
                    return Ok(());
                }
                Ok(Some(Message::Trouble(error))) if error.wants_mending() => return Err(error.into()),
                Ok(Some(message)) => self.handle(message).await,
                Ok(None) => return Ok(()),
                Err(_) => {
                    self.trouble(&ApiError::Away(format!("no word within {} s", FIRST_WORD.as_secs())));
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Serves, and acknowledges, what an earlier run had put in force. What it refused then is refused still.
    async fn resume_from_disk(&mut self, saved: Option<SavedPosition>) {
        self.enforced.blocking(Enforced::publish).await;
        tracing::warn!("the API server is away: policies are those of the last run until it is back");
        let Some(SavedPosition { history, version, refused }) = saved else { return };
        let revision = version.to_string();
        let of = Acknowledged { start_id: &self.acks.start_id, history: &history, revision: &revision, generations: false };
        let Some(mut ack) = self.enforced.with(|enforced| enforced.ack(of)) else { return };
        ack.refused.extend(refused);
        self.acks.say(ack);
    }

    /// Follows the source until told to stop.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let ask_at = self.ask_for_secrets;
            tokio::select! {
                () = stop.cancelled() => break,
                Some(message) = self.messages.recv() => self.handle(message).await,
                _ = look.tick() => self.look().await,
                Some(unknown) = self.unknown_keys.recv() => {
                    if self.is_new(unknown) {
                        self.settle().await;
                    }
                }
                () = sleep_until(ask_at.unwrap_or_else(Instant::now)), if ask_at.is_some() => self.ask_again().await,
            }
        }
        self.enforced.blocking(Enforced::save).await;
    }

    async fn handle(&mut self, message: Message) {
        if !matches!(message, Message::Trouble(_)) && self.app.source.mended() {
            tracing::info!("the API server answers again");
        }
        match message {
            Message::ListBegun => self.listed.clear(),
            Message::Page(changes) => {
                let names =
                    changes.iter().filter_map(|c| if let Change::Bundle(name, _) = c { Some(name.clone()) } else { None });
                self.listed.extend(names);
                self.apply(changes).await;
                // Not acknowledged: what is listed isn't whole yet.
                self.enforced.blocking(put_in_force).await;
            }
            Message::Listed { version, history, asked_at } => {
                let listed = std::mem::take(&mut self.listed);
                self.enforced.blocking(move |enforced| enforced.keep_only(&|name| listed.contains(name))).await;
                self.reach(Position { history, version }).await;
                let unconfirmed_ms = self.enforced.with(Enforced::shortest_unconfirmed_ms);
                self.unconfirmed_ms.send_if_modified(|held| std::mem::replace(held, unconfirmed_ms) != unconfirmed_ms);
                self.app.confirm_as_of(asked_at);
            }
            Message::Events { changes, version } => {
                let held = self.position.as_ref().map(|position| position.history.clone()).unwrap_or_default();
                let named = changes
                    .iter()
                    .rev()
                    .find_map(|c| if let Change::History(value) = c { Some(value.clone()) } else { None });
                self.apply(changes).await;
                self.reach(Position { history: named.unwrap_or(held), version }).await;
            }
            Message::Confirmed { asked_at } => self.app.confirm_as_of(asked_at),
            Message::Trouble(error) => self.trouble(&error),
        }
    }

    fn trouble(&self, error: &ApiError) {
        if self.app.source.troubled(&error.to_string()) {
            tracing::error!(%error, "policies can't be read from the API server; what is held stays in force");
        }
    }

    /// Puts changes in force; of several of one name, the last.
    async fn apply(&mut self, changes: Vec<Change>) {
        let mut last: BTreeMap<String, Option<Offer>> = BTreeMap::new();
        for change in changes {
            match change {
                Change::Bundle(name, offer) => last.insert(name, Some(offer)),
                Change::Gone(name) => last.insert(name, None),
                Change::History(_) => None,
            };
        }
        if last.is_empty() {
            return;
        }
        let offer_all = move |enforced: &mut Enforced| {
            let mut want = BTreeMap::new();
            for (name, offer) in last {
                let Some(mut offer) = offer else {
                    enforced.vanished(&name);
                    continue;
                };
                offer.secrets = enforced.held.secrets(&name);
                if enforced.offer_unless_secrets_may_come(&name, &offer) {
                    want.insert(name, offer);
                }
            }
            want
        };
        let want = self.enforced.blocking(offer_all).await;
        if !want.is_empty() {
            self.with_secrets(want).await;
        }
    }

    /// Puts in force what needs verify-secrets, with those that are there now.
    async fn with_secrets(&mut self, mut want: BTreeMap<String, Offer>) {
        let found = self.secrets.read(want.keys().cloned().collect()).await;
        let offer_all = move |enforced: &mut Enforced| {
            for (name, secrets) in found {
                if let Some(mut offer) = want.remove(&name) {
                    offer.secrets = secrets;
                    enforced.offer(&name, &offer);
                }
            }
            !enforced.held.all_that_want_secrets().is_empty()
        };
        let missing = self.enforced.blocking(offer_all).await;
        if !missing {
            self.secrets_backoff.reset();
        }
        self.ask_for_secrets = missing.then(|| Instant::now() + self.secrets_backoff.next());
    }

    /// Asks again for verify-secrets that weren't there.
    async fn ask_again(&mut self) {
        self.ask_for_secrets = None;
        let want: BTreeMap<String, Offer> = self.enforced.with(|enforced| {
            let names = enforced.held.all_that_want_secrets().into_iter();
            names.filter_map(|name| enforced.held.wants_secrets(&name).cloned().map(|offer| (name, offer))).collect()
        });
        if !want.is_empty() {
            self.with_secrets(want).await;
            self.settle().await;
        }
    }

    /// Everything up to here is in force.
    async fn reach(&mut self, position: Position) {
        self.app.source.reached(&position.history, position.version);
        self.position = Some(position);
        self.settle().await;
    }

    /// Publishes, saves, acknowledges, in this order.
    async fn settle(&mut self) {
        let Some(Position { history, version }) = self.position.clone() else {
            self.enforced.blocking(put_in_force).await;
            return;
        };
        let start_id = self.acks.start_id.clone();
        let put = move |enforced: &mut Enforced| {
            put_in_force(enforced);
            let of =
                Acknowledged { start_id: &start_id, history: &history, revision: &version.to_string(), generations: false };
            let ack = enforced.ack(of)?;
            if let Some(disk) = enforced.disk() {
                let position = SavedPosition { history, version, refused: ack.refused.clone() };
                if let Err(error) = disk.keep_position(&position) {
                    tracing::warn!(%error, "the position in the source could not be saved; a restart will not acknowledge from disk");
                }
            }
            Some(ack)
        };
        let Some(mut ack) = self.enforced.blocking(put).await else { return };
        let named = self.unknown.keys().map(|(policy, trusted_issuer)| UnknownIssuerKey {
            policy: policy.clone(),
            trusted_issuer: trusted_issuer.clone(),
        });
        ack.unknown_keys = named.collect();
        self.acks.say(ack);
    }

    /// Looks at what changes without the API server's telling.
    async fn look(&mut self) {
        let digest = self.enforced.with(|enforced| enforced.trusted.digest);
        let mut changed = false;
        if let Some(trusted) = self.trust.changed(digest) {
            tracing::info!(keys = ?trusted.kids, "bundles are trusted by other keys; everything is judged anew");
            self.enforced.blocking(move |enforced| enforced.trust(trusted)).await;
            changed = true;
        }
        self.app.source.trust(self.trust.problem());
        let named = self.unknown.len();
        self.unknown.retain(|_, last| last.elapsed() < TELL_UNKNOWN);
        changed |= named != self.unknown.len();
        let (unsaved, unconfirmed_ms) =
            self.enforced.with(|enforced| (enforced.has_unsaved(), enforced.shortest_unconfirmed_ms()));
        self.unconfirmed_ms.send_if_modified(|held| std::mem::replace(held, unconfirmed_ms) != unconfirmed_ms);
        if changed || unsaved {
            self.settle().await;
        }
    }

    /// Notes an issuer of an unknown key; true when it isn't told yet.
    fn is_new(&mut self, unknown: UnknownKey) -> bool {
        let key = (unknown.policy.to_string(), unknown.trusted_issuer);
        if !self.unknown.contains_key(&key) && self.unknown.len() >= MAX_UNKNOWN {
            return false;
        }
        self.unknown.insert(key, Instant::now()).is_none()
    }
}

/// In force first: what can't be saved is in force all the same, and said.
fn put_in_force(enforced: &mut Enforced) {
    enforced.publish();
    enforced.save();
    enforced.publish();
}
