use std::collections::HashSet;

use countersign_core::jose::{Algorithm, JwkSet};
use serde_json::{Value, json};

use super::*;

fn key() -> SigningKey {
    SigningKey::generate(Algorithm::EdDSA).unwrap()
}

fn trust(key: &SigningKey) -> Trust {
    Trust::from_jwks(&JwkSet { keys: vec![key.public_jwk().clone()] })
}

fn name() -> PolicyName {
    "shop/shop".parse().unwrap()
}

fn secret(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

fn section() -> IssueSection {
    let spec = json!({"audiences": ["shop-api"], "issuer": "https://auth.shop.example", "login": {}});
    IssueSection {
        schema: SCHEMA,
        policy: name(),
        uid: "5f0c".into(),
        generation: 7,
        spec: serde_json::from_value(spec).unwrap(),
        references: LoginReferences {
            breached: Some(Arc::new(HashSet::from(["hunter2".into(), "pass\"word".into(), "geheim\r".into()]))),
            clients: BTreeMap::from([("web".into(), secret("the client's secret"))]),
            sms_key: Some(secret("\0the webhook's\u{ff}")),
            smtp: Some(BTreeMap::from([("host".into(), Zeroizing::new("mail.example".into()))])),
        },
    }
}

#[test]
fn a_sealed_section_opens_to_what_it_was_and_is_always_written_alike() {
    let key = key();
    let sealed = section().seal(&key).unwrap();
    assert_eq!(IssueSection::open(sealed.as_bytes(), &trust(&key), &name()), Ok(section()));
    assert_eq!(section().seal(&key).unwrap(), sealed, "whatever order its sets come in");
    assert_eq!(signed_by(sealed.as_bytes()).as_deref(), Some(key.kid()));
    let bare = IssueSection { references: LoginReferences::default(), ..section() };
    let sealed = bare.seal(&key).unwrap();
    assert_eq!(IssueSection::open(sealed.as_bytes(), &trust(&key), &name()), Ok(bare));
}

#[test]
fn no_byte_of_a_sealed_section_can_be_changed() {
    let key = key();
    let sealed = section().seal(&key).unwrap();
    let trust = trust(&key);
    for at in 0..sealed.len() {
        let mut bent = sealed.as_bytes().to_vec();
        bent[at] ^= 1;
        assert!(IssueSection::open(&bent, &trust, &name()).map_or(true, |opened| opened == section()), "byte {at}");
        assert!(IssueSection::open(&sealed.as_bytes()[..at], &trust, &name()).is_err(), "cut at {at}");
    }
}

#[test]
fn each_bad_section_is_refused_for_its_own_reason() {
    type Bend = fn(&mut Value);
    let key = key();
    let sealed = section().seal(&key).unwrap();
    let opened =
        |bytes: &[u8], trust: &Trust, policy: &str| IssueSection::open(bytes, trust, &policy.parse().unwrap()).unwrap_err();
    let (other, trusted) = (self::key(), trust(&key));
    assert_eq!(opened(sealed.as_bytes(), &trust(&other), "shop/shop"), IssueRefusal::UntrustedKey(key.kid().into()));
    assert_eq!(opened(sealed.as_bytes(), &trusted, "shop/other"), IssueRefusal::WrongName(name()));
    assert_eq!(opened(&vec![b' '; MAX_BYTES + 1], &trusted, "shop/shop"), IssueRefusal::TooLarge);
    for garbage in ["", "null", "[]", "{}", "{\"schema\":1,\"schema\":1}"] {
        assert_eq!(opened(garbage.as_bytes(), &trusted, "shop/shop"), IssueRefusal::Corrupt("the envelope"), "{garbage}");
    }
    let bends: [(Bend, IssueRefusal); 5] = [
        (|it| it["policy"] = "shop/other".into(), IssueRefusal::BadSignature),
        (|it| it["content"] = it["content"].as_str().unwrap().replace(":7,", ":8,").into(), IssueRefusal::BadSignature),
        (|it| it["signature"]["value"] = "AAAA".into(), IssueRefusal::BadSignature),
        (|it| drop(it.as_object_mut().unwrap().remove("signature")), IssueRefusal::Unsigned),
        (
            |it| {
                it["schema"] = (SCHEMA + 1).into();
                it["tomorrow"] = "a member of a later release".into();
            },
            IssueRefusal::NewerSchema(SCHEMA + 1),
        ),
    ];
    for (bend, expected) in bends {
        let mut json: Value = serde_json::from_str(&sealed).unwrap();
        bend(&mut json);
        assert_eq!(opened(json.to_string().as_bytes(), &trusted, "shop/shop"), expected);
    }
}

#[test]
fn what_was_signed_as_a_bundle_is_no_section() {
    let key = key();
    let sealed = section().seal(&key).unwrap();
    let mut json: Value = serde_json::from_str(&sealed).unwrap();
    let bytes = format!("countersign bundle v1\n1\nshop/shop\n{}", json["content"].as_str().unwrap());
    json["signature"]["value"] = Signature::of(bytes.as_bytes(), &key).unwrap().value.into();
    let opened = IssueSection::open(json.to_string().as_bytes(), &trust(&key), &name());
    assert_eq!(opened, Err(IssueRefusal::BadSignature));
}

#[test]
fn neither_debug_nor_a_refusal_tells_a_secret() {
    let key = key();
    let sealed = section().seal(&key).unwrap();
    let content = json!({"uid": "u", "generation": "the client's secret", "spec": {}, "references": {}}).to_string();
    let mut envelope: Envelope = serde_json::from_str(&sealed).unwrap();
    envelope.content = content;
    envelope.signature = Some(Signature::of(&envelope.signed_bytes(), &key).unwrap());
    let text = serde_json::to_string(&envelope).unwrap();
    let refused = IssueSection::open(text.as_bytes(), &trust(&key), &name()).unwrap_err();
    assert_eq!(refused, IssueRefusal::Corrupt("the content"));
    for said in [refused.to_string(), format!("{refused:?}"), format!("{:?}", section())] {
        assert!(!said.contains("secret") && !said.contains("hunter2") && !said.contains("mail.example"), "{said}");
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_open_or_are_refused_without_a_panic(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        at in 0usize..4000,
        with in proptest::num::u8::ANY,
    ) {
        let key = key();
        for trust in [trust(&key), Trust::FileSystem] {
            drop(IssueSection::open(&bytes, &trust, &name()));
            let mut bent = section().seal(&key).unwrap().as_bytes().to_vec();
            let at = at % bent.len();
            bent[at] = with;
            drop(IssueSection::open(&bent, &trust, &name()));
        }
    }
}
