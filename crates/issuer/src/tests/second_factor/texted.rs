//! Codes by SMS.

use std::time::Duration;

use axum::{Router, http::StatusCode, routing::post};
use countersign_store::{SecretHash, transact};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, time::timeout};

use super::{Enrolled, PASSWORD, challenge, code, count, enrolled, live_sessions, verify, wide};
use crate::tests::rig::{Answer, Rig};

const NUMBER: &str = "+4915112345678";
/// How long what normally takes well under a second may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A webhook, as it hears what it shall send.
struct Hook(mpsc::UnboundedReceiver<Value>);

impl Hook {
    /// The code in the next message, which is to this number.
    async fn code(&mut self, to: &str) -> String {
        let message = timeout(PATIENCE, self.0.recv()).await.unwrap().unwrap();
        assert_eq!(message["to"], to, "{message}");
        assert_eq!(message["policy"], "shop/shop");
        let text = message["text"].as_str().unwrap();
        text.split_whitespace().next().unwrap().to_owned()
    }
}

async fn with_hook(more: &str) -> (Rig, Hook) {
    let (heard, hook) = mpsc::unbounded_channel();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}/sms", listener.local_addr().unwrap());
    let answer = move |body: axum::Json<Value>| async move {
        heard.send(body.0).unwrap();
        StatusCode::ACCEPTED
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/sms", post(answer))).await });
    let login = format!("{}{more}    sms: {{url: '{url}', signingSecretKeyRef: {{name: sms, key: secret}}}}\n", wide());
    let rig = Rig::with_references(&login, |references| {
        references.sms_key = Some(b"a key of thirty-two bytes or so.".to_vec().into());
    })
    .await;
    (rig, Hook(hook))
}

async fn set_up_with(rig: &Rig, token: &str, phone: &str, code: &str) -> Answer {
    rig.post("/auth/2fa/setup/sms").bearer(token).json(json!({"phone": phone, "code": code})).send().await
}

/// With a backup code, as long as there are some, then with the authenticator's codes.
async fn set_up(rig: &Rig, who: &mut Enrolled, phone: &str) -> Answer {
    let shown = match who.backup_codes.pop() {
        Some(code) => code,
        None => next_code(rig, who).await,
    };
    set_up_with(rig, &who.login.text("access_token"), phone, &shown).await
}

/// The first code of the window that is still good.
async fn next_code(rig: &Rig, who: &Enrolled) -> String {
    let last = rig.store.totp(rig.name(), &who.id).await.unwrap().unwrap().last_step;
    let step = rig.store.database_now().await.unwrap().as_secs().div_euclid(30);
    code(rig, &who.secret, (last + 1 - step).max(-10)).await
}

async fn confirm(rig: &Rig, token: &str, code: &str) -> Answer {
    rig.post("/auth/2fa/verify/sms").bearer(token).json(json!({"code": code})).send().await
}

async fn send(rig: &Rig, challenge: &str) -> Answer {
    rig.post("/auth/2fa/otp/send").json(json!({"challenge_id": challenge, "channel": "sms"})).send().await
}

#[tokio::test]
async fn a_number_that_its_owner_has_shown_gets_codes_that_log_in() {
    let (rig, mut hook) = with_hook("").await;
    let mut alice = enrolled(&rig, "alice").await;
    let token = alice.login.text("access_token");
    let begun = set_up(&rig, &mut alice, NUMBER).await;
    assert_eq!((begun.status.as_u16(), begun.text("phone")), (202, "\u{2026}78".to_owned()), "{}", begun.body);
    let asked = challenge(&rig, "alice").await;
    assert_eq!(send(&rig, &asked).await.refusal(), (422, "validation_failed"), "not before its code was shown");
    let sent = hook.code(NUMBER).await;
    assert_eq!(verify(&rig, &asked, &sent).await.refusal(), (401, "invalid_code"), "and that one logs nobody in");
    let confirmed = confirm(&rig, &token, &sent).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.body);
    let mails = rig.mails().await;
    assert!(mails.iter().any(|mail| mail.subject == "Your telephone number was changed"), "{mails:?}");
    let state = rig.get("/auth/2fa").bearer(&token).send().await;
    assert_eq!((state.text("phone").as_str(), &state.body["methods"][3]), ("\u{2026}78", &json!("sms")));
    assert!(!state.body.to_string().contains("1511"), "{}", state.body);
    assert_eq!(send(&rig, &asked).await.status, 202);
    let sent = hook.code(NUMBER).await;
    let other = challenge(&rig, "alice").await;
    assert_eq!(verify(&rig, &other, &sent).await.refusal(), (401, "invalid_code"), "of another challenge");
    let login = verify(&rig, &asked, &sent).await;
    assert_eq!(login.status, 200, "{}", login.body);
    let session = rig.store.session(rig.name(), &login.text("session_id")).await.unwrap().unwrap();
    assert_eq!(session.amr, ["pwd", "sms", "mfa"]);
    assert_eq!(count(&rig, "PHONE_CHANGED").await, 1);
    assert!(live_sessions(&rig, &alice.id).await > 1);
}

