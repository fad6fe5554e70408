//! Whose people a policy gets, and when they are erased: what the API server holds comes in as the watches tell it.

use countersign_api::{
    LoginReferences,
    bundle::{self, BuildInput, Resolved, Signature, Trust},
    cluster::{BUNDLE_KEY, ISSUE_KEY, bundle_name},
    issue::IssueSection,
    key_ring::{RECORD_KEY, Record, SEAL_KEY, sealed_bytes},
    policy::{AuthPolicy, EffectivePolicy},
    yaml,
};
use countersign_core::{
    jose::{Algorithm, JwkSet},
    keys::SigningKey,
    time::UnixMillis,
};
use countersign_feed::{FollowerConfig, MemoryFeed, PublisherConfig};
use countersign_store::{DuePeople, Erasure, Folded, User, UserFilter, UserStatus, transact};
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::{
    people::{Eraser, Look},
    watching::{Object, Source},
};

const YAML: &str = "apiVersion: countersign.dev/v1alpha1
kind: AuthPolicy
metadata: {name: shop, namespace: shop}
spec:
  audiences: [shop-api]
  issuer: https://auth.shop.example
  roles: [{name: user, permissions: ['orders:read']}]
  login: {}
";
const HOUR: i64 = 3_600_000;

fn name() -> PolicyName {
    "shop/shop".parse().unwrap()
}

/// What the operator says of a policy.
#[derive(Clone, Copy)]
struct Says {
    uid: &'static str,
    origin: &'static str,
    generation: u64,
    withdrawn: Option<UnixMillis>,
}

/// The first policy of its name.
const FIRST: Says = Says { uid: "u1", origin: "u1", generation: 5, withdrawn: None };
/// One that took over what the first left.
const HEIR: Says = Says { uid: "u2", origin: "u1", generation: 9, withdrawn: None };
/// One that took over nothing.
const ANOTHER: Says = Says { uid: "u3", origin: "u3", generation: 9, withdrawn: None };

impl Says {
    /// It was withdrawn an hour ago, or just now; what it left is kept for half an hour.
    fn withdrawn(self, is_over: bool) -> Self {
        let at = if is_over { Clock::wall().minus(HOUR) } else { Clock::wall() };
        Self { withdrawn: Some(at), generation: self.generation + 1, ..self }
    }
}

/// A policy's objects.
#[derive(Clone, Default)]
struct Objects {
    ring: Option<Object>,
    section: Option<Object>,
    bundle: Option<Object>,
}

impl Objects {
    fn written(says: Says, key: &SigningKey) -> Self {
        let document = yaml::parse(YAML).unwrap().remove(0);
        let policy: AuthPolicy = serde_json::from_value(document.value).unwrap();
        let effective = EffectivePolicy::try_from(&policy).unwrap();
        let record = Record {
            policy: name(),
            uid: says.uid.into(),
            origin: Some(says.origin.into()),
            namespace_uid: "n1".into(),
            issuer: effective.issuer.clone(),
            generation: says.generation,
            withdrawn_time: says.withdrawn,
            retain_ms: HOUR / 2,
            issued_until: None,
            key_sources: BTreeMap::new(),
            revoked: Vec::new(),
            spec: None,
        };
        let mut data = BTreeMap::from([(RECORD_KEY.to_owned(), serde_json::to_vec(&record).unwrap())]);
        let seal = Signature::of(&sealed_bytes(&name(), &data), key).unwrap();
        data.insert(SEAL_KEY.into(), serde_json::to_vec(&seal).unwrap());
        let data = data.into_iter().map(|(key, value)| (key, Zeroizing::new(value))).collect();
        let input = BuildInput {
            name: &name(),
            uid: says.uid,
            generation: says.generation,
            policy: &effective,
            keys: Vec::new(),
            resolved: &Resolved::default(),
            revoked: Vec::new(),
        };
        let (mut bundle, _) = bundle::build(input);
        if says.withdrawn.is_some() {
            bundle.verify = None;
        }
        let section = IssueSection {
            schema: countersign_api::issue::SCHEMA,
            policy: name(),
            uid: says.uid.into(),
            generation: 1,
            spec: policy.spec,
            references: LoginReferences::default(),
        };
        Self {
            ring: Some(Object { version: says.generation, data, adopt: None }),
            section: Some(object(says.generation, ISSUE_KEY, &section.seal(key).unwrap())),
            bundle: Some(object(says.generation, BUNDLE_KEY, &bundle::seal(&bundle, key).unwrap())),
        }
    }
}

