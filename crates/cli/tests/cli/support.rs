//! `diagnose` and `report`: what one reaches for when something is wrong.

use std::{fs, os::unix::fs::PermissionsExt as _};

use serde_json::{Value, json};

use crate::{
    first_login::post,
    rig::{Dev, Said, eventually, policy},
};

const PASSWORD: &str = "Correct-horse-7-battery";
const EMAIL: &str = "alice@shop.example";

fn account(dev: &Dev) -> String {
    let made = ["users", "create", "--email", EMAIL, "--username", "alice", "--password-stdin", "--verified", "-o", "name"];
    dev.run_with(&made, &format!("{PASSWORD}\n")).line().to_owned()
}

fn login(dev: &Dev, password: &str) -> Value {
    post(dev, "/auth/login", &json!({"username": "alice", "password": password})).1
}

/// The gates that are shut, and the commands that open them.
fn shut(said: &Said) -> Vec<(String, String)> {
    let document = said.json();
    let gates = document["gates"].as_array().unwrap();
    let shut = gates.iter().filter(|gate| gate["open"] == json!(false));
    shut.map(|gate| (gate["gate"].as_str().unwrap().into(), gate["fix"].as_str().unwrap().into())).collect()
}

fn diagnose(dev: &Dev, arguments: &[&str]) -> Said {
    dev.run(&[&["diagnose", "-o", "json"], arguments].concat())
}

/// A word of a command line, as a shell hands it on.
fn words(command: &str) -> Vec<&str> {
    command.strip_prefix("countersign ").unwrap_or_else(|| panic!("no command: {command}")).split(' ').collect()
}

#[test]
fn each_gate_that_is_shut_is_named_and_its_command_opens_it() {
    let dev = Dev::start();
    let id = account(&dev);
    let clean = diagnose(&dev, &["--user-id", EMAIL, "--ip", "203.0.113.7"]);
    assert_eq!((clean.status, shut(&clean)), (0, vec![]), "{clean:?}");
    for gate in
        ["account", "status", "lockout", "rate limit", "address", "second factor", "sessions", "clock", "feed", "verifiers"]
    {
        assert!(clean.json()["gates"].as_array().unwrap().iter().any(|shown| shown["gate"] == gate), "{gate}");
    }

    for _ in 0..5 {
        login(&dev, "a guess");
    }
    dev.run(&["blocks", "add", "203.0.113.0/24", "--reason", "scraper"]).line();
    dev.run(&["users", "disable", &id, "--reason", "left"]).line();
    let said = diagnose(&dev, &["--user-id", "alice", "--ip", "203.0.113.7"]);
    assert_eq!(said.status, 1, "{said:?}");
    let found = shut(&said);
    let gates: Vec<&str> = found.iter().map(|(gate, _)| gate.as_str()).collect();
    assert_eq!(gates, ["status", "lockout", "address"]);
    let here = shut(&diagnose(&dev, &["--user-id", "alice", "--ip", "127.0.0.1"]));
    let limit = here.iter().find(|(gate, _)| gate == "rate limit").expect("five guesses came from here");
    for (_, fix) in found.iter().chain([limit]) {
        assert_eq!(dev.run(&words(fix)).status, 0, "{fix}");
    }
    for address in ["203.0.113.7", "127.0.0.1"] {
        let opened = diagnose(&dev, &["--user-id", "alice", "--ip", address]);
        assert_eq!((opened.status, shut(&opened)), (0, vec![]), "{opened:?}");
    }
    assert_eq!(login(&dev, PASSWORD)["token_type"], "bearer");
    let nobody = diagnose(&dev, &["--user-id", "nobody"]);
    assert_eq!((nobody.status, shut(&nobody)[0].0.as_str()), (1, "account"));
    assert_eq!(dev.run(&["diagnose"]).status, 2, "there is nothing to look at");
}

#[test]
fn a_token_s_checks_are_told_one_by_one_with_the_verifier_s_word() {
    let rules = "  rules: [{name: office-hours, expression: \"request.path.startsWith('/open')\"}]\n";
    let dev = Dev::on_policies(&[("a.yaml", &policy("shop", "  login: {}\n")), ("b.yaml", &policy("ruled", rules))]);
    let shop = ["--policy", "shop/shop"];
    let token = dev.mint(&["--subject", "alice", "--role", "user", "--policy", "shop/shop"]);
    let good = diagnose(&dev, &[&["--token", token.as_str()], &shop[..]].concat());
    assert_eq!((good.status, shut(&good)), (0, vec![]), "{good:?}");
    let forged = format!("{}x", &token[..token.len() - 8]);
    let bad = diagnose(&dev, &[&["--token", forged.as_str()], &shop[..]].concat());
    assert_eq!(shut(&bad).iter().map(|(gate, _)| gate.as_str()).collect::<Vec<_>>(), ["token", "verifier"], "{bad:?}");
    dev.run(&["revoke", "subject", "alice", "--policy", "shop/shop", "--reason", "laptop stolen"]).line();
    let dead = diagnose(&dev, &[&["--token", token.as_str()], &shop[..]].concat());
    assert_eq!(
        shut(&dead).iter().map(|(gate, _)| gate.as_str()).collect::<Vec<_>>(),
        ["revocations", "verifier"],
        "{dead:?}"
    );
    assert!(dead.out.contains("laptop stolen"), "{}", dead.out);
    let token = dev.mint(&["--subject", "alice", "--role", "user", "--policy", "shop/ruled"]);
    let bare = dev.run_with(&["diagnose", "--token", "-", "--policy", "shop/ruled"], &token);
    assert_eq!(bare.status, 0, "{bare:?}");
    assert!(bare.out.contains("office-hours looks at request.path"), "{}", bare.out);
}

