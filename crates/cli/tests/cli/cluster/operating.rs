//! Minting, rotating, revoking.

use serde_json::{Value, json};

use super::{WAITS, cluster, status};
use crate::{api_server::ApiServer, rig::run_with};

fn generation(object: &Value) -> i64 {
    object["metadata"]["generation"].as_i64().unwrap()
}

fn minting() -> ApiServer {
    let server = cluster();
    let minted = json!({"token": "a.b.c", "token_id": "t1", "session_id": "s1", "expires_at": 4_000_000_000_u64});
    server.world().operator.insert("operator/v1/policies/shop/shop/tokens".into(), (200, minted));
    server
}

#[test]
fn minting_asks_the_operator_and_proves_who_asks_in_a_header_of_its_own() {
    let server = minting();
    let said = server.run(&["token", "mint", "--subject", "alice", "--role", "user", "--ttl", "5m"]);
    assert_eq!((said.status, said.out.as_str()), (0, "a.b.c\n"), "{said:?}");
    assert!(said.err.contains("cluster prod-eu, policy shop/shop"), "the target comes first: {said:?}");
    let asked = server.asked("POST");
    assert_eq!(asked[0].headers["x-countersign-token"], "alices-own-token");
    assert_eq!(asked[0].body["subject"], "alice");
    assert_eq!((&asked[0].body["roles"], &asked[0].body["ttl_s"]), (&json!(["user"]), &json!(300)));
    assert!(!format!("{said:?}").contains("alices-own-token"));
}

#[test]
fn minting_as_a_service_account_borrows_a_token_for_the_operator_alone() {
    let server = minting();
    let arguments = ["--context", "by-certificate", "--as-service-account", "shop/ops", "token", "mint", "--subject", "a"];
    let said = run_with(server.command(&arguments), "");
    assert_eq!(said.status, 0, "{said:?}");
    let asked = server.asked("POST");
    assert_eq!(asked[0].path, "/api/v1/namespaces/shop/serviceaccounts/ops/token");
    assert_eq!(asked[0].body["spec"]["audiences"], json!(["countersign"]));
    assert_eq!(asked[1].headers["x-countersign-token"], "borrowed-from-ops");
}

