//! Who wants which key set, and who is told what.

use countersign_api::policy::{AuthPolicySpec, EffectivePolicy};
use countersign_core::{jose::JwkSet, keys::SigningKey};
use countersign_feed::{Ack, Lease, UnknownIssuerKey};
use countersign_jwks::{FetchError, Place};
use serde_json::json;

use super::*;

fn policy(issuers: &serde_json::Value) -> EffectivePolicy {
    let spec: AuthPolicySpec =
        serde_json::from_value(json!({"audiences": ["a"], "issuer": "https://own.example", "trustedIssuers": issuers}))
            .unwrap();
    EffectivePolicy::try_from(&spec).unwrap()
}

fn name(text: &str) -> PolicyName {
    text.parse().unwrap()
}

fn by_url(url: &str) -> serde_json::Value {
    json!([{"name": "idp", "issuer": "https://idp.example", "algorithms": ["EdDSA"], "jwks": {"url": url}}])
}

fn set() -> Arc<JwkSet> {
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    Arc::new(JwkSet { keys: vec![key.public_jwk().clone()] })
}

#[test]
fn only_key_sets_that_are_elsewhere_are_fetched() {
    let inline = serde_json::to_value(&*set()).unwrap();
    let policy = policy(&json!([
        {"name": "url", "issuer": "https://a.example", "algorithms": ["EdDSA"], "jwks": {"url": "https://a.example/keys"}},
        {"name": "discovery", "issuer": "https://b.example", "algorithms": ["RS256", "ES256"]},
        {"name": "inline", "issuer": "https://c.example", "algorithms": ["EdDSA"], "jwks": {"inline": inline}},
        {"name": "map", "issuer": "https://d.example", "algorithms": ["EdDSA"], "jwks": {"configMapKeyRef": {"name": "m", "key": "k"}}},
        {"name": "secret", "algorithms": ["HS256"], "secretKeyRef": {"name": "s", "key": "k"}, "notAfter": "2099-01-01T00:00:00Z"},
    ]));
    let places: Vec<(String, Place)> = targets(&policy).into_iter().map(|(name, target)| (name, target.place)).collect();
    let expected = [
        ("discovery".to_owned(), Place::Discovery("https://b.example".into())),
        ("url".to_owned(), Place::Url("https://a.example/keys".into())),
    ];
    assert_eq!(places, expected);
}

#[test]
fn policies_that_agree_share_a_set_and_whoever_comes_later_gets_what_is_known() {
    let mut wanted = Wanted::default();
    let targets = targets(&policy(&by_url("https://idp.example/keys")));
    let target = targets["idp"].clone();
    assert!(wanted.set(&name("a/a"), targets.clone()));
    assert!(!wanted.set(&name("a/a"), targets.clone()), "nothing new");
    assert_eq!(wanted.known_to(&name("a/a")), [], "nothing was tried yet");
    let good = set();
    let (told, users, failed) = wanted.note(Fetched { target: target.clone(), result: Ok(good.clone()) }).unwrap();
    assert_eq!((told.keys.as_ref(), told.problem, users.len(), failed.len()), (Some(&good), None, 1, 0));
    wanted.set(&name("b/b"), targets);
    assert_eq!(wanted.by_target.len(), 1);
    assert_eq!(wanted.known_to(&name("b/b"))[0].1.keys.as_ref(), Some(&good));

    // A failed fetch keeps the last good set, is told once, and is over with the next good one.
    let (told, users, failed) =
        wanted.note(Fetched { target: target.clone(), result: Err(FetchError::Status(500)) }).unwrap();
    assert_eq!((told.keys.as_ref(), users.len(), failed.len()), (Some(&good), 2, 2));
    assert_eq!(told.problem.as_deref(), Some("https://idp.example/keys: answered 500"));
    let (.., failed) = wanted.note(Fetched { target: target.clone(), result: Err(FetchError::NoUsableKey) }).unwrap();
    assert_eq!(failed, []);
    let next = set();
    let (told, ..) = wanted.note(Fetched { target: target.clone(), result: Ok(next.clone()) }).unwrap();
    assert_eq!((told.keys.as_ref(), told.problem), (Some(&next), None), "dropped keys are dropped");

    // Nobody wants it: what is still on its way is nobody's.
    wanted.set(&name("a/a"), BTreeMap::new());
    wanted.set(&name("b/b"), BTreeMap::new());
    assert!(wanted.by_target.is_empty() && wanted.by_policy.is_empty());
    assert!(wanted.note(Fetched { target, result: Ok(set()) }).is_none());
}

#[tokio::test]
async fn what_was_fetched_for_an_entry_is_forgotten_with_the_entry_and_says_where_it_is_from() {
    let (registry, _inbox) = Registry::new();
    let targets = targets(&policy(&by_url("https://old.example/keys")));
    let target = targets["idp"].clone();
    let mut wanted = Wanted::default();
    wanted.set(&name("a/a"), targets);
    wanted.took(&registry, Fetched { target: target.clone(), result: Ok(set()) }).await.unwrap();
    let held = registry.foreign_keys(&name("a/a"));
    assert_eq!(held["idp"].target, target);
    // The policy is gone, or says something else: its entry may come again and mean another issuer.
    wanted.take(&registry, &name("a/a")).await.unwrap();
    assert!(registry.foreign_keys(&name("a/a")).is_empty());
}

#[test]
fn a_key_that_a_verifier_misses_is_looked_for_if_its_issuer_is_known() {
    let mut wanted = Wanted::default();
    wanted.set(&name("a/a"), targets(&policy(&by_url("https://idp.example/keys"))));
    let unknown = |policy: &str, entry: &str| UnknownIssuerKey { policy: policy.into(), trusted_issuer: entry.into() };
    let ack = Ack {
        start_id: "1".into(),
        history: "h".into(),
        revision: "1".into(),
        generations: BTreeMap::new(),
        schemas: vec![1],
        trusted_bundle_keys: Vec::new(),
        unknown_keys: vec![
            unknown("a/a", "idp"),
            unknown("a/a", "nobody"),
            unknown("b/b", "idp"),
            unknown("nonsense", "x"),
        ],
        ..Ack::default()
    };
    let lease = |ack| Lease { name: "node".into(), position: None, ack };
    let present = FeedPresent { leases: vec![lease(Some(ack)), lease(None)], ..FeedPresent::default() };
    let asked: Vec<String> = wanted.asked_for(&present).into_iter().map(ToString::to_string).collect();
    assert_eq!(asked, ["https://idp.example/keys"]);
    assert!(wanted.asked_for(&FeedPresent::default()).is_empty());
}
