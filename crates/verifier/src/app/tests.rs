//! Cache honesty: a verifier that remembers and one that doesn't never differ, whatever happens in whatever order.

use std::sync::{Arc, OnceLock};

use countersign_api::bundle::{
    self, Bundle, BundleIssuer, BundleIssuerKeys, BundleKey, BundleRateLimit, BundleRole, BundleRule, RingName, SCHEMA,
    VerifySection,
};
use countersign_core::{
    check::{Ask, Require},
    jose::{Algorithm, JwkSet},
    keys::SigningKey,
    mint,
    names::PolicyName,
    revocation::{Entry, Kind},
    ring::KeyState,
    rules,
    time::UnixMillis,
};
use countersign_feed::{FeedState, FeedView};
use proptest::prelude::*;
use serde_json::json;
use tokio::sync::mpsc;

use super::{App, Moment, Question, Settings};
use crate::{
    activity::Activity,
    emergency::{AuditLog, Uses},
    http::{
        forwarded::TrustedProxies,
        verdict::{Ending, refused_body, valid_body},
    },
    metrics::Metrics,
    net::Peer,
    slot::{Loaded, PolicySlot, Snapshot},
};

/// When every history begins.
const BEGIN: i64 = 1_800_000_000_000;
const POLICIES: [&str; 2] = ["a/one", "a/two"];
/// The policies' own issuers, and two that both trust; the last two keys have kids that others have too.
const ISSUERS: [&str; 4] = ["https://one.example", "https://two.example", "https://x.example", "https://y.example"];
const CALLER: Peer = Peer::Local { uid: 7 };

/// Six keys under three names.
fn keys() -> &'static [SigningKey; 6] {
    static KEYS: OnceLock<[SigningKey; 6]> = OnceLock::new();
    KEYS.get_or_init(|| {
        std::array::from_fn(|i| {
            let pkcs8 = SigningKey::generate(Algorithm::EdDSA).unwrap().to_pkcs8().unwrap();
            SigningKey::from_pkcs8(Algorithm::EdDSA, Some(["k1", "k2", "k3"][i % 3]), &pkcs8).unwrap()
        })
    })
}

