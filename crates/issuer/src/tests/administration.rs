//! The admin API over people, as the command line calls it.

use serde_json::{Value, json};

use super::rig::{Answer, QUICK, Rig};

const PASSWORD: &str = "correct horse battery staple";
const BASE: &str = "/admin/v1/policies/shop/shop";
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

async fn get(rig: &Rig, call: &str) -> Value {
    let answer = rig.get(&format!("{BASE}/{call}")).over_admin_socket().send().await;
    assert_eq!(answer.status, 200, "{call}: {}", answer.body);
    answer.body
}

async fn post(rig: &Rig, call: &str, body: Value) -> Answer {
    rig.post(&format!("{BASE}/{call}")).json(body).over_admin_socket().send().await
}

#[tokio::test]
async fn accounts_are_listed_by_pages_and_found_by_id_name_or_address() {
    let rig = Rig::new(QUICK).await;
    let alice = rig.account("alice", PASSWORD, &["user"]).await;
    rig.account("bob", PASSWORD, &[]).await;
    rig.account("carol", PASSWORD, &[]).await;
    let first = get(&rig, "users?limit=2").await;
    assert_eq!(first["users"].as_array().unwrap().len(), 2);
    let rest = get(&rig, &format!("users?limit=2&cursor={}", first["next_cursor"].as_str().unwrap())).await;
    assert_eq!((rest["users"].as_array().unwrap().len(), &rest["next_cursor"]), (1, &Value::Null));
    for id in [alice.id.as_str(), "ALICE", "alice%40shop.example"] {
        assert_eq!(get(&rig, &format!("users/{id}")).await["id"], json!(alice.id));
    }
    assert_eq!(get(&rig, "users?email=ALICE@shop.example").await["users"][0]["id"], json!(alice.id));
    assert_eq!(get(&rig, "users?status=locked").await["users"], json!([]));
    let nobody = rig.get(&format!("{BASE}/users/nobody")).over_admin_socket().send().await;
    assert_eq!(nobody.refusal(), (404, "not_found"));
}

#[tokio::test]
async fn a_disabled_account_holds_nothing_that_is_good_and_an_enabled_one_logs_in_anew() {
    let rig = Rig::new(QUICK).await;
    let alice = rig.account("alice", PASSWORD, &["user"]).await;
    let login = rig.login("alice", PASSWORD).await;
    let token = login.text("access_token");
    let key = rig.post("/auth/api-keys").bearer(&token).json(json!({"name": "ci", "scopes": ["orders:read"]})).send().await;
    let path = format!("{BASE}/users/{}", alice.id);
    let disabled = rig.patch(&path).json(json!({"status": "disabled", "reason": "left"})).over_admin_socket().send().await;
    assert_eq!((disabled.status.as_u16(), &disabled.body["status"]), (200, &json!("disabled")), "{}", disabled.body);
    rig.caught_up(&disabled).await;
    for credential in [&token, &key.text("key")] {
        assert!(!rig.is_good(credential).await);
    }
    let refresh = rig.post("/auth/refresh").json(json!({"refresh_token": login.text("refresh_token")})).send().await;
    assert_eq!(refresh.refusal(), (401, "invalid_refresh_token"));
    assert_eq!(rig.login("alice", PASSWORD).await.refusal(), (403, "account_disabled"));
    assert_eq!(rig.login("alice", "wrong").await.refusal(), (401, "invalid_credentials"), "only after the right password");
    rig.patch(&path).json(json!({"status": "active"})).over_admin_socket().send().await;
    let again = rig.login("alice", PASSWORD).await;
    assert!(rig.is_good(&again.text("access_token")).await, "what is issued later is good");
    assert!(!rig.is_good(&token).await, "what had ended stays ended");
}

#[tokio::test]
async fn an_administrators_lock_ends_sessions_and_unlocking_says_what_held_the_person() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let login = rig.login("alice", PASSWORD).await;
    let locked = post(&rig, "users/alice/lock", json!({"reason": "laptop stolen"})).await;
    assert_eq!(locked.body["status"], "locked");
    rig.caught_up(&locked).await;
    assert!(!rig.is_good(&login.text("access_token")).await);
    let refused = rig.login("alice", PASSWORD).await;
    assert_eq!(refused.refusal(), (423, "account_locked"));
    for _ in 0..5 {
        rig.login("alice", "wrong").await;
    }
    let unlocked = post(&rig, "users/alice/unlock", json!({})).await;
    let held: Vec<&str> = unlocked.body["held_by"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(held, ["lockout", "an administrator's lock: laptop stolen"]);
    assert_eq!(rig.login("alice", PASSWORD).await.status, 200);
    let past = post(&rig, "users/alice/lock", json!({"reason": "x", "until": 1})).await;
    assert_eq!(past.refusal(), (422, "validation_failed"));
}

