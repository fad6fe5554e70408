//! Rightly signed tokens whose claims are not in order.

use serde_json::{Value, json};

use super::{BAD_SIGNATURE, EXPIRED, INVALID_CLAIMS, NOT_YET_VALID, TokenCase, UNTRUSTED_ISSUER, VALID, WRONG_AUDIENCE};
use crate::{
    forge::{self, hmac_token},
    rig::{LEGACY_SECRET, Policies},
};

pub(super) fn cases(policies: &Policies) -> Vec<TokenCase> {
    let mut cases = times(policies);
    cases.extend(audiences(policies));
    cases.extend(types(policies));
    cases.extend(legacy());
    cases.extend(orders(policies));
    cases
}

/// The partner's token with claims replaced (null removes).
fn changed(policies: &Policies, what: &str, changes: Value, expected: (u16, &'static str)) -> TokenCase {
    let partner = &policies.partner;
    TokenCase::new(what, partner.token_of("EdDSA", &partner.claims_with(changes)), expected)
}

fn times(policies: &Policies) -> Vec<TokenCase> {
    let now = forge::now();
    let case = |what: &str, changes: Value, expected| changed(policies, what, changes, expected);
    vec![
        case("expired an hour ago", json!({"iat": now - 7200, "exp": now - 3600}), EXPIRED),
        case("expired beyond the skew", json!({"iat": now - 600, "exp": now - 31}), EXPIRED),
        case("expired within the skew", json!({"iat": now - 600, "exp": now - 5}), VALID),
        case("exp 0", json!({"iat": null, "exp": 0}), EXPIRED),
        case("exp before 1970", json!({"iat": null, "exp": -1}), EXPIRED),
        case("exp with a fraction", json!({"exp": 0.5 + 600.0 + f64::from(u32::try_from(now).unwrap())}), VALID),
        case("exp in scientific notation, past", json!({"iat": null, "exp": 1e9}), EXPIRED),
        case("no exp", json!({"exp": null}), INVALID_CLAIMS),
        case("exp as text", json!({"exp": (now + 600).to_string()}), INVALID_CLAIMS),
        case("exp as true", json!({"exp": true}), INVALID_CLAIMS),
        case("exp as a list", json!({"exp": [now + 600]}), INVALID_CLAIMS),
        case("exp as an object", json!({"exp": {"$gt": 0}}), INVALID_CLAIMS),
        case("exp far beyond maxTTL", json!({"exp": now + 90_000}), INVALID_CLAIMS),
        case("exp beyond every calendar", json!({"exp": 1e300}), INVALID_CLAIMS),
        case("exp at the end of 64 bits", json!({"exp": i64::MAX}), INVALID_CLAIMS),
        case("exp at the end of unsigned 64 bits", json!({"exp": u64::MAX}), INVALID_CLAIMS),
        case("exp before every calendar", json!({"iat": null, "exp": -1e300}), EXPIRED),
        case("an old iat stretches the life over maxTTL", json!({"iat": now - 86_400}), INVALID_CLAIMS),
        case("without iat the life counts from now", json!({"iat": null, "exp": now + 90_000}), INVALID_CLAIMS),
        case("without iat, within maxTTL", json!({"iat": null}), VALID),
        case("nbf ahead", json!({"nbf": now + 300}), NOT_YET_VALID),
        case("nbf within the skew", json!({"nbf": now + 10}), VALID),
        case("nbf past", json!({"nbf": now - 10}), VALID),
        case("nbf beyond every calendar", json!({"nbf": 1e300}), NOT_YET_VALID),
        case("nbf as text", json!({"nbf": "0"}), INVALID_CLAIMS),
        case("nbf as a list", json!({"nbf": []}), INVALID_CLAIMS),
        case("iat ahead", json!({"iat": now + 300}), NOT_YET_VALID),
        case("iat within the skew", json!({"iat": now + 10}), VALID),
        case("iat at the end of 64 bits", json!({"iat": i64::MAX}), NOT_YET_VALID),
        case("iat as text", json!({"iat": now.to_string()}), INVALID_CLAIMS),
        case("iat as an object", json!({"iat": {}}), INVALID_CLAIMS),
        case("both ahead and expired: ahead first", json!({"nbf": now + 300, "exp": now - 300}), NOT_YET_VALID),
        case("iat_ms is nothing to us in a foreign token", json!({"iat_ms": "x"}), VALID),
    ]
}

fn audiences(policies: &Policies) -> Vec<TokenCase> {
    let case = |what: &str, audience: Value, expected| changed(policies, what, json!({"aud": audience}), expected);
    vec![
        case("no audience", Value::Null, WRONG_AUDIENCE),
        case("another audience", json!("other-api"), WRONG_AUDIENCE),
        case("the audience in capitals", json!("SHOP-API"), WRONG_AUDIENCE),
        case("the audience with a blank", json!("shop-api "), WRONG_AUDIENCE),
        case("the audience cut short", json!("shop-ap"), WRONG_AUDIENCE),
        case("two audiences in one text", json!("shop-api other-api"), WRONG_AUDIENCE),
        case("an empty audience", json!(""), WRONG_AUDIENCE),
        case("an empty list", json!([]), WRONG_AUDIENCE),
        case("other audiences", json!(["a", "b"]), WRONG_AUDIENCE),
        case("a star", json!("*"), WRONG_AUDIENCE),
        case("ours among others", json!(["a", "shop-api"]), VALID),
        case("ours alone in a list", json!(["shop-api"]), VALID),
        case("ours beside a number", json!(["shop-api", 1]), INVALID_CLAIMS),
        case("ours beside null", json!(["shop-api", null]), INVALID_CLAIMS),
        case("ours in a list in a list", json!([["shop-api"]]), INVALID_CLAIMS),
        case("a number", json!(1), INVALID_CLAIMS),
        case("an object", json!({"aud": "shop-api"}), INVALID_CLAIMS),
        case("true", json!(true), INVALID_CLAIMS),
    ]
}

fn types(policies: &Policies) -> Vec<TokenCase> {
    let mut cases = Vec::new();
    for value in [json!(1), json!(true), json!([]), json!(["alice"]), json!({})] {
        for claim in ["sub", "jti", "sid"] {
            cases.push(changed(policies, &format!("{claim} {value}"), json!({claim: value}), INVALID_CLAIMS));
        }
    }
    for (what, changes, expected) in [
        ("no sub", json!({"sub": null}), INVALID_CLAIMS),
        ("an empty sub", json!({"sub": ""}), INVALID_CLAIMS),
        ("no jti in a foreign token", json!({"jti": null}), VALID),
        ("no sid in a foreign token", json!({"sid": null}), VALID),
        ("scope as a number", json!({"scope": 1}), INVALID_CLAIMS),
        ("scope as an object", json!({"scope": {}}), INVALID_CLAIMS),
        ("scp with a number", json!({"scp": ["a", 1]}), INVALID_CLAIMS),
        ("scp as a list", json!({"scp": ["a", "b"]}), VALID),
        ("scope as text", json!({"scope": "a b"}), VALID),
        ("amr as a number", json!({"amr": 1}), INVALID_CLAIMS),
        ("amr with a number", json!({"amr": ["pwd", 1]}), INVALID_CLAIMS),
        ("a refresh token by type", json!({"type": "refresh"}), INVALID_CLAIMS),
        ("a refresh token by token_use", json!({"token_use": "refresh"}), INVALID_CLAIMS),
        ("a refresh token in capitals", json!({"type": "REFRESH"}), INVALID_CLAIMS),
        ("another type is the issuer's own affair", json!({"type": "Bearer"}), VALID),
        ("roles by our own name mean nothing", json!({"roles": ["admin"]}), VALID),
        ("a subject of 1,000 letters", json!({"sub": "s".repeat(1000)}), VALID),
    ] {
        cases.push(changed(policies, what, changes, expected));
    }
    let partner = &policies.partner;
    for (typ, expected) in [
        ("JWT", VALID),
        ("jwt", VALID),
        ("at+jwt", VALID),
        ("application/at+jwt", VALID),
        ("api-key+jwt", INVALID_CLAIMS),
        ("dpop+jwt", INVALID_CLAIMS),
        ("logout+jwt", INVALID_CLAIMS),
        ("id_token", INVALID_CLAIMS),
        ("", INVALID_CLAIMS),
        ("JWT ", INVALID_CLAIMS),
    ] {
        let header = json!({"alg": "EdDSA", "kid": "ed", "typ": typ}).to_string();
        cases.push(TokenCase::new(
            format!("typ {typ:?}"),
            partner.seal(header, partner.claims().to_string(), "EdDSA"),
            expected,
        ));
    }
    cases
}

/// Tokens by the shared secret from before: they must say `type: access`, and their subject is `user_id`.
fn legacy() -> Vec<TokenCase> {
    let now = forge::now();
    let case = |what: &str, claims: Value, secret: &[u8], expected| {
        TokenCase::new(
            format!("legacy: {what}"),
            hmac_token(&json!({"alg": "HS256", "typ": "JWT"}), &claims, secret),
            expected,
        )
    };
    let claims = |changes: Value| {
        let mut claims = json!({"user_id": "bob", "type": "access", "exp": now + 600, "iat": now, "groups": ["user"]});
        for (name, value) in changes.as_object().unwrap() {
            if value.is_null() {
                claims.as_object_mut().unwrap().remove(name);
            } else {
                claims[name] = value.clone();
            }
        }
        claims
    };
    let cut = &LEGACY_SECRET[..LEGACY_SECRET.len() - 1];
    let padded = [LEGACY_SECRET, b"\0"].concat();
    let newline = [LEGACY_SECRET, b"\n"].concat();
    vec![
        case("good", claims(json!({})), LEGACY_SECRET, VALID),
        case("a refresh token", claims(json!({"type": "refresh"})), LEGACY_SECRET, INVALID_CLAIMS),
        case("without a type", claims(json!({"type": null})), LEGACY_SECRET, INVALID_CLAIMS),
        case("a type of another kind", claims(json!({"type": ["access"]})), LEGACY_SECRET, INVALID_CLAIMS),
        case("a type in capitals", claims(json!({"type": "ACCESS"})), LEGACY_SECRET, INVALID_CLAIMS),
        case("no subject", claims(json!({"user_id": null})), LEGACY_SECRET, INVALID_CLAIMS),
        case("any audience", claims(json!({"aud": "whatever"})), LEGACY_SECRET, VALID),
        case("an audience of a wrong type", claims(json!({"aud": 1})), LEGACY_SECRET, INVALID_CLAIMS),
        case("expired", claims(json!({"exp": now - 100})), LEGACY_SECRET, EXPIRED),
        case("no exp", claims(json!({"exp": null})), LEGACY_SECRET, INVALID_CLAIMS),
        case("with an issuer that nobody trusts", claims(json!({"iss": "legacy"})), LEGACY_SECRET, UNTRUSTED_ISSUER),
        case("the secret cut short", claims(json!({})), cut, BAD_SIGNATURE),
        // HMAC pads short keys with zeros (RFC 2104): only then are these two secrets one.
        case("the secret with a newline", claims(json!({})), &newline, BAD_SIGNATURE),
        case("the secret padded as HMAC pads it", claims(json!({})), &padded, VALID),
        case("no secret", claims(json!({})), b"", BAD_SIGNATURE),
        case("a guessed secret", claims(json!({})), b"secret", BAD_SIGNATURE),
    ]
}

/// When several things are wrong the first in the contract's order is told.
fn orders(policies: &Policies) -> Vec<TokenCase> {
    let now = forge::now();
    let case = |what: &str, changes: Value, expected| changed(policies, what, changes, expected);
    let partner = &policies.partner;
    let everything = json!({"iss": "https://nobody.example", "exp": now - 100, "aud": "x", "sub": 1});
    let header = json!({"alg": "EdDSA", "kid": "nobody"}).to_string();
    vec![
        case("untrusted before all claims", everything.clone(), UNTRUSTED_ISSUER),
        case("expired before audience and claims", json!({"exp": now - 100, "aud": "x", "sub": 1}), EXPIRED),
        case("audience before claims", json!({"aud": "x", "sub": 1}), WRONG_AUDIENCE),
        case("ahead before audience", json!({"iat": now + 100, "aud": "x"}), NOT_YET_VALID),
        TokenCase::new(
            "untrusted before unknown key",
            partner.seal(&header, partner.claims_with(everything).to_string(), "EdDSA"),
            UNTRUSTED_ISSUER,
        ),
        TokenCase::new(
            "unknown key before expired",
            partner.seal(&header, partner.claims_with(json!({"exp": 0})).to_string(), "EdDSA"),
            super::UNKNOWN_KEY,
        ),
        TokenCase::new(
            "bad signature before expired",
            forge::with_signature(&partner.token_of("EdDSA", &partner.claims_with(json!({"exp": 0}))), |mut s| {
                s[0] ^= 1;
                s
            }),
            BAD_SIGNATURE,
        ),
    ]
}