#[tokio::test]
async fn a_number_is_set_up_soon_after_a_login_and_as_e_164_has_it() {
    let (rig, _hook) = with_hook("").await;
    let mut alice = enrolled(&rig, "alice").await;
    let token = alice.login.text("access_token");
    for wrong in ["015112345678", "+49 151 12345678", "+0123456789", "", "alice@shop.example"] {
        assert_eq!(set_up_with(&rig, &token, wrong, "1").await.refusal(), (422, "validation_failed"), "{wrong}");
    }
    assert_eq!(confirm(&rig, &token, "123456").await.refusal(), (403, "forbidden"), "none waits for a code");
    let id = alice.login.text("session_id");
    let session = rig.store.session(rig.name(), &id).await.unwrap().unwrap();
    let long_ago = session.auth_time.minus(600_001);
    transact!(&*rig.store, |tx| {
        tx.session_client(rig.name(), &id, session.ip.as_deref(), (None, None), long_ago).await
    })
    .unwrap();
    assert_eq!(set_up(&rig, &mut alice, NUMBER).await.refusal(), (403, "forbidden"));
    let without = Rig::new(&wide()).await;
    let mut alice = enrolled(&without, "alice").await;
    assert_eq!(set_up(&without, &mut alice, NUMBER).await.refusal(), (403, "forbidden"), "the policy sends none");
}

#[tokio::test]
async fn a_number_is_set_up_by_a_code_of_the_second_factor_and_where_its_owner_can_be_told() {
    let (rig, mut hook) = with_hook("").await;
    let mut alice = enrolled(&rig, "alice").await;
    let token = alice.login.text("access_token");
    assert_eq!(set_up_with(&rig, &token, NUMBER, "wrong").await.refusal(), (401, "invalid_code"));
    assert_eq!(count(&rig, "MFA_FAILED").await, 1, "it is counted as a guess");
    let missing = rig.post("/auth/2fa/setup/sms").bearer(&token).json(json!({"phone": NUMBER})).send().await;
    assert_eq!(missing.refusal(), (422, "validation_failed"));
    rig.account("bob", PASSWORD, &[]).await;
    let bob = rig.login("bob", PASSWORD).await.text("access_token");
    assert_eq!(
        set_up_with(&rig, &bob, NUMBER, "123456").await.refusal(),
        (403, "forbidden"),
        "a number is no factor itself"
    );
    let mut unverified = rig.store.user(rig.name(), &alice.id).await.unwrap().unwrap();
    unverified.email_verified = false;
    transact!(&*rig.store, |tx| { tx.save_user(&unverified).await }).unwrap();
    assert_eq!(set_up(&rig, &mut alice, NUMBER).await.refusal(), (403, "forbidden"));
    assert!(hook.0.try_recv().is_err(), "nothing was sent");
}

#[tokio::test]
async fn a_number_from_before_there_was_a_second_factor_is_forgotten_with_its_set_up() {
    let (rig, _hook) = with_hook("").await;
    let bob = rig.account("bob", PASSWORD, &[]).await;
    let code = SecretHash::of(b"a code");
    let later = rig.store.database_now().await.unwrap().plus(60_000);
    transact!(&*rig.store, |tx| {
        tx.begin_phone(rig.name(), &bob.id, NUMBER, &code, later).await?;
        tx.prove_phone(rig.name(), &bob.id, std::slice::from_ref(&code), 5, later.minus(1)).await
    })
    .unwrap();
    assert!(rig.store.phone(rig.name(), &bob.id).await.unwrap().is_some());
    let login = rig.login("bob", PASSWORD).await;
    super::set_up(&rig, &login.text("access_token")).await;
    assert_eq!(rig.store.phone(rig.name(), &bob.id).await.unwrap(), None);
}

