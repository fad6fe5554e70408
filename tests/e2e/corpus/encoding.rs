//! Texts that are no compact JWS, or not one and the same to every reader.

use serde_json::json;

use super::{MALFORMED, TokenCase, UNKNOWN_KEY, VALID};
use crate::{
    forge::{base64url, parts},
    rig::Policies,
};

pub(super) fn cases(policies: &Policies) -> Vec<TokenCase> {
    let mut cases = shapes(policies);
    cases.extend(alphabets(policies));
    cases.extend(json_texts(policies));
    cases.extend(header_members(policies));
    cases
}

fn shapes(policies: &Policies) -> Vec<TokenCase> {
    let good = policies.partner.token("EdDSA");
    let [header, payload, signature] = parts(&good);
    let long_payload = policies.partner.claims_with(json!({"pad": "x".repeat(16 * 1024)}));
    // The longest token that is looked at is 16 KiB: pad the claims to one just within, and one just over.
    let padded = |pad: usize| {
        let claims = policies.partner.claims_with(json!({"pad": "x".repeat(pad), "jti": "padded"}));
        policies.partner.token_of("EdDSA", &claims)
    };
    let base = padded(0).len();
    let within = (0..16_384_usize).rev().find(|pad| base + pad.div_ceil(3) * 4 <= 16_380).unwrap();
    let mut cases = vec![
        TokenCase::new("a word", "hello", MALFORMED),
        TokenCase::new("a blank", " ", MALFORMED),
        TokenCase::new("a dot", ".", MALFORMED),
        TokenCase::new("two dots", "..", MALFORMED),
        TokenCase::new("three dots", "...", MALFORMED),
        TokenCase::new("the header alone", header, MALFORMED),
        TokenCase::new("no signature part", format!("{header}.{payload}"), MALFORMED),
        TokenCase::new("an empty signature", format!("{header}.{payload}."), MALFORMED),
        TokenCase::new("an empty payload", format!("{header}..{signature}"), MALFORMED),
        TokenCase::new("an empty header", format!(".{payload}.{signature}"), MALFORMED),
        TokenCase::new("a fourth part", format!("{good}.{signature}"), MALFORMED),
        TokenCase::new("a dot at the end", format!("{good}."), MALFORMED),
        TokenCase::new("a dot at the start", format!(".{good}"), MALFORMED),
        TokenCase::new(
            "five parts, as a JWE has",
            format!("{header}.{payload}.{signature}.{payload}.{signature}"),
            MALFORMED,
        ),
        TokenCase::new("a space before", format!(" {good}"), MALFORMED),
        TokenCase::new("a space after", format!("{good} "), MALFORMED),
        TokenCase::new("a newline after", format!("{good}\n"), MALFORMED),
        TokenCase::new("a NUL after", format!("{good}\0"), MALFORMED),
        TokenCase::new("two tokens", format!("{good} {good}"), MALFORMED),
        TokenCase::new("quotes around it", format!("\"{good}\""), MALFORMED),
        TokenCase::new("the scheme before it", format!("Bearer {good}"), MALFORMED),
        TokenCase::new(
            "the general JSON serialisation",
            json!({"payload": payload, "signatures": [{"protected": header, "signature": signature}]}).to_string(),
            MALFORMED,
        ),
        TokenCase::new(
            "the flattened JSON serialisation",
            json!({"payload": payload, "protected": header, "signature": signature}).to_string(),
            MALFORMED,
        ),
        TokenCase::new("over 16 KiB", policies.partner.token_of("EdDSA", &long_payload), MALFORMED),
        TokenCase::new("16 KiB of dots", ".".repeat(16 * 1024), MALFORMED),
        TokenCase::new("one byte over 16 KiB of letters", "a".repeat(16 * 1024 + 1), MALFORMED),
        TokenCase::new("just within 16 KiB", padded(within), VALID),
        TokenCase::new("no JWS, where opaque keys are known", "hello", UNKNOWN_KEY).at("foreign"),
        TokenCase::new("a known opaque key", crate::rig::OPAQUE_KEY, VALID).at("foreign"),
        TokenCase::new("a known opaque key cut short", &crate::rig::OPAQUE_KEY[..21], UNKNOWN_KEY).at("foreign"),
        TokenCase::new("a known opaque key and more", format!("{} ", crate::rig::OPAQUE_KEY), UNKNOWN_KEY).at("foreign"),
        TokenCase::new("a known opaque key elsewhere", crate::rig::OPAQUE_KEY, MALFORMED),
    ];
    for prefix in ["csk_", "CSK_", "csk_csk_"] {
        let expected = if prefix == "csk_" { super::UNTRUSTED_ISSUER } else { MALFORMED };
        cases.push(TokenCase::new(format!("a foreign token with {prefix} before it"), format!("{prefix}{good}"), expected));
    }
    cases
}