#[tokio::test]
async fn taking_a_role_away_ends_what_still_carries_it() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &["admin", "user"]).await;
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    let roles = async |roles: Value| {
        rig.patch(&format!("{BASE}/users/alice")).json(json!({"roles": roles})).over_admin_socket().send().await
    };
    assert_eq!(roles(json!(["emperor"])).await.refusal(), (422, "validation_failed"));
    let fewer = roles(json!(["user"])).await;
    rig.caught_up(&fewer).await;
    assert!(!rig.is_good(&token).await);
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    assert_eq!(roles(json!(["user", "admin"])).await.body["position"], Value::Null);
    assert!(rig.is_good(&token).await, "a role more ends nothing");
}

#[tokio::test]
async fn sessions_keys_and_accounts_are_ended_by_administrators() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let (one, two) = (rig.login("alice", PASSWORD).await, rig.login("alice", PASSWORD).await);
    let listed = get(&rig, "sessions?subject=alice").await;
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 2);
    let delete = async |call: &str| rig.delete(&format!("{BASE}/{call}")).over_admin_socket().send().await;
    assert_eq!(delete(&format!("sessions/{}", one.text("session_id"))).await.body["revoked"], 1);
    assert_eq!(delete("sessions?subject=alice").await.body["revoked"], 1);
    assert_eq!(delete("sessions/nonsense").await.refusal(), (404, "not_found"));
    let key = post(&rig, "api-keys", json!({"subject": "alice", "name": "ci", "scopes": ["orders:read"]})).await;
    assert_eq!(key.status, 201, "{}", key.body);
    let revoked = delete(&format!("api-keys/{}", key.text("id"))).await;
    rig.caught_up(&revoked).await;
    assert!(!rig.is_good(&key.text("key")).await && !rig.is_good(&two.text("access_token")).await);
    assert_eq!(delete("users/alice").await.status, 200);
    assert_eq!(rig.login("alice", PASSWORD).await.refusal(), (401, "invalid_credentials"));
}

#[tokio::test]
async fn what_a_revocation_ends_is_ended_here_as_well() {
    let rig = Rig::new(QUICK).await;
    let alice = rig.account("alice", PASSWORD, &["user"]).await;
    let revoke = async |kind: &str, id: &str| post(&rig, "revocations", json!({"kind": kind, "id": id})).await;
    let listed = async || get(&rig, "sessions?subject=alice").await["sessions"].as_array().unwrap().len();
    let one = rig.login("alice", PASSWORD).await;
    rig.login("alice", PASSWORD).await;
    assert_eq!(revoke("session", &one.text("session_id")).await.status, 200);
    assert_eq!(listed().await, 1, "it counts no more towards the limit");
    let refresh = rig.post("/auth/refresh").json(json!({"refresh_token": one.text("refresh_token")})).send().await;
    assert_eq!(refresh.refusal(), (401, "invalid_refresh_token"));
    assert_eq!(revoke("subject", &alice.id).await.status, 200);
    assert_eq!(listed().await, 0);
    assert_eq!(rig.login("alice", PASSWORD).await.status, 200, "a login since then is good");
}

#[tokio::test]
async fn a_cut_off_since_the_login_ends_its_refresh_tokens_too() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let login = rig.login("alice", PASSWORD).await;
    let cut = post(&rig, "revocations", json!({"kind": "policy"})).await;
    assert_eq!(cut.status, 200, "{}", cut.body);
    let refresh = rig.post("/auth/refresh").json(json!({"refresh_token": login.text("refresh_token")})).send().await;
    assert_eq!(refresh.refusal(), (401, "invalid_refresh_token"));
    let again = rig.login("alice", PASSWORD).await;
    assert!(rig.is_good(&again.text("access_token")).await);
}

