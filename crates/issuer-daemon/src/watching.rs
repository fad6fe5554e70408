//! What the API server holds that concerns issuers: four watches, one channel.
//!
//! The watch of rings is begun anew when the bundles' history becomes another one: the API server was restored, and versions
//! from before say nothing any more. What was read stays in use until the new list is there. Each says again and again up to when
//! what it has told is known to be the present ([`Following`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use countersign_api::cluster::{ADOPT_ANNOTATION, FORMAT, HISTORY, HISTORY_KEY, ISSUE_LABEL, KEY_RING_LABEL};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt as _, api::ObjectMeta};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::following::{Ended, Following, Listener, Seen};

/// How many changes may wait.
const CHANGES: usize = 1024;
/// How long a watch that failed rests before it is begun again: longer with each failure in a row.
const REST: Duration = Duration::from_millis(500);
const REST_AT_MOST: Duration = Duration::from_secs(30);
/// A watch that has gone on for so long had not failed.
const NO_FAILURE: Duration = Duration::from_secs(1);
/// Within how long everything has to be confirmed where no policy says, milliseconds.
pub(crate) const WITHIN_MS: i64 = 300_000;

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
    /// An administrator's word on who may take over what.
    pub(crate) adopt: Option<String>,
}

impl Object {
    /// What is kept of an object of the API server.
    pub(crate) fn of(object: impl Content) -> Self {
        let adopt = object.meta().annotations.as_ref().and_then(|all| all.get(ADOPT_ANNOTATION)).cloned();
        Self { version: version_of(object.meta()), data: object.content(), adopt }
    }
}

impl Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").field("version", &self.version).field("keys", &self.data.keys()).finish_non_exhaustive()
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
    /// All that was told of it so far was what there was at this moment, by the clock that doesn't stop while a machine sleeps.
    Confirmed { source: Source, at: i64 },
}

/// What all watches are told by.
pub(crate) struct Watches {
    pub(crate) changes: mpsc::Receiver<Change>,
    /// They end when they are told to, and otherwise by a fault of ours.
    pub(crate) tasks: JoinSet<()>,
    /// Within how long everything has to be confirmed, milliseconds: whoever knows says so here.
    pub(crate) within_ms: watch::Sender<i64>,
}

/// Begins all watches; they end with `stop`.
pub(crate) fn begin(client: &Client, system: &str, bundles: &str, stop: &CancellationToken) -> Watches {
    let (send, changes) = mpsc::channel(CHANGES);
    let (tell_history, history) = watch::channel(String::new());
    let (within_ms, within) = watch::channel(WITHIN_MS);
    let labelled = |label: &str| Some(format!("{label}={FORMAT}"));
    let secrets = |namespace: &str| Api::<Secret>::namespaced(client.clone(), namespace);
    let maps = Api::<ConfigMap>::namespaced(client.clone(), bundles);
    let telling = |source| Telling {
        source,
        send: send.clone(),
        history: history.clone(),
        tell_history: None,
        begun_under: String::new(),
        heard: false,
    };
    let follow = |api, labels| Following::new(api, labels, within.clone());
    let rings = follow(secrets(system), labelled(KEY_RING_LABEL));
    let sections = follow(secrets(system), labelled(ISSUE_LABEL));
    let verify_secrets = follow(secrets(bundles), None);
    let of_bundles = Telling { tell_history: Some(tell_history), ..telling(Source::Bundles) };
    let mut tasks = JoinSet::new();
    spawn(&mut tasks, stop, watch_for_ever(rings, telling(Source::Rings)));
    spawn(&mut tasks, stop, watch_for_ever(sections, telling(Source::Sections)));
    spawn(&mut tasks, stop, watch_for_ever(verify_secrets, telling(Source::VerifySecrets)));
    spawn(&mut tasks, stop, watch_for_ever(Following::new(maps, None, within.clone()), of_bundles));
    Watches { changes, tasks, within_ms }
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
    /// The history that was present before the watch was begun.
    begun_under: String,
    /// Whether anything was heard since.
    heard: bool,
}

/// What is kept of an object.
pub(crate) trait Content: kube::Resource {
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

async fn watch_for_ever<K>(mut following: Following<K>, mut telling: Telling)
where
    K: Content + kube::Resource + Clone + Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let words = telling.source.words();
    let mut failures = 0_u32;
    while !telling.send.is_closed() {
        let mut history = telling.history.clone();
        telling.begun_under.clone_from(&history.borrow_and_update());
        telling.heard = false;
        let begun = Instant::now();
        let ended = tokio::select! {
            ended = following.go_on(&mut telling) => ended,
            changed = history.changed(), if telling.source == Source::Rings => {
                if changed.is_ok() { tracing::info!("the bundles' history is another one; {words} are read anew") }
                following.forget();
                continue;
            }
        };
        if begun.elapsed() >= NO_FAILURE && telling.heard {
            failures = 0;
        }
        if matches!(ended, Ended::InTime) && begun.elapsed() >= NO_FAILURE {
            continue;
        }
        let rest = REST.saturating_mul(1 << failures.min(6)).min(REST_AT_MOST);
        failures = failures.saturating_add(1);
        tracing::warn!(error = %chain(&ended), ?rest, "the watch of {words} fails; trying again");
        tokio::time::sleep(rest).await;
    }
}

/// An error with what caused it: a connection that is refused says so only at the end.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

impl<K> Listener<K> for Telling
where
    K: Content + Send,
{
    async fn hear(&mut self, seen: Seen<K>) -> bool {
        self.heard = true;
        let source = self.source;
        let change = match seen {
            Seen::Listed(objects) => {
                let objects = objects.into_iter().map(|object| self.taken(object)).collect();
                Change::Listed { source, objects, history: self.begun_under.clone() }
            }
            Seen::Applied(object) => {
                let (name, object) = self.taken(object);
                Change::Applied { source, name, object }
            }
            Seen::Gone(object) => Change::Gone { source, name: object.name_any() },
            Seen::Confirmed(at) => Change::Confirmed { source, at },
        };
        self.send.send(change).await.is_ok()
    }
}

impl Telling {
    /// An object's name and content. The history is told to the watch of rings before anybody else hears of it.
    fn taken<K: Content>(&self, object: K) -> (String, Object) {
        let (name, object) = (object.name_any(), Object::of(object));
        if let Some(tell) = self.tell_history.as_ref().filter(|_| name == HISTORY) {
            let text =
                object.data.get(HISTORY_KEY).and_then(|value| String::from_utf8(value.to_vec()).ok()).unwrap_or_default();
            tell.send_if_modified(|held| std::mem::replace(held, text.clone()) != text);
        }
        (name, object)
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
