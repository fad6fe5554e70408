//! The life of key rings: by the clock, by hand, to another algorithm; and what events tell of it.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::world::{LONG, World, active_key, key_of, names, policy};
use crate::rig::{PATIENCE, eventually, object_path};

/// The key that signs in one of a policy's rings.
fn active_in(policy: &Value, ring: &str) -> Option<String> {
    let rings = policy["status"]["keyRings"].as_array()?;
    Some(rings.iter().find(|found| found["name"] == ring)?["activeKID"].as_str()?.to_owned())
}

fn algorithm_of(token: &str) -> String {
    let header = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["alg"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn keys_rotate_by_the_clock_and_what_older_ones_signed_stays_good() {
    let world = World::shared();
    let mut wanted = policy("scheduled", "shop");
    wanted["spec"]["keys"] = json!({"rotation": {"interval": "3s", "prepublish": "1s"}});
    let mut policy = world.enforced(&wanted);
    let path = object_path(&wanted);
    let mut tokens = vec![world.minter.mint(&policy, "ann")];
    for _ in 0..2 {
        let key = active_key(&policy).unwrap();
        let rings = policy["status"]["keyRings"].as_array().unwrap();
        assert!(rings.iter().all(|ring| ring["nextRotationTime"].is_string()), "{policy}");
        policy = world.api().wait(&path, "another key signs", LONG, |found| active_key(found).is_some_and(|k| k != key));
        tokens.push(eventually("tokens are signed with it", PATIENCE, || {
            world.minter.try_mint(&policy, "ann").filter(|token| key_of(token) != key)
        }));
    }
    for token in &tokens {
        assert_eq!(world.verdicts(&policy, token), [(200, "valid".to_owned())].into());
    }
    world.api().delete(&path);
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn the_ring_of_api_keys_rotates_alone_another_algorithm_is_a_rotation_and_events_tell() {
    let world = World::shared();
    let wanted = policy("rings", "shop");
    let first = world.enforced(&wanted);
    let (path, (namespace, name)) = (object_path(&wanted), names(&wanted));
    let api_key = || {
        let asked = json!({"subject": "svc-robot", "roles": ["user"], "kind": "api_key", "ttl_s": 3600});
        let answer = world.minter.call("POST", &format!("policies/{namespace}/{name}/tokens"), &asked);
        assert!(matches!(answer.status, 200 | 201), "{}", String::from_utf8_lossy(&answer.body));
        answer.json()["token"].as_str().unwrap().to_owned()
    };
    let (token, old_api_key) = (world.minter.mint(&first, "ann"), api_key());
    world.eventually(&first, &old_api_key, (200, "valid"));

    world.api().merge(&path, &json!({"metadata": {"annotations": {"countersign.dev/rotate-api-key": "1"}}}));
    let rotated = world.api().wait(&path, "the API keys' ring has another key", LONG, |found| {
        active_in(found, "APIKey").is_some_and(|key| Some(key) != active_in(&first, "APIKey"))
    });
    assert_eq!(active_key(&rotated), active_key(&first), "access tokens are signed as before");
    let new_api_key = api_key();
    for credential in [&old_api_key, &new_api_key, &token] {
        world.eventually(&rotated, credential, (200, "valid"));
    }

    world.api().merge(&path, &json!({"spec": {"tokens": {"algorithm": "ES256"}}}));
    let changed = world.api().wait(&path, "a key of the new kind signs", LONG, |found| {
        active_key(found).is_some_and(|key| Some(key) != active_key(&first))
    });
    let next = eventually("tokens are of the new kind", PATIENCE, || {
        world.minter.try_mint(&changed, "ann").filter(|token| algorithm_of(token) == "ES256")
    });
    assert_eq!(algorithm_of(&token), "EdDSA");
    for credential in [&next, &token, &old_api_key, &new_api_key] {
        world.eventually(&changed, credential, (200, "valid"));
    }

    let mut missing = Vec::new();
    let expected = ["KeyGenerated", "KeyActivated"];
    eventually("events tell of it", PATIENCE, || {
        let events = world.api().events(&wanted);
        missing = expected.iter().filter(|reason| !events.iter().any(|event| event.starts_with(*reason))).collect();
        missing.is_empty().then_some(())
    });
    world.api().merge(&path, &json!({"spec": {"keys": {"revoked": [{"kid": key_of(&next), "reason": "a drill"}]}}}));
    world.eventually(&changed, &next, (401, "revoked"));
    eventually("an event tells of the revocation", PATIENCE, || {
        world.api().events(&wanted).iter().any(|event| event.starts_with("KeyRevoked: ")).then_some(())
    });
}
