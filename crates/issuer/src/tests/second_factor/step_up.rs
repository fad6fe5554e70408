//! Sessions whose client has changed.

use serde_json::json;

use super::{PASSWORD, challenge, code, count, enrolled, login_with, verify, wide, wrong_code};
use crate::tests::rig::{Answer, Rig, policy_yaml};

const ELSEWHERE: &str = "198.51.100.9";

async fn refresh(rig: &Rig, token: &str, from: &str) -> Answer {
    rig.post("/auth/refresh").from(from).json(json!({"refresh_token": token})).send().await
}

async fn show(rig: &Rig, challenge: &str, code: &str) -> Answer {
    rig.post("/auth/2fa/verify").from(ELSEWHERE).json(json!({"challenge_id": challenge, "code": code})).send().await
}

fn stepping(more: &str) -> String {
    format!("{}    sessions: {{binding: {{ip: StepUp{more}}}}}\n", wide())
}

#[tokio::test]
async fn a_session_from_elsewhere_goes_on_with_a_code() {
    let rig = Rig::new(&stepping("")).await;
    let alice = enrolled(&rig, "alice").await;
    let (token, session) = (alice.login.text("refresh_token"), alice.login.text("session_id"));
    let asked = refresh(&rig, &token, ELSEWHERE).await;
    assert_eq!(asked.refusal(), (403, "mfa_required"));
    assert_eq!(asked.body["methods"], json!(["totp", "backup_code", "email"]));
    let at_home = refresh(&rig, &token, "203.0.113.7").await;
    assert_eq!(at_home.status, 200, "the token was not used up: {}", at_home.body);
    let token = at_home.text("refresh_token");
    let challenge = refresh(&rig, &token, ELSEWHERE).await.text("challenge_id");
    let wrong = wrong_code(&rig, &alice.secret).await;
    assert_eq!(show(&rig, &challenge, &wrong).await.refusal(), (401, "invalid_code"));
    let good = code(&rig, &alice.secret, 0).await;
    let answer = show(&rig, &challenge, &good).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.text("session_id"), session, "the same session");
    assert!(answer.body["device_token"].is_null());
    let held = rig.store.session(rig.name(), &session).await.unwrap().unwrap();
    assert_eq!(held.ip.as_deref(), Some(ELSEWHERE));
    let next = refresh(&rig, &answer.text("refresh_token"), ELSEWHERE).await;
    assert_eq!(next.status, 200, "{}", next.body);
    assert_eq!(refresh(&rig, &token, ELSEWHERE).await.refusal(), (401, "invalid_refresh_token"), "the old one is over");
    assert!(rig.is_good(&next.text("access_token")).await, "and showing it ended nothing");
    let body = json!({"username": "alice", "password": PASSWORD, "mfa_code": good});
    let again = rig.post("/auth/login").from(ELSEWHERE).json(body).send().await;
    assert_eq!(again.refusal(), (401, "invalid_code"), "a login doesn't get that session");
    assert_eq!((count(&rig, "IP_CHANGE").await, count(&rig, "MFA_SUCCEEDED").await), (1, 1));
}

#[tokio::test]
async fn whoever_kept_a_token_of_before_the_code_is_written_down_and_uses_up_nothing_of_its_owner() {
    let rig = Rig::new(&stepping("").replace("api: {}", "api: {perSubject: {limit: 5, window: 1h}}")).await;
    let alice = enrolled(&rig, "alice").await;
    let token = alice.login.text("refresh_token");
    let asked = refresh(&rig, &token, ELSEWHERE).await.text("challenge_id");
    let moved = show(&rig, &asked, &code(&rig, &alice.secret, 0).await).await;
    for _ in 0..6 {
        assert_eq!(refresh(&rig, &token, "198.51.100.10").await.refusal(), (401, "invalid_refresh_token"));
    }
    assert_eq!(count(&rig, "INVALID_TOKEN").await, 5, "so many a minute of one address");
    let next = refresh(&rig, &moved.text("refresh_token"), ELSEWHERE).await;
    assert_eq!(next.status, 200, "{}", next.body);
}

