//! Files, good and bad.

use super::*;

const GOOD: &str = "\
apiVersion: countersign.dev/v1alpha1
kind: AuthPolicy
metadata: {name: shop, namespace: shop}
spec:
  issuer: https://auth.shop.example
  audiences: [shop-api]
";

/// Each diagnostic without the file: `line: field: message`.
fn told(text: &str) -> Vec<String> {
    let loaded = load_text("shop.yaml", text);
    loaded.diagnostics.iter().map(|d| d.to_string().strip_prefix("shop.yaml:").unwrap().to_owned()).collect()
}

fn with_spec(lines: &str) -> String {
    format!("{GOOD}{lines}")
}

#[test]
fn a_good_file_gives_its_policies_with_every_default() {
    let loaded = load_text("shop.yaml", &format!("{GOOD}---\n{}", GOOD.replace("shop, namespace: shop", "bare")));
    assert_eq!(loaded.diagnostics, []);
    let names: Vec<&str> = loaded.policies.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(names, ["shop/shop", "default/bare"]);
    let effective = &loaded.policies[0].effective;
    assert_eq!(effective.tokens.access_ttl.to_string(), "15m");
    assert_eq!(effective.revocation.max_staleness.to_string(), "5m");
    assert!(effective.login.is_none());
}

#[test]
fn all_mistakes_of_a_file_are_told_at_once_each_with_its_line_and_a_way_out() {
    let text = with_spec(
        "  audience: [x]
  tokens:
    accessTTL: 15 minutes
    algorithm: ES265
    clockSkew: 10m
  roles:
  - name: admin
    permission: ['*']
  - name: admin
  - name: user
    inherits: [nobody]
  rules:
  - name: r1
    expression: request.metod == 'GET'
    effect: deny
  revocation: {maxEntries: lots, onStale: null}
  clientAddresses: {deny: [10.0.0.1/8]}
  login: {passwords: {minLength: 0, require: [Upper, Upper]}}
",
    );
    assert_eq!(
        told(&text),
        [
            "7: spec.audience: there is no such field; did you mean audiences?",
            "9: spec.tokens.accessTTL: \"15 minutes\" must be a duration such as 15m, 720h or 1h30m, and at most 99999h",
            "10: spec.tokens.algorithm: \"ES265\" is not one of EdDSA, ES256, ES384, RS256, PS256; did you mean ES256?",
            "11: spec.tokens.clockSkew: clockSkew must be at most 5m",
            "14: spec.roles[0].permission: there is no such field; did you mean permissions?",
            "15: spec.roles[1].name: \"admin\" stands twice in spec.roles; each name may stand once",
            "17: spec.roles[2].inherits: role \"user\" inherits \"nobody\", which is not defined",
            "20: spec.rules[0].expression: \"request\" has no field \"metod\"; it has method, path, host, query",
            "21: spec.rules[0].effect: \"deny\" is not one of Deny; did you mean Deny?",
            "22: spec.revocation.maxEntries: is a text, but must be a whole number; write it without quotes",
            "22: spec.revocation.onStale: null means nothing here; leave the field out",
            "23: spec.clientAddresses.deny[0]: \"10.0.0.1/8\" must be a network such as 10.0.0.0/8 or 2001:db8::/32, without bits beyond its prefix",
            "24: spec.login.passwords.minLength: 0 is too small; the least is 1",
            "24: spec.login.passwords.require[1]: \"Upper\" stands twice",
        ]
    );
}

