//! Whose key is it, and for what: algorithm confusion, header injection, tricks with kids, tokens of other policies.

use serde_json::{Value, json};

use super::{BAD_SIGNATURE, MALFORMED, TokenCase, UNKNOWN_KEY, UNTRUSTED_ISSUER, VALID};
use crate::{
    forge::{self, ALGORITHMS, Provider, base64url, hmac_token, parts},
    rig::{Dev, Policies},
};

pub(super) fn cases(policies: &Policies, dev: &Dev) -> Vec<TokenCase> {
    let mut cases = algorithms(policies);
    cases.extend(public_keys_as_secrets(policies));
    cases.extend(injected_keys(policies));
    cases.extend(kids(policies));
    cases.extend(issuers(policies, dev));
    cases
}

fn algorithms(policies: &Policies) -> Vec<TokenCase> {
    let partner = &policies.partner;
    let mut cases = Vec::new();
    for (algorithm, _) in ALGORITHMS {
        cases.push(TokenCase::new(format!("a good {algorithm} token"), partner.token(algorithm), VALID));
    }
    // Every other algorithm's name over a signature that holds for the key.
    let names = ALGORITHMS
        .iter()
        .map(|(name, _)| *name)
        .chain(["HS256", "HS384", "HS512", "ES256K", "Ed25519", "RSA-OAEP", "dir", "A256GCM"]);
    for claimed in names {
        for (real, kid) in ALGORITHMS {
            if claimed == *real {
                continue;
            }
            let header = json!({"alg": claimed, "kid": kid}).to_string();
            let token = partner.seal(header, partner.claims().to_string(), real);
            cases.push(TokenCase::new(format!("{real} called {claimed}"), token, BAD_SIGNATURE));
        }
    }
    for none in [
        "none",
        "None",
        "NONE",
        "nOnE",
        "",
        " ",
        "none ",
        "null",
        "undefined",
        "es256",
        "Es256",
        "eddsa",
        "ES256\0",
        " ES256",
        "ES256,none",
    ] {
        for kid in [Some("p256"), None] {
            let header = json!({"alg": none, "kid": kid}).to_string();
            let unsigned = format!("{}.{}.", base64url(&header), base64url(partner.claims().to_string()));
            cases.push(TokenCase::new(format!("alg {none:?}, kid {kid:?}, unsigned"), unsigned.clone(), MALFORMED));
            cases.push(TokenCase::new(
                format!("alg {none:?}, kid {kid:?}, some signature"),
                format!("{unsigned}AAAA"),
                BAD_SIGNATURE,
            ));
            let signed = partner.seal(header, partner.claims().to_string(), "ES256");
            cases.push(TokenCase::new(format!("alg {none:?}, kid {kid:?}, rightly signed"), signed, BAD_SIGNATURE));
        }
    }
    cases
}

fn public_keys_as_secrets(policies: &Policies) -> Vec<TokenCase> {
    let partner = &policies.partner;
    let mut cases = Vec::new();
    for (what, kid, secret) in partner.public_key_texts() {
        for algorithm in ["HS256", "HS384", "HS512"] {
            let header = json!({"alg": algorithm, "kid": kid, "typ": "JWT"});
            let token = hmac_token(&header, &partner.claims(), &secret);
            cases.push(TokenCase::new(format!("{algorithm} with {what} for a secret"), token, BAD_SIGNATURE));
        }
        let without_kid = hmac_token(&json!({"alg": "HS256"}), &partner.claims(), &secret);
        cases.push(TokenCase::new(format!("HS256 without kid, {what} for a secret"), without_kid, BAD_SIGNATURE));
        // The legacy entry does know a secret: it must not be this one.
        let legacy = hmac_token(&json!({"alg": "HS256"}), &legacy_claims(), &secret);
        cases.push(TokenCase::new(format!("a legacy token with {what} for a secret"), legacy, BAD_SIGNATURE));
    }
    cases
}

fn legacy_claims() -> Value {
    json!({"user_id": "bob", "type": "access", "exp": forge::now() + 600, "iat": forge::now(), "groups": ["user"]})
}

