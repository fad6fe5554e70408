//! The API server over plain HTTP: a cluster lets tests in by a Unix socket.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    http::{Answer, Request, Target},
    rig::eventually,
};

/// Somebody at the API server.
#[derive(Clone)]
pub(crate) struct Api {
    socket: Target,
    user: Option<String>,
}

impl Api {
    pub(super) fn new(socket: Target) -> Self {
        Self { socket, user: None }
    }

    /// The same server as a service account, by impersonation.
    pub(crate) fn as_service_account(&self, namespace: &str, name: &str) -> Self {
        Self { socket: self.socket.clone(), user: Some(format!("system:serviceaccount:{namespace}:{name}")) }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path))
    }

    /// An object; `None` when there is none.
    pub(crate) fn object(&self, path: &str) -> Option<Value> {
        let answer = self.get(path);
        match answer.status {
            200 => Some(answer.json()),
            404 => None,
            status => panic!("GET {path}: {status} {}", answer.json()),
        }
    }

    /// The items of a list.
    pub(crate) fn list(&self, path: &str) -> Vec<Value> {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {}", answer.json());
        answer.json()["items"].as_array().cloned().unwrap_or_default()
    }

    /// Whether the API server would take an object, and what it says.
    pub(crate) fn try_create(&self, object: &Value) -> Answer {
        self.send(Request::post(&format!("{}?dryRun=All&fieldValidation=Strict", collection(object)), object))
    }

    /// Server-side apply, which must succeed; the object as it is then.
    pub(crate) fn apply(&self, object: &Value) -> Value {
        let answer = self.apply_as("e2e", object);
        assert!(matches!(answer.status, 200 | 201), "apply {object}: {} {}", answer.status, answer.json());
        answer.json()
    }

    /// Server-side apply by a field manager.
    pub(crate) fn apply_as(&self, manager: &str, object: &Value) -> Answer {
        let path = format!("{}?fieldManager={manager}&fieldValidation=Strict", path(object));
        let request = Request::new("PATCH", &path).header("content-type", "application/apply-patch+yaml");
        self.send(request.body(object.to_string()))
    }

    /// Makes an object that isn't there.
    pub(crate) fn create(&self, object: &Value) {
        let answer = self.send(Request::post(&collection(object), object));
        assert_eq!(answer.status, 201, "create {object}: {}", answer.json());
    }

    /// What `kubectl get` shows of a collection: a cell of each row, by its column's name. From the API server's memory.
    pub(crate) fn column(&self, path: &str, column: &str) -> Vec<Value> {
        let request = Request::get(&format!("{path}?resourceVersion=0&includeObject=None"))
            .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io");
        let answer = self.send(request);
        assert_eq!(answer.status, 200, "{path}");
        let table = answer.json();
        let names = table["columnDefinitions"].as_array().unwrap();
        let at = names.iter().position(|definition| definition["name"] == column).unwrap();
        let rows = table["rows"].as_array().cloned().unwrap_or_default();
        rows.into_iter().map(|row| row["cells"][at].clone()).collect()
    }

    /// The events about an object, as `REASON: MESSAGE`.
    pub(crate) fn events(&self, object: &Value) -> Vec<String> {
        let namespace = object["metadata"]["namespace"].as_str().unwrap();
        let all = self.list(&format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events"));
        let about = |event: &&Value| {
            event["regarding"]["name"] == object["metadata"]["name"] && event["regarding"]["kind"] == object["kind"]
        };
        let text = |event: &Value| {
            format!("{}: {}", event["reason"].as_str().unwrap_or_default(), event["note"].as_str().unwrap_or_default())
        };
        all.iter().filter(about).map(text).collect()
    }

    /// JSON merge patch, which must succeed; the object as it is then.
    pub(crate) fn merge(&self, path: &str, change: &Value) -> Value {
        let answer = self.try_merge(path, change);
        assert_eq!(answer.status, 200, "patch {path} {change}: {}", answer.json());
        answer.json()
    }

    /// JSON merge patch.
    pub(crate) fn try_merge(&self, path: &str, change: &Value) -> Answer {
        let request = Request::new("PATCH", path).header("content-type", "application/merge-patch+json");
        self.send(request.body(change.to_string()))
    }

    /// Deletes; gone already is as good.
    pub(crate) fn delete(&self, path: &str) {
        let answer = self.send(Request::new("DELETE", path));
        assert!(matches!(answer.status, 200 | 202 | 404), "DELETE {path}: {}", answer.json());
    }

    /// Waits until there is no such object.
    pub(crate) fn wait_gone(&self, path: &str, within: Duration) {
        eventually(&format!("{path} is gone"), within, || self.object(path).is_none().then_some(()));
    }

    /// Makes a namespace unless it is there.
    pub(crate) fn namespace(&self, name: &str) {
        self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    }

    /// Waits until an object satisfies a condition; the object. Says what it was last when it doesn't.
    pub(crate) fn wait(
        &self,
        path: &str,
        what: &str,
        within: Duration,
        mut condition: impl FnMut(&Value) -> bool,
    ) -> Value {
        let mut last = None;
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually(&format!("{path}: {what}"), within, || {
                // The API server may be away for a moment.
                let answer = self.try_get(path)?;
                last = Some(answer.json());
                last.clone().filter(|object| answer.status == 200 && condition(object))
            })
        }));
        outcome.unwrap_or_else(|panic| {
            eprintln!("{path} was last: {}", serde_json::to_string_pretty(&last).unwrap());
            std::panic::resume_unwind(panic)
        })
    }

    /// Waits for a condition to have a status.
    pub(crate) fn wait_condition(&self, path: &str, kind: &str, status: &str, within: Duration) -> Value {
        self.wait(path, &format!("{kind}={status}"), within, |object| {
            let current = condition(object, kind);
            current["status"] == status && current["observedGeneration"] == object["metadata"]["generation"]
        })
    }

    /// A token of a service account, for given audiences (none: the API server's own).
    pub(crate) fn service_account_token(&self, namespace: &str, name: &str, audiences: &[&str]) -> String {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"audiences": audiences, "expirationSeconds": 7200}});
        let answer =
            self.send(Request::post(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"), &request));
        assert_eq!(answer.status, 201, "a token of {namespace}/{name}: {}", answer.json());
        answer.json()["status"]["token"].as_str().unwrap().to_owned()
    }

    /// Whether they may, as the API server decides.
    pub(crate) fn may(&self, verb: &str, group: &str, resource: &str, namespace: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": {"verb": verb, "group": group, "resource": resource, "subresource": subresource,
                "namespace": namespace}}});
        let answer = self.send(Request::post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review));
        assert_eq!(answer.status, 201, "{}", answer.json());
        answer.json()["status"]["allowed"] == true
    }

    pub(crate) fn send(&self, request: Request) -> Answer {
        self.with_user(request).send(&self.socket)
    }

    pub(super) fn try_get(&self, path: &str) -> Option<Answer> {
        let mut connection = crate::http::Connection::open(&self.socket).ok()?;
        self.with_user(Request::get(path)).send_on(&mut connection)
    }

    fn with_user(&self, request: Request) -> Request {
        match &self.user {
            Some(user) => request
                .header("impersonate-user", user)
                .header("impersonate-group", "system:serviceaccounts")
                .header("impersonate-group", "system:authenticated"),
            None => request,
        }
    }
}

/// A condition of an object; null when it hasn't got it.
pub(crate) fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

/// Where an object lies.
pub(crate) fn path(object: &Value) -> String {
    format!("{}/{}", collection(object), object["metadata"]["name"].as_str().unwrap())
}

fn collection(object: &Value) -> String {
    let version = object["apiVersion"].as_str().unwrap();
    let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let resource = match object["kind"].as_str().unwrap() {
        "AuthPolicy" => "authpolicies".to_owned(),
        kind => format!("{}s", kind.to_ascii_lowercase()),
    };
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{root}/namespaces/{namespace}/{resource}"),
        None => format!("{root}/{resource}"),
    }
}
