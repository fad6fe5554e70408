//! One installation with operators and a verifier on every node, and what tests ask of it.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, Weak},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{
    http::{Answer, Request},
    rig::{Api, Collector, Installation, Operator, PATIENCE, SYSTEM, Setup, Verifier, condition, eventually, object_path},
};

/// How long a rotation may take, also when a leader was killed and its Lease has to run out first.
pub(super) const LONG: Duration = Duration::from_mins(2);

/// Fields are in the order in which they end: whoever uses something before what is used.
pub(super) struct World {
    pub(super) verifiers: Vec<Verifier>,
    pub(super) operators: Vec<Operator>,
    pub(super) minter: Minter,
    pub(super) installation: Installation,
    /// Gets the operators' spans, where they send any.
    pub(super) collector: Option<Collector>,
}

/// A policy that issues tokens.
pub(super) fn policy(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicy",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {
            "audiences": [format!("{name}-api")],
            "issuer": format!("https://{namespace}.{name}.example"),
            "roles": [{"name": "user", "permissions": ["orders:read"]}],
            "declaredSessions": {"roles": ["user"]},
        },
    })
}

impl World {
    /// One that tests share which take nothing away from it. It ends with the last of them.
    pub(super) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<World>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let collector = Collector::start();
            let operator_arguments = vec![format!("--otlp-endpoint={}", collector.url())];
            let world = Self::with(Setup { nodes: 3, operators: 1, operator_arguments, ..Setup::default() });
            let world = Arc::new(Self { collector: Some(collector), ..world });
            *shared = Arc::downgrade(&world);
            world
        })
    }

    /// A cluster with that many nodes, each with its verifier, and that many operators, one of which leads.
    pub(super) fn start(nodes: usize, operators: usize) -> Self {
        Self::with(Setup { nodes, operators, ..Setup::default() })
    }

    /// The same of whatever is set up.
    pub(super) fn with(setup: Setup) -> Self {
        let Setup { nodes, operators, .. } = setup;
        let installation = Installation::with(setup);
        let operators = (0..operators).map(|number| installation.operator(number)).collect();
        let mut verifiers: Vec<_> = (0..nodes).map(|node| installation.launch_verifier(node)).collect();
        let minter = Minter::new(&installation);
        // A verifier is ready when it has a policy to serve.
        let world_policy = policy("world", "first");
        installation.api().namespace("world");
        installation.api().apply(&world_policy);
        verifiers.iter_mut().for_each(Verifier::wait_until_ready);
        Self { verifiers, operators, minter, installation, collector: None }
    }

    pub(super) fn api(&self) -> Api {
        self.installation.api()
    }

    /// Applies a policy and waits until it is enforced and, if it issues tokens, has keys that sign; the object then.
    pub(super) fn enforced(&self, policy: &Value) -> Value {
        let api = self.api();
        api.namespace(policy["metadata"]["namespace"].as_str().unwrap());
        api.apply(policy);
        self.in_force(policy)
    }

    /// The same of one that is there.
    pub(super) fn in_force(&self, policy: &Value) -> Value {
        let (api, path) = (self.api(), object_path(policy));
        let enforced = api.wait_condition(&path, "Enforced", "True", PATIENCE);
        if enforced["spec"]["issuer"].is_null() {
            return enforced;
        }
        api.wait(&path, "enforced, and keys sign", PATIENCE, |policy| {
            ["Enforced", "KeysReady"].iter().all(|kind| condition(policy, kind)["status"] == "True")
        })
    }

    fn lease(&self) -> Option<Value> {
        self.api().object(&format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/countersign-operator"))
    }

    /// Takes a backup that is older than the leader's last renewal, as all but those of the last two seconds are.
    pub(super) fn back_up(&mut self, name: &str) {
        self.installation.cluster.save(name);
        let renewed = |lease: &Value| lease["spec"]["renewTime"].clone();
        let before = self.lease().as_ref().map(renewed);
        self.eventually_restarting("the Lease is renewed", |world| {
            (world.lease().as_ref().map(renewed) != before).then_some(())
        });
    }

    /// Which operator leads.
    pub(super) fn leader(&self) -> usize {
        eventually("an operator leads", LONG, || {
            let lease = self.lease()?;
            let holder = lease["spec"]["holderIdentity"].as_str()?;
            self.operators.iter().position(|operator| operator.identity() == holder)
        })
    }

    /// What the kubelet does with operators that ended.
    pub(super) fn restart_ended_operators(&mut self) {
        for (number, operator) in self.operators.iter_mut().enumerate() {
            if operator.process().ended().is_some() {
                *operator = self.installation.operator(number);
            }
        }
    }

    /// Waits for a condition while operators that end are started again: having written everything anew after a restore, one
    /// starts over.
    pub(super) fn eventually_restarting<T>(&mut self, what: &str, mut condition: impl FnMut(&Self) -> Option<T>) -> T {
        eventually(what, LONG, || {
            self.restart_ended_operators();
            condition(self)
        })
    }

    /// The verdicts of all verifiers on a token, without repetitions.
    pub(super) fn verdicts(&self, policy: &Value, token: &str) -> BTreeSet<(u16, String)> {
        let (namespace, name) = names(policy);
        self.verifiers.iter().map(|verifier| verifier.verify_of(namespace, name, token)).collect()
    }

    /// Waits until all verifiers give one verdict on a token.
    pub(super) fn eventually(&self, policy: &Value, token: &str, expected: (u16, &str)) {
        let expected = BTreeSet::from([(expected.0, expected.1.to_owned())]);
        let mut last = BTreeSet::new();
        let agreed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("all verifiers agree", PATIENCE, || {
                last = self.verdicts(policy, token);
                (last == expected).then_some(())
            });
        }));
        assert!(agreed.is_ok(), "expected {expected:?}, last {last:?}");
    }
}

