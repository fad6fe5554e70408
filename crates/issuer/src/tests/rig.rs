//! An issuer of one policy, and clients of it.

use std::{
    collections::BTreeMap,
    future::Future,
    net::SocketAddr,
    num::NonZeroUsize,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

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
    revocation::{Entry, Position},
    ring::{KeyState, Phase, PrivateKey, Ring, RingKey, RingStatus},
    time::UnixMillis,
};
use countersign_feed::{
    BoxFuture, Follower, FollowerConfig, LiveStore, MemoryFeed, OutboxError, Publisher, PublisherConfig,
};
use countersign_store::{Folded, PasswordHash, Store, User, UserStatus, transact};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tower_service::Service as _;

use super::document;
use super::home::Home;
use crate::{
    AuditRetention, Delivery, Fleet, Issuer, IssuerConfig, IssuerPolicy, KeyOperator, Lives, LoginPolicy, Mailer, Outbox,
    OwnKeys, Policies, Reach, RingChoice, RingView, RotateError, Secrets, Signer, SignsWhile, SmsSender, StatusSource,
    TokenSettings, minter::new_id, names, passwords::Pool, public,
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

/// A name as it is kept.
pub(crate) fn folded(text: &str) -> Folded {
    Folded { written: text.to_owned(), folded: names::folded(text) }
}

/// An installation: one issuer, or two that take turns, as a test's [`Home`] has it.
pub(crate) struct Rig {
    /// One of them.
    pub(crate) issuer: Issuer,
    pub(crate) store: Arc<Store>,
    pub(crate) policy: Arc<IssuerPolicy>,
    replicas: Vec<Replica>,
    asked: AtomicUsize,
    feed_away: Arc<AtomicBool>,
    mails: Arc<Mutex<Vec<Mail>>>,
    home: Home,
}

/// The truth behind the feed's server, which can't be written to while that is away.
struct Live {
    store: Arc<Store>,
    away: Arc<AtomicBool>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").finish_non_exhaustive()
    }
}

impl LiveStore for Live {
    fn live_after(&self, after: Position, limit: usize) -> BoxFuture<'_, Result<Vec<(Position, Entry)>, OutboxError>> {
        LiveStore::live_after(&*self.store, after, limit)
    }

    fn record<'a>(&'a self, epoch: u64, entries: &'a [(Entry, Position)]) -> BoxFuture<'a, Result<(), OutboxError>> {
        if self.away.load(Ordering::SeqCst) {
            return Box::pin(async { Err(OutboxError("the feed is away".into())) });
        }
        LiveStore::record(&*self.store, epoch, entries)
    }
}

/// A process of it, so to speak: nothing is shared with another but the databases and the feed's server.
struct Replica {
    issuer: Issuer,
    router: Router,
    follower: Follower,
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
pub(crate) struct Asking {
    issuer: Issuer,
    router: Router,
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Body,
    peer: SocketAddr,
}

impl Asking {
    #[expect(clippy::needless_pass_by_value, reason = "so that a body can be written where it is sent")]
    pub(crate) fn json(mut self, body: Value) -> Self {
        self.body = Body::from(body.to_string());
        self
    }

    pub(crate) fn text(mut self, body: &str) -> Self {
        self.body = Body::from(body.to_owned());
        self
    }

    /// With a body that never comes: whoever wants it waits for ever.
    pub(crate) fn body_that_never_comes(mut self) -> Self {
        self.body = Body::from_stream(futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>());
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
        self.router = crate::admin::routes(self.issuer.clone(), crate::admin::Door::FileMode);
        self
    }

    /// To the admin API for those whom somebody else vouches for.
    pub(crate) fn vouched_for_by(mut self, authority: Arc<dyn crate::Authority>) -> Self {
        self.router = crate::admin::routes(self.issuer.clone(), crate::admin::Door::Authority(authority));
        self
    }

    /// To the admin API over TCP, where a token lets in.
    pub(crate) fn over_admin_tcp(mut self) -> Self {
        self.router = crate::admin::routes(self.issuer.clone(), crate::admin::Door::Bearer);
        self
    }

