//! Guesses: they count where wrong passwords count, are few, and harm nobody who is logged in.

use serde_json::json;

use super::{PASSWORD, challenge, code, count, enrolled, live_sessions, login_with, verify, wide, wrong_code};
use crate::tests::rig::Rig;

#[tokio::test]
async fn wrong_codes_lock_as_wrong_passwords_do_and_are_counted_once() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let wrong = wrong_code(&rig, &alice.secret).await;
    let asked = challenge(&rig, "alice").await;
    rig.login("alice", "wrong").await;
    rig.login("alice", "wrong").await;
    assert_eq!(verify(&rig, &asked, &wrong).await.refusal(), (401, "invalid_code"));
    assert_eq!(login_with(&rig, "alice", &wrong).await.refusal(), (401, "invalid_code"));
    assert_eq!(rig.login("alice", PASSWORD).await.body["requires_2fa"], true, "a right password alone clears nothing");
    assert_eq!(login_with(&rig, "alice", &wrong).await.refusal(), (401, "invalid_code"), "the fifth, which locks");
    let good = code(&rig, &alice.secret, 0).await;
    let locked = verify(&rig, &asked, &good).await;
    assert_eq!(locked.refusal(), (423, "account_locked"), "an open challenge during a lock");
    assert!(locked.body["locked_until"].is_i64() && locked.headers.contains_key("retry-after"));
    assert_eq!(login_with(&rig, "alice", &good).await.refusal(), (423, "account_locked"));
    let counts = [count(&rig, "LOGIN_FAILED").await, count(&rig, "MFA_FAILED").await, count(&rig, "ACCOUNT_LOCKED").await];
    assert_eq!(counts, [2, 3, 1]);
}

#[tokio::test]
async fn a_stranger_s_guesses_end_no_session_of_the_owner() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let wrong = wrong_code(&rig, &alice.secret).await;
    for _ in 0..6 {
        let guess = rig.post("/auth/login").from("198.51.100.9");
        guess.json(json!({"username": "alice", "password": PASSWORD, "mfa_code": wrong})).send().await;
    }
    assert_eq!(rig.login("alice", PASSWORD).await.status, 423);
    assert!(rig.is_good(&alice.login.text("access_token")).await);
    let refresh = rig.post("/auth/refresh").json(json!({"refresh_token": alice.login.text("refresh_token")})).send().await;
    assert_eq!(refresh.status, 200, "{}", refresh.body);
    let at_home = json!({"username": "alice", "password": PASSWORD, "device_token": alice.login.text("device_token"),
        "mfa_code": code(&rig, &alice.secret, 0).await});
    let answer = rig.post("/auth/login").json(at_home).send().await;
    assert_eq!(answer.status, 200, "nor keep a known device out: {}", answer.body);
}

#[tokio::test]
async fn of_a_hundred_guesses_at_once_a_challenge_looks_at_five() {
    let rig = Rig::new(&format!("{}    lockout: {{mode: Disabled}}\n", wide())).await;
    let alice = enrolled(&rig, "alice").await;
    let asked = challenge(&rig, "alice").await;
    let wrong = wrong_code(&rig, &alice.secret).await;
    let guesses = futures_util::future::join_all((0..100).map(|_| verify(&rig, &asked, &wrong))).await;
    let refused = |code: &str| guesses.iter().filter(|answer| answer.refusal() == (401, code)).count();
    assert_eq!((refused("invalid_code"), refused("invalid_challenge")), (5, 95));
    let good = code(&rig, &alice.secret, 0).await;
    assert_eq!(verify(&rig, &asked, &good).await.refusal(), (401, "invalid_challenge"), "the right one comes too late");
    assert_eq!(login_with(&rig, "alice", &good).await.status, 200, "and was not used up");
}

#[tokio::test]
async fn of_a_hundred_guesses_at_once_over_many_challenges_the_lockout_looks_at_five() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let wrong = wrong_code(&rig, &alice.secret).await;
    let mut challenges = Vec::new();
    for _ in 0..20 {
        challenges.push(challenge(&rig, "alice").await);
    }
    let at_challenges = challenges.iter().cycle().take(80).map(|asked| verify(&rig, asked, &wrong));
    let answers = futures_util::future::join_all(at_challenges).await;
    let looked_at = answers.iter().filter(|answer| answer.refusal() == (401, "invalid_code")).count();
    assert_eq!(looked_at, 5);
    assert_eq!(answers.iter().filter(|answer| answer.status == 423).count(), 75);
}

#[tokio::test]
async fn of_one_code_used_many_times_at_once_one_use_wins() {
    let rig = Rig::new(&format!("{}    lockout: {{mode: Disabled}}\n", wide())).await;
    let alice = enrolled(&rig, "alice").await;
    let mut challenges = Vec::new();
    for _ in 0..10 {
        challenges.push(challenge(&rig, "alice").await);
    }
    for used in [code(&rig, &alice.secret, 2).await, alice.backup_codes[0].clone()] {
        let before = live_sessions(&rig, &alice.id).await;
        // None of them is the retried login: that comes from the address and agent of a challenge.
        let logins = (0..10).map(|n| {
            let login = rig.post("/auth/login").header("user-agent", &format!("agent {n}"));
            login.json(json!({"username": "alice", "password": PASSWORD, "mfa_code": used})).send()
        });
        let (verified, logged_in) = futures_util::future::join(
            futures_util::future::join_all(challenges.iter().map(|asked| verify(&rig, asked, &used))),
            futures_util::future::join_all(logins),
        )
        .await;
        let won = verified.iter().chain(&logged_in).filter(|answer| answer.status == 200).count();
        assert_eq!(won, 1);
        assert_eq!(live_sessions(&rig, &alice.id).await, before + 1);
    }
}

#[tokio::test]
async fn a_backup_code_works_once_and_in_any_spelling() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let backup = &alice.backup_codes[3];
    let typed = backup.replace('-', " ").to_uppercase().replace('0', "O");
    assert_eq!(login_with(&rig, "alice", &typed).await.status, 200);
    assert_eq!(login_with(&rig, "alice", backup).await.refusal(), (401, "invalid_code"));
    let asked = challenge(&rig, "alice").await;
    assert_eq!(verify(&rig, &asked, backup).await.refusal(), (401, "invalid_code"));
    let token = alice.login.text("access_token");
    assert_eq!(rig.get("/auth/2fa").bearer(&token).send().await.body["backup_codes_left"], 9);
}

#[tokio::test]
async fn a_challenge_that_is_open_when_an_administrator_steps_in_says_so() {
    let rig = Rig::new(&wide()).await;
    for (name, call, body, refusal) in [
        ("alice", "lock", json!({"reason": "laptop stolen"}), (423, "account_locked")),
        ("bob", "", json!({"status": "disabled"}), (403, "account_disabled")),
    ] {
        let held = enrolled(&rig, name).await;
        let asked = challenge(&rig, name).await;
        let path = format!("/admin/v1/policies/shop/shop/users/{name}");
        let stepped_in = match call {
            "" => rig.patch(&path),
            call => rig.post(&format!("{path}/{call}")),
        };
        assert_eq!(stepped_in.json(body).over_admin_socket().send().await.status, 200);
        let good = code(&rig, &held.secret, 1).await;
        let refused = verify(&rig, &asked, &good).await;
        assert_eq!(refused.refusal(), refusal, "{}", refused.body);
        let sent = rig.post("/auth/2fa/otp/send").json(json!({"challenge_id": asked, "channel": "email"})).send().await;
        assert_eq!(sent.refusal(), refusal, "no code goes out either: {}", sent.body);
    }
}
