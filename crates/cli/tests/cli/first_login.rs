//! What `dev` prints is there and works: a demo user, calls to paste, and mails that stay here.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::rig::{Dev, eventually, run_with};

/// A call by curl: status and body.
fn curl(url: &str, arguments: &[&str]) -> (u16, Value) {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-w", "\n%{http_code}", url]).args(arguments);
    let said = run_with(curl, "");
    let (body, status) = said.out.rsplit_once('\n').unwrap();
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or(Value::Null))
}

fn issuer(dev: &Dev, path: &str) -> String {
    format!("http://{}{path}", dev.addresses()["issuer"].as_str().unwrap())
}

pub(crate) fn post(dev: &Dev, path: &str, body: &Value) -> (u16, Value) {
    curl(&issuer(dev, path), &["--json", &body.to_string()])
}

#[test]
fn the_calls_that_dev_prints_work_as_they_stand() {
    let dev = Dev::unstarted();
    let mut child = dev.command().stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut printed = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap) {
        let last = line.contains("countersign verify");
        printed.push(line);
        if last {
            break;
        }
    }
    let calls = printed.iter().skip_while(|line| !line.starts_with("Try it:")).skip(1);
    let script = calls.map(|line| line.trim()).collect::<Vec<_>>().join("\n");
    let path = format!("{}:{}", Dev::binaries().display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(dev.path()).env("PATH", path).env("KUBECONFIG", "/nonexistent/kubeconfig");
    let said = run_with(shell, "");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.out.contains("\"username\":\"demo\""), "{printed:#?}\n{said:?}");
    assert!(said.out.contains("\"verdict\":\"valid\""), "{said:?}");
    assert!(said.out.contains("\"position\""), "logged out: {said:?}");
    assert!(said.out.contains("revoked"), "and the verifier knows: {said:?}");
    let row = printed.iter().find(|line| line.contains("demo user")).unwrap();
    assert!(row.contains("demo, password Cs1-"), "{row}");
}

#[test]
fn the_demo_user_is_made_once_and_only_for_the_built_in_policy() {
    let mut dev = Dev::start();
    let file = dev.data().join("demo-password");
    let password = eventually("the demo user is there", || std::fs::read_to_string(&file).ok());
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let body = json!({"username": "demo", "password": password});
    let (status, login) = post(&dev, "/auth/login", &body);
    assert_eq!((status, &login["user"]["roles"]), (200, &json!(["user"])), "{login}");
    let bearer = format!("Authorization: Bearer {}", login["access_token"].as_str().unwrap());
    let erase = json!({"password": password}).to_string();
    let (status, erased) = curl(&issuer(&dev, "/users/me"), &["-X", "DELETE", "-H", &bearer, "--json", &erase]);
    assert_eq!(status, 200, "{erased}");
    dev.restart();
    assert_eq!(post(&dev, "/auth/login", &body).0, 401, "who erased it doesn't get it back");
    let own = Dev::on_policies(&[("shop.yaml", &crate::rig::policy("shop", ""))]);
    assert!(!own.data().join("demo-password").exists());
}

#[test]
fn mails_stay_in_the_outbox_and_their_links_are_printed_and_work() {
    let dev = Dev::start();
    let body = json!({"email": "ann@shop.example", "password": "Correct-horse-1"});
    let (status, made) = post(&dev, "/auth/register", &body);
    assert_eq!((status, &made["status"]), (201, &json!("active")), "nobody verifies where no mail leaves: {made}");
    assert_eq!(post(&dev, "/auth/forgot-password", &json!({"email": "ann@shop.example"})).0, 202);
    let link = eventually("the link is printed", || {
        let said = dev.said();
        said.lines().map(str::trim).find(|line| line.contains("/auth/reset-password?token=")).map(str::to_owned)
    });
    let mails: Vec<_> = std::fs::read_dir(dev.data().join("outbox")).unwrap().map(|mail| mail.unwrap().path()).collect();
    assert_eq!(mails.len(), 1);
    assert_eq!(std::fs::metadata(&mails[0]).unwrap().permissions().mode() & 0o777, 0o600);
    let (_, query) = link.split_once("/auth/").unwrap();
    let page = run_with(
        {
            let mut curl = Command::new("curl");
            curl.args(["-s", &issuer(&dev, &format!("/auth/{query}"))]);
            curl
        },
        "",
    );
    assert!(page.out.contains("<form"), "{page:?}");
    let token = link.split_once("token=").unwrap().1;
    let (status, answer) = post(&dev, "/auth/reset-password", &json!({"token": token, "new_password": "Correct-horse-2"}));
    assert_eq!(status, 200, "{answer}");
    let login = json!({"email": "ann@shop.example", "password": "Correct-horse-2"});
    assert_eq!(post(&dev, "/auth/login", &login).0, 200);
}

#[test]
fn with_a_mail_server_addresses_must_be_verified_and_a_wrong_setting_is_named() {
    let smtp = [("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", "9"), ("SMTP_FROM_EMAIL", "no-reply@shop.example")];
    let dev = Dev::with(&[], &smtp);
    let (status, made) = post(&dev, "/auth/register", &json!({"email": "ann@shop.example", "password": "Correct-horse-1"}));
    assert_eq!((status, &made["status"]), (201, &json!("pending")), "{made}");
    assert!(!dev.data().join("outbox").exists());
    for (name, value) in [("SMTP_PORT", "high"), ("SMTP_TLS", "perhaps"), ("SMTP_USER", "ann")] {
        let other = Dev::unstarted();
        let mut command = other.command();
        command.env("SMTP_HOST", "127.0.0.1").env(name, value);
        let said = run_with(command, "");
        assert_eq!(said.status, 2, "{said:?}");
        assert!(said.err.contains("SMTP_"), "{said:?}");
    }
}
