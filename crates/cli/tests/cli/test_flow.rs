//! `test-flow`: every step of a login on a running system, and nothing left behind.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    first_login::post,
    rig::{Dev, Said, countersign, eventually, policy},
};

const EMAIL: &str = "probe@shop.example";

fn flow(dev: &Dev, more: &[&str]) -> Said {
    let mut arguments = vec!["test-flow", "--email", EMAIL, "-o", "json"];
    arguments.extend(more);
    dev.run(&arguments)
}

fn results(said: &Said) -> Vec<(String, String)> {
    let document = said.json();
    let steps = document["steps"].as_array().unwrap();
    steps.iter().map(|step| (step["step"].as_str().unwrap().into(), step["result"].as_str().unwrap().into())).collect()
}

fn all_held(said: &Said) -> Vec<String> {
    assert_eq!(said.status, 0, "{said:?}");
    let document = said.json();
    assert_eq!(
        (&document["ok"], &document["failed"], &document["left_behind"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    for step in document["steps"].as_array().unwrap() {
        assert_eq!(step["result"], "ok", "{step}");
        assert!(step["took_ms"].as_f64().unwrap() > 0.0, "{step}");
    }
    results(said).into_iter().map(|(name, _)| name).collect()
}

/// Addresses of all accounts but `dev`'s own.
fn accounts(dev: &Dev) -> Vec<String> {
    let listed = dev.run(&["users", "list", "-o", "json"]).json();
    let emails = listed["users"].as_array().unwrap().iter().map(|user| user["email"].as_str().unwrap().to_owned());
    emails.filter(|email| !email.starts_with("demo@")).collect()
}

const STEPS: [&str; 9] = [
    "register",
    "login",
    "set up second factor",
    "login with second factor",
    "verify",
    "refresh",
    "logout",
    "tokens refused",
    "clean up",
];

#[test]
fn every_step_is_taken_and_timed_and_the_account_is_gone_afterwards() {
    let dev = Dev::start();
    let said = flow(&dev, &[]);
    assert_eq!(all_held(&said), STEPS);
    assert_eq!(accounts(&dev), [""; 0]);
    let kinds = dev.run(&["audit", "list", "--jsonl"]).out;
    for kind in ["USER_CREATED", "MFA_ENABLED", "LOGIN_SUCCEEDED", "SESSION_REVOKED"] {
        assert!(kinds.contains(kind), "the system saw {kind}: {kinds}");
    }
    let shown = dev.run(&["test-flow", "--email", EMAIL]);
    assert_eq!(shown.status, 0, "{shown:?}");
    assert!(shown.out.starts_with("STEP") && shown.out.contains("tokens refused"), "{}", shown.out);
    let dry = dev.run(&["test-flow", "--email", EMAIL, "--dry-run"]);
    assert!(dry.status == 0 && dry.err.contains("would make the account"), "{dry:?}");
}

#[test]
fn a_client_without_rights_cleans_up_by_itself_and_lets_the_issuer_judge() {
    let dev = Dev::start();
    let issuer = format!("http://{}", dev.addresses()["issuer"].as_str().unwrap());
    let said = flow(&dev, &["--server", &issuer]);
    assert_eq!(all_held(&said), STEPS);
    let document = said.json();
    let detail = |name: &str| {
        let steps = document["steps"].as_array().unwrap();
        steps.iter().find(|step| step["step"] == name).unwrap()["detail"].as_str().unwrap().to_owned()
    };
    assert!(detail("verify").contains("the issuer"), "{document}");
    assert!(detail("clean up").contains("by itself"), "{document}");
    assert_eq!(accounts(&dev), [""; 0]);
}

#[test]
fn closed_doors_and_addresses_to_verify_are_an_administrator_s_or_the_outbox_s() {
    let strict =
        "  login: {registration: {mode: Closed}, mfa: {mode: Required}, sessions: {maxConcurrent: 1, onLimit: Reject}}\n";
    let mailed = "  login: {mail: {from: \"no-reply@shop.example\"}, registration: {emailVerification: Required}}\n";
    let dev = Dev::on_policies(&[("a.yaml", &policy("strict", strict)), ("b.yaml", &policy("mailed", mailed))]);
    let said = flow(&dev, &["--policy", "shop/strict"]);
    assert_eq!(all_held(&said), STEPS);
    let said = flow(&dev, &["--policy", "shop/mailed"]);
    assert!(all_held(&said).contains(&"verify e-mail".to_owned()), "{said:?}");
    let issuer = format!("http://{}", dev.addresses()["issuer"].as_str().unwrap());
    let stranger = flow(&dev, &["--policy", "shop/strict", "--server", &issuer]);
    assert_eq!(stranger.status, 1, "{stranger:?}");
    assert_eq!(results(&stranger), [("register".to_owned(), "failed".to_owned())]);
    assert!(stranger.err.contains("\"register\"") && stranger.err.contains("--issuer"), "with the fix: {}", stranger.err);
}

#[test]
fn an_account_that_was_there_before_is_not_touched() {
    let dev = Dev::start();
    let account = json!({"email": EMAIL, "password": "Correct-horse-1"});
    assert_eq!(post(&dev, "/auth/register", &account).0, 201);
    let said = flow(&dev, &[]);
    assert_eq!(said.status, 1, "{said:?}");
    assert_eq!(said.json()["failed"], "register");
    assert!(said.err.contains("no account"), "{}", said.err);
    assert_eq!(accounts(&dev), [EMAIL]);
    assert_eq!(post(&dev, "/auth/login", &account).0, 200, "its password is its own still");
}

#[test]
fn a_step_that_fails_is_named_and_what_was_made_is_erased() {
    let (dev, other) = (Dev::start(), Dev::start());
    let strangers = format!("http://{}", other.addresses()["verifier"].as_str().unwrap());
    let said = flow(&dev, &["--verifier", &strangers]);
    assert_eq!(said.status, 1, "{said:?}");
    assert_eq!(said.json()["failed"], "verify");
    assert!(said.err.contains("step \"verify\" failed") && said.err.contains("countersign fleet"), "{}", said.err);
    assert_eq!(results(&said).last().unwrap(), &("clean up".to_owned(), "ok".to_owned()));
    assert_eq!(accounts(&dev), [""; 0]);
    let unreachable = flow(&dev, &["--verifier", "http://127.0.0.1:9"]);
    assert_eq!((unreachable.status, accounts(&dev).len()), (3, 0), "{unreachable:?}");
}

#[test]
fn a_signal_ends_it_and_the_account_goes_too() {
    // A code counts from its own time on, which is minutes away: the way stands still there.
    let slow = "  login: {mfa: {totp: {period: 5m, skew: 0}}, registration: {emailVerification: Disabled}}\n";
    let dev = Dev::on_policies(&[("a.yaml", &policy("shop", slow))]);
    let mut command = countersign();
    command.args(["test-flow", "--email", EMAIL, "-o", "json"]).current_dir(dev.path());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("a code is waited for", || {
        dev.run(&["audit", "list", "--jsonl", "--type", "MFA_FAILED"]).out.contains("MFA_FAILED").then_some(())
    });
    assert_eq!(accounts(&dev), [EMAIL]);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let said = Said::from(child.wait_with_output().unwrap());
    assert_eq!(said.status, 1, "{said:?}");
    assert!(said.err.contains("cleaning up"), "{}", said.err);
    assert_eq!(results(&said).last().unwrap(), &("clean up".to_owned(), "ok".to_owned()));
    assert_eq!(accounts(&dev), [""; 0]);
}
