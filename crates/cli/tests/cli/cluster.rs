//! The commands on a cluster, against an API server that plays a script.

mod choosing;
mod looking;
mod operating;
mod refused;

use serde_json::{Value, json};

use crate::api_server::ApiServer;

/// What the operator says of a rotation that waits.
const WAITS: &str = "the access ring's rotation waits for node-c; the old key goes on signing";

/// The status of a policy that three verifiers hold.
fn status(generation: i64, acknowledged: u64, keys: &[(&str, &str)]) -> Value {
    let holds = acknowledged == 3;
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        json!({"type": kind, "status": if holds { "True" } else { "False" }, "reason": reason, "message": message,
               "observedGeneration": generation, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let pending = keys.iter().any(|(_, state)| *state == "Pending");
    let active = keys.iter().find(|(_, state)| *state == "Active").map(|(kid, _)| *kid);
    let shown: Vec<Value> = keys
        .iter()
        .map(|(kid, state)| {
            json!({"kid": kid, "ring": "Access", "algorithm": "EdDSA", "state": state, "creationTime": "2026-01-01T00:00:00Z"})
        })
        .collect();
    json!({
        "observedGeneration": generation,
        "conditions": [
            condition("Accepted", true, "Accepted", ""),
            condition("KeysReady", true, if pending { "RotationWaiting" } else { "Active" },
                      if pending { WAITS } else { "every ring has a key that signs" }),
            condition("Enforced", holds, if holds { "Enforced" } else { "WaitingForVerifiers" },
                      if holds { "" } else { "node-c holds an earlier generation" }),
            condition("Ready", true, "Ready", ""),
        ],
        "keyRings": [{"name": "Access", "activeKID": active, "nextRotationTime": "2040-01-01T00:00:00Z"}],
        "keys": shown,
        "enforcement": {
            "generation": generation, "bundleGeneration": 1, "verifiers": 3, "acknowledged": acknowledged,
            "summary": format!("{acknowledged}/3"), "lagging": if holds { json!([]) } else { json!(["node-c"]) },
        },
    })
}

/// A cluster with policy shop/shop, enforced everywhere.
fn cluster() -> ApiServer {
    let server = ApiServer::start();
    server.add("shop/shop", &status(1, 3, &[("k1", "Active")]));
    server
}
