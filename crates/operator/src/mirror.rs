//! What the API server holds of one kind of object, kept by a watch.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use kube::runtime::{
    WatchStreamExt as _,
    watcher::{self, Event},
};
use parking_lot::RwLock;
use tokio::{sync::watch, time::Instant};

/// For how long a watch may fail before it counts as lost.
const LOST_AFTER: Duration = Duration::from_mins(1);

/// A watch that failed for too long: what it kept can't be relied on.
#[derive(Debug, thiserror::Error)]
#[error("the watch of {what} is lost: {reason}")]
pub(crate) struct WatchLost {
    what: &'static str,
    reason: String,
}

/// A map that a watch keeps true.
#[derive(Debug)]
pub(crate) struct Mirror<V> {
    held: RwLock<HashMap<String, V>>,
    synced: watch::Sender<bool>,
}

impl<V> Default for Mirror<V> {
    fn default() -> Self {
        Self { held: RwLock::default(), synced: watch::Sender::new(false) }
    }
}

impl<V: Clone + PartialEq> Mirror<V> {
    pub(crate) fn one(&self, key: &str) -> Option<V> {
        self.held.read().get(key).cloned()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.held.read().keys().cloned().collect()
    }

    pub(crate) fn all(&self) -> Vec<V> {
        self.held.read().values().cloned().collect()
    }

    /// Keeps something else of the same object.
    pub(crate) fn change(&self, key: &str, change: impl FnOnce(&mut V)) {
        if let Some(held) = self.held.write().get_mut(key) {
            change(held);
        }
    }

    /// What a watch would show.
    #[cfg(test)]
    pub(crate) fn set(&self, key: &str, value: Option<V>) {
        match value {
            Some(value) => drop(self.put(key, value)),
            None => drop(self.held.write().remove(key)),
        }
    }

    /// Returns once everything was listed.
    pub(crate) async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives in this very mirror.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Keeps this mirror by `events`, for ever. `keep` says what is kept of an object and under which key; `changed` is told
    /// the keys that changed, but not those of the first list.
    pub(crate) async fn run<K: Clone + Debug + Send + 'static>(
        &self,
        what: &'static str,
        events: impl Stream<Item = watcher::Result<Event<K>>> + Send,
        mut keep: impl FnMut(K) -> Option<(String, V)> + Send,
        mut changed: impl FnMut(String) + Send,
    ) -> Result<(), WatchLost> {
        let mut events = std::pin::pin!(events.default_backoff());
        let mut failing: Option<Instant> = None;
        let mut listed = HashSet::new();
        while let Some(event) = events.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    let since = *failing.get_or_insert_with(Instant::now);
                    tracing::warn!(%error, "the watch of {what} fails; trying again");
                    if since.elapsed() > LOST_AFTER {
                        return Err(WatchLost { what, reason: error.to_string() });
                    }
                    continue;
                }
            };
            failing = None;
            let first = !*self.synced.borrow();
            match event {
                Event::Init => listed.clear(),
                Event::InitApply(object) => {
                    if let Some((key, value)) = keep(object) {
                        listed.insert(key.clone());
                        if self.put(&key, value) && !first {
                            changed(key);
                        }
                    }
                }
                Event::InitDone => {
                    let gone: Vec<String> = self.held.read().keys().filter(|key| !listed.contains(*key)).cloned().collect();
                    for key in gone {
                        self.held.write().remove(&key);
                        changed(key);
                    }
                    listed = HashSet::new();
                    self.synced.send_replace(true);
                }
                Event::Apply(object) => {
                    if let Some((key, value)) = keep(object)
                        && self.put(&key, value)
                    {
                        changed(key);
                    }
                }
                Event::Delete(object) => {
                    if let Some((key, _)) = keep(object) {
                        self.held.write().remove(&key);
                        changed(key);
                    }
                }
            }
        }
        Err(WatchLost { what, reason: "it ended".to_owned() })
    }

    /// Whether that changed anything.
    fn put(&self, key: &str, value: V) -> bool {
        let mut held = self.held.write();
        if held.get(key) == Some(&value) {
            return false;
        }
        held.insert(key.to_owned(), value);
        true
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    async fn after(events: Vec<watcher::Result<Event<(&'static str, u8)>>>) -> (Mirror<u8>, Vec<String>) {
        let mirror = Mirror::default();
        let mut told = Vec::new();
        let keep = |(key, value): (&str, u8)| Some((key.to_owned(), value));
        let ended = mirror.run("numbers", stream::iter(events), keep, |key| told.push(key)).await;
        assert_eq!(ended.unwrap_err().to_string(), "the watch of numbers is lost: it ended");
        (mirror, told)
    }

    #[tokio::test]
    async fn a_mirror_tells_what_changed_after_the_first_list_and_nothing_else() {
        let (mirror, told) = after(vec![
            Ok(Event::Init),
            Ok(Event::InitApply(("a", 1))),
            Ok(Event::InitApply(("b", 1))),
            Ok(Event::InitDone),
            Ok(Event::Apply(("a", 1))),
            Ok(Event::Apply(("a", 2))),
            Ok(Event::Delete(("b", 1))),
        ])
        .await;
        assert_eq!(told, ["a", "b"]);
        assert_eq!((mirror.one("a"), mirror.one("b")), (Some(2), None));
        mirror.synced().await;
    }

    #[tokio::test]
    async fn what_a_new_list_lacks_is_gone() {
        let (mirror, told) = after(vec![
            Ok(Event::Init),
            Ok(Event::InitApply(("a", 1))),
            Ok(Event::InitApply(("b", 1))),
            Ok(Event::InitDone),
            Ok(Event::Init),
            Ok(Event::InitApply(("b", 1))),
            Ok(Event::InitApply(("c", 1))),
            Ok(Event::InitDone),
        ])
        .await;
        assert_eq!(told, ["c", "a"]);
        assert_eq!(mirror.keys().len(), 2);
    }
}
