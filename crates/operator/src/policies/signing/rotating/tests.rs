use countersign_core::time::UnixMillis;
use countersign_feed::Ack;

use super::*;
use crate::{
    fleet::{Fleet, Verifier},
    scripted::ApiServer,
};

impl BundleKeys {
    /// As after a rotation that still has to remove the old key.
    pub(crate) fn sign_with_a_new_one(&self) {
        let next = self.held().with_new_key("test".into(), UnixMillis(2)).map(|held| held.signed_by_newest());
        *self.0.write() = Arc::new(next.expect("a key can be made"));
    }
}

fn kid(held: &Held) -> String {
    held.signer.signing.kid().to_owned()
}

fn stored(held: &Held) -> Held {
    Held::of(&held.to_secret(None).unwrap()).unwrap()
}

#[test]
fn a_rotation_goes_from_publishing_over_signing_to_removing_and_survives_a_new_leader_at_each_step() {
    let first = BundleKeys::generate(UnixMillis(1)).unwrap().held();
    assert_eq!(step(&first, None), Step::Nothing);
    assert_eq!(step(&first, Some("")), Step::Nothing);
    assert_eq!(step(&first, Some("a")), Step::Publish("a".into()));

    let published = stored(&first.with_new_key("a".into(), UnixMillis(2)).unwrap());
    let new = published.keys[1].signing.kid().to_owned();
    assert_eq!(kid(&published), kid(&first), "the old one signs on");
    assert_eq!(published.jwks().keys.len(), 2, "both are trusted");
    for asked in [None, Some("a"), Some("b")] {
        assert_eq!(step(&published, asked), Step::SignOnceTrusted(new.clone()), "one rotation at a time");
    }

    let signing = stored(&published.signed_by_newest());
    assert_eq!((kid(&signing), signing.jwks().keys.len()), (new.clone(), 2), "the old one is trusted on");
    assert_eq!(step(&signing, Some("b")), Step::RemoveOthers);

    let done = stored(&signing.without_others());
    assert_eq!((kid(&done), done.jwks().keys.len()), (new, 1));
    assert_eq!(step(&done, Some("a")), Step::Nothing, "it was answered");
    assert_eq!(step(&done, Some("b")), Step::Publish("b".into()));
}

#[test]
fn what_is_signed_with_the_old_key_holds_until_it_is_removed() {
    let held = BundleKeys::generate(UnixMillis(1)).unwrap();
    let seal = held.seal(b"ring").unwrap();
    let holds = |keys: &BundleKeys, seal| keys.trust().check(b"ring", Some(seal)).is_ok();
    let both = BundleKeys::holding(held.held().with_new_key("a".into(), UnixMillis(2)).unwrap().signed_by_newest());
    assert!(holds(&both, &seal) && !both.signs(&seal.key));
    let newer = both.seal(b"ring").unwrap();
    assert!(both.signs(&newer.key) && holds(&both, &newer));
    let alone = BundleKeys::holding(both.held().without_others());
    assert!(!holds(&alone, &seal) && holds(&alone, &newer));
}

