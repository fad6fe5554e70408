//! Accounts and what they hold, looked after from the command line.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
};

use serde_json::{Value, json};

use crate::{
    first_login::post,
    rig::{Dev, Said, alone, eventually, policy},
};

const PASSWORD: &str = "Correct-horse-7-battery";

fn made(dev: &Dev, email: &str, more: &[&str]) -> Said {
    let arguments: Vec<&str> = ["users", "create", "--email", email, "--password-stdin", "--verified", "-o", "json"]
        .iter()
        .chain(more)
        .copied()
        .collect();
    dev.run_with(&arguments, &format!("{PASSWORD}\n"))
}

fn login(dev: &Dev, name: &str, password: &str) -> (u16, Value) {
    post(dev, "/auth/login", &json!({"username": name, "password": password}))
}

fn status_of(dev: &Dev, user: &str) -> String {
    dev.run(&["users", "get", user, "-o", "json"]).json()["status"].as_str().unwrap().to_owned()
}

#[test]
fn the_first_administrator_is_made_and_accounts_are_locked_unlocked_and_erased() {
    let dev = Dev::start();
    let root = made(&dev, "root@shop.example", &["--role", "admin", "--username", "root"]);
    assert_eq!(root.status, 0, "{root:?}");
    assert_eq!(root.json()["roles"], json!(["admin"]));
    assert!(!format!("{root:?}").contains(PASSWORD));
    let weak = dev.run_with(&["users", "create", "--email", "x@shop.example", "--password-stdin"], "short\n");
    assert_eq!(weak.status, 2, "{weak:?}");
    assert!(weak.err.contains("at least"), "{}", weak.err);
    assert_eq!(login(&dev, "root", PASSWORD).0, 200);

    let listed = dev.run(&["users", "list"]);
    assert!(listed.out.contains("root@shop.example") && listed.out.contains("admin"), "{}", listed.out);
    let lock = dev.run(&["users", "lock", "root", "--reason", "laptop stolen"]);
    assert_eq!(lock.status, 0, "{lock:?}");
    assert!(lock.err.contains("policy default/dev"), "the target is said first: {}", lock.err);
    assert_eq!((status_of(&dev, "root").as_str(), login(&dev, "root", PASSWORD).0), ("locked", 423));
    let unlock = dev.run(&["users", "unlock", "root@shop.example"]);
    assert!(unlock.out.contains("laptop stolen"), "{}", unlock.out);
    assert_eq!(login(&dev, "root", PASSWORD).0, 200);
    dev.run(&["users", "disable", "root", "--reason", "left"]).line();
    assert_eq!(login(&dev, "root", PASSWORD).1["error"], "account_disabled");
    dev.run(&["users", "enable", "root"]).line();

    let refused = dev.run(&["users", "delete", "root"]);
    assert_eq!(refused.status, 2, "there is nobody to ask: {refused:?}");
    let dry = dev.run(&["users", "delete", "root", "--dry-run"]);
    assert!(dry.err.contains("would erase"), "{dry:?}");
    dev.run(&["users", "delete", "root", "--yes"]).line();
    let gone = dev.run(&["users", "get", "root"]);
    assert_eq!(gone.status, 3, "{gone:?}");
    assert!(gone.err.contains("no such account"), "{}", gone.err);
}

#[test]
fn sessions_keys_and_blocks_are_listed_and_ended() {
    let dev = Dev::start();
    made(&dev, "alice@shop.example", &["--role", "user", "--username", "alice"]).line();
    for _ in 0..2 {
        assert_eq!(login(&dev, "alice", PASSWORD).0, 200);
    }
    let listed = dev.run(&["sessions", "list", "alice", "-o", "name"]);
    let ids: Vec<&str> = listed.out.lines().collect();
    assert_eq!(ids.len(), 2, "{listed:?}");
    assert_eq!(dev.run(&["sessions", "end", ids[0]]).line(), "1 sessions ended");
    assert_eq!(dev.run(&["sessions", "end", "--all", "alice"]).line(), "1 sessions ended");
    assert!(dev.run(&["sessions", "list", "alice"]).out.contains("no session"));

    let scope = dev.run(&["users", "get", "alice", "-o", "json"]).json()["permissions"][0].as_str().unwrap().to_owned();
    let key = dev.run(&["api-keys", "create", "alice", "--name", "ci", "--scope", &scope, "--expires-in", "1h"]);
    assert!(key.line().starts_with("csk_"), "{key:?}");
    assert_eq!(dev.run(&["verify", key.line()]).status, 0);
    let id = dev.run(&["api-keys", "list", "alice", "-o", "name"]).line().to_owned();
    assert_eq!(dev.run(&["api-keys", "revoke", &id]).line(), "1 API keys revoked");
    assert_eq!(dev.run(&["verify", key.line()]).status, 1);
    let beyond = dev.run(&["api-keys", "create", "alice", "--name", "ci", "--scope", "countersign:admin"]);
    assert_eq!(beyond.status, 2, "{beyond:?}");

    dev.run(&["blocks", "add", "203.0.113.0/24", "--reason", "scraper", "--for", "1h"]).line();
    assert_eq!(dev.run(&["blocks", "list", "-o", "name"]).line(), "203.0.113.0/24");
    let own = dev.run(&["blocks", "add", "10.0.0.0/8"]);
    assert_eq!(own.status, 2, "{own:?}");
    assert_eq!(dev.run(&["blocks", "remove", "203.0.113.0/24"]).line(), "1 blocks lifted");
    assert!(dev.run(&["blocks", "list"]).out.contains("nothing is blocked"));
}

