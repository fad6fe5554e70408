//! A cluster with issuers that run, and how people's clients come to them.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicUsize, Ordering},
};

use serde_json::{Value, json};

use crate::{
    cluster::world::{World, names, policy},
    http::{Answer, Request},
    rig::{Collector, Issuer, MailServer, PATIENCE, Setup, eventually, object_path},
};

/// The policy that answers without its name, if it is there.
pub(super) const DEFAULT: &str = "shop/app";

/// A cluster with issuers that run.
pub(super) struct Served {
    pub(super) issuers: Vec<Issuer>,
    pub(super) world: World,
    pub(super) mail: MailServer,
    pub(super) asked: AtomicUsize,
}

impl Served {
    pub(super) fn start(issuers: usize) -> Self {
        let collector = Collector::start();
        let mail = MailServer::start();
        let setup = Setup {
            nodes: 2,
            operators: 1,
            issuers,
            issuer_arguments: vec![format!("--otlp-endpoint={}", collector.url()), format!("--default-policy={DEFAULT}")],
            issuer_environment: mail.environment().to_vec(),
            ..Setup::default()
        };
        let world = World::with(setup);
        let world = World { collector: Some(collector), ..world };
        let issuers = (0..issuers).map(|number| world.installation.issuer(number)).collect();
        Self { issuers, world, mail, asked: AtomicUsize::new(0) }
    }

    /// Two issuers that tests share which take nothing away. They end with the last of them.
    pub(super) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Served>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let served = Arc::new(Self::start(2));
            *shared = Arc::downgrade(&served);
            served
        })
    }

    /// A policy with a login, once every issuer serves it by the keys that the operator is sure of.
    pub(super) fn with_login(&self, name: &str) -> Value {
        self.with_login_and(name, |_| {})
    }

    /// The same, with what a test needs beside.
    pub(super) fn with_login_and(&self, name: &str, more: impl FnOnce(&mut Value)) -> Value {
        let mut policy = policy(name, "shop");
        let often = json!({"limit": 100_000, "window": "1m"});
        policy["spec"]["login"] = json!({
            "registration": {"emailVerification": "Disabled", "defaultRoles": ["user"]},
            "rateLimits": {"login": {"perAccountAndAddress": often, "perAddress": often}, "register": {}},
        });
        more(&mut policy["spec"]);
        self.serve(&self.world.enforced(&policy))
    }

    /// Waits until every issuer serves a policy by its rings as they are; the policy then.
    pub(super) fn serve(&self, policy: &Value) -> Value {
        let (namespace, name) = names(policy);
        for issuer in &self.issuers {
            eventually("the issuer serves the policy", PATIENCE, || {
                let path = format!("/{namespace}/{name}/.well-known/jwks.json");
                let answer = issuer.send(&Request::get(&path))?;
                (answer.status == 200).then_some(())
            });
        }
        self.acknowledged(policy)
    }

    /// Waits until every issuer holds a policy's rings as they are; the policy then.
    pub(super) fn acknowledged(&self, policy: &Value) -> Value {
        let all = json!({"replicas": self.issuers.len(), "acknowledged": self.issuers.len()});
        self.world.api().wait(&object_path(policy), "every issuer holds the rings", PATIENCE, |policy| {
            policy["status"]["enforcement"]["issuers"] == all
        })
    }

    /// Asks one issuer after the other, as a Service in front of them does.
    pub(super) fn ask(&self, request: &Request) -> Answer {
        let issuer = (self.asked.fetch_add(1, Ordering::Relaxed) + 1) % self.issuers.len();
        self.issuers[issuer].send(request).expect("the issuer answers")
    }

    pub(super) fn post(&self, path: &str, token: Option<&str>, body: &Value) -> Answer {
        let mut request = Request::post(path, body);
        if let Some(token) = token {
            request = request.header("authorization", &format!("Bearer {token}"));
        }
        self.ask(&request)
    }
}