#[test]
fn each_mistake_around_the_spec_is_told() {
    for (text, expected) in [
        ("", "1: holds no object; write an AuthPolicy or remove the file"),
        ("- a\n", "1: is not an object; write apiVersion, kind, metadata and spec"),
        ("apiVersion: v1\n", "1: kind: is missing; write kind: AuthPolicy"),
        (
            "kind: Secret\n",
            "1: kind: Secrets and ConfigMaps aren't read from YAML here; put their values into secrets/NAME/KEY and configmaps/NAME/KEY beside this file",
        ),
        ("kind: Deployment\n", "1: kind: \"Deployment\" is not one of AuthPolicy and Session"),
        ("kind: List\n", "1: kind: lists aren't read; separate the objects by lines of ---"),
        (&GOOD.replace("v1alpha1", "v1"), "1: apiVersion: is \"countersign.dev/v1\", but must be countersign.dev/v1alpha1"),
        (&GOOD.replace("name: shop, ", ""), "3: metadata.name: is missing; add it"),
        (&GOOD.replace("name: shop, ", "name: Shop, "), "3: metadata.name: \"shop/Shop\" is not a policy name"),
        (
            &GOOD.replace("{name: shop, ", "{name: shop, annotation: {}, "),
            "3: metadata.annotation: there is no such field; did you mean annotations?",
        ),
        (
            &GOOD.replace("name: shop, ", "name: n, "),
            "3: metadata.name: is a boolean, but must be a text; quote it (unquoted yes, no, on, off, y and n are booleans in YAML)",
        ),
        (&GOOD.replace("name: shop, ", "name: 7, "), "3: metadata.name: is a number, but must be a text; quote it: \"7\""),
        (
            &format!("{GOOD}  tokens: {{accessTTL: 15}}\n"),
            "7: spec.tokens.accessTTL: is a number, but must be a text; write its unit: 15s, 15m or 15h",
        ),
        (&GOOD.replace("spec:", "spce:"), "4: spce: there is no such field; did you mean spec?"),
        (
            &GOOD.replace("[shop-api]", "shop-api"),
            "6: spec.audiences: is a text, but must be a list; write it as [a, b] or one `- ` a line",
        ),
        (&GOOD.replace("[shop-api]", "[]"), "6: spec.audiences: must not be empty"),
        (
            &GOOD.replace("[shop-api]", "[yes]"),
            "6: spec.audiences[0]: is a boolean, but must be a text; quote it (unquoted yes, no, on, off, y and n are booleans in YAML)",
        ),
        (&GOOD.replace("  audiences: [shop-api]\n", ""), "4: spec.audiences: is missing and has no default; add it"),
        (
            &GOOD.replace("shop.example", "shop.example/"),
            "5: spec.issuer: \"https://auth.shop.example/\" must be an address such as https://auth.shop.example, without a trailing slash",
        ),
        (&GOOD.replace("https", "http"), "5: spec.issuer: issuer must be https (http only for loopback)"),
        ("a: 1\na: 2\n", "2: \"a\" is given twice; keep one"),
    ] {
        let told = told(text);
        let found = told.iter().any(|line| line.starts_with(expected.trim_end_matches('"')));
        assert!(found, "{text}: {told:?}");
    }
    // What isn't a mistake.
    assert_eq!(told(&GOOD.replace("https://auth.shop.example", "http://127.0.0.1:7490")), [""; 0]);
    assert_eq!(
        told(&GOOD.replace("{name: shop, ", "{name: shop, uid: x, creationTimestamp: null, labels: {a: b}, ")),
        [""; 0]
    );
}

