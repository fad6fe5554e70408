//! An issuer of one policy, and clients of it.

use std::{collections::BTreeMap, future::Future, net::SocketAddr, num::NonZeroUsize, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{HeaderMap, Method, Request, StatusCode, header},
};
use countersign_api::{
    LoginReferences,
    bundle::{BuildInput, BundleKey, FetchedKeys, Resolved, RingName, build, compile},
    policy::{AuthPolicy, EffectivePolicy},
    yaml,
};
use countersign_core::{
    jose::Algorithm,
    keys::SigningKey,
    names::PolicyName,
    proxies::TrustedProxies,
    ring::{KeyState, Phase, PrivateKey, Ring, RingKey, RingStatus},
    time::UnixMillis,
};
use countersign_feed::{Follower, FollowerConfig, MemoryFeed, Publisher, PublisherConfig};
use countersign_store::{Folded, PasswordHash, Store, User, UserStatus, transact};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Notify;
use tower_service::Service as _;

use crate::{
    Delivery, Fleet, Issuer, IssuerConfig, IssuerPolicy, KeyOperator, Lives, LoginPolicy, Mailer, Outbox, OwnKeys,
    Policies, RingChoice, RingView, RotateError, Secrets, Signer, SmsSender, StatusSource, TokenSettings, minter::new_id,
    names, passwords::Pool, public,
};

/// The policy of a test: the given lines belong under `spec.login`.
pub(crate) fn policy_yaml(login: &str) -> String {
    let login = if login.is_empty() { "  login: {}".to_owned() } else { format!("  login:\n{login}") };
    format!(
        "apiVersion: countersign.dev/v1alpha1
kind: AuthPolicy
metadata: {{name: shop, namespace: shop}}
spec:
  audiences: [shop-api]
  issuer: https://auth.shop.example
  roles:
  - {{name: admin, permissions: ['*']}}
  - {{name: user, permissions: ['orders:read']}}
{login}
"
    )
}

/// Cheap hashing, and no limits that a test doesn't ask for.
pub(crate) const QUICK: &str = "    passwords: {argon2id: {memory: 64Ki, iterations: 1}}
    rateLimits: {login: {}, register: {}, passwordReset: {}, api: {}}
";

/// An issuer.
pub(crate) struct Rig {
    pub(crate) issuer: Issuer,
    pub(crate) store: Arc<Store>,
    pub(crate) policy: Arc<IssuerPolicy>,
    router: Router,
    follower: Follower,
    mails: Arc<Mutex<Vec<Mail>>>,
    _dir: TempDir,
}

/// A mail that went out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mail {
    pub(crate) to: String,
    pub(crate) subject: String,
    pub(crate) link: Option<String>,
    pub(crate) raw: String,
}

impl Mail {
    /// The token in its link.
    pub(crate) fn token(&self) -> String {
        self.link.as_ref().unwrap().split_once("token=").unwrap().1.to_owned()
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// A text member of the body.
    pub(crate) fn text(&self, name: &str) -> String {
        self.body[name].as_str().unwrap_or_else(|| panic!("{name} in {}", self.body)).to_owned()
    }

    /// Status and error code.
    pub(crate) fn refusal(&self) -> (u16, &str) {
        (self.status.as_u16(), self.body["error"].as_str().unwrap_or_default())
    }
}

/// A request in the making.
pub(crate) struct Asking<'r> {
    rig: &'r Rig,
    router: Router,
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<String>,
    peer: SocketAddr,
}

