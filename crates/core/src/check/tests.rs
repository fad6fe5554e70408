mod emergency;

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::*;
use crate::{
    addresses::AddressLists,
    claims::ClaimMatch,
    jose::{Algorithm, base64url},
    keys::{KeyEntry, KeySet, SigningKey, VerifyingKey},
    mapping::{ClaimMappings, Mapping, Source as MappingSource},
    mint,
    opaque::{OpaqueKey, OpaqueKeys},
    policy::{EmergencyTokens, OwnIssuer, Policy, RateLimit, Staleness, TrustedIssuer},
    ratelimit::RateLimiter,
    revocation::{Entry, IdHasher, Kind, RevocationSet},
    roles::{RoleDef, Roles},
    rules::{self, RuleDef, Rules},
    time::UnixMillis,
    verdict::{Denial, DenialReason, Refusal, RevokedBy},
};

const NOW: UnixMillis = UnixMillis(1_800_000_000_123);
const ISSUER: &str = "https://auth.shop.example";
const FOREIGN: &str = "https://kc.example/realms/shop";
const SECRET: &[u8] = b"a shared secret from before, 32+ bytes long";

/// One policy with every kind of issuer, and the keys to sign as each of them.
struct Scene {
    policy: Policy,
    access: SigningKey,
    revoked: SigningKey,
    api: SigningKey,
    foreign: SigningKey,
    set: RevocationSet,
    limiter: RateLimiter,
    witness: emergency::Notes,
}

fn entry_of(key: &SigningKey, algorithms: &[Algorithm], revoked: bool) -> KeyEntry {
    KeyEntry { key: VerifyingKey::from_jwk(key.public_jwk(), algorithms).unwrap(), revoked }
}

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

impl Scene {
    fn new() -> Self {
        let eddsa = || SigningKey::generate(Algorithm::EdDSA).unwrap();
        let (access, revoked, api) = (eddsa(), eddsa(), eddsa());
        let foreign = SigningKey::generate(Algorithm::ES256).unwrap();
        let roles_claim = Mapping {
            source: MappingSource::Claim("groups".into()),
            prefix: Some("kc:".into()),
            allow: Some(strings(&["kc:user"])),
        };
        let policy = Policy {
            name: "shop/shop".parse().unwrap(),
            digest: [0; 32],
            generation: 1,
            own: Some(OwnIssuer {
                issuer: ISSUER.into(),
                access: KeySet::new(vec![
                    entry_of(&access, &[Algorithm::EdDSA], false),
                    entry_of(&revoked, &[Algorithm::EdDSA], true),
                ]),
                api_key: KeySet::new(vec![entry_of(&api, &[Algorithm::EdDSA], false)]),
                emergency: Some(EmergencyTokens {
                    max_ttl_ms: 3_600_000,
                    roles: strings(&["admin", "user"]),
                    not_after: NOW.plus(7_200_000),
                }),
            }),
            audiences: strings(&["shop-api", "shop-admin"]),
            clock_skew_ms: 30_000,
            trusted: vec![
                TrustedIssuer {
                    name: "keycloak".into(),
                    issuer: Some(FOREIGN.into()),
                    any_issuer: false,
                    audiences: Some(strings(&["shop-api"])),
                    algorithms: vec![Algorithm::ES256],
                    keys: KeySet::new(vec![entry_of(&foreign, &[Algorithm::ES256], false)]),
                    max_ttl_ms: Some(3_600_000),
                    not_after: None,
                    matches: vec![ClaimMatch { claim: "azp".into(), value: json!("shop") }],
                    mappings: ClaimMappings { roles: Some(roles_claim), ..ClaimMappings::default() },
                },
                TrustedIssuer {
                    name: "legacy".into(),
                    issuer: None,
                    any_issuer: false,
                    audiences: None,
                    algorithms: vec![Algorithm::HS256],
                    keys: KeySet::new(vec![KeyEntry {
                        key: VerifyingKey::hmac(SECRET, &[Algorithm::HS256]).unwrap(),
                        revoked: false,
                    }]),
                    max_ttl_ms: None,
                    not_after: Some(NOW.plus(60_000)),
                    matches: Vec::new(),
                    mappings: ClaimMappings::default(),
                },
            ],
            opaque: Some(OpaqueKeys::new([OpaqueKey {
                sha256: crate::digest::sha256(b"old-key"),
                subject: "partner".into(),
                scopes: strings(&["orders:read"]),
                roles: strings(&["user"]),
                not_after: Some(NOW.plus(1000)),
            }])),
            roles: Roles::new(vec![
                RoleDef { name: "admin".into(), permissions: strings(&["*"]), inherits: Vec::new() },
                RoleDef { name: "user".into(), permissions: strings(&["orders:read"]), inherits: Vec::new() },
            ])
            .unwrap(),
            rules: Rules::compile(&[RuleDef {
                name: "temp-reads-only".into(),
                expression: "'temp' in roles && request.method != 'GET'".into(),
            }])
            .unwrap(),
            addresses: AddressLists::default(),
            rate_limit: None,
            staleness: Staleness { max_ms: 300_000, allow: false },
        };
        let set = RevocationSet::new(IdHasher::new([7; 16]));
        let (limiter, witness) = (RateLimiter::new(), emergency::Notes::default());
        Self { policy, access, revoked, api, foreign, set, limiter, witness }
    }