#[derive(Clone, Debug)]
enum Step {
    Mint { issuer: usize, key: usize, subject: u8, session: u8, issued_ago_s: i64, lives_s: i64, audience: u8, role: u8 },
    Verify { token: usize, policy: usize, ask: u8 },
    Revoke { policy: usize, kind: Kind, id: u8, issuer: Option<usize>, before_s: Option<i64> },
    Ring { policy: usize, states: [Option<KeyState>; 3] },
    Foreign { policy: usize, issuer: usize, keys: Vec<usize> },
    Edit { policy: usize, what: u8 },
    Time { by_ms: i64 },
    Feed { age_ms: Option<u64> },
    Again { token: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop::sample::select(vec![
        Kind::Token,
        Kind::Session,
        Kind::Subject,
        Kind::ApiKey,
        Kind::Key,
        Kind::Policy,
        Kind::Ip,
    ]);
    let state = || {
        prop::option::of(prop::sample::select(vec![
            KeyState::Pending,
            KeyState::Active,
            KeyState::Retiring,
            KeyState::Revoked,
        ]))
    };
    prop_oneof![
        4 => (0..4_usize, 0..6_usize, 0..2_u8, 0..2_u8, -40..100_i64, 1..200_i64, 0..2_u8, 0..3_u8).prop_map(
            |(issuer, key, subject, session, issued_ago_s, lives_s, audience, role)| Step::Mint {
                issuer, key, subject, session, issued_ago_s, lives_s, audience, role
            }),
        12 => (0..100_usize, 0..2_usize, 0..8_u8).prop_map(|(token, policy, ask)| Step::Verify { token, policy, ask }),
        4 => (0..2_usize, kind, 0..6_u8, prop::option::of(0..4_usize), prop::option::of(-50..50_i64))
            .prop_map(|(policy, kind, id, issuer, before_s)| Step::Revoke { policy, kind, id, issuer, before_s }),
        2 => (0..2_usize, [state(), state(), state()]).prop_map(|(policy, states)| Step::Ring { policy, states }),
        2 => (0..2_usize, 2..4_usize, prop::collection::vec(0..6_usize, 0..4))
            .prop_map(|(policy, issuer, keys)| Step::Foreign { policy, issuer, keys }),
        2 => (0..2_usize, 0..8_u8).prop_map(|(policy, what)| Step::Edit { policy, what }),
        3 => prop_oneof![1..60_000_i64, -40_000..0_i64].prop_map(|by_ms| Step::Time { by_ms }),
        1 => prop::option::of(prop_oneof![Just(0_u64), Just(400_000)]).prop_map(|age_ms| Step::Feed { age_ms }),
        3 => (0..100_usize).prop_map(|token| Step::Again { token }),
    ]
}

/// Two verifiers of one world.
struct World {
    sections: [VerifySection; 2],
    generations: [u64; 2],
    fetched: [bundle::FetchedKeys; 2],
    feed: Arc<FeedState>,
    remembering: App,
    forgetful: App,
    tokens: Vec<String>,
    now: UnixMillis,
    age_ms: Option<u64>,
}

impl World {
    fn new(cache_bytes: u64) -> Self {
        let feed = FeedState::without_feed();
        let app = |cache_bytes| {
            let settings = Settings {
                trusted_proxies: TrustedProxies::default(),
                uncached_budget: None,
                restrict_listing: false,
                policy_label: true,
                cache_bytes,
            };
            let metrics = Arc::new(Metrics::default());
            let uses = Uses::logged("here".into(), AuditLog::new(|_| Ok(())), metrics.clone());
            App::new(feed.clone(), metrics, settings, mpsc::channel(1).0, uses, Activity::unheard())
        };
        let mut world = Self {
            sections: [0, 1].map(first_section),
            generations: [0, 0],
            fetched: Default::default(),
            remembering: app(cache_bytes),
            forgetful: app(0),
            feed: feed.clone(),
            tokens: Vec::new(),
            now: UnixMillis(BEGIN),
            age_ms: Some(0),
        };
        for policy in 0..2 {
            world.publish(policy);
        }
        world
    }

    fn publish(&mut self, policy: usize) {
        self.generations[policy] += 1;
        for app in [&self.remembering, &self.forgetful] {
            let name: PolicyName = POLICIES[policy].parse().unwrap();
            let bundle = Bundle {
                schema: SCHEMA,
                policy: name.clone(),
                uid: "u".into(),
                generation: self.generations[policy],
                verify: Some(self.sections[policy].clone()),
                revoked: Vec::new(),
            };
            let compiled = bundle::compile(&bundle, None, &self.fetched[policy]).unwrap();
            let loaded = Loaded {
                policy: compiled.policy,
                keys: Vec::new(),
                prepublish_ms: 0,
                cookie_prefix: None,
                unconfirmed_after_ms: i64::MAX,
            };
            let before = app.snapshot.load_full();
            let held = before.find(name.as_str()).map(|slot| &**slot);
            let slot = PolicySlot::new(loaded, held, app.settings.cache_bytes, &app.metrics, self.now);
            let others = before.sorted().into_iter().filter(|s| s.policy().name != name).cloned();
            app.publish(Snapshot::default().with(&[], others.chain([Arc::new(slot)]).collect(), Vec::new(), Vec::new()));
            app.confirm();
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Mint { issuer, key, subject, session, issued_ago_s, lives_s, audience, role } => {
                let issued = self.now.minus(issued_ago_s * 1000);
                let claims = json!({
                    "iss": ISSUERS[*issuer], "sub": format!("sub{subject}"), "sid": format!("sid{session}"),
                    "jti": format!("jti{}", self.tokens.len() % 6), "aud": format!("aud{audience}"),
                    "iat": issued.as_secs(), "iat_ms": issued.0, "exp": issued.as_secs() + lives_s,
                    "roles": [format!("role{role}")], "scope": "s",
                });
                self.tokens.push(mint::sign(&keys()[*key], mint::ACCESS_TOKEN_TYPE, claims.as_object().unwrap()).unwrap());
            }
            Step::Verify { token, policy, ask } => self.compare(*token, *policy, *ask),
            Step::Again { token } => {
                for policy in 0..2 {
                    self.compare(*token, policy, 0);
                    self.compare(*token, policy, 0);
                }
            }
            Step::Revoke { policy, kind, id, issuer, before_s } => {
                let cutoff = before_s.map_or(UnixMillis::FOREVER, |s| self.now.plus(s * 1000));
                let id = match kind {
                    Kind::Token | Kind::ApiKey => format!("jti{id}"),
                    Kind::Session => format!("sid{}", id % 2),
                    Kind::Subject => format!("sub{}", id % 2),
                    Kind::Key => format!("k{}", id % 3 + 1),
                    Kind::Policy => ["", "access"][usize::from(id % 2)].to_owned(),
                    Kind::Ip => "203.0.113.0/24".to_owned(),
                };
                self.feed.revocations().apply(&Entry {
                    policy: POLICIES[*policy].parse().unwrap(),
                    kind: *kind,
                    issuer: issuer.map(|i| ISSUERS[i].to_owned()),
                    id,
                    cutoff: if *kind == Kind::Policy && cutoff == UnixMillis::FOREVER { self.now } else { cutoff },
                    expires: UnixMillis(BEGIN + 86_400_000),
                    version: 1,
                    reason: String::new(),
                    source: String::new(),
                });
            }
            Step::Ring { policy, states } => {
                self.sections[*policy].keys = ring(*policy, *states);
                self.publish(*policy);
            }
            Step::Foreign { policy, issuer, keys: chosen } => {
                let set = JwkSet { keys: chosen.iter().map(|k| keys()[*k].public_jwk().clone()).collect() };
                if *issuer == 2 {
                    self.fetched[*policy].insert("x".into(), set);
                } else {
                    self.sections[*policy].trusted_issuers[1].keys = BundleIssuerKeys::Jwks(set);
                }
                self.publish(*policy);
            }
            Step::Edit { policy, what } => {
                edit(&mut self.sections[*policy], *what);
                self.publish(*policy);
            }
            Step::Time { by_ms } => self.now = self.now.plus(*by_ms),
            Step::Feed { age_ms } => self.age_ms = *age_ms,
        }
    }

