//! An API server that plays a script: AuthPolicies with versions, merge patches and watches, and an operator behind its service
//! proxy. Everything that it was asked is kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::TcpListener,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::rig::{Said, countersign, run_with};

/// One call that was made.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
    pub(crate) headers: HeaderMap,
}

/// What the operator does with a policy that was changed: the statuses that it writes, one after the other.
type Reaction = fn(&Value) -> Vec<Value>;

/// What the server holds and how it behaves.
#[derive(Default)]
pub(crate) struct World {
    policies: BTreeMap<String, Value>,
    version: u64,
    events: Vec<Value>,
    pub(crate) asked: Vec<Asked>,
    /// Verb and resource that the caller may not.
    pub(crate) forbidden: BTreeSet<(&'static str, &'static str)>,
    /// How many patches find the object changed by somebody else.
    pub(crate) conflicts: usize,
    /// Each watch ends after one event, as API servers' watches may at any time.
    pub(crate) short_watches: bool,
    /// The resource isn't installed.
    pub(crate) no_resource: bool,
    pub(crate) reaction: Option<Reaction>,
    /// What the operator answers, by path; nothing: no operator runs.
    pub(crate) operator: BTreeMap<String, (u16, Value)>,
    pub(crate) lease: Option<Value>,
}

#[derive(Clone)]
struct Shared {
    world: Arc<Mutex<World>>,
    changed: Arc<watch::Sender<usize>>,
}

/// The server, with a kubeconfig for it.
pub(crate) struct ApiServer {
    directory: TempDir,
    shared: Shared,
    _runtime: tokio::runtime::Runtime,
}

impl ApiServer {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Shared { world: Arc::default(), changed: Arc::new(watch::Sender::new(0)) };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).with_state(shared.clone());
        runtime.spawn(async move { axum::serve(tokio::net::TcpListener::from_std(listener).unwrap(), router).await });
        let directory = tempfile::tempdir().unwrap();
        let context = |name: &str, cluster: &str, user: &str| json!({"name": name, "context": {"cluster": cluster, "user": user, "namespace": "shop"}});
        // Nothing listens on a port that was bound and given back.
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "prod-eu",
            "clusters": [
                {"name": "eu", "cluster": {"server": format!("http://{address}")}},
                {"name": "away", "cluster": {"server": format!("http://{nobody}")}},
            ],
            "users": [{"name": "alice", "user": {"token": "alices-own-token"}}, {"name": "certificate", "user": {}},
                {"name": "bob", "user": {"token": "alices-own-token", "as": "bob"}},
            ],
            "contexts": [
                context("prod-eu", "eu", "alice"), context("by-certificate", "eu", "certificate"),
                context("as-bob", "eu", "bob"),
                context("away", "away", "alice"),
            ],
        });
        std::fs::write(directory.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        Self { directory, shared, _runtime: runtime }
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.shared.world.lock().unwrap()
    }

    /// A policy with a status.
    pub(crate) fn add(&self, name: &str, status: &Value) {
        let (namespace, short) = name.split_once('/').unwrap();
        let object = json!({
            "apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicy",
            "metadata": {"namespace": namespace, "name": short, "generation": 1, "uid": "u"},
            "spec": {"audiences": ["shop-api"], "issuer": format!("https://auth.{short}.example")},
            "status": status,
        });
        self.shared.store(&mut self.world(), object, "ADDED");
    }

    /// Puts a policy in another's place.
    pub(crate) fn replace(&self, object: Value) {
        self.shared.store(&mut self.world(), object, "MODIFIED");
    }

    pub(crate) fn policy(&self, name: &str) -> Value {
        self.world().policies[name].clone()
    }

    /// The calls with this method.
    pub(crate) fn asked(&self, method: &str) -> Vec<Asked> {
        self.world().asked.iter().filter(|asked| asked.method == method).cloned().collect()
    }

    /// A command with this kubeconfig as the environment's.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = countersign();
        command.args(arguments).env("KUBECONFIG", self.kubeconfig()).current_dir(self.directory.path());
        command
    }

    /// A command on context `prod-eu`.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        run_with(self.command(&[&["--context", "prod-eu"], arguments].concat()), "")
    }
}

impl Shared {
    fn store(&self, world: &mut World, mut object: Value, kind: &str) -> Value {
        world.version += 1;
        object["metadata"]["resourceVersion"] = json!(world.version.to_string());
        world.policies.insert(name_of(&object), object.clone());
        world.events.push(json!({"type": kind, "object": object}));
        self.changed.send_replace(world.events.len());
        object
    }
}

fn name_of(object: &Value) -> String {
    let part = |name: &str| object["metadata"][name].as_str().unwrap().to_owned();
    format!("{}/{}", part("namespace"), part("name"))
}

fn status(code: u16, reason: &str, message: &str, name: &str) -> Response {
    let details = if name.is_empty() { json!({}) } else { json!({"name": name, "kind": "authpolicies"}) };
    answered(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
                "message": message, "details": details}),
    )
}

