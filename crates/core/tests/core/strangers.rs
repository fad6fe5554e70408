//! Properties of everything that reads what strangers send: it never panics, and one meaning has one text.

use std::sync::LazyLock;

use countersign_core::{
    jose::{Algorithm, Jwk, JwkSet, base64url, compact, strict_json},
    keys::{SigningKey, SigningKeyError, VerifyingKey, load_jwks},
    mint::{self, ApiKeySpec, mint_api_key},
    time::UnixMillis,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// JSON values, a few levels deep.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|n| json!(n)),
        any::<u64>().prop_map(|n| json!(n)),
        any::<f64>().prop_map(|n| json!(n)),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            prop::collection::btree_map(any::<String>(), inner, 0..8).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Texts that look like members of a key, a header or claims, more often than chance would.
fn members() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "kty", "crv", "x", "y", "n", "e", "d", "k", "use", "key_ops", "alg", "kid", "typ", "crit", "b64", "exp", "aud",
    ]);
    let texts = prop::sample::select(vec![
        "RSA", "EC", "OKP", "oct", "P-256", "P-521", "Ed25519", "AQAB", "AA", "sig", "enc", "verify", "RS256", "ES256",
        "EdDSA", "none",
    ]);
    let value = prop_oneof![3 => texts.prop_map(|t| json!(t)), 1 => values()];
    prop::collection::btree_map(names, value, 0..10)
        .prop_map(|m| Value::Object(m.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
}

struct Signed {
    algorithm: Algorithm,
    key: VerifyingKey,
    token: String,
}

/// A good token of each algorithm.
static SIGNED: LazyLock<Vec<Signed>> = LazyLock::new(|| {
    let claims: Map<String, Value> = json!({"sub": "me", "exp": 2_000_000_000}).as_object().cloned().unwrap();
    let sign = |algorithm| {
        let key = SigningKey::generate(algorithm).unwrap();
        let token = mint::sign(&key, "at+jwt", &claims).unwrap();
        Signed { algorithm, key: VerifyingKey::from_jwk(key.public_jwk(), &[algorithm]).unwrap(), token }
    };
    Algorithm::ALL.into_iter().filter(|a| !a.is_symmetric()).map(sign).collect()
});

fn accepted(signed: &Signed, text: &str) -> bool {
    compact::parse(text).is_ok_and(|parsed| {
        parsed.header.alg == signed.algorithm.as_str()
            && signed.key.verify(signed.algorithm, parsed.signing_input, &parsed.signature)
    })
}

#[test]
fn the_tokens_that_are_changed_below_are_good() {
    for signed in SIGNED.iter() {
        assert!(accepted(signed, &signed.token), "{}", signed.algorithm);
    }
}

#[test]
fn no_single_character_of_a_token_can_be_another() {
    // Exhaustive over places; over characters only where the arithmetic is cheap to repeat.
    for signed in SIGNED.iter().filter(|s| [Algorithm::RS256, Algorithm::EdDSA].contains(&s.algorithm)) {
        for place in 0..signed.token.len() {
            let old = signed.token.as_bytes()[place];
            for new in [b'A', b'_', b'.', b'=', b'+', b' ', old ^ 1, old ^ 2] {
                let mut bytes = signed.token.clone().into_bytes();
                bytes[place] = new;
                let Ok(text) = String::from_utf8(bytes) else { continue };
                assert!(text == signed.token || !accepted(signed, &text), "{} at {place}: {text}", signed.algorithm);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>(), parts in prop::collection::vec(any::<Vec<u8>>(), 0..5)) {
        let _ = compact::parse(&text);
        let encoded: Vec<String> = parts.iter().map(base64url::encode).collect();
        let _ = compact::parse(&encoded.join("."));
    }

    #[test]
    fn no_header_or_payload_makes_the_parser_panic(header in members(), payload in values(), signature in any::<Vec<u8>>()) {
        let encode = |value: &Value| base64url::encode(value.to_string());
        let text = format!("{}.{}.{}", encode(&header), encode(&payload), base64url::encode(&signature));
        if let Ok(parsed) = compact::parse(&text) {
            prop_assert_eq!(Value::Object(parsed.payload), payload);
            prop_assert_eq!(Value::String(parsed.header.alg), header["alg"].clone());
        }
    }

    #[test]
    fn no_key_makes_its_reader_panic(key in members(), value in values()) {
        let _ = VerifyingKey::from_jwk(&Jwk::from(key.clone()), &Algorithm::ALL);
        let _ = Jwk::from(key.clone()).thumbprint();
        if let Ok(set) = JwkSet::try_from(json!({"keys": [key, value]})) {
            let _ = load_jwks(&set, &Algorithm::ALL);
        }
    }

    #[test]
    fn no_signature_makes_a_key_panic(signature in prop::collection::vec(any::<u8>(), 0..600), input in any::<Vec<u8>>()) {
        for signed in SIGNED.iter() {
            prop_assert!(!signed.key.verify(signed.algorithm, &input, &signature));
        }
    }

    #[test]
    fn a_token_that_is_cut_or_spliced_is_refused(which in 0..10_usize, at in any::<prop::sample::Index>(), insert in "[ -~]{1,4}") {
        let signed = &SIGNED[which];
        let at = at.index(signed.token.len());
        prop_assert!(!accepted(signed, &signed.token[..at]));
        prop_assert!(!accepted(signed, &signed.token[at + 1..]));
        let spliced = format!("{}{insert}{}", &signed.token[..at], &signed.token[at..]);
        prop_assert!(!accepted(signed, &spliced));
    }

    #[test]
    fn strict_json_reads_what_json_is_and_nothing_else(value in values()) {
        let text = value.to_string();
        prop_assert_eq!(strict_json::parse(text.as_bytes(), 64), Ok(value));
        let more = format!("{text},");
        prop_assert!(strict_json::parse(more.as_bytes(), 64).is_err());
    }

    #[test]
    fn a_member_that_is_doubled_anywhere_is_refused(value in values(), name in any::<String>(), levels in 0..20_usize) {
        let name = json!(name);
        let doubled = format!("{{{name}:{value},{name}:1}}");
        let nested = format!("{}{doubled}{}", "[".repeat(levels), "]".repeat(levels));
        prop_assert_eq!(strict_json::parse(nested.as_bytes(), 64), Err(strict_json::StrictJsonError::DuplicateMember));
    }

    #[test]
    fn a_text_that_decodes_is_the_one_that_its_bytes_encode_to(text in "[A-Za-z0-9_+/= -]{0,12}") {
        if let Ok(bytes) = base64url::decode(&text) {
            prop_assert_eq!(base64url::encode(bytes), text);
        }
    }
}

#[test]
fn an_api_key_is_a_token_behind_a_prefix() {
    let key = SigningKey::generate(Algorithm::ES256).unwrap();
    let spec = ApiKeySpec {
        issuer: "https://auth.shop.example".into(),
        subject: "user-1".into(),
        audiences: vec!["shop-api".into(), "stock-api".into()],
        roles: vec!["user".into()],
        scopes: vec!["orders:read".into(), "orders:list".into()],
        token_id: "key-1".into(),
        issued_at: UnixMillis(1_700_000_000_123),
        expires: UnixMillis(1_700_003_600_999),
    };
    let text = mint_api_key(&key, &spec).unwrap();
    let parsed = compact::parse(text.strip_prefix("csk_").unwrap()).unwrap();
    assert_eq!(parsed.header.typ.as_deref(), Some("api-key+jwt"));
    assert_eq!(parsed.header.kid.as_deref(), Some(key.kid()));
    let expected = json!({
        "iss": "https://auth.shop.example",
        "sub": "user-1",
        "aud": ["shop-api", "stock-api"],
        "iat": 1_700_000_000,
        "iat_ms": 1_700_000_000_123_i64,
        "exp": 1_700_003_600,
        "jti": "key-1",
        "roles": ["user"],
        "scope": "orders:read orders:list",
    });
    assert_eq!(Value::Object(parsed.payload), expected);
    for odd in ["orders:read orders:write", "", "orders:read\n"] {
        let refused = mint_api_key(&key, &ApiKeySpec { scopes: vec![odd.into()], ..spec.clone() });
        assert_eq!(refused, Err(SigningKeyError::Scope), "{odd:?}");
    }
}