fn object(version: u64, key: &str, text: &str) -> Object {
    let data = BTreeMap::from([(key.to_owned(), Zeroizing::new(text.as_bytes().to_vec()))]);
    Object { version, data, adopt: None }
}

/// What the API server answers when it is asked past the watches.
#[derive(Clone)]
enum Answer {
    Away,
    Lies(Objects),
}

impl Look for Answer {
    async fn look(&self, _: &PolicyName) -> Result<Lying, kube::Error> {
        match self {
            Self::Away => Err(kube::Error::LinesCodecMaxLineLengthExceeded),
            Self::Lies(objects) => {
                let Objects { ring, bundle, .. } = objects.clone();
                Ok(Lying { ring, bundle, ..Lying::default() })
            }
        }
    }
}

/// An issuer, with the people of the shop in its database.
struct Issuer {
    _dir: TempDir,
    key: SigningKey,
    store: Arc<Store>,
    trusted: watch::Receiver<Arc<Trusted>>,
    _trusting: watch::Sender<Arc<Trusted>>,
    holder: Holder,
    world: World,
}

impl Issuer {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
        let file = dir.path().join("trust.json");
        std::fs::write(&file, serde_json::to_vec(&JwkSet { keys: vec![key.public_jwk().clone()] }).unwrap()).unwrap();
        let trusted = Trusted::read(&file).unwrap();
        assert!(matches!(trusted.trust, Trust::Keys(_)));
        let (trusting, trusted) = watch::channel(Arc::new(trusted));
        let store = Arc::new(Store::open(&dir.path().join("store.db")).await.unwrap());
        for id in ["a", "b", "c"] {
            transact!(&store, |tx| { tx.insert_user(&user(id)).await }).unwrap();
        }
        let holder = holder(&store, &trusted);
        let mut issuer = Self { _dir: dir, key, store, trusted, _trusting: trusting, holder, world: World::default() };
        issuer.lists_nothing().await;
        issuer
    }

    /// Another process on the same database, which knows nothing of before.
    async fn restarts(&mut self) {
        self.holder = holder(&self.store, &self.trusted);
        self.world = World::default();
        self.lists_nothing().await;
    }

    async fn lists_nothing(&mut self) {
        for source in Source::ALL {
            self.world.take(Change::Listed { source, objects: Vec::new(), history: String::new() });
        }
        self.holder.bring_forward(&mut self.world).await;
    }

    fn written(&self, says: Says) -> Objects {
        Objects::written(says, &self.key)
    }

    async fn sees(&mut self, says: Says) {
        let objects = self.written(says);
        self.sees_objects(objects).await;
    }

    async fn sees_objects(&mut self, objects: Objects) {
        let bundle = bundle_name(&name());
        let hash = bundle.strip_prefix("b-").unwrap();
        for (source, name, object) in [
            (Source::Rings, format!("r-{hash}"), objects.ring),
            (Source::Sections, format!("i-{hash}"), objects.section),
            (Source::Bundles, bundle.clone(), objects.bundle),
        ] {
            self.world.take(match object {
                Some(object) => Change::Applied { source, name, object },
                None => Change::Gone { source, name },
            });
        }
        self.holder.bring_forward(&mut self.world).await;
    }

    /// What no watch tells of is looked at again, as it is every two seconds.
    async fn looks_again(&mut self) {
        self.holder.look_at_verifiers(&mut self.world).await;
        self.holder.bring_forward(&mut self.world).await;
    }

    fn serves(&self) -> bool {
        self.holder.policies.one(&name()).is_some()
    }

    fn refusal(&self) -> String {
        self.world.refused.values().map(ToString::to_string).collect()
    }

    /// Erases what may be erased, where the API server answers so. How many people are left.
    async fn erases(&self, api: Answer) -> usize {
        let eraser = Eraser { store: self.store.clone(), api, trusted: self.trusted.clone() };
        eraser.erase().await.unwrap();
        self.people().await
    }

    async fn people(&self) -> usize {
        self.store.users(&name(), &UserFilter { limit: 100, ..UserFilter::default() }).await.unwrap().len()
    }

    async fn due(&self) -> Vec<DuePeople> {
        self.store.due_people().await.unwrap()
    }
}

