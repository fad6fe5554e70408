//! RFC 7638's and RFC 8037's thumbprints, Wycheproof's key vectors, and every reason to refuse a key.

use aws_lc_rs::signature::KeyPair as _;
use countersign_core::{
    jose::{Algorithm, Jwk, JwkSet, base64url, compact::parse_jws},
    keys::{KeyError, SigningKey, VerifyingKey, load_jwks},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::vectors;

const RSA_7638: &str = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw";

fn parse(jwk: Value) -> Result<VerifyingKey, KeyError> {
    VerifyingKey::from_jwk(&Jwk::from(jwk), &Algorithm::ALL)
}

#[test]
fn thumbprints_are_those_of_the_rfcs() {
    let rsa = Jwk::from(json!({"kty": "RSA", "n": RSA_7638, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}));
    assert_eq!(rsa.thumbprint().unwrap(), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", "RFC 7638 section 3.1");
    let okp = Jwk::from(json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}));
    assert_eq!(okp.thumbprint().unwrap(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", "RFC 8037 appendix A.3");
    for lacking in
        [json!({"kty": "RSA", "n": RSA_7638}), json!({"kty": "EC", "crv": "P-256", "x": "AA"}), json!({"kty": "oct"})]
    {
        assert_eq!(Jwk::from(lacking).thumbprint(), None);
    }
}

#[test]
fn the_private_key_of_rfc_8037_signs_as_it_says() {
    // Appendix A.1 and A.4. RFC 5958's outer shell around a seed is fixed bytes.
    let seed = base64url::decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").unwrap();
    let pkcs8 = [&hex::decode("302e020100300506032b657004220420").unwrap()[..], &seed].concat();
    let key = SigningKey::from_pkcs8(Algorithm::EdDSA, None, &pkcs8).unwrap();
    assert_eq!(key.public_jwk().x.as_deref(), Some("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"));
    let signature = key.sign(b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc").unwrap();
    let expected = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert_eq!(base64url::encode(signature), expected);
}

#[test]
fn a_key_of_each_algorithm_signs_is_stored_and_verifies() {
    for algorithm in Algorithm::ALL.into_iter().filter(|a| !a.is_symmetric()) {
        let made = SigningKey::generate(algorithm).unwrap();
        let key = SigningKey::from_pkcs8(algorithm, Some(made.kid()), &made.to_pkcs8().unwrap()).unwrap();
        assert_eq!(key.public_jwk(), made.public_jwk(), "{algorithm}");
        assert_eq!(Some(made.kid()), made.public_jwk().thumbprint().as_deref(), "{algorithm}");

        let verifying = VerifyingKey::from_jwk(made.public_jwk(), &Algorithm::ALL).unwrap();
        assert_eq!(verifying.algorithms().collect::<Vec<_>>(), [algorithm]);
        assert_eq!(verifying.kid(), Some(made.kid()));
        assert_eq!(verifying.to_jwk().as_ref(), Some(made.public_jwk()), "{algorithm}");
        let signature = key.sign(b"input").unwrap();
        assert!(verifying.verify(algorithm, b"input", &signature), "{algorithm}");
        assert!(!verifying.verify(algorithm, b"inpuT", &signature), "{algorithm}");

        let shown = format!("{made:?} {verifying:?}");
        assert!(shown.len() < 300, "a key shows its name and no more: {shown}");
    }
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        assert!(SigningKey::generate(algorithm).is_err());
    }
    assert!(SigningKey::from_pkcs8(Algorithm::ES256, None, b"junk").is_err());
    let other = SigningKey::generate(Algorithm::ES384).unwrap().to_pkcs8().unwrap();
    assert!(SigningKey::from_pkcs8(Algorithm::ES256, None, &other).is_err());
}

#[test]
fn a_key_without_alg_serves_what_its_issuer_may_use_and_no_more() {
    let rsa = Jwk::from(json!({"kty": "RSA", "n": RSA_7638, "e": "AQAB"}));
    let key =
        VerifyingKey::from_jwk(&rsa, &[Algorithm::PS256, Algorithm::RS256, Algorithm::ES256, Algorithm::HS256]).unwrap();
    assert_eq!(key.algorithms().collect::<Vec<_>>(), [Algorithm::RS256, Algorithm::PS256]);
    assert_eq!(key.to_jwk().unwrap().alg, None);
    assert!(!key.fits(Algorithm::RS384) && !key.fits(Algorithm::HS256));
}

/// A point of P-256 that is none of P-384's, with its coordinates.
fn p256() -> (String, String) {
    let pair =
        aws_lc_rs::signature::EcdsaKeyPair::generate(&aws_lc_rs::signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref().to_vec();
    (base64url::encode(&point[1..33]), base64url::encode(&point[33..]))
}

#[test]
fn each_unusable_key_is_refused_for_its_own_reason() {
    let (x, y) = p256();
    let zeros = base64url::encode([0; 32]);
    let ed = |hex: &str| json!({"kty": "OKP", "crv": "Ed25519", "x": base64url::encode(hex::decode(hex).unwrap())});
    let rsa = |n: &[u8], e: &[u8]| json!({"kty": "RSA", "n": base64url::encode(n), "e": base64url::encode(e)});
    let modulus = base64url::decode(RSA_7638).unwrap();
    let e = [1, 0, 1];
    let mut even = modulus.clone();
    *even.last_mut().unwrap() &= 0xfe;

    let cases = [
        (json!({}), KeyError::Malformed("has no kty")),
        (json!("x"), KeyError::Malformed("is not a JSON object")),
        (json!({"kty": 1}), KeyError::Malformed("has a kty that is not a string")),
        (json!({"kty": "RSA", "e": "AQAB"}), KeyError::Malformed("has no n")),
        (json!({"kty": "RSA", "n": RSA_7638}), KeyError::Malformed("has no e")),
        (
            json!({"kty": "RSA", "n": format!("{RSA_7638}="), "e": "AQAB"}),
            KeyError::Malformed("has an n that is not base64url"),
        ),
        (json!({"kty": "RSA", "n": RSA_7638, "e": "AQAB", "use": "enc"}), KeyError::NotForSignatures),
        (json!({"kty": "RSA", "n": RSA_7638, "e": "AQAB", "key_ops": ["sign"]}), KeyError::NotForSignatures),
        (json!({"kty": "RSA", "n": RSA_7638, "e": "AQAB", "key_ops": []}), KeyError::NotForSignatures),
        (json!({"kty": "RSA", "n": RSA_7638, "e": "AQAB", "alg": "RSA-OAEP"}), KeyError::AlgorithmNotAllowed),
        (json!({"kty": "RSA", "n": RSA_7638, "e": "AQAB", "alg": "HS256"}), KeyError::AlgorithmNotAllowed),
        (json!({"kty": "RSA", "n": RSA_7638, "e": "AQAB", "alg": "none"}), KeyError::AlgorithmNotAllowed),
        (json!({"kty": "oct", "k": "c2VjcmV0IHNlY3JldCBzZWNyZXQgc2VjcmV0ISEh"}), KeyError::Symmetric),
        (json!({"kty": "OKP", "crv": "Ed448", "x": "AA"}), KeyError::UnsupportedType),
        (json!({"kty": "OKP", "crv": "X25519", "x": zeros}), KeyError::UnsupportedType),
        (json!({"kty": "EC", "crv": "secp256k1", "x": x, "y": y}), KeyError::UnsupportedType),
        (json!({"kty": "EC", "x": x, "y": y}), KeyError::UnsupportedType),
        (json!({"kty": "new"}), KeyError::UnsupportedType),
        (json!({"kty": "EC", "crv": "P-256", "x": x}), KeyError::Malformed("has no y")),
        (
            json!({"kty": "EC", "crv": "P-384", "x": x, "y": y}),
            KeyError::Malformed("has a coordinate of a length that is not its curve's"),
        ),
        (json!({"kty": "EC", "crv": "P-256", "x": y, "y": x}), KeyError::OffCurve),
        (json!({"kty": "EC", "crv": "P-256", "x": zeros, "y": zeros}), KeyError::OffCurve),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"}), KeyError::Malformed("has an x that is not 32 bytes")),
        // y = 2 has no x on the curve.
        (ed(&format!("02{}", "00".repeat(31))), KeyError::OffCurve),
        // 1 written as p + 1, and 0 as p: small order either way.
        (ed(&format!("ee{}7f", "ff".repeat(30))), KeyError::SmallOrder),
        (ed(&format!("ed{}7f", "ff".repeat(30))), KeyError::SmallOrder),
        // 3 written as p + 3: a good point, badly written.
        (ed(&format!("f0{}7f", "ff".repeat(30))), KeyError::OffCurve),
        (rsa(&modulus[..128], &e), KeyError::ShortModulus(1024)),
        (rsa(&[&[0][..], &modulus[..255]].concat(), &e), KeyError::ShortModulus(2040)),
        (rsa(&[&[0x7f][..], &modulus[1..]].concat(), &e), KeyError::ShortModulus(2047)),
        (rsa(&[0; 300], &e), KeyError::ShortModulus(0)),
        (rsa(&[0xff; 1025], &e), KeyError::LongModulus(8200)),
        (rsa(&even, &e), KeyError::Malformed("has an RSA modulus that is none")),
        (rsa(&modulus, &[1]), KeyError::WeakExponent),
        (rsa(&modulus, &[3]), KeyError::WeakExponent),
        (rsa(&modulus, &[]), KeyError::WeakExponent),
        (rsa(&modulus, &[1, 0, 0]), KeyError::WeakExponent),
        (rsa(&modulus, &[1, 0, 2]), KeyError::WeakExponent),
        (rsa(&modulus, &[0xff, 0xff]), KeyError::WeakExponent),
        (rsa(&modulus, &[2, 0, 0, 0, 1]), KeyError::WeakExponent),
        (rsa(&modulus, &[0xff; 256]), KeyError::WeakExponent),
    ];
    for (jwk, expected) in cases {
        assert_eq!(parse(jwk.clone()).map(|_| ()), Err(expected), "{jwk}");
    }
    assert!(parse(rsa(&[&[0, 0][..], &modulus].concat(), &[0, 1, 0, 1])).is_ok(), "leading zeros are others' habit");
    assert!(parse(json!({"kty": "RSA", "n": RSA_7638, "e": "AQAB", "d": "AA", "key_ops": ["sign", "verify"]})).is_ok());
}

#[test]
fn every_point_of_small_order_is_refused() {
    // The eight-torsion of edwards25519 in every encoding that some reader takes (libsodium's list), with either sign.
    let points = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ];
    for point in points {
        for sign in [0, 0x80] {
            let mut bytes = hex::decode(point).unwrap();
            bytes[31] |= sign;
            let refused = parse(json!({"kty": "OKP", "crv": "Ed25519", "x": base64url::encode(&bytes)}));
            let refused = refused.map(|_| ()).unwrap_err();
            // Zero with the sign bit set is no encoding to begin with.
            assert!(matches!(refused, KeyError::SmallOrder | KeyError::OffCurve), "{point}: {refused}");
        }
    }
}

#[test]
fn a_secret_has_at_least_32_bytes_and_serves_hmacs_alone() {
    assert_eq!(VerifyingKey::hmac(&[7; 31], &[Algorithm::HS256]).map(|_| ()), Err(KeyError::ShortSecret(31)));
    assert_eq!(VerifyingKey::hmac(&[7; 32], &[Algorithm::RS256]).map(|_| ()), Err(KeyError::AlgorithmNotAllowed));
    let key = VerifyingKey::hmac(&[7; 32], &[Algorithm::HS256, Algorithm::RS256]).unwrap();
    assert_eq!(key.algorithms().collect::<Vec<_>>(), [Algorithm::HS256]);
    assert_eq!((key.kid(), key.to_jwk()), (None, None));
    assert!(!format!("{key:?}").contains('7'));
}

#[test]
fn a_set_keeps_its_usable_keys_in_order_and_tells_of_the_others() {
    let keys: Vec<_> = (0..3).map(|_| SigningKey::generate(Algorithm::EdDSA).unwrap()).collect();
    let mut listed: Vec<Value> = keys.iter().map(|key| serde_json::to_value(key.public_jwk()).unwrap()).collect();
    listed.insert(1, json!({"kty": "RSA", "kid": "short", "n": "AQAB", "e": "AQAB"}));
    listed.insert(2, json!({"kty": "RSA", "kid": "other use", "use": "enc", "n": RSA_7638, "e": "AQAB"}));
    let set = JwkSet::try_from(json!({"keys": listed})).unwrap();
    let loaded = load_jwks(&set, &[Algorithm::EdDSA, Algorithm::RS256]);
    let kids: Vec<_> = loaded.keys.iter().map(VerifyingKey::kid).collect();
    assert_eq!(kids, keys.iter().map(|key| Some(key.kid())).collect::<Vec<_>>());
    assert_eq!(loaded.skipped, [(Some("short".to_owned()), KeyError::ShortModulus(17))]);

    let many = JwkSet { keys: vec![keys[0].public_jwk().clone(); 5000] };
    let loaded = load_jwks(&many, &[Algorithm::EdDSA]);
    assert_eq!(loaded.keys.len(), 100);
    assert_eq!(loaded.skipped, [(Some(keys[0].kid().to_owned()), KeyError::BeyondLimit)]);
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wycheproof {
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
    jws: String,
    result: String,
}

/// Sets whose public keys are good beside something that the vectors find unseemly; we take the good keys and tell of the
/// rest. Symmetric keys never come out of a set.
const LENIENT: [&str; 3] = ["jws_mixedSymmetryKeyset", "jws_keyset", "jws_duplicate_kid"];

#[test]
fn wycheproofs_bad_keys_are_not_usable() {
    let vectors: Wycheproof = vectors("wycheproof/json_web_key.json");
    let mut judged = 0;
    for group in vectors.test_groups.iter().filter(|g| !LENIENT.contains(&g.comment.as_str())) {
        let set = group.public.as_ref().or(group.private.as_ref()).unwrap();
        let set = JwkSet::try_from(set.clone()).unwrap();
        let symmetric = set.keys.iter().all(|key| key.kty == "oct");
        let loaded = load_jwks(&set, &Algorithm::ALL);
        for case in &group.tests {
            judged += 1;
            let verified = parse_jws(&case.jws).is_ok_and(|jws| {
                let verifies = |alg| loaded.keys.iter().any(|key| key.verify(alg, jws.signing_input, &jws.signature));
                jws.header.alg.parse().is_ok_and(verifies)
            });
            assert_eq!(verified, case.result == "valid" && !symmetric, "{}", group.comment);
        }
    }
    assert_eq!(judged, 22);
}
