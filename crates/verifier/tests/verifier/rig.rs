//! A verifier in this process, on a directory that the test writes.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use countersign_api::bundle::{self, Bundle, BundleKey, BundleRole, BundleRule, RingName, VerifySecrets, VerifySection};
use countersign_core::{
    jose::Algorithm,
    keys::SigningKey,
    mint::{self, AccessTokenSpec, ApiKeySpec},
    names::PolicyName,
    revocation::{Entry, Kind, Position},
    ring::KeyState,
    time::UnixMillis,
};
use countersign_feed::{BoxFuture, FeedServer, Follower, FollowerConfig, LiveStore, MemoryFeed, OutboxError, PublishRow};
use countersign_verifier::{Config, Feed, RunningVerifier, StartError, Verifier};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::wire::{Answer, Connection};

pub(crate) const ISSUER: &str = "https://auth.shop.example";
pub(crate) const AUDIENCE: &str = "shop-api";

/// Keys that all tests share: what they sign differs.
pub(crate) struct Keys {
    pub(crate) access: SigningKey,
    pub(crate) next: SigningKey,
    pub(crate) api_key: SigningKey,
    pub(crate) foreign: SigningKey,
    pub(crate) bundles: SigningKey,
}

pub(crate) fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    let new = || SigningKey::generate(Algorithm::EdDSA).unwrap();
    KEYS.get_or_init(|| Keys { access: new(), next: new(), api_key: new(), foreign: new(), bundles: new() })
}

pub(crate) fn now() -> UnixMillis {
    UnixMillis(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap())
}

pub(crate) fn policy(name: &str) -> PolicyName {
    name.parse().unwrap()
}

/// The verify section of an ordinary policy, which answers without a feed and says so.
pub(crate) fn section() -> VerifySection {
    let key = |ring, state, key: &SigningKey| BundleKey { ring, state, jwk: key.public_jwk().clone() };
    let role = |name: &str, permissions: &[&str]| BundleRole {
        name: name.into(),
        permissions: permissions.iter().map(|p| (*p).to_owned()).collect(),
        inherits: Vec::new(),
    };
    VerifySection {
        issuer: Some(ISSUER.into()),
        audiences: vec![AUDIENCE.into()],
        clock_skew_ms: 30_000,
        keys: vec![
            key(RingName::Access, KeyState::Active, &keys().access),
            key(RingName::ApiKey, KeyState::Active, &keys().api_key),
        ],
        prepublish_ms: 600_000,
        trusted_issuers: Vec::new(),
        opaque_keys: false,
        secrets_sha256: None,
        roles: vec![role("admin", &["*"]), role("user", &["orders:read"])],
        rules: Vec::new(),
        allow: Vec::new(),
        deny: Vec::new(),
        rate_limit: None,
        max_staleness_ms: 300_000,
        allow_stale: true,
        cookie_prefix: None,
        emergency: None,
        absent_after_ms: 600_000,
    }
}

pub(crate) fn rule(expression: &str) -> BundleRule {
    BundleRule { name: "the-rule".into(), expression: expression.into() }
}

pub(crate) fn bundle_of(name: &str, generation: u64, verify: Option<VerifySection>) -> Bundle {
    Bundle { schema: bundle::SCHEMA, policy: policy(name), uid: "u1".into(), generation, verify, revoked: Vec::new() }
}

/// A directory of bundles.
pub(crate) struct Bundles(pub(crate) TempDir);

impl Bundles {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(bundle::file_name(&policy(name)))
    }

    pub(crate) fn put(&self, bundle: &Bundle) {
        self.write(&self.file(bundle.policy.as_str()), bundle::seal(bundle, &keys().bundles).unwrap().as_bytes());
    }

    pub(crate) fn put_policy(&self, name: &str, generation: u64, verify: VerifySection) {
        self.put(&bundle_of(name, generation, Some(verify)));
    }

    pub(crate) fn put_secrets(&self, secrets: &VerifySecrets) {
        let path = self.path().join(bundle::secrets_file_name(&secrets.policy));
        self.write(&path, secrets.to_json().as_bytes());
    }

    pub(crate) fn write(&self, path: &Path, bytes: &[u8]) {
        assert!(path.starts_with(self.path()));
        // As writers do: under another name, then renamed.
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, bytes).unwrap();
        std::fs::rename(&temporary, path).unwrap();
    }

    pub(crate) fn trust(&self, keys: &[&SigningKey]) {
        let set = json!({"keys": keys.iter().map(|k| k.public_jwk()).collect::<Vec<_>>()});
        self.write(&self.path().join("bundle-trust.json"), set.to_string().as_bytes());
    }
}

/// A feed in this process, seeded and empty.
#[derive(Debug, Default)]
pub(crate) struct Live(Mutex<BTreeMap<Position, Entry>>);

impl LiveStore for Live {
    fn live_after(&self, after: Position, limit: usize) -> BoxFuture<'_, Result<Vec<(Position, Entry)>, OutboxError>> {
        let live = self.0.lock();
        let found = live.range(after..).filter(|(p, _)| **p > after).take(limit).map(|(p, e)| (*p, e.clone())).collect();
        Box::pin(async { Ok(found) })
    }

    fn record<'a>(&'a self, _: u64, entries: &'a [(Entry, Position)]) -> BoxFuture<'a, Result<(), OutboxError>> {
        self.0.lock().extend(entries.iter().map(|(e, p)| (*p, e.clone())));
        Box::pin(async { Ok(()) })
    }
}

pub(crate) struct TestFeed(pub(crate) Arc<MemoryFeed>);