#[tokio::test]
async fn addresses_are_blocked_by_administrators_and_by_too_many_failures() {
    let rig =
        Rig::new(&format!("{QUICK}    addressBlocking: {{failedLogins: 3}}\n    lockout: {{mode: Disabled}}\n")).await;
    rig.account("alice", PASSWORD, &[]).await;
    for _ in 0..3 {
        assert_eq!(rig.login("nobody", "wrong").await.status, 401);
    }
    assert_eq!(rig.login("alice", PASSWORD).await.refusal(), (403, "address_blocked"));
    let login = json!({"username": "alice", "password": PASSWORD});
    let elsewhere = rig.post("/auth/login").json(login.clone()).from("198.51.100.9").send().await;
    assert_eq!(elsewhere.status, 200, "others come in");
    assert_eq!(get(&rig, "blocks").await["blocks"][0]["network"], "203.0.113.7/32");
    let lifted = rig.delete(&format!("{BASE}/blocks?network=203.0.113.7")).over_admin_socket().send().await;
    assert_eq!(lifted.body["revoked"], 1);
    assert_eq!(rig.login("alice", PASSWORD).await.status, 200);
    // Addresses of our own are never blocked, whatever fails from there.
    for _ in 0..5 {
        let wrong = json!({"username": "alice", "password": "wrong"});
        assert_eq!(rig.post("/auth/login").json(wrong).from("10.1.2.3").send().await.status, 401);
    }
    let block = post(&rig, "blocks", json!({"network": "198.51.100.0/24", "reason": "scraper", "ttl_s": 60})).await;
    assert_eq!(block.status, 200, "{}", block.body);
    let inside = rig.post("/auth/login").json(login).from("198.51.100.9").send().await;
    assert_eq!(inside.refusal(), (403, "address_blocked"));
    for own in ["127.0.0.1", "10.0.0.0/8", "nonsense"] {
        assert_eq!(post(&rig, "blocks", json!({"network": own})).await.refusal(), (422, "validation_failed"), "{own}");
    }
}

#[tokio::test]
async fn a_revoked_address_is_blocked_at_issuers_too_and_listed_and_lifted_as_any() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let revoked = post(&rig, "revocations", json!({"kind": "ip", "id": "203.0.113.7", "reason": "scraper"})).await;
    assert_eq!(revoked.status, 200, "{}", revoked.body);
    assert_eq!(rig.login("alice", PASSWORD).await.refusal(), (403, "address_blocked"));
    let blocks = get(&rig, "blocks").await;
    assert_eq!(
        (&blocks["blocks"][0]["network"], &blocks["blocks"][0]["reason"]),
        (&json!("203.0.113.7/32"), &json!("scraper"))
    );
    assert_eq!(rig.events().await.iter().filter(|kind| *kind == "IP_BLOCKED").count(), 1);
    let lifted = rig.delete(&format!("{BASE}/blocks?network=203.0.113.7")).over_admin_socket().send().await;
    assert_eq!(lifted.body["revoked"], 1);
    assert_eq!(rig.login("alice", PASSWORD).await.status, 200);
}

#[tokio::test]
async fn logins_are_limited_by_account_and_address_and_say_so() {
    let limits = "    rateLimits: {login: {perAccountAndAddress: {limit: 2, window: 5m}}, register: {}, passwordReset: {}, api: {}}\n";
    let rig = Rig::new(&format!("    passwords: {{argon2id: {{memory: 64Ki, iterations: 1}}}}\n{limits}")).await;
    rig.account("alice", PASSWORD, &[]).await;
    for left in ["1", "0"] {
        let answer = rig.login("alice", PASSWORD).await;
        assert_eq!((answer.status.as_u16(), answer.headers["ratelimit-remaining"].to_str().unwrap()), (200, left));
    }
    let refused = rig.login("alice", PASSWORD).await;
    assert_eq!(refused.refusal(), (429, "rate_limited"));
    assert!(refused.headers.contains_key("retry-after") && refused.headers["ratelimit-limit"] == "2");
    let login = json!({"username": "alice", "password": PASSWORD});
    assert_eq!(rig.post("/auth/login").json(login).from("198.51.100.9").send().await.status, 200);
    let unlocked = post(&rig, "users/alice/unlock", json!({"also_address": "203.0.113.7"})).await;
    assert_eq!(unlocked.body["held_by"], json!(["rate limit"]));
    assert_eq!(rig.login("alice", PASSWORD).await.status, 200);
}

#[tokio::test]
async fn the_trails_chain_is_followed_and_a_changed_event_shows() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    rig.login("alice", PASSWORD).await;
    let head = rig.store.seal_audit(rig.name(), 100).await.unwrap().unwrap();
    let text = format!("{}:{}", head.place, hex(&head.hash));
    let whole = post(&rig, "audit/verify", json!({"heads": [text]})).await;
    assert_eq!(whole.body["intact"], true);
    let forged = format!("{}:{}", head.place, hex(&[7; 32]));
    let broken = post(&rig, "audit/verify", json!({"heads": [forged]})).await;
    assert_eq!(broken.body["intact"], false);
    assert!(broken.text("detail").contains("sealed otherwise"));
    assert_eq!(post(&rig, "audit/verify", json!({"heads": ["x"]})).await.refusal(), (422, "validation_failed"));
    assert_eq!(get(&rig, "audit?event_type=login_succeeded").await["events"].as_array().unwrap().len(), 1);
}

