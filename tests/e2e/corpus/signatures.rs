//! Signatures that are nearly right.

use serde_json::json;

use super::{BAD_SIGNATURE, TokenCase, VALID};
use crate::{
    forge::{self, ALGORITHMS, base64url, parts, with_signature},
    rig::Policies,
};

pub(super) fn cases(policies: &Policies) -> Vec<TokenCase> {
    let partner = &policies.partner;
    let mut cases = Vec::new();
    for (algorithm, _) in ALGORITHMS {
        let token = partner.token(algorithm);
        let mut changed = |what: &str, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
            cases.push(TokenCase::new(format!("{algorithm}: {what}"), with_signature(&token, change), BAD_SIGNATURE));
        };
        changed("a bit flipped in front", &|mut s| {
            s[0] ^= 1;
            s
        });
        changed("a bit flipped at the end", &|mut s| {
            *s.last_mut().unwrap() ^= 1;
            s
        });
        changed("cut by a byte", &|mut s| {
            s.pop();
            s
        });
        changed("cut to a byte", &|s| s[..1].to_vec());
        changed("a byte longer", &|mut s| {
            s.push(0);
            s
        });
        changed("a zero in front", &|mut s| {
            s.insert(0, 0);
            s
        });
        changed("twice", &|s| [s.clone(), s].concat());
        changed("all zero", &|s| vec![0; s.len()]);
        changed("all ones", &|s| vec![0xff; s.len()]);
        changed("reversed", &|mut s| {
            s.reverse();
            s
        });
        let other = partner.token(algorithm);
        let [header, _, _] = parts(&token);
        let [_, payload, signature] = parts(&other);
        let swapped = partner.claims_with(json!({"sub": "mallory"}));
        cases.push(TokenCase::new(
            format!("{algorithm}: another token's signature"),
            format!("{}.{signature}", token.rsplit_once('.').unwrap().0),
            BAD_SIGNATURE,
        ));
        cases.push(TokenCase::new(
            format!("{algorithm}: another subject under the signature"),
            format!("{header}.{}.{signature}", base64url(swapped.to_string())),
            BAD_SIGNATURE,
        ));
        cases.push(TokenCase::new(
            format!("{algorithm}: a payload of the same meaning"),
            format!("{header}.{}.{signature}", base64url([b" ".as_slice(), &forge::from_base64url(payload)].concat())),
            BAD_SIGNATURE,
        ));
    }
    cases.extend(ecdsa(policies));
    cases.extend(eddsa(policies));
    cases
}

fn ecdsa(policies: &Policies) -> Vec<TokenCase> {
    let token = policies.partner.token("ES256");
    let with = |change: &dyn Fn(Vec<u8>) -> Vec<u8>| with_signature(&token, change);
    let halves = |r: Vec<u8>, s: Vec<u8>| with_signature(&token, |_| [r, s].concat());
    let number = |value: u8| {
        let mut bytes = vec![0; 32];
        bytes[31] = value;
        bytes
    };
    let order = forge::p256_order;
    let mut cases = vec![
        TokenCase::new("ES256: DER instead of r and s", with(&|s| forge::ecdsa_as_der(&s)), BAD_SIGNATURE),
        TokenCase::new("ES256: s and r", with(&|s| [&s[32..], &s[..32]].concat()), BAD_SIGNATURE),
        TokenCase::new("ES256: r alone", with(&|s| s[..32].to_vec()), BAD_SIGNATURE),
        TokenCase::new(
            "ES256: in halves of 48 bytes",
            with(&|s| [&[0; 16], &s[..32], &[0; 16], &s[32..]].concat()),
            BAD_SIGNATURE,
        ),
        // The twin holds as the first does (FIPS 186-5): which is why revocations name claims, not texts.
        TokenCase::new("ES256: the twin (r, n - s)", with(&forge::ecdsa_twin), VALID),
    ];
    for (what, r, s) in [
        ("0, 0", number(0), number(0)),
        ("0, 1", number(0), number(1)),
        ("1, 0", number(1), number(0)),
        ("1, 1", number(1), number(1)),
        ("n, n", order(), order()),
        ("n, 0", order(), number(0)),
        ("0, n", number(0), order()),
        ("n, 1", order(), number(1)),
        ("1, n", number(1), order()),
    ] {
        cases.push(TokenCase::new(format!("ES256: r, s = {what}"), halves(r, s), BAD_SIGNATURE));
    }
    cases
}

fn eddsa(policies: &Policies) -> Vec<TokenCase> {
    let token = policies.partner.token("EdDSA");
    let with = |change: &dyn Fn(Vec<u8>) -> Vec<u8>| with_signature(&token, change);
    let mut cases = vec![
        TokenCase::new("EdDSA: S + L", with(&forge::eddsa_twin), BAD_SIGNATURE),
        TokenCase::new(
            "EdDSA: S of zero",
            with(&|mut s| {
                s[32..].fill(0);
                s
            }),
            BAD_SIGNATURE,
        ),
        TokenCase::new(
            "EdDSA: R of zero",
            with(&|mut s| {
                s[..32].fill(0);
                s
            }),
            BAD_SIGNATURE,
        ),
        TokenCase::new(
            "EdDSA: the sign of R",
            with(&|mut s| {
                s[31] ^= 0x80;
                s
            }),
            BAD_SIGNATURE,
        ),
        TokenCase::new(
            "EdDSA: the top bits of S",
            with(&|mut s| {
                s[63] |= 0xe0;
                s
            }),
            BAD_SIGNATURE,
        ),
    ];
    // Points of small order for R: the identity, and its encodings beyond the field's prime.
    for (what, first, last) in
        [("the identity", 1, 0), ("the identity, sign set", 1, 0x80), ("p + 1", 0xee, 0x7f), ("order two", 0xec, 0x7f)]
    {
        let change = |mut s: Vec<u8>| {
            s[..32].fill(if last == 0x7f { 0xff } else { 0 });
            (s[0], s[31]) = (first, last);
            s
        };
        cases.push(TokenCase::new(format!("EdDSA: R is {what}"), with(&change), BAD_SIGNATURE));
        let zero_s = |s: Vec<u8>| {
            let mut s = change(s);
            s[32..].fill(0);
            s
        };
        cases.push(TokenCase::new(format!("EdDSA: R is {what}, S zero"), with(&zero_s), BAD_SIGNATURE));
    }
    cases
}
