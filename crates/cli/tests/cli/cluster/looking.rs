//! `keys list`, `status`, `fleet`, `policy show`.

use serde_json::{Value, json};

use super::{WAITS, cluster, status};
use crate::api_server::ApiServer;

#[test]
fn the_rings_are_read_from_the_policys_status() {
    let server = cluster();
    let said = server.run(&["keys", "list"]);
    assert_eq!(said.status, 0, "{said:?}");
    let words: Vec<Vec<&str>> = said.out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0][..6], ["RING", "KID", "STATE", "ALG", "AGE", "ACKNOWLEDGED"]);
    assert_eq!(words[1][..4], ["access", "k1", "Active", "EdDSA"]);
    assert_eq!(words[1][5], "3/3");
    assert_eq!(server.run(&["keys", "list", "-o", "name"]).out, "k1\n");
    let json = server.run(&["keys", "list", "-o", "json"]).json();
    assert_eq!(json["rings"]["access"][0]["created_at"], 1_767_225_600);
    assert!(server.run(&["keys", "list", "-o", "yaml"]).out.contains("active_kid: k1"));
}

#[test]
fn a_rotation_under_way_says_whom_it_waits_for() {
    let server = ApiServer::start();
    server.add("shop/shop", &status(1, 3, &[("k1", "Active"), ("k2", "Pending")]));
    let said = server.run(&["keys", "list"]);
    assert!(said.status == 0 && said.out.contains(&format!("access: {WAITS}")), "{said:?}");
}

#[test]
fn the_contexts_namespace_is_meant_where_none_is_named() {
    let server = cluster();
    server.add("other/shop", &status(1, 3, &[("elsewhere", "Active")]));
    let kids = |arguments: &[&str]| server.run(&[&["keys", "list", "-o", "name"], arguments].concat()).out;
    assert_eq!(kids(&[]), "k1\n", "the only one there");
    assert_eq!(kids(&["--policy", "shop"]), "k1\n");
    assert_eq!(kids(&["--policy", "other/shop"]), "elsewhere\n");
    assert_eq!(kids(&["-n", "other", "--policy", "shop"]), "elsewhere\n");
    server.add("shop/second", &json!({}));
    let said = server.run(&["keys", "list"]);
    assert!(said.status == 2 && said.err.contains("name it with --policy: shop/second, shop/shop"), "{said:?}");
}

#[test]
fn a_policy_is_shown_as_stored_or_with_every_default() {
    let server = cluster();
    let said = server.run(&["policy", "show", "-o", "json"]);
    assert_eq!(said.json()["spec"]["tokens"], Value::Null, "{said:?}");
    let said = server.run(&["policy", "show", "--effective", "-o", "json"]);
    assert_eq!(said.json()["spec"]["tokens"]["accessTTL"], "15m", "{said:?}");
}

/// A healthy installation.
fn installed() -> ApiServer {
    let server = cluster();
    let now = jiff::Timestamp::now().to_string();
    {
        let mut world = server.world();
        world.lease = Some(json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "countersign-operator"},
            "spec": {"holderIdentity": "operator-a", "leaseDurationSeconds": 15, "acquireTime": now, "renewTime": now},
        }));
        let said = json!({
            "version": "0.1.0", "leader": "operator-a",
            "feed": {"fresh": true, "epoch": 7, "seeded": true, "problem": null},
            "verifiers": {"known": 3, "alive": 3},
            "policies": {"held": 1, "not_accepted": []},
        });
        world.operator.insert("operator/v1/status".into(), (200, said));
        let verifier = |name: &str, alive: bool| {
            let (revision, refused) = if alive {
                (json!("812"), json!([{"policy": "shop/shop", "reason": "signature", "held": 5}]))
            } else {
                (Value::Null, Value::Null)
            };
            json!({"name": name, "pod": alive, "alive": alive, "absent_ms": if alive { 0 } else { 90_000 },
                   "revision": revision, "refused": refused, "counts": revision.is_string(),
                   "generation": alive.then_some(1_700_000_000_005_u64), "acknowledged_at": alive.then_some(970),
                   "behind": alive.then_some(2), "feed_position": alive.then_some("7:40"), "feed_behind": alive.then_some(0)})
        };
        let mut restored = verifier("node-b", true);
        restored["counts"] = json!(false);
        let mut gone = verifier("node-c", false);
        gone["ended"] = json!("its node is deleted");
        let verifiers = [verifier("node-a", true), verifier("edge-7", false), restored, gone];
        let fleet = json!({
            "verifiers": verifiers, "reached": true, "now": 1000,
            "feed": {"position": "7:40", "age_ms": 9000, "seeded": true},
        });
        world.operator.insert("operator/v1/fleet".into(), (200, fleet));
        world.operator.insert("operator/v1/fleet/forget".into(), (200, json!({"forgotten": true})));
    }
    server
}

