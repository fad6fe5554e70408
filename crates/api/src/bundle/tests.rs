use countersign_core::{
    jose::{Algorithm, JwkSet},
    keys::{SigningKey, VerifyingKey},
    ring::KeyState,
};

use super::*;

fn bundle() -> Bundle {
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let jwk = key.public_jwk().clone();
    Bundle {
        schema: SCHEMA,
        policy: "shop/shop".parse().unwrap(),
        uid: "5f0c".into(),
        generation: 7,
        verify: Some(VerifySection {
            issuer: Some("https://auth.shop.example".into()),
            audiences: vec!["shop-api".into()],
            clock_skew_ms: 30_000,
            keys: vec![BundleKey { ring: RingName::Access, state: KeyState::Active, jwk }],
            prepublish_ms: 600_000,
            absent_after_ms: 600_000,
            trusted_issuers: Vec::new(),
            opaque_keys: false,
            secrets_sha256: None,
            roles: Vec::new(),
            rules: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            rate_limit: None,
            max_staleness_ms: 300_000,
            allow_stale: false,
            cookie_prefix: None,
            emergency: None,
        }),
        revoked: Vec::new(),
    }
}

fn trust(key: &SigningKey) -> Trust {
    Trust::Keys(vec![VerifyingKey::from_jwk(key.public_jwk(), &[Algorithm::EdDSA]).unwrap()])
}

#[test]
fn a_sealed_bundle_opens_to_what_it_was() {
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let sealed = seal(&bundle(), &key).unwrap();
    let opened = open(sealed.as_bytes(), &trust(&key), Some(7)).unwrap();
    assert_eq!(opened.policy.as_str(), "shop/shop");
    assert_eq!(opened.verify.unwrap().audiences, ["shop-api"]);
}

#[test]
fn no_byte_of_a_sealed_bundle_can_be_changed() {
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let good = bundle();
    let sealed = seal(&good, &key).unwrap().into_bytes();
    for at in 0..sealed.len() {
        let mut bent = sealed.clone();
        bent[at] ^= 1;
        // A change that JSON doesn't notice (there is none in what we write) would have to leave the bundle as it was.
        assert!(open(&bent, &trust(&key), None).map_or(true, |b| b == good), "byte {at}");
    }
    for end in 0..sealed.len() {
        assert!(open(&sealed[..end], &trust(&key), None).is_err(), "cut at {end}");
    }
}

#[test]
fn each_bad_bundle_is_refused_for_its_own_reason() {
    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let other = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let sealed = seal(&bundle(), &key).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&sealed).unwrap();
    assert_eq!(open(sealed.as_bytes(), &trust(&other), None).unwrap_err().reason(), "untrusted_key");
    assert_eq!(open(sealed.as_bytes(), &trust(&key), Some(8)), Err(BundleRefusal::LowerGeneration { found: 7, held: 8 }));

    json["generation"] = 9.into();
    assert_eq!(open(json.to_string().as_bytes(), &trust(&key), None), Err(BundleRefusal::BadSignature));
    assert_eq!(open(json.to_string().as_bytes(), &Trust::FileSystem, None).unwrap_err().reason(), "corrupt");

    json.as_object_mut().unwrap().remove("signature");
    assert_eq!(open(json.to_string().as_bytes(), &trust(&key), None), Err(BundleRefusal::Unsigned));

    json["schema"] = (SCHEMA + 1).into();
    json["tomorrow"] = "a member of a later release".into();
    assert_eq!(open(json.to_string().as_bytes(), &trust(&key), None), Err(BundleRefusal::NewerSchema(SCHEMA + 1)));
    for garbage in ["", "null", "[]", "{}", "{\"schema\":1,\"schema\":1}"] {
        assert_eq!(open(garbage.as_bytes(), &trust(&key), None).unwrap_err().reason(), "corrupt", "{garbage}");
    }
}

#[test]
fn the_digest_moves_with_what_verdicts_rest_on_and_with_nothing_else() {
    let first = bundle();
    let mut later = first.clone();
    later.generation = 8;
    let digest = |b: &Bundle, fetched: &FetchedKeys| compile(b, None, fetched).unwrap().policy.digest;
    let none = FetchedKeys::new();
    assert_eq!(digest(&first, &none), digest(&later, &none));

    let mut edited = first.clone();
    edited.verify.as_mut().unwrap().clock_skew_ms = 1;
    assert_ne!(digest(&first, &none), digest(&edited, &none));

    // A set that no entry asked for takes no part.
    let stray = FetchedKeys::from([("nobody".to_owned(), JwkSet::default())]);
    assert_eq!(digest(&first, &none), digest(&first, &stray));
}

