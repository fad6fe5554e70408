//! Changing and resetting passwords.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::rig::{Answer, QUICK, Rig};

const PASSWORD: &str = "correct horse battery staple";
const OTHER: &str = "another horse battery staple";

async fn change(rig: &Rig, token: &str, current: &str, new: &str) -> Answer {
    let body = json!({"current_password": current, "new_password": new, "confirm_password": new});
    rig.post("/auth/change-password").bearer(token).json(body).send().await
}

async fn reset(rig: &Rig, token: &str, new: &str) -> Answer {
    rig.post("/auth/reset-password").json(json!({"token": token, "new_password": new})).send().await
}

/// The token of a mail to reset a password.
async fn reset_token(rig: &Rig, email: &str) -> String {
    rig.post("/auth/forgot-password").json(json!({"email": email})).send().await;
    rig.mails().await.remove(0).token()
}

#[tokio::test]
async fn a_changed_password_ends_the_other_sessions_and_keeps_this_one() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let other = rig.login("alice", PASSWORD).await;
    let this = rig.login("alice", PASSWORD).await;
    let token = this.text("access_token");
    let mailed = reset_token(&rig, "alice@shop.example").await;
    let once = json!({"current_password": PASSWORD, "new_password": OTHER});
    let once = rig.post("/auth/change-password").bearer(&token).json(once).send().await;
    assert_eq!(once.refusal(), (422, "validation_failed"), "confirm_password is missing");
    let differs = json!({"current_password": PASSWORD, "new_password": OTHER, "confirm_password": "x"});
    let differs = rig.post("/auth/change-password").bearer(&token).json(differs).send().await;
    assert_eq!(differs.refusal(), (422, "validation_failed"));
    let changed = change(&rig, &token, PASSWORD, OTHER).await;
    assert_eq!((changed.status.as_u16(), &changed.body["revoked"]), (200, &json!(1)), "{}", changed.body);
    rig.caught_up(&changed).await;
    assert!(rig.is_good(&token).await && !rig.is_good(&other.text("access_token")).await);
    for (session, status) in [(&other, 401), (&this, 200)] {
        let refresh = rig.post("/auth/refresh").json(json!({"refresh_token": session.text("refresh_token")})).send().await;
        assert_eq!(refresh.status.as_u16(), status);
    }
    assert_eq!(rig.login("alice", PASSWORD).await.status, 401);
    assert_eq!(rig.login("alice", OTHER).await.status, 200);
    assert_eq!(reset(&rig, &mailed, "yet another horse battery").await.refusal(), (401, "invalid_token"), "withdrawn");
    assert!(rig.events().await.contains(&"PASSWORD_CHANGED".to_owned()));
}

#[tokio::test]
async fn wrong_current_passwords_count_as_failed_logins() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let login = rig.login("alice", PASSWORD).await;
    let token = login.text("access_token");
    let mut statuses = Vec::new();
    for n in 0..6 {
        let answer = if n % 2 == 0 {
            change(&rig, &token, "wrong", OTHER).await
        } else {
            rig.delete("/users/me").bearer(&token).json(json!({"password": "wrong"})).send().await
        };
        statuses.push(answer.status.as_u16());
    }
    assert_eq!(statuses, [401, 401, 401, 401, 401, 423]);
    assert_eq!(rig.login("alice", PASSWORD).await.status, 423, "one counter");
    assert_eq!(change(&rig, &token, PASSWORD, OTHER).await.refusal(), (423, "account_locked"), "and nobody tries on");
    assert!(rig.is_good(&token).await, "the session lives");
    // The owner's own device is not held up by it.
    let device = login.text("device_token");
    let body =
        json!({"current_password": PASSWORD, "new_password": OTHER, "confirm_password": OTHER, "device_token": device});
    assert_eq!(rig.post("/auth/change-password").bearer(&token).json(body).send().await.status, 200);
}

