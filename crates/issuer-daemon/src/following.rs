//! One ordered watch of one kind of object, and up to when what it has handed over is known to be what there is.
//!
//! Everything is listed, then watched from the list's version on. A watch that ends is resumed where it was; what can't be
//! resumed is listed anew. That a watch shows nothing says nothing: its connection may be dead, or its API server cut off from
//! the others. So the present version is asked for again and again, in a read that no cache answers; once the watch has come to
//! it, what it handed over was the present when that was asked.

use std::{convert::Infallible, fmt::Debug, pin::pin, time::Duration};

use countersign_api::cluster::HISTORY;
use countersign_feed::Clock;
use countersign_process::{Unreached, confirm_every, watch_for};
use futures_util::{StreamExt as _, future::OptionFuture};
use kube::{
    Api, Resource, ResourceExt as _,
    api::{ListParams, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

/// Objects of one page of a list.
const PAGE: u32 = 500;
/// How long an answer may take, and a watch to begin.
const ANSWER: Duration = Duration::from_secs(30);
/// How much longer than asked for a watch may last before it counts as dead.
const GRACE: Duration = Duration::from_secs(10);

/// What is seen.
#[derive(Debug)]
pub(crate) enum Seen<K> {
    /// Everything there is, in place of all that was known.
    Listed(Vec<K>),
    /// An object is there, or changed.
    Applied(K),
    /// An object is gone.
    Gone(K),
    /// What was handed over is what there was at this moment ([`Clock::boot_millis`]).
    Confirmed(i64),
}

/// Why a watch is no more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    /// After the time that it was asked for.
    #[error("its time is over")]
    InTime,
    /// It did not end when its time was over.
    #[error("nothing is heard of it any more")]
    Silent,
    /// Its version is not known any more.
    #[error("the version that was read is not known any more")]
    Gone,
    /// The API server has come to an earlier version than it had.
    #[error("versions have gone back: the API server was restored")]
    WentBack,
    /// A version is no number, or no later one.
    #[error("an object has the version {0:?}, which is none that could follow")]
    Version(String),
    /// No answer in time.
    #[error("no answer within {} s", ANSWER.as_secs())]
    Late,
    /// The API server, or the way to it.
    #[error(transparent)]
    Kube(kube::Error),
    /// Nobody listens.
    #[error("nobody listens")]
    Unheard,
}

impl Ended {
    /// Whether it may be gone on with where it was.
    const fn can_be_resumed(&self) -> bool {
        matches!(self, Self::InTime | Self::Silent | Self::Late | Self::Kube(_))
    }
}

impl From<kube::Error> for Ended {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if status.code == 410 => Self::Gone,
            error => Self::Kube(error),
        }
    }
}

/// Whoever is told.
pub(crate) trait Listener<K> {
    /// Takes in what is seen. `false`: nobody wants to know any more.
    fn hear(&mut self, seen: Seen<K>) -> impl Future<Output = bool> + Send;
}

/// A watch.
pub(crate) struct Following<K> {
    api: Api<K>,
    labels: Option<String>,
    /// Within how long everything has to be confirmed, milliseconds.
    within_ms: watch::Receiver<i64>,
    /// Up to here everything is handed over.
    position: Option<u64>,
    /// Present versions that it hasn't come to, and when they were asked for.
    unreached: Unreached,
}