    /// From another address.
    pub(crate) fn from(mut self, ip: &str) -> Self {
        self.peer = SocketAddr::new(ip.parse().unwrap(), 50_000);
        self
    }

    pub(crate) async fn send(mut self) -> Answer {
        let (method, path) = (self.method.clone(), self.path.clone());
        let mut request = Request::builder().method(self.method).uri(self.path);
        if !self.headers.iter().any(|(name, _)| name == "host") {
            request = request.header(header::HOST, "auth.shop.example");
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut request = request.body(self.body).unwrap();
        request.extensions_mut().insert(ConnectInfo(self.peer));
        let answer = self.router.call(request).await.unwrap();
        let (status, headers) = (answer.status(), answer.headers().clone());
        let bytes = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let answer = Answer { status, headers, body };
        document::assert_told_of(&method, &path, &answer);
        answer
    }
}

impl Rig {
    /// With these lines under `spec.login`.
    pub(crate) async fn new(login: &str) -> Self {
        Self::of(&policy_yaml(login)).await
    }

    /// With these lines under `spec.login`, and what they refer to.
    pub(crate) async fn with_references(login: &str, fill: impl FnOnce(&mut LoginReferences)) -> Self {
        let mut references = LoginReferences::default();
        fill(&mut references);
        Self::start(Home::new().await, policy(&policy_yaml(login), references), &[]).await
    }

    /// That answers by these names alone.
    pub(crate) async fn named(hosts: &[&str]) -> Self {
        Self::start(Home::new().await, policy(&policy_yaml(QUICK), LoginReferences::default()), hosts).await
    }

    /// With a whole policy.
    pub(crate) async fn of(yaml: &str) -> Self {
        Self::start(Home::new().await, policy(yaml, LoginReferences::default()), &[]).await
    }

    /// Whose keys sign by this alone.
    pub(crate) async fn signing_while(signs: SignsWhile) -> Self {
        let policy = policy(&policy_yaml(QUICK), LoginReferences::default());
        Self::start(Home::new().await, IssuerPolicy { signs_while: Some(signs), ..policy }, &[]).await
    }

