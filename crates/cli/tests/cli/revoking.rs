//! Revoking by the credential itself, however it is given: it ends, and is written down nowhere.

use std::path::Path;

use countersign_core::digest;
use serde_json::{Value, json};

use crate::{
    admin::over_socket,
    rig::{Dev, eventually, policy},
};

const OPAQUE: [&str; 5] = ["opaque-one", "opaque-two", "opaque-three", "opaque-four", "opaque-five"];

/// `shop/shop`, and `shop/keys`, to which the opaque keys belong.
fn two_policies() -> Dev {
    let sha256 = |key: &str| digest::sha256(key.as_bytes()).map(|byte| format!("{byte:02x}")).concat();
    let keys: Vec<Value> = OPAQUE.iter().map(|key| json!({"sha256": sha256(key), "subject": "svc"})).collect();
    let named = "  opaqueKeys: {secretKeyRefs: [{name: imported, key: keys.json}]}\n";
    Dev::on_policies(&[
        ("secrets/imported/keys.json", &json!(keys).to_string()),
        ("keys.yaml", &policy("keys", named)),
        ("shop.yaml", &policy("shop", "")),
    ])
}

/// Whether any file below a directory holds a text.
fn holds(directory: &Path, text: &str) -> bool {
    std::fs::read_dir(directory).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path, text);
        }
        let bytes = std::fs::read(&path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    })
}

fn is_kept_nowhere(dev: &Dev, secret: &str) {
    let history = over_socket(dev, "GET", "/policies/shop/keys/revocations", "").1;
    assert!(!history.to_string().contains(secret), "in the history: {history}");
    assert!(!holds(&dev.data(), secret), "in a file of the data directory");
}

#[test]
fn an_opaque_key_ends_however_it_is_given_and_is_written_down_nowhere() {
    let dev = two_policies();
    let in_keys = ["--policy", "shop/keys"];
    for (arguments, input, key) in [
        (&["revoke", "api-key", "opaque-one", "--policy", "shop/keys"][..], "", "opaque-one"),
        (&["revoke", "api-key", "-", "--policy", "shop/keys"], "opaque-two\n", "opaque-two"),
        // Its policy is found by its hash.
        (&["revoke", "api-key", "opaque-three"], "", "opaque-three"),
        (&["revoke", "token", "opaque-four"], "", "opaque-four"),
    ] {
        assert_eq!(dev.verdict(key, &in_keys), (0, "valid".into()), "{key}");
        let said = dev.run_with(arguments, input);
        assert!(said.line().ends_with("enforced on 1 of 1 verifiers"), "{said:?}");
        assert!(!said.out.contains(key) && !said.err.contains(key), "repeated: {said:?}");
        assert_eq!(dev.verdict(key, &in_keys), (1, "revoked".into()), "{arguments:?}");
        is_kept_nowhere(&dev, key);
    }
    let call = json!({"kind": "api_key", "id": "opaque-five"}).to_string();
    let (status, answer) = over_socket(&dev, "POST", "/policies/shop/keys/revocations", &call);
    assert!(status == 200 && !answer.to_string().contains("opaque-five"), "{answer}");
    assert_eq!(dev.verdict("opaque-five", &in_keys), (1, "revoked".into()));
    is_kept_nowhere(&dev, "opaque-five");
}

#[test]
fn an_opaque_key_where_another_kind_of_name_or_another_policy_is_meant_is_refused() {
    let dev = two_policies();
    for (of_policy, kind) in [
        ("keys", "session"),
        ("keys", "subject"),
        ("keys", "key"),
        ("shop", "api_key"),
        ("shop", "token"),
        ("shop", "subject"),
    ] {
        let call = json!({"kind": kind, "id": "opaque-one"}).to_string();
        let (status, answer) = over_socket(&dev, "POST", &format!("/policies/shop/{of_policy}/revocations"), &call);
        assert_eq!((status, &answer["error"]), (422, &json!("validation_failed")), "{of_policy} {kind}: {answer}");
        assert!(answer["fix"].as_str().unwrap().contains("`credential`"), "{answer}");
    }
    is_kept_nowhere(&dev, "opaque-one");
    assert_eq!(dev.verdict("opaque-one", &["--policy", "shop/keys"]), (0, "valid".into()));
}

