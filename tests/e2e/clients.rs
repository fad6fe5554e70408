//! Others' clients, unchanged: the programs of `tests/clients`, on the policy of the guide for moving over.

use std::{fs, path::Path, process::Command};

use serde_json::{Value, json};

use crate::rig::{Dev, binary};

const GUIDE: &str = include_str!("../../docs/guides/from-fastapi.md");
const SERVICE: &str = include_str!("../clients/python/service.py");
/// What signed tokens before.
pub(crate) const JWT_SECRET_KEY: &str = "a-legacy-secret-of-at-least-32-bytes!";

/// A program of `tests/clients`.
fn program(name: &str) -> String {
    format!("{}/../clients/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("{name} is not set: `cargo xtask test` installs what this needs and sets it"))
}

fn python(name: &str) -> Command {
    let mut python = Command::new(variable("COUNTERSIGN_TEST_PYTHON"));
    // -B: nothing is written beside the sources.
    python.arg("-B").arg(program(name));
    python
}

/// The first block of that language in the guide.
pub(crate) fn in_the_guide(language: &str) -> &'static str {
    let (_, from) = GUIDE.split_once(&format!("```{language}\n")).unwrap();
    from.split_once("```").unwrap().0
}

/// A front end's user in Python, who is told where things are.
pub(crate) fn python_frontend(told: &Value) {
    walk(python("python/frontend.py").arg(told.to_string()));
}

/// And one in Node.
pub(crate) fn node_frontend(told: &Value) {
    let modules = variable("COUNTERSIGN_TEST_NODE_MODULES");
    walk(Command::new("node").arg(program("node/frontend.mjs")).arg(told.to_string()).arg(modules));
}

/// Runs a client to its end; what it says of the step that failed is the test's failure.
fn walk(client: &mut Command) {
    let output =
        client.output().unwrap_or_else(|error| panic!("{} can't be started: {error}", client.get_program().display()));
    let (steps, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{steps}{errors}");
}

/// `dev` on the guide's policy, and what clients are told of it.
fn deployment(policies: &Path) -> (Dev, Value) {
    fs::write(policies.join("app.yaml"), in_the_guide("yaml")).unwrap();
    let dev = Dev::start_on(policies, &[("JWT_SECRET_KEY", JWT_SECRET_KEY)]);
    let told = json!({
        "issuer": dev.address("issuer"), "verifier": dev.address("verifier"), "policy": "shop/app",
        "outbox": dev.data().join("outbox"), "jwt_secret_key": JWT_SECRET_KEY,
    });
    (dev, told)
}

#[test]
fn the_guide_shows_the_service_that_the_tests_run() {
    assert_eq!(in_the_guide("python"), SERVICE);
}

#[test]
#[ignore = "needs Python's requests, PyJWT and pyotp: run `cargo xtask test`"]
fn a_python_client_of_a_fastapi_login_goes_on_as_it_is() {
    let policies = tempfile::tempdir().unwrap();
    let (_dev, told) = deployment(policies.path());
    python_frontend(&told);
}

#[test]
#[ignore = "needs Node's jose: run `cargo xtask test`"]
fn a_node_client_of_a_fastapi_login_goes_on_as_it_is() {
    let policies = tempfile::tempdir().unwrap();
    let (_dev, told) = deployment(policies.path());
    node_frontend(&told);
}

#[test]
#[ignore = "needs Python's requests, PyJWT and pyotp: run `cargo xtask test`"]
fn a_deployment_keeps_its_environment() {
    let directory = tempfile::tempdir().unwrap();
    walk(python("python/environment.py").arg(binary("countersign")).arg(directory.path()));
}
