//! RFC 7515 appendix A, RFC 7520 section 4, RFC 8037 appendix A, and Wycheproof's JWS vectors.

use countersign_core::{
    jose::{Algorithm, Jwk, base64url, compact},
    keys::VerifyingKey,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::vectors;

#[derive(Deserialize)]
struct Examples {
    examples: Vec<Example>,
}

#[derive(Deserialize)]
struct Example {
    name: String,
    alg: Algorithm,
    key: Value,
    token: String,
}

/// The key that a JWK of any type describes, as an issuer's entry that allows `algorithms` would have it.
fn key(jwk: &Value, algorithms: &[Algorithm]) -> Option<VerifyingKey> {
    if jwk["kty"] != "oct" {
        return VerifyingKey::from_jwk(&Jwk::from(jwk.clone()), algorithms).ok();
    }
    let secret = base64url::decode(jwk["k"].as_str().unwrap()).ok()?;
    let own: Vec<Algorithm> = match jwk["alg"].as_str() {
        Some(alg) => alg.parse().into_iter().collect(),
        None => algorithms.to_vec(),
    };
    VerifyingKey::hmac(&secret, &own).ok()
}

/// What [`countersign_core::check`] does with key and signature.
fn accepts(key: &VerifyingKey, text: &str) -> bool {
    let Ok(jws) = compact::parse_jws(text) else { return false };
    let Ok(algorithm) = jws.header.alg.parse() else { return false };
    key.verify(algorithm, jws.signing_input, &jws.signature)
}

#[test]
fn the_rfcs_examples_verify_and_their_variants_do_not() {
    let Examples { examples } = vectors("rfc_signatures.json");
    assert_eq!(examples.len(), 9);
    for Example { name, alg, key: jwk, token } in examples {
        let key = key(&jwk, &Algorithm::ALL).unwrap_or_else(|| panic!("{name}: the key is refused"));
        assert!(accepts(&key, &token), "{name}");

        let jws = compact::parse_jws(&token).unwrap();
        for other in Algorithm::ALL.into_iter().filter(|other| *other != alg) {
            assert!(!key.verify(other, jws.signing_input, &jws.signature), "{name} as {other}");
        }
        for bit in 0..8 {
            let mut signature = jws.signature.clone();
            let middle = signature.len() / 2;
            signature[middle] ^= 1 << bit;
            assert!(!key.verify(alg, jws.signing_input, &signature), "{name}, a bit of the signature turned");
        }
        let mut longer = jws.signature.clone();
        longer.push(0);
        assert!(!key.verify(alg, jws.signing_input, &longer), "{name}, a byte more");
        assert!(!key.verify(alg, jws.signing_input, &jws.signature[1..]), "{name}, a byte fewer");
        assert!(!key.verify(alg, jws.signing_input, b""), "{name}, no signature");
        assert!(!key.verify(alg, &jws.signing_input[1..], &jws.signature), "{name}, another input");
    }
}

#[test]
fn the_rfcs_claims_are_read() {
    let Examples { examples } = vectors("rfc_signatures.json");
    let joe = json!({"iss": "joe", "exp": 1_300_819_380, "http://example.com/is_root": true});
    for example in examples.iter().filter(|e| ["RFC 7515 A.1", "RFC 7515 A.2", "RFC 7515 A.3"].contains(&e.name.as_str())) {
        let parsed = compact::parse(&example.token).unwrap();
        assert_eq!(Value::Object(parsed.payload), joe, "{}", example.name);
    }
}

#[test]
fn the_unsecured_and_json_forms_of_rfc_7515_are_malformed() {
    let unsecured = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.";
    assert_eq!(compact::parse_jws(unsecured).unwrap_err().0, "a part of the token is empty", "appendix A.5");
    let flattened =
        r#"{"payload":"eyJpc3MiOiJqb2UifQ","protected":"eyJhbGciOiJFUzI1NiJ9","header":{"kid":"e"},"signature":"DtEh"}"#;
    assert_eq!(compact::parse_jws(flattened).unwrap_err().0, "the token is not three parts joined by dots", "appendix A.7");
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wycheproof {
    number_of_tests: usize,
    test_groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    comment: String,
    public: Option<Value>,
    private: Option<Value>,
    tests: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    tc_id: u32,
    comment: String,
    jws: Value,
    result: String,
}

/// Cases in which we differ from what the vectors ask for, each with its reason.
const DIFFERENT: [(u32, &str); 14] = [
    (259, "an empty payload: a JWS may have one, a token may not"),
    (264, "an empty payload: a JWS may have one, a token may not"),
    (268, "an empty payload: a JWS may have one, a token may not"),
    (272, "an empty payload: a JWS may have one, a token may not"),
    (320, "an empty payload: a JWS may have one, a token may not"),
    (325, "an empty payload: a JWS may have one, a token may not"),
    (346, "the JWK's alg is not the signature's: PS256 for a PS384 signature"),
    (347, "the JWK's alg is not the signature's: ES521, which RFC 7518 does not know, for ES512"),
    (350, "the JWK's alg is not the signature's: PS256 for a PS384 signature"),
    (351, "the JWK's alg is not the signature's: ES521, which RFC 7518 does not know, for ES512"),
    (367, "the token is letter for letter that of the valid case 357: its padding was lost"),
    (370, "the token is letter for letter that of the valid case 357: its padding was lost"),
    (372, "a '?' within the header is not base64url: RFC 7515 section 2 wants it refused"),
    (373, "a '?' within the payload is not base64url: RFC 7515 section 2 wants it refused"),
];

#[test]
fn wycheproofs_signatures_are_judged_as_they_should_be() {
    let vectors: Wycheproof = vectors("wycheproof/json_web_signature.json");
    let mut seen = 0;
    let mut different = Vec::new();
    for group in &vectors.test_groups {
        let jwk = group.public.as_ref().or(group.private.as_ref()).unwrap();
        let key = key(jwk, &Algorithm::ALL);
        for case in &group.tests {
            seen += 1;
            // The JSON serialisation stands as an object.
            let text = case.jws.as_str().map_or_else(|| case.jws.to_string(), str::to_owned);
            let accepted = key.as_ref().is_some_and(|key| accepts(key, &text));
            if accepted != (case.result == "valid") {
                different.push((case.tc_id, format!("{} {}: accepted is {accepted}", group.comment, case.comment)));
            }
        }
    }
    assert_eq!(seen, vectors.number_of_tests);
    let ids: Vec<u32> = different.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, DIFFERENT.map(|(id, _)| id), "{different:#?}");
}

#[test]
fn the_keys_that_wycheproof_misnames_verify_under_their_right_name() {
    let vectors: Wycheproof = vectors("wycheproof/json_web_signature.json");
    let misnamed: Vec<_> = vectors.test_groups.iter().filter(|g| g.comment.starts_with("rfc7520")).collect();
    assert_eq!(misnamed.len(), 8);
    for group in misnamed {
        let mut jwk = group.public.as_ref().or(group.private.as_ref()).unwrap().clone();
        jwk.as_object_mut().unwrap().remove("alg");
        let key = key(&jwk, &Algorithm::ALL).unwrap();
        for case in &group.tests {
            assert!(accepts(&key, case.jws.as_str().unwrap()), "{}", case.comment);
        }
    }
}
