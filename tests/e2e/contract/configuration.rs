//! Mistakes in flags and files: one message that names the place, before anything binds.

use std::process::Command;

use crate::rig::{self, PATIENCE, Policies, Process};

/// Starts a binary that must refuse to run, and returns what it said.
fn refused(binary: &str, arguments: &[&str]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(rig::binary(binary));
    command.args(arguments).current_dir(directory.path()).env_remove("REDIS_URL").env("NO_COLOR", "1");
    let mut process = Process::start(&mut command, directory.path().join("log"));
    let status = process.wait(PATIENCE);
    let said = process.log();
    assert!(!status.success(), "{binary} {arguments:?} ran:\n{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

#[test]
fn the_verifier_says_what_its_command_line_lacks() {
    let empty = tempfile::tempdir().unwrap();
    let bundles = empty.path().to_str().unwrap();
    for (arguments, named) in [
        (vec![], "--bundles"),
        (vec!["--bundles", bundles], "--without-feed"),
        (vec!["--bundles", "/nonexistent/bundles", "--without-feed"], "/nonexistent/bundles"),
        (vec!["--bundles", bundles, "--redis", "nonsense"], "redis"),
        (vec!["--bundles", bundles, "--redis", "redis://127.0.0.1:1", "--without-feed"], "--without-feed"),
        (vec!["--bundles", bundles, "--without-feed", "--trusted-proxies", "nonsense"], "trusted-proxies"),
        (vec!["--bundles", bundles, "--without-feed", "--uncached-budget", "many"], "uncached-budget"),
        (vec!["--bundles", bundles, "--without-feed", "--tls-cert", "/nonexistent/cert.pem"], "tls-key"),
        (vec!["--bundles", bundles, "--without-feed", "--no-such-flag"], "--no-such-flag"),
    ] {
        let said = refused("countersign-verifier", &arguments);
        assert!(said.contains(named), "{arguments:?} does not name {named}:\n{said}");
    }
}

#[test]
fn dev_names_file_line_and_field_of_a_policy_s_mistake() {
    for (what, old, new, named) in [
        ("an unknown field", "\"audiences\"", "\"audience\"", "audience"),
        ("a duration that is none", "\"24h\"", "\"24 hours\"", "maxTTL"),
        ("an unknown algorithm", "\"HS256\"", "\"HS257\"", "algorithms"),
        ("a secret that is not there", "legacy-jwt", "no-such-secret", "no-such-secret"),
        ("a weak secret", "legacy-jwt", "weak-secret", "32"),
        ("a public http issuer", "https://auth.shop.example", "http://auth.shop.example", "issuer"),
        ("a role that is not there", "\"inherits\":[\"user\"]", "\"inherits\":[\"nobody\"]", "nobody"),
    ] {
        let policies = Policies::new();
        policies.secret("weak-secret", "secret", b"short");
        let text = std::fs::read_to_string(policies.directory().join("shop.yaml")).unwrap();
        assert!(text.contains(old), "{what}: {old} is not in the policy");
        policies.write_text("shop.yaml", &text.replace(old, new));
        let data = tempfile::tempdir().unwrap();
        let mut arguments =
            vec!["dev", "--policies", policies.directory().to_str().unwrap(), "--data-dir", data.path().to_str().unwrap()];
        let listeners: Vec<String> = ["verifier", "verifier-health", "issuer", "issuer-health", "admin"]
            .iter()
            .map(|listener| format!("--{listener}-listen=127.0.0.1:0"))
            .collect();
        arguments.extend(listeners.iter().map(String::as_str));
        let said = refused("countersign", &arguments);
        assert!(said.contains("shop.yaml"), "{what}: the file is not named:\n{said}");
        assert!(said.contains(named), "{what}: {named} is not named:\n{said}");
        assert!(!data.path().join("addresses.json").exists(), "{what}: something was bound");
    }
}