#[test]
fn trusted_issuers_are_checked_among_each_other_and_against_the_policy() {
    for (entries, expected) in [
        (
            "[{name: a, issuer: https://auth.shop.example}]",
            "spec.trustedIssuers[0].issuer: no two of trustedIssuers, nor the policy itself, may have the same issuer",
        ),
        ("[{name: a, issuer: https://a}, {name: b, issuer: https://a}]", "spec.trustedIssuers[1].issuer: no two"),
        ("[{name: a, issuer: https://a}, {name: a, issuer: https://b}]", "spec.trustedIssuers[1].name: \"a\" stands twice"),
        ("[{name: a}]", "spec.trustedIssuers[0].issuer: issuer is needed"),
        ("[{name: a, issuer: legacy}]", "spec.trustedIssuers[0].issuer: issuer is where the keys are found"),
        (
            "[{name: a, issuer: https://a, algorithms: [HS256, RS256], secretKeyRef: {name: s, key: k}, notAfter: 2030-01-01T00:00:00Z}]",
            "spec.trustedIssuers[0].algorithms: algorithms mixes symmetric ones",
        ),
        (
            "[{name: a, issuer: https://a, algorithms: [HS256]}]",
            "spec.trustedIssuers[0].secretKeyRef: secretKeyRef goes with",
        ),
        (
            "[{name: a, issuer: https://a, algorithms: [HS256], secretKeyRef: {name: s, key: k}}]",
            "spec.trustedIssuers[0].notAfter: notAfter is needed with a symmetric key",
        ),
        (
            "[{name: a, issuer: https://a, secretKeyRef: {name: s, key: k}, notAfter: 2030-01-01T00:00:00Z}]",
            "spec.trustedIssuers[0].secretKeyRef: secretKeyRef goes with",
        ),
        ("[{name: a, issuer: https://a, jwks: {}}]", "spec.trustedIssuers[0].jwks: jwks takes exactly one of url"),
        (
            "[{name: a, issuer: https://a, jwks: {url: 'https://b', inline: {keys: []}}}]",
            "spec.trustedIssuers[0].jwks: jwks takes exactly one of url",
        ),
        (
            "[{name: a, issuer: https://a, jwks: {url: 'http://b/jwks'}}]",
            "spec.trustedIssuers[0].jwks.url: url must be https",
        ),
        (
            "[{name: a, issuer: https://a, jwks: {inline: {keys: []}}}]",
            "spec.trustedIssuers[0].jwks.inline: holds no key that can be used with RS256",
        ),
        (
            "[{name: a, issuer: https://a, jwks: {inline: {keys: [{kty: RSA, 'n': AQAB, e: AQAB}]}}}]",
            "spec.trustedIssuers[0].jwks.inline.keys[0]: the RSA key has",
        ),
        (
            "[{name: a, issuer: https://a, algorithms: [EdDSA], jwks: {inline: {keys: [{kty: OKP, crv: Ed25519, x: AA, d: AA}]}}}]",
            "spec.trustedIssuers[0].jwks.inline.keys[0]: is a private key",
        ),
        (
            "[{name: a, issuer: https://a, claimMappings: {roles: {claim: r, expression: claims.r}}}]",
            "spec.trustedIssuers[0].claimMappings.roles: roles takes exactly one of claim and expression",
        ),
        (
            "[{name: a, issuer: https://a, claimMappings: {roles: {expression: roles}}}]",
            "spec.trustedIssuers[0].claimMappings.roles.expression: there is no variable \"roles\"",
        ),
        (
            "[{name: a, issuer: https://a, match: [{claim: t, value: [x]}]}]",
            "spec.trustedIssuers[0].match[0].value: must be a text, a number or a boolean",
        ),
        (
            "[{name: a, issuer: https://a, audiences: ['*', x]}]",
            "spec.trustedIssuers[0].audiences: audiences holds \"*\" (not checked), which stands alone",
        ),
        (
            "[{name: a, issuer: https://a, notAfter: 2030-01-01}]",
            "spec.trustedIssuers[0].notAfter: \"2030-01-01\" must be a time such as",
        ),
        (
            "[{name: a, algorithms: [HS256], secretKeyRef: {name: s, key: k}, notAfter: '2030-01-01T00:00:00Z'}, {name: b, algorithms: [HS256], secretKeyRef: {name: s, key: k}, notAfter: '2030-01-01T00:00:00Z'}]",
            "spec.trustedIssuers[1].issuer: only one of trustedIssuers can be for tokens without iss",
        ),
    ] {
        let told = told(&with_spec(&format!("  trustedIssuers: {entries}\n")));
        assert!(told.iter().any(|line| line.contains(expected)), "{entries}: {told:?}");
    }
    let verify_only = GOOD.replace("  issuer: https://auth.shop.example\n", "");
    assert!(told(&verify_only)[0].contains("nobody's tokens are accepted"));
    assert_eq!(told(&format!("{verify_only}  trustedIssuers: [{{name: a, issuer: 'https://a/'}}]\n")), [""; 0]);
    let with_login = format!("{verify_only}  trustedIssuers: [{{name: a, issuer: 'https://a'}}]\n  login: {{}}\n");
    assert!(told(&with_login)[0].contains("login needs issuer"));
}

#[test]
fn the_whole_example_of_the_reference_is_accepted() {
    let text = include_str!("../../assets/every-field.yaml");
    let loaded = load_text("every-field.yaml", text);
    assert_eq!(loaded.diagnostics, []);
    assert_eq!((loaded.policies.len(), loaded.sessions.len()), (1, 1));
}