fn injected_keys(policies: &Policies) -> Vec<TokenCase> {
    let attacker = Provider::new(policies.partner.issuer, 1);
    let jwk = attacker.jwks()["keys"][1].clone();
    let certificate = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, b"not really a certificate");
    let mut cases = Vec::new();
    for (what, member, value) in [
        ("jwk", "jwk", jwk.clone()),
        ("jwk with a private part", "jwk", json!({"kty": "oct", "k": base64url(b"attacker's own secret of some length")})),
        ("jku", "jku", json!("https://attacker.example/jwks.json")),
        ("jku on loopback", "jku", json!("http://127.0.0.1:1/jwks.json")),
        ("jku of a file", "jku", json!("file:///etc/passwd")),
        ("x5u", "x5u", json!("https://attacker.example/cert.pem")),
        ("x5c", "x5c", json!([certificate])),
        ("x5t", "x5t", json!("AAAAAAAAAAAAAAAAAAAAAAAAAAA")),
        ("jwk that is no key", "jwk", json!(null)),
        ("jwk of a wrong type", "jwk", json!([1])),
    ] {
        for (kid, expected) in
            [(json!("p256"), BAD_SIGNATURE), (json!("attacker"), UNKNOWN_KEY), (Value::Null, BAD_SIGNATURE)]
        {
            let mut header = json!({"alg": "ES256", "kid": kid, "typ": "JWT"});
            header[member] = value.clone();
            let token = attacker.seal(header.to_string(), attacker.claims().to_string(), "ES256");
            cases.push(TokenCase::new(format!("the attacker's key as {what}, kid {kid}"), token, expected));
        }
        let mut header = json!({"alg": "ES256", "kid": "p256", "typ": "JWT"});
        header[member] = value;
        let token = policies.partner.seal(header.to_string(), policies.partner.claims().to_string(), "ES256");
        cases.push(TokenCase::new(format!("a good token with {what} is judged by the policy's key"), token, VALID));
    }
    cases
}

fn kids(policies: &Policies) -> Vec<TokenCase> {
    let partner = &policies.partner;
    let mut cases = Vec::new();
    let long = "k".repeat(8 * 1024);
    for kid in [
        "",
        " ",
        "P256",
        "p256 ",
        " p256",
        "p256\0",
        "p25",
        "p2566",
        "../p256",
        "/dev/null",
        "../../../../dev/null",
        "file:///dev/null",
        "https://attacker.example/key",
        "p256' OR '1'='1",
        "p256; DROP TABLE keys",
        "$(id)",
        "`id`",
        "| id",
        "%70256",
        "p256%00",
        "\u{0000}",
        "\u{202e}652p",
        "ｐ256",
        "pé",
        "*",
        "p*",
        "{{7*7}}",
        "${jndi:ldap://attacker.example}",
        "0",
        "null",
        "undefined",
        "__proto__",
        "constructor",
        &long,
    ] {
        let header = json!({"alg": "ES256", "kid": kid, "typ": "JWT"}).to_string();
        let shown: String = kid.chars().take(24).collect();
        cases.push(TokenCase::new(
            format!("kid {shown:?}"),
            partner.seal(header, partner.claims().to_string(), "ES256"),
            UNKNOWN_KEY,
        ));
    }
    // A kid of the set, but of another key.
    for (kid, signer) in
        [("ed", "ES256"), ("rsa", "ES256"), ("p384", "ES256"), ("p256", "EdDSA"), ("p256", "ES384"), ("p521", "RS256")]
    {
        let header = json!({"alg": signer, "kid": kid, "typ": "JWT"}).to_string();
        cases.push(TokenCase::new(
            format!("{signer} by the kid {kid}"),
            partner.seal(header, partner.claims().to_string(), signer),
            BAD_SIGNATURE,
        ));
    }
    for (algorithm, _) in ALGORITHMS {
        let header = json!({"alg": algorithm}).to_string();
        cases.push(TokenCase::new(
            format!("{algorithm} without a kid"),
            partner.seal(header, partner.claims().to_string(), algorithm),
            VALID,
        ));
    }
    for kid in [json!("anything"), json!("../../x"), Value::Null] {
        let token = hmac_token(&json!({"alg": "HS256", "kid": kid}), &legacy_claims(), crate::rig::LEGACY_SECRET);
        cases.push(TokenCase::new(format!("a symmetric key ignores the kid {kid}"), token, VALID));
    }
    cases
}

