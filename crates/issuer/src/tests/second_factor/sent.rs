//! Codes by e-mail.

use countersign_store::transact;
use serde_json::json;

use super::{challenge, enrolled, verify, wide};
use crate::tests::rig::{Answer, Rig};

async fn send(rig: &Rig, challenge: &str, channel: &str) -> Answer {
    rig.post("/auth/2fa/otp/send").json(json!({"challenge_id": challenge, "channel": channel})).send().await
}

/// The code in the only mail that went out, and to whom.
async fn mailed(rig: &Rig) -> (String, String) {
    let mails = rig.mails().await;
    assert_eq!(mails.len(), 1, "{mails:?}");
    let lines = mails[0].raw.lines().map(str::trim);
    let code = lines.into_iter().find(|line| line.len() == 6 && line.bytes().all(|b| b.is_ascii_digit())).unwrap();
    (mails[0].to.clone(), code.to_owned())
}

#[tokio::test]
async fn a_mailed_code_works_once_for_its_own_challenge() {
    let rig = Rig::new(&wide()).await;
    enrolled(&rig, "alice").await;
    let (asked, other) = (challenge(&rig, "alice").await, challenge(&rig, "alice").await);
    assert_eq!(send(&rig, &asked, "email").await.status, 202);
    let (to, earlier) = mailed(&rig).await;
    assert_eq!(to, "alice@shop.example");
    assert_eq!(send(&rig, &asked, "email").await.status, 202);
    let (_, code) = mailed(&rig).await;
    assert_eq!(verify(&rig, &other, &code).await.refusal(), (401, "invalid_code"), "of another challenge");
    if earlier != code {
        assert_eq!(verify(&rig, &asked, &earlier).await.refusal(), (401, "invalid_code"), "a later one took its place");
    }
    let answer = verify(&rig, &asked, &code).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(verify(&rig, &asked, &code).await.refusal(), (401, "invalid_challenge"));
    assert_eq!(send(&rig, &asked, "email").await.refusal(), (401, "invalid_challenge"), "it was answered");
}

#[tokio::test]
async fn codes_go_to_verified_addresses_alone_and_not_without_end() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let asked = challenge(&rig, "alice").await;
    assert_eq!(send(&rig, &asked, "pigeon").await.refusal(), (422, "validation_failed"));
    assert_eq!(send(&rig, "unknown", "email").await.refusal(), (401, "invalid_challenge"));
    for _ in 0..5 {
        assert_eq!(send(&rig, &asked, "email").await.status, 202);
    }
    let refused = send(&rig, &challenge(&rig, "alice").await, "email").await;
    assert_eq!(refused.refusal(), (429, "rate_limited"), "whatever the challenge");
    assert!(refused.headers.contains_key("retry-after"));

    let mut user = rig.store.user(rig.name(), &alice.id).await.unwrap().unwrap();
    user.email_verified = false;
    transact!(&*rig.store, |tx| { tx.save_user(&user).await }).unwrap();
    let token = alice.login.text("access_token");
    let state = rig.get("/auth/2fa").bearer(&token).send().await;
    assert_eq!(state.body["methods"], json!(["totp", "backup_code"]));
    assert_eq!(send(&rig, &asked, "email").await.refusal(), (422, "validation_failed"));
}
