//! The admin API as a program calls it, and as somebody would who has no business there.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
};

use serde_json::{Value, json};

use crate::rig::{Dev, eventually, policy};

/// One call; the status, and the body as JSON (every answer is).
fn call(mut stream: impl std::io::Read + std::io::Write, method: &str, path: &str, more: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{more}Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A body that is too large is answered before it is read to its end.
    let _ = stream.write_all(body.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.get(9..12).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{method} {path}: {answer:?}"));
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, serde_json::from_str(body).unwrap_or_else(|e| panic!("{method} {path}: {e}: {answer}")))
}

pub(crate) fn over_socket(dev: &Dev, method: &str, path: &str, body: &str) -> (u16, Value) {
    let stream = UnixStream::connect(dev.data().join("admin.sock")).unwrap();
    call(stream, method, &format!("/admin/v1{path}"), "", body)
}

fn over_tcp(dev: &Dev, path: &str, bearer: &str) -> (u16, Value) {
    let stream = TcpStream::connect(dev.addresses()["admin"].as_str().unwrap()).unwrap();
    call(stream, "GET", path, &format!("Authorization: Bearer {bearer}\r\n"), "")
}

#[test]
fn what_is_wrong_with_a_call_is_said_in_json() {
    let dev = Dev::start();
    let long = "a".repeat(1025);
    let big = "a".repeat(70_000);
    for (path, body, status) in [
        ("revocations", json!({"kind": "subject", "id": "a\u{0}b"}).to_string(), 422),
        ("revocations", json!({"kind": "subject", "id": long}).to_string(), 422),
        ("revocations", json!({"kind": "subject", "id": 5}).to_string(), 422),
        ("revocations", json!({"kind": "subject", "id": "a", "before": 99_999_999_999_u64}).to_string(), 400),
        ("revocations", json!({"kind": "subject", "id": "a", "before": "2026"}).to_string(), 422),
        ("revocations", json!({"kind": "subject", "id": "a", "issuer": "https://unknown"}).to_string(), 422),
        ("revocations", json!({"kind": "policy", "id": "everything"}).to_string(), 422),
        ("revocations", json!({"kind": "ip", "id": "203.0.113.7", "ttl_s": i64::MAX}).to_string(), 422),
        ("revocations", json!({"credential": "nonsense"}).to_string(), 422),
        ("revocations", r#"{"kind": "subject", "id": "a", "id": "b"}"#.into(), 400),
        ("revocations", "nonsense".into(), 400),
        ("revocations", String::new(), 400),
        ("revocations", "[]".into(), 400),
        ("revocations", big, 413),
        ("revocations?wait_ms=-1", json!({"kind": "subject", "id": "a"}).to_string(), 422),
        ("tokens", json!({}).to_string(), 422),
        ("tokens", json!({"subject": ""}).to_string(), 422),
        ("tokens", json!({"subject": "a", "ttl_s": i64::MIN}).to_string(), 422),
        ("tokens", json!({"subject": "a", "scopes": ["a b"]}).to_string(), 422),
        ("keys/rotate", json!({"ring": "every"}).to_string(), 422),
        ("nonsense", json!({}).to_string(), 404),
        ("verifiers", json!({}).to_string(), 405),
    ] {
        let (found, answer) = over_socket(&dev, "POST", &format!("/policies/default/dev/{path}"), &body);
        assert_eq!(found, status, "{path} {}: {answer}", body.get(..80).unwrap_or(&body));
        let code = match status {
            400 => "invalid_request",
            404 => "not_found",
            405 => "method_not_allowed",
            413 => "payload_too_large",
            _ => "validation_failed",
        };
        assert!(answer["error"] == code && answer["detail"].is_string(), "{answer}");
        for theirs in ["expected", "deserialize", "f64", "i64"] {
            assert!(!answer["detail"].as_str().unwrap().contains(theirs), "a library's words: {answer}");
        }
    }
    for path in ["revocations?limit=many", "verifiers?position=nonsense"] {
        assert_eq!(over_socket(&dev, "GET", &format!("/policies/default/dev/{path}"), "").0, 422);
    }
    assert_eq!(over_socket(&dev, "GET", "/policies/default/dev/revocations", "").1["revocations"], json!([]));
    // Null is what isn't there.
    let minted = json!({"subject": "a", "roles": null, "scopes": null, "audiences": null, "ttl_s": null});
    assert_eq!(over_socket(&dev, "POST", "/policies/default/dev/tokens", &minted.to_string()).0, 200);
}

#[test]
fn an_administrator_of_one_policy_is_nobody_to_another_whatever_the_path_says() {
    let admin = |name: &str| policy(name, "").replace("\"orders:read\"", "\"countersign:admin\"");
    let dev = Dev::on_policies(&[("a.yaml", &admin("a")), ("b.yaml", &admin("b"))]);
    let token = dev.mint(&["--policy", "shop/a", "--subject", "operator", "--role", "user"]);
    assert_eq!(over_tcp(&dev, "/admin/v1/policies/shop/a/keys", &token).0, 200);
    for (path, status) in [
        ("/admin/v1/policies/shop/b/keys", 401),
        ("/admin/v1/policies/shop%2Fb/keys", 404),
        ("/admin/v1/policies/shop/a/../b/keys", 404),
        ("/admin/v1/policies/shop/a/%2e%2e/b/keys", 404),
        ("/admin/v1/policies/shop/a/nonsense", 404),
        ("/admin/v1/nonsense", 404),
        ("/admin/v1/policies/shop/%62/keys", 401),
        ("/admin/v1//policies/shop/b/keys", 404),
        ("/admin/v1/policies", 403),
        ("/admin/v1/status", 403),
        ("/admin/v1/fleet", 403),
        ("/admin/v1/policy-of", 403),
        ("/", 404),
    ] {
        let (found, answer) = over_tcp(&dev, path, &token);
        assert_eq!(found, status, "{path}: {answer}");
    }
    assert_eq!(over_tcp(&dev, "/admin/v1/policies/shop/a/keys", &format!("{token}, Bearer {token}")).0, 401);
}

#[test]
fn without_a_credential_the_challenge_names_no_error() {
    let dev = Dev::start();
    for (more, challenge) in [("", "Bearer"), ("Authorization: Bearer nonsense\r\n", "Bearer error=\"invalid_token\"")] {
        let mut stream = TcpStream::connect(dev.addresses()["admin"].as_str().unwrap()).unwrap();
        let head =
            format!("GET /admin/v1/policies/default/dev/keys HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(answer.contains(&format!("www-authenticate: {challenge}\r\n")), "{answer}");
    }
}

#[test]
fn a_network_that_holds_private_addresses_is_not_blocked() {
    let dev = Dev::start();
    for network in ["8.0.0.0/5", "128.0.0.0/1", "::/8", "f000::/4", "::ffff:10.0.0.0/104", "0.0.0.0/0"] {
        let said = dev.run(&["revoke", "ip", network]);
        assert_eq!(said.status, 2, "{network}: {said:?}");
    }
    assert_eq!(dev.run(&["revoke", "ip", "::ffff:203.0.113.0/120"]).status, 0);
    let token = dev.mint(&["--subject", "alice"]);
    assert_eq!(dev.verdict(&token, &["--ip", "203.0.113.7"]), (1, "denied".into()));
    assert_eq!(dev.verdict(&token, &["--ip", "192.168.0.1"]), (0, "valid".into()));
}

#[test]
fn who_waits_is_answered_and_who_never_ends_a_request_is_not_waited_for() {
    let mut dev = Dev::start();
    let mut stalled = TcpStream::connect(dev.addresses()["issuer"].as_str().unwrap()).unwrap();
    stalled.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n").unwrap();
    let waiting = UnixStream::connect(dev.data().join("admin.sock")).unwrap();
    let (reader, mut looked) = (waiting.try_clone().unwrap(), waiting);
    let path = "/admin/v1/policies/default/dev/verifiers?position=e900n1&wait_ms=600000";
    looked.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let answer = std::thread::spawn(move || {
        let (mut reader, mut answer) = (reader, String::new());
        reader.read_to_string(&mut answer).unwrap();
        answer
    });
    // Another call is answered meanwhile: the one before it has begun.
    eventually("an answer", || (over_socket(&dev, "GET", "/status", "").0 == 200).then_some(()));
    assert_eq!(dev.terminate(), 0, "{}", dev.said());
    assert!(!dev.data().join("admin.sock").exists());
    let answer = answer.join().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"confirmed\":0"), "{answer}");
}
