//! Second factors, as clients use and misuse them.

mod cookies;
mod enrolling;
mod guessing;
mod repeating;
mod sent;
mod step_up;
mod texted;

use countersign_store::Challenge;
use serde_json::{Value, json};

use super::rig::{Answer, QUICK, Rig};
use crate::totp::TotpSecret;

const PASSWORD: &str = "correct horse battery staple";

/// Codes up to ten steps away are good, so that a test has many of them at once.
fn wide() -> String {
    format!("{QUICK}    mfa: {{totp: {{skew: 10}}}}\n")
}

/// An account with a second factor.
struct Enrolled {
    id: String,
    secret: TotpSecret,
    backup_codes: Vec<String>,
    /// What was answered to the login that set it up.
    login: Answer,
}

/// Sets a second factor up in a session; the code of the step before the present one is used up by it.
async fn set_up(rig: &Rig, token: &str) -> (TotpSecret, Vec<String>) {
    let shown = rig.post("/auth/2fa/setup/totp").bearer(token).send().await;
    assert_eq!(shown.status, 200, "{}", shown.body);
    let secret = TotpSecret::from_base32(&shown.text("secret")).unwrap();
    let code = code(rig, &secret, -1).await;
    let confirmed = rig.post("/auth/2fa/verify/totp").bearer(token).json(json!({"code": code})).send().await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.body);
    let codes = confirmed.body["backup_codes"].as_array().unwrap();
    (secret, codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect())
}

async fn enrolled(rig: &Rig, name: &str) -> Enrolled {
    let user = rig.account(name, PASSWORD, &[]).await;
    let login = rig.login(name, PASSWORD).await;
    let (secret, backup_codes) = set_up(rig, &login.text("access_token")).await;
    Enrolled { id: user.id, secret, backup_codes, login }
}

/// The code of so many steps from now.
async fn code(rig: &Rig, secret: &TotpSecret, steps: i64) -> String {
    let now = rig.store.database_now().await.unwrap().as_secs() + steps * 30;
    secret.code_at(&rig.policy.login.as_ref().unwrap().totp, u64::try_from(now).unwrap()).unwrap()
}

/// A code that is none, and that no step near now has.
async fn wrong_code(rig: &Rig, secret: &TotpSecret) -> String {
    let mut near = Vec::new();
    for steps in -15..=15 {
        near.push(code(rig, secret, steps).await);
    }
    (0..100).map(|n| format!("{n:06}")).find(|candidate| !near.contains(candidate)).unwrap()
}

/// The id of a new challenge.
async fn challenge(rig: &Rig, name: &str) -> String {
    let answer = rig.login(name, PASSWORD).await;
    assert_eq!(answer.body["requires_2fa"], true, "{}", answer.body);
    answer.text("challenge_id")
}

async fn verify(rig: &Rig, challenge: &str, code: &str) -> Answer {
    rig.post("/auth/2fa/verify").json(json!({"challenge_id": challenge, "code": code})).send().await
}

async fn login_with(rig: &Rig, name: &str, code: &str) -> Answer {
    rig.post("/auth/login").json(json!({"username": name, "password": PASSWORD, "mfa_code": code})).send().await
}

/// How often an event was written.
async fn count(rig: &Rig, kind: &str) -> usize {
    rig.events().await.iter().filter(|event| *event == kind).count()
}

async fn live_sessions(rig: &Rig, user: &str) -> usize {
    let now = rig.store.database_now().await.unwrap();
    rig.store.sessions(rig.name(), user, None, 100, now).await.unwrap().len()
}

#[tokio::test]
async fn a_login_with_a_second_factor_gives_no_token_before_the_code() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let asked = rig.login("alice", PASSWORD).await;
    assert_eq!(asked.status, 200);
    assert_eq!(asked.body["methods"], json!(["totp", "backup_code", "email"]));
    let mut members: Vec<&String> = asked.body.as_object().unwrap().keys().collect();
    members.sort();
    assert_eq!(members, ["challenge_id", "expires_in", "methods", "requires_2fa"], "no token, and nothing of the account");
    assert_eq!(live_sessions(&rig, &alice.id).await, 1, "the one that set it up");
    let answer = verify(&rig, &asked.text("challenge_id"), &code(&rig, &alice.secret, 0).await).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["user"]["mfa_enabled"], true);
    assert!(answer.body["device_token"].is_string() && answer.body["refresh_token"].is_string());
    let session = rig.store.session(rig.name(), &answer.text("session_id")).await.unwrap().unwrap();
    assert_eq!(session.amr, ["pwd", "otp", "mfa"]);
    assert!(rig.is_good(&answer.text("access_token")).await);
    let events = rig.events().await;
    let tail: Vec<&str> = events.iter().rev().take(3).rev().map(String::as_str).collect();
    assert_eq!(tail, ["MFA_CHALLENGED", "NEW_DEVICE", "LOGIN_SUCCEEDED"]);
}

#[tokio::test]
async fn a_code_can_come_with_the_password_at_once() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let spaced = code(&rig, &alice.secret, 0).await;
    let (first, second) = spaced.split_at(3);
    let answer = login_with(&rig, "alice", &format!(" {first} {second} ")).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(rig.login("alice", PASSWORD).await.body["requires_2fa"], true, "each time anew");
    let empty = login_with(&rig, "alice", "").await;
    assert_eq!(empty.body["requires_2fa"], true, "an empty one is none");
    let bob = rig.account("bob", PASSWORD, &[]).await;
    assert_eq!(login_with(&rig, "bob", "123456").await.body["user"]["id"], json!(bob.id), "who has none needs none");
}

