//! The toolkit: exit statuses, forms of output, where tokens and servers come from.

use serde_json::json;

use crate::rig::{Dev, alone, countersign, run_with};

#[test]
fn the_exit_status_tells_done_no_usage_and_unable_apart() {
    let dev = Dev::start();
    let token = dev.mint(&["--subject", "alice"]);
    for (arguments, input, status) in [
        (&["verify", "-"][..], token.as_str(), 0),
        (&["verify", "-"], "nonsense", 1),
        (&["verify", "-", "--permission", "orders:read"], &token, 1),
        (&["verify", "-", "--min-position", "e9n9"], &token, 3),
        (&["verify", "-", "--policy", "no/such"], &token, 3),
        (&["verify", "-", "--server", "unix:/nonexistent.sock"], &token, 3),
        (&["verify"], "", 2),
        (&["verify", "-"], "", 2),
        (&["token", "inspect", "-"], "opaque", 1),
        (&["token", "mint"], "", 2),
        (&["token", "mint", "--subject", "a", "--ttl", "48h"], "", 2),
        (&["token", "mint", "--subject", "a", "--ttl", "soon"], "", 2),
        (&["revoke", "all"], "", 2),
        (&["revoke", "token"], "", 2),
        (&["revoke", "subject", "a", "--before", "2999-01-01T00:00:00Z"], "", 2),
        (&["revoke", "ip", "nonsense"], "", 2),
        (&["revoke", "ip", "127.0.0.1"], "", 2),
        (&["revoke", "nonsense", "a"], "", 2),
        (&["status", "--server", "nonsense"], "", 2),
        (&["keys", "list", "--policy", "no/such"], "", 3),
        (&["no-such-command"], "", 2),
        (&["version"], "", 0),
        (&["--help"], "", 0),
    ] {
        let said = dev.run_with(arguments, input);
        assert_eq!(said.status, status, "{arguments:?}: {said:?}");
        assert!(!said.err.is_empty() || !said.out.is_empty(), "{arguments:?} says nothing");
    }
}

#[test]
fn results_go_to_standard_output_alone_in_the_form_that_was_asked_for() {
    let dev = Dev::start();
    let minted = dev.run(&["token", "mint", "--subject", "alice", "-o", "json"]);
    let document = minted.json();
    for name in ["token", "token_id", "session_id", "expires_at"] {
        assert!(!document[name].is_null(), "{name}: {document}");
    }
    let token = document["token"].as_str().unwrap();
    assert_eq!(dev.run(&["-q", "token", "mint", "--subject", "alice"]).err, "");
    let yaml = dev.run_with(&["verify", "-", "-o", "yaml"], token).out;
    assert!(yaml.contains("subject: alice\n") && yaml.contains("verdict: valid\n"), "{yaml}");
    assert_eq!(dev.run(&["keys", "list", "-o", "name"]).out.lines().count(), 2);
    let table = dev.run(&["keys", "list"]).out;
    assert!(table.starts_with("RING") && !table.contains("CREATED"), "{table}");
    assert!(dev.run(&["keys", "list", "-o", "wide"]).out.contains("CREATED"));
    let colored = dev.run(&["keys", "list", "--color", "always"]).out;
    assert!(colored.contains("\u{1b}[32mActive"), "{colored}");
}

#[test]
fn a_token_comes_from_standard_input_the_environment_or_with_a_warning_the_command_line() {
    let dev = Dev::start();
    let token = dev.mint(&["--subject", "alice"]);
    let argument = dev.run(&["verify", &token]);
    assert_eq!(argument.status, 0);
    assert!(argument.err.contains("process list"), "{argument:?}");
    let mut command = countersign();
    command.args(["verify"]).env("COUNTERSIGN_TOKEN", &token).current_dir(dev.path());
    let environment = run_with(command, "");
    assert_eq!((environment.status, environment.err.as_str()), (0, ""));
}

#[test]
fn an_explanation_goes_through_the_checks_up_to_the_one_that_refuses() {
    let dev = Dev::start();
    let token = dev.mint(&["--subject", "alice"]);
    let good = dev.run_with(&["verify", "-", "--explain", "-o", "json"], &token).json();
    assert!(good["steps"].as_array().unwrap().iter().all(|s| s["outcome"] == "passed"), "{good}");
    let key = good["steps"].as_array().unwrap().iter().find(|s| s["check"] == "key").unwrap();
    assert!(key["detail"].as_str().unwrap().contains("access ring, EdDSA, Active"), "{key}");
    assert_eq!(dev.run(&["revoke", "subject", "alice"]).status, 0);
    let said = dev.run(&["validate-token", "--token", &token]);
    assert_eq!(said.status, 1);
    assert!(said.out.contains("NO  revocation  revoked: "), "{said:?}");
    assert!(said.out.contains("ok  signature"), "{said:?}");
}

