//! The one ordered watch.
//!
//! Lists everything, then watches from the list's version on, so that what it hands over is, at each moment, what the API
//! server held at the version that it names. A watch that ends is resumed where it was; what can't be resumed is listed anew:
//! a version that is no longer known, and any sign that versions are of another history than ours (an etcd restored from a
//! backup counts on from where the backup was).

use std::{pin::pin, sync::Arc, time::Duration};

use countersign_api::cluster::HISTORY;
use countersign_feed::Clock;
use countersign_process::Unreached;
use futures_util::{StreamExt as _, future::OptionFuture};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{ListParams, WatchEvent, WatchParams},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    connect::{ApiError, in_time},
    message::{Ended, Message},
    object::{Change, gone, number, present},
    pace::{Backoff, confirm_every, random_fraction, watch_for},
    probe::{CONFIG_MAPS, History, Probe, history_of, probe},
};
use crate::{app::App, config::KubernetesSource};

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// Events that are handed over at once, at most.
const CHUNK: usize = 256;
/// How much longer than asked for a watch may last before it counts as dead.
const GRACE: Duration = Duration::from_secs(10);
/// How long an API server has to begin a watch.
const BEGIN: Duration = Duration::from_secs(30);
/// A watch that ends sooner than this counts as a failure.
const SHORT: Duration = Duration::from_secs(1);

/// Lists and watches.
pub(super) struct Reader {
    app: Arc<App>,
    api: Api<ConfigMap>,
    namespace: String,
    tell: mpsc::Sender<Message>,
    /// The shortest time that a policy may go unconfirmed, milliseconds.
    unconfirmed_ms: watch::Receiver<Option<i64>>,
    relist_jitter: Duration,
    doubtful_after: Duration,
    /// Up to here everything is handed over.
    position: Option<u64>,
    history: Option<History>,
    /// Since when there has been no watch.
    unwatched_since: Option<Instant>,
    /// A watch was resumed so late that the API server may have been restored from a backup in between: the next change of
    /// history is taken as a sign that it was.
    doubtful: bool,
    /// Present versions that we haven't reached yet.
    unreached: Unreached,
    backoff: Backoff,
}

impl Reader {
    pub(super) fn new(
        app: Arc<App>,
        client: Client,
        source: &KubernetesSource,
        tell: mpsc::Sender<Message>,
        unconfirmed_ms: watch::Receiver<Option<i64>>,
    ) -> Self {
        Self {
            app,
            api: Api::namespaced(client, &source.namespace),
            namespace: source.namespace.clone(),
            tell,
            unconfirmed_ms,
            relist_jitter: source.relist_jitter,
            doubtful_after: source.doubtful_after,
            position: None,
            history: None,
            unwatched_since: None,
            doubtful: false,
            unreached: Unreached::default(),
            backoff: Backoff::default(),
        }
    }

    /// Reads for ever, or until nobody listens.
    pub(super) async fn run(mut self) {
        loop {
            let begun = Instant::now();
            let ended = match self.position {
                None => match self.list().await {
                    Ok(()) => continue,
                    Err(ended) => ended,
                },
                Some(position) => {
                    let ended = self.follow(position).await;
                    self.app.source.watch_ended(ended.reason());
                    ended
                }
            };
            self.unwatched_since.get_or_insert_with(Instant::now);
            self.unreached.clear();
            self.position = self.position.filter(|_| ended.can_be_resumed());
            let wait = match &ended {
                Ended::Unheard => return,
                Ended::InTime if begun.elapsed() > SHORT => Duration::ZERO,
                Ended::WentBack | Ended::OtherHistory | Ended::OutOfOrder | Ended::Gone => {
                    let jitter = self.relist_jitter.mul_f64(random_fraction());
                    tracing::warn!(reason = ended.reason(), wait = ?jitter, "everything is listed again");
                    jitter + if begun.elapsed() > SHORT { Duration::ZERO } else { self.backoff.next() }
                }
                _ => self.backoff.next(),
            };
            if let Ended::Failed(error) = ended
                && self.tell(Message::Trouble(error)).await.is_err()
            {
                return;
            }
            sleep(wait).await;
        }
    }

    async fn tell(&self, message: Message) -> Result<(), Ended> {
        self.tell.send(message).await.map_err(|_| Ended::Unheard)
    }

