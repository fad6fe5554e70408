//! Clients that ignore what a challenge answers, and log in again with the same code.

use serde_json::json;

use super::{Enrolled, PASSWORD, challenge, code, enrolled, live_sessions, login_with, verify, wide, wrong_code};
use crate::tests::rig::{Answer, Rig};

/// A challenge that was answered; the code that did, and the answer.
async fn completed(rig: &Rig, alice: &Enrolled, steps: i64) -> (String, Answer) {
    let used = code(rig, &alice.secret, steps).await;
    let answer = verify(rig, &challenge(rig, "alice").await, &used).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    (used, answer)
}

#[tokio::test]
async fn the_login_again_gets_that_same_session_once() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let (used, first) = completed(&rig, &alice, 0).await;
    let again = login_with(&rig, "alice", &used).await;
    assert_eq!(again.status, 200, "{}", again.body);
    assert_eq!(again.text("session_id"), first.text("session_id"));
    assert_eq!(live_sessions(&rig, &alice.id).await, 2, "that one, and the one that set it up");
    assert_eq!(again.body["user"]["mfa_enabled"], true);
    assert_eq!(login_with(&rig, "alice", &used).await.refusal(), (401, "invalid_code"), "once");
    assert!(rig.is_good(&again.text("access_token")).await);
    let refresh = async |answer: &Answer| {
        rig.post("/auth/refresh").json(json!({"refresh_token": answer.text("refresh_token")})).send().await.status
    };
    assert_eq!(refresh(&first).await, 401, "the refresh token that was ignored is none any more");
    assert_eq!(refresh(&again).await, 200);
}

#[tokio::test]
async fn of_many_logins_again_at_once_one_gets_the_session() {
    let rig = Rig::new(&format!("{}    lockout: {{mode: Disabled}}\n", wide())).await;
    let alice = enrolled(&rig, "alice").await;
    let (used, _) = completed(&rig, &alice, 0).await;
    let answers = futures_util::future::join_all((0..10).map(|_| login_with(&rig, "alice", &used))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1);
    assert_eq!(live_sessions(&rig, &alice.id).await, 2);
}

#[tokio::test]
async fn a_used_session_another_address_and_another_agent_get_nothing() {
    let rig = Rig::new(&format!("{}    lockout: {{mode: Disabled}}\n", wide())).await;
    let alice = enrolled(&rig, "alice").await;
    let refused = async |used: &str, why: &str| {
        assert_eq!(login_with(&rig, "alice", used).await.refusal(), (401, "invalid_code"), "{why}");
    };

    let (used, answer) = completed(&rig, &alice, 0).await;
    let listed = rig.get("/auth/sessions").bearer(&answer.text("access_token")).send().await;
    assert_eq!(listed.status, 200);
    refused(&used, "its access token was used").await;

    let (used, answer) = completed(&rig, &alice, 1).await;
    let refresh = rig.post("/auth/refresh").json(json!({"refresh_token": answer.text("refresh_token")})).send().await;
    assert_eq!(refresh.status, 200);
    refused(&used, "its refresh token was used").await;

    let (used, answer) = completed(&rig, &alice, 2).await;
    let body = json!({"username": "alice", "password": PASSWORD, "mfa_code": used});
    let elsewhere = rig.post("/auth/login").from("198.51.100.9").json(body.clone()).send().await;
    assert_eq!(elsewhere.refusal(), (401, "invalid_code"), "another address");
    let other = rig.post("/auth/login").header("user-agent", "another").json(body).send().await;
    assert_eq!(other.refusal(), (401, "invalid_code"), "another agent");
    let wrong = json!({"username": "alice", "password": "wrong", "mfa_code": used});
    assert_eq!(rig.post("/auth/login").json(wrong).send().await.refusal(), (401, "invalid_credentials"));
    rig.post("/auth/logout").bearer(&answer.text("access_token")).send().await;
    refused(&used, "the session has ended").await;
}

#[tokio::test]
async fn limits_count_the_login_again_once_and_every_guess() {
    let limits = "rateLimits: {login: {perAccountAndAddress: {limit: 4, window: 5m}}, api: {}}";
    let quick = wide().replace("rateLimits: {login: {}, register: {}, passwordReset: {}, api: {}}", limits);
    let rig = Rig::new(&format!("{quick}    lockout: {{mode: Disabled}}\n")).await;
    let alice = enrolled(&rig, "alice").await;
    let (used, _) = completed(&rig, &alice, 0).await;
    assert_eq!(login_with(&rig, "alice", &used).await.status, 200);
    assert!(rig.login("alice", PASSWORD).await.body["challenge_id"].is_string(), "the third");
    let wrong = wrong_code(&rig, &alice.secret).await;
    assert_eq!(login_with(&rig, "alice", &wrong).await.refusal(), (401, "invalid_code"), "the fourth");
    for _ in 0..3 {
        assert_eq!(
            login_with(&rig, "alice", &wrong).await.refusal(),
            (429, "rate_limited"),
            "an open challenge is no pass"
        );
    }
}
