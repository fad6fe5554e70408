//! The key that signs bundles is replaced: by acknowledgement, and without a failed verification.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::{
    traffic::Traffic,
    world::{LONG, World, policy},
};
use crate::rig::{Api, BUNDLES, Cable, PATIENCE, SYSTEM, eventually, object_path};

/// The verifier whose mount comes late, and that is cut off from the API server for a while.
const LATE: usize = 2;

/// The keys that verifiers trust.
fn trusted(api: &Api) -> BTreeSet<String> {
    let map = api.object(&format!("/api/v1/namespaces/{SYSTEM}/configmaps/bundle-trust")).unwrap();
    let keys: Value = serde_json::from_str(map["data"]["bundle-trust.json"].as_str().unwrap()).unwrap();
    let kids = keys["keys"].as_array().unwrap().iter();
    kids.map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// The keys that bundles are signed with.
fn signing(api: &Api) -> BTreeSet<String> {
    let of_bundle = |map: &Value| {
        let bundle: Value = serde_json::from_str(map["data"]["bundle.json"].as_str()?).unwrap();
        Some(bundle["signature"]["key"].as_str().unwrap().to_owned())
    };
    api.list(&format!("/api/v1/namespaces/{BUNDLES}/configmaps")).iter().filter_map(of_bundle).collect()
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn the_key_of_bundles_rotates_when_every_verifier_trusts_the_next_and_no_verification_fails() {
    let mut world = World::start(3, 1);
    let (cable, mounts) = (Cable::to(world.installation.cluster.server()), tempfile::tempdir().unwrap());
    let mount = mounts.path().join("bundle-trust");
    std::fs::create_dir(&mount).unwrap();
    world.installation.mount_trust(&mount);
    world.verifiers[LATE].kill();
    world.verifiers[LATE] = world.installation.launch_verifier_apart(LATE, &cable, &mount);
    world.verifiers[LATE].wait_until_ready();
    let wanted = policy("resigned", "shop");
    world.enforced(&wanted);
    let api = world.api();
    let old = trusted(&api);
    assert_eq!((old.len(), signing(&api)), (1, old.clone()));
    let traffic = Traffic::begin(&world, &wanted);

    let secret = format!("/api/v1/namespaces/{SYSTEM}/secrets/bundle-signing");
    api.merge(&secret, &json!({"metadata": {"annotations": {"countersign.dev/rotate": "1"}}}));
    let both = eventually("the next key is published", LONG, || Some(trusted(&api)).filter(|keys| keys.len() == 2));
    // The others trust it by now, or will in a moment; one that was not brought it can't.
    std::thread::park_timeout(Duration::from_secs(3));
    assert_eq!((trusted(&api), signing(&api)), (both.clone(), old.clone()), "a verifier doesn't trust it");

    cable.cut();
    world.installation.mount_trust(&mount);
    let next: BTreeSet<String> = both.difference(&old).cloned().collect();
    eventually("everything is signed with the next key", LONG, || (signing(&api) == next).then_some(()));
    assert_eq!(trusted(&api), both, "a verifier hasn't come to what took the place of what the old key signed");

    cable.mend();
    let new = eventually("the old key is gone", LONG, || Some(trusted(&api)).filter(|keys| keys.len() == 1));
    assert_eq!((&new, signing(&api)), (&next, next.clone()));

    let counts = traffic.end();
    assert!(counts.failed.is_empty() && counts.valid > 100, "{counts}");
    assert_eq!(counts.not_ready, 0, "{counts}");

    // What it signs is taken, by a verifier that starts anew too.
    world.verifiers[0].restart();
    let mut edited = wanted.clone();
    edited["spec"]["roles"] = json!([{"name": "user", "permissions": ["orders:read", "orders:write"]}]);
    let generation = api.apply(&edited)["metadata"]["generation"].clone();
    api.wait(&object_path(&wanted), "the edit is enforced", PATIENCE, |found| {
        let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| {
            (&condition["type"], &condition["status"], &condition["observedGeneration"])
                == (&json!("Enforced"), &json!("True"), &generation)
        })
    });
}
