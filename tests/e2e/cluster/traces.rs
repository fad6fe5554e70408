//! Spans of an operator, as a collector gets them.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::world::{World, policy};
use crate::rig::{PATIENCE, eventually, object_path};

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn an_operator_tells_a_collector_what_it_looks_at_and_writes_and_no_secret() {
    let world = World::shared();
    let collector = world.collector.as_ref().unwrap();
    let wanted = policy("traced", "shop");
    let enforced = world.enforced(&wanted);
    let token = world.minter.mint(&enforced, "subject-of-a-span");
    let session = json!({
        "apiVersion": "countersign.dev/v1alpha1", "kind": "Session",
        "metadata": {"namespace": "traced", "name": "worker"},
        "spec": {
            "policyRef": {"name": "shop"}, "subject": "svc-of-a-span", "roles": ["user"], "secret": {"name": "worker-token"},
        },
    });
    world.api().apply(&session);
    world.api().wait_condition(&object_path(&session), "Ready", "True", PATIENCE);
    let secret: Value = world.api().object("/api/v1/namespaces/traced/secrets/worker-token").unwrap();
    let delivered = BASE64_STANDARD.decode(secret["data"]["token"].as_str().unwrap()).unwrap();
    let delivered = String::from_utf8(delivered).unwrap();
    for told in ["countersign-operator", "reconcile", "traced/shop", "write", "configmaps", "done", "traced/worker"] {
        eventually(&format!("the collector is told {told:?}"), PATIENCE, || collector.has(told).then_some(()));
    }
    for said in [&token, &delivered, "subject-of-a-span", "svc-of-a-span"] {
        assert!(!collector.has(said), "{said}");
    }
    world.api().delete(&object_path(&session));
    world.api().delete(&object_path(&wanted));
}