impl Asking<'_> {
    #[expect(clippy::needless_pass_by_value, reason = "so that a body can be written where it is sent")]
    pub(crate) fn json(mut self, body: Value) -> Self {
        self.body = Some(body.to_string());
        self
    }

    pub(crate) fn text(mut self, body: &str) -> Self {
        self.body = Some(body.to_owned());
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// To the admin API, as whoever may open its socket.
    pub(crate) fn over_admin_socket(mut self) -> Self {
        self.router = crate::admin::routes(self.rig.issuer.clone(), crate::admin::Door::FileMode);
        self
    }

    /// To the admin API over TCP, where a token lets in.
    pub(crate) fn over_admin_tcp(mut self) -> Self {
        self.router = crate::admin::routes(self.rig.issuer.clone(), crate::admin::Door::Bearer);
        self
    }

    /// From another address.
    pub(crate) fn from(mut self, ip: &str) -> Self {
        self.peer = SocketAddr::new(ip.parse().unwrap(), 50_000);
        self
    }

    pub(crate) async fn send(mut self) -> Answer {
        let mut request = Request::builder().method(self.method).uri(self.path);
        if !self.headers.iter().any(|(name, _)| name == "host") {
            request = request.header(header::HOST, "auth.shop.example");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let body = self.body.map_or_else(Body::empty, Body::from);
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let answer = self.router.call(request).await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let bytes = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer { status, headers, body }
    }
}

impl Rig {
    /// With these lines under `spec.login`.
    pub(crate) async fn new(login: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).await.unwrap();
        Self::over(store, dir, &policy_yaml(login)).await
    }

    /// With these lines under `spec.login`, and what they refer to.
    pub(crate) async fn with_references(login: &str, fill: impl FnOnce(&mut LoginReferences)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).await.unwrap();
        let mut references = LoginReferences::default();
        fill(&mut references);
        Self::start(store, dir, policy(&policy_yaml(login), references), &[]).await
    }

    /// That answers by these names alone.
    pub(crate) async fn named(hosts: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).await.unwrap();
        Self::start(store, dir, policy(&policy_yaml(QUICK), LoginReferences::default()), hosts).await
    }

    /// Over a store, with a whole policy.
    pub(crate) async fn over(store: Store, dir: TempDir, yaml: &str) -> Self {
        Self::start(store, dir, policy(yaml, LoginReferences::default()), &[]).await
    }

    async fn start(store: Store, dir: TempDir, policy: IssuerPolicy, hosts: &[&str]) -> Self {
        let store = Arc::new(store);
        let server = Arc::new(MemoryFeed::new(store.clone()));
        let publisher = Arc::new(Publisher::spawn(server.clone(), store.clone(), PublisherConfig::new("test")));
        while !publisher.status().seeded {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let follower = Follower::spawn(server.clone(), FollowerConfig::new("test")).unwrap();
        let policy = Arc::new(policy);
        let policies = Policies::default();
        policies.store(BTreeMap::from([(policy.name.clone(), policy.clone())]), Some(policy.name.clone()));
        let mails = Arc::new(Mutex::new(Vec::new()));
        let told = mails.clone();
        let outbox = Outbox::new(dir.path().join("outbox"), move |kept| {
            let raw = std::fs::read_to_string(kept.path).unwrap();
            let (to, subject) = (kept.to.to_owned(), kept.subject.to_owned());
            told.lock().push(Mail { to, subject, link: kept.link.map(str::to_owned), raw });
        });
        let issuer = Issuer::new(IssuerConfig {
            store: store.clone(),
            publisher,
            feed: follower.state().clone(),
            fleet: Fleet::new(server, Some(("test".into(), follower.state().clone()))),
            policies,
            keys: Arc::new(NoKeys),
            status: Arc::new(NoKeys),
            secrets: Arc::new(Secrets::derive([b"a secret of this test".as_slice()]).unwrap()),
            passwords: Pool::new(NonZeroUsize::new(2).unwrap(), 1 << 20, 10_000),
            mailer: Mailer::spawn(Delivery::Outbox(outbox)),
            sms: SmsSender::try_new(true).unwrap(),
            counters: None,
            trusted_proxies: TrustedProxies::none(),
            trusted_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            environment: "test".into(),
        });
        let router = public::routes(issuer.clone());
        Self { issuer, store, policy, router, follower, mails, _dir: dir }
    }

    pub(crate) fn name(&self) -> &PolicyName {
        &self.policy.name
    }

    fn ask(&self, method: Method, path: &str) -> Asking<'_> {
        let peer = SocketAddr::from(([203, 0, 113, 7], 50_000));
        Asking {
            rig: self,
            router: self.router.clone(),
            method,
            path: path.to_owned(),
            headers: Vec::new(),
            body: None,
            peer,
        }
    }

    pub(crate) fn get(&self, path: &str) -> Asking<'_> {
        self.ask(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> Asking<'_> {
        self.ask(Method::POST, path)
    }

    pub(crate) fn delete(&self, path: &str) -> Asking<'_> {
        self.ask(Method::DELETE, path)
    }

    pub(crate) fn options(&self, path: &str) -> Asking<'_> {
        self.ask(Method::OPTIONS, path)
    }

    pub(crate) fn patch(&self, path: &str) -> Asking<'_> {
        self.ask(Method::PATCH, path)
    }

    /// An account with a verified address `NAME@shop.example`.
    pub(crate) async fn account(&self, name: &str, password: &str, roles: &[&str]) -> User {
        let login = self.policy.login.as_ref().unwrap();
        let hash = self.issuer.parts.passwords.hash(password, login.cost).await.unwrap().unwrap();
        let now = self.store.database_now().await.unwrap();
        let folded = |text: &str| Folded { written: text.to_owned(), folded: names::folded(text) };
        let user = User {
            policy: self.name().clone(),
            id: new_id(),
            username: Some(folded(name)),
            email: Some(folded(&format!("{name}@shop.example"))),
            pending_email: None,
            first_name: None,
            last_name: None,
            status: UserStatus::Active,
            status_reason: None,
            status_until: None,
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            email_verified: true,
            created: now,
            last_login: None,
            password_changed: None,
            import_batch: None,
        };
        transact!(&*self.store, |tx| {
            tx.insert_user(&user).await?;
            tx.set_password(self.name(), &user.id, &PasswordHash::new(hash.clone()), None, 0, now).await
        })
        .unwrap();
        user
    }

    pub(crate) async fn login(&self, name: &str, password: &str) -> Answer {
        self.post("/auth/login").json(json!({"username": name, "password": password})).send().await
    }

    /// The mails that went out since this was last asked.
    pub(crate) async fn mails(&self) -> Vec<Mail> {
        crate::notices::send_all(&self.issuer).await.unwrap();
        assert!(self.issuer.parts.mailer.settled(Duration::from_secs(10)).await);
        std::mem::take(&mut *self.mails.lock())
    }

    /// What a verifier would say of a token now: whether it is good.
    pub(crate) async fn is_good(&self, token: &str) -> bool {
        crate::bearer::judge(&self.issuer, &self.policy, token, None, &crate::bearer::Around::default()).await.is_ok()
    }

    /// Waits until this process' follower has caught up with what an answer's position says.
    pub(crate) async fn caught_up(&self, answer: &Answer) {
        let position = serde_json::from_value(answer.body["position"].clone()).unwrap();
        assert!(self.follower.state().wait_for(position, Duration::from_secs(10)).await);
    }

    /// The kinds of all audit events so far, oldest first.
    pub(crate) async fn events(&self) -> Vec<String> {
        let filter = countersign_store::AuditFilter { limit: 1000, ..Default::default() };
        let events = self.store.audit(self.name(), &filter).await.unwrap();
        events.into_iter().rev().map(|kept| kept.event.kind).collect()
    }
}

