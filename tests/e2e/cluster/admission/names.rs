//! Names of objects: what Kubernetes takes, we serve.

use crate::cluster::world::{World, policy};

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_policy_with_the_longest_name_that_kubernetes_takes_is_enforced_and_has_sessions() {
    let world = World::shared();
    for (number, name) in ["p".repeat(253), format!("{}.eu", "p".repeat(64)), "p".repeat(64)].iter().enumerate() {
        let mut shop = policy("long", "shop");
        shop["metadata"]["name"] = name.as_str().into();
        shop["spec"]["issuer"] = format!("https://{number}.example").into();
        assert_eq!(super::check(&shop), Ok(()), "{name}");
        let shop = world.enforced(&shop);
        let token = world.minter.mint(&shop, "ann");
        world.eventually(&shop, &token, (200, "valid"));
    }
    let session = serde_json::json!({"apiVersion": "countersign.dev/v1alpha1", "kind": "Session",
        "metadata": {"namespace": "long", "name": "s".repeat(253)},
        "spec": {"policyRef": {"name": "p".repeat(253)}, "subject": "svc-long", "secret": {"name": "t".repeat(253)}}});
    world.api().apply(&session);
    world.api().wait_condition(&crate::rig::object_path(&session), "Ready", "True", crate::rig::PATIENCE);
}
