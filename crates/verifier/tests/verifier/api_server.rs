//! An API server in this process: ConfigMaps and Secrets of one namespace, with versions, pages, watches and bookmarks as the
//! real one has them, and with what can go wrong.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

pub(crate) const NAMESPACE: &str = "countersign-bundles";

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What it holds, and how it misbehaves.
pub(crate) struct ApiServer {
    state: Arc<Mutex<State>>,
    moved: watch::Sender<u64>,
    pub(crate) address: SocketAddr,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct State {
    revision: u64,
    present: BTreeMap<String, Value>,
    /// Every change of a ConfigMap: version, kind of event, object.
    log: Vec<(u64, &'static str, Value)>,
    secrets: BTreeMap<String, Value>,
    /// Watches from before this version, and pages of older lists, are gone.
    compacted: u64,
    /// Counts up to end all watches.
    cuts: u64,
    faults: Faults,
    pages: HashMap<String, (u64, Vec<Value>)>,
    requests: Requests,
}

/// What goes wrong at present.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    /// Every connection ends without an answer.
    pub(crate) away: bool,
    /// Everything is forbidden.
    pub(crate) forbidden: bool,
    /// Lists show what was at this version.
    pub(crate) stale: Option<u64>,
    /// Watches send no bookmarks.
    pub(crate) no_bookmarks: bool,
    /// A cut leaves half an event.
    pub(crate) torn: bool,
    /// The second page of any list is gone, this many times.
    pub(crate) gone_pages: u32,
}

/// How often what was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    /// That got no answer.
    pub(crate) while_away: u64,
    pub(crate) lists: u64,
    pub(crate) probes: u64,
    pub(crate) watches: u64,
    pub(crate) secrets: u64,
}

impl State {
    fn objects_at(&self, version: u64) -> BTreeMap<String, Value> {
        if version >= self.revision {
            return self.present.clone();
        }
        let mut objects = BTreeMap::new();
        for (_, kind, object) in self.log.iter().take_while(|(at, ..)| *at <= version) {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            if *kind == "DELETED" {
                objects.remove(&name);
            } else {
                objects.insert(name, object.clone());
            }
        }
        objects
    }

    fn change(&mut self, name: &str, data: Option<Value>, annotations: &Value) -> u64 {
        let present = self.present.remove(name);
        self.revision += 1;
        let kind = match (&present, &data) {
            (None, None) => return self.revision,
            (None, Some(_)) => "ADDED",
            (Some(_), Some(_)) => "MODIFIED",
            (Some(_), None) => "DELETED",
        };
        let data = data.or_else(|| present.map(|object| object["data"].clone()));
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": data,
            "metadata": {
                "name": name, "namespace": NAMESPACE, "resourceVersion": self.revision.to_string(),
                "annotations": annotations,
            },
        });
        if kind != "DELETED" {
            self.present.insert(name.to_owned(), object.clone());
        }
        self.log.push((self.revision, kind, object));
        self.revision
    }
}