fn hex(bytes: &[u8]) -> String {
    ::hex::encode(bytes)
}

#[tokio::test]
async fn a_lock_with_an_end_revives_no_disabled_account() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let path = format!("{BASE}/users/alice");
    rig.patch(&path).json(json!({"status": "disabled"})).over_admin_socket().send().await;
    let locked = post(&rig, "users/alice/lock", json!({"reason": "x"})).await;
    assert_eq!(locked.refusal(), (422, "validation_failed"));
    assert_eq!(get(&rig, "users/alice").await["status"], "disabled");
}

#[tokio::test]
async fn the_admin_door_knows_that_an_administrators_session_has_ended() {
    let rig = Rig::new(&format!("{QUICK}    sessions: {{maxConcurrent: 1}}\n")).await;
    rig.account("root", PASSWORD, &["admin"]).await;
    let first = rig.login("root", PASSWORD).await.text("access_token");
    let ask = async |token: &str| rig.get(&format!("{BASE}/users")).bearer(token).over_admin_tcp().send().await;
    assert_eq!(ask(&first).await.status, 200);
    let second = rig.login("root", PASSWORD).await.text("access_token");
    assert_eq!(ask(&first).await.refusal(), (401, "invalid_token"), "evicted, whatever the feed knows yet");
    assert_eq!(ask(&second).await.status, 200);
    rig.account("alice", PASSWORD, &["user"]).await;
    let other = Rig::new(QUICK).await;
    other.account("root", PASSWORD, &["admin"]).await;
    let foreign = other.login("root", PASSWORD).await.text("access_token");
    assert_eq!(ask(&foreign).await.status, 401, "another issuer's administrator is nobody here");
}