#[test]
fn only_the_secrets_that_the_bundle_names_are_used() {
    let mut secrets = VerifySecrets::empty("shop/shop".parse().unwrap());
    secrets.add_symmetric("legacy", b"0123456789abcdef0123456789abcdef");
    let text = secrets.to_json();
    assert_eq!(VerifySecrets::parse(text.as_bytes(), &secrets.sha256()).unwrap(), secrets);
    assert_eq!(VerifySecrets::parse(text.as_bytes(), &"0".repeat(64)), Err(SecretsRefusal::Mismatch));
    assert!(!format!("{secrets:?}").contains(secrets.symmetric["legacy"].as_str()));
}

#[test]
fn what_belongs_to_another_policy_is_not_taken() {
    let mut shared = bundle();
    shared.verify.as_mut().unwrap().trusted_issuers.push(BundleIssuer {
        name: "legacy".into(),
        issuer: None,
        any_issuer: false,
        audiences: None,
        algorithms: vec![Algorithm::HS256],
        keys: BundleIssuerKeys::Secret,
        max_ttl_ms: None,
        not_after: Some(UnixMillis(1)),
        matches: Vec::new(),
        subject: None,
        roles: None,
        scopes: None,
    });
    let secrets_of = |policy: &str| {
        let mut secrets = VerifySecrets::empty(policy.parse().unwrap());
        secrets.add_symmetric("legacy", b"0123456789abcdef0123456789abcdef");
        secrets
    };
    let none = FetchedKeys::new();
    let compiled = |bundle: &Bundle, policy: &str| compile(bundle, Some(&secrets_of(policy)), &none);
    let first = compiled(&shared, "shop/shop").unwrap().policy;
    assert_eq!(compiled(&shared, "shop/other").unwrap_err(), CompileError::Secrets(SecretsRefusal::Mismatch));

    // The same rules under another name find other revocations.
    let other = Bundle { policy: "shop/other".parse().unwrap(), ..shared.clone() };
    assert_ne!(compiled(&other, "shop/other").unwrap().policy.digest, first.digest);

    for any_issuer in [false, true] {
        let mut public = shared.clone();
        let entry = &mut public.verify.as_mut().unwrap().trusted_issuers[0];
        entry.any_issuer = any_issuer;
        entry.issuer = any_issuer.then(|| "https://kc.example".into());
        entry.keys = BundleIssuerKeys::Jwks(JwkSet::default());
        assert_eq!(compiled(&public, "shop/shop").unwrap_err().reason(), "invalid");
    }

    let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
    let mut revokes = bundle();
    revokes.revoked.push(Entry {
        policy: "shop/other".parse().unwrap(),
        kind: countersign_core::revocation::Kind::Subject,
        issuer: None,
        id: "alice".into(),
        cutoff: UnixMillis::FOREVER,
        expires: UnixMillis::FOREVER,
        version: 0,
        reason: String::new(),
        source: "test".into(),
    });
    let sealed = seal(&revokes, &key).unwrap();
    assert_eq!(open(sealed.as_bytes(), &trust(&key), None).unwrap_err().reason(), "corrupt");
}

#[test]
fn a_policy_has_one_file_name_and_others_have_others() {
    let name = |s: &str| file_name(&s.parse().unwrap());
    assert!(is_bundle_file(&name("shop/shop")));
    assert!(!is_bundle_file(&secrets_file_name(&"shop/shop".parse().unwrap())));
    // Names that would collide if parts were joined by a dash.
    assert_ne!(name("a-b/c"), name("a/b-c"));
}

proptest::proptest! {
    #[test]
    fn any_bytes_open_or_are_refused_without_a_panic(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        at in 0usize..4000,
        with in proptest::num::u8::ANY,
    ) {
        let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
        for trust in [trust(&key), Trust::FileSystem] {
            let _ = open(&bytes, &trust, None);
            let mut bent = seal(&bundle(), &key).unwrap().into_bytes();
            let at = at % bent.len();
            bent[at] = with;
            if let Ok(opened) = open(&bent, &trust, None) {
                let _ = compile(&opened, None, &FetchedKeys::new());
            }
        }
    }
}