impl ApiServer {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { revision: 100, compacted: 1, ..State::default() }));
        let moved = watch::Sender::new(0);
        let mut tasks = JoinSet::new();
        let (shared, seen) = (state.clone(), moved.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (state, moved) = (shared.clone(), seen.clone());
                let service = service_fn(move |request| std::future::ready(answer(&state, moved.subscribe(), &request)));
                connections.spawn(async move {
                    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { state, moved, address, _tasks: tasks }
    }

    fn change(&self, change: impl FnOnce(&mut State) -> u64) -> u64 {
        let at = change(&mut self.state.lock());
        self.moved.send_modify(|n| *n += 1);
        at
    }

    /// Writes a ConfigMap; its version.
    pub(crate) fn put(&self, name: &str, data: &Value) -> u64 {
        self.change(|state| state.change(name, Some(data.clone()), &json!({})))
    }

    /// Writes the ConfigMap of a bundle, with the policy's name beside it.
    pub(crate) fn put_bundle(&self, policy: &str, sealed: &str) -> u64 {
        let name = bundle_object(policy);
        let annotations = json!({"countersign.dev/policy": policy});
        self.change(|state| state.change(&name, Some(json!({"bundle.json": sealed})), &annotations))
    }

    pub(crate) fn delete(&self, name: &str) -> u64 {
        self.change(|state| state.change(name, None, &json!({})))
    }

    pub(crate) fn put_history(&self, value: &str) -> u64 {
        self.put("history", &json!({"history": value}))
    }

    /// Something that isn't ours moves the version on.
    pub(crate) fn count_to(&self, version: u64) {
        self.change(|state| {
            state.revision = state.revision.max(version);
            state.revision
        });
    }

    pub(crate) fn put_secret(&self, policy: &str, content: &str) {
        let encoded = countersign_core::jose::base64url::encode(content.as_bytes());
        // Standard base64 with padding, as JSON of Kubernetes has it.
        let mut encoded = encoded.replace('-', "+").replace('_', "/");
        while !encoded.len().is_multiple_of(4) {
            encoded.push('=');
        }
        let name = bundle_object(policy);
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "data": {"secrets.json": encoded},
            "metadata": {"name": name, "namespace": NAMESPACE, "resourceVersion": "1"},
        });
        self.change(|state| {
            state.secrets.insert(name, object);
            state.revision
        });
    }

    pub(crate) fn revision(&self) -> u64 {
        self.state.lock().revision
    }

    /// The text of a bundle as it was at a version.
    pub(crate) fn bundles_at(&self, version: u64) -> Vec<String> {
        let objects = self.state.lock().objects_at(version);
        objects.values().filter_map(|object| object["data"]["bundle.json"].as_str().map(str::to_owned)).collect()
    }

    /// Ends all watches.
    pub(crate) fn cut(&self) {
        self.change(|state| {
            state.cuts += 1;
            state.revision
        });
    }

    /// Forgets what was before the present.
    pub(crate) fn compact(&self) {
        self.change(|state| {
            state.compacted = state.revision;
            state.pages.clear();
            state.revision
        });
    }

    /// Restores an old backup: what came after `version` never was, and versions count on from there.
    pub(crate) fn restore(&self, version: u64) {
        self.change(|state| {
            state.present = state.objects_at(version);
            state.log.retain(|(at, ..)| *at <= version);
            state.revision = version;
            state.compacted = state.compacted.min(version);
            state.cuts += 1;
            state.pages.clear();
            version
        });
    }

    pub(crate) fn fail(&self, change: impl FnOnce(&mut Faults)) {
        self.change(|state| {
            change(&mut state.faults);
            if state.faults.away {
                state.cuts += 1;
            }
            state.revision
        });
    }

    pub(crate) fn requests(&self) -> Requests {
        self.state.lock().requests
    }
}

pub(crate) fn bundle_object(policy: &str) -> String {
    countersign_api::cluster::bundle_name(&policy.parse().unwrap())
}

fn answer(
    state: &Arc<Mutex<State>>,
    moved: watch::Receiver<u64>,
    request: &Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let query: HashMap<String, String> = request.uri().query().unwrap_or_default().split('&').filter_map(pair).collect();
    let path = request.uri().path().to_owned();
    let rest = path.strip_prefix(&format!("/api/v1/namespaces/{NAMESPACE}/")).unwrap_or_default().to_owned();
    let mut locked = state.lock();
    if locked.faults.away {
        locked.requests.while_away += 1;
        return Err(std::io::Error::other("away"));
    }
    if locked.faults.forbidden {
        return Ok(status(403, "Forbidden", "configmaps is forbidden: User \"nobody\" cannot list resource"));
    }
    if let Some(name) = rest.strip_prefix("secrets/") {
        locked.requests.secrets += 1;
        return Ok(locked.secrets.get(name).map_or_else(|| status(404, "NotFound", "no such secret"), whole));
    }
    assert_eq!(rest, "configmaps", "nothing else is a verifier's to read");
    if query.get("watch").is_some_and(|watch| watch == "true") {
        locked.requests.watches += 1;
        let from: u64 = query["resourceVersion"].parse().unwrap();
        assert_eq!(query["allowWatchBookmarks"], "true");
        let cuts = locked.cuts;
        drop(locked);
        return Ok(watch_from(state.clone(), moved, from, cuts));
    }
    if let Some(name) = query.get("fieldSelector").and_then(|only| only.strip_prefix("metadata.name=")) {
        locked.requests.probes += 1;
        let at = locked.faults.stale.unwrap_or(locked.revision);
        let items: Vec<Value> = locked.objects_at(at).remove(name).into_iter().collect();
        return Ok(whole(&list(at, &items, None)));
    }
    Ok(page(&mut locked, &query))
}

