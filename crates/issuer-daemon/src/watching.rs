//! What the API server holds that concerns issuers: four watches, one channel.
//!
//! The watch of rings is begun anew when the bundles' history becomes another one: the API server was restored, and versions
//! from before say nothing any more. What was read stays in use until the new list is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use countersign_api::cluster::{FORMAT, HISTORY, HISTORY_KEY, ISSUE_LABEL, KEY_RING_LABEL};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, Client, ResourceExt as _,
    api::ObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event, watcher},
    },
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

/// How many changes may wait.
const CHANGES: usize = 1024;
/// How long a watch that ended by itself rests before it is begun again.
const REST: Duration = Duration::from_millis(500);

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Source {
    /// Secrets with key rings.
    Rings,
    /// Secrets with what issuers are told.
    Sections,
    /// ConfigMaps with bundles, and the history.
    Bundles,
    /// Secrets with verify-secrets.
    VerifySecrets,
}

impl Source {
    pub(crate) const ALL: [Self; 4] = [Self::Rings, Self::Sections, Self::Bundles, Self::VerifySecrets];

    const fn words(self) -> &'static str {
        match self {
            Self::Rings => "key rings",
            Self::Sections => "what issuers are told",
            Self::Bundles => "bundles",
            Self::VerifySecrets => "verify-secrets",
        }
    }
}

/// An object's content. `Debug` hides it.
#[derive(Clone, Default)]
pub(crate) struct Object {
    /// The API server's version of it.
    pub(crate) version: u64,
    pub(crate) data: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("version", &self.version).field("keys", &self.data.keys()).finish()
    }
}

/// News from a watch.
#[derive(Debug)]
pub(crate) enum Change {
    /// Everything there is, in place of all that was known. `history`: the one that was present before the list was asked for.
    Listed { source: Source, objects: Vec<(String, Object)>, history: String },
    /// An object is there, or changed.
    Applied { source: Source, name: String, object: Object },
    /// An object is gone.
    Gone { source: Source, name: String },
}

/// What all watches are told by.
pub(crate) struct Watches {
    pub(crate) changes: mpsc::Receiver<Change>,
    /// They end when they are told to, and otherwise by a fault of ours.
    pub(crate) tasks: JoinSet<()>,
}

/// Begins all watches; they end with `stop`.
pub(crate) fn begin(client: &Client, system: &str, bundles: &str, stop: &CancellationToken) -> Watches {
    let (send, changes) = mpsc::channel(CHANGES);
    let (tell_history, history) = watch::channel(String::new());
    let labelled = |label: &str| watcher::Config::default().labels(&format!("{label}={FORMAT}"));
    let secrets = |namespace: &str| Api::<Secret>::namespaced(client.clone(), namespace);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), bundles);
    let telling = |source| Telling { source, send: send.clone(), history: history.clone(), tell_history: None };
    let all = watcher::Config::default;
    let mut tasks = JoinSet::new();
    spawn(&mut tasks, stop, watch_for_ever(secrets(system), labelled(KEY_RING_LABEL), telling(Source::Rings)));
    spawn(&mut tasks, stop, watch_for_ever(secrets(system), labelled(ISSUE_LABEL), telling(Source::Sections)));
    spawn(&mut tasks, stop, watch_for_ever(secrets(bundles), all(), telling(Source::VerifySecrets)));
    let of_bundles = Telling { tell_history: Some(tell_history), ..telling(Source::Bundles) };
    spawn(&mut tasks, stop, watch_for_ever(maps, all(), of_bundles));
    Watches { changes, tasks }
}

fn spawn(tasks: &mut JoinSet<()>, stop: &CancellationToken, watch: impl Future<Output = ()> + Send + 'static) {
    let stop = stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = watch => {}
        }
    });
}

/// To whom a watch tells what.
struct Telling {
    source: Source,
    send: mpsc::Sender<Change>,
    history: watch::Receiver<String>,
    tell_history: Option<watch::Sender<String>>,
}

/// What is kept of an object.
trait Content: kube::Resource {
    fn content(self) -> BTreeMap<String, Zeroizing<Vec<u8>>>;
}

impl Content for Secret {
    fn content(self) -> BTreeMap<String, Zeroizing<Vec<u8>>> {
        self.data.unwrap_or_default().into_iter().map(|(key, value)| (key, Zeroizing::new(value.0))).collect()
    }
}

impl Content for ConfigMap {
    fn content(self) -> BTreeMap<String, Zeroizing<Vec<u8>>> {
        let texts = self.data.unwrap_or_default().into_iter();
        texts.map(|(key, value)| (key, Zeroizing::new(value.into_bytes()))).collect()
    }
}

async fn watch_for_ever<K>(api: Api<K>, config: watcher::Config, mut telling: Telling)
where
    K: Content + kube::Resource + Clone + Debug + serde::de::DeserializeOwned + Send + 'static,
{
    while !telling.send.is_closed() {
        telling.once(api.clone(), config.clone()).await;
        tokio::time::sleep(REST).await;
    }
}

impl Telling {
    /// Until the watch ends, or has to be begun anew.
    async fn once<K>(&mut self, api: Api<K>, config: watcher::Config)
    where
        K: Content + kube::Resource + Clone + Debug + serde::de::DeserializeOwned + Send + 'static,
    {
        let begun_under = self.history.borrow_and_update().clone();
        let mut events = std::pin::pin!(watcher(api, config).default_backoff());
        let mut listed = Vec::new();
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                changed = self.history.changed(), if self.source == Source::Rings => {
                    if changed.is_ok() { tracing::info!("the bundles' history is another one; key rings are read anew") }
                    return;
                }
            };
            let told = match event {
                None => return,
                Some(Err(error)) => {
                    tracing::warn!(%error, "the watch of {} fails; trying again", self.source.words());
                    continue;
                }
                Some(Ok(Event::Init)) => {
                    listed = Vec::new();
                    continue;
                }
                Some(Ok(Event::InitApply(object))) => {
                    listed.push(self.taken(object));
                    continue;
                }
                Some(Ok(Event::InitDone)) => {
                    let objects = std::mem::take(&mut listed);
                    Change::Listed { source: self.source, objects, history: begun_under.clone() }
                }
                Some(Ok(Event::Apply(object))) => {
                    let (name, object) = self.taken(object);
                    Change::Applied { source: self.source, name, object }
                }
                Some(Ok(Event::Delete(object))) => Change::Gone { source: self.source, name: object.name_any() },
            };
            if self.send.send(told).await.is_err() {
                return;
            }
        }
    }

    /// An object's name and content. The history is told to the watch of rings before anybody else hears of it.
    fn taken<K: Content>(&self, object: K) -> (String, Object) {
        let (name, version) = (object.name_any(), version_of(object.meta()));
        let data = object.content();
        if let Some(tell) = self.tell_history.as_ref().filter(|_| name == HISTORY) {
            let text = data.get(HISTORY_KEY).and_then(|value| String::from_utf8(value.to_vec()).ok()).unwrap_or_default();
            tell.send_if_modified(|held| std::mem::replace(held, text.clone()) != text);
        }
        (name, Object { version, data })
    }
}

fn version_of(meta: &ObjectMeta) -> u64 {
    meta.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// What is still to be read, for whoever asks for the status.
pub(crate) fn missing(listed: &BTreeSet<Source>) -> Vec<String> {
    let missing = Source::ALL.into_iter().filter(|source| !listed.contains(source));
    missing.map(|source| format!("{} are not read yet", source.words())).collect()
}