    fn authenticate(&self, token: &str) -> Result<Authenticated, Refusal> {
        authenticate(&self.policy, token, NOW, self.set.hasher())
    }

    fn world(&self) -> World<'_> {
        World {
            now: NOW,
            revocations: &self.set,
            feed_age_ms: Some(5),
            behind: false,
            rate_limiter: &self.limiter,
            witness: &self.witness,
        }
    }

    fn verdict(&self, token: &str, ask: &Ask<'_>) -> Result<(), Refusal> {
        judge(&self.policy, &self.authenticate(token)?, ask, &self.world()).map(|_| ())
    }

    fn revoke(&self, kind: Kind, issuer: Option<&str>, id: &str, cutoff: UnixMillis) {
        self.set.apply(&Entry {
            policy: self.policy.name.clone(),
            kind,
            issuer: issuer.map(str::to_owned),
            id: id.into(),
            cutoff,
            expires: NOW.plus(3_600_000),
            version: 0,
            reason: String::new(),
            source: "test".into(),
        });
    }
}

/// Claims of a good token of the policy's own, with changes: null takes a claim away.
fn claims(changes: impl std::borrow::Borrow<Value>) -> Map<String, Value> {
    let mut claims = json!({
        "iss": ISSUER, "sub": "alice", "aud": "shop-api", "iat": NOW.as_secs(), "iat_ms": NOW.0,
        "exp": NOW.as_secs() + 900, "jti": "t-1", "sid": "s-1", "roles": ["user"], "scope": "orders:read",
    });
    let changes = changes.borrow().as_object().unwrap().clone();
    claims.as_object_mut().unwrap().extend(changes);
    claims.as_object().unwrap().iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn own(scene: &Scene, changes: Value) -> String {
    mint::sign(&scene.access, "at+jwt", &claims(changes)).unwrap()
}

fn foreign(scene: &Scene, changes: impl std::borrow::Borrow<Value>) -> String {
    let mut all = claims(json!({"iss": FOREIGN, "azp": "shop", "groups": ["user", "admin"], "iat_ms": null}));
    all.extend(changes.borrow().as_object().unwrap().clone());
    all.retain(|_, v| !v.is_null());
    mint::sign(&scene.foreign, "JWT", &all).unwrap()
}

fn legacy(changes: impl std::borrow::Borrow<Value>) -> String {
    let mut all = claims(json!({"iss": null}));
    all.extend(changes.borrow().as_object().unwrap().clone());
    all.retain(|_, v| !v.is_null());
    let input = format!(
        "{}.{}",
        base64url::encode(r#"{"alg":"HS256","kid":"ignored"}"#),
        base64url::encode(Value::Object(all).to_string())
    );
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET);
    format!("{input}.{}", base64url::encode(aws_lc_rs::hmac::sign(&key, input.as_bytes())))
}

#[test]
fn a_good_token_of_each_kind_is_allowed_what_its_roles_grant() {
    let scene = Scene::new();
    let api_claims = claims(json!({"scope": "orders:read orders:write"}));
    let api_key = format!("csk_{}", mint::sign(&scene.api, "api-key+jwt", &api_claims).unwrap());
    for (token, kind, roles, permissions) in [
        (own(&scene, json!({})), CredentialKind::Access, vec!["user"], vec!["orders:read"]),
        (own(&scene, json!({"roles": ["admin"]})), CredentialKind::Access, vec!["admin"], vec!["*"]),
        (api_key, CredentialKind::ApiKey, vec!["user"], vec!["orders:read"]),
        (foreign(&scene, json!({})), CredentialKind::External, vec!["kc:user"], vec![]),
        (legacy(json!({})), CredentialKind::External, vec![], vec![]),
        ("old-key".to_owned(), CredentialKind::ApiKey, vec!["user"], vec!["orders:read"]),
    ] {
        let credential = scene.authenticate(&token).unwrap();
        assert_eq!(credential.kind(), kind);
        assert_eq!(credential.roles(), roles, "{kind:?}");
        assert_eq!(credential.permissions(), permissions, "{kind:?}");
        assert_eq!(scene.verdict(&token, &Ask::default()), Ok(()), "{kind:?}");
    }
}

#[test]
fn each_fault_of_a_token_has_its_own_refusal() {
    let scene = Scene::new();
    let missing_exp = Refusal::InvalidClaims("exp is missing");
    let cases: Vec<(String, Refusal)> = vec![
        (own(&scene, json!({"iss": "https://elsewhere.example"})), Refusal::UntrustedIssuer),
        (own(&scene, json!({"iss": 7})), Refusal::UntrustedIssuer),
        (mint::sign(&scene.api, "at+jwt", &claims(json!({}))).unwrap(), Refusal::UnknownKey),
        (own(&scene, json!({"nbf": NOW.as_secs() + 31})), Refusal::NotYetValid),
        (own(&scene, json!({"iat": NOW.as_secs() + 31})), Refusal::NotYetValid),
        (own(&scene, json!({"exp": NOW.as_secs() - 30})), Refusal::Expired),
        (own(&scene, json!({"aud": "other"})), Refusal::WrongAudience),
        (own(&scene, json!({"aud": null})), Refusal::WrongAudience),
        (own(&scene, json!({"exp": null})), missing_exp.clone()),
        (own(&scene, json!({"sub": null})), Refusal::InvalidClaims("sub is missing")),
        (own(&scene, json!({"sub": 1})), Refusal::InvalidClaims("sub is not a string")),
        (own(&scene, json!({"jti": null})), Refusal::InvalidClaims("jti is missing or not a string")),
        (own(&scene, json!({"roles": [1]})), Refusal::InvalidClaims("roles is not a list of strings")),
        (own(&scene, json!({"amr": {"pwd": true}})), Refusal::InvalidClaims("amr is not a list of strings")),
        (own(&scene, json!({"amr": ["pwd", 1]})), Refusal::InvalidClaims("amr is not a list of strings")),
        (own(&scene, json!({"amr": 0})), Refusal::InvalidClaims("amr is not a list of strings")),
        (own(&scene, json!({"amr": false})), Refusal::InvalidClaims("amr is not a list of strings")),
        (foreign(&scene, json!({"amr": [[]]})), Refusal::InvalidClaims("amr is not a list of strings")),
        (
            mint::sign(&scene.access, "JWT", &claims(json!({}))).unwrap(),
            Refusal::InvalidClaims("typ is not that of an access token"),
        ),
        (mint::sign(&scene.revoked, "at+jwt", &claims(json!({}))).unwrap(), Refusal::Revoked(RevokedBy::Key)),
        (foreign(&scene, json!({"exp": null})), missing_exp),
        (
            foreign(&scene, json!({"exp": NOW.as_secs() + 3601})),
            Refusal::InvalidClaims("the token lives longer than the trusted issuer's maxTTL"),
        ),
        (
            foreign(&scene, json!({"azp": "other"})),
            Refusal::InvalidClaims("a claim is not what the trusted issuer's entry demands"),
        ),
        (foreign(&scene, json!({"token_use": "refresh"})), Refusal::InvalidClaims("a refresh token is no access token")),
        ("unknown-key".to_owned(), Refusal::UnknownKey),
        // The prefix makes it an API key, and only the policy's own issuer has those.
        (format!("csk_{}", foreign(&scene, json!({}))), Refusal::UntrustedIssuer),
        (format!("csk_{}", own(&scene, json!({}))), Refusal::UnknownKey),
    ];
    for (token, refusal) in cases {
        assert_eq!(scene.verdict(&token, &Ask::default()), Err(refusal), "{token}");
    }
}

#[test]
fn when_several_faults_apply_the_first_in_the_contract_wins() {
    let scene = Scene::new();
    let all_wrong = json!({"nbf": NOW.as_secs() + 60, "exp": NOW.as_secs() - 60, "aud": "other", "sub": 1});
    let without = |gone: &[&str]| {
        let mut changes = all_wrong.clone();
        for name in gone {
            changes.as_object_mut().unwrap().remove(*name);
        }
        scene.verdict(&own(&scene, changes), &Ask::default())
    };
    assert_eq!(without(&[]), Err(Refusal::NotYetValid));
    assert_eq!(without(&["nbf"]), Err(Refusal::Expired));
    assert_eq!(without(&["nbf", "exp"]), Err(Refusal::WrongAudience));
    assert_eq!(without(&["nbf", "exp", "aud"]), Err(Refusal::InvalidClaims("sub is not a string")));

    let mut bent = own(&scene, all_wrong.clone());
    bent.replace_range(bent.len() - 4.., "AAAA");
    assert_eq!(scene.verdict(&bent, &Ask::default()), Err(Refusal::BadSignature));
}

#[test]
fn every_attribute_of_a_token_can_revoke_it_whoever_issued_it() {
    let own_kid = Scene::new().access.kid().len();
    assert!(own_kid > 0);
    for (kind, id, by) in [
        (Kind::Token, "t-1", RevokedBy::Token),
        (Kind::Session, "s-1", RevokedBy::Session),
        (Kind::Subject, "alice", RevokedBy::Subject),
        (Kind::Policy, "", RevokedBy::Policy),
    ] {
        for issuer in [None, Some(FOREIGN)] {
            let scene = Scene::new();
            scene.revoke(kind, issuer, id, NOW);
            let refused = Err(Refusal::Revoked(by));
            assert_eq!(scene.verdict(&foreign(&scene, json!({})), &Ask::default()), refused, "{kind:?}");
            // An entry for one issuer leaves the others' namesakes alone.
            let expected = if issuer.is_none() { refused } else { Ok(()) };
            assert_eq!(scene.verdict(&own(&scene, json!({})), &Ask::default()), expected, "{kind:?}");
        }
    }
    let scene = Scene::new();
    scene.revoke(Kind::Key, None, scene.access.kid(), UnixMillis::FOREVER);
    assert_eq!(scene.verdict(&own(&scene, json!({})), &Ask::default()), Err(Refusal::Revoked(RevokedBy::Key)));
    let scene = Scene::new();
    scene.revoke(Kind::Key, None, scene.foreign.kid(), UnixMillis::FOREVER);
    assert_eq!(scene.verdict(&foreign(&scene, json!({})), &Ask::default()), Ok(()));
}

#[test]
fn a_cut_off_ends_what_was_issued_up_to_it_and_nothing_later() {
    let scene = Scene::new();
    scene.revoke(Kind::Subject, None, "alice", NOW);
    let at = |ms: i64| own(&scene, json!({"iat_ms": NOW.0 + ms}));
    assert_eq!(scene.verdict(&at(0), &Ask::default()), Err(Refusal::Revoked(RevokedBy::Subject)));
    assert_eq!(scene.verdict(&at(1), &Ask::default()), Ok(()));
    // A foreign token's second counts from its start; without iat it dies by any cut-off.
    let second = |iat: Value| scene.verdict(&foreign(&scene, json!({"iat": iat})), &Ask::default());
    assert_eq!(second(json!(NOW.as_secs())), Err(Refusal::Revoked(RevokedBy::Subject)));
    assert_eq!(second(json!(NOW.as_secs() + 1)), Ok(()));
    assert_eq!(second(Value::Null), Err(Refusal::Revoked(RevokedBy::Subject)));
    // The strictest of all scopes applies, whatever an older cut-off of another scope says.
    scene.revoke(Kind::Policy, None, "", NOW.plus(5));
    assert_eq!(scene.verdict(&at(3), &Ask::default()), Err(Refusal::Revoked(RevokedBy::Policy)));
}

#[test]
fn what_time_can_change_is_judged_on_every_call() {
    let scene = Scene::new();
    let ask = Ask::default();
    let at = |credential: &Authenticated, now| {
        judge(&scene.policy, credential, &ask, &World { now, ..scene.world() }).map(|_| ())
    };
    let token = scene.authenticate(&own(&scene, json!({}))).unwrap();
    assert_eq!(at(&token, NOW.plus(929_876)), Ok(()));
    assert_eq!(at(&token, NOW.plus(929_877)), Err(Refusal::Expired));
    assert_eq!(at(&token, NOW.minus(31_000)), Err(Refusal::NotYetValid));
    let old = scene.authenticate(&legacy(json!({}))).unwrap();
    assert_eq!(at(&old, NOW.plus(59_999)), Ok(()));
    assert_eq!(at(&old, NOW.plus(60_000)), Err(Refusal::UntrustedIssuer));
    let opaque = scene.authenticate("old-key").unwrap();
    assert_eq!(at(&opaque, NOW.plus(999)), Ok(()));
    assert_eq!(at(&opaque, NOW.plus(1000)), Err(Refusal::Expired));
}

#[test]
fn a_life_that_is_counted_from_now_is_never_cached() {
    let scene = Scene::new();
    assert!(scene.authenticate(&foreign(&scene, json!({}))).unwrap().cacheable());
    assert!(!scene.authenticate(&foreign(&scene, json!({"iat": null}))).unwrap().cacheable());
}

#[test]
fn demands_fail_by_name_after_revocation_and_staleness() {
    let mut scene = Scene::new();
    scene.policy.rate_limit = Some(RateLimit { limit: 1, window_ms: 60_000 });
    let token = own(&scene, json!({}));
    let one = |s: &'static str| vec![Cow::Borrowed(s)];
    let denied = |reason| Err(Refusal::Denied(Denial::of(reason)));
    for (require, verdict) in [
        (Require { permissions: one("orders:write"), ..Require::default() }, denied(DenialReason::Permission)),
        (Require { roles: one("admin"), ..Require::default() }, denied(DenialReason::Role)),
        (Require { scopes: one("orders:write"), ..Require::default() }, denied(DenialReason::Scope)),
        (Require { audiences: one("shop-admin"), ..Require::default() }, denied(DenialReason::Audience)),
    ] {
        assert_eq!(scene.verdict(&token, &Ask { require, ..Ask::default() }), verdict);
    }
    // Refusals cost nothing of the limit; the first success takes all of it.
    assert_eq!(scene.verdict(&token, &Ask::default()), Ok(()));
    assert!(matches!(scene.verdict(&token, &Ask::default()), Err(Refusal::RateLimited { retry_after_s: 1.. })));

    let credential = scene.authenticate(&token).unwrap();
    let unmet = Ask { require: Require { roles: one("admin"), ..Require::default() }, ..Ask::default() };
    for world in [World { feed_age_ms: None, ..scene.world() }, World { behind: true, ..scene.world() }] {
        assert_eq!(judge(&scene.policy, &credential, &unmet, &world).unwrap_err(), Refusal::Stale);
    }
    scene.revoke(Kind::Session, None, "s-1", UnixMillis::FOREVER);
    let world = World { feed_age_ms: Some(300_001), ..scene.world() };
    assert_eq!(judge(&scene.policy, &credential, &unmet, &world).unwrap_err(), Refusal::Revoked(RevokedBy::Session));
}

#[test]
fn an_old_feed_is_answered_and_told_only_where_the_policy_allows_it() {
    let mut scene = Scene::new();
    scene.policy.staleness.allow = true;
    let credential = scene.authenticate(&own(&scene, json!({}))).unwrap();
    let ask = Ask::default();
    for (age, behind, told) in [
        (Some(300_000), false, Some((false, Some(0)))),
        (Some(300_001), false, Some((true, Some(300_001)))),
        (None, false, Some((true, None))),
        (Some(0), true, None),
    ] {
        let world = World { feed_age_ms: age, behind, ..scene.world() };
        let answer = judge(&scene.policy, &credential, &ask, &world).ok().map(|a| (a.stale(), a.stale_ms()));
        assert_eq!(answer, told, "{age:?} {behind}");
    }
}

#[test]
fn a_rule_or_list_that_lacks_what_it_needs_denies_and_names_it() {
    let mut scene = Scene::new();
    let temp = own(&scene, json!({"roles": ["temp"]}));
    let with_method =
        |method| Ask { request: rules::Request { method: Some(method), ..rules::Request::default() }, ..Ask::default() };
    let by_rule = |missing| {
        Err(Refusal::Denied(Denial { reason: DenialReason::Rule, rule: Some("temp-reads-only".into()), missing }))
    };
    assert_eq!(scene.verdict(&temp, &with_method("GET")), Ok(()));
    assert_eq!(scene.verdict(&temp, &with_method("POST")), by_rule(Vec::new()));
    assert_eq!(scene.verdict(&temp, &Ask::default()), by_rule(vec!["request.method"]));
    // CEL's && absorbs the error when the other side settles it.
    assert_eq!(scene.verdict(&own(&scene, json!({})), &Ask::default()), Ok(()));

    scene.policy.addresses = AddressLists::new(Vec::new(), vec!["192.0.2.0/24".parse().unwrap()]);
    let from = |ip: &str| Ask {
        client: rules::Client { ip: Some(ip.parse().unwrap()), ..rules::Client::default() },
        ..Ask::default()
    };
    let token = own(&scene, json!({}));
    let by_ip = |missing| Err(Refusal::Denied(Denial { reason: DenialReason::Ip, rule: None, missing }));
    assert_eq!(scene.verdict(&token, &from("192.0.2.7")), by_ip(Vec::new()));
    assert_eq!(scene.verdict(&token, &from("198.51.100.7")), Ok(()));
    assert_eq!(scene.verdict(&token, &Ask::default()), by_ip(vec!["client.ip"]));
}

#[test]
fn a_key_revoked_or_a_policy_edited_never_tries_another_policys_keys() {
    let (one, other) = (Scene::new(), Scene::new());
    assert_eq!(one.verdict(&own(&other, json!({})), &Ask::default()), Err(Refusal::UnknownKey));
}
