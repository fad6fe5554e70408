//! The API server's rules against ours.

use std::collections::BTreeSet;

use cel::{Context, Program, Value as CelValue};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::schema;

/// Rules that look at one version alone.
fn static_rules(rules: &[CelRule]) -> impl Iterator<Item = &CelRule> {
    rules.iter().filter(|rule| !rule.cel.contains("oldSelf"))
}

/// Whether the API server would find a rule broken anywhere in a spec.
fn is_broken_for_api_server(rule: &CelRule, spec: &Value) -> bool {
    let program = Program::compile(&rule.cel).unwrap_or_else(|e| panic!("{}: {e}", rule.cel));
    places(&json!({"spec": spec}), rule.at).into_iter().any(|(_, place)| {
        let mut context = Context::default();
        context.add_variable("self", place).unwrap();
        match program.execute(&context) {
            Ok(CelValue::Bool(holds)) => !holds,
            other => panic!("{} on {place}: {other:?}", rule.cel),
        }
    })
}

fn assert_agreement(spec: &Value) {
    let typed: AuthPolicySpec = serde_json::from_value(spec.clone()).unwrap();
    let told = check_policy(&typed.resolve(), &[]);
    for rule in static_rules(policy_rules()) {
        let ours = told.iter().any(|problem| {
            problem.message == rule.message && lies_in(&without_places(&problem.field), &rule.at.replace("[]", ""))
        });
        assert_eq!(ours, is_broken_for_api_server(rule, spec), "{} at {}\n{spec:#}", rule.message, rule.at);
    }
}