#[tokio::test]
async fn wrong_codes_for_a_number_count_where_wrong_passwords_do_and_are_told_by_mail() {
    let (rig, mut hook) = with_hook("").await;
    let mut alice = enrolled(&rig, "alice").await;
    let token = alice.login.text("access_token");
    set_up(&rig, &mut alice, NUMBER).await;
    let sent = hook.code(NUMBER).await;
    for left in [4, 3, 2, 1, 0] {
        let wrong = confirm(&rig, &token, "not it").await;
        assert_eq!((wrong.refusal(), &wrong.body["attempts_left"]), ((401, "invalid_code"), &json!(left)));
    }
    assert_eq!(confirm(&rig, &token, &sent).await.refusal(), (423, "account_locked"));
    assert_eq!(rig.login("alice", PASSWORD).await.refusal(), (423, "account_locked"), "one counter");
    let mails = rig.mails().await;
    assert!(mails.iter().any(|mail| mail.subject.contains("locked")), "{mails:?}");
}

#[tokio::test]
async fn messages_to_one_number_and_from_one_address_are_limited() {
    let (rig, mut hook) = with_hook("").await;
    let (mut alice, mut bob) = (enrolled(&rig, "alice").await, enrolled(&rig, "bob").await);
    let mut last = String::new();
    for n in 0..5 {
        assert_eq!(set_up(&rig, if n % 2 == 0 { &mut alice } else { &mut bob }, NUMBER).await.status, 202);
        last = hook.code(NUMBER).await;
    }
    let refused = set_up(&rig, &mut alice, NUMBER).await;
    assert_eq!(refused.refusal(), (429, "rate_limited"), "whoever asks");
    assert!(refused.headers.contains_key("retry-after"));
    confirm(&rig, &alice.login.text("access_token"), &last).await;
    assert_eq!(send(&rig, &challenge(&rig, "alice").await).await.status, 202, "strangers keep nobody from their codes");
    hook.code(NUMBER).await;
    for n in 0..14 {
        assert_eq!(set_up(&rig, &mut alice, &format!("+49151000000{n:02}")).await.status, 202, "{n}");
    }
    assert_eq!(set_up(&rig, &mut bob, "+4915100000099").await.refusal(), (429, "rate_limited"), "of one address");
}

#[tokio::test]
async fn a_number_goes_with_the_password_and_a_code_or_with_the_second_factor() {
    let (rig, mut hook) = with_hook("").await;
    let mut alice = enrolled(&rig, "alice").await;
    let token = alice.login.text("access_token");
    set_up(&rig, &mut alice, NUMBER).await;
    confirm(&rig, &token, &hook.code(NUMBER).await).await;
    let remove = async |body: Value| rig.delete("/auth/2fa/sms").bearer(&token).json(body).send().await;
    assert_eq!(remove(json!({"password": "wrong", "code": "1"})).await.refusal(), (401, "invalid_credentials"));
    assert_eq!(remove(json!({"password": PASSWORD})).await.refusal(), (422, "validation_failed"));
    assert_eq!(remove(json!({"password": PASSWORD, "code": "wrong"})).await.refusal(), (401, "invalid_code"));
    let shown = code(&rig, &alice.secret, 0).await;
    assert_eq!(remove(json!({"password": PASSWORD, "code": shown})).await.status, 200);
    assert_eq!(rig.store.phone(rig.name(), &alice.id).await.unwrap(), None);
    set_up(&rig, &mut alice, NUMBER).await;
    confirm(&rig, &token, &hook.code(NUMBER).await).await;
    assert!(rig.store.phone(rig.name(), &alice.id).await.unwrap().is_some());
    let reset = rig.post("/admin/v1/policies/shop/shop/users/alice/reset-mfa").over_admin_socket().send().await;
    assert_eq!(reset.status, 200);
    assert_eq!(rig.store.phone(rig.name(), &alice.id).await.unwrap(), None, "a lost telephone receives for others");
}