/// All secrets that this system has: what it was told, gave out, and keeps in files.
fn secrets(dev: &Dev, tokens: &[&Value]) -> Vec<String> {
    let mut secrets = vec![PASSWORD.to_owned(), "hunter2-pass".to_owned()];
    for tokens in tokens {
        for name in ["access_token", "refresh_token", "device_token", "secret", "key"] {
            if let Some(text) = tokens[name].as_str() {
                secrets.push(text.to_owned());
                // Its signature alone, or a piece of it, would be as bad.
                secrets.extend(text.rsplit(['.', '_']).next().map(str::to_owned));
            }
        }
        secrets
            .extend(tokens["backup_codes"].as_array().into_iter().flatten().map(|code| code.as_str().unwrap().to_owned()));
    }
    for file in ["demo-password", "secret.key"] {
        if let Ok(bytes) = fs::read(dev.data().join(file)) {
            secrets.extend(String::from_utf8(bytes.clone()).ok().map(|text| text.trim().to_owned()));
            secrets.push(bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")));
        }
    }
    secrets.retain(|secret| secret.len() >= 6);
    secrets
}

#[test]
fn a_report_is_one_file_without_a_secret_and_without_people_unless_asked_for() {
    let smtp = [("SMTP_HOST", "127.0.0.1"), ("SMTP_PORT", "9"), ("SMTP_USER", "mailer"), ("SMTP_PASSWORD", "hunter2-pass")];
    let smtp = [
        &smtp[..],
        &[("SMTP_FROM_EMAIL", "no-reply@shop.example"), ("TOKEN_ENCRYPTION_KEY", "sixteen-or-more-characters")],
    ];
    let dev = Dev::with(&[], &smtp.concat());
    let id = account(&dev);
    let tokens = login(&dev, PASSWORD);
    login(&dev, "a guess");
    let scope = dev.run(&["users", "get", &id, "-o", "json"]).json()["permissions"][0].as_str().unwrap().to_owned();
    let made = ["api-keys", "create", "alice", "--name", "ci", "--scope", &scope, "-o", "json"];
    let key = dev.run(&made).json();
    dev.mint(&["--subject", "bob", "--role", "user"]);
    dev.run(&["users", "lock", "alice", "--reason", "asked for by root@shop.example"]).line();
    let mut all = secrets(&dev, &[&tokens, &key]);
    all.push("sixteen-or-more-characters".to_owned());
    assert!(all.len() >= 8, "{}", all.len());

    let said = dev.run(&["report"]);
    let file = dev.path().join(said.line());
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let masked = fs::read_to_string(&file).unwrap();
    let whole = dev.run(&["report", "--include-sensitive", "--to", "-"]).out;
    for (report, people_show) in [(&masked, false), (&whole, true)] {
        for secret in &all {
            assert!(!report.contains(secret.as_str()), "a secret of {} characters shows", secret.len());
        }
        assert!(!report.contains("eyJ") && !report.contains("PRIVATE KEY"));
        let document: Value = serde_json::from_str(report).unwrap();
        let policy = &document["policies"]["default/dev"];
        for part in [&document["status"]["feed"], &document["fleet"]["verifiers"], &policy["effective"], &policy["keys"]] {
            assert!(!part.is_null(), "{document:#}");
        }
        assert!(document["metrics"]["issuer"].as_str().unwrap().contains("auth_login_attempts_total"));
        assert!(document["metrics"]["verifier"].as_str().unwrap().contains("countersign_feed_age_seconds"));
        let kinds: Vec<&str> =
            policy["audit"].as_array().unwrap().iter().filter_map(|e| e["event_type"].as_str()).collect();
        assert!(kinds.contains(&"LOGIN_FAILED") && kinds.contains(&"API_KEY_CREATED"), "{kinds:?}");
        assert_eq!(document["missing"], json!([]));
        for person in ["root@shop.example", "curl/"] {
            assert_eq!(report.contains(person), people_show, "{person}");
        }
        assert_eq!(document["report"]["includes_sensitive"], people_show);
    }

    let again = dev.run(&["report", "--to", file.to_str().unwrap()]);
    assert_eq!(again.status, 3, "no file is overwritten: {again:?}");
    let alone = crate::rig::alone(&["report"]);
    assert_eq!(alone.status, 3, "{alone:?}");
    let mut dev = dev;
    dev.kill();
    let gone = eventually("the server is gone", || Some(dev.run(&["report"])).filter(|said| said.status == 3));
    assert!(gone.out.is_empty(), "{gone:?}");
}