fn alphabets(policies: &Policies) -> Vec<TokenCase> {
    let mut cases = Vec::new();
    let good = policies.partner.token("RS256");
    let all = parts(&good);
    let names = ["header", "payload", "signature"];
    let joined = |at: usize, part: String| {
        let mut changed = all.map(str::to_owned);
        changed[at] = part;
        changed.join(".")
    };
    for (at, name) in names.into_iter().enumerate() {
        let part = all[at];
        let middle = part.len() / 2;
        for (what, inserted) in [
            ("=", "="),
            ("+", "+"),
            ("/", "/"),
            ("a space", " "),
            ("a newline", "\n"),
            ("a tab", "\t"),
            ("a carriage return", "\r\n"),
            ("a NUL", "\0"),
            ("a percent escape", "%41"),
            ("an umlaut", "ä"),
            ("a full-width letter", "Ａ"),
            ("a zero-width space", "\u{200b}"),
        ] {
            let (front, back) = part.split_at(middle);
            cases.push(TokenCase::new(
                format!("{what} within the {name}"),
                joined(at, format!("{front}{inserted}{back}")),
                MALFORMED,
            ));
        }
        for padding in ["=", "==", "==="] {
            cases.push(TokenCase::new(
                format!("{padding} after the {name}"),
                joined(at, format!("{part}{padding}")),
                MALFORMED,
            ));
        }
        if part.len().is_multiple_of(4) {
            cases.push(TokenCase::new(
                format!("a lone letter after the {name}"),
                joined(at, format!("{part}A")),
                MALFORMED,
            ));
        }
    }
    cases.extend(trailing_bits(policies));
    cases
}

/// A part whose last letter carries unused bits must have them zero: otherwise one token has several texts.
fn trailing_bits(policies: &Policies) -> Vec<TokenCase> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut cases = Vec::new();
    for pad in 0..3 {
        let claims = policies.partner.claims_with(json!({"pad": "x".repeat(pad)}));
        let header = json!({"alg": "ES256", "kid": "p256", "pad": "x".repeat(pad)}).to_string();
        let token = policies.partner.seal(header, claims.to_string(), "ES256");
        let all = parts(&token);
        for (at, name) in ["header", "payload", "signature"].into_iter().enumerate() {
            let unused = match all[at].len() % 4 {
                2 => 4,
                3 => 2,
                _ => continue,
            };
            let last = *all[at].as_bytes().last().unwrap();
            let index = ALPHABET.iter().position(|letter| *letter == last).unwrap();
            for bits in [1, (1 << unused) - 1] {
                let mut part = all[at].to_owned();
                part.pop();
                part.push(ALPHABET[index | bits].into());
                let mut changed = all.map(str::to_owned);
                changed[at] = part;
                cases.push(TokenCase::new(
                    format!("unused bits {bits:#b} set in the {name} ({pad})"),
                    changed.join("."),
                    MALFORMED,
                ));
            }
        }
    }
    cases
}