#[test]
fn a_token_given_as_a_name_is_refused_with_the_way_to_end_it() {
    let dev = Dev::start();
    let token = dev.mint(&["--subject", "alice", "--session", "s-1"]);
    let bearer = format!("Bearer {token}");
    let api_key = format!("csk_{token}");
    for kind in ["token", "session", "subject", "api_key", "key"] {
        for id in [&token, &bearer, &api_key] {
            let call = json!({"kind": kind, "id": id}).to_string();
            let (status, answer) = over_socket(&dev, "POST", "/policies/default/dev/revocations", &call);
            assert_eq!((status, &answer["error"]), (422, &json!("validation_failed")), "{kind}: {answer}");
            assert!(answer["fix"].as_str().unwrap().contains("`credential`"), "{answer}");
        }
    }
    let call = json!({"kind": "subject", "id": "bob", "reason": format!("leaked {token}")}).to_string();
    assert_eq!(over_socket(&dev, "POST", "/policies/default/dev/revocations", &call).0, 422);
    for (kind, way) in
        [("session", "revoke session 's-1'"), ("subject", "revoke subject 'alice'"), ("key", "revoke token -")]
    {
        let said = dev.run(&["revoke", kind, &token]);
        assert!(said.status == 2 && said.err.contains(way) && said.err.contains("revoke token -"), "{said:?}");
        assert!(!said.err.contains(&token), "{said:?}");
    }
    assert!(!holds(&dev.data(), &token), "in a file of the data directory");
    assert_eq!(dev.verdict(&token, &[]), (0, "valid".into()));
    let said = dev.run(&["revoke", "token", &token]);
    assert!(said.status == 0 && said.err.contains("process list"), "{said:?}");
    eventually("the token is refused", || (dev.verdict(&token, &[]) == (1, "revoked".into())).then_some(()));
}

#[test]
fn comments_between_ids_are_no_ids_and_when_all_fail_nobody_is_said_to_be_revoked() {
    let dev = Dev::start();
    let said = dev.run_with(&["revoke", "subject", "-"], "# those who left\nalice\n\n#bob\n");
    assert_eq!(said.line(), "revoked subject alice; enforced on 1 of 1 verifiers");
    let long = "x".repeat(2000);
    let said = dev.run_with(&["revoke", "subject", "-"], &format!("{long}\n{long}y\n"));
    assert!(said.status == 2 && said.err.contains("none of the 2 is revoked:"), "{said:?}");
}

#[test]
fn a_key_that_is_in_no_ring_is_revoked_only_on_purpose() {
    let dev = Dev::start();
    for command in [&["keys", "revoke", "nope"][..], &["revoke", "key", "nope"]] {
        let said = dev.run(command);
        assert!(said.status == 2 && said.err.contains("keys list") && said.err.contains("--yes"), "{said:?}");
        assert_eq!(dev.run(&[command, &["--dry-run"]].concat()).status, 0);
    }
    assert_eq!(over_socket(&dev, "GET", "/policies/default/dev/revocations", "").1["revocations"], json!([]));
    assert_eq!(dev.run(&["keys", "revoke", "nope", "--yes"]).status, 0);
}

#[test]
fn what_was_revoked_is_listed_latest_first() {
    let dev = Dev::start();
    for (kind, id) in [("subject", "alice"), ("session", "one"), ("subject", "bob")] {
        assert_eq!(dev.run(&["revoke", kind, id, "--reason", "gone"]).status, 0);
    }
    let ids = |arguments: &[&str]| {
        let listed = dev.run(&[&["revoke", "list", "-o", "json"], arguments].concat()).json();
        let rows = listed["revocations"].as_array().unwrap().clone();
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&[]), ["bob", "one", "alice"]);
    assert_eq!(ids(&["--subject", "alice"]), ["alice"]);
    assert_eq!(ids(&["--kind", "session"]), ["one"]);
    assert_eq!(ids(&["--limit", "2"]), ["bob", "one"]);
    let table = dev.run(&["revoke", "list"]);
    assert!(table.out.contains("alice") && table.out.contains("gone"), "{table:?}");
    assert_eq!(dev.run(&["revoke"]).status, 2, "what is revoked has to be said");
    // The admin API says of a block and of a rotation that it is done.
    let (rotated, _) = over_socket(&dev, "POST", "/policies/default/dev/keys/rotate", "{}");
    let (blocked, _) = over_socket(&dev, "POST", "/policies/default/dev/blocks", r#"{"network": "198.51.100.0/24"}"#);
    assert_eq!((rotated, blocked), (200, 200));
}