fn holder(store: &Arc<Store>, trusted: &watch::Receiver<Arc<Trusted>>) -> Holder {
    let server = Arc::new(MemoryFeed::new(store.clone()));
    Holder {
        store: store.clone(),
        publisher: Arc::new(Publisher::spawn(server.clone(), store.clone(), PublisherConfig::new("test"))),
        follower: Arc::new(Follower::spawn(server.clone(), FollowerConfig::new("issuer:test")).unwrap()),
        fleet: Fleet::new(server, None),
        policies: Policies::default(),
        default: None,
        trusted: trusted.clone(),
        start_id: "start".into(),
        told: Arc::default(),
        confirmed: Confirmation::default(),
        within_ms: watch::Sender::new(0),
    }
}

fn user(id: &str) -> User {
    User {
        policy: name(),
        id: id.into(),
        username: Some(Folded { written: id.into(), folded: id.into() }),
        email: None,
        pending_email: None,
        first_name: None,
        last_name: None,
        status: UserStatus::Active,
        status_reason: None,
        status_until: None,
        roles: Vec::new(),
        email_verified: false,
        created: UnixMillis(1),
        last_login: None,
        password_changed: None,
        import_batch: None,
    }
}

#[tokio::test]
async fn the_people_of_a_policy_are_erased_once_its_tombstone_s_time_is_over_and_no_sooner() {
    let mut issuer = Issuer::new().await;
    issuer.sees(FIRST).await;
    assert!(issuer.serves(), "{}", issuer.refusal());
    let tombstone = FIRST.withdrawn(false);
    issuer.sees(tombstone).await;
    assert!(!issuer.serves());
    assert_eq!(issuer.erases(Answer::Lies(issuer.written(tombstone))).await, 3, "it is kept for half an hour");

    let tombstone = FIRST.withdrawn(true);
    issuer.sees(tombstone).await;
    assert_eq!(issuer.due().await, [DuePeople { policy: name(), begun: false }]);
    assert_eq!(issuer.erases(Answer::Lies(issuer.written(tombstone))).await, 0);
    assert_eq!(issuer.due().await, []);
}

#[tokio::test]
async fn what_was_noted_is_erased_by_a_process_that_begins_after_the_operator_has_erased_everything() {
    let mut issuer = Issuer::new().await;
    issuer.sees(FIRST.withdrawn(true)).await;
    issuer.restarts().await;
    assert_eq!(issuer.erases(Answer::Lies(Objects::default())).await, 0);
}

#[tokio::test]
async fn nothing_is_erased_by_what_is_absent_by_what_is_not_trusted_or_by_what_is_older() {
    for case in ["an empty list", "a vanished bundle", "a stranger's tombstone", "a tombstone without its record"] {
        let mut issuer = Issuer::new().await;
        issuer.sees(FIRST).await;
        let tombstone = FIRST.withdrawn(true);
        match case {
            "an empty list" => issuer.lists_nothing().await,
            "a vanished bundle" => issuer.sees_objects(Objects { bundle: None, ..issuer.written(FIRST) }).await,
            "a stranger's tombstone" => {
                let stranger = SigningKey::generate(Algorithm::EdDSA).unwrap();
                issuer.sees_objects(Objects::written(tombstone, &stranger)).await;
            }
            _ => issuer.sees_objects(Objects { ring: None, ..issuer.written(tombstone) }).await,
        }
        assert_eq!(issuer.due().await, [], "{case}");
        assert_eq!(issuer.erases(Answer::Lies(Objects::default())).await, 3, "{case}");
        assert_eq!(issuer.serves(), case != "a tombstone without its record", "{case}");
    }

    // An older tombstone, and the record of its time, turn up when the policy was made again: before anything else, and after a
    // restart.
    let mut issuer = Issuer::new().await;
    issuer.sees(FIRST.withdrawn(false)).await;
    issuer.sees(HEIR).await;
    for restarts in [false, true] {
        if restarts {
            issuer.restarts().await;
        }
        issuer.sees(FIRST.withdrawn(true)).await;
        assert!(issuer.refusal().contains("older than what is known"), "{}", issuer.refusal());
        assert_eq!(issuer.due().await, [], "{restarts}");
        assert_eq!(issuer.serves(), !restarts);
    }
}