fn json_texts(policies: &Policies) -> Vec<TokenCase> {
    let good_header = json!({"alg": "ES256", "kid": "p256", "typ": "JWT"}).to_string();
    let good_payload = policies.partner.claims().to_string();
    let inner = |text: &str| text[1..text.len() - 1].to_owned();
    let (header_members, payload_members) = (inner(&good_header), inner(&good_payload));
    let nested = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));

    let mut cases = Vec::new();
    let mut both = |what: &str, build: &dyn Fn(&str) -> Vec<u8>| {
        let token = policies.partner.seal(build(&header_members), &good_payload, "ES256");
        cases.push(TokenCase::new(format!("header: {what}"), token, MALFORMED));
        let token = policies.partner.seal(&good_header, build(&payload_members), "ES256");
        cases.push(TokenCase::new(format!("payload: {what}"), token, MALFORMED));
    };
    for (what, text) in [
        ("a list", "[]"),
        ("a text", "\"x\""),
        ("a number", "1"),
        ("null", "null"),
        ("true", "true"),
        ("nothing but a blank", " "),
        ("an open brace", "{"),
        ("a comment", "/* */ {}"),
        ("NaN", "{\"a\": NaN}"),
        ("a single quote", "{'a': 1}"),
        ("a leading zero", "{\"a\": 01}"),
        ("a lone surrogate", "{\"a\": \"\\ud800\"}"),
        ("a raw newline in a text", "{\"a\": \"\n\"}"),
        ("a number beyond a double", "{\"a\": 1e999}"),
        ("a colon missing", "{\"a\" 1}"),
        ("a name that is no text", "{1: 1}"),
    ] {
        both(what, &|_| text.as_bytes().to_vec());
    }
    both("a byte-order mark", &|members| format!("\u{feff}{{{members}}}").into_bytes());
    both("bytes that are no UTF-8", &|members| [b"{\"x\":\"\xff\",", members.as_bytes(), b"}"].concat());
    both("an overlong UTF-8 form", &|members| [b"{\"x\":\"\xc0\xaf\",", members.as_bytes(), b"}"].concat());
    both("UTF-16", &|members| format!("{{{members}}}").encode_utf16().flat_map(u16::to_le_bytes).collect());
    both("a comma at the end", &|members| format!("{{{members},}}").into_bytes());
    both("text after it", &|members| format!("{{{members}}}x").into_bytes());
    both("a second object after it", &|members| format!("{{{members}}}{{{members}}}").into_bytes());
    both("a NUL after it", &|members| format!("{{{members}}}\0").into_bytes());
    both("nested 65 deep", &|members| format!("{{{members},\"deep\":{}}}", nested(64)).into_bytes());
    both("nested 4,000 deep", &|members| format!("{{{members},\"deep\":{}}}", nested(4_000)).into_bytes());
    both("opened 5,000 times and never closed", &|members| {
        format!("{{{members},\"deep\":{}", "[".repeat(5_000)).into_bytes()
    });
    both("a member twice with one value", &|members| format!("{{{members},\"x\":1,\"x\":1}}").into_bytes());
    both("a member twice, once escaped", &|members| format!("{{{members},\"xy\":1,\"\\u0078y\":1}}").into_bytes());
    both("a member twice, deep inside", &|members| {
        format!("{{{members},\"x\":[{{\"y\":{{\"z\":1,\"z\":2}}}}]}}").into_bytes()
    });

    for (name, value) in
        [("alg", "\"none\""), ("alg", "\"ES256\""), ("kid", "\"ed\""), ("typ", "\"at+jwt\""), ("crit", "[]")]
    {
        let twice = if name == "crit" {
            format!("{{{header_members},\"crit\":[\"b64\"],\"b64\":true,\"crit\":[]}}")
        } else {
            format!("{{{header_members},\"{name}\":{value}}}")
        };
        cases.push(TokenCase::new(
            format!("a second {name}"),
            policies.partner.seal(&twice, &good_payload, "ES256"),
            MALFORMED,
        ));
        let before = format!("{{\"{name}\":{value},\"{name}\":{value},{}}}", "\"x\":1");
        cases.push(TokenCase::new(
            format!("{name} twice at the front"),
            policies.partner.seal(before, &good_payload, "ES256"),
            MALFORMED,
        ));
    }
    for (name, value) in [
        ("iss", "\"https://auth.shop.example\""),
        ("sub", "\"root\""),
        ("aud", "\"shop-api\""),
        ("exp", "9999999999"),
        ("jti", "\"other\""),
        ("groups", "[\"admin\"]"),
        ("groups", "[]"),
    ] {
        let twice = format!("{{\"groups\":[\"user\"],{payload_members},\"{name}\":{value}}}");
        cases.push(TokenCase::new(
            format!("a second {name}: {value}"),
            policies.partner.seal(&good_header, twice, "ES256"),
            MALFORMED,
        ));
    }
    let deep = format!("{{{payload_members},\"deep\":{}}}", nested(63));
    cases.push(TokenCase::new("nested 64 deep is still read", policies.partner.seal(&good_header, deep, "ES256"), VALID));
    let spaced = format!(" {{ {payload_members} }}\n");
    cases.push(TokenCase::new(
        "blanks around the JSON are JSON",
        policies.partner.seal(&good_header, spaced, "ES256"),
        VALID,
    ));
    cases
}