#[test]
fn a_healthy_installation_is_one_screen() {
    let server = installed();
    let said = server.run(&["status"]);
    assert_eq!(said.status, 0, "{said:?}");
    for part in
        ["countersign on cluster prod-eu", "leads: operator-a", "fresh, epoch 7", "3 of 3 verifiers are alive", "shop/shop"]
    {
        assert!(said.out.contains(part), "{part}: {said:?}");
    }
    let said = server.run(&["status", "-o", "json"]);
    assert_eq!((&said.json()["healthy"], &said.json()["leader"]["name"]), (&json!(true), &json!("operator-a")));
    let policy = said.json()["policies"][0].clone();
    assert_eq!((&policy["ready"], &policy["verifiers"]["confirmed"]), (&json!(true), &json!(3)), "as dev has it");
    assert_eq!(policy["keys"]["access"]["active_kid"], "k1");
    assert_eq!(server.run(&["status", "-o", "name"]).out, "shop/shop\n");
}

#[test]
fn what_is_wrong_makes_status_say_no() {
    let server = installed();
    server.world().lease.as_mut().unwrap()["spec"]["renewTime"] = json!("2026-01-01T00:00:00Z");
    let said = server.run(&["status"]);
    assert!(said.status == 1 && said.out.contains("GONE: operator-a led"), "{said:?}");

    let server = installed();
    server.add("shop/lags", &status(1, 2, &[("k1", "Active")]));
    let said = server.run(&["status"]);
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.out.contains("! shop/lags: WaitingForVerifiers: node-c holds an earlier generation"), "{said:?}");

    let server = installed();
    server.add("shop/turns", &status(1, 3, &[("k1", "Active"), ("k2", "Pending")]));
    let said = server.run(&["status"]);
    assert_eq!(said.status, 0, "a rotation that waits is no failure: {said:?}");
    assert!(said.out.contains(&format!("! shop/turns: RotationWaiting: {WAITS}")), "{said:?}");

    let server = installed();
    server.world().operator.clear();
    let said = server.run(&["status"]);
    assert!(said.status == 3 && said.out.contains("no operator answers"), "{said:?}");
}

#[test]
fn what_may_not_be_looked_at_is_unknown_and_the_rest_is_shown() {
    let server = installed();
    server.world().forbidden.insert(("get", "leases"));
    let said = server.run(&["status"]);
    assert_eq!(said.status, 0, "the operator itself says who leads: {said:?}");
    assert!(said.out.contains("leads: operator-a, by its own word"), "{said:?}");
    server.world().forbidden.insert(("get", "services/proxy"));
    let said = server.run(&["status"]);
    assert_eq!(said.status, 3, "neither well nor ill: {said:?}");
    for part in ["may not get leases.coordination.k8s.io", "may not get services/proxy", "shop/shop"] {
        assert!(said.out.contains(part), "{part}: {said:?}");
    }
}

#[test]
fn the_fleet_is_one_table_and_one_that_is_gone_can_be_forgotten() {
    let server = installed();
    let said = server.run(&["fleet"]);
    assert_eq!(said.status, 0, "{said:?}");
    let words: Vec<Vec<&str>> = said.out.lines().map(|line| line.split_whitespace().collect()).collect();
    let columns = ["VERIFIER", "WHERE", "STATE", "GENERATION", "ACKNOWLEDGED", "BEHIND", "FEED", "REFUSED"];
    assert_eq!(words[0], columns);
    assert_eq!(
        words[1].join(" "),
        "node-a pod alive 1700000000005 30s ago 2 policies up to date shop/shop (signature, holds 5)"
    );
    assert_eq!(words[2].join(" "), "edge-7 outside absent for 90s - never ? - -");
    assert!(said.out.contains("of another history") && said.out.contains("its node is deleted"), "{said:?}");
    assert!(said.out.contains("last reached the feed 9s ago"), "{said:?}");
    assert_eq!(server.run(&["fleet", "-o", "name"]).out, "node-a\nedge-7\nnode-b\nnode-c\n");
    let dry = server.run(&["fleet", "forget", "edge-7", "--dry-run"]);
    assert!(dry.status == 0 && server.asked("POST").is_empty(), "{dry:?}");
    let said = server.run(&["fleet", "forget", "edge-7"]);
    assert_eq!((said.status, said.out.as_str()), (0, "no longer waits for edge-7\n"), "{said:?}");
    assert_eq!(server.asked("POST")[0].body, json!({"name": "edge-7"}));
}
