//! What people read who wrote a text in the wrong way: the field, and how to write it.

use serde_json::{Value, json};

use super::{check, merge, policies, sessions};
use crate::rig::Cluster;

/// A mistake as a patch of a good specification, the field, and words that both sides say.
type Mistake = (Value, &'static str, &'static str);

fn mistakes_in_policies() -> Vec<Mistake> {
    let trusted = |patch: Value| {
        let mut entry = json!({"name": "kc", "issuer": "https://kc.example", "jwks": {"url": "https://kc.example/keys"}});
        merge(&mut entry, &patch);
        json!({"trustedIssuers": [entry]})
    };
    let login = |patch: Value| json!({"login": patch});
    let secret = json!({"name": "a", "key": "b"});
    vec![
        (
            json!({"issuer": "https://auth.shop.example/"}),
            "spec.issuer",
            "without a trailing slash, query, fragment or spaces",
        ),
        (json!({"issuer": "https://auth.shop.example?a=b"}), "spec.issuer", "such as https://auth.shop.example"),
        (json!({"issuer": "https://user:password@auth.shop.example"}), "spec.issuer", "holds a user or password"),
        (json!({"tokens": {"accessTTL": "15 minutes"}}), "spec.tokens.accessTTL", "must be a duration such as 15m"),
        (
            json!({"clientAddresses": {"deny": ["10.0.0.1/8"]}}),
            "spec.clientAddresses.deny[0]",
            "must be a network such as 10.0.0.0/8",
        ),
        (json!({"roles": [{"name": "a b"}]}), "spec.roles[0].name", "without spaces: put dashes in their place"),
        (
            json!({"roles": [{"name": "a", "permissions": ["orders:re*"]}]}),
            "spec.roles[0].permissions[0]",
            "must be words joined by colons, such as orders:read",
        ),
        (
            json!({"rules": [{"name": "Temp_Reads", "expression": "false"}]}),
            "spec.rules[0].name",
            "small letters, digits and dashes, such as temp-reads-only",
        ),
        (
            json!({"emergency": {"notAfter": "tomorrow"}}),
            "spec.emergency.notAfter",
            "must be a time such as 2027-03-01T00:00:00Z",
        ),
        (
            json!({"emergency": {"notAfter": "2027-02-29T00:00:00Z"}}),
            "spec.emergency.notAfter",
            "must be a time such as 2027-03-01T00:00:00Z (RFC 3339), on a day that exists",
        ),
        (trusted(json!({"name": "Key_Cloak"})), "spec.trustedIssuers[0].name", "small letters, digits and dashes"),
        (
            trusted(json!({"issuer": "https://kc example"})),
            "spec.trustedIssuers[0].issuer",
            "must be the iss of the tokens",
        ),
        (
            trusted(json!({"jwks": {"url": "https://kc.example/keys#a"}})),
            "spec.trustedIssuers[0].jwks.url",
            "without a fragment",
        ),
        (
            trusted(json!({"jwks": {"url": "https://user:password@kc.example/keys"}})),
            "spec.trustedIssuers[0].jwks.url",
            "url holds a user or password (…@), which logs and events would show, and keys are fetched without one: remove it",
        ),
        (
            json!({"trustedIssuers": [{"name": "kc", "issuer": "https://user@kc.example"}]}),
            "spec.trustedIssuers[0].issuer",
            "issuer holds a user or password",
        ),
        (
            json!({"trustedIssuers": [{"name": "kc", "issuer": "https://kc.example", "jwks": {"configMapKeyRef": {"name": "Keys", "key": "k"}}}]}),
            "spec.trustedIssuers[0].jwks.configMapKeyRef.name",
            "must be a name of small letters, digits, dashes and dots, such as legacy-jwt",
        ),
        (
            json!({"opaqueKeys": {"secretKeyRefs": [{"name": "old", "key": "a/b"}]}}),
            "spec.opaqueKeys.secretKeyRefs[0].key",
            "must be a key of letters, digits, dashes, dots and underscores, such as keys.json",
        ),
        (
            login(json!({"passwords": {"argon2id": {"memory": "19M"}}})),
            "spec.login.passwords.argon2id.memory",
            "such as 19Mi",
        ),
        (login(json!({"cookies": {"prefix": "a b"}})), "spec.login.cookies.prefix", "such as __Host-cs_"),
        (
            login(json!({"mail": {"from": "Shop"}})),
            "spec.login.mail.from",
            "such as Shop <no-reply@shop.example>, on one line",
        ),
        (
            login(json!({"mail": {"resetURL": "shop.example/reset?t={token}"}})),
            "spec.login.mail.resetURL",
            "such as https://shop.example/page?token={token}",
        ),
        (
            login(json!({"sms": {"url": "https://u:p@sms.example", "signingSecretKeyRef": secret}})),
            "spec.login.sms.url",
            "holds a user or password",
        ),
        (
            login(json!({"cors": {"allowedOrigins": ["https://shop.example/"]}})),
            "spec.login.cors.allowedOrigins[0]",
            "must be an origin such as https://shop.example, without a path or trailing slash",
        ),
        (
            login(json!({"clients": [{"clientID": "a b", "secretKeyRef": secret}]})),
            "spec.login.clients[0].clientID",
            "must be an id such as billing",
        ),
    ]
}

fn mistakes_in_sessions() -> Vec<Mistake> {
    vec![
        (json!({"policyRef": {"name": "My_Policy"}}), "spec.policyRef.name", "must be a name of small letters"),
        (json!({"secret": {"name": "a/b"}}), "spec.secret.name", "must be a name of small letters"),
        (json!({"secret": {"labels": {"team": "a b"}}}), "spec.secret.labels", "must be a label's value such as team-a"),
    ]
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn whoever_writes_a_text_in_the_wrong_way_reads_the_field_and_how_to_write_it() {
    let cluster = Cluster::shared();
    let namespace = cluster.namespace("words");
    let mut failures = Vec::new();
    for (kind, minimal, mistakes) in [
        ("AuthPolicy", policies::minimal(), mistakes_in_policies()),
        ("Session", sessions::minimal(), mistakes_in_sessions()),
    ] {
        for (patch, field, words) in mistakes {
            let mut object = json!({"apiVersion": "countersign.dev/v1alpha1", "kind": kind,
                "metadata": {"name": "tried", "namespace": namespace}, "spec": minimal});
            merge(&mut object["spec"], &patch);
            let answer = cluster.api().try_create(&object).json();
            let told = answer["details"]["causes"].as_array().cloned().unwrap_or_default();
            let by_server = told.iter().any(|cause| {
                let told_of = cause["field"].as_str().unwrap_or_default();
                let message = cause["message"].as_str().unwrap_or_default();
                told_of.starts_with(field) && message.contains(words)
            });
            let by_check = check(&object).is_err_and(|said| said.contains(field) && said.contains(words));
            if !(by_server && by_check) {
                failures.push(format!("{patch}: {field}, {words:?}: {by_server} {by_check}: {}", answer["message"]));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
