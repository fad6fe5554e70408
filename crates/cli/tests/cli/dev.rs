//! `dev`: what it keeps, what it cleans up, what it refuses.

use std::os::unix::fs::PermissionsExt as _;

use crate::rig::{Dev, alone, run_with};

fn is(status: i32, verdict: &str) -> (i32, String) {
    (status, verdict.to_owned())
}

#[test]
fn a_token_is_minted_verified_revoked_and_refused() {
    let dev = Dev::start();
    let token = dev.mint(&["--subject", "alice", "--role", "user"]);
    assert_eq!(dev.verdict(&token, &["--permission", "orders:read"]), is(0, "valid"));
    assert_eq!(dev.verdict(&token, &["--permission", "orders:write"]), is(1, "denied"));
    let revoked = dev.run(&["revoke", "subject", "alice", "--reason", "left"]);
    assert_eq!(revoked.line(), "revoked subject alice; enforced on 1 of 1 verifiers");
    assert!(revoked.err.contains("policy default/dev"), "the target is named: {revoked:?}");
    assert_eq!(dev.verdict(&token, &[]), is(1, "revoked"));
    let later = dev.mint(&["--subject", "alice"]);
    assert_eq!(dev.verdict(&later, &[]), is(0, "valid"));
}

#[test]
fn keys_and_revocations_survive_kill_9() {
    let mut dev = Dev::start();
    let (live, dead) = (dev.mint(&["--subject", "alice"]), dev.mint(&["--subject", "bob"]));
    assert_eq!(dev.run_with(&["revoke", "token", "-"], &dead).status, 0);
    let kid = |dev: &Dev| dev.run(&["keys", "list", "-o", "json"]).json()["status"]["access"]["active_kid"].clone();
    let before = kid(&dev);
    dev.restart();
    assert_eq!(kid(&dev), before);
    assert_eq!(dev.verdict(&live, &[]), is(0, "valid"));
    assert_eq!(dev.verdict(&dead, &[]), is(1, "revoked"));
}

#[test]
fn the_data_directory_is_its_owner_s_alone_and_git_s_never() {
    let dev = Dev::start();
    let mode = |name: &str| std::fs::metadata(dev.data().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("."), 0o700);
    for name in ["admin.sock", "countersign.db"] {
        assert_eq!(mode(name), 0o600, "{name}");
    }
    assert_eq!(std::fs::read_to_string(dev.data().join(".gitignore")).unwrap(), "*\n");
    let addresses = dev.addresses();
    for name in ["verifier", "verifier_health", "issuer", "issuer_health", "admin", "socket", "admin_socket"] {
        assert!(addresses[name].is_string(), "{name}: {addresses}");
    }
}

#[test]
fn a_second_dev_on_the_same_data_is_told_who_has_it() {
    let dev = Dev::start();
    let second = run_with(dev.command(), "");
    assert_eq!(second.status, 3, "{second:?}");
    assert!(second.err.contains("another `countersign dev` uses it (process "), "{second:?}");
    assert!(second.err.contains("--data-dir"), "{second:?}");
    assert_eq!(dev.run(&["status", "-o", "name"]).line(), "default/dev");
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag_and_the_way_out() {
    let dev = Dev::start();
    for (flag, address) in [("--issuer-listen", "issuer"), ("--admin-listen", "admin"), ("--verifier-listen", "verifier")] {
        let taken = dev.addresses()[address].as_str().unwrap().to_owned();
        let said = alone(&["dev", "--data-dir", "d", &format!("{flag}={taken}"), "--verifier-health-listen=127.0.0.1:0"]);
        assert_eq!(said.status, 3, "{said:?}");
        assert!(said.err.contains(flag) && said.err.contains(&taken), "{said:?}");
    }
}

#[test]
fn it_ends_in_order_when_asked_to() {
    let mut dev = Dev::start();
    assert_eq!(dev.terminate(), 0, "{}", dev.said());
    for name in ["admin.sock", "verifier.sock", "addresses.json"] {
        assert!(!dev.data().join(name).exists(), "{name} is left behind");
    }
    let said = dev.run(&["status"]);
    assert_eq!(said.status, 3, "{said:?}");
    assert!(said.err.contains("start `countersign dev`"), "{said:?}");
}

#[test]
fn mistakes_on_the_command_line_are_usage_errors_that_name_their_flag() {
    for (arguments, named) in [
        (&["dev", "--verifier-listen", "nonsense"][..], "--verifier-listen"),
        (&["dev", "--admin-listen", "0.0.0.0:0"], "--admin-listen"),
        (&["dev", "--redis", "http://x"], "--redis"),
        (&["dev", "--policies", "/nonexistent/policies"], "/nonexistent/policies"),
        (&["dev", "--default-policy", "Shop"], "--default-policy"),
        (&["dev", "--no-such-flag"], "--no-such-flag"),
    ] {
        let said = alone(arguments);
        assert_eq!(said.status, 2, "{said:?}");
        assert!(said.err.contains(named), "{named}: {said:?}");
    }
}

#[test]
fn the_demo_shows_every_step_and_ends_well() {
    let said = alone(&["demo", "-o", "json"]);
    assert_eq!(said.status, 0, "{said:?}");
    let told = said.json();
    let steps: Vec<&str> = told["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["start", "mint", "verify", "rotate", "revoke", "restart"]);
    let rotate = &told["steps"][3]["figures"];
    assert!(rotate["calls"].as_u64().unwrap() > 100 && rotate["errors"] == 0, "{told}");
}
