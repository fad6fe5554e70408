//! Setting a second factor up, and turning it off.

use countersign_store::transact;
use serde_json::json;

use super::{PASSWORD, challenge, code, count, enrolled, login_with, set_up, verify, wide, wrong_code};
use crate::{
    Secrets,
    second_factor::reseal,
    tests::rig::{QUICK, Rig},
    totp::TotpSecret,
};

#[tokio::test]
async fn setting_up_shows_the_secret_three_ways_and_takes_effect_with_the_first_code() {
    let rig = Rig::new(&wide()).await;
    rig.account("alice", PASSWORD, &[]).await;
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    let confirm =
        async |code: &str| rig.post("/auth/2fa/verify/totp").bearer(&token).json(json!({"code": code})).send().await;
    assert_eq!(confirm("123456").await.refusal(), (403, "forbidden"), "nothing is being set up");
    let first = rig.post("/auth/2fa/setup/totp").bearer(&token).send().await;
    let shown = rig.post("/auth/2fa/setup/totp").bearer(&token).send().await;
    assert_ne!(shown.text("secret"), first.text("secret"));
    assert!(shown.text("otpauth_url").starts_with("otpauth://totp/auth.shop.example:alice%40shop.example?"));
    assert!(shown.text("qr_code").starts_with("data:image/png;base64,iVBOR"));
    assert_eq!(shown.headers["cache-control"], "no-store");
    assert!(rig.login("alice", PASSWORD).await.body["access_token"].is_string(), "not in use yet");
    let secret = TotpSecret::from_base32(&shown.text("secret")).unwrap();
    assert_eq!(confirm(&wrong_code(&rig, &secret).await).await.refusal(), (401, "invalid_code"));
    let used = code(&rig, &secret, 0).await;
    let confirmed = confirm(&used).await;
    assert_eq!(confirmed.status, 200, "{}", confirmed.body);
    let codes = confirmed.body["backup_codes"].as_array().unwrap();
    assert_eq!(codes.len(), 10);
    assert!(codes.iter().all(|code| code.as_str().unwrap().len() == 11));
    assert_eq!(confirm(&code(&rig, &secret, 1).await).await.refusal(), (403, "forbidden"), "it is set up");
    assert_eq!(rig.post("/auth/2fa/setup/totp").bearer(&token).send().await.refusal(), (403, "forbidden"));
    assert_eq!(login_with(&rig, "alice", &used).await.refusal(), (401, "invalid_code"), "the code that confirmed it");
    let state = rig.get("/auth/2fa").bearer(&token).send().await;
    let expected =
        json!({"enabled": true, "methods": ["totp", "backup_code", "email"], "backup_codes_left": 10, "phone": null});
    assert_eq!(state.body, expected);
    assert_eq!(rig.get("/users/me").bearer(&token).send().await.body["mfa_enabled"], true);
    assert_eq!(count(&rig, "MFA_ENABLED").await, 1);
}

#[tokio::test]
async fn setting_up_needs_a_fresh_login() {
    let rig = Rig::new(&wide()).await;
    rig.account("alice", PASSWORD, &[]).await;
    let login = rig.login("alice", PASSWORD).await;
    let (id, long_ago) = (login.text("session_id"), rig.store.database_now().await.unwrap().minus(600_001));
    transact!(&*rig.store, |tx| { tx.session_client(rig.name(), &id, Some("203.0.113.7"), (None, None), long_ago).await })
        .unwrap();
    let answer = rig.post("/auth/2fa/setup/totp").bearer(&login.text("access_token")).send().await;
    assert_eq!(answer.refusal(), (403, "forbidden"));
    assert!(answer.text("fix").contains("POST /auth/login"));
    assert_eq!(rig.post("/auth/2fa/setup/totp").send().await.refusal(), (401, "invalid_token"));
}

#[tokio::test]
async fn who_needs_a_second_factor_sets_it_up_before_the_first_token() {
    for mfa in ["mfa: {mode: Required, totp: {skew: 10}}", "mfa: {requiredForRoles: [admin], totp: {skew: 10}}"] {
        let rig = Rig::new(&format!("{QUICK}    {mfa}\n")).await;
        rig.account("alice", PASSWORD, &["admin"]).await;
        let answer = rig.login("alice", PASSWORD).await;
        assert_eq!((answer.status.as_u16(), &answer.body["requires_2fa_setup"]), (200, &json!(true)));
        assert!(answer.body["access_token"].is_null() && answer.body["challenge_id"].is_null());
        let earlier = answer.text("setup_token");
        let token = rig.login("alice", PASSWORD).await.text("setup_token");
        for path in ["/auth/2fa", "/users/me", "/auth/sessions"] {
            assert_eq!(rig.get(path).bearer(&token).send().await.refusal(), (401, "invalid_token"), "{path}");
        }
        for bad in [&earlier, &token[..token.len() - 1], "cst_", "cst_nonsense"] {
            let refused = rig.post("/auth/2fa/setup/totp").bearer(bad).send().await;
            assert_eq!(refused.refusal(), (401, "invalid_token"), "{bad}");
        }
        let (secret, _) = set_up(&rig, &token).await;
        let again = rig.post("/auth/2fa/setup/totp").bearer(&token).send().await;
        assert_eq!(again.refusal(), (401, "invalid_token"), "it is used up");
        let login = login_with(&rig, "alice", &code(&rig, &secret, 0).await).await;
        assert_eq!(login.status, 200, "{}", login.body);
    }
    let rig = Rig::new(&format!("{QUICK}    mfa: {{requiredForRoles: [admin]}}\n")).await;
    rig.account("bob", PASSWORD, &["user"]).await;
    assert!(rig.login("bob", PASSWORD).await.body["access_token"].is_string(), "others need none");
}