#[tokio::test]
async fn whoever_knows_the_password_can_t_keep_the_machine_busy_with_it() {
    let limits = LIMITS.replace("api: {}", "api: {perSubject: {limit: 3, window: 1m}}");
    let rig = Rig::new(&format!("{QUICK_START}}}\n{limits}")).await;
    rig.account("alice", PASSWORD, &[]).await;
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(change(&rig, &token, PASSWORD, PASSWORD).await.status.as_u16());
    }
    assert_eq!(statuses, [422, 422, 422, 429]);
}

#[tokio::test]
async fn of_many_guesses_at_once_none_counts_beyond_the_one_that_locks() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    let guesses = (0..40).map(|_| change(&rig, &token, "wrong", OTHER));
    join_all(guesses).await;
    assert_eq!(change(&rig, &token, PASSWORD, OTHER).await.status, 423);
    let locks = rig.events().await.into_iter().filter(|kind| kind == "ACCOUNT_LOCKED").count();
    assert_eq!(locks, 1);
}

#[tokio::test]
async fn a_reset_ends_every_session_and_lifts_a_lock_from_failures() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let sessions = [rig.login("alice", PASSWORD).await, rig.login("alice", PASSWORD).await];
    for _ in 0..6 {
        rig.login("alice", "wrong").await;
    }
    assert_eq!(rig.login("alice", PASSWORD).await.status, 423);
    let told: Vec<String> = rig.mails().await.into_iter().map(|mail| mail.subject).collect();
    assert_eq!(told, ["Your account is locked for a while"], "its owner hears of it, once");
    let token = reset_token(&rig, "ALICE@shop.example").await;
    let answer = reset(&rig, &token, OTHER).await;
    assert_eq!((answer.status.as_u16(), &answer.body["revoked"]), (200, &json!(2)), "{}", answer.body);
    rig.caught_up(&answer).await;
    for session in &sessions {
        assert!(!rig.is_good(&session.text("access_token")).await);
        let refresh = rig.post("/auth/refresh").json(json!({"refresh_token": session.text("refresh_token")})).send().await;
        assert_eq!(refresh.refusal(), (401, "invalid_refresh_token"));
    }
    assert_eq!(rig.login("alice", OTHER).await.status, 200);
    assert_eq!(reset(&rig, &token, "yet another horse battery").await.refusal(), (401, "invalid_token"), "once");
    let events = rig.events().await;
    assert!(["PASSWORD_RESET", "ACCOUNT_UNLOCKED"].iter().all(|kind| events.contains(&(*kind).to_owned())), "{events:?}");
}

#[tokio::test]
async fn of_parallel_uses_of_a_reset_token_one_wins() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let token = reset_token(&rig, "alice@shop.example").await;
    let passwords: Vec<String> = (0..12).map(|n| format!("{OTHER} {n}")).collect();
    let answers = join_all(passwords.iter().map(|password| reset(&rig, &token, password))).await;
    let won: Vec<&String> =
        passwords.iter().zip(&answers).filter(|(_, answer)| answer.status == 200).map(|(p, _)| p).collect();
    assert_eq!(won.len(), 1);
    assert!(answers.iter().filter(|answer| answer.status != 200).all(|answer| answer.refusal() == (401, "invalid_token")));
    assert_eq!(rig.login("alice", won[0]).await.status, 200);
}

#[tokio::test]
async fn every_other_token_is_withdrawn_by_a_reset_and_none_serves_another_purpose() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let (one, two) = (reset_token(&rig, "alice@shop.example").await, reset_token(&rig, "alice@shop.example").await);
    let verify = rig.post("/auth/verify-email").json(json!({"token": one})).send().await;
    assert_eq!(verify.refusal(), (401, "invalid_token"));
    assert_eq!(reset(&rig, &two, OTHER).await.status, 200);
    assert_eq!(reset(&rig, &one, "yet another horse battery").await.refusal(), (401, "invalid_token"));
    for token in ["", "x", "\0", &"A".repeat(43), &"A".repeat(60_000)] {
        let hashes = rig.issuer.parts.passwords.computed();
        assert_eq!(reset(&rig, token, OTHER).await.refusal(), (401, "invalid_token"));
        assert_eq!(rig.issuer.parts.passwords.computed(), hashes, "what is no token costs no hashing");
    }
}