#[test]
fn the_trail_is_listed_exported_and_verified() {
    let dev = Dev::start();
    made(&dev, "alice@shop.example", &["--username", "alice"]).line();
    login(&dev, "alice", "wrong");
    login(&dev, "alice", PASSWORD);
    let listed = dev.run(&["audit", "list", "--severity", "warning"]);
    assert!(listed.out.contains("LOGIN_FAILED") && !listed.out.contains("LOGIN_SUCCEEDED"), "{}", listed.out);
    let lines = dev.run(&["audit", "list", "--jsonl"]);
    let kinds: Vec<String> = lines
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["event_type"].as_str().unwrap().to_owned())
        .collect();
    assert!(kinds.contains(&"USER_CREATED".to_owned()) && kinds.contains(&"LOGIN_SUCCEEDED".to_owned()), "{kinds:?}");
    let file = dev.data().join("audit.jsonl");
    let file = file.to_str().unwrap();
    assert_eq!(dev.run(&["audit", "list", "--jsonl", "--to", file]).status, 0);
    assert!(std::fs::read_to_string(file).unwrap().lines().count() >= kinds.len());
    let again = dev.run(&["audit", "list", "--jsonl", "--to", file]);
    assert_eq!(again.status, 3, "no file is overwritten: {again:?}");
    assert!(dev.run(&["audit", "verify"]).line().starts_with("the chain is whole"));
    let forged = format!("1:{}", "00".repeat(32));
    let broken = crate::rig::eventually("the trail is sealed", || {
        Some(dev.run(&["audit", "verify", "--head", &forged])).filter(|said| said.status == 1)
    });
    assert!(broken.out.contains("broken"), "{broken:?}");
}

#[test]
fn the_people_of_a_policy_are_erased_when_it_is_gone_for_longer_than_it_says_and_no_sooner() {
    let login = "  login: {registration: {emailVerification: Disabled}}\n";
    let files = [
        ("short.yaml", policy("short", &format!("  retainAfterDelete: 1s\n{login}"))),
        ("long.yaml", policy("long", login)),
        ("stays.yaml", policy("stays", "")),
    ];
    let all: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let dev = Dev::with_policies(&all, &[("LOG_LEVEL", "info")]);
    let ann = json!({"email": "ann@shop.example", "username": "ann", "password": PASSWORD});
    for name in ["short", "long"] {
        let (status, made) = post(&dev, &format!("/shop/{name}/auth/register"), &ann);
        assert_eq!(status, 201, "{made}");
        std::fs::remove_file(dev.policies().join(format!("{name}.yaml"))).unwrap();
    }
    eventually("they are erased", || dev.said().contains("are erased").then_some(()));
    assert!(!dev.said().contains("policy=shop/long rows="), "{}", dev.said());
    for (name, text) in &files[..2] {
        dev.write(name, text);
    }
    for (name, wanted) in [("long", 200), ("short", 401)] {
        let path = format!("/shop/{name}/auth/login");
        eventually(name, || (post(&dev, &path, &ann).0 == wanted).then_some(()));
    }
}

/// A server that could tell no verifier of what it did. Where it listens.
fn cut_off() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let body =
        json!({"id": "a", "network": "198.51.100.0/24", "revoked": 1, "position": null, "pending": true}).to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while stream.read_line(&mut line).unwrap() > 2 {
                if let Some(said) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = said.trim().parse().unwrap();
                }
                line.clear();
            }
            stream.read_exact(&mut vec![0; length]).unwrap();
            let head = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nConnection: close";
            write!(stream.get_mut(), "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    format!("http://{address}")
}

#[test]
fn what_verifiers_have_not_heard_of_is_not_done() {
    let server = cut_off();
    for command in [
        &["users", "lock", "alice", "--reason", "x"][..],
        &["users", "disable", "alice"],
        &["users", "reset-mfa", "alice"],
        &["users", "delete", "alice", "--yes"],
        &["sessions", "end", "a"],
        &["api-keys", "revoke", "a"],
        &["blocks", "add", "198.51.100.0/24"],
        &["blocks", "remove", "198.51.100.0/24"],
    ] {
        let more = ["--server", server.as_str(), "--policy", "shop/shop"];
        let said = alone(&[command, &more].concat());
        assert_eq!(said.status, 3, "{command:?}: {said:?}");
        assert!(said.out.contains("verifiers hear of it later"), "{command:?}: {said:?}");
    }
}