    /// Hands over everything that there is. Without a version in the question, the answer is the present state.
    async fn list(&mut self) -> Result<(), Ended> {
        let asked_at = Clock::boot_millis();
        self.tell(Message::ListBegun).await?;
        let mut parameters = ListParams::default().limit(PAGE);
        let (mut at, mut history) = (None, None);
        loop {
            let page = in_time(self.api.list(&parameters), CONFIG_MAPS, &self.namespace).await?;
            let page_version = number(page.metadata.resource_version.as_deref())?;
            if *at.get_or_insert(page_version) != page_version {
                // The rest of a list whose version is forgotten is that of a later one.
                return Err(Ended::Gone);
            }
            for object in &page.items {
                history = history_of(object)?.or(history);
            }
            let changes = page.items.into_iter().filter_map(present).filter(|c| !matches!(c, Change::History(_)));
            self.tell(Message::Page(changes.collect())).await?;
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => break,
            }
        }
        let version = at.unwrap_or_default();
        let value = history.as_ref().map(|history: &History| history.value.clone()).unwrap_or_default();
        self.app.source.listed();
        self.tell(Message::Listed { version, history: value, asked_at }).await?;
        self.position = Some(version);
        self.history = history;
        self.unwatched_since = None;
        self.doubtful = false;
        self.backoff.reset();
        Ok(())
    }

    /// The API server's present version, and whether ours leads to it.
    async fn probe(&self) -> Result<Probe, ApiError> {
        let asked_at = Clock::boot_millis();
        probe(self.api.clone(), self.namespace.clone(), asked_at).await
    }

    fn check(&self, probe: &Probe) -> Result<(), Ended> {
        let position = self.position.unwrap_or_default();
        if probe.version < position {
            return Err(Ended::WentBack);
        }
        match &probe.history {
            // Older than what we have handed over, and not what that was.
            Some(found) if found.version <= position && self.history.as_ref() != Some(found) => Err(Ended::OtherHistory),
            _ => Ok(()),
        }
    }

    /// Watches from a position on.
    async fn follow(&mut self, position: u64) -> Ended {
        match self.watch(position).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn watch(&mut self, position: u64) -> Result<std::convert::Infallible, Ended> {
        let first = self.probe().await?;
        self.check(&first)?;
        let length = watch_for(*self.unconfirmed_ms.borrow_and_update());
        // Not all at the same time.
        let seconds = length.mul_f64(random_fraction().mul_add(-0.2, 1.0)).as_secs().max(3);
        let parameters = WatchParams::default().timeout(u32::try_from(seconds).unwrap_or(u32::MAX));
        let from = position.to_string();
        let begun = timeout(BEGIN, self.api.watch(&parameters, &from)).await;
        let events = begun.map_err(|_| ApiError::Away("no watch was begun within 30 s".into()))?;
        let events = events.map_err(|error| ApiError::of(error, CONFIG_MAPS, &self.namespace))?;
        let mut events = pin!(events.ready_chunks(CHUNK));
        self.doubtful |= self.unwatched_since.take().is_some_and(|since| since.elapsed() > self.doubtful_after);
        self.unreached.push(first.asked_at, first.version);
        self.settle().await?;

        let dead = Instant::now() + Duration::from_secs(seconds) + GRACE;
        let mut next_probe = Instant::now() + confirm_every(*self.unconfirmed_ms.borrow());
        let mut probing = OptionFuture::default();
        loop {
            tokio::select! {
                chunk = events.next() => match chunk {
                    Some(chunk) => self.take(chunk).await?,
                    None => return Err(Ended::InTime),
                },
                Some(probed) = &mut probing => {
                    probing = OptionFuture::default();
                    let probed: Probe = probed?;
                    self.check(&probed)?;
                    self.unreached.push(probed.asked_at, probed.version);
                    self.settle().await?;
                    next_probe = Instant::now() + confirm_every(*self.unconfirmed_ms.borrow());
                }
                () = sleep_until(next_probe) => {
                    next_probe = dead;
                    probing = Some(Box::pin(probe(self.api.clone(), self.namespace.clone(), Clock::boot_millis()))).into();
                }
                Ok(()) = self.unconfirmed_ms.changed() => {
                    // A policy that must be confirmed much more often: a watch of that length says often enough where it stands.
                    if watch_for(*self.unconfirmed_ms.borrow_and_update()) * 2 < length {
                        return Err(Ended::InTime);
                    }
                }
                () = sleep_until(dead) => return Err(Ended::Silent),
            }
        }
    }

    /// Hands over events, in order, as far as they are in order.
    async fn take(&mut self, chunk: Vec<kube::Result<WatchEvent<ConfigMap>>>) -> Result<(), Ended> {
        let mut changes = Vec::with_capacity(chunk.len());
        let before = self.position;
        let mut ended = None;
        for event in chunk {
            match self.step(event) {
                Ok(change) => changes.extend(change),
                Err(end) => {
                    ended = Some(end);
                    break;
                }
            }
        }
        if self.position != before
            && let Some(version) = self.position
        {
            self.backoff.reset();
            self.tell(Message::Events { changes, version }).await?;
            self.settle().await?;
        }
        ended.map_or(Ok(()), Err)
    }

    /// What an event says, once it has moved the position.
    fn step(&mut self, event: kube::Result<WatchEvent<ConfigMap>>) -> Result<Option<Change>, Ended> {
        let event = event.map_err(|error| ApiError::of(error, CONFIG_MAPS, &self.namespace))?;
        let position = self.position.unwrap_or_default();
        let (object, ends) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(bookmark) => {
                let at = number(Some(&bookmark.metadata.resource_version))?;
                if at < position {
                    return Err(Ended::OutOfOrder);
                }
                self.position = Some(at);
                return Ok(None);
            }
            WatchEvent::Error(status) => {
                return Err(ApiError::of(kube::Error::Api(status), CONFIG_MAPS, &self.namespace).into());
            }
        };
        let at = number(object.metadata.resource_version.as_deref())?;
        if at <= position {
            return Err(Ended::OutOfOrder);
        }
        if object.metadata.name.as_deref() == Some(HISTORY) {
            let found = if ends { None } else { history_of(&object)? };
            let value = |history: &Option<History>| history.as_ref().map(|h| h.value.clone());
            if self.doubtful && value(&found) != value(&self.history) {
                return Err(Ended::OtherHistory);
            }
            self.history = found;
        }
        self.position = Some(at);
        Ok(if ends { gone(&object) } else { present(object) })
    }

    /// Says up to which moment what was handed over is known to be the present.
    async fn settle(&mut self) -> Result<(), Ended> {
        let position = self.position.unwrap_or_default();
        match self.unreached.reached(position) {
            Some(asked_at) => self.tell(Message::Confirmed { asked_at }).await,
            None => Ok(()),
        }
    }
}
