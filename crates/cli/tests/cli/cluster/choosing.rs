//! Which target a command speaks to.

use std::process::Command;

use super::cluster;
use crate::rig::{Dev, run_with};

/// A command beside a running `dev`, with a kubeconfig in the environment.
fn beside(dev: &Dev, server: &crate::api_server::ApiServer, arguments: &[&str]) -> Command {
    let mut command = server.command(arguments);
    command.current_dir(dev.path());
    command
}

#[test]
fn a_change_needs_one_of_the_two_named_where_both_a_dev_server_and_a_context_could_be_meant() {
    let (dev, server) = (Dev::start(), cluster());
    for change in [&["keys", "rotate"][..], &["token", "mint", "--subject", "a"], &["revoke", "subject", "a", "-y"]] {
        let said = run_with(beside(&dev, &server, change), "");
        assert_eq!(said.status, 2, "{said:?}");
        assert!(said.err.contains("which is meant") && said.err.contains("--context prod-eu"), "{said:?}");
    }
    assert!(server.world().asked.is_empty());
    // Looking harms nobody: the server here comes first.
    let listed = run_with(beside(&dev, &server, &["keys", "list", "-o", "name"]), "");
    assert!(listed.status == 0 && listed.out != "k1\n", "{listed:?}");
    let minted = run_with(beside(&dev, &server, &["--server", "unix:.countersign", "token", "mint", "--subject", "a"]), "");
    assert!(minted.status == 0 && minted.err.contains("unix:.countersign/admin.sock, policy default/dev"), "{minted:?}");
    let there = run_with(beside(&dev, &server, &["--context", "prod-eu", "keys", "list", "-o", "name"]), "");
    assert_eq!(there.out, "k1\n", "{there:?}");
}

#[test]
fn a_named_server_comes_before_a_named_cluster() {
    let (dev, server) = (Dev::start(), cluster());
    let mut command = beside(&dev, &server, &["--context", "prod-eu", "keys", "list", "-o", "name"]);
    command.env("COUNTERSIGN_SERVER", "unix:.countersign");
    let said = run_with(command, "");
    assert!(said.status == 0 && said.out != "k1\n", "{said:?}");
}

#[test]
fn as_kubectls_plugin_the_current_context_is_meant() {
    let (dev, server) = (Dev::start(), cluster());
    let plugin = dev.path().join("kubectl-countersign");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_countersign"), &plugin).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(&plugin);
        command.args(arguments).env("KUBECONFIG", server.kubeconfig()).env_remove("COUNTERSIGN_SERVER");
        command.current_dir(dev.path());
        run_with(command, "")
    };
    assert_eq!(run(&["keys", "list", "-o", "name"]).out, "k1\n");
    assert!(run(&["keys", "--help"]).out.contains("Usage: kubectl countersign keys"));
}

#[test]
fn a_context_that_nobody_named_is_looked_at_and_changed_only_with_consent() {
    let server = cluster();
    let said = run_with(server.command(&["keys", "list", "-o", "name"]), "");
    assert!(said.out == "k1\n" && said.err.contains("cluster prod-eu: the kubeconfig's current context"), "{said:?}");
    server.world().asked.clear();
    let said = run_with(server.command(&["keys", "rotate", "--no-wait"]), "");
    assert!(said.status == 2 && said.err.contains("name it with --context prod-eu"), "{said:?}");
    assert!(server.world().asked.is_empty());
    let said = run_with(server.command(&["keys", "rotate", "--no-wait", "--yes"]), "");
    assert!(said.status == 0 && said.err.contains("cluster prod-eu, policy shop/shop"), "{said:?}");
    let said = run_with(server.command(&["keys", "list", "-o", "name", "--kubeconfig", "kubeconfig"]), "");
    assert_eq!(said.out, "k1\n", "{said:?}");
}

#[test]
fn a_length_of_time_after_wait_and_a_space_is_no_id() {
    let server = cluster();
    for command in [&["revoke", "key", "k1", "--wait", "30s"][..], &["keys", "rotate", "--wait", "1m"]] {
        let said = server.run(command);
        assert!(said.status == 2 && said.err.contains("write --wait="), "{said:?}");
    }
    assert!(server.world().asked.is_empty());
}
