//! References and keys that are no good: each is a condition with a word of its own, an event, and mended by an edit.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::world::{LONG, World, names, policy};
use crate::{
    forge::{self, hmac_token},
    rig::{BUNDLES, LEGACY_SECRET, OPAQUE_KEY, PATIENCE, condition, eventually, object_path},
};

/// A trusted issuer of HS256 tokens without `iss`, by a Secret.
fn legacy(secret: &str) -> Value {
    json!([{
        "name": "legacy", "audiences": ["*"], "algorithms": ["HS256"], "secretKeyRef": {"name": secret, "key": "secret"},
        "notAfter": "2099-01-01T00:00:00Z", "claimMappings": {"subject": {"claim": "sub"}},
    }])
}

/// A trusted issuer whose keys lie somewhere.
fn partner(jwks: &Value) -> Value {
    json!([{"name": "partner", "issuer": "https://partner.example", "algorithms": ["EdDSA"], "jwks": jwks}])
}

pub(super) fn secret(namespace: &str, name: &str, key: &str, value: &[u8]) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": namespace, "name": name},
        "data": {key: BASE64_STANDARD.encode(value)}})
}

fn with(name: &str, field: &str, value: Value) -> Value {
    let mut policy = policy("accepted", name);
    policy["spec"][field] = value;
    policy
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn what_a_policy_refers_to_and_is_not_there_or_no_good_is_named_and_taken_up_when_it_is_mended() {
    let world = World::shared();
    let api = world.api();
    api.namespace("accepted");
    api.apply(&secret("accepted", "short", "secret", b"short"));
    api.apply(&secret("accepted", "words", "keys.json", b"no list of keys"));
    let opaque = json!({"secretKeyRefs": [{"name": "words", "key": "keys.json"}]});
    let map = json!({"configMapKeyRef": {"name": "missing", "key": "jwks.json"}});
    // A bundle of more than 900 KiB.
    let permissions =
        |role: usize| -> Vec<String> { (0..120).map(|n| format!("{role:03}-{n:03}-{}", "x".repeat(110))).collect() };
    let roles: Vec<Value> =
        (0..64).map(|role| json!({"name": format!("r-{role}"), "permissions": permissions(role)})).collect();
    let cases = [
        (with("no-secret", "trustedIssuers", legacy("missing")), "SecretNotFound", "missing"),
        (with("weak-key", "trustedIssuers", legacy("short")), "WeakKey", "secretKeyRef"),
        (with("no-keys", "opaqueKeys", opaque), "SecretInvalid", "opaqueKeys"),
        (with("no-map", "trustedIssuers", partner(&map)), "ConfigMapNotFound", "missing"),
        // Tenants reach nothing on this machine or in the cluster's network through the operator.
        (
            with("ssrf", "trustedIssuers", partner(&json!({"url": "https://127.0.0.1:9/jwks"}))),
            "JWKSUnavailable",
            "private",
        ),
        (
            with("metadata", "trustedIssuers", partner(&json!({"url": "https://169.254.169.254/jwks"}))),
            "JWKSUnavailable",
            "link-local",
        ),
        (with("large", "roles", json!(roles)), "TooLarge", "KiB"),
    ];
    for (policy, ..) in &cases {
        api.create(policy);
    }
    for (policy, reason, word) in &cases {
        let (_, name) = names(policy);
        let refused =
            api.wait(&object_path(policy), reason, LONG, |found| condition(found, "Accepted")["reason"] == *reason);
        let accepted = condition(&refused, "Accepted");
        assert_eq!(
            (&accepted["status"], &condition(&refused, "Ready")["status"]),
            (&json!("False"), &json!("False")),
            "{name}"
        );
        let message = accepted["message"].as_str().unwrap();
        assert!(message.contains(word), "{name}: {message}");
    }
    let told = eventually("an event tells of it", PATIENCE, || {
        Some(api.events(&cases[0].0)).filter(|events| events.iter().any(|event| event.starts_with("SecretInvalid: ")))
    });
    assert!(told.iter().any(|event| event.contains("missing")), "{told:?}");

    api.apply(&secret("accepted", "missing", "secret", LEGACY_SECRET));
    api.apply(&secret("accepted", "short", "secret", LEGACY_SECRET));
    api.apply(&secret("accepted", "words", "keys.json", b"[]"));
    let provider = forge::Provider::new("https://partner.example", 0);
    api.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "accepted", "name": "missing"},
        "data": {"jwks.json": provider.jwks().to_string()}}));
    for (policy, ..) in &cases[..4] {
        api.wait_condition(&object_path(policy), "Enforced", "True", LONG);
    }
    let by_partner = forge_token(&provider, "no-map");
    world.eventually(&cases[3].0, &by_partner, (200, "valid"));
    // Nothing is left that would be tried again and again.
    for (policy, ..) in &cases {
        api.delete(&object_path(policy));
    }
}