fn pair(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=')?;
    Some((name.to_owned(), value.replace("%3D", "=").replace("%2F", "/")))
}

fn page(state: &mut State, query: &HashMap<String, String>) -> Response<Body> {
    let limit: usize = query["limit"].parse().unwrap();
    let (at, mut items) = if let Some(token) = query.get("continue") {
        if state.faults.gone_pages > 0 {
            state.faults.gone_pages -= 1;
            return status(410, "Expired", "the provided continue parameter is too old");
        }
        match state.pages.remove(token) {
            Some(page) => page,
            None => return status(410, "Expired", "the provided continue parameter is too old"),
        }
    } else {
        assert!(!query.contains_key("resourceVersion"), "a list is of the present");
        state.requests.lists += 1;
        let at = state.faults.stale.unwrap_or(state.revision);
        (at, state.objects_at(at).into_values().collect())
    };
    let rest = if items.len() > limit { items.split_off(limit) } else { Vec::new() };
    let token = (!rest.is_empty()).then(|| format!("page-{}-{}", at, rest.len()));
    if let Some(token) = &token {
        state.pages.insert(token.clone(), (at, rest));
    }
    whole(&list(at, &items, token.as_deref()))
}

fn list(at: u64, items: &[Value], token: Option<&str>) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMapList", "items": items,
        "metadata": {"resourceVersion": at.to_string(), "continue": token},
    })
}

fn whole(value: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never: Infallible| match never {});
    Response::builder().header("Content-Type", "application/json").body(body.boxed_unsync()).unwrap()
}

fn status(code: u16, reason: &str, message: &str) -> Response<Body> {
    let mut answer = whole(&status_object(code, reason, message));
    *answer.status_mut() = StatusCode::from_u16(code).unwrap();
    answer
}

fn status_object(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": message,
    })
}

/// What a watch sends next.
enum Sent {
    Events(String, u64),
    Last(std::io::Result<String>),
    Nothing,
}

impl State {
    fn next_of_watch(&self, at: u64, cuts: u64) -> Sent {
        if self.cuts != cuts {
            let torn = "{\"type\":\"MODIFIED\",\"object\":{\"kind\":\"Conf".to_owned();
            return Sent::Last(if self.faults.torn { Ok(torn) } else { Err(std::io::Error::other("cut")) });
        }
        if at < self.compacted {
            return Sent::Last(Ok(line("ERROR", &status_object(410, "Expired", "too old resource version"))));
        }
        let (mut text, mut next) = (String::new(), at);
        for (version, kind, object) in
            self.log.iter().rev().take_while(|(version, ..)| *version > at).collect::<Vec<_>>().into_iter().rev()
        {
            text.push_str(&line(kind, object));
            next = *version;
        }
        if text.is_empty() && self.revision > at && !self.faults.no_bookmarks {
            let metadata = json!({"resourceVersion": self.revision.to_string()});
            text = line("BOOKMARK", &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}));
            next = self.revision;
        }
        if text.is_empty() { Sent::Nothing } else { Sent::Events(text, next) }
    }
}

/// Everything after `from`, as it comes, until the watch is cut.
fn watch_from(state: Arc<Mutex<State>>, moved: watch::Receiver<u64>, from: u64, cuts: u64) -> Response<Body> {
    let events = futures_util::stream::unfold((moved, from, false), move |(mut moved, at, ended)| {
        let state = state.clone();
        async move {
            if ended {
                return None;
            }
            loop {
                moved.borrow_and_update();
                let sent = state.lock().next_of_watch(at, cuts);
                match sent {
                    Sent::Events(text, next) => return Some((Ok(Frame::data(Bytes::from(text))), (moved, next, false))),
                    Sent::Last(last) => return Some((last.map(|text| Frame::data(Bytes::from(text))), (moved, at, true))),
                    Sent::Nothing => moved.changed().await.ok()?,
                }
            }
        }
    });
    let body = StreamBody::new(Box::pin(events)).boxed_unsync();
    Response::builder().header("Content-Type", "application/json").body(body).unwrap()
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}