#[tokio::test]
async fn a_set_up_token_is_void_once_the_password_is_another() {
    let rig = Rig::new(&format!("{QUICK}    mfa: {{mode: Required}}\n")).await;
    let alice = rig.account("alice", PASSWORD, &[]).await;
    let token = rig.login("alice", PASSWORD).await.text("setup_token");
    let hash = countersign_store::PasswordHash::new("another".into());
    let later = rig.store.database_now().await.unwrap().plus(1);
    transact!(&*rig.store, |tx| { tx.set_password(rig.name(), &alice.id, &hash, None, 5, later).await }).unwrap();
    assert_eq!(rig.post("/auth/2fa/setup/totp").bearer(&token).send().await.refusal(), (401, "invalid_token"));
}

#[tokio::test]
async fn new_backup_codes_cost_a_code_and_end_the_old_ones() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let token = alice.login.text("access_token");
    let renew =
        async |code: &str| rig.post("/auth/2fa/backup-codes").bearer(&token).json(json!({"code": code})).send().await;
    assert_eq!(renew(&wrong_code(&rig, &alice.secret).await).await.refusal(), (401, "invalid_code"));
    let renewed = renew(&alice.backup_codes[0]).await;
    assert_eq!(renewed.status, 200, "{}", renewed.body);
    assert_eq!(login_with(&rig, "alice", &alice.backup_codes[1]).await.refusal(), (401, "invalid_code"));
    assert_eq!(login_with(&rig, "alice", renewed.body["backup_codes"][0].as_str().unwrap()).await.status, 200);
}

#[tokio::test]
async fn turning_it_off_takes_password_and_code_whose_guesses_count() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let token = alice.login.text("access_token");
    let off = async |password: &str, code: &str| {
        rig.delete("/auth/2fa/totp").bearer(&token).json(json!({"password": password, "code": code})).send().await
    };
    let good = code(&rig, &alice.secret, 0).await;
    let wrong = wrong_code(&rig, &alice.secret).await;
    let asked = challenge(&rig, "alice").await;
    assert_eq!(off("wrong", &good).await.refusal(), (401, "invalid_credentials"));
    assert_eq!(off(PASSWORD, &wrong).await.refusal(), (401, "invalid_code"));
    assert_eq!(off(PASSWORD, &good).await.body, json!({"enabled": false}));
    assert_eq!(count(&rig, "MFA_DISABLED").await, 1);
    let mails = rig.mails().await;
    assert_eq!(mails.len(), 1, "its owner is told: {mails:?}");
    assert_eq!(mails[0].to, "alice@shop.example");
    let later = code(&rig, &alice.secret, 1).await;
    assert_eq!(verify(&rig, &asked, &later).await.refusal(), (401, "invalid_code"), "nothing is left of it");
    assert!(rig.login("alice", PASSWORD).await.body["access_token"].is_string());
    assert_eq!(off(PASSWORD, &later).await.refusal(), (403, "forbidden"));
    assert_eq!(rig.get("/users/me").bearer(&token).send().await.body["mfa_enabled"], false);

    let bob = enrolled(&rig, "bob").await;
    let token = bob.login.text("access_token");
    for _ in 0..5 {
        let body = json!({"password": PASSWORD, "code": wrong_code(&rig, &bob.secret).await});
        let answer = rig.delete("/auth/2fa/totp").bearer(&token).json(body).send().await;
        assert_eq!(answer.refusal(), (401, "invalid_code"));
    }
    let body = json!({"code": code(&rig, &bob.secret, 0).await});
    let answer = rig.post("/auth/2fa/backup-codes").bearer(&token).json(body).send().await;
    assert_eq!(answer.refusal(), (423, "account_locked"), "whoever holds a token can't try for ever");
    assert_eq!(rig.get("/auth/2fa").bearer(&token).send().await.status, 200, "the session stays");
}

#[tokio::test]
async fn secrets_move_under_the_present_key_and_stay_the_same() {
    let rig = Rig::new(&wide()).await;
    let alice = enrolled(&rig, "alice").await;
    let texts: [&[u8]; 2] = [b"the key of this year", b"a secret of this test"];
    reseal(&rig.store, &Secrets::derive(texts).unwrap()).await.unwrap();
    let held = rig.store.totp(rig.name(), &alice.id).await.unwrap().unwrap();
    let alone = Secrets::derive([texts[0]]).unwrap();
    assert_eq!(held.key_id, alone.sealing.present_id());
    let opened = alone.sealing.open(&held.secret, &format!("totp/shop/shop/{}", alice.id)).unwrap();
    assert_eq!(opened.as_slice(), alice.secret.as_bytes());

    // A key that nobody has any more loses no secret, and stops nobody else's.
    let stranger = Secrets::derive([b"a key of somebody else".as_slice()]).unwrap();
    reseal(&rig.store, &stranger).await.unwrap();
    assert_eq!(rig.store.totp(rig.name(), &alice.id).await.unwrap().unwrap(), held);
    let good = code(&rig, &alice.secret, 0).await;
    assert_eq!(login_with(&rig, "alice", &good).await.status, 500, "ours to mend, and no wrong code");
    assert_eq!(count(&rig, "MFA_FAILED").await, 0);
    assert_eq!(login_with(&rig, "alice", &alice.backup_codes[0]).await.status, 200, "backup codes go on");
}
