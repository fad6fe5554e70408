//! Specifications of Sessions.

use serde_json::{Value, json};

use super::{Case, GOOD, REMOVED, blames};

pub(super) fn minimal() -> Value {
    json!({"policyRef": {"name": "shop"}, "subject": "svc-billing", "secret": {"name": "billing-token"}})
}

pub(super) fn cases() -> Vec<Case> {
    let long = "a".repeat(300);
    vec![
        ("the least", json!({}), GOOD),
        (
            "everything",
            json!({"roles": ["user"], "audiences": ["shop-api"], "lifetime": "720h", "tokenTTL": "15m", "renewBefore": "5m",
                "secret": {"labels": {"a": "b"}, "annotations": {"c": "d"}}, "suspend": true}),
            GOOD,
        ),
        ("the shortest life of a token", json!({"tokenTTL": "1m", "renewBefore": "30s"}), GOOD),
        ("a token that lives too short", json!({"tokenTTL": "59s", "renewBefore": "30s"}), blames("tokenTTL")),
        ("a token that lives too long", json!({"tokenTTL": "25h"}), blames("tokenTTL")),
        ("renewed no earlier than it ends", json!({"tokenTTL": "5m", "renewBefore": "5m"}), blames("renewBefore")),
        ("renewed after it ended", json!({"tokenTTL": "5m", "renewBefore": "6m"}), blames("renewBefore")),
        ("renewBefore by default, not under a short tokenTTL", json!({"tokenTTL": "4m"}), blames("renewBefore")),
        ("a lifetime of no length", json!({"lifetime": "0s"}), blames("lifetime")),
        ("no subject", json!({"subject": REMOVED}), blames("subject")),
        ("an empty subject", json!({"subject": ""}), blames("subject")),
        ("a subject without end", json!({"subject": long}), blames("subject")),
        ("no policy", json!({"policyRef": REMOVED}), blames("policyRef")),
        ("a policy of another namespace", json!({"policyRef": {"namespace": "other"}}), blames("namespace")),
        ("a policy's name that can't be one", json!({"policyRef": {"name": "Not A Name"}}), blames("policyRef.name")),
        ("no secret", json!({"secret": REMOVED}), blames("secret")),
        ("a secret's name that can't be one", json!({"secret": {"name": "a/b"}}), blames("secret.name")),
        ("a secret of another namespace", json!({"secret": {"namespace": "other"}}), blames("namespace")),
        ("a duration in words", json!({"tokenTTL": "fifteen minutes"}), blames("tokenTTL")),
        ("a duration as a number", json!({"tokenTTL": 900}), blames("tokenTTL")),
        ("suspend in words", json!({"suspend": "yes"}), blames("suspend")),
        ("an unknown field", json!({"suspended": true}), blames("suspended")),
    ]
}
