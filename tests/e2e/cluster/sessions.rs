//! Declared sessions: a workload's token as a Secret.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::world::{LONG, World, policy};
use crate::rig::{PATIENCE, condition, eventually, object_path};

fn session(namespace: &str, name: &str, spec: &Value) -> Value {
    let mut session = json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "Session",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"policyRef": {"name": "shop"}, "subject": format!("svc-{name}"), "roles": ["user"], "secret": {"name": format!("{name}-token")}}});
    session["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    session
}

fn secret_path(session: &Value) -> String {
    format!(
        "/api/v1/namespaces/{}/secrets/{}",
        session["metadata"]["namespace"].as_str().unwrap(),
        session["spec"]["secret"]["name"].as_str().unwrap()
    )
}

fn field(secret: &Value, key: &str) -> String {
    let encoded = secret["data"][key].as_str().unwrap_or_else(|| panic!("no {key} in {}", secret["metadata"]));
    String::from_utf8(BASE64_STANDARD.decode(encoded).unwrap()).unwrap()
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_declared_session_is_delivered_suspended_resumed_and_ended() {
    let world = World::shared();
    let policy = world.enforced(&policy("sessions", "shop"));
    let api = world.api();
    let wanted = session("sessions", "billing", &json!({}));
    api.apply(&wanted);
    let ready = api.wait_condition(&object_path(&wanted), "Ready", "True", PATIENCE);
    let secret = api.object(&secret_path(&wanted)).unwrap();
    let token = field(&secret, "token");
    assert_eq!(field(&secret, "session-id"), ready["status"]["sessionID"].as_str().unwrap());
    assert!(!field(&secret, "expires-at").is_empty() && field(&secret, "jwks.json").contains("keys"));
    assert_eq!(secret["metadata"]["ownerReferences"][0]["uid"], ready["metadata"]["uid"]);
    world.eventually(&policy, &token, (200, "valid"));

    api.merge(&object_path(&wanted), &json!({"spec": {"suspend": true}}));
    world.eventually(&policy, &token, (401, "revoked"));
    let suspended = api.wait_condition(&object_path(&wanted), "Ready", "False", PATIENCE);
    assert_eq!(condition(&suspended, "Ready")["reason"], "Suspended");

    api.merge(&object_path(&wanted), &json!({"spec": {"suspend": false}}));
    let resumed = api.wait_condition(&object_path(&wanted), "Ready", "True", PATIENCE);
    assert_ne!(resumed["status"]["sessionID"], ready["status"]["sessionID"]);
    let second = field(&api.object(&secret_path(&wanted)).unwrap(), "token");
    world.eventually(&policy, &second, (200, "valid"));
    world.eventually(&policy, &token, (401, "revoked"));

    api.delete(&object_path(&wanted));
    eventually("the session is gone", PATIENCE, || api.object(&object_path(&wanted)).is_none().then_some(()));
    world.eventually(&policy, &second, (401, "revoked"));
    // The garbage collector learns of new kinds of owners twice a minute.
    eventually("its Secret is gone", LONG, || api.object(&secret_path(&wanted)).is_none().then_some(()));
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_session_gets_no_more_than_its_policy_lets_it_have_and_no_secret_of_others() {
    let world = World::shared();
    world.enforced(&policy("bounded", "shop"));
    let api = world.api();
    let foreign = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": "bounded", "name": "taken-token"},
        "stringData": {"token": "mine"}});
    api.apply(&foreign);
    for (name, spec, reason) in [
        ("nobody", json!({"policyRef": {"name": "missing"}}), "PolicyNotFound"),
        ("root", json!({"roles": ["admin"]}), "NotPermitted"),
        ("person", json!({"subject": "ann"}), "NotPermitted"),
        ("taken", json!({}), "SecretConflict"),
    ] {
        let wanted = session("bounded", name, &spec);
        api.apply(&wanted);
        let refused = api.wait_condition(&object_path(&wanted), "Ready", "False", PATIENCE);
        assert_eq!(condition(&refused, "Ready")["reason"], reason, "{name}: {refused}");
        if name != "taken" {
            assert_eq!(api.object(&secret_path(&wanted)), None, "{name}");
        }
    }
    assert_eq!(field(&api.object(&object_path(&foreign)).unwrap(), "token"), "mine");
}