#[tokio::test]
async fn the_admin_door_says_no_before_a_body_is_read() {
    let rig = Rig::new(QUICK).await;
    for (name, roles) in [("root", &["admin"][..]), ("alice", &["user"])] {
        rig.account(name, PASSWORD, roles).await;
    }
    let token = async |name: &str| rig.login(name, PASSWORD).await.text("access_token");
    let (root, alice) = (token("root").await, token("alice").await);
    let ask = |policy: &str| rig.post(&format!("/admin/v1/policies/{policy}/tokens")).over_admin_tcp();
    for (asking, status) in [
        (ask("shop/shop"), 401),
        (ask("shop/shop").bearer("nonsense"), 401),
        (ask("shop/shop").header("authorization", "Basic cm9vdDpyb290"), 401),
        (ask("shop/shop").bearer(&alice), 403),
        (ask("shop/no-such").bearer("nonsense"), 401),
        (ask("shop/no-such").bearer(&root), 404),
    ] {
        let answered = tokio::time::timeout(PATIENCE, asking.body_that_never_comes().send()).await;
        let answer = answered.expect("answered without the body");
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    let large = json!({"subject": "x".repeat(1 << 20)});
    let refused = ask("shop/shop").bearer("nonsense").json(large.clone()).send().await;
    assert_eq!(refused.refusal(), (401, "invalid_token"), "however large");
    assert_eq!(ask("shop/shop").bearer(&root).json(large).send().await.status, 413, "who may is told");
}

#[tokio::test]
async fn texts_that_no_database_keeps_are_a_callers_mistake() {
    let rig = Rig::new(QUICK).await;
    let answer = post(&rig, "revocations", json!({"kind": "subject", "id": "x", "reason": "a\u{0}b"})).await;
    assert_eq!(answer.refusal(), (422, "validation_failed"));
    let bell = post(&rig, "revocations", json!({"kind": "subject", "id": "x", "reason": "a\u{7}b"})).await;
    assert_eq!(bell.refusal(), (422, "validation_failed"));
}

/// Lets somebody do whatever is asked, and notes what that was.
#[derive(Default)]
struct Noting(parking_lot::Mutex<Vec<(&'static str, &'static str)>>);

impl crate::Authority for Noting {
    fn admit<'a>(
        &'a self,
        _caller: crate::Caller<'a>,
        right: crate::Right,
        _policy: Option<&'a countersign_core::names::PolicyName>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<String, crate::NotAdmitted>> + Send + 'a>> {
        self.0.lock().push((right.verb, right.part));
        Box::pin(async { Ok("system:serviceaccount:shop:helpdesk".to_owned()) })
    }
}

#[tokio::test]
async fn a_user_of_the_cluster_needs_the_right_of_the_call_that_answers_however_the_path_is_written() {
    let rig = Rig::new(QUICK).await;
    let emergency = json!({"subject": "eve", "emergency": true, "reason": "x"});
    let token = [("create", "token"), ("create", "emergency")];
    for (path, body, expected) in [
        (format!("{BASE}/tokens"), emergency.clone(), &token[..]),
        ("/admin/v1/policies/sh%6Fp/shop/tokens".to_owned(), emergency.clone(), &token),
        ("/admin/v1/policies/shop/sho%70/%74okens".to_owned(), emergency, &[]),
        (format!("{BASE}/keys/rotate"), json!({"ring": "all"}), &[("update", "keys")]),
        (format!("{BASE}/audit/verify"), json!({}), &[("get", "audit")]),
        (format!("{BASE}/users/nobody/lock"), json!({"reason": "x"}), &[("update", "users")]),
    ] {
        let noting = std::sync::Arc::new(Noting::default());
        let answer = rig.post(&path).json(body).vouched_for_by(noting.clone()).send().await;
        let asked = noting.0.lock().clone();
        assert_eq!(asked, expected, "{path}: {}", answer.body);
    }
}

/// Lets nobody do anything.
struct Refusing(crate::NotAdmitted);

impl crate::Authority for Refusing {
    fn admit<'a>(
        &'a self,
        _caller: crate::Caller<'a>,
        _right: crate::Right,
        _policy: Option<&'a countersign_core::names::PolicyName>,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<String, crate::NotAdmitted>> + Send + 'a>> {
        Box::pin(async { Err(self.0.clone()) })
    }
}

#[tokio::test]
async fn whoever_may_not_hears_neither_which_policies_there_are_nor_what_a_body_would_have_had_to_say() {
    let rig = Rig::new(QUICK).await;
    let too_large = json!({"subject": "x".repeat(100_000)});
    for (refusal, expected) in [
        (crate::NotAdmitted::Unknown("nobody knows you".to_owned()), 401),
        (crate::NotAdmitted::Forbidden("you may not".to_owned()), 403),
        (crate::NotAdmitted::Unavailable("who can say".to_owned()), 503),
    ] {
        let mut answers = Vec::new();
        for (policy, body) in [("shop/shop", json!({})), ("shop/no-such", json!({})), ("shop/shop", too_large.clone())] {
            let refusing = std::sync::Arc::new(Refusing(refusal.clone()));
            let post = rig.post(&format!("/admin/v1/policies/{policy}/tokens")).json(body).vouched_for_by(refusing);
            let answer = post.send().await;
            assert_eq!(answer.status, expected, "{policy}: {}", answer.body);
            answers.push(answer.body);
        }
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    }
    let noting = std::sync::Arc::new(Noting::default());
    let unknown = rig.post("/admin/v1/policies/shop/no-such/tokens").json(json!({})).vouched_for_by(noting.clone());
    assert_eq!(unknown.send().await.status, 404, "who may is told");
    let large = rig.post(&format!("{BASE}/tokens")).json(too_large).vouched_for_by(noting).send().await;
    assert_eq!(large.status, 413, "{}", large.body);
}

#[tokio::test]
async fn sessions_are_listed_by_pages_and_no_list_is_longer_than_it_may_be() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    rig.account("bob", PASSWORD, &[]).await;
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(rig.login("alice", PASSWORD).await.text("session_id"));
    }
    let mut seen = Vec::new();
    let mut query = "sessions?subject=alice&limit=2".to_owned();
    loop {
        let page = get(&rig, &query).await;
        let ids = page["sessions"].as_array().unwrap().iter().map(|one| one["session_id"].as_str().unwrap().to_owned());
        seen.extend(ids);
        let Some(next) = page["next_cursor"].as_str() else { break };
        query = format!("sessions?subject=alice&limit=2&cursor={next}");
    }
    assert_eq!(seen, all);
    for call in [
        "sessions?subject=alice&limit=0",
        "sessions?subject=alice&limit=1001",
        "sessions?subject=alice&cursor=nonsense",
        &format!("sessions?subject=bob&cursor={}", all[0]),
        "api-keys?limit=1001",
        "revocations?limit=0",
        "revocations?limit=1001",
    ] {
        let refused = rig.get(&format!("{BASE}/{call}")).over_admin_socket().send().await;
        assert_eq!(refused.refusal(), (422, "validation_failed"), "{call}");
    }
}
