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

#[tokio::test]
async fn whatever_token_is_no_good_is_written_down_unless_it_has_merely_run_out() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let mut logged_out = rig.login("alice", PASSWORD).await.text("access_token");
    rig.post("/auth/logout").bearer(&logged_out).send().await;
    let foreign = "eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJodHRwczovL2V2aWwuZXhhbXBsZSIsInN1YiI6ImEiLCJleHAiOjk5OTk5OTk5OTl9.c2ln";
    let unsigned = logged_out.split_off(logged_out.rfind('.').unwrap());
    let forged = format!("{logged_out}.{}", "A".repeat(unsigned.len() - 1));
    logged_out.push_str(&unsigned);
    // Each from an address of its own: of one only so many are written down.
    for (number, (authorization, kind)) in [
        (format!("Bearer {logged_out}"), "a session that ended"),
        ("Bearer nonsense".to_owned(), "no token"),
        (format!("Bearer {foreign}"), "nobody's token"),
        (format!("Bearer {forged}"), "a forged one"),
        ("Basic YWxpY2U6eA==".to_owned(), "another scheme"),
    ]
    .into_iter()
    .enumerate()
    {
        let from = format!("198.51.100.{number}");
        for asking in [rig.get("/users/me"), rig.get("/auth/csrf"), rig.get(&format!("{BASE}/users")).over_admin_tcp()] {
            let before = rig.events().await.len();
            let answer = asking.from(&from).header("authorization", &authorization).send().await;
            assert_eq!(answer.refusal(), (401, "invalid_token"), "{kind}");
            assert_eq!(rig.events().await[before..], ["INVALID_TOKEN"], "{kind}");
        }
    }
    let before = rig.events().await.len();
    assert_eq!(rig.get("/users/me").send().await.status, 401);
    assert_eq!(rig.events().await.len(), before, "nobody showed anything");
}

#[tokio::test]
async fn nobody_learns_from_the_admin_port_which_policies_there_are() {
    let rig = Rig::new(QUICK).await;
    rig.account("root", PASSWORD, &["admin"]).await;
    let token = rig.login("root", PASSWORD).await.text("access_token");
    for path in [format!("{BASE}/users"), "/admin/v1/policies/shop/other/users".to_owned()] {
        assert_eq!(rig.get(&path).over_admin_tcp().send().await.refusal(), (401, "invalid_token"), "{path}");
        let guess = rig.get(&path).over_admin_tcp().bearer("nonsense").send().await;
        assert_eq!(guess.refusal(), (401, "invalid_token"), "{path}");
    }
    let mistyped = rig.get("/admin/v1/policies/shop/other/users").over_admin_tcp().bearer(&token).send().await;
    assert_eq!(mistyped.refusal(), (404, "not_found"), "whoever has a token is told of a slip");
}

/// How often each kind of event was written since.
async fn since(rig: &Rig, before: usize) -> (usize, usize) {
    let events = rig.events().await;
    let count = |kind: &str| events[before..].iter().filter(|event| *event == kind).count();
    (count("SESSION_REVOKED"), count("API_KEY_REVOKED"))
}

#[tokio::test]
async fn each_session_and_key_that_ends_is_told_of_by_whatever_ends_it() {
    let rig = Rig::new(QUICK).await;
    for (number, how) in
        ["lock", "disable", "delete", "fewer roles", "revoke subject", "revoke session", "revoke key", "erase", "reuse"]
            .into_iter()
            .enumerate()
    {
        let name = format!("person{number}");
        let user = rig.account(&name, PASSWORD, &["user", "admin"]).await;
        rig.login(&name, PASSWORD).await;
        let login = rig.login(&name, PASSWORD).await;
        let token = login.text("access_token");
        let key = rig.post("/auth/api-keys").bearer(&token).json(json!({"name": "ci", "scopes": ["orders:read"]})).send();
        let key = key.await.text("id");
        let before = rig.events().await.len();
        let refresh = json!({"refresh_token": login.text("refresh_token")});
        let account = format!("{BASE}/users/{}", user.id);
        let revoke = |kind: &str, id: &str| {
            rig.post(&format!("{BASE}/revocations")).json(json!({"kind": kind, "id": id})).over_admin_socket()
        };
        let (asking, ended) = match how {
            "lock" => (rig.post(&format!("{account}/lock")).json(json!({"reason": "x"})).over_admin_socket(), (2, 1)),
            "disable" => (rig.patch(&account).json(json!({"status": "disabled"})).over_admin_socket(), (2, 1)),
            "delete" => (rig.delete(&account).over_admin_socket(), (2, 1)),
            "fewer roles" => (rig.patch(&account).json(json!({"roles": ["user"]})).over_admin_socket(), (2, 1)),
            "revoke subject" => (revoke("subject", &user.id), (2, 1)),
            "revoke session" => (revoke("session", &login.text("session_id")), (1, 0)),
            "revoke key" => (revoke("api_key", &key), (0, 1)),
            "erase" => (rig.delete("/users/me").bearer(&token).json(json!({"password": PASSWORD})), (2, 1)),
            _ => {
                let mut last = refresh.clone();
                for _ in 0..2 {
                    let next = rig.post("/auth/refresh").json(last).send().await;
                    last = json!({"refresh_token": next.text("refresh_token")});
                }
                (rig.post("/auth/refresh").json(refresh), (1, 0))
            }
        };
        let status = asking.send().await.status.as_u16();
        assert!(status == if how == "reuse" { 401 } else { 200 }, "{how}: {status}");
        assert_eq!(since(&rig, before).await, ended, "{how}");
    }
}

#[tokio::test]
async fn a_key_that_begins_to_sign_is_told_once_whichever_issuer_sees_it() {
    use crate::rotations::{Seen, look};

    let rig = Rig::new(QUICK).await.alone();
    let told = async || rig.events().await.iter().filter(|kind| *kind == "KEY_ROTATED").count();
    let policies = &rig.issuer.parts.policies;
    let before = policies.load().by_name.clone();
    look(&rig.issuer, &mut Seen::new()).await.unwrap();
    assert_eq!(told().await, 0, "a first key takes the place of none");
    let other = super::rig::policy(&super::rig::policy_yaml(QUICK), countersign_api::LoginReferences::default());
    let name = other.name.clone();
    policies.store([(name.clone(), std::sync::Arc::new(other))].into(), Some(name.clone()));
    for _ in 0..2 {
        look(&rig.issuer, &mut Seen::new()).await.unwrap();
        assert_eq!(told().await, 2, "one of each ring, however many issuers look");
    }
    policies.store(before, Some(name));
    look(&rig.issuer, &mut Seen::new()).await.unwrap();
    assert_eq!(told().await, 2, "an issuer that lags behind tells of no way back");
}