#[test]
fn many_ids_are_revoked_from_standard_input() {
    let dev = Dev::start();
    let tokens: Vec<String> = (0..40).map(|n| dev.mint(&["--subject", &format!("user-{n}")])).collect();
    let said = dev.run_with(&["revoke", "token", "-"], &tokens.join("\n"));
    assert_eq!(said.line(), "revoked 40 tokens; enforced on 1 of 1 verifiers");
    for token in &tokens {
        assert_eq!(dev.verdict(token, &[]), (1, "revoked".into()));
    }
}

#[test]
fn of_many_ids_the_good_are_revoked_and_the_bad_are_named() {
    let dev = Dev::start();
    let token = dev.mint(&["--subject", "alice", "--session", "s-1"]);
    let long = "x".repeat(2000);
    let said = dev.run_with(&["revoke", "session", "-"], &format!("{long}\ns-1\ns-2\n"));
    assert_eq!(said.status, 2, "{said:?}");
    assert!(said.err.contains("1 of 3 are not revoked, the others are") && said.err.contains("  xxx"), "{said:?}");
    assert_eq!(dev.verdict(&token, &[]), (1, "revoked".into()));
}

#[test]
fn a_token_that_several_policies_accept_ends_in_each_of_them() {
    let trusting = "  trustedIssuers:\n    - {name: shop, issuer: https://auth.shop.example, audiences: [shop-api], \
                    secretKeyRef: {name: shop-key, key: value}, algorithms: [HS256], notAfter: 2099-01-01T00:00:00Z, maxTTL: 1h}\n";
    let dev = Dev::on_policies(&[
        ("secrets/shop-key/value", "0123456789abcdef0123456789abcdef"),
        ("a.yaml", &crate::rig::policy("a", trusting)),
        ("shop.yaml", &crate::rig::policy("shop", "")),
    ]);
    let token = dev.mint(&["--policy", "shop/shop", "--subject", "alice"]);
    assert_eq!(dev.verdict(&token, &["--policy", "shop/shop"]), (0, "valid".into()));
    let said = dev.run_with(&["revoke", "token", "-"], &token);
    assert_eq!(said.line(), "revoked the token; enforced on 1 of 1 verifiers");
    assert!(said.err.contains("policy shop/a") && said.err.contains("policy shop/shop"), "{said:?}");
    assert_eq!(dev.verdict(&token, &["--policy", "shop/shop"]), (1, "revoked".into()));
}

#[test]
fn revoking_everything_asks_and_without_a_terminal_wants_a_yes() {
    let dev = Dev::start();
    let token = dev.mint(&["--subject", "alice"]);
    let asked = dev.run(&["revoke", "all"]);
    assert!(asked.err.contains("--yes"), "{asked:?}");
    assert_eq!(dev.verdict(&token, &[]), (0, "valid".into()));
    assert_eq!(dev.run(&["revoke", "all", "--yes"]).status, 0);
    assert_eq!(dev.verdict(&token, &[]), (1, "revoked".into()));
}

#[test]
fn the_admin_port_wants_a_token_of_the_policy_with_the_right_permission() {
    let dev = Dev::start();
    let url = format!("http://{}", dev.addresses()["admin"].as_str().unwrap());
    let file = dev.path().join("bearer");
    let file_name = file.to_str().unwrap();
    let list = ["keys", "list", "--policy", "default/dev", "--server", &url];
    let without = dev.run(&list);
    assert_eq!(without.status, 3, "{without:?}");
    assert!(without.err.contains("--bearer-token-file"), "{without:?}");
    for (role, status) in [("user", 3), ("admin", 0)] {
        std::fs::write(&file, dev.mint(&["--subject", "operator", "--role", role])).unwrap();
        let said = dev.run(&[&list[..], &["--bearer-token-file", file_name]].concat());
        assert_eq!(said.status, status, "{role}: {said:?}");
    }
    assert_eq!(dev.run(&["revoke", "subject", "operator"]).status, 0);
    assert_eq!(
        dev.run(&[&list[..], &["--bearer-token-file", file_name]].concat()).status,
        3,
        "a revoked token opens nothing"
    );
}