#[tokio::test]
async fn a_policy_that_came_back_keeps_its_people_whatever_the_watches_have_missed() {
    let later = Says { generation: 20, ..HEIR }.withdrawn(false);
    for (says, why) in [
        (HEIR, "it was made again and took over the keys"),
        (Says { generation: 2, ..FIRST }, "an older state of the API server came back"),
        (later, "it was made again, and withdrawn again"),
    ] {
        let mut issuer = Issuer::new().await;
        issuer.sees(FIRST.withdrawn(true)).await;
        assert_eq!(issuer.due().await.len(), 1);
        assert_eq!(issuer.erases(Answer::Away).await, 3, "nobody can say what lies there");
        assert_eq!(issuer.erases(Answer::Lies(issuer.written(says))).await, 3, "{why}");
        assert_eq!(issuer.due().await, [], "{why}");
        assert_eq!(issuer.erases(Answer::Lies(Objects::default())).await, 3, "{why}");
        if says.withdrawn.is_none() {
            issuer.sees(says).await;
            assert!(issuer.serves(), "{why}: {}", issuer.refusal());
        }
    }
}

#[tokio::test]
async fn people_are_kept_as_long_as_it_is_not_clear_what_lies_under_the_name() {
    let mut issuer = Issuer::new().await;
    let tombstone = FIRST.withdrawn(true);
    issuer.sees(tombstone).await;
    let stranger = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let (ended, lives) = (issuer.written(tombstone), issuer.written(HEIR));
    for (lies, why) in [
        (Objects::written(tombstone, &stranger), "nobody trusts it"),
        (Objects { ring: None, ..ended.clone() }, "the ring is gone"),
        (Objects { bundle: None, ..ended.clone() }, "the bundle is gone"),
        (Objects { ring: lives.ring.clone(), ..ended.clone() }, "somebody is taking the name over"),
        (Objects { bundle: lives.bundle.clone(), ..ended.clone() }, "bundle and ring disagree"),
        (issuer.written(Says { generation: 1, ..tombstone }), "the tombstone is of long ago"),
    ] {
        assert_eq!(issuer.erases(Answer::Lies(lies)).await, 3, "{why}");
        assert_eq!(issuer.due().await.len(), 1, "{why}");
    }
    assert_eq!(issuer.erases(Answer::Lies(ended)).await, 0);
}

#[tokio::test]
async fn another_policy_of_the_name_is_served_once_the_people_of_the_one_before_are_erased() {
    let mut issuer = Issuer::new().await;
    issuer.sees(FIRST.withdrawn(true)).await;
    issuer.sees(ANOTHER).await;
    assert!(!issuer.serves() && issuer.refusal().contains("are being erased"), "{}", issuer.refusal());
    // One row of them went when the process was killed.
    assert!(matches!(issuer.store.erase_people(&name(), 1).await.unwrap(), Erasure::Rows(1)));
    issuer.restarts().await;
    issuer.sees(ANOTHER).await;
    assert!(!issuer.serves());
    assert_eq!(issuer.erases(Answer::Away).await, 0, "what has begun is brought to its end");
    issuer.looks_again().await;
    assert!(issuer.serves(), "{}", issuer.refusal());
}

#[tokio::test]
async fn another_policy_of_the_name_waits_for_the_time_to_be_over_or_for_an_administrator_s_word() {
    for noted in [true, false] {
        let mut issuer = Issuer::new().await;
        issuer.sees(FIRST).await;
        issuer.sees(FIRST.withdrawn(false)).await;
        if !noted {
            // As if no issuer had been there to see it go.
            issuer.sees(Says { generation: 7, ..FIRST }).await;
        }
        issuer.restarts().await;
        issuer.sees(ANOTHER).await;
        let refusal = issuer.refusal();
        assert!(!issuer.serves() && refusal.contains("are kept"), "{refusal}");
        assert_eq!(refusal.contains(" until "), noted, "{refusal}");
        let word = refusal.split("countersign.dev/adopt=").nth(1).unwrap().to_owned();
        let mut objects = issuer.written(ANOTHER);
        objects.ring.as_mut().unwrap().adopt = Some(word);
        issuer.sees_objects(objects).await;
        assert!(issuer.serves(), "{}", issuer.refusal());
        assert_eq!((issuer.due().await, issuer.people().await), (Vec::new(), 3));
    }
}
