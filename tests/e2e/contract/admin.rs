//! The admin API of `dev`, on its socket.

use serde_json::json;

use super::{World, is, names};
use crate::http::Request;

#[test]
fn minting_refuses_what_is_not_in_order() {
    let world = World::start();
    let mint = |body: serde_json::Value| {
        Request::post("/admin/v1/policies/shop/shop/tokens", &body).send(&world.dev.admin()).status
    };
    for body in [
        json!({}),
        json!({"subject": ""}),
        json!({"subject": 1}),
        json!({"subject": "a", "roles": "x"}),
        json!({"subject": "a", "ttl_s": 0}),
        json!({"subject": "a", "ttl_s": -1}),
        json!([]),
    ] {
        let status = mint(body.clone());
        assert!(matches!(status, 400 | 422), "{body}: {status}");
    }
    let unknown = Request::post("/admin/v1/policies/shop/nobody/tokens", &json!({"subject": "a"})).send(&world.dev.admin());
    assert_eq!(unknown.status, 404);
    let minted = world.dev.mint("shop", &json!({"subject": "a"}));
    for name in ["token", "token_id", "session_id", "expires_at"] {
        assert!(minted.get(name).is_some(), "no {name}: {:?}", names(&minted));
    }
}

#[test]
fn a_revocation_tells_its_position_and_who_confirmed_it() {
    let world = World::start();
    let token = world.dev.token("shop", "alice");
    let path = "/admin/v1/policies/shop/shop/revocations?wait_ms=5000";
    let answer = Request::post(path, &json!({"kind": "subject", "id": "alice", "reason": "left"})).send(&world.dev.admin());
    assert_eq!(answer.status, 200, "{}", answer.json());
    let body = answer.json();
    assert!(body["position"].is_string(), "{body}");
    assert_eq!(body["verifiers"]["confirmed"], body["verifiers"]["total"], "{body}");
    assert_eq!(body["verifiers"]["lagging"], json!([]));
    assert_eq!(world.verdict("shop", &token), is(401, "revoked"));
    let with_position = world.verify("shop", &json!({"token": token, "min_position": body["position"]}));
    assert_eq!(with_position.word(), "revoked");
    let history = Request::get("/admin/v1/policies/shop/shop/revocations").send(&world.dev.admin());
    assert_eq!(history.status, 200);
    assert!(String::from_utf8_lossy(&history.body).contains("\"alice\""), "{}", history.json());
}

#[test]
fn a_revocation_that_is_not_in_order_is_refused() {
    let world = World::start();
    let future = crate::forge::now() + 3600;
    for (body, expected) in [
        (json!({}), 422),
        (json!({"kind": "token"}), 422),
        (json!({"kind": "nonsense", "id": "x"}), 422),
        (json!({"kind": "token", "id": 1}), 422),
        (json!({"kind": "token", "id": ""}), 422),
        (json!({"kind": "subject", "id": "a", "before": future}), 400),
        (json!({"kind": "ip", "id": "nonsense"}), 422),
        (json!({"kind": "token", "id": "x", "credential": "y"}), 422),
        (json!([]), 400),
    ] {
        let (status, answer) = world.dev.revoke("shop", &body);
        assert_eq!(status, expected, "{body}: {answer}");
    }
    let unknown =
        Request::post("/admin/v1/policies/shop/nobody/revocations", &json!({"kind": "token", "id": "x", "reason": "y"}))
            .send(&world.dev.admin());
    assert_eq!(unknown.status, 404);
}

#[test]
fn a_rotation_signs_with_another_key_and_old_tokens_live_on() {
    let world = World::start();
    let before = world.dev.token("shop", "alice");
    let rings = Request::get("/admin/v1/policies/shop/shop/keys").send(&world.dev.admin()).json();
    assert_eq!(names(&rings["rings"]), ["access", "api_key"]);
    let active = |rings: &serde_json::Value| {
        let keys = rings["rings"]["access"].as_array().unwrap().clone();
        keys.iter().find(|key| key["state"].as_str().unwrap().eq_ignore_ascii_case("active")).map(|key| key["kid"].clone())
    };
    let first = active(&rings).expect("an active key");
    let rotated = Request::post("/admin/v1/policies/shop/shop/keys/rotate", &json!({})).send(&world.dev.admin());
    assert!(matches!(rotated.status, 200 | 202), "{}: {}", rotated.status, rotated.json());
    crate::rig::eventually("another key is active", crate::rig::PATIENCE, || {
        assert_eq!(world.verdict("shop", &before), is(200, "valid"));
        let rings = Request::get("/admin/v1/policies/shop/shop/keys").send(&world.dev.admin()).json();
        (active(&rings)? != first).then_some(())
    });
    assert_eq!(world.verdict("shop", &world.dev.token("shop", "alice")), is(200, "valid"));
    assert_eq!(world.verdict("shop", &before), is(200, "valid"));
}

#[test]
fn the_admin_socket_is_its_owner_s_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let world = World::start();
    let mode = |path: std::path::PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(world.dev.data()), 0o700);
    assert_eq!(mode(world.dev.data().join("admin.sock")) & 0o077, 0);
    for path in ["/admin/v1/policies/shop/shop/keys", "/admin/v1/policies/shop/shop/tokens"] {
        let answer = Request::get(path).send(&world.dev.tcp());
        assert_eq!(answer.status, 404, "the verifier's port has no admin API");
    }
}