#[test]
fn a_verifier_s_url_answers_verify_and_an_admin_s_is_told_apart() {
    let dev = Dev::start();
    let token = dev.mint(&["--subject", "alice"]);
    let address = |name: &str| format!("http://{}", dev.addresses()[name].as_str().unwrap());
    let said = dev.run_with(&["verify", "-", "--server", &address("verifier")], &token);
    assert_eq!(said.status, 0, "{said:?}");
    let said = dev.run_with(&["verify", "-", "--policy", "default/dev", "--server", &address("issuer")], &token);
    assert_eq!(said.status, 3);
}

#[test]
fn inspecting_tells_what_a_token_says_and_that_nothing_is_verified() {
    let dev = Dev::start();
    let token = dev.mint(&["--subject", "al\u{1b}[31mice".replace('\u{1b}', "").as_str()]);
    let said = dev.run_with(&["token", "inspect", "-"], &token);
    assert_eq!(said.status, 0);
    assert!(said.err.contains("nothing here is verified"), "{said:?}");
    assert!(said.out.contains("http://127.0.0.1:7490"), "{said:?}");
    let document = dev.run_with(&["token", "inspect", "-", "-o", "json"], &token).json();
    assert_eq!(document["verified"], json!(false));
    assert_eq!(document["header"]["typ"], "at+jwt");
}

#[test]
fn without_a_server_the_way_to_one_is_named() {
    for arguments in [&["status"][..], &["token", "mint", "--subject", "a"], &["verify", "x"], &["fleet"]] {
        let said = alone(arguments);
        assert_eq!(said.status, 3, "{said:?}");
        assert!(said.err.contains("countersign dev") && said.err.contains("--server"), "{said:?}");
    }
}

#[test]
fn definitions_come_in_the_form_that_was_asked_for() {
    let list = alone(&["crds", "-o", "json"]).json();
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|crd| crd["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["authpolicies.countersign.dev", "sessions.countersign.dev"]);
    assert_eq!(alone(&["crds", "-o", "name"]).out, format!("{}\n", names.join("\n")));
    assert_eq!(alone(&["crds", "-o", "yaml"]).out, alone(&["crds"]).out);
}

#[test]
fn a_policy_that_there_is_not_is_told_with_those_that_there_are() {
    let dev = Dev::on_policies(&[("a.yaml", &crate::rig::policy("a", "")), ("b.yaml", &crate::rig::policy("b", ""))]);
    for command in [
        &["status"][..],
        &["fleet"],
        &["keys", "list"],
        &["policy", "show", "--effective"],
        &["token", "mint", "--subject", "x"],
        &["revoke", "subject", "x"],
    ] {
        let said = dev.run(&[command, &["--policy", "shop/none"]].concat());
        assert_eq!(said.status, 3, "{said:?}");
        assert!(said.err.contains("there is no policy shop/none") && said.err.contains("shop/a, shop/b"), "{said:?}");
    }
    let said = dev.run(&["status", "--policy", "shop/b"]);
    assert!(said.status == 0 && said.out.contains("shop/b") && !said.out.contains("shop/a"), "{said:?}");
    let said = dev.run(&["fleet", "--policy", "shop/b", "-o", "json"]).json();
    assert_eq!(said["verifiers"][0]["generations"].as_object().unwrap().keys().collect::<Vec<_>>(), ["shop/b"]);
    let said = dev.run(&["policy", "show", "shop/b"]);
    assert!(said.status == 2 && said.err.contains("--policy shop/b"), "{said:?}");
}

#[test]
fn a_demo_s_dry_run_tells_its_steps_and_starts_nothing() {
    let said = alone(&["demo", "--dry-run", "--data-dir", "nowhere"]);
    assert_eq!((said.status, said.out.as_str()), (0, ""), "{said:?}");
    for step in ["start", "mint", "verify", "rotate", "revoke", "restart"] {
        assert!(said.err.contains(step), "{step}: {said:?}");
    }
    assert_eq!(alone(&["demo", "--dry-run", "-o", "json"]).json()["dry_run"], true);
}

#[test]
fn help_is_a_command_too_and_a_token_without_a_signature_is_told() {
    for arguments in [&["help"][..], &["help", "revoke"]] {
        assert_eq!(alone(arguments).status, 0);
    }
    let said = alone(&["token", "inspect", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhIn0."]);
    assert!(said.status == 1 && said.err.contains("alg: none"), "{said:?}");
    let dev = Dev::start();
    let said = dev.run(&["token", "mint", "--subject", "a", "--ttl", "48h"]);
    assert!(said.err.contains("--ttl") && !said.err.contains("ttl_s"), "{said:?}");
    let token = dev.mint(&["--subject", "a"]);
    let said = dev.run_with(&["token", "inspect", "-"], &format!("csk_{token}"));
    assert!(said.out.contains("no verifier takes it"), "{said:?}");
}
