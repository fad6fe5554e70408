//! What is generated from the command line is what it says.

use std::{fs, path::PathBuf};

use crate::rig::alone;

#[test]
fn the_reference_is_what_help_says() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/cli.md");
    let wanted = countersign_cli::reference();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == wanted, "docs/cli.md differs from --help: run the test with UPDATE_GOLDEN=1 and commit");
}

#[test]
fn every_command_has_help_and_those_with_arguments_have_examples() {
    for command in [
        "dev",
        "demo",
        "token mint",
        "token inspect",
        "verify",
        "revoke",
        "keys list",
        "keys rotate",
        "keys revoke",
        "status",
        "test-flow",
        "diagnose",
        "report",
        "fleet",
        "migrate plan",
        "migrate run",
        "migrate verify",
        "migrate rollback",
        "migrate keys",
        "migrate example",
        "backup",
        "restore",
        "policy check",
        "policy show",
        "policy test",
    ] {
        let mut arguments: Vec<&str> = command.split(' ').collect();
        arguments.push("--help");
        let said = alone(&arguments);
        assert_eq!(said.status, 0, "{said:?}");
        assert!(said.out.contains("Examples:\n  "), "{command} has no examples");
    }
}

#[test]
fn the_resources_definitions_and_completions_are_printed() {
    let crds = alone(&["crds"]);
    assert!(crds.out.contains("authpolicies.countersign.dev") && crds.out.contains("sessions.countersign.dev"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(alone(&["completions", shell]).out.contains("countersign"), "{shell}");
    }
}