#[tokio::test]
async fn a_challenge_is_good_for_its_own_account_policy_and_time() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let bob = enrolled(&rig, "bob").await;
    let asked = challenge(&rig, "alice").await;
    let of_bob = code(&rig, &bob.secret, 0).await;
    assert_eq!(verify(&rig, &asked, &of_bob).await.refusal(), (401, "invalid_code"));

    let yaml = super::rig::policy_yaml(&wide()).replace("name: shop, namespace: shop", "name: other, namespace: shop");
    let other = rig.beside(&yaml).await;
    let good = code(&rig, &alice.secret, 0).await;
    assert_eq!(verify(&other, &asked, &good).await.refusal(), (401, "invalid_challenge"), "of another policy");

    let held = rig.store.challenge(rig.name(), &asked).await.unwrap().unwrap();
    let over = Challenge { id: "over".into(), created: held.created.minus(600_000), expires: held.created, ..held };
    countersign_store::transact!(&*rig.store, |tx| { tx.insert_challenge(&over).await }).unwrap();
    for unknown in ["over", "unknown", "", "' OR 1=1 --"] {
        assert_eq!(verify(&rig, unknown, &good).await.refusal(), (401, "invalid_challenge"), "{unknown}");
    }
    assert_eq!(verify(&rig, &asked, &good).await.status, 200, "none of that used the code up");
    assert_eq!(
        verify(&rig, &asked, &code(&rig, &alice.secret, 1).await).await.refusal(),
        (401, "invalid_challenge"),
        "twice"
    );
    for (body, status) in [
        (json!({}), 422),
        (json!({"challenge_id": asked}), 422),
        (json!({"challenge_id": asked, "code": 123_456}), 422),
        (json!({"challenge_id": asked, "code": ""}), 422),
        (json!({"challenge_id": asked, "code": "1".repeat(65)}), 422),
        (Value::Null, 400),
    ] {
        let answer = rig.post("/auth/2fa/verify").json(body.clone()).send().await;
        assert_eq!(answer.status, status, "{body}");
    }
}

#[tokio::test]
async fn a_changed_password_voids_what_waits_for_a_code() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let asked = challenge(&rig, "alice").await;
    let hash = countersign_store::PasswordHash::new("another".into());
    let later = rig.store.database_now().await.unwrap().plus(1);
    countersign_store::transact!(&*rig.store, |tx| { tx.set_password(rig.name(), &alice.id, &hash, None, 5, later).await })
        .unwrap();
    let good = code(&rig, &alice.secret, 0).await;
    assert_eq!(verify(&rig, &asked, &good).await.refusal(), (401, "invalid_challenge"));
}

#[tokio::test]
async fn a_lock_whose_time_is_over_is_lifted_by_the_next_login() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let mut user = rig.store.user(rig.name(), &alice.id).await.unwrap().unwrap();
    let now = rig.store.database_now().await.unwrap();
    (user.status, user.status_until) = (countersign_store::UserStatus::Locked, Some(now));
    countersign_store::transact!(&*rig.store, |tx| { tx.save_user(&user).await }).unwrap();
    let asked = challenge(&rig, "alice").await;
    let answer = verify(&rig, &asked, &code(&rig, &alice.secret, 0).await).await;
    assert_eq!((answer.status.as_u16(), &answer.body["user"]["status"]), (200, &json!("active")));
    let refresh = rig.post("/auth/refresh").json(json!({"refresh_token": answer.text("refresh_token")})).send().await;
    assert_eq!(refresh.status, 200, "{}", refresh.body);
}

#[tokio::test]
async fn a_session_limit_refuses_a_right_code_and_counts_no_failure() {
    let rig = Rig::new(&format!("{}    sessions: {{maxConcurrent: 1, onLimit: Reject}}\n", wide())).await;
    let alice = enrolled(&rig, "alice").await;
    for _ in 0..7 {
        let asked = challenge(&rig, "alice").await;
        let good = code(&rig, &alice.secret, 0).await;
        assert_eq!(verify(&rig, &asked, &good).await.refusal(), (403, "session_limit"));
        assert_eq!(login_with(&rig, "alice", &good).await.refusal(), (403, "session_limit"));
    }
    assert_eq!((count(&rig, "MFA_FAILED").await, count(&rig, "LOGIN_FAILED").await), (0, 0));
}

#[tokio::test]
async fn without_second_factors_in_the_policy_nobody_is_asked_for_one() {
    let rig = Rig::new(&wide()).await;
    enrolled(&rig, "alice").await;
    let yaml = super::rig::policy_yaml(&format!("{QUICK}    mfa: {{mode: Disabled}}\n"));
    let off = rig.beside(&yaml).await;
    let login = off.login("alice", PASSWORD).await;
    let token = login.text("access_token");
    assert_eq!(off.post("/auth/2fa/setup/totp").bearer(&token).send().await.refusal(), (403, "forbidden"));
    assert_eq!(off.get("/auth/2fa").bearer(&token).send().await.body["enabled"], false);
}
