use countersign_core::{keys::SigningKey, names::PolicyName};

use super::*;

fn kept(revoked_keys: usize) -> Kept {
    let policy = PolicyName::try_new("shop", "shop").unwrap();
    let record = Record {
        policy,
        uid: "u".into(),
        origin: None,
        namespace_uid: "n".into(),
        issuer: None,
        generation: 7,
        withdrawn_time: None,
        retain_ms: 0,
        issued_until: None,
        key_sources: BTreeMap::new(),
        revoked: Vec::new(),
        spec: None,
    };
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let named = |number: usize, state| PublicRingKey {
        kid: format!("k{number}"),
        alg: Algorithm::EdDSA,
        state,
        jwk: key.public_jwk().clone(),
    };
    let mut keys: Vec<PublicRingKey> = (0..revoked_keys).map(|number| named(number, KeyState::Revoked)).collect();
    keys.push(named(revoked_keys, KeyState::Active));
    let ring = Ring::default().with_published(&keys, UnixMillis(1));
    Kept { record, rings: Rings::from([(RingName::Access, Arc::new(ring))]) }
}

#[test]
fn a_bundle_names_no_more_revoked_keys_than_verifiers_need_and_the_latest_of_them() {
    let kids =
        |kept: &Kept| -> Vec<String> { public_keys(&kept.rings).into_iter().filter_map(|key| key.jwk.kid).collect() };
    assert_eq!(kids(&kept(MAX_REVOKED_KEYS)).len(), MAX_REVOKED_KEYS + 1);
    let many = kids(&kept(MAX_REVOKED_KEYS + 3));
    assert_eq!(many.len(), MAX_REVOKED_KEYS + 1);
    assert_eq!((many[0].as_str(), many.last().map(String::as_str)), ("k3", Some("k203")));
}

#[test]
fn what_is_written_is_measured_as_it_is_written() {
    let kept = kept(0);
    let Some(mut draft) = draft(&Base::Tombstone, &kept) else { panic!("a tombstone is always there") };
    assert_eq!(draft.too_large(""), None);
    let sealed = "\"".repeat(MAX_SECRET + 1);
    assert!(matches!(draft.too_large(&sealed), Some(TooLarge::Bundle(_))), "quoting makes it larger than it is");
    let mut secrets = VerifySecrets::empty(kept.record.policy.clone());
    secrets.opaque = vec!["x".repeat(600 << 10), "x".repeat(600 << 10)];
    draft.secrets = Some(secrets);
    assert!(matches!(draft.too_large(""), Some(TooLarge::Secrets(_))), "three Secrets' keys don't go into one");
}
