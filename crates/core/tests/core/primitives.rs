//! Wycheproof's vectors for the signatures below the tokens: whatever library is in use, it must get these right.

use countersign_core::{
    jose::{Algorithm, Jwk, base64url},
    keys::VerifyingKey,
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::vectors;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vectors {
    algorithm: Algorithm,
    test_groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    key: Option<Value>,
    tests: Vec<Value>,
}

/// Hex of a number, as so many bytes.
fn number(hex_digits: &Value, length: Option<usize>) -> String {
    let digits = hex_digits.as_str().unwrap();
    let even = if digits.len() % 2 == 1 { format!("0{digits}") } else { digits.to_owned() };
    let bytes = hex::decode(even).unwrap();
    let bytes = match length {
        Some(length) => {
            let significant: Vec<u8> = bytes.into_iter().skip_while(|b| *b == 0).collect();
            [vec![0; length - significant.len()], significant].concat()
        }
        None => bytes,
    };
    base64url::encode(bytes)
}

fn jwk(algorithm: Algorithm, key: &Value) -> Jwk {
    let ec = |curve: &str, length| json!({"kty": "EC", "crv": curve, "x": number(&key["x"], Some(length)), "y": number(&key["y"], Some(length))});
    Jwk::from(match algorithm {
        Algorithm::EdDSA => json!({"kty": "OKP", "crv": "Ed25519", "x": number(&key["x"], None)}),
        Algorithm::ES256 => ec("P-256", 32),
        Algorithm::ES384 => ec("P-384", 48),
        Algorithm::ES512 => ec("P-521", 66),
        _ => json!({"kty": "RSA", "n": number(&key["n"], None), "e": number(&key["e"], None)}),
    })
}

/// Judges every case of a file; the number of valid ones, of which there must be some.
fn judge(file: &str, key_of: impl Fn(Algorithm, &Group, &Value) -> Option<VerifyingKey>) -> usize {
    let vectors: Vectors = vectors(&format!("wycheproof/{file}.json"));
    let mut valid = 0;
    for group in &vectors.test_groups {
        // An exponent of 3 makes no invalid signature pass in a sound library, and is refused as a key all the same.
        let weak = group.key.as_ref().is_some_and(|key| key["e"] == "03");
        for case in &group.tests {
            let field = |at: usize| case[at].as_str().unwrap();
            let last = case.as_array().unwrap().len() - 1;
            let bytes = |at: usize| hex::decode(field(at)).unwrap();
            let verified = key_of(vectors.algorithm, group, case)
                .is_some_and(|key| key.verify(vectors.algorithm, &bytes(last - 2), &bytes(last - 1)));
            match field(last) {
                "valid" if weak => assert!(!verified, "{file} {}", case[0]),
                "valid" => {
                    valid += 1;
                    assert!(verified, "{file} {}", case[0]);
                }
                // Acceptable to the vectors is a PKCS #1 encoding without its NULL; RFC 8017 wants it refused.
                "invalid" | "acceptable" => assert!(!verified, "{file} {}", case[0]),
                other => panic!("{file} {}: a result {other}", case[0]),
            }
        }
    }
    valid
}

#[test]
fn public_key_signatures_are_verified_as_wycheproof_demands() {
    let files = [
        ("ed25519", 88),
        ("ecdsa_secp256r1_sha256_p1363", 160),
        ("ecdsa_secp384r1_sha384_p1363", 190),
        ("ecdsa_secp521r1_sha512_p1363", 200),
        ("rsa_signature_2048_sha256", 7),
        ("rsa_signature_2048_sha512", 7),
        ("rsa_signature_3072_sha384", 7),
        ("rsa_pss_2048_sha256_mgf1_32", 50),
        ("rsa_pss_2048_sha384_mgf1_48", 50),
        ("rsa_pss_4096_sha512_mgf1_64", 50),
    ];
    for (file, at_least) in files {
        let valid = judge(file, |algorithm, group, _| {
            VerifyingKey::from_jwk(&jwk(algorithm, group.key.as_ref().unwrap()), &[algorithm]).ok()
        });
        assert!(valid >= at_least, "{file}: {valid} valid cases");
    }
}

#[test]
fn a_pss_salt_of_another_length_than_the_hash_is_refused() {
    // RFC 7518 section 3.5: these are valid signatures of another scheme.
    let vectors: Vectors = vectors("wycheproof/rsa_pss_2048_sha256_mgf1_0.json");
    for group in &vectors.test_groups {
        let key = VerifyingKey::from_jwk(&jwk(Algorithm::PS256, group.key.as_ref().unwrap()), &[Algorithm::PS256]).unwrap();
        for case in group.tests.iter().filter(|case| case[3] == "valid") {
            let bytes = |at: usize| hex::decode(case[at].as_str().unwrap()).unwrap();
            assert!(!key.verify(Algorithm::PS256, &bytes(1), &bytes(2)), "{}", case[0]);
        }
    }
}

#[test]
fn hmacs_are_verified_as_wycheproof_demands() {
    for file in ["hmac_sha256", "hmac_sha384", "hmac_sha512"] {
        let key = |algorithm, _: &Group, case: &Value| {
            let secret = hex::decode(case[1].as_str().unwrap()).unwrap();
            // Wycheproof also has secrets that are too short for us: lengthened by zeros, HMAC takes them for the same.
            let block = if algorithm == Algorithm::HS256 { 64 } else { 128 };
            let padded =
                if secret.len() < block { [secret.clone(), vec![0; block - secret.len()]].concat() } else { secret };
            VerifyingKey::hmac(&padded, &[algorithm]).ok()
        };
        assert!(judge(file, key) >= 20, "{file}");
    }
}