#[test]
fn a_secret_that_names_a_signer_which_it_lacks_is_no_good_and_one_of_before_signs_with_its_last() {
    let held = BundleKeys::generate(UnixMillis(1)).unwrap().held().with_new_key("a".into(), UnixMillis(2)).unwrap();
    let mut secret = held.to_secret(None).unwrap();
    let mut data = secret.data.take().unwrap();
    data.insert(super::super::ROTATION.into(), k8s_openapi::ByteString(br#"{"signer":"nobody"}"#.to_vec()));
    secret.data = Some(data.clone());
    assert!(matches!(Held::of(&secret), Err(SigningError::Corrupt)));
    data.remove(super::super::ROTATION);
    secret.data = Some(data);
    assert_eq!(kid(&Held::of(&secret).unwrap()), held.keys[1].signing.kid());
}

fn at(kind: &str, name: &str) -> String {
    format!("/api/v1/namespaces/countersign-system/{kind}/{name}")
}

/// A fleet of one verifier that trusts these.
fn trusting(kids: Vec<String>) -> Fleet {
    let ack = Ack { history: "h".into(), revision: "99".into(), trusted_bundle_keys: kids, ..Ack::default() };
    let verifier = Verifier { name: "v".into(), pod: true, alive: true, ended: None, absent_ms: 0, ack: Some(ack) };
    Fleet::new(vec![verifier], "h".into(), true, true)
}

#[tokio::test]
async fn what_somebody_edited_or_deleted_is_written_anew_from_memory() {
    let server = ApiServer::default();
    let (context, _inbox) = server.context();
    let keys = BundleKeys::load(&context, UnixMillis(1)).await.unwrap();
    let keeper = Keeper::new(&context, &keys);
    let (secret, map) = (at("secrets", BUNDLE_SIGNING), at("configmaps", BUNDLE_TRUST));
    let stands = || [&secret, &map].map(|path| server.object(path).map(|object| object["data"].clone()));
    let wanted = stands();
    server.edit(&secret, |secret| secret["data"]["keys.json"] = "W10=".into());
    server.edit(&map, |map| map["data"][BUNDLE_TRUST_KEY] = "{\"keys\":[]}".into());
    assert_ne!(stands(), wanted);
    keeper.look(&|| {}).await.unwrap();
    assert_eq!(stands(), wanted);
    keeper.secrets.delete(BUNDLE_SIGNING, &kube::api::DeleteParams::default()).await.unwrap();
    keeper.maps.delete(BUNDLE_TRUST, &kube::api::DeleteParams::default()).await.unwrap();
    keeper.look(&|| {}).await.unwrap();
    assert_eq!(stands(), wanted);
}

#[tokio::test]
async fn an_old_key_stays_while_anything_is_signed_with_it() {
    let server = ApiServer::default();
    let (context, _inbox) = server.context();
    let keys = BundleKeys::load(&context, UnixMillis(1)).await.unwrap();
    let told = format!(
        r#"{{"schema":1,"policy":"shop/shop","content":"","signature":{{"key":{:?},"value":""}}}}"#,
        kid(&keys.held())
    );
    let ring = format!(r#"{{"key":{:?},"value":""}}"#, kid(&keys.held()));
    keys.sign_with_a_new_one();
    let keeper = Keeper::new(&context, &keys);
    for (object, key, value) in [("r-1", "seal.json", ring), ("i-1", ISSUE_KEY, told)] {
        let data = serde_json::json!({ key: k8s_openapi::ByteString(value.into_bytes()) });
        server.edit(&at("secrets", object), |secret| (*secret)["data"] = data);
        server.edit(&at("secrets", object), |secret| secret["metadata"]["name"] = object.into());
        assert_eq!(keeper.left(&keys.held()).await.unwrap().names, [object]);
        server.delete(&at("secrets", object));
    }
    assert!(keeper.left(&keys.held()).await.unwrap().names.is_empty());
}

#[tokio::test]
async fn no_key_is_made_in_the_place_of_one_that_sealed_rings() {
    let server = ApiServer::default();
    let (context, _inbox) = server.context();
    server.edit(&at("secrets", "r-1"), |ring| ring["metadata"]["name"] = "r-1".into());
    let error = BundleKeys::load(&context, UnixMillis(1)).await.err();
    assert!(matches!(error, Some(SigningError::Lost)));
    assert_eq!(server.object(&at("secrets", BUNDLE_SIGNING)), None);
}

#[tokio::test]
async fn a_key_that_is_asked_for_signs_once_every_verifier_trusts_it_and_the_old_one_goes() {
    let server = ApiServer::default();
    let (context, _inbox) = server.context();
    let keys = BundleKeys::load(&context, UnixMillis(1)).await.unwrap();
    let keeper = Keeper::new(&context, &keys);
    let old = kid(&keys.held());
    let ask = |value: &str| {
        server.edit(&at("secrets", BUNDLE_SIGNING), |secret| {
            secret["metadata"]["annotations"] = serde_json::json!({ ROTATE_ANNOTATION: value });
        });
    };
    ask("a");
    keeper.look(&|| {}).await.unwrap();
    let new = keys.held().keys[1].signing.kid().to_owned();
    let trust = server.object(&at("configmaps", BUNDLE_TRUST)).unwrap().to_string();
    assert!(trust.contains(&old) && trust.contains(&new), "both are published");
    context.registry.set_fleet(trusting(vec![old.clone()]));
    let (_, waits_for) = keeper.look(&|| {}).await.unwrap();
    assert_eq!(waits_for.as_deref(), Some("0 of 1 verifiers trust the new key; not yet: v"));
    assert!(keys.signs(&old));

    let mut with_issuers = trusting(vec![old.clone(), new.clone()]);
    let of_before = Ack { history: "h".into(), trusted_bundle_keys: vec![old.clone()], ..Ack::default() };
    with_issuers.issuers = [("one".to_owned(), Some(of_before))].into();
    context.registry.set_fleet(with_issuers);
    let (_, waits_for) = keeper.look(&|| {}).await.unwrap();
    assert_eq!(waits_for.as_deref(), Some("0 of 1 issuers trust the new key; not yet: one"));
    assert!(keys.signs(&old), "an issuer would refuse what it signs");
    context.registry.set_fleet(trusting(vec![old.clone(), new.clone()]));
    let touched = std::cell::Cell::new(false);
    keeper.look(&|| touched.set(true)).await.unwrap();
    assert!(keys.signs(&new) && touched.get(), "everything is signed anew");
    let next_leader = BundleKeys::load(&context, UnixMillis(2)).await.unwrap();
    assert!(next_leader.signs(&new) && next_leader.held().keys.len() == 2);

    keeper.look(&|| {}).await.unwrap();
    assert_eq!(keys.held().keys.len(), 1, "nothing is signed with the old one");
    let trust = server.object(&at("configmaps", BUNDLE_TRUST)).unwrap().to_string();
    assert!(!trust.contains(&old) && trust.contains(&new));
    keeper.look(&|| {}).await.unwrap();
    assert!(keys.signs(&new), "once for each value");
    ask("b");
    keeper.look(&|| {}).await.unwrap();
    assert_eq!(keys.held().keys.len(), 2);
}