impl TestFeed {
    pub(crate) async fn new() -> Self {
        let feed = Arc::new(MemoryFeed::new(Arc::new(Live::default())));
        feed.open_epoch(1).await.unwrap();
        feed.seal(1).await.unwrap();
        Self(feed)
    }

    pub(crate) fn follow(&self) -> Feed {
        Feed::Followed(Follower::spawn(self.0.clone(), FollowerConfig::new("test")).unwrap())
    }

    pub(crate) async fn revoke(&self, entry: Entry) -> Position {
        let rows = [PublishRow { entry, recorded: None }];
        self.0.publish(1, Position::ZERO, &rows).await.unwrap()[0].position
    }
}

pub(crate) fn entry(name: &str, kind: Kind, id: &str) -> Entry {
    Entry {
        policy: policy(name),
        kind,
        issuer: None,
        id: id.into(),
        cutoff: UnixMillis::FOREVER,
        expires: now().plus(3_600_000),
        version: 0,
        reason: String::new(),
        source: String::new(),
    }
}

/// A running verifier on its own sockets.
pub(crate) struct Rig {
    pub(crate) verifier: RunningVerifier,
    pub(crate) socket: PathBuf,
    _sockets: TempDir,
}

impl Rig {
    /// On `shop/shop` alone, as [`section`] has it.
    pub(crate) async fn ordinary() -> (Bundles, Self) {
        let bundles = Bundles::new();
        bundles.put_policy("shop/shop", 1, section());
        let rig = Self::on(&bundles).await;
        (bundles, rig)
    }

    pub(crate) async fn on(bundles: &Bundles) -> Self {
        Self::with(bundles, Feed::Without, |_| {}).await
    }

    pub(crate) async fn with(bundles: &Bundles, feed: Feed, change: impl FnOnce(&mut Config)) -> Self {
        Self::try_with(bundles, feed, change).await.unwrap()
    }

    pub(crate) async fn try_with(
        bundles: &Bundles,
        feed: Feed,
        change: impl FnOnce(&mut Config),
    ) -> Result<Self, StartError> {
        let sockets = tempfile::tempdir().unwrap();
        let socket = sockets.path().join("v.sock");
        let mut config = Config::embedded(bundles.path().to_owned());
        config.socket = Some(socket.clone());
        config.listen = Some("127.0.0.1:0".parse().unwrap());
        config.health_listen = Some("127.0.0.1:0".parse().unwrap());
        change(&mut config);
        let socket = config.socket.clone().unwrap_or(socket);
        Ok(Self { verifier: Verifier::start(config, feed).await?, socket, _sockets: sockets })
    }

    pub(crate) async fn unix(&self) -> Connection {
        Connection::unix(&self.socket).await
    }

    pub(crate) async fn tcp(&self) -> Connection {
        Connection::tcp(self.verifier.addresses().verifier.unwrap()).await
    }

    pub(crate) async fn health(&self, path: &str) -> Answer {
        let mut connection = Connection::tcp(self.verifier.addresses().verifier_health.unwrap()).await;
        connection.ask("GET", path, &[], "").await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.unix().await.ask("POST", path, &[("Content-Type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.unix().await.ask("GET", path, &[], "").await
    }

    pub(crate) async fn verify(&self, name: &str, body: Value) -> Answer {
        self.post(&format!("/v1/policies/{name}/verify"), &body).await
    }

    /// Status and word on a token of `shop/shop`.
    pub(crate) async fn word(&self, token: &str) -> (u16, String) {
        self.verify("shop/shop", json!({"token": token})).await.word()
    }

    pub(crate) async fn eventually_word(&self, token: &str, status: u16, word: &str) {
        eventually(&format!("{status} {word}"), async || self.word(token).await == (status, word.to_owned())).await;
    }
}

/// Waits for a condition; the time between two looks is not what the test is about.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An access token with these members over the usual ones; null takes one away.
pub(crate) fn token_with(key: &SigningKey, changes: &Value) -> String {
    let at = now();
    let mut claims = json!({
        "iss": ISSUER, "sub": "alice", "aud": AUDIENCE, "iat": at.as_secs(), "iat_ms": at.0, "exp": at.as_secs() + 900,
        "jti": "t1", "sid": "s1", "client_id": "countersign", "roles": ["user"], "scope": "orders",
    });
    let members: &mut Map<String, Value> = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    mint::sign(key, mint::ACCESS_TOKEN_TYPE, members).unwrap()
}

pub(crate) fn token() -> String {
    token_with(&keys().access, &json!({}))
}

pub(crate) fn api_key(scopes: &[&str]) -> String {
    let spec = ApiKeySpec {
        issuer: ISSUER.into(),
        subject: "alice".into(),
        audiences: vec![AUDIENCE.into()],
        roles: vec!["admin".into()],
        scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
        token_id: "k1".into(),
        issued_at: now(),
        expires: now().plus(900_000),
    };
    mint::mint_api_key(&keys().api_key, &spec).unwrap()
}

/// A token with many roles and long names.
pub(crate) fn fat_token(roles: usize) -> String {
    let spec = AccessTokenSpec {
        issuer: ISSUER.into(),
        subject: "alice, the ünique".into(),
        audiences: vec![AUDIENCE.into(), "other".into()],
        roles: (0..roles).map(|i| format!("role-{i:04}")).collect(),
        scopes: vec!["a".into(), "b".into()],
        session_id: Some("s1".into()),
        token_id: "t1".into(),
        issued_at: now(),
        expires: now().plus(900_000),
        amr: vec!["pwd".into()],
        client_id: None,
        extra: Map::new(),
    };
    mint::mint_access(&keys().access, &spec).unwrap()
}