fn header_members(policies: &Policies) -> Vec<TokenCase> {
    let partner = &policies.partner;
    let claims = partner.claims().to_string();
    let header = |changes: &[(&str, serde_json::Value)]| {
        let mut header = json!({"alg": "ES256", "kid": "p256", "typ": "JWT"});
        for (name, value) in changes {
            header[*name] = value.clone();
        }
        header.to_string()
    };
    let mut cases = Vec::new();
    let mut push = |what: String, header: String, expected| {
        cases.push(TokenCase::new(what, partner.seal(header, &claims, "ES256"), expected));
    };
    for value in [json!(null), json!(1), json!(true), json!([]), json!(["ES256"]), json!({}), json!({"alg": "ES256"})] {
        push(format!("alg {value}"), header(&[("alg", value)]), MALFORMED);
    }
    push("no alg".into(), json!({"kid": "p256"}).to_string(), MALFORMED);
    for value in [json!(1), json!(false), json!([]), json!(["p256"]), json!({"kid": "p256"})] {
        push(format!("kid {value}"), header(&[("kid", value.clone())]), MALFORMED);
        push(format!("typ {value}"), header(&[("typ", value)]), MALFORMED);
    }
    for value in [
        json!(["exp"]),
        json!(["b64", "exp"]),
        json!(["urn:x"]),
        json!([]),
        json!("exp"),
        json!({}),
        json!(1),
        json!([1]),
        json!(["alg"]),
        json!(["kid"]),
        json!([""]),
        json!(["b64"]),
    ] {
        push(format!("crit {value}"), header(&[("crit", value)]), MALFORMED);
    }
    for value in [json!(false), json!("false"), json!(0), json!([])] {
        push(format!("b64 {value}"), header(&[("b64", value.clone())]), MALFORMED);
        push(format!("b64 {value}, critical"), header(&[("b64", value), ("crit", json!(["b64"]))]), MALFORMED);
    }
    push("kid null is absent".into(), header(&[("kid", json!(null))]), VALID);
    push("typ null is absent".into(), header(&[("typ", json!(null))]), VALID);
    push("a member that nobody knows".into(), header(&[("x", json!({"y": [1, 2, 3]}))]), VALID);
    push("zip is none of JWS's".into(), header(&[("zip", json!("DEF"))]), VALID);
    // RFC 7797: an unencoded payload under a good signature over other bytes.
    let raw = partner.claims().to_string();
    let unencoded = json!({"alg": "ES256", "kid": "p256", "b64": false, "crit": ["b64"]}).to_string();
    let input = format!("{}.{raw}", base64url(&unencoded));
    let signature = partner.sign("ES256", input.as_bytes());
    cases.push(TokenCase::new(
        "b64 false, signed as RFC 7797 says",
        format!("{}.{}.{}", base64url(&unencoded), base64url(&raw), base64url(signature)),
        MALFORMED,
    ));
    cases
}
