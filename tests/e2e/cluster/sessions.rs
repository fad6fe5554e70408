//! Declared sessions: a workload's token as a Secret.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::world::{LONG, World, policy};
use crate::rig::{PATIENCE, condition, eventually, object_path};

/// A session of the policy `shop`.
pub(super) fn session(namespace: &str, name: &str, spec: &Value) -> Value {
    let mut session = json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "Session",
        "metadata": {"namespace": namespace, "name": name},
        "spec": {"policyRef": {"name": "shop"}, "subject": format!("svc-{name}"), "roles": ["user"], "secret": {"name": format!("{name}-token")}}});
    session["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    session
}

/// Where its Secret lies.
pub(super) fn secret_path(session: &Value) -> String {
    format!(
        "/api/v1/namespaces/{}/secrets/{}",
        session["metadata"]["namespace"].as_str().unwrap(),
        session["spec"]["secret"]["name"].as_str().unwrap()
    )
}

/// A value of a Secret.
pub(super) fn field(secret: &Value, key: &str) -> String {
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

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn of_sessions_that_name_one_secret_one_gets_it_and_no_secret_of_that_type_that_a_person_made_is_taken() {
    let world = World::shared();
    world.enforced(&policy("one-secret", "shop"));
    let api = world.api();
    let made = json!({"apiVersion": "v1", "kind": "Secret", "type": "countersign.dev/session-token",
        "metadata": {"namespace": "one-secret", "name": "made"}, "stringData": {"note": "mine"}});
    api.apply(&made);
    let late = session("one-secret", "late", &json!({"secret": {"name": "made"}}));
    let both = ["first", "second"].map(|name| session("one-secret", name, &json!({"secret": {"name": "shared"}})));
    for session in both.iter().chain([&late]) {
        api.apply(session);
    }
    let refused = api.wait_condition(&object_path(&late), "Ready", "False", PATIENCE);
    assert_eq!(condition(&refused, "Ready")["reason"], "SecretConflict", "{refused}");
    let held = api.object(&object_path(&made)).unwrap();
    assert_eq!((field(&held, "note").as_str(), held["data"]["token"].as_str()), ("mine", None));
    assert_eq!(held["metadata"]["ownerReferences"].as_array(), None, "it would be collected with the session");

    let reason = |session: &Value| {
        let conditions = api.object(&object_path(session))?["status"]["conditions"].clone();
        let ready = conditions.as_array()?.iter().find(|condition| condition["type"] == "Ready").cloned()?;
        ready["reason"].as_str().map(str::to_owned)
    };
    eventually("one has the Secret and the other is told", PATIENCE, || {
        let mut reasons = both.each_ref().map(reason).map(Option::unwrap_or_default);
        reasons.sort();
        (reasons == ["Issued", "SecretConflict"]).then_some(())
    });
    let shared = api.object(&secret_path(&both[0])).unwrap();
    let holder = both.iter().find(|session| reason(session).as_deref() == Some("Issued")).unwrap();
    let holder = api.object(&object_path(holder)).unwrap();
    assert_eq!(field(&shared, "session-id"), holder["status"]["sessionID"].as_str().unwrap());
    assert_eq!(shared["metadata"]["ownerReferences"][0]["uid"], holder["metadata"]["uid"]);
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_session_is_renewed_in_time_its_secret_is_repaired_and_its_lifetime_ends_it() {
    let world = World::shared();
    let mut wanted = policy("lives", "shop");
    // A token is over when its time is, not half a minute later.
    wanted["spec"]["tokens"] = json!({"clockSkew": "1s"});
    let policy = world.enforced(&wanted);
    let api = world.api();
    let token_of = |session: &Value| Some(field(&api.object(&secret_path(session))?, "token"));
    let ends = session("lives", "ends", &json!({"tokenTTL": "1m", "renewBefore": "1s", "lifetime": "1m"}));
    let renewed = session("lives", "renewed", &json!({"tokenTTL": "1m", "renewBefore": "57s"}));
    for session in [&ends, &renewed] {
        api.apply(session);
        api.wait_condition(&object_path(session), "Ready", "True", PATIENCE);
    }
    let last = token_of(&ends).unwrap();
    world.eventually(&policy, &last, (200, "valid"));

    let first = token_of(&renewed).unwrap();
    let second = eventually("the token is renewed", PATIENCE, || token_of(&renewed).filter(|token| *token != first));
    for token in [&first, &second] {
        world.eventually(&policy, token, (200, "valid"));
    }
    eventually("an event tells of the first token", PATIENCE, || {
        api.events(&renewed).iter().any(|event| event.starts_with("TokenIssued")).then_some(())
    });

    api.merge(&secret_path(&renewed), &json!({"data": {"token": BASE64_STANDARD.encode("nonsense")}}));
    let repaired =
        eventually("an edited Secret is repaired", PATIENCE, || token_of(&renewed).filter(|token| token != "nonsense"));
    world.eventually(&policy, &repaired, (200, "valid"));
    api.delete(&secret_path(&renewed));
    let again = eventually("a deleted Secret is made again", PATIENCE, || token_of(&renewed));
    world.eventually(&policy, &again, (200, "valid"));
    api.delete(&object_path(&renewed));

    let expired = api.wait_condition(&object_path(&ends), "Ready", "False", LONG);
    assert_eq!(condition(&expired, "Ready")["reason"], "Expired");
    eventually("its last token is over", LONG, || {
        world.verdicts(&policy, &last).iter().all(|(status, _)| *status == 401).then_some(())
    });
    let events = api.events(&ends);
    assert!(events.iter().any(|event| event.starts_with("SessionExpiring: ")), "{events:?}");
}