#[test]
fn each_rule_is_broken_by_something_here_and_there() {
    let secret = json!({"name": "s", "key": "k"});
    let none_at_all = json!({"limit": 1, "window": "0s"});
    let issuer = |entry: Value| json!({"audiences": ["a"], "issuer": "https://i", "trustedIssuers": [entry]});
    let login = |login: Value| json!({"audiences": ["a"], "issuer": "https://i", "login": login});
    let spec = |name: &str, value: Value| json!({"audiences": ["a"], "issuer": "https://i", name: value});
    let bad = [
        json!({"audiences": ["a"]}),
        json!({"audiences": ["a"], "trustedIssuers": [{"name": "x", "issuer": "https://x"}], "login": {}}),
        json!({"audiences": ["a"], "issuer": "http://auth.example"}),
        json!({"audiences": ["a"], "issuer": "http://127.evil.example"}),
        issuer(json!({"name": "x", "issuer": "https://i"})),
        json!({"audiences": ["a"], "trustedIssuers": [{"name": "x", "issuer": "https://x"}, {"name": "y", "issuer": "https://x"}]}),
        json!({"audiences": ["a"], "trustedIssuers": [
            {"name": "x", "algorithms": ["HS256"], "secretKeyRef": secret, "notAfter": "2030-01-01T00:00:00Z"},
            {"name": "y", "algorithms": ["HS256"], "secretKeyRef": secret, "notAfter": "2030-01-01T00:00:00Z"},
        ]}),
        login(json!({"sessions": {"idleTimeout": "10m"}})),
        spec("tokens", json!({"accessTTL": "0s"})),
        spec("tokens", json!({"accessTTL": "25h"})),
        spec("tokens", json!({"clockSkew": "6m"})),
        spec("tokens", json!({"refreshTTL": "10m"})),
        spec("tokens", json!({"refreshGrace": "1h"})),
        spec("tokens", json!({"apiKeyMaxTTL": "1ms"})),
        spec("keys", json!({"ackTimeout": "4m"})),
        spec("keys", json!({"absentAfter": "10ms"})),
        spec("keys", json!({"rotation": {"interval": "10m"}})),
        spec("keys", json!({"rotation": {"apiKeyInterval": "1m", "prepublish": "2m"}})),
        spec("revocation", json!({"maxStaleness": "99ms"})),
        spec("verificationRateLimit", json!({"limit": 1, "window": "10ms"})),
        issuer(json!({"name": "x", "issuer": "https://x", "algorithms": ["HS256", "RS256"]})),
        issuer(json!({"name": "x", "issuer": "https://x", "algorithms": ["HS256"]})),
        issuer(json!({"name": "x", "issuer": "https://x", "algorithms": ["HS256"], "secretKeyRef": secret})),
        issuer(json!({"name": "x", "issuer": "https://x", "secretKeyRef": secret, "jwks": {"url": "https://x"}})),
        issuer(json!({"name": "x"})),
        json!({"audiences": ["a"], "issuer": "https://u:p@i"}),
        issuer(json!({"name": "x", "issuer": "https://u@x"})),
        issuer(json!({"name": "x", "issuer": "https://x", "jwks": {"url": "https://u:p@x/keys"}})),
        login(json!({"sms": {"url": "https://u:p@sms.example", "signingSecretKeyRef": secret}})),
        issuer(json!({"name": "x", "issuer": "urn:x"})),
        issuer(json!({"name": "x", "issuer": "https://x", "maxTTL": "0s"})),
        issuer(json!({"name": "x", "issuer": "https://x", "jwks": {}})),
        issuer(json!({"name": "x", "issuer": "https://x", "jwks": {"url": "http://x"}})),
        issuer(json!({"name": "x", "issuer": "https://x", "claimMappings": {"subject": {}}})),
        issuer(json!({"name": "x", "issuer": "https://x", "claimMappings": {"roles": {"claim": "a", "expression": "b"}}})),
        issuer(json!({"name": "x", "issuer": "https://x", "claimMappings": {"scopes": {}}})),
        spec("emergency", json!({"mode": "Enabled"})),
        spec("emergency", json!({"maxTTL": "25h"})),
        login(json!({"sessions": {"absoluteTimeout": "1h"}})),
        login(json!({"sessions": {"rememberMe": {"absoluteTimeout": "1h"}}})),
        login(json!({"lockout": {"maxDuration": "1m"}})),
        login(json!({"passwords": {"minLength": 20, "maxLength": 16}})),
        login(json!({"passwords": {"breachedPasswords": {"mode": "Custom"}}})),
        login(json!({"cookies": {"domain": "shop.example"}})),
        login(json!({"mail": {"verifyURL": "https://x"}})),
        login(json!({"mail": {"resetURL": "https://x"}})),
        login(json!({"cors": {"allowedOrigins": ["*"], "allowCredentials": true}})),
        json!({"audiences": ["a", "*"], "issuer": "https://i"}),
        json!({"audiences": ["a"], "trustedIssuers": [{"name": "x", "issuer": "https://x"}], "emergency": {"mode": "Enabled"}}),
        issuer(json!({"name": "x", "issuer": "https://x", "audiences": ["a", "*"]})),
        issuer(json!({"name": "x", "issuer": "https://x", "jwks": {"inline": {"keys": [{"kty": "OKP", "d": "x"}]}}})),
        spec("roles", json!([{"name": "a"}, {"name": "b", "inherits": ["a", "c"]}])),
        login(json!({"sessions": {"rememberMe": {"idleTimeout": "15m"}}})),
        login(json!({"lockout": {"window": "0s", "duration": "0s"}})),
        login(json!({"passwords": {"maxAge": "59m"}})),
        login(json!({"mfa": {"challengeTTL": "2h", "totp": {"period": "1s"}}})),
        login(json!({"mfa": {"mode": "Disabled", "requiredForRoles": ["admin"]}})),
        login(json!({"addressBlocking": {"window": "0s", "duration": "1ms"}})),
        login(json!({"cookies": {"sameSite": "None", "prefix": "cs_"}})),
        login(json!({"sms": {"url": "http://sms.example", "signingSecretKeyRef": secret}})),
        login(json!({"rateLimits": {
            "login": {"perAccountAndAddress": none_at_all, "perAddress": none_at_all},
            "register": {"perAddress": none_at_all},
            "passwordReset": {"perAccount": none_at_all, "perAddress": none_at_all},
            "api": {"perSubject": none_at_all},
        }})),
    ];
    let mut broken: BTreeSet<(&str, &str)> = BTreeSet::new();
    for spec in &bad {
        assert_agreement(spec);
        let found = static_rules(policy_rules()).filter(|rule| is_broken_for_api_server(rule, spec));
        broken.extend(found.map(|rule| (rule.at, rule.cel.as_str())));
    }
    for rule in static_rules(policy_rules()) {
        assert!(broken.contains(&(rule.at, rule.cel.as_str())), "nothing breaks: {} at {}", rule.cel, rule.at);
    }
}

#[test]
fn only_this_machine_itself_may_be_reached_without_tls() {
    for good in [
        "https://x",
        "http://localhost",
        "http://localhost:80/a",
        "http://127.9.0.1:1",
        "http://[::1]:80/a?b",
        "http://[::1]",
    ] {
        assert!(policy::is_https_or_loopback(good), "{good}");
    }
    for bad in [
        "http://x",
        "http://localhost:80@elsewhere.example/",
        "http://localhost@elsewhere.example",
        "http://localhost:pw@elsewhere.example",
        "http://localhost.elsewhere.example",
        "http://[::1]elsewhere.example",
        "http://[::1",
        "http://localhost:",
        "ftp://localhost",
    ] {
        assert!(!policy::is_https_or_loopback(bad), "{bad}");
    }
}