#[test]
fn two_files_with_one_policy_leave_neither_in_force() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.yaml", "b.yml"] {
        std::fs::write(dir.path().join(name), GOOD).unwrap();
    }
    std::fs::write(
        dir.path().join("c.json"),
        r#"{"apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicy",
        "metadata": {"name": "c"}, "spec": {"issuer": "https://c", "audiences": ["c"]}}"#,
    )
    .unwrap();
    for ignored in [".hidden.yaml", "README.md", "a.yaml~"] {
        std::fs::write(dir.path().join(ignored), "no policy").unwrap();
    }
    let loaded = load_directory(dir.path()).unwrap();
    assert_eq!(loaded.policies.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["default/c"]);
    let told: Vec<_> = loaded.diagnostics.iter().map(|d| (d.policy.as_ref().unwrap().as_str(), d.line)).collect();
    assert_eq!(told, [("shop/shop", 3), ("shop/shop", 3)]);
    assert!(loaded.diagnostics[0].message.starts_with("policy shop/shop is also at "));
    assert!(load_directory(&dir.path().join("nowhere")).is_err());
}

#[test]
fn what_is_far_too_much_is_told_in_few_words_and_little_time() {
    let begin = std::time::Instant::now();
    let many = (0..150_000).map(|i| format!("a{i}")).collect::<Vec<_>>().join(", ");
    assert_eq!(
        told(&GOOD.replace("[shop-api]", &format!("[{many}]"))),
        ["6: spec.audiences: has 150000 entries; at most 16 are allowed"]
    );
    let names = (0..30_000).map(|i| format!("{{name: a{i}}}")).collect::<Vec<_>>().join(", ");
    let roles = told(&with_spec(&format!("  roles: [{names}]\n")));
    assert!(roles.len() <= 1025 && roles.iter().any(|r| r.contains("has 30000 entries")), "{}", roles.len());
    let twins = vec![GOOD; 5_000].join("---\n");
    assert_eq!(told(&twins).len(), 5_000);
    assert!(begin.elapsed() < std::time::Duration::from_mins(1), "{:?}", begin.elapsed());
}

#[test]
fn an_expression_is_bounded_in_bytes_whatever_its_letters() {
    let long = format!("subject == '{}'", "é".repeat(600));
    let lines = told(&with_spec(&format!("  rules: [{{name: long, expression: \"{long}\"}}]\n")));
    assert_eq!(
        lines,
        [format!("7: spec.rules[0].expression: the expression is {} bytes long; at most 1024 are allowed", long.len())]
    );
}

#[test]
fn a_key_that_kubectl_takes_for_a_boolean_is_warned_about() {
    let jwk = "{kty: EC, crv: P-256, x: MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4, y: 4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM}";
    let lines = told(&with_spec(&format!(
        "  trustedIssuers: [{{name: kc, issuer: 'https://kc.example', algorithms: [ES256], jwks: {{inline: {{keys: [{jwk}]}}}}}}]\n"
    )));
    assert_eq!(lines, ["7: warning: kubectl reads the key y as a boolean; write \"y\", in quotes"]);
}

proptest::proptest! {
    #[test]
    fn any_text_is_read_or_refused_without_a_panic(text in "\\PC{0,200}|(spec|audiences|[-: \\n{}\\[\\],&*!'\"#|>y0-9])*{0,80}") {
        let _ = load_text("f", &text);
    }

    /// Whatever is put in the place of any one value of a full policy, it is accepted or refused with a place.
    #[test]
    fn any_value_in_any_place_is_accepted_or_refused_at_its_place(place in 0usize..500, which in 0usize..12) {
        use serde_json::json;
        let documents = yaml::parse(include_str!("../../assets/every-field.yaml")).unwrap();
        let mut policy = documents[0].value.clone();
        let odd = [
            json!(null), json!(true), json!(0), json!(-1), json!(1.5), json!(""), json!("x"), json!([]), json!({}), json!([null]),
            json!({"x": null}), json!("9".repeat(2000)),
        ];
        let mut left = place;
        if let Some(target) = nth(&mut policy["spec"], &mut left) {
            *target = odd[which].clone();
        }
        let checked = check_everything(&policy["spec"]);
        for problem in &checked.problems {
            proptest::prop_assert!(problem.field.starts_with("spec"), "{problem}");
        }
    }
}

/// The nth value within a value.
fn nth<'v>(value: &'v mut Value, left: &mut usize) -> Option<&'v mut Value> {
    if *left == 0 {
        return Some(value);
    }
    *left -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, left)),
        Value::Object(members) => members.values_mut().find_map(|member| nth(member, left)),
        _ => None,
    }
}
