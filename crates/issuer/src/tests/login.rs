use axum::http::header;
use serde_json::json;

use super::rig::{QUICK, Rig};

const PASSWORD: &str = "correct horse battery staple";

#[tokio::test]
async fn a_login_by_name_or_address_gives_tokens_that_verify() {
    let rig = Rig::new(QUICK).await;
    let alice = rig.account("Alice", PASSWORD, &["user"]).await;
    for name in ["alice", "ALICE", "alice@SHOP.example"] {
        let answer = rig.login(name, PASSWORD).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.text("token_type"), "bearer");
        assert_eq!(answer.body["expires_in"], 900);
        assert_eq!(answer.body["user"]["id"], json!(alice.id));
        assert_eq!(answer.body["user"]["permissions"], json!(["orders:read"]));
        assert_eq!(answer.headers[header::CACHE_CONTROL], "no-store");
        assert!(rig.is_good(&answer.text("access_token")).await);
    }
    let by_email = rig
        .post("/api/auth/login")
        .header("host", "127.0.0.1")
        .json(json!({"email": "alice@shop.example", "password": PASSWORD}));
    assert_eq!(by_email.send().await.status, 200, "an old client's call");
    assert_eq!(
        rig.events().await,
        vec!["LOGIN_SUCCEEDED"; 4]
            .into_iter()
            .enumerate()
            .flat_map(|(n, kind)| { if n == 0 { vec![kind] } else { vec!["NEW_DEVICE", kind] } })
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn unknown_names_and_wrong_passwords_answer_and_lock_alike() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let mut answers = Vec::new();
    for name in ["alice", "nobody"] {
        let mut seen = Vec::new();
        for _ in 0..7 {
            let answer = rig.login(name, "wrong").await;
            let mut body = answer.body.clone();
            if let Some(until) = body.get_mut("locked_until") {
                assert!(until.is_i64());
                *until = json!("a time");
            }
            seen.push((answer.status, body, answer.headers.contains_key(header::RETRY_AFTER)));
        }
        answers.push(seen);
    }
    assert_eq!(answers[0], answers[1]);
    let statuses: Vec<u16> = answers[0].iter().map(|(status, ..)| status.as_u16()).collect();
    assert_eq!(statuses, [401, 401, 401, 401, 401, 423, 423], "the failure that locks is still 401");
    assert_eq!(rig.login("alice", PASSWORD).await.refusal(), (423, "account_locked"));
}

#[tokio::test]
async fn a_known_device_is_not_locked_out_by_strangers() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let device = rig.login("alice", PASSWORD).await.text("device_token");
    for _ in 0..6 {
        rig.login("alice", "wrong").await;
    }
    let at_home = json!({"username": "alice", "password": PASSWORD, "device_token": device});
    let answer = rig.post("/auth/login").json(at_home).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.text("device_token"), device, "it stays the same");
    assert_eq!(rig.login("alice", PASSWORD).await.status, 423, "others wait");
}

#[tokio::test]
async fn a_refresh_token_rotates_and_its_reuse_ends_the_session() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let first = rig.login("alice", PASSWORD).await;
    let refresh = async |token: &str| rig.post("/auth/refresh").json(json!({"refresh_token": token})).send().await;
    let one = refresh(&first.text("refresh_token")).await;
    assert_eq!(one.status, 200, "{}", one.body);
    let again = refresh(&first.text("refresh_token")).await;
    assert_eq!(again.text("refresh_token"), one.text("refresh_token"), "within the grace the same successor");
    let two = refresh(&one.text("refresh_token")).await;
    assert_eq!(two.status, 200);
    assert_eq!(
        refresh(&first.text("refresh_token")).await.refusal(),
        (401, "invalid_refresh_token"),
        "its successor was used"
    );
    assert_eq!(refresh(&two.text("refresh_token")).await.refusal(), (401, "invalid_refresh_token"), "the family has ended");
    assert!(!rig.is_good(&two.text("access_token")).await);
    assert!(rig.events().await.contains(&"REFRESH_REUSE".to_owned()));
}

#[tokio::test]
async fn clients_that_never_store_the_new_refresh_token_keep_the_first() {
    let yaml = super::rig::policy_yaml(QUICK).replace("  roles:", "  tokens: {refreshRotation: Never}\n  roles:");
    let rig = Rig::of(&yaml).await;
    rig.account("alice", PASSWORD, &[]).await;
    let token = rig.login("alice", PASSWORD).await.text("refresh_token");
    for _ in 0..3 {
        let answer = rig.post("/auth/refresh").json(json!({"refresh_token": token})).send().await;
        assert_eq!((answer.status.as_u16(), answer.text("refresh_token")), (200, token.clone()));
    }
}

#[tokio::test]
async fn a_logout_ends_session_token_and_refresh_token() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let login = rig.login("alice", PASSWORD).await;
    let token = login.text("access_token");
    let answer = rig.post("/auth/logout").bearer(&token).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    rig.caught_up(&answer).await;
    assert!(!rig.is_good(&token).await);
    let refresh = rig.post("/auth/refresh").json(json!({"refresh_token": login.text("refresh_token")})).send().await;
    assert_eq!(refresh.refusal(), (401, "invalid_refresh_token"));
}

