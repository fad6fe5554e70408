//! From `kubectl apply` to a verdict on every node, and back.

use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::world::{LONG, World, active_key, key_of, policy};
use crate::rig::{BUNDLES, PATIENCE, SYSTEM, condition, eventually, object_path};

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn an_applied_policy_is_enforced_on_every_verifier_and_its_token_verifies_on_each() {
    let world = World::shared();
    let policy = world.enforced(&policy("shop", "shop"));
    assert_eq!(policy["status"]["enforcement"]["summary"], "3/3", "{policy}");
    for kind in ["Accepted", "KeysReady", "Enforced", "Ready"] {
        assert_eq!(condition(&policy, kind)["status"], "True", "{kind}: {policy}");
    }
    let token = world.minter.mint(&policy, "ann");
    assert_eq!(Some(key_of(&token)), active_key(&policy));
    world.eventually(&policy, &token, (200, "valid"));
    let table = world.installation.cluster.kubectl_ok(&["get", "authp", "-n", "shop", "shop", "--no-headers"]);
    assert_eq!(table.split_whitespace().collect::<Vec<_>>()[..4], ["shop", "True", "True", "3/3"], "{table}");
    world.installation.cluster.kubectl_ok(&["wait", "--for=condition=Enforced", "-n", "shop", "authpolicy/shop"]);
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn names_that_would_collide_when_joined_are_two_policies() {
    let world = World::shared();
    let policies = [policy("a-b", "c"), policy("a", "b-c")].map(|policy| world.enforced(&policy));
    let tokens = policies.each_ref().map(|policy| world.minter.mint(policy, "ann"));
    for (index, policy) in policies.iter().enumerate() {
        world.eventually(policy, &tokens[index], (200, "valid"));
        let foreign = world.verdicts(policy, &tokens[1 - index]);
        assert!(foreign.iter().all(|(status, _)| *status == 401), "{foreign:?}");
    }
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_bundle_that_somebody_edited_or_deleted_is_not_believed_and_is_written_again() {
    let world = World::shared();
    let policy = world.enforced(&policy("edited", "shop"));
    let token = world.minter.mint(&policy, "ann");
    world.eventually(&policy, &token, (200, "valid"));
    let path = bundle_of(&world, "edited/shop");
    let key = "bundle.json";
    let sealed = world.api().object(&path).unwrap()["data"][key].as_str().unwrap().to_owned();

    let forged = sealed.replace("shop-api", "evil-api");
    for edit in [json!({"data": {key: forged}}), json!({"data": {key: "{}"}}), json!({"data": null})] {
        world.api().merge(&path, &edit);
        let repaired = world.api().wait(&path, "is repaired", PATIENCE, |bundle| {
            bundle["data"][key].as_str().is_some_and(|text| text.contains("shop-api"))
        });
        assert!(!repaired["data"][key].as_str().unwrap().contains("evil-api"));
        assert_eq!(world.verdicts(&policy, &token), [(200, "valid".to_owned())].into());
    }
    world.api().delete(&path);
    world.api().wait(&path, "is there again", PATIENCE, |bundle| bundle["data"][key].is_string());
    world.eventually(&policy, &token, (200, "valid"));
    world.api().wait_condition(&object_path(&policy), "Enforced", "True", PATIENCE);
}

/// Where a policy's bundle lies.
pub(super) fn bundle_of(world: &World, policy: &str) -> String {
    let bundles =
        world.api().list(&format!("/api/v1/namespaces/{BUNDLES}/configmaps?labelSelector=countersign.dev/bundle=v1"));
    let of = |bundle: &&Value| bundle["metadata"]["annotations"]["countersign.dev/policy"] == policy;
    let bundle = bundles.iter().find(of).unwrap_or_else(|| panic!("no bundle of {policy}"));
    format!("/api/v1/namespaces/{BUNDLES}/configmaps/{}", bundle["metadata"]["name"].as_str().unwrap())
}

/// Where a policy's key rings lie.
pub(super) fn ring_of(world: &World, policy: &str) -> String {
    let name = bundle_of(world, policy).rsplit('/').next().unwrap().replacen("b-", "r-", 1);
    format!("/api/v1/namespaces/{SYSTEM}/secrets/{name}")
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_deleted_policy_is_not_found_and_made_again_it_takes_its_keys_up() {
    let world = World::shared();
    let wanted = policy("deleted", "shop");
    let first = world.enforced(&wanted);
    let token = world.minter.mint(&first, "ann");
    world.eventually(&first, &token, (200, "valid"));

    world.api().delete(&object_path(&wanted));
    world.api().wait_gone(&object_path(&wanted), PATIENCE);
    eventually("every verifier says so", PATIENCE, || {
        world.verdicts(&wanted, &token).iter().all(|(status, _)| *status == 404).then_some(())
    });

    let second = world.enforced(&wanted);
    assert_ne!(first["metadata"]["uid"], second["metadata"]["uid"]);
    assert_eq!(active_key(&first), active_key(&second), "{second}");
    world.eventually(&second, &token, (200, "valid"));
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_settled_policy_is_written_no_more() {
    let world = World::shared();
    let policy = world.enforced(&policy("settled", "shop"));
    let path = object_path(&policy);
    // One after the other, each settled: the second's writes would show on the first.
    world.enforced(&self::policy("settled", "other"));
    let settled = world.api().object(&path).unwrap();
    let bundle = bundle_of(&world, "settled/shop");
    let written = || {
        let writes = world.installation.cluster.writes();
        let concerns = |write: &&Value| {
            let object = &write["objectRef"];
            object["namespace"] == "settled" || bundle.ends_with(object["name"].as_str().unwrap_or("?"))
        };
        writes.iter().filter(concerns).count()
    };
    let before = written();
    assert!(before > 0, "the audit log shows the operator's writes");
    let began = Instant::now();
    eventually("some seconds pass", PATIENCE, || (began.elapsed() > Duration::from_secs(5)).then_some(()));
    assert_eq!(written(), before);
    let later = world.api().object(&path).unwrap();
    assert_eq!(settled["metadata"]["resourceVersion"], later["metadata"]["resourceVersion"], "{settled}\n{later}");
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn one_name_in_two_namespaces_is_two_policies_and_a_deleted_namespace_takes_only_its_own() {
    let world = World::shared();
    let [kept, gone] = ["team-kept", "team-gone"].map(|namespace| world.enforced(&policy(namespace, "shop")));
    let tokens = [&kept, &gone].map(|policy| world.minter.mint(policy, "ann"));
    world.eventually(&kept, &tokens[0], (200, "valid"));
    world.eventually(&gone, &tokens[1], (200, "valid"));

    world.api().delete("/api/v1/namespaces/team-gone");
    world.api().wait_gone("/api/v1/namespaces/team-gone", LONG);
    eventually("every verifier says so", PATIENCE, || {
        world.verdicts(&gone, &tokens[1]).iter().all(|(status, _)| *status == 404).then_some(())
    });
    world.eventually(&kept, &tokens[0], (200, "valid"));
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_key_ring_that_somebody_edited_signs_nothing_and_harms_no_token() {
    let world = World::shared();
    let policy = world.enforced(&policy("tampered", "shop"));
    let token = world.minter.mint(&policy, "ann");
    world.eventually(&policy, &token, (200, "valid"));
    let ring = ring_of(&world, "tampered/shop");
    let forged = BASE64_STANDARD.encode(r#"{"keys":[]}"#);
    world.api().merge(&ring, &json!({"data": {"access.json": forged}}));
    // What is published is what the operator decided, not what somebody wrote.
    let began = Instant::now();
    eventually("some seconds pass", PATIENCE, || {
        assert_eq!(world.verdicts(&policy, &token), [(200, "valid".to_owned())].into());
        (began.elapsed() > Duration::from_secs(5)).then_some(())
    });
    if let Some(next) = world.minter.try_mint(&policy, "ann") {
        world.eventually(&policy, &next, (200, "valid"));
    }
}
