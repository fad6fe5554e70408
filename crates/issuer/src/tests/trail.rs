//! What the trail says of administrators, and how it is followed.

use countersign_store::AuditFilter;
use serde_json::{Value, json};

use super::rig::{QUICK, Rig};

const PASSWORD: &str = "correct horse battery staple";
const BASE: &str = "/admin/v1/policies/shop/shop";

/// The details of the last event of a kind.
async fn last(rig: &Rig, kind: &str) -> (Option<String>, Value) {
    let filter = AuditFilter { kind: Some(kind.into()), limit: 1, ..AuditFilter::default() };
    let kept = rig.store.audit(rig.name(), &filter).await.unwrap().remove(0).event;
    (kept.subject, serde_json::from_str(&kept.details).unwrap())
}

#[tokio::test]
async fn an_administrators_act_names_who_did_it() {
    let rig = Rig::new(QUICK).await;
    let root = rig.account("root", PASSWORD, &["admin"]).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let token = rig.login("root", PASSWORD).await.text("access_token");
    for (method, call, body, kind) in [
        ("post", "users/alice/lock", json!({"reason": "x"}), "ACCOUNT_LOCKED"),
        ("post", "users/alice/unlock", json!({}), "ACCOUNT_UNLOCKED"),
        ("patch", "users/alice", json!({"first_name": "A"}), "USER_UPDATED"),
        ("post", "users/alice/reset-mfa", json!({}), "ADMIN_ACTION"),
        ("post", "users", json!({"email": "new@shop.example"}), "USER_CREATED"),
        ("post", "blocks", json!({"network": "198.51.100.0/24"}), "IP_BLOCKED"),
        ("post", "revocations", json!({"kind": "subject", "id": "nobody"}), "ADMIN_ACTION"),
        ("post", "tokens", json!({"subject": "svc"}), "TOKEN_ISSUED"),
        ("post", "api-keys", json!({"subject": "alice", "name": "ci", "scopes": ["orders:read"]}), "API_KEY_CREATED"),
        ("delete", "sessions?subject=root", json!({}), "SESSION_REVOKED"),
    ] {
        let path = format!("{BASE}/{call}");
        let asking = match method {
            "post" => rig.post(&path),
            "patch" => rig.patch(&path),
            _ => rig.delete(&path),
        };
        let answer = asking.over_admin_tcp().bearer(&token).json(body).send().await;
        assert!(answer.status.is_success(), "{call}: {}", answer.body);
        let (_, details) = last(&rig, kind).await;
        assert_eq!(details["actor"]["subject"], json!(root.id), "{call}: {details}");
        assert!(details["actor"]["token_id"].is_string(), "{call}: {details}");
    }
    let over_socket = rig.post(&format!("{BASE}/users/alice/lock")).over_admin_socket().json(json!({"reason": "x"}));
    assert_eq!(over_socket.send().await.status, 200);
    assert_eq!(last(&rig, "ACCOUNT_LOCKED").await.1["actor"]["socket"], true);
    for _ in 0..5 {
        rig.login("nobody", "wrong").await;
    }
    assert_eq!(last(&rig, "LOGIN_FAILED").await.1["actor"], Value::Null, "people's own calls name nobody");
}

#[tokio::test]
async fn an_administrator_who_registers_somebody_is_named() {
    let rig = Rig::new(QUICK).await;
    let root = rig.account("root", PASSWORD, &["admin"]).await;
    let token = rig.login("root", PASSWORD).await.text("access_token");
    let body = json!({"email": "new@shop.example", "password": PASSWORD});
    assert_eq!(rig.post("/auth/register").bearer(&token).json(body).send().await.status, 201);
    assert_eq!(last(&rig, "USER_CREATED").await.1["actor"]["subject"], json!(root.id));
    let body = json!({"email": "other@shop.example", "password": PASSWORD});
    assert_eq!(rig.post("/auth/register").json(body).send().await.status, 201);
    assert_eq!(last(&rig, "USER_CREATED").await.1["actor"], Value::Null);
}

#[tokio::test]
async fn a_token_that_an_administrator_makes_is_written_down_before_there_is_any() {
    let rig = Rig::new(QUICK).await;
    let body = json!({"subject": "svc", "roles": ["user"], "scopes": ["orders:read"]});
    let minted = rig.post(&format!("{BASE}/tokens")).over_admin_socket().json(body).send().await;
    assert_eq!(minted.status, 200, "{}", minted.body);
    let (subject, details) = last(&rig, "TOKEN_ISSUED").await;
    assert_eq!(subject.as_deref(), Some("svc"));
    assert_eq!((&details["token_id"], &details["roles"]), (&minted.body["token_id"], &json!(["user"])));
    assert_eq!((&details["by"], &details["actor"]["socket"]), (&json!("administrator"), &json!(true)));
    assert!(!details.to_string().contains(&minted.text("token")), "never the token");
}

#[tokio::test]
async fn a_page_of_accounts_tells_of_each_how_it_stands() {
    let rig = Rig::new(QUICK).await;
    for name in ["alice", "bob", "carol"] {
        rig.account(name, PASSWORD, &[]).await;
    }
    for _ in 0..5 {
        rig.login("bob", "wrong").await;
    }
    rig.login("carol", "wrong").await;
    let answer = rig.get(&format!("{BASE}/users")).over_admin_socket().send().await;
    let users = answer.body["users"].as_array().unwrap();
    let told: Vec<(bool, u64)> =
        users.iter().map(|user| (user["locked_until"].is_i64(), user["failures"].as_u64().unwrap())).collect();
    assert_eq!(told, [(false, 0), (true, 0), (false, 1)]);
}
