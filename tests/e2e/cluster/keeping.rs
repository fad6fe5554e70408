//! What is kept of a policy that was deleted, who may take it up, and when it is erased.

use serde_json::json;

use super::{
    enforcement::{bundle_of, ring_of},
    sessions::{field, secret_path, session},
    world::{LONG, World, active_key, policy},
};
use crate::rig::{PATIENCE, condition, eventually, object_path};

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn keys_of_a_namespace_that_was_made_anew_are_taken_over_only_by_an_administrators_word() {
    let world = World::shared();
    let api = world.api();
    let wanted = policy("adopted", "shop");
    let first = world.enforced(&wanted);
    let token = world.minter.mint(&first, "ann");
    let ring_path = ring_of(&world, "adopted/shop");
    let ring = ring_path.rsplit('/').next().unwrap();
    api.delete("/api/v1/namespaces/adopted");
    api.wait_gone("/api/v1/namespaces/adopted", LONG);

    // Whoever makes a namespace of that name doesn't come by the keys of the one before.
    api.namespace("adopted");
    api.apply(&wanted);
    let path = object_path(&wanted);
    let refused =
        api.wait(&path, "AdoptionRefused", PATIENCE, |found| condition(found, "KeysReady")["reason"] == "AdoptionRefused");
    let message = condition(&refused, "KeysReady")["message"].as_str().unwrap().to_owned();
    assert!(message.contains(ring) && message.contains("countersign.dev/adopt="), "{message}");
    assert_eq!(world.minter.try_mint(&refused, "ann"), None);
    assert!(world.verdicts(&refused, &token).iter().all(|(status, _)| *status == 404));

    // The message gives the very command. It vouches for what is there now, and for nothing that is put there later.
    let vouched = message.split_once("countersign.dev/adopt=").unwrap().1;
    let vouched = vouched.split(|c: char| c != ':' && c != '-' && !c.is_ascii_alphanumeric()).next().unwrap();
    api.merge(&ring_path, &json!({"metadata": {"annotations": {"countersign.dev/adopt": vouched}}}));
    let adopted = api.wait_condition(&path, "Enforced", "True", LONG);
    assert_eq!(active_key(&adopted), active_key(&first));
    world.eventually(&adopted, &token, (200, "valid"));
    eventually("an event tells of it", PATIENCE, || {
        api.events(&wanted).iter().any(|event| event.starts_with("Adopted: ")).then_some(())
    });
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_deleted_policy_is_erased_when_its_time_is_over_and_nobody_takes_its_tokens() {
    let world = World::shared();
    let api = world.api();
    let mut wanted = policy("erased", "shop");
    wanted["spec"]["retainAfterDelete"] = json!("2s");
    let first = world.enforced(&wanted);
    let token = world.minter.mint(&first, "ann");
    let kept = [ring_of, bundle_of].map(|kept| kept(&world, "erased/shop"));
    api.delete(&object_path(&wanted));
    for kept in &kept {
        api.wait_gone(kept, LONG);
    }
    assert!(world.verdicts(&wanted, &token).iter().all(|(status, _)| *status == 404));

    let second = world.enforced(&wanted);
    assert_ne!(active_key(&first), active_key(&second), "nothing was left to take up");
    eventually("the old keys mean nothing", PATIENCE, || {
        world.verdicts(&wanted, &token).iter().all(|(status, _)| *status == 401).then_some(())
    });
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_deleted_namespace_takes_its_sessions_along_though_they_have_finalizers() {
    let world = World::shared();
    let api = world.api();
    let policy = world.enforced(&policy("dissolved", "shop"));
    let sessions = ["one", "two"].map(|name| session("dissolved", name, &json!({})));
    let tokens = sessions.each_ref().map(|session| {
        api.apply(session);
        api.wait_condition(&object_path(session), "Ready", "True", PATIENCE);
        field(&api.object(&secret_path(session)).unwrap(), "token")
    });
    for token in &tokens {
        world.eventually(&policy, token, (200, "valid"));
    }
    api.delete("/api/v1/namespaces/dissolved");
    api.wait_gone("/api/v1/namespaces/dissolved", LONG);
    eventually("no verifier takes their tokens", PATIENCE, || {
        let taken = |token| world.verdicts(&policy, token).iter().any(|(status, _)| *status == 200);
        (!tokens.iter().any(|token| taken(token))).then_some(())
    });
}