    /// What is said where nobody but the cluster asks: `/readyz`, `/metrics`.
    pub(crate) async fn health(&self, path: &str) -> String {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let answer = crate::health::routes(self.issuer.clone()).call(request).await.unwrap();
        let bytes = to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    /// With one issuer whatever the test's home has: for what each process counts for itself.
    pub(crate) fn alone(mut self) -> Self {
        self.replicas.truncate(1);
        self
    }

    /// With these lines under `spec.login`, where people are kept there.
    pub(crate) async fn at(home: Home, login: &str) -> Self {
        Self::start(home, policy(&policy_yaml(login), LoginReferences::default()), &[]).await
    }

    /// The same people under another policy of the same name.
    pub(crate) async fn beside(&self, yaml: &str) -> Self {
        Self::start(self.home.beside(), policy(yaml, LoginReferences::default()), &[]).await
    }

    async fn start(home: Home, policy: IssuerPolicy, hosts: &[&str]) -> Self {
        let policy = Arc::new(policy);
        let feed_away = Arc::new(AtomicBool::new(false));
        let live = Live { store: home.stores[0].clone(), away: feed_away.clone() };
        let server = Arc::new(MemoryFeed::new(Arc::new(live)));
        let mails = Arc::new(Mutex::new(Vec::new()));
        // What a test counts is counted for the installation.
        let passwords = Pool::new(NonZeroUsize::new(2).unwrap(), 1 << 20, 10_000);
        let mut replicas = Vec::new();
        for (number, store) in home.stores.iter().enumerate() {
            let name = format!("test-{number}");
            let publisher = Arc::new(Publisher::spawn(server.clone(), store.clone(), PublisherConfig::new(&name)));
            while !publisher.status().seeded {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let follower = Follower::spawn(server.clone(), FollowerConfig::new(&name)).unwrap();
            let policies = Policies::default();
            policies.store(BTreeMap::from([(policy.name.clone(), policy.clone())]), Some(policy.name.clone()));
            let told = mails.clone();
            let outbox = Outbox::new(home.path().join(&name), move |kept| {
                let raw = std::fs::read_to_string(kept.path).unwrap();
                let (to, subject) = (kept.to.to_owned(), kept.subject.to_owned());
                told.lock().push(Mail { to, subject, link: kept.link.map(str::to_owned), raw });
            });
            let issuer = Issuer::new(IssuerConfig {
                store: store.clone(),
                publisher,
                feed: follower.state().clone(),
                fleet: Fleet::new(server.clone(), Some((name, follower.state().clone()))),
                policies,
                keys: Arc::new(NoKeys),
                status: Arc::new(NoKeys),
                secrets: Arc::new(Secrets::derive([b"a secret of this test".as_slice()]).unwrap()),
                passwords: passwords.clone(),
                sms: SmsSender::try_new(true).unwrap(),
                mailer: Mailer::new(Delivery::Outbox(outbox), Reach { allow_private: true }),
                counters: None,
                trusted_proxies: TrustedProxies::none(),
                trusted_hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
                environment: "test".into(),
                audit_retention: AuditRetention::OFF,
                audit_log: None,
            });
            replicas.push(Replica { router: public::routes(issuer.clone()), issuer, follower });
        }
        let (issuer, store) = (replicas[0].issuer.clone(), home.stores[0].clone());
        Self { issuer, store, policy, replicas, asked: AtomicUsize::new(0), feed_away, mails, home }
    }

    /// From now on nothing that ends gets into the feed.
    pub(crate) fn take_feed_away(&self) {
        self.feed_away.store(true, Ordering::SeqCst);
    }

    pub(crate) fn name(&self) -> &PolicyName {
        &self.policy.name
    }

    /// Whose turn it is: each in turn, whatever is asked.
    fn next(&self) -> &Replica {
        &self.replicas[self.asked.fetch_add(1, Ordering::Relaxed) % self.replicas.len()]
    }

    pub(crate) fn ask(&self, method: Method, path: &str) -> Asking {
        let peer = SocketAddr::from(([203, 0, 113, 7], 50_000));
        let Replica { issuer, router, .. } = self.next();
        Asking {
            issuer: issuer.clone(),
            router: router.clone(),
            method,
            path: path.to_owned(),
            headers: Vec::new(),
            body: Body::empty(),
            peer,
        }
    }

    pub(crate) fn get(&self, path: &str) -> Asking {
        self.ask(Method::GET, path)
    }

    pub(crate) fn post(&self, path: &str) -> Asking {
        self.ask(Method::POST, path)
    }

    pub(crate) fn delete(&self, path: &str) -> Asking {
        self.ask(Method::DELETE, path)
    }

    pub(crate) fn options(&self, path: &str) -> Asking {
        self.ask(Method::OPTIONS, path)
    }

    pub(crate) fn patch(&self, path: &str) -> Asking {
        self.ask(Method::PATCH, path)
    }

    /// An account with a verified address `NAME@shop.example`.
    pub(crate) async fn account(&self, name: &str, password: &str, roles: &[&str]) -> User {
        let login = self.policy.login.as_ref().unwrap();
        let hash = self.issuer.parts.passwords.hash(password, login.cost).await.unwrap().unwrap();
        let now = self.store.database_now().await.unwrap();
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
        for replica in &self.replicas {
            crate::notices::send_all(&replica.issuer).await.unwrap();
            assert!(replica.issuer.parts.mailer.settled(Duration::from_secs(10)).await);
        }
        std::mem::take(&mut *self.mails.lock())
    }

    /// What a verifier would say of a token now: whether it is good.
    pub(crate) async fn is_good(&self, token: &str) -> bool {
        crate::bearer::judge(&self.next().issuer, &self.policy, token, None, &crate::bearer::Around::default())
            .await
            .is_ok()
    }

    /// Waits until every follower has caught up with what an answer's position says.
    pub(crate) async fn caught_up(&self, answer: &Answer) {
        let position = serde_json::from_value(answer.body["position"].clone()).unwrap();
        for replica in &self.replicas {
            assert!(replica.follower.state().wait_for(position, Duration::from_secs(10)).await);
        }
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
        written: None,
        signs_while: None,
        name: name.clone(),
        login: effective.login.clone().map(|login| Arc::new(LoginPolicy::new(&name, login, &issuer, references))),
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