#[tokio::test]
async fn a_client_that_tries_again_and_again_is_asked_once() {
    let rig = Rig::new(&stepping("")).await;
    let token = enrolled(&rig, "alice").await.login.text("refresh_token");
    let asked = refresh(&rig, &token, ELSEWHERE).await.text("challenge_id");
    for _ in 0..5 {
        assert_eq!(refresh(&rig, &token, ELSEWHERE).await.text("challenge_id"), asked);
    }
    assert_eq!((count(&rig, "IP_CHANGE").await, count(&rig, "MFA_CHALLENGED").await), (1, 1));
    let third = refresh(&rig, &token, "198.51.100.10").await.text("challenge_id");
    assert_ne!(third, asked, "of another client: it uses up no attempt of the first one's");
    for _ in 0..5 {
        let wrong = json!({"challenge_id": asked, "code": "not a code"});
        rig.post("/auth/2fa/verify").from(ELSEWHERE).json(wrong).send().await;
    }
    let locked = refresh(&rig, &token, ELSEWHERE).await;
    assert_ne!(locked.text("challenge_id"), asked, "that one has had its attempts");
}

#[tokio::test]
async fn clients_that_keep_their_first_refresh_token_keep_it_through_a_step_up() {
    let yaml = policy_yaml(&stepping("")).replace("  roles:", "  tokens: {refreshRotation: Never}\n  roles:");
    let rig = Rig::of(&yaml).await;
    let alice = enrolled(&rig, "alice").await;
    let token = alice.login.text("refresh_token");
    let asked = refresh(&rig, &token, ELSEWHERE).await.text("challenge_id");
    let answer = show(&rig, &asked, &code(&rig, &alice.secret, 0).await).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    for token in [token, answer.text("refresh_token")] {
        assert_eq!(refresh(&rig, &token, ELSEWHERE).await.text("refresh_token"), token);
    }
}

#[tokio::test]
async fn who_has_no_second_factor_logs_in_again() {
    let rig = Rig::new(&stepping("")).await;
    rig.account("alice", PASSWORD, &[]).await;
    let login = rig.login("alice", PASSWORD).await;
    let token = login.text("refresh_token");
    assert_eq!(refresh(&rig, &token, ELSEWHERE).await.refusal(), (401, "invalid_refresh_token"));
    assert_eq!(refresh(&rig, &token, "203.0.113.7").await.refusal(), (401, "invalid_refresh_token"), "it has ended");
    assert!(!rig.is_good(&login.text("access_token")).await);
}

#[tokio::test]
async fn the_strictest_reaction_counts() {
    let rig = Rig::new(&stepping(", device: Deny")).await;
    let alice = enrolled(&rig, "alice").await;
    let login = rig.post("/auth/login").header("user-agent", "one");
    let body = json!({"username": "alice", "password": PASSWORD, "mfa_code": code(&rig, &alice.secret, 0).await});
    let token = login.json(body).send().await.text("refresh_token");
    let changed = rig.post("/auth/refresh").from(ELSEWHERE).header("user-agent", "two");
    let answer = changed.json(json!({"refresh_token": token})).send().await;
    assert_eq!(answer.refusal(), (401, "invalid_refresh_token"));
}

#[tokio::test]
async fn a_session_that_has_ended_is_not_revived_by_a_code() {
    let rig = Rig::new(&stepping("")).await;
    let alice = enrolled(&rig, "alice").await;
    let asked = refresh(&rig, &alice.login.text("refresh_token"), ELSEWHERE).await.text("challenge_id");
    rig.post("/auth/logout").bearer(&alice.login.text("access_token")).send().await;
    let good = code(&rig, &alice.secret, 0).await;
    assert_eq!(show(&rig, &asked, &good).await.refusal(), (401, "invalid_challenge"));
    assert_eq!(login_with(&rig, "alice", &good).await.status, 200, "the code was not used up");
    let login = challenge(&rig, "alice").await;
    assert_eq!(verify(&rig, &login, &good).await.refusal(), (401, "invalid_code"));
}