/// Namespace and name.
pub(super) fn names(object: &Value) -> (&str, &str) {
    (object["metadata"]["namespace"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap())
}

/// The key that signs a policy's access tokens, by its status.
pub(super) fn active_key(policy: &Value) -> Option<String> {
    let rings = policy["status"]["keyRings"].as_array()?;
    let access = rings.iter().find(|ring| ring["name"] == "Access")?;
    Some(access["activeKID"].as_str()?.to_owned())
}

/// The key that signed a token.
pub(super) fn key_of(token: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    let header: Value = serde_json::from_slice(&header).unwrap();
    header["kid"].as_str().unwrap().to_owned()
}

/// A service account that may mint tokens, and nothing else.
#[derive(Clone)]
pub(super) struct Minter {
    api: Api,
    token: String,
    /// Why nobody made one, last.
    refusal: Arc<Mutex<String>>,
}

impl Minter {
    pub(super) fn new(installation: &Installation) -> Self {
        let api = installation.api();
        for object in [
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "default", "name": "minter"}}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "minter"},
                "rules": [{"apiGroups": ["countersign.dev"], "resources": ["authpolicies/token"], "verbs": ["create"]}]}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "minter"},
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "minter"},
                "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": "minter"}]}),
        ] {
            api.apply(&object);
        }
        let token = api.service_account_token("default", "minter", &["countersign"]);
        Self { api, token, refusal: Arc::default() }
    }

    /// Calls the operator's API through the API server, as the command line does.
    pub(super) fn call(&self, method: &str, path: &str, body: &Value) -> Answer {
        let path = format!("/api/v1/namespaces/{SYSTEM}/services/https:countersign-operator:api/proxy/operator/v1/{path}");
        let request = Request::new(method, &path).header("x-countersign-token", &self.token);
        self.api.send(request.header("content-type", "application/json").body(body.to_string()))
    }

    /// Asks for a token; `None` while nobody makes one.
    pub(super) fn try_mint(&self, policy: &Value, subject: &str) -> Option<String> {
        let (namespace, name) = names(policy);
        let request = json!({"subject": subject, "roles": ["user"]});
        let answer = self.call("POST", &format!("policies/{namespace}/{name}/tokens"), &request);
        match answer.status {
            200 | 201 => Some(answer.json()["token"].as_str().unwrap().to_owned()),
            500..=599 => {
                *self.refusal.lock().unwrap() = String::from_utf8_lossy(&answer.body).into_owned();
                None
            }
            status => panic!("mint: {status} {}", String::from_utf8_lossy(&answer.body)),
        }
    }

    /// Mints a token as soon as somebody makes one.
    pub(super) fn mint(&self, policy: &Value, subject: &str) -> String {
        let minted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("a token is minted", PATIENCE, || self.try_mint(policy, subject))
        }));
        minted.unwrap_or_else(|_| panic!("no token was minted; last: {}", self.refusal.lock().unwrap()))
    }
}