fn answered(code: u16, body: &Value) -> Response {
    (StatusCode::from_u16(code).unwrap(), [(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

async fn answer(State(shared): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let asked = Asked {
        method: method.to_string(),
        path: uri.path().to_owned(),
        query: uri.query().unwrap_or_default().to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
        headers,
    };
    let mut world = shared.world.lock().unwrap();
    world.asked.push(asked.clone());
    let segments: Vec<&str> = asked.path.split('/').filter(|s| !s.is_empty()).collect();
    let watching = asked.query.contains("watch=true");
    match segments.as_slice() {
        ["apis", "countersign.dev", "v1alpha1", rest @ ..] => {
            let verb = match (method.as_str(), rest) {
                ("PATCH", _) => "patch",
                (_, _) if watching => "watch",
                (_, ["namespaces", _, _, _]) => "get",
                _ => "list",
            };
            if world.forbidden.contains(&(verb, "authpolicies")) {
                return forbidden(verb, "authpolicies", "countersign.dev");
            }
            if world.no_resource {
                return status(404, "NotFound", "the server could not find the requested resource", "");
            }
            match (verb, rest) {
                ("list", ["authpolicies"]) => list(&world, ""),
                ("list", ["namespaces", namespace, _]) => list(&world, namespace),
                ("watch", _) => watched(&shared, &world, &asked),
                (_, ["namespaces", namespace, _, name]) => {
                    let Some(object) = world.policies.get(&format!("{namespace}/{name}")).cloned() else {
                        return status(404, "NotFound", &format!("authpolicies {name:?} not found"), name);
                    };
                    if verb == "get" { answered(200, &object) } else { patched(&shared, &mut world, &asked, &object) }
                }
                _ => status(404, "NotFound", "no such path", ""),
            }
        }
        ["api", "v1", "namespaces", _, "services", "https:countersign-operator:api", "proxy", rest @ ..] => {
            if world.forbidden.contains(&(if method == Method::GET { "get" } else { "create" }, "services/proxy")) {
                return forbidden("create", "services/proxy", "");
            }
            match world.operator.get(&rest.join("/")) {
                Some((code, body)) => answered(*code, body),
                None => status(503, "ServiceUnavailable", "no endpoints available for service", ""),
            }
        }
        ["api", "v1", "namespaces", _, "serviceaccounts", name, "token"] => {
            if world.forbidden.contains(&("create", "serviceaccounts/token")) {
                return forbidden("create", "serviceaccounts/token", "");
            }
            let mut made = asked.body.clone();
            made["status"] =
                json!({"token": format!("borrowed-from-{name}"), "expirationTimestamp": "2030-01-01T00:00:00Z"});
            answered(201, &made)
        }
        ["apis", "coordination.k8s.io", "v1", "namespaces", _, "leases", name] => match &world.lease {
            _ if world.forbidden.contains(&("get", "leases")) => forbidden("get", "leases", "coordination.k8s.io"),
            Some(lease) => answered(200, lease),
            None => status(404, "NotFound", "leases not found", name),
        },
        _ => status(404, "NotFound", "the server could not find the requested resource", ""),
    }
}

fn forbidden(verb: &str, resource: &str, group: &str) -> Response {
    let message = format!(
        "{resource}.{group} \"x\" is forbidden: User \"alice@example\" cannot {verb} resource \"{resource}\" in API group \
         \"{group}\" in the namespace \"shop\""
    );
    status(403, "Forbidden", &message, "x")
}

fn list(world: &World, namespace: &str) -> Response {
    let items: Vec<&Value> =
        world.policies.values().filter(|p| namespace.is_empty() || p["metadata"]["namespace"] == namespace).collect();
    let version = world.version.to_string();
    answered(
        200,
        &json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicyList",
                "metadata": {"resourceVersion": version}, "items": items}),
    )
}

fn patched(shared: &Shared, world: &mut World, asked: &Asked, before: &Value) -> Response {
    if world.conflicts > 0 {
        world.conflicts -= 1;
        return status(409, "Conflict", "the object has been modified", "x");
    }
    let fence = &asked.body["metadata"]["resourceVersion"];
    if !fence.is_null() && *fence != before["metadata"]["resourceVersion"] {
        return status(409, "Conflict", "the object has been modified", "x");
    }
    let mut after = before.clone();
    merge(&mut after, &asked.body);
    if after["spec"] != before["spec"] {
        after["metadata"]["generation"] = json!(before["metadata"]["generation"].as_u64().unwrap() + 1);
    }
    if asked.query.contains("dryRun=All") {
        return answered(200, &after);
    }
    let stored = shared.store(world, after, "MODIFIED");
    if let Some(reaction) = world.reaction {
        for status in reaction(&stored) {
            let mut reacted = stored.clone();
            reacted["status"] = status;
            shared.store(world, reacted, "MODIFIED");
        }
    }
    answered(200, &stored)
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(members) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in members {
        merge(&mut target[name.as_str()], value);
    }
}

/// The events after the version that was asked for, and those to come.
fn watched(shared: &Shared, world: &World, asked: &Asked) -> Response {
    let from: u64 =
        asked.query.split('&').find_map(|p| p.strip_prefix("resourceVersion=")).and_then(|v| v.parse().ok()).unwrap_or(0);
    let version = |event: &Value| event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    let next = world.events.iter().position(|event| version(event) > from).unwrap_or(world.events.len());
    let (short, world) = (world.short_watches, shared.world.clone());
    let state = (next, shared.changed.subscribe(), false);
    let events = stream::unfold(state, move |(next, mut changed, done)| {
        let world = world.clone();
        async move {
            if done && short {
                return None;
            }
            loop {
                let event = world.lock().unwrap().events.get(next).cloned();
                if let Some(event) = event {
                    return Some((Ok::<_, std::convert::Infallible>(format!("{event}\n")), (next + 1, changed, true)));
                }
                changed.changed().await.ok()?;
            }
        }
    });
    ([(CONTENT_TYPE, "application/json")], Body::from_stream(events)).into_response()
}