impl<K> Following<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    pub(crate) fn new(api: Api<K>, labels: Option<String>, within_ms: watch::Receiver<i64>) -> Self {
        Self { api, labels, within_ms, position: None, unreached: Unreached::default() }
    }

    /// From here on everything is listed anew.
    pub(crate) fn forget(&mut self) {
        self.position = None;
    }

    /// Goes on until something ends it.
    pub(crate) async fn go_on(&mut self, listener: &mut impl Listener<K>) -> Ended {
        self.unreached.clear();
        let ended = match self.follow(listener).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        self.position = self.position.filter(|_| ended.can_be_resumed());
        ended
    }

    async fn follow(&mut self, listener: &mut impl Listener<K>) -> Result<Infallible, Ended> {
        let position = match self.position {
            Some(position) => position,
            None => self.list(listener).await?,
        };
        let first = self.probe().await?;
        self.expect(first)?;
        let length = watch_for(*self.within_ms.borrow_and_update());
        let seconds = u32::try_from(length.as_secs()).unwrap_or(u32::MAX);
        let parameters = WatchParams { label_selector: self.labels.clone(), ..WatchParams::default() }.timeout(seconds);
        let from = position.to_string();
        let mut events = pin!(in_time(self.api.watch(&parameters, &from)).await?);
        self.settle(listener).await?;

        let dead = Instant::now() + length + GRACE;
        let every = |within: &watch::Receiver<i64>| Instant::now() + confirm_every(*within.borrow());
        let mut next_probe = every(&self.within_ms);
        let mut probing = OptionFuture::default();
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => self.step(event?, listener).await?,
                    None => return Err(Ended::InTime),
                },
                Some(probed) = &mut probing => {
                    probing = OptionFuture::default();
                    self.expect(probed?)?;
                    self.settle(listener).await?;
                    next_probe = every(&self.within_ms);
                }
                () = sleep_until(next_probe) => {
                    next_probe = dead;
                    probing = Some(Box::pin(probe(self.api.clone()))).into();
                }
                Ok(()) = self.within_ms.changed() => {
                    // A policy that must be confirmed much more often: a watch of that length says often enough where it stands.
                    if watch_for(*self.within_ms.borrow_and_update()) * 2 < length {
                        return Err(Ended::InTime);
                    }
                }
                () = sleep_until(dead) => return Err(Ended::Silent),
            }
        }
    }

    /// Hands over everything that there is. Without a version in the question, the answer is the present state.
    async fn list(&mut self, listener: &mut impl Listener<K>) -> Result<u64, Ended> {
        let asked_at = Clock::boot_millis();
        let mut parameters = ListParams { label_selector: self.labels.clone(), ..ListParams::default() }.limit(PAGE);
        let (mut at, mut objects) = (None, Vec::new());
        loop {
            let page = in_time(self.api.list(&parameters)).await?;
            let version = number(page.metadata.resource_version.as_deref())?;
            if *at.get_or_insert(version) != version {
                // The rest of a list whose version is forgotten is that of a later one.
                return Err(Ended::Gone);
            }
            objects.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters = parameters.continue_token(&token),
                None => break,
            }
        }
        let version = at.unwrap_or_default();
        self.position = Some(version);
        tell(listener, Seen::Listed(objects)).await?;
        tell(listener, Seen::Confirmed(asked_at)).await?;
        Ok(version)
    }

    async fn probe(&self) -> Result<(i64, u64), Ended> {
        probe(self.api.clone()).await
    }

    /// Remembers to which version the watch has to come.
    fn expect(&mut self, (asked_at, version): (i64, u64)) -> Result<(), Ended> {
        if self.position.is_some_and(|position| version < position) {
            return Err(Ended::WentBack);
        }
        self.unreached.push(asked_at, version);
        Ok(())
    }

    /// Takes in an event, which moves the position.
    async fn step(&mut self, event: WatchEvent<K>, listener: &mut impl Listener<K>) -> Result<(), Ended> {
        let position = self.position.unwrap_or_default();
        let (seen, version) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let version = later(object.resource_version().as_deref(), position)?;
                (Some(Seen::Applied(object)), version)
            }
            WatchEvent::Deleted(object) => {
                let version = later(object.resource_version().as_deref(), position)?;
                (Some(Seen::Gone(object)), version)
            }
            WatchEvent::Bookmark(bookmark) => {
                let version = number(Some(&bookmark.metadata.resource_version))?;
                if version < position {
                    return Err(Ended::Version(bookmark.metadata.resource_version));
                }
                (None, version)
            }
            WatchEvent::Error(status) => return Err(kube::Error::Api(status).into()),
        };
        if let Some(seen) = seen {
            tell(listener, seen).await?;
        }
        self.position = Some(version);
        self.settle(listener).await
    }

    /// Says up to which moment what was handed over is known to be the present.
    async fn settle(&mut self, listener: &mut impl Listener<K>) -> Result<(), Ended> {
        let position = self.position.unwrap_or_default();
        match self.unreached.reached(position) {
            Some(asked_at) => tell(listener, Seen::Confirmed(asked_at)).await,
            None => Ok(()),
        }
    }
}

async fn tell<K>(listener: &mut impl Listener<K>, seen: Seen<K>) -> Result<(), Ended> {
    if listener.hear(seen).await { Ok(()) } else { Err(Ended::Unheard) }
}

/// When it was asked where the API server stands, and where it did. One name alone is asked for, so that a namespace full of
/// objects costs no more than an empty one.
async fn probe<K>(api: Api<K>) -> Result<(i64, u64), Ended>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let asked_at = Clock::boot_millis();
    let only = ListParams::default().fields(&format!("metadata.name={HISTORY}")).limit(1);
    let list = in_time(api.list_metadata(&only)).await?;
    Ok((asked_at, number(list.metadata.resource_version.as_deref())?))
}

async fn in_time<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, Ended> {
    timeout(ANSWER, request).await.map_err(|_| Ended::Late)?.map_err(Ended::from)
}

fn number(version: Option<&str>) -> Result<u64, Ended> {
    let version = version.unwrap_or_default();
    version.parse().map_err(|_| Ended::Version(version.to_owned()))
}

fn later(version: Option<&str>, position: u64) -> Result<u64, Ended> {
    let version = number(version)?;
    if version > position { Ok(version) } else { Err(Ended::Version(version.to_string())) }
}

#[cfg(test)]
mod tests;