    fn compare(&self, token: usize, policy: usize, ask: u8) {
        let Some(count) = self.tokens.len().checked_sub(1) else { return };
        let token = &self.tokens[token.min(count)];
        let [mine, its] = [&self.remembering, &self.forgetful].map(|app| self.answer(app, token, POLICIES[policy], ask));
        assert_eq!(mine, its, "remembering and forgetting differ on {token} under {}", POLICIES[policy]);
    }

    fn answer(&self, app: &App, token: &str, policy: &str, ask: u8) -> String {
        let snapshot = app.snapshot.load();
        let slot = snapshot.find(policy).unwrap();
        let moment =
            Moment { now: self.now, feed: FeedView { position: None, age_ms: self.age_ms, fresh: self.age_ms == Some(0) } };
        let question = Ask {
            require: Require {
                permissions: if ask == 1 { vec!["read".into()] } else { Vec::new() },
                roles: if ask == 2 { vec!["role1".into()] } else { Vec::new() },
                audiences: if ask == 3 { vec!["aud1".into()] } else { Vec::new() },
                ..Require::default()
            },
            request: rules::Request { method: (ask == 4).then_some("GET"), ..rules::Request::default() },
            client: rules::Client { ip: (ask >= 5).then(|| "203.0.113.5".parse().unwrap()), ..rules::Client::default() },
        };
        let question = Question { token, ask: question, caller: CALLER, behind: ask == 7 };
        app.judge(slot, &question, moment, |outcome| {
            let body = match outcome {
                Ok(granted) => valid_body(&granted.proven.prefix, &Ending::of(&granted.allowed, granted.position)),
                Err(refusal) => refused_body(&refusal),
            };
            String::from_utf8(body).unwrap()
        })
    }
}

fn ring(policy: usize, states: [Option<KeyState>; 3]) -> Vec<BundleKey> {
    let mine = &keys()[policy * 3..];
    states
        .iter()
        .zip(mine)
        .filter_map(|(state, key)| {
            Some(BundleKey { ring: RingName::Access, state: (*state)?, jwk: key.public_jwk().clone() })
        })
        .collect()
}

fn first_section(policy: usize) -> VerifySection {
    let trusted = |name: &str, issuer: &str, keys| BundleIssuer {
        name: name.into(),
        issuer: Some(issuer.into()),
        any_issuer: false,
        audiences: None,
        algorithms: vec![Algorithm::EdDSA],
        keys,
        max_ttl_ms: Some(150_000),
        not_after: Some(UnixMillis(BEGIN + 200_000)),
        matches: Vec::new(),
        subject: None,
        roles: None,
        scopes: None,
    };
    let set = JwkSet { keys: vec![keys()[1].public_jwk().clone(), keys()[5].public_jwk().clone()] };
    VerifySection {
        issuer: Some(ISSUERS[policy].into()),
        audiences: vec!["aud0".into()],
        clock_skew_ms: 5_000,
        keys: ring(policy, [Some(KeyState::Active), Some(KeyState::Pending), None]),
        prepublish_ms: 0,
        trusted_issuers: vec![
            trusted("x", ISSUERS[2], BundleIssuerKeys::Fetch { url: None }),
            trusted("y", ISSUERS[3], BundleIssuerKeys::Jwks(set)),
        ],
        opaque_keys: false,
        secrets_sha256: None,
        roles: (0..2)
            .map(|i| BundleRole { name: format!("role{i}"), permissions: vec!["read".into()], inherits: Vec::new() })
            .collect(),
        rules: Vec::new(),
        allow: Vec::new(),
        deny: Vec::new(),
        rate_limit: None,
        max_staleness_ms: 300_000,
        allow_stale: false,
        cookie_prefix: None,
        emergency: None,
        absent_after_ms: 600_000,
    }
}

fn edit(section: &mut VerifySection, what: u8) {
    match what {
        0 => section.audiences = vec!["aud1".into()],
        1 => section.audiences = vec!["aud0".into(), "aud1".into()],
        2 => section.roles.rotate_left(1),
        3 => section.allow_stale = !section.allow_stale,
        4 => section.deny = vec!["203.0.113.0/24".parse().unwrap()],
        5 => {
            section.rules =
                vec![BundleRule { name: "r".into(), expression: "'role2' in roles || request.method == 'GET'".into() }];
        }
        6 => section.rate_limit = Some(BundleRateLimit { limit: 4, window_ms: 10_000 }),
        _ => section.clock_skew_ms = 5_000 - section.clock_skew_ms,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_is_remembered_never_changes_a_verdict(steps in prop::collection::vec(step(), 10..120), small in any::<bool>()) {
        // The small cache forgets all the time.
        let mut world = World::new(if small { 8 << 10 } else { 8 << 20 });
        for step in &steps {
            world.take(step);
        }
        for token in 0..world.tokens.len() {
            for policy in 0..2 {
                world.compare(token, policy, 0);
            }
        }
    }
}

#[test]
fn the_histories_reach_every_kind_of_verdict_and_the_cache_is_used() {
    let mut world = World::new(8 << 20);
    let mint = |issuer, key| Step::Mint {
        issuer,
        key,
        subject: 0,
        session: 0,
        issued_ago_s: 1,
        lives_s: 100,
        audience: 0,
        role: 0,
    };
    for step in [mint(0, 0), mint(3, 1), mint(0, 3)] {
        world.take(&step);
    }
    for policy in 0..2 {
        world.take(&Step::Again { token: 0 });
        world.take(&Step::Again { token: 1 });
        world.take(&Step::Verify { token: 2, policy, ask: 0 });
    }
    let words = |world: &World, token: usize| world.answer(&world.remembering, &world.tokens[token], POLICIES[0], 0);
    assert!(words(&world, 0).contains("\"valid\"") && words(&world, 1).contains("\"external\""));
    assert!(words(&world, 2).contains("bad_signature"), "the same kid, another key");
    let text = world.remembering.metrics.render(&crate::metrics::Gauges::default(), false).into_text();
    assert!(!text.contains("countersign_verify_cache_hits_total 0\n"), "{text}");
    world.take(&Step::Revoke { policy: 0, kind: Kind::Session, id: 0, issuer: None, before_s: None });
    assert!(words(&world, 0).contains("revoked"));
}
