use serde_json::{Value, json};

use super::{World, is, names, said, verify};
use crate::{forge, http::Request};

/// Every member of a 200 body: always all of them, null where there is nothing.
const MEMBERS: &[&str] = &[
    "amr",
    "audience",
    "claims",
    "expires_at",
    "issued_at",
    "issuer",
    "kind",
    "permissions",
    "position",
    "roles",
    "scopes",
    "session_id",
    "stale",
    "stale_ms",
    "subject",
    "token_id",
    "verdict",
];

#[test]
fn a_good_credential_is_told_with_all_that_it_is() {
    let world = World::start();

    let minted = world.dev.mint("shop", &json!({
        "subject": "alice", "roles": ["admin", "user"], "scopes": ["orders:read", "x"], "ttl_s": 300, "session_id": "s-77",
    }));
    assert_eq!(minted["session_id"], "s-77");
    let body = world.verify("shop", &json!({"token": minted["token"]})).json();
    assert_eq!(names(&body), MEMBERS);
    assert_eq!(body["verdict"], "valid");
    assert_eq!(body["kind"], "access");
    assert_eq!(body["issuer"], "https://auth.shop.example");
    assert_eq!(body["subject"], "alice");
    assert_eq!(body["audience"], json!(["shop-api"]));
    assert_eq!(body["session_id"], "s-77");
    assert_eq!(body["token_id"], minted["token_id"]);
    assert_eq!(body["expires_at"], minted["expires_at"]);
    assert_eq!(body["expires_at"].as_i64().unwrap() - body["issued_at"].as_i64().unwrap(), 300);
    assert_eq!(body["roles"], json!(["admin", "user"]));
    assert_eq!(body["permissions"], json!(["*", "cart:*", "orders:read"]));
    assert_eq!(body["scopes"], json!(["orders:read", "x"]));
    assert_eq!((&body["stale"], &body["stale_ms"]), (&json!(false), &json!(0)));
    assert_eq!(body["claims"]["sub"], "alice");
    assert!(body["position"].is_string(), "{body}");

    let foreign = world.partner(json!({"sid": null, "jti": null, "iat": null, "aud": ["a", "shop-api"], "groups": ["user", "root"], "scope": "a b"}));
    let body = world.verify("shop", &json!({"token": foreign})).json();
    assert_eq!(names(&body), MEMBERS);
    assert_eq!(body["kind"], "external");
    assert_eq!(body["issuer"], "https://partner.example");
    assert_eq!(body["audience"], json!(["a", "shop-api"]));
    assert_eq!(body["roles"], json!(["user"]), "a role that the mapping doesn't allow is none");
    assert_eq!(body["permissions"], json!(["cart:*", "orders:read"]));
    assert_eq!(body["scopes"], json!(["a", "b"]));
    assert_eq!((&body["session_id"], &body["token_id"], &body["issued_at"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(body["claims"]["groups"], json!(["user", "root"]));

    let claims = json!({"user_id": "bob", "type": "access", "exp": forge::now() + 60, "groups": ["user"]});
    let legacy = forge::hmac_token(&json!({"alg": "HS256"}), &claims, crate::rig::LEGACY_SECRET);
    let body = world.verify("shop", &json!({"token": legacy})).json();
    assert_eq!(names(&body), MEMBERS);
    assert_eq!((&body["kind"], &body["issuer"], &body["subject"]), (&json!("external"), &Value::Null, &json!("bob")));

    let body = world.verify("foreign", &json!({"token": crate::rig::OPAQUE_KEY})).json();
    assert_eq!(names(&body), MEMBERS);
    assert_eq!((&body["kind"], &body["issuer"], &body["subject"]), (&json!("api_key"), &Value::Null, &json!("svc-old")));
    assert_eq!(body["scopes"], json!(["orders:read"]));
    assert_eq!(body["audience"], json!(["shop-api"]));
    assert_eq!(body["expires_at"], Value::Null);
}

#[test]
fn everything_that_is_required_must_hold() {
    let world = World::start();
    let token = world.dev.mint("shop", &json!({"subject": "eve", "roles": ["user"], "scopes": ["read"]}))["token"].clone();
    for (require, reason) in [
        (json!({"permissions": ["orders:read"]}), None),
        (json!({"permissions": ["cart:add", "orders:read"]}), None),
        (json!({"permissions": ["cart:add", "orders:write"]}), Some("permission")),
        (json!({"permissions": ["cart"]}), Some("permission")),
        (json!({"roles": ["user"]}), None),
        (json!({"roles": ["user", "admin"]}), Some("role")),
        (json!({"scopes": ["read"]}), None),
        (json!({"scopes": ["READ"]}), Some("scope")),
        (json!({"audience": "shop-api"}), None),
        (json!({"audience": "shop"}), Some("audience")),
        (json!({"permissions": ["nope"], "roles": ["nope"], "scopes": ["nope"], "audience": "nope"}), Some("permission")),
        (json!({"permissions": [], "roles": [], "scopes": []}), None),
    ] {
        let answer = world.verify("shop", &json!({"token": token, "require": require}));
        match reason {
            None => assert_eq!(said(&answer), is(200, "valid"), "{require}"),
            Some(reason) => {
                assert_eq!(said(&answer), is(403, "denied"), "{require}");
                assert_eq!(answer.json()["reason"], reason, "{require}");
                assert!(answer.json()["detail"].is_string());
                let challenge = answer.header("www-authenticate").unwrap_or_default();
                assert_eq!(challenge.contains("insufficient_scope"), reason == "scope", "{require}: {challenge}");
            }
        }
    }
}

#[test]
fn refusals_say_why_and_never_what_the_credential_held() {
    let world = World::start();
    let secret = "hunter2-in-a-claim";
    let expired = world.partner(json!({"iat": 1, "exp": 2, "sub": secret}));
    let answer = world.verify("shop", &json!({"token": expired}));
    assert_eq!(said(&answer), is(401, "expired"));
    assert_eq!(names(&answer.json()), ["detail", "verdict"]);
    assert!(answer.header("www-authenticate").unwrap().contains("error=\"invalid_token\""));
    assert!(!String::from_utf8_lossy(&answer.body).contains(secret));

    for (what, request, status) in [
        ("no JSON", Request::new("POST", "/v1/policies/shop/shop/verify").body("{"), 400),
        ("no policy", Request::post("/v1/policies/shop/nobody/verify", &json!({"token": "x"})), 404),
        ("no method", Request::get("/v1/policies/shop/shop/verify"), 405),
        (
            "no type",
            Request::new("POST", "/v1/policies/shop/shop/verify").header("content-type", "text/plain").body("{}"),
            415,
        ),
    ] {
        let answer = request.send(&world.dev.socket());
        assert_eq!(answer.status, status, "{what}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
        let body = answer.json();
        assert_eq!(body["status"], status, "{what}: {body}");
        assert!(body["error"].is_string() && body["detail"].is_string(), "{what}: {body}");
        if status == 405 {
            assert_eq!(answer.header("allow"), Some("POST"), "{what}");
        }
        if status == 415 {
            assert!(body["detail"].as_str().unwrap().contains("curl --json"), "{what}: {body}");
        }
    }
}

#[test]
fn socket_and_port_answer_alike() {
    let world = World::start();
    let token = world.partner(json!({}));
    let request = json!({"token": token});
    let (socket, port) = (verify(&world.dev.socket(), "shop", &request), verify(&world.dev.tcp(), "shop", &request));
    assert_eq!(socket.status, 200);
    assert_eq!(socket.json(), port.json());
}
