//! An API server in memory, for tests: objects by their paths, versions, conflicts, and a backup.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{Method, StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use clap::Parser as _;
use countersign_feed::Clock;
use kube::Client;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Environment, Flags},
    events::Events,
    lease::Leading,
    registry::{Registry, Request},
    run::Context,
};

/// The server. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub(crate) struct ApiServer(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<Stored>,
    hangs: AtomicBool,
}

/// All that is stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    version: u64,
    objects: BTreeMap<String, Value>,
}

impl ApiServer {
    pub(crate) fn client(&self) -> Client {
        Client::new(Router::new().fallback(answer).with_state(self.clone()), "default")
    }

    /// What parts of a leader are given, and what they ask of the policies' reconciler.
    pub(crate) fn context(&self) -> (Context, mpsc::Receiver<Request>) {
        let environment = Environment { redis_url: Some("redis://127.0.0.1".into()), pod_name: None, process: "a".into() };
        let config = Config::try_new(&Flags::parse_from(["countersign-operator"]), environment).unwrap();
        let (registry, inbox) = Registry::new();
        let leading = Leading::default();
        leading.extend(Clock::boot_millis(), Duration::from_hours(1));
        let client = self.client();
        let context = Context {
            events: Events::new(client.clone(), "a", registry.clone()),
            client,
            config: Arc::new(config),
            registry,
            versions: Arc::default(),
            leading,
            stop: CancellationToken::new(),
        };
        (context, inbox)
    }

    pub(crate) fn backup(&self) -> Stored {
        self.0.state.lock().clone()
    }

    pub(crate) fn restore(&self, backup: Stored) {
        *self.0.state.lock() = backup;
    }

    /// From here on nothing is answered, or everything again.
    pub(crate) fn hang(&self, hangs: bool) {
        self.0.hangs.store(hangs, SeqCst);
    }

    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        self.0.state.lock().objects.get(path).cloned()
    }

    /// Somebody else's edit.
    pub(crate) fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.0.state.lock();
        let mut object = state.objects.get(path).cloned().unwrap_or_else(|| json!({"metadata": {}}));
        change(&mut object);
        state.put(path, object);
    }

    /// Somebody else's deletion.
    pub(crate) fn delete(&self, path: &str) {
        let mut state = self.0.state.lock();
        state.version += 1;
        state.objects.remove(path);
    }

    fn take(&self, method: &Method, path: &str, body: Value) -> Result<Value, StatusCode> {
        let mut state = self.0.state.lock();
        if *method == Method::POST {
            let name = body["metadata"]["name"].as_str().ok_or(StatusCode::UNPROCESSABLE_ENTITY)?;
            let path = format!("{path}/{name}");
            return if state.objects.contains_key(&path) { Err(StatusCode::CONFLICT) } else { Ok(state.put(&path, body)) };
        }
        let path = path.strip_suffix("/status").unwrap_or(path);
        let held = state.objects.get(path).cloned();
        if *method == Method::GET {
            return held.or_else(|| state.listed(path)).ok_or(StatusCode::NOT_FOUND);
        }
        let wanted = &body["metadata"]["resourceVersion"];
        match held {
            // Applying makes what isn't there; merging into it doesn't.
            None if *method == Method::PATCH && wanted.is_null() && body["kind"].is_string() => Ok(state.put(path, body)),
            None => Err(StatusCode::NOT_FOUND),
            Some(held) if !wanted.is_null() && *wanted != held["metadata"]["resourceVersion"] => Err(StatusCode::CONFLICT),
            Some(held) if *method == Method::DELETE => {
                state.version += 1;
                state.objects.remove(path);
                Ok(held)
            }
            Some(mut held) => {
                if *method == Method::PATCH {
                    merge(&mut held, body);
                } else {
                    held = body;
                }
                Ok(state.put(path, held))
            }
        }
    }
}

impl Stored {
    /// What a collection holds, whatever its labels.
    fn listed(&self, path: &str) -> Option<Value> {
        let is_collection = ["/secrets", "/configmaps"].iter().any(|kind| path.ends_with(kind));
        let within = self.objects.iter().filter(|(of, _)| of.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')));
        let items: Vec<&Value> = within.map(|(_, object)| object).collect();
        is_collection.then(|| json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}))
    }

    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", self.version).into();
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

/// As RFC 7386 does; near enough to an apply for what is tested here.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, from) => *into = from,
    }
}

async fn answer(State(server): State<ApiServer>, method: Method, uri: Uri, body: Bytes) -> Response {
    if server.0.hangs.load(SeqCst) {
        return std::future::pending().await;
    }
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    match server.take(&method, uri.path(), body) {
        Ok(object) => Json(object).into_response(),
        Err(status) => {
            let reason = match status {
                StatusCode::CONFLICT if method == Method::POST => "AlreadyExists",
                StatusCode::CONFLICT => "Conflict",
                _ => "NotFound",
            };
            let body = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": reason,
                "reason": reason, "code": status.as_u16()});
            (status, Json(body)).into_response()
        }
    }
}