#[tokio::test]
async fn each_broken_rule_is_told_and_none_uses_the_link_up() {
    let strict = format!("{}, require: [Upper, Lower, Digit, Symbol], history: 2}}\n", QUICK_START.trim_end());
    let rig = Rig::new(&format!("{strict}{LIMITS}")).await;
    let first = "Correct-horse-1";
    rig.account("alice", first, &[]).await;
    let token = reset_token(&rig, "alice@shop.example").await;
    let told = |answer: &Answer| -> Vec<(String, String)> {
        assert_eq!(answer.refusal(), (422, "weak_password"), "{}", answer.body);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let list = answer.body["violations"].as_array().unwrap();
        list.iter().map(|one| (text(&one["rule"]), text(&one["message"]))).collect()
    };
    let rules = |answer: &Answer| told(answer).into_iter().map(|(rule, _)| rule).collect::<Vec<_>>();
    let weak = told(&reset(&rig, &token, "sqrt").await);
    let expected = [
        ("min_length", "use at least 8 characters"),
        ("upper", "use an upper-case letter"),
        ("digit", "use a digit"),
        ("symbol", "use a symbol (neither letter, digit nor space)"),
    ];
    assert_eq!(weak, expected.map(|(rule, message)| (rule.to_owned(), message.to_owned())));
    assert_eq!(rules(&reset(&rig, &token, first).await), ["history"], "the present one");
    let second = "Correct-horse-2";
    assert_eq!(reset(&rig, &token, second).await.status, 200, "the link is still good");
    let bearer = rig.login("alice", second).await.text("access_token");
    assert_eq!(rules(&change(&rig, &bearer, second, first).await), ["history"]);
    assert_eq!(rules(&change(&rig, &bearer, second, second).await), ["history"]);
    assert_eq!(change(&rig, &bearer, second, "Correct-horse-3").await.status, 200);
    assert_eq!(change(&rig, &bearer, "Correct-horse-3", first).await.status, 200, "it was long ago: the last two count");
    let register = json!({"email": "x@shop.example", "password": "sqrt"});
    assert_eq!(rules(&rig.post("/auth/register").json(register).send().await), ["min_length", "upper", "digit", "symbol"]);
}

const QUICK_START: &str = "    passwords: {argon2id: {memory: 64Ki, iterations: 1}";
const LIMITS: &str = "    rateLimits: {login: {}, register: {}, passwordReset: {}, api: {}}\n";

#[tokio::test]
async fn a_link_of_before_an_account_was_closed_opens_nothing() {
    let rig = Rig::new(QUICK).await;
    let alice = rig.account("alice", PASSWORD, &[]).await;
    let token = reset_token(&rig, "alice@shop.example").await;
    for status in [countersign_store::UserStatus::Disabled, countersign_store::UserStatus::Locked] {
        let closed = countersign_store::User { status, ..alice.clone() };
        countersign_store::transact!(&*rig.store, |tx| { tx.save_user(&closed).await }).unwrap();
        let answer = reset(&rig, &token, OTHER).await;
        match status {
            countersign_store::UserStatus::Disabled => assert_eq!(answer.refusal(), (401, "invalid_token")),
            // An administrator's lock stays, whatever the password is.
            _ => assert_eq!(rig.login("alice", OTHER).await.refusal(), (423, "account_locked")),
        }
    }
}

#[tokio::test]
async fn two_changes_on_one_old_password_make_one() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    let passwords: Vec<String> = (0..6).map(|n| format!("{OTHER} {n}")).collect();
    let answers = join_all(passwords.iter().map(|new| change(&rig, &token, PASSWORD, new))).await;
    let won = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(won, 1, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.refusal() == (401, "invalid_credentials")));
}