#[test]
fn a_session_s_rules_agree_too() {
    for (spec, is_good) in [
        (json!({}), true),
        (json!({"tokenTTL": "59s", "renewBefore": "1s"}), false),
        (json!({"tokenTTL": "5m"}), false),
        (json!({"tokenTTL": "6m"}), true),
        (json!({"renewBefore": "15m"}), false),
        (json!({"renewBefore": "0s"}), false),
        (json!({"tokenTTL": "25h"}), false),
        (json!({"lifetime": "59s"}), false),
        (json!({"secret": {"name": "s", "labels": {"app": "x", "example.com/team": "y"}}}), true),
        (json!({"secret": {"name": "s", "labels": {"-app": "x"}}}), false),
        (json!({"secret": {"name": "s", "labels": {"countersign.dev/owner-uid": "x"}}}), false),
        (json!({"secret": {"name": "s", "annotations": {"a b": "x"}}}), false),
        (json!({"secret": {"name": "s", "annotations": {"x.countersign.dev/y": "x"}}}), false),
        (json!({"secret": {"name": "s", "annotations": {"notcountersign.dev/y": "x"}}}), true),
    ] {
        let mut whole = json!({"policyRef": {"name": "p"}, "subject": "svc-x", "secret": {"name": "s"}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let typed: SessionSpec = serde_json::from_value(whole.clone()).unwrap();
        let ours = check_session(&typed.resolve(), &[]).is_empty();
        let theirs = static_rules(session_rules()).all(|rule| !is_broken_for_api_server(rule, &whole));
        assert_eq!((ours, theirs), (is_good, is_good), "{spec}");
    }
}

#[test]
fn what_must_not_change_is_held_by_the_api_server() {
    let holds = |rule: &CelRule, old: &Value, new: &Value| {
        let mut context = Context::default();
        context.add_variable("self", new).unwrap();
        context.add_variable("oldSelf", old).unwrap();
        Program::compile(&rule.cel).unwrap().execute(&context) == Ok(CelValue::Bool(true))
    };
    let issuer = policy_rules().iter().find(|rule| rule.cel.contains("oldSelf")).unwrap();
    let (with, without, other) = (json!({"issuer": "https://a"}), json!({}), json!({"issuer": "https://b"}));
    for (old, new, expected) in [
        (&with, &with, true),
        (&without, &without, true),
        (&with, &without, false),
        (&without, &with, false),
        (&with, &other, false),
    ] {
        assert_eq!(holds(issuer, old, new), expected, "{old} {new}");
    }
    let session = |subject: &str, policy: &str| json!({"subject": subject, "policyRef": {"name": policy}});
    let held = |new: &Value| {
        session_rules().iter().filter(|r| r.cel.contains("oldSelf")).all(|r| holds(r, &session("a", "p"), new))
    };
    assert!(held(&session("a", "p")) && !held(&session("b", "p")) && !held(&session("a", "q")));
}

#[test]
fn each_rule_has_its_place_in_the_schema_and_a_bounded_cost() {
    for (rules, root) in [(policy_rules(), schema::policy_spec_schema()), (session_rules(), schema::session_spec_schema())]
    {
        for rule in rules {
            let place = rule.at.split('.').skip(1).try_fold(root, |schema, name| {
                let (name, is_list) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
                let property = schema["properties"].get(name)?;
                if is_list { property.get("items") } else { Some(property) }
            });
            let attached =
                place.and_then(|place| place["x-kubernetes-validations"].as_array()).cloned().unwrap_or_default();
            assert!(attached.iter().any(|r| r["rule"] == rule.cel), "{} at {}", rule.cel, rule.at);
            // The path must lead to a field, or the API server refuses the definition; and the message must name it, for
            // clients that show the message alone.
            let field =
                rule.field.split('.').skip(1).try_fold(place.unwrap(), |schema, name| schema["properties"].get(name));
            assert!(field.is_some(), "{}{}", rule.at, rule.field);
            let name = format!("{}{}", rule.at, rule.field);
            let name = name.rsplit('.').next().unwrap();
            let ours = [
                ("roles", "inherits"),
                ("inline", "keys"),
                ("labels", "countersign.dev"),
                ("annotations", "countersign.dev"),
            ];
            let names = |name: &str| rule.message.contains(name);
            assert!(names(name) || ours.iter().any(|(n, word)| *n == name && names(word)), "{} of {name}", rule.message);
            // The API server estimates a rule's cost by the bounds of what it loops over; the test cluster has the last word.
            let loops = ["all(", "exists(", "exists_one(", "filter(", "map("]
                .map(|l| rule.cel.matches(l).count())
                .iter()
                .sum::<usize>();
            assert!(loops <= 3, "{}", rule.cel);
        }
    }
}

/// Specs that are read, with and without what rules look at.
fn any_spec() -> impl Strategy<Value = Value> {
    let duration = || {
        prop::option::of(prop::sample::select(vec![
            "0s", "1ms", "100ms", "1s", "1m", "5m", "10m", "15m", "24h", "25h", "720h", "99999h",
        ]))
    };
    let url = || {
        prop::option::of(prop::sample::select(vec![
            "https://a",
            "https://b/x",
            "https://b/x@y",
            "https://u:p@a",
            "http://localhost:80@a",
            "http://localhost:1",
            "http://localhost.evil",
            "http://127.0.0.1",
            "http://127.0.0.1:80/x",
            "http://[::1]:8/x",
            "http://evil/http://localhost",
            "http://a",
            "urn:a",
            "http://10.0.0.1",
        ]))
    };
    let object = |members: Vec<(&'static str, Option<Value>)>| {
        Value::Object(members.into_iter().filter_map(|(k, v)| Some((k.to_owned(), v?))).collect())
    };
    let text = |t: Option<&'static str>| t.map(Value::from);
    let algorithms = || prop::option::of(prop::sample::subsequence(vec!["RS256", "EdDSA", "HS256"], 1..3));
    let flag = || any::<bool>();
    let entry = (
        url(),
        algorithms(),
        flag(),
        flag(),
        prop::option::of((url(), flag())),
        duration(),
        prop::option::of((flag(), flag())),
    )
        .prop_map(move |(issuer, algorithms, secret, end, jwks, ttl, roles)| {
            object(vec![
                ("name", Some(json!("n"))),
                ("issuer", text(issuer)),
                ("algorithms", algorithms.map(|a| json!(a))),
                ("secretKeyRef", secret.then(|| json!({"name": "s", "key": "k"}))),
                ("notAfter", end.then(|| json!("2030-01-01T00:00:00Z"))),
                (
                    "jwks",
                    jwks.map(|(url, inline)| {
                        object(vec![("url", text(url)), ("inline", inline.then(|| json!({"keys": []})))])
                    }),
                ),
                ("maxTTL", text(ttl)),
                (
                    "claimMappings",
                    roles.map(|(c, e)| {
                        json!({"roles": object(vec![
                            ("claim", c.then(|| json!("c"))), ("expression", e.then(|| json!("claims.c"))),
                        ])})
                    }),
                ),
            ])
        });
    let tokens = (duration(), duration(), duration(), duration()).prop_map(move |(a, r, s, g)| {
        object(vec![("accessTTL", text(a)), ("refreshTTL", text(r)), ("clockSkew", text(s)), ("refreshGrace", text(g))])
    });
    let keys = (duration(), duration(), duration(), duration(), duration()).prop_map(move |(a, b, i, j, p)| {
        let rotation = object(vec![("interval", text(i)), ("apiKeyInterval", text(j)), ("prepublish", text(p))]);
        object(vec![("ackTimeout", text(a)), ("absentAfter", text(b)), ("rotation", Some(rotation))])
    });
    let login = (duration(), duration(), duration(), duration(), flag()).prop_map(move |(i, a, d, m, c)| {
        object(vec![
            ("sessions", Some(object(vec![("idleTimeout", text(i)), ("absoluteTimeout", text(a))]))),
            ("lockout", Some(object(vec![("duration", text(d)), ("maxDuration", text(m))]))),
            ("cookies", c.then(|| json!({"domain": "a.example", "prefix": "__Secure-x"}))),
        ])
    });
    let issuer = prop::option::of(prop::sample::select(vec![
        "https://a",
        "http://localhost",
        "http://127.0.0.1:1/x",
        "http://a",
        "http://localhost.evil",
    ]));
    (
        issuer,
        prop::option::of(prop::collection::vec(entry, 0..4)),
        prop::option::of(tokens),
        prop::option::of(keys),
        prop::option::of(login),
        duration(),
    )
        .prop_map(move |(issuer, trusted, tokens, keys, login, window)| {
            object(vec![
                ("audiences", Some(json!(["a"]))),
                ("issuer", text(issuer)),
                ("trustedIssuers", trusted.map(|t| json!(t))),
                ("tokens", tokens),
                ("keys", keys),
                ("login", login),
                ("verificationRateLimit", window.map(|w| json!({"limit": 1, "window": w}))),
            ])
        })
}

proptest! {
    #[test]
    fn the_api_server_and_we_agree_on_any_spec(spec in any_spec()) {
        // Where the schema refuses, rules aren't asked.
        prop_assume!(schema::check(schema::policy_spec_schema(), &spec, "spec").is_empty());
        assert_agreement(&spec);
    }
}