/// A token of another provider for a policy's audience.
fn forge_token(provider: &forge::Provider, policy: &str) -> String {
    provider.token_of("EdDSA", &provider.claims_with(json!({"aud": format!("{policy}-api")})))
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn symmetric_and_opaque_keys_reach_verifiers_beside_the_bundle_and_follow_their_secrets() {
    let world = World::shared();
    let api = world.api();
    api.namespace("symmetric");
    let next_secret: &[u8] = b"the-next-secret-of-at-least-32-bytes!!";
    let opaque_of = |key: &str, subject: &str| {
        let sha256 = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, key.as_bytes());
        json!([{"sha256": hex::encode(sha256), "subject": subject, "scopes": ["orders:read"], "roles": ["user"]}])
            .to_string()
    };
    api.apply(&secret("symmetric", "legacy-jwt", "secret", LEGACY_SECRET));
    api.apply(&secret("symmetric", "old-keys", "keys.json", opaque_of(OPAQUE_KEY, "svc-old").as_bytes()));
    let mut wanted = policy("symmetric", "shop");
    wanted["spec"]["trustedIssuers"] = legacy("legacy-jwt");
    wanted["spec"]["opaqueKeys"] = json!({"secretKeyRefs": [{"name": "old-keys", "key": "keys.json"}]});
    let policy = world.enforced(&wanted);
    let token_by = |key: &[u8]| {
        let claims = json!({"sub": "ann", "aud": "shop-api", "iat": forge::now(), "exp": forge::now() + 600});
        hmac_token(&json!({"alg": "HS256", "typ": "JWT"}), &claims, key)
    };
    world.eventually(&policy, &token_by(LEGACY_SECRET), (200, "valid"));
    world.eventually(&policy, OPAQUE_KEY, (200, "valid"));
    assert!(world.verdicts(&policy, &token_by(next_secret)).iter().all(|(status, _)| *status == 401));

    // What verifiers may read in the ConfigMap is no secret.
    let bundle = api.object(&super::enforcement::bundle_of(&world, "symmetric/shop")).unwrap().to_string();
    let encoded = [BASE64_STANDARD.encode(LEGACY_SECRET), forge::base64url(LEGACY_SECRET), hex::encode(LEGACY_SECRET)];
    assert!(encoded.iter().all(|text| !bundle.contains(text)));
    let beside = api.list(&format!("/api/v1/namespaces/{BUNDLES}/secrets?labelSelector=countersign.dev/verify-secrets=v1"));
    assert!(beside.iter().any(|secret| secret["metadata"]["annotations"]["countersign.dev/policy"] == "symmetric/shop"));

    api.apply(&secret("symmetric", "legacy-jwt", "secret", next_secret));
    api.apply(&secret("symmetric", "old-keys", "keys.json", opaque_of("another-api-key-0123456789", "svc-new").as_bytes()));
    world.eventually(&policy, &token_by(next_secret), (200, "valid"));
    eventually("what the Secrets no longer hold is refused", PATIENCE, || {
        let refused = |token: &str| world.verdicts(&policy, token).iter().all(|(status, _)| *status == 401);
        (refused(&token_by(LEGACY_SECRET)) && refused(OPAQUE_KEY)).then_some(())
    });
    world.eventually(&policy, "another-api-key-0123456789", (200, "valid"));
    api.wait_condition(&object_path(&wanted), "Enforced", "True", PATIENCE);
}
