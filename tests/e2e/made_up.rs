//! Calls that schemathesis makes up from the issuer's OpenAPI documents, good ones and bad ones: none is the issuer's own fault,
//! every answer is of a shape that the document names, what the document calls wrong is refused, and what it calls right isn't.

use std::{path::Path, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http::Request,
    rig::{Dev, Policies, report},
};

/// What some calls refuse besides, as no document can say of them.
const CONFIG: &str = include_str!("made_up/schemathesis.toml");
/// How many calls are made up of each kind, for each operation.
const EXAMPLES: &str = "4";
const PASSWORD: &str = "a password of an administrator";

/// A policy whose limits are out of the way.
fn policies() -> Policies {
    let policies = Policies::new();
    policies.write(
        "people",
        &json!({
            "audiences": ["shop-api"], "issuer": "https://auth.people.example",
            "roles": [{"name": "user", "permissions": ["orders:read"]}, {"name": "admin", "permissions": ["*"]}],
            "login": {
                "passwords": {"argon2id": {"memory": "64Ki", "iterations": 1}, "history": 0},
                "registration": {"emailVerification": "Disabled", "defaultRoles": ["user"]},
                "rateLimits": {"login": {}, "register": {}, "passwordReset": {}, "api": {}},
                "addressBlocking": {"mode": "Disabled"}, "lockout": {"maxFailures": 1000},
                "cookies": {"mode": "Enabled"},
            },
        }),
    );
    policies
}

/// The token of an administrator's login.
fn login(dev: &Dev) -> String {
    let account = json!({"email": "ada@shop.example", "username": "ada", "password": PASSWORD, "roles": ["admin"]});
    let made = Request::post("/admin/v1/policies/shop/people/users", &account).send(&dev.admin());
    assert_eq!(made.status, 201, "{}", made.json());
    let login = json!({"username": "ada", "password": PASSWORD});
    let answer = Request::post("/shop/people/auth/login", &login).send(&dev.issuer()).json();
    answer["access_token"].as_str().unwrap_or_else(|| panic!("no token in {answer}")).to_owned()
}

/// One run of schemathesis: what it found is the test's failure.
fn run(directory: &TempDir, document: &str, token: Option<&str>, options: &[&str]) {
    let python = std::env::var("COUNTERSIGN_TEST_PYTHON")
        .expect("COUNTERSIGN_TEST_PYTHON is not set: `cargo xtask test` installs what this needs and sets it");
    let mut schemathesis = Command::new(Path::new(&python).with_file_name("schemathesis"));
    schemathesis
        .current_dir(directory.path())
        .args(["--no-color", "run", document, "--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES])
        .args(["--seed", "1", "--generation-database", "none", "--continue-on-failure", "--warnings", "off"])
        .args(options);
    if let Some(token) = token {
        schemathesis.arg("--header").arg(format!("Authorization: Bearer {token}"));
    }
    let output = schemathesis.output().unwrap_or_else(|error| panic!("schemathesis can't be started: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{document}\n{said}{}", String::from_utf8_lossy(&output.stderr));
    let summary = said.lines().map(str::trim).filter(|line| line.contains("generated") || line.starts_with("Tested:"));
    report(&format!("made-up calls of {document}: {}", summary.collect::<Vec<_>>().join(", ")));
}

#[test]
#[ignore = "needs schemathesis: run `cargo xtask test`"]
fn no_made_up_call_is_the_issuer_s_own_fault_or_answered_in_a_way_that_its_document_does_not_name() {
    let dev = Dev::start(&policies(), None);
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("schemathesis.toml"), CONFIG).unwrap();
    let document = format!("http://{}/shop/people/openapi.json", dev.address("issuer"));

    run(&directory, &document, None, &[]);
    let token = login(&dev);
    // What ends the session that asks is left to the run without one.
    let staying = ["--exclude-path", "/auth/logout", "--exclude-operation-id", "delete_auth_sessions"];
    run(&directory, &document, Some(&token), &staying);
    // Of the process' own calls the TCP listener has none.
    let admin = format!("http://{}/admin/v1/openapi.json", dev.address("admin"));
    run(&directory, &admin, Some(&token_of_an_administrator(&dev)), &["--exclude-tag", "process"]);

    let alive = Request::get("/shop/people/api/v1/auth/health").send(&dev.issuer()).json();
    assert_eq!(alive["status"], Value::from("healthy"), "{alive}");
}

/// One that no session ends.
fn token_of_an_administrator(dev: &Dev) -> String {
    let minted = dev.mint("people", &json!({"subject": "operator", "roles": ["admin"]}));
    minted["token"].as_str().unwrap_or_else(|| panic!("no token in {minted}")).to_owned()
}