#[test]
fn a_rotation_is_an_annotation_and_is_waited_for_until_another_key_signs() {
    for short_watches in [false, true] {
        let server = cluster();
        server.world().short_watches = short_watches;
        server.world().reaction = Some(|_| {
            vec![
                status(1, 3, &[("k1", "Active"), ("k2", "Pending")]),
                status(1, 3, &[("k1", "Retiring"), ("k2", "Active")]),
            ]
        });
        let said = server.run(&["keys", "rotate"]);
        assert_eq!(said.status, 0, "{said:?}");
        assert!(said.out.starts_with("access: k2 signs, after "), "{said:?}");
        let annotations = &server.policy("shop/shop")["metadata"]["annotations"];
        assert!(annotations["countersign.dev/rotate"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        assert!(annotations["countersign.dev/rotate-api-key"].is_null());
        assert!(server.asked("PATCH")[0].query.contains("fieldManager=countersign-cli"));
    }
}

#[test]
fn a_rotation_that_waits_too_long_names_whom_it_waits_for() {
    let server = cluster();
    server.world().reaction = Some(|_| vec![status(1, 3, &[("k1", "Active"), ("k2", "Pending")])]);
    let said = server.run(&["keys", "rotate", "--wait=300ms"]);
    assert_eq!(said.status, 3, "{said:?}");
    assert_eq!(said.out, format!("access: k1 still signs; {WAITS}\n"));
    assert!(said.err.contains(&format!("waiting: RotationWaiting: {WAITS}")), "{said:?}");
    let said = server.run(&["keys", "rotate", "--ring", "all", "--no-wait", "-o", "json"]);
    assert_eq!(said.status, 0, "{said:?}");
    let annotations = server.policy("shop/shop")["metadata"]["annotations"].clone();
    assert_eq!(annotations["countersign.dev/rotate"], annotations["countersign.dev/rotate-api-key"]);
}

#[test]
fn a_policy_without_keys_is_not_rotated() {
    let server = cluster();
    let mut policy = server.policy("shop/shop");
    policy["spec"].as_object_mut().unwrap().remove("issuer");
    policy["metadata"]["name"] = json!("verifies");
    server.add("shop/verifies", &json!({}));
    server.replace(policy);
    let said = server.run(&["keys", "rotate", "--policy", "verifies"]);
    assert!(said.status == 2 && said.err.contains("no keys to rotate"), "{said:?}");
    assert!(server.asked("PATCH").is_empty());
}

#[test]
fn revoking_a_key_adds_it_to_the_spec_says_what_ends_and_waits_until_it_is_enforced() {
    for command in [&["keys", "revoke", "k1"][..], &["revoke", "key", "k1"]] {
        let server = cluster();
        let mut policy = server.policy("shop/shop");
        policy["spec"]["keys"] = json!({"revoked": [{"kid": "k0", "reason": "old"}], "ackTimeout": "5m"});
        server.replace(policy);
        server.world().conflicts = 2;
        server.world().reaction = Some(|object| {
            vec![
                status(generation(object), 1, &[("k1", "Revoked")]),
                status(generation(object), 3, &[("k1", "Revoked"), ("k2", "Active")]),
            ]
        });
        let said = server.run(&[command, &["--reason", "leaked"]].concat());
        assert_eq!(said.status, 0, "{said:?}");
        assert_eq!(said.out, "revoked key k1; enforced on 3 of 3 verifiers\naccess: k2 signs\n");
        assert!(said.err.contains("every access token that it signed is refused, for ever"), "{said:?}");
        assert!(said.err.contains("waiting: enforced on 1 of 3 verifiers; not yet on node-c"), "{said:?}");
        let keys = server.policy("shop/shop")["spec"]["keys"].clone();
        assert_eq!(keys["revoked"], json!([{"kid": "k0", "reason": "old"}, {"kid": "k1", "reason": "leaked"}]));
        assert_eq!(keys["ackTimeout"], "5m");
        let patches = server.asked("PATCH");
        assert_eq!(patches.len(), 3, "twice somebody else was first");
        assert!(patches.iter().all(|p| p.body["metadata"]["resourceVersion"].is_string()), "never blindly");
    }
}

#[test]
fn a_kid_that_begins_with_a_hyphen_is_no_flag() {
    let server = cluster();
    let kid = "-nf_tEOPyh6K87XTTGK40WmcSDupNpg7GyQT-PKTB3U";
    for command in [&["keys", "revoke", kid, "--no-wait"][..], &["revoke", "key", kid, "--no-wait"]] {
        let refused = server.run(command);
        assert!(refused.status == 2 && refused.err.contains("in none of the policy's rings"), "{refused:?}");
        let said = server.run(&[command, &["--yes"]].concat());
        assert_eq!(said.out, format!("revoked key {kid}; in the policy; not waited for verifiers\n"), "{said:?}");
    }
    assert_eq!(server.policy("shop/shop")["spec"]["keys"]["revoked"][0]["kid"], kid);
}

#[test]
fn a_revocation_that_a_verifier_lacks_names_it_and_fails() {
    let server = cluster();
    server.world().reaction = Some(|object| vec![status(generation(object), 2, &[("k1", "Revoked")])]);
    let said = server.run(&["keys", "revoke", "k1", "--wait=300ms"]);
    assert_eq!(said.status, 3, "{said:?}");
    assert!(
        said.out.starts_with("revoked key k1; enforced on 2 of 3 verifiers; not yet on node-c (WaitingFor"),
        "{said:?}"
    );
    let again = server.run(&["keys", "revoke", "k1", "--no-wait", "-o", "json"]);
    assert_eq!((again.status, &again.json()["enforced"]), (0, &json!(false)), "{again:?}");
    assert_eq!(server.asked("PATCH").len(), 1, "it is in the list already");
}

#[test]
fn a_status_that_is_older_than_the_revocation_does_not_count() {
    let server = cluster();
    let said = server.run(&["keys", "revoke", "k1", "--wait=300ms"]);
    assert_eq!(said.status, 3, "{said:?}");
    assert!(said.out.contains("enforced on 0 of 3 verifiers (the operator has not reported on it yet)"), "{said:?}");
}

#[test]
fn what_only_an_issuer_can_end_is_asked_of_it_and_one_that_is_not_installed_is_named() {
    let server = cluster();
    for kind in
        [&["token", "x"][..], &["session", "x"], &["subject", "x"], &["api-key", "x"], &["ip", "192.0.2.1"], &["all"]]
    {
        let said = server.run(&[&["revoke"], kind].concat());
        assert_eq!(said.status, 3, "{said:?}");
        assert!(said.err.contains("no issuer") && said.err.contains("issuer.enabled=true"), "{said:?}");
    }
    let said = server.run(&["revoke", "key", "k1", "--issuer", "https://other.example"]);
    assert!(said.status == 2 && said.err.contains("trustedIssuers"), "{said:?}");
    assert!(server.asked("PATCH").is_empty());
}

#[test]
fn a_dry_run_asks_the_api_server_and_changes_nothing() {
    let server = minting();
    let before = server.policy("shop/shop");
    for command in [&["keys", "rotate"][..], &["keys", "revoke", "k1"], &["token", "mint", "--subject", "a"]] {
        let said = server.run(&[command, &["--dry-run"]].concat());
        assert!(said.status == 0 && said.err.contains("dry run: would"), "{said:?}");
    }
    assert!(server.asked("PATCH").iter().all(|asked| asked.query.contains("dryRun=All")));
    assert_eq!(server.asked("PATCH").len(), 2);
    assert!(server.asked("POST").is_empty(), "no token is minted");
    assert_eq!(server.policy("shop/shop"), before);
}
