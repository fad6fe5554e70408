//! Whom the operator waits for: nobody, somebody who refuses, somebody who lags.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::world::{LONG, Minter, World, active_key, key_of, policy};
use crate::{
    http::{Connection, Request},
    rig::{BUNDLES, Installation, PATIENCE, Setup, condition, eventually, object_path},
};

/// A verifier that is no pod, by what it says.
const OUTSIDER: &str = "outsider";

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn without_verifiers_nothing_counts_as_enforced_and_one_that_refuses_or_lags_is_named_and_waited_for() {
    let installation = Installation::with(Setup { nodes: 1, operators: 1, without_verifiers: true, ..Setup::default() });
    let _operator = installation.operator(0);
    let minter = Minter::new(&installation);
    let api = installation.api();
    let wanted = policy("lonely", "shop");
    api.namespace("lonely");
    api.apply(&wanted);
    let path = object_path(&wanted);

    // Nobody holds a token that a first key could fail.
    let alone = api.wait_condition(&path, "KeysReady", "True", LONG);
    minter.mint(&alone, "ann");
    let alone = api.wait(&path, "NoVerifiers", PATIENCE, |found| condition(found, "Enforced")["reason"] == "NoVerifiers");
    assert_eq!(condition(&alone, "Enforced")["status"], "False");
    assert_eq!(condition(&alone, "Ready")["status"], "False", "{alone}");

    says(&installation, &latest(&installation), &json!([{"policy": "lonely/shop", "held": null, "reason": "simulated"}]));
    let refused =
        api.wait(&path, "VerifiersRefused", LONG, |found| condition(found, "Enforced")["reason"] == "VerifiersRefused");
    let message = condition(&refused, "Enforced")["message"].as_str().unwrap().to_owned();
    assert!(message.contains(OUTSIDER), "{message}");
    assert_eq!(condition(&refused, "Ready")["status"], "False", "{refused}");
    eventually("an event tells of it", PATIENCE, || {
        api.events(&wanted).iter().any(|event| event.starts_with("BundleRefused: ")).then_some(())
    });

    says(&installation, &latest(&installation), &json!([]));
    let held = api.wait_condition(&path, "Enforced", "True", LONG);
    assert_eq!(held["status"]["enforcement"]["summary"], "1/1", "{held}");
    let key = active_key(&held).unwrap();

    // It goes on saying what it held when this was asked.
    api.merge(&path, &json!({"metadata": {"annotations": {"countersign.dev/rotate": "1"}}}));
    let waiting =
        api.wait(&path, "RotationWaiting", LONG, |found| condition(found, "KeysReady")["reason"] == "RotationWaiting");
    let message = condition(&waiting, "KeysReady")["message"].as_str().unwrap().to_owned();
    assert!(message.contains(OUTSIDER), "{message}");
    assert_eq!(key_of(&minter.mint(&waiting, "ann")), key, "the old key signs on");

    // The owner's choice.
    let proceed = json!({"onUnacknowledged": "Proceed", "ackTimeout": "2s", "absentAfter": "4s"});
    api.merge(&path, &json!({"spec": {"keys": proceed}}));
    let went_on = api.wait(&path, "another key signs", LONG, |found| active_key(found).is_some_and(|active| active != key));
    assert_ne!(key_of(&minter.mint(&went_on, "ann")), key);

    says(&installation, &latest(&installation), &json!([]));
    api.wait_condition(&path, "Enforced", "True", LONG);
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_verifier_that_vanished_is_waited_for_as_long_as_its_policy_says_and_refuses_nothing_when_it_is_back() {
    let mut world = World::start(2, 1);
    let mut wanted = policy("absent", "shop");
    wanted["spec"]["keys"] = json!({"absentAfter": "6s", "ackTimeout": "3s"});
    let policy = world.enforced(&wanted);
    let path = object_path(&policy);
    let key = active_key(&policy).unwrap();
    // Its pod is there, and says nothing of having ended.
    world.verifiers[1].kill();
    let pod = world.installation.pods("verifier", 2)[1]["metadata"]["name"].as_str().unwrap().to_owned();
    world.api().merge(&path, &json!({"metadata": {"annotations": {"countersign.dev/rotate": "1"}}}));
    let waiting = world.api().wait(&path, "it is waited for", LONG, |found| {
        let condition = condition(found, "KeysReady");
        condition["reason"] == "RotationWaiting" && condition["message"].as_str().unwrap_or_default().contains(&pod)
    });
    assert_eq!(active_key(&waiting), Some(key.clone()), "the old key signs on");
    let rotated = world.api().wait(&path, "another key signs", LONG, |found| active_key(found).is_some_and(|k| k != key));
    let token = world.minter.mint(&rotated, "ann");
    assert_ne!(key_of(&token), key);

    // From its old disk it can't know the key; nor can it know that there is none.
    world.verifiers[1].relaunch();
    eventually("it knows the key", PATIENCE, || {
        let mut connection = Connection::open(&world.verifiers[1].socket()).ok()?;
        let verdict =
            Request::post("/v1/policies/absent/shop/verify", &json!({"token": token})).send_on(&mut connection)?;
        assert!(matches!(verdict.status, 200 | 503), "{} {}", verdict.status, verdict.word());
        (verdict.status == 200).then_some(())
    });
    world.eventually(&rotated, &token, (200, "valid"));
}

/// The version of all bundles now.
fn latest(installation: &Installation) -> String {
    let answer = installation.api().get(&format!("/api/v1/namespaces/{BUNDLES}/configmaps?limit=1"));
    answer.json()["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

/// Writes the outsider's lease with what it acknowledges, for as long as the test may take.
fn says(installation: &Installation, revision: &str, refused: &Value) {
    let history = installation.api().object(&format!("/api/v1/namespaces/{BUNDLES}/configmaps/history")).unwrap();
    let lease = json!({"position": null, "ack": {
        "start_id": "outsider-1", "history": history["data"]["history"], "revision": revision, "schemas": [1],
        "trusted_bundle_keys": [], "refused": refused, "highest_held": 0,
    }});
    let until = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_mins(10);
    let redis = &installation.redis;
    redis.command(&["SET", &format!("{{cs}}:lease:{OUTSIDER}"), &lease.to_string(), "PX", "600000"]);
    redis.command(&["ZADD", "{cs}:leases", &until.as_millis().to_string(), OUTSIDER]);
}