fn issuers(policies: &Policies, dev: &Dev) -> Vec<TokenCase> {
    let (partner, rival) = (&policies.partner, &policies.rival);
    let mut cases = vec![
        TokenCase::new("the rival's token", rival.token("ES256"), UNTRUSTED_ISSUER),
        TokenCase::new("the partner's token at the rival's policy", partner.token("ES256"), UNTRUSTED_ISSUER).at("other"),
        TokenCase::new("the rival's token at its own policy", rival.token("ES256"), VALID).at("other"),
    ];
    for (algorithm, _) in ALGORITHMS {
        // One kid, two issuers: each issuer's key only.
        let claims = rival.claims_with(json!({"iss": partner.issuer}));
        cases.push(TokenCase::new(
            format!("the rival's {algorithm} key under the partner's name"),
            rival.token_of(algorithm, &claims),
            BAD_SIGNATURE,
        ));
        let claims = partner.claims_with(json!({"iss": rival.issuer}));
        cases.push(
            TokenCase::new(
                format!("the partner's {algorithm} key under the rival's name"),
                partner.token_of(algorithm, &claims),
                BAD_SIGNATURE,
            )
            .at("other"),
        );
    }
    for (what, issuer) in [
        ("in capitals", json!("HTTPS://PARTNER.EXAMPLE")),
        ("with a slash", json!("https://partner.example/")),
        ("with a port", json!("https://partner.example:443")),
        ("with a blank", json!(" https://partner.example")),
        ("with a NUL", json!("https://partner.example\u{0}")),
        ("cut short", json!("https://partner.exampl")),
        ("longer", json!("https://partner.example.attacker.example")),
        ("by user info", json!("https://partner.example@attacker.example")),
        ("over http", json!("http://partner.example")),
        ("empty", json!("")),
        ("as a list", json!(["https://partner.example"])),
        ("as a number", json!(1)),
        ("as an object", json!({"iss": "https://partner.example"})),
        ("as true", json!(true)),
    ] {
        let claims = partner.claims_with(json!({"iss": issuer}));
        cases.push(TokenCase::new(format!("the issuer {what}"), partner.token_of("ES256", &claims), UNTRUSTED_ISSUER));
    }
    let mut without = partner.claims();
    without.as_object_mut().unwrap().remove("iss");
    let unnamed = partner.token_of("ES256", &without);
    cases.push(TokenCase::new("no issuer: the legacy secret is asked, not the partner's keys", &unnamed, BAD_SIGNATURE));
    cases.push(TokenCase::new("no issuer, and no legacy entry", unnamed, UNTRUSTED_ISSUER).at("other"));
    let legacy = hmac_token(&json!({"alg": "HS256"}), &legacy_claims(), crate::rig::LEGACY_SECRET);
    cases.push(TokenCase::new("a legacy token", &legacy, VALID));
    cases.push(TokenCase::new("a legacy token elsewhere", &legacy, UNTRUSTED_ISSUER).at("other"));
    for algorithm in ["HS384", "HS512"] {
        let token = hmac_token(&json!({"alg": algorithm}), &legacy_claims(), crate::rig::LEGACY_SECRET);
        cases.push(TokenCase::new(format!("a legacy token by {algorithm}"), token, BAD_SIGNATURE));
    }
    let mut named = legacy_claims();
    named["iss"] = json!(partner.issuer);
    cases.push(TokenCase::new(
        "the legacy secret under the partner's name",
        hmac_token(&json!({"alg": "HS256", "kid": "p256"}), &named, crate::rig::LEGACY_SECRET),
        BAD_SIGNATURE,
    ));
    cases.extend(own_tokens(policies, dev));
    cases
}

fn own_tokens(policies: &Policies, dev: &Dev) -> Vec<TokenCase> {
    let own = dev.token("shop", "carol");
    let [header, payload, signature] = parts(&own);
    let kid: Value = serde_json::from_slice(&forge::from_base64url(header)).unwrap();
    let claims: Value = serde_json::from_slice(&forge::from_base64url(payload)).unwrap();
    let mut admin = claims.clone();
    admin["roles"] = json!(["admin"]);
    let attacker = &policies.partner;
    let resigned = |header: Value, claims: &Value| attacker.seal(header.to_string(), claims.to_string(), "EdDSA");
    vec![
        TokenCase::new("our own token", &own, VALID),
        TokenCase::new("our own token at another policy", &own, UNTRUSTED_ISSUER).at("other"),
        TokenCase::new("another policy's token here", dev.token("other", "carol"), UNTRUSTED_ISSUER),
        TokenCase::new("our own token at a policy that only verifies", &own, UNTRUSTED_ISSUER).at("foreign"),
        TokenCase::new(
            "our own token with more roles",
            format!("{header}.{}.{signature}", base64url(admin.to_string())),
            BAD_SIGNATURE,
        ),
        TokenCase::new(
            "our own token with a header of the same meaning",
            format!("{}.{payload}.{signature}", base64url(format!(" {kid}"))),
            BAD_SIGNATURE,
        ),
        TokenCase::new("our own token as an API key", format!("csk_{own}"), UNKNOWN_KEY),
        TokenCase::new("our claims by the partner's key, our kid", resigned(kid.clone(), &claims), BAD_SIGNATURE),
        TokenCase::new(
            "our claims by the partner's key, its kid",
            resigned(json!({"alg": "EdDSA", "kid": "ed", "typ": "at+jwt"}), &claims),
            UNKNOWN_KEY,
        ),
        TokenCase::new(
            "our claims by the partner's key, no kid",
            resigned(json!({"alg": "EdDSA", "typ": "at+jwt"}), &claims),
            BAD_SIGNATURE,
        ),
        TokenCase::new(
            "our claims by the legacy secret",
            hmac_token(&json!({"alg": "HS256", "kid": kid["kid"], "typ": "at+jwt"}), &claims, crate::rig::LEGACY_SECRET),
            BAD_SIGNATURE,
        ),
    ]
}