/// A policy from YAML, with a key in each ring.
pub(crate) fn policy(text: &str, references: LoginReferences) -> IssuerPolicy {
    let document = yaml::parse(text).unwrap().remove(0);
    let policy: AuthPolicy = serde_json::from_value(document.value).unwrap();
    let effective = EffectivePolicy::try_from(&policy).unwrap_or_else(|problems| panic!("{problems:?}"));
    let name = countersign_api::policy::policy_name(&policy).unwrap();
    let (access, api_key) = (ring(), ring());
    let keys = [(RingName::Access, &access), (RingName::ApiKey, &api_key)].into_iter().flat_map(|(ring, held)| {
        held.public_keys().into_iter().map(move |key| {
            let mut jwk = key.jwk.clone();
            (jwk.kid, jwk.alg) = (Some(key.kid.clone()), Some(key.alg.to_string()));
            BundleKey { ring, state: key.state, jwk }
        })
    });
    let (bundle, secrets) = build(BuildInput {
        name: &name,
        uid: "uid",
        generation: 1,
        policy: &effective,
        keys: keys.collect(),
        resolved: &Resolved::default(),
        revoked: Vec::new(),
    });
    let compiled = compile(&bundle, secrets.as_ref(), &FetchedKeys::new()).unwrap().policy;
    let view = |ring: Ring| RingView {
        signer: Signer::of(&ring).unwrap(),
        ring,
        status: RingStatus {
            phase: Phase::Ready,
            active_kid: None,
            last_rotation: None,
            next_rotation: None,
            waiting: None,
        },
        held: BTreeMap::new(),
    };
    let issuer = effective.issuer.clone().unwrap();
    IssuerPolicy {
        name,
        login: effective.login.clone().map(|login| Arc::new(LoginPolicy::new(login, &issuer, references))),
        own: Some(OwnKeys { issuer, access: view(access), api_key: view(api_key) }),
        audiences: effective.audiences.clone(),
        roles: effective.roles.iter().map(|role| role.name.clone()).collect(),
        clock_skew_ms: effective.tokens.clock_skew.as_millis(),
        prepublish_ms: 0,
        max_entries: 100_000,
        lives: Lives {
            access_ttl_ms: effective.tokens.access_ttl.as_millis(),
            longest_access_ms: effective.longest_access_life_ms(),
            longest_ms: Some(effective.tokens.api_key_max_ttl.as_millis()),
            earlier_until: UnixMillis(0),
            access_earlier_until: UnixMillis(0),
        },
        tokens: TokenSettings::from(&effective.tokens),
        trusted: Vec::new(),
        compiled: Arc::new(compiled),
    }
}

fn ring() -> Ring {
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let held = RingKey {
        kid: key.kid().to_owned(),
        algorithm: Algorithm::EdDSA,
        state: KeyState::Active,
        created: UnixMillis(0),
        activated: Some(UnixMillis(0)),
        retiring_since: None,
        retired_in: None,
        remove_after: None,
        revoked: None,
        longest_ttl_ms: 0,
        unacknowledged: false,
        pkcs8: Some(PrivateKey::new(key.to_pkcs8().unwrap())),
        public: key.public_jwk().clone(),
    };
    Ring { version: 1, keys: vec![held], ..Ring::default() }
}

/// Keys that nobody rotates, and nothing to say of the process.
struct NoKeys;

impl KeyOperator for NoKeys {
    fn rotate<'a>(
        &'a self,
        _: &'a PolicyName,
        _: RingChoice,
    ) -> Pin<Box<dyn Future<Output = Result<(), RotateError>> + Send + 'a>> {
        Box::pin(async { Err(RotateError::NoRings) })
    }

    fn key_revoked(&self) -> Arc<Notify> {
        Arc::default()
    }
}

impl StatusSource for NoKeys {
    fn status(&self) -> Value {
        Value::Null
    }

    fn effective(&self, _: &PolicyName) -> Option<Value> {
        None
    }
}