#[tokio::test]
async fn sessions_are_listed_ended_and_limited() {
    let rig = Rig::new(&format!("{QUICK}    sessions: {{maxConcurrent: 2}}\n")).await;
    rig.account("alice", PASSWORD, &[]).await;
    rig.account("bob", PASSWORD, &[]).await;
    let bob = rig.login("bob", PASSWORD).await;
    let first = rig.login("alice", PASSWORD).await;
    let second = rig.login("alice", PASSWORD).await;
    let third = rig.login("alice", PASSWORD).await;
    assert!(!rig.is_good(&first.text("access_token")).await, "the oldest went");
    let token = third.text("access_token");
    let list = rig.get("/auth/sessions").bearer(&token).send().await;
    let ids: Vec<_> =
        list.body["sessions"].as_array().unwrap().iter().map(|s| (s["session_id"].clone(), s["current"].clone())).collect();
    assert_eq!(ids, [(json!(second.text("session_id")), json!(false)), (json!(third.text("session_id")), json!(true))]);
    let others = rig.delete(&format!("/auth/sessions/{}", bob.text("session_id"))).bearer(&token).send().await;
    assert_eq!(others.refusal(), (404, "not_found"));
    let all = rig.delete("/auth/sessions").bearer(&token).json(json!({"keep_current": true})).send().await;
    assert_eq!(all.body["revoked"], 1);
    assert!(rig.is_good(&token).await);
    assert_eq!(rig.delete("/auth/sessions").bearer(&token).send().await.body["revoked"], 1);
    assert_eq!(rig.get("/auth/sessions").bearer(&token).send().await.refusal(), (401, "invalid_token"));
}

#[tokio::test]
async fn a_refused_session_is_no_failed_login() {
    let rig = Rig::new(&format!("{QUICK}    sessions: {{maxConcurrent: 1, onLimit: Reject}}\n")).await;
    rig.account("alice", PASSWORD, &[]).await;
    assert_eq!(rig.login("alice", PASSWORD).await.status, 200);
    for _ in 0..7 {
        assert_eq!(rig.login("alice", PASSWORD).await.refusal(), (403, "session_limit"));
    }
    assert!(!rig.events().await.contains(&"LOGIN_FAILED".to_owned()));
}

#[tokio::test]
async fn of_parallel_logins_no_more_stay_than_the_limit_allows() {
    let rig = Rig::new(&format!("{QUICK}    sessions: {{maxConcurrent: 3}}\n")).await;
    let alice = rig.account("alice", PASSWORD, &[]).await;
    let logins = (0..20).map(|_| rig.login("alice", PASSWORD));
    let answers = futures_util::future::join_all(logins).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    let now = rig.store.database_now().await.unwrap();
    assert_eq!(rig.store.sessions(rig.name(), &alice.id, None, 100, now).await.unwrap().len(), 3);
    let mut good = 0;
    for answer in &answers {
        good += u32::from(rig.is_good(&answer.text("access_token")).await);
    }
    assert_eq!(good, 3);
}

#[tokio::test]
async fn a_login_is_read_as_json_or_as_a_form_and_json_of_a_form_s_type_as_json() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let form = "username=alice&password=correct+horse+battery+staple";
    let object = json!({"username": "alice", "password": PASSWORD}).to_string();
    for (typ, body) in [
        ("application/x-www-form-urlencoded", form),
        ("application/x-www-form-urlencoded", &object),
        ("text/plain", &object),
    ] {
        let answer = rig.post("/auth/login").header("content-type", typ).text(body).send().await;
        assert_eq!(answer.status, 200, "{typ} {body}: {}", answer.body);
    }
}

#[tokio::test]
async fn of_many_guesses_at_once_none_counts_beyond_the_one_that_locks() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let wrong = futures_util::future::join_all((0..40).map(|_| rig.login("alice", "wrong"))).await;
    let statuses: Vec<u16> = wrong.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 5, "{statuses:?}");
    assert!(statuses.iter().all(|status| [401, 423].contains(status)), "{statuses:?}");
    assert_eq!(rig.login("alice", PASSWORD).await.refusal(), (423, "account_locked"));
}

#[tokio::test]
async fn a_login_right_after_everything_was_cut_off_is_good() {
    let rig = Rig::new(QUICK).await;
    let alice = rig.account("alice", PASSWORD, &[]).await;
    for _ in 0..5 {
        let body = json!({"kind": "subject", "id": alice.id});
        let cut = rig.post("/admin/v1/policies/shop/shop/revocations").json(body).over_admin_socket().send().await;
        assert_eq!(cut.status, 200);
        let login = rig.login("alice", PASSWORD).await;
        assert_eq!(login.status, 200, "{}", login.body);
        assert!(rig.is_good(&login.text("access_token")).await);
        let refresh = rig.post("/auth/refresh").json(json!({"refresh_token": login.text("refresh_token")})).send().await;
        assert_eq!(refresh.status, 200, "{}", refresh.body);
    }
}

#[tokio::test]
async fn no_policys_name_stands_in_the_way_of_anothers_routes() {
    let yaml = super::rig::policy_yaml(QUICK).replace("name: shop, namespace: shop", "name: sessions, namespace: auth");
    let rig = Rig::of(&yaml).await;
    rig.account("alice", PASSWORD, &[]).await;
    let login = rig.login("alice", PASSWORD).await;
    let path = format!("/auth/sessions/{}", login.text("session_id"));
    assert_eq!(rig.delete(&path).bearer(&login.text("access_token")).send().await.body["revoked"], 1);
}
