//! What went wrong in others' issuers, done to this one.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::rig::{Answer, QUICK, Rig, policy_yaml};

const PASSWORD: &str = "correct horse battery staple";
const OTHER: &str = "another horse battery staple";
const BASE: &str = "/admin/v1/policies/shop/shop";

async fn refresh(rig: &Rig, token: &str) -> Answer {
    rig.post("/auth/refresh").json(json!({"refresh_token": token})).send().await
}

/// An administrator's call.
async fn administer(rig: &Rig, method: &str, call: &str, body: Value) -> Answer {
    let path = format!("{BASE}/{call}");
    let asking = match method {
        "PATCH" => rig.patch(&path),
        "DELETE" => rig.delete(&path),
        _ => rig.post(&path),
    };
    asking.json(body).over_admin_socket().send().await
}

/// Every way in which a session ends, and what ends it, by the token of another session of the same account.
const ENDS: [&str; 14] = [
    "a logout",
    "its owner, one by one",
    "its owner, all",
    "a changed password",
    "a reset password",
    "an erased account",
    "one session too many",
    "an administrator, the session",
    "an administrator, the subject's",
    "a disabled account",
    "a locked account",
    "a deleted account",
    "a revocation of the session",
    "a refresh token that was used twice",
];

/// What ended the session, as it was answered.
async fn end(rig: &Rig, how: &str, victim: &Answer, other: &str) -> Answer {
    let (id, own) = (victim.text("session_id"), victim.text("access_token"));
    match how {
        "a logout" => rig.post("/auth/logout").bearer(&own).send().await,
        "its owner, one by one" => rig.delete(&format!("/auth/sessions/{id}")).bearer(other).send().await,
        "its owner, all" => rig.delete("/auth/sessions").bearer(other).send().await,
        "a changed password" => {
            let body = json!({"current_password": PASSWORD, "new_password": OTHER, "confirm_password": OTHER});
            rig.post("/auth/change-password").bearer(other).json(body).send().await
        }
        "a reset password" => {
            rig.post("/auth/forgot-password").json(json!({"email": "alice@shop.example"})).send().await;
            let token = rig.mails().await.remove(0).token();
            rig.post("/auth/reset-password").json(json!({"token": token, "new_password": OTHER})).send().await
        }
        "an erased account" => rig.delete("/users/me").bearer(other).json(json!({"password": PASSWORD})).send().await,
        "one session too many" => rig.login("alice", PASSWORD).await,
        "an administrator, the session" => administer(rig, "DELETE", &format!("sessions/{id}"), json!({})).await,
        "an administrator, the subject's" => administer(rig, "DELETE", "sessions?subject=alice", json!({})).await,
        "a disabled account" => administer(rig, "PATCH", "users/alice", json!({"status": "disabled"})).await,
        "a locked account" => administer(rig, "POST", "users/alice/lock", json!({"reason": "stolen"})).await,
        "a deleted account" => administer(rig, "DELETE", "users/alice", json!({})).await,
        "a revocation of the session" => administer(rig, "POST", "revocations", json!({"kind": "session", "id": id})).await,
        "a refresh token that was used twice" => {
            let first = victim.text("refresh_token");
            let second = refresh(rig, &first).await;
            refresh(rig, &second.text("refresh_token")).await;
            refresh(rig, &first).await
        }
        unknown => panic!("{unknown}"),
    }
}

#[tokio::test]
async fn however_a_session_ends_nothing_that_was_issued_for_it_is_good() {
    let rig = Rig::new(&format!("{QUICK}    sessions: {{maxConcurrent: 2}}\n    cookies: {{mode: Enabled}}\n")).await;
    for how in ENDS {
        rig.account("alice", PASSWORD, &["user"]).await;
        let victim = rig.login("alice", PASSWORD).await;
        let renewed = refresh(&rig, &victim.text("refresh_token")).await;
        let csrf = rig.get("/auth/csrf").bearer(&victim.text("access_token")).send().await.text("csrf_token");
        let other = rig.login("alice", PASSWORD).await.text("access_token");
        let ended = end(&rig, how, &victim, &other).await;
        assert!(ended.status == 200 || ended.refusal() == (401, "invalid_refresh_token"), "{how}: {}", ended.body);
        if ended.body["position"].is_string() {
            rig.caught_up(&ended).await;
        }
        for token in [victim.text("access_token"), renewed.text("access_token")] {
            assert!(!rig.is_good(&token).await, "{how}: an access token");
            let me = rig.get("/users/me").header("cookie", &format!("__Host-cs_access={token}"));
            assert_eq!(me.send().await.refusal(), (401, "invalid_token"), "{how}: the same as a cookie");
        }
        for token in [victim.text("refresh_token"), renewed.text("refresh_token")] {
            assert_eq!(refresh(&rig, &token).await.refusal(), (401, "invalid_refresh_token"), "{how}: a refresh token");
            let cookies = format!("__Host-cs_refresh={token}");
            let by_cookie = rig.post("/auth/refresh").header("cookie", &cookies).header("x-csrf-token", &csrf);
            assert_eq!(by_cookie.send().await.refusal(), (401, "invalid_refresh_token"), "{how}: as a cookie");
        }
        administer(&rig, "DELETE", "users/alice", json!({})).await;
    }
}

#[tokio::test]
async fn an_account_that_an_administrator_closed_refreshes_nothing() {
    let rig = Rig::new(QUICK).await;
    for (method, call, body) in [
        ("PATCH", "users/alice", json!({"status": "disabled"})),
        ("POST", "users/alice/lock", json!({"reason": "stolen"})),
        ("POST", "users/alice/lock", json!({"reason": "stolen", "until": 4_000_000_000_i64})),
        ("DELETE", "users/alice", json!({})),
    ] {
        rig.account("alice", PASSWORD, &["user"]).await;
        let login = rig.login("alice", PASSWORD).await;
        let key = json!({"name": "ci", "scopes": ["orders:read"]});
        let key = rig.post("/auth/api-keys").bearer(&login.text("access_token")).json(key).send().await.text("key");
        let closed = administer(&rig, method, call, body).await;
        assert_eq!(closed.status, 200, "{call}: {}", closed.body);
        // At once, whatever the feed knows yet.
        let refreshed = refresh(&rig, &login.text("refresh_token")).await;
        assert_eq!(refreshed.refusal(), (401, "invalid_refresh_token"), "{call}");
        let form = format!("grant_type=refresh_token&refresh_token={}", login.text("refresh_token"));
        let oauth = rig.post("/oauth/token").header("content-type", "application/x-www-form-urlencoded").text(&form);
        assert_eq!(oauth.send().await.refusal(), (400, "invalid_grant"), "{call}");
        for credential in [&login.text("access_token"), &key] {
            assert_eq!(rig.get("/users/me").bearer(credential).send().await.refusal(), (401, "invalid_token"), "{call}");
        }
        administer(&rig, "DELETE", "users/alice", json!({})).await;
    }
}

#[tokio::test]
async fn of_many_uses_at_once_all_get_one_successor_and_without_a_grace_one_gets_it() {
    for (grace, uses_that_win) in [("10s", 20), ("0s", 1)] {
        let yaml = policy_yaml(QUICK).replace("  roles:", &format!("  tokens: {{refreshGrace: {grace}}}\n  roles:"));
        let rig = Rig::of(&yaml).await;
        rig.account("alice", PASSWORD, &[]).await;
        let first = rig.login("alice", PASSWORD).await.text("refresh_token");
        let answers = join_all((0..20).map(|_| refresh(&rig, &first))).await;
        let won: Vec<&Answer> = answers.iter().filter(|answer| answer.status == 200).collect();
        assert_eq!(won.len(), uses_that_win, "{grace}");
        let second = won[0].text("refresh_token");
        assert!(won.iter().all(|answer| answer.text("refresh_token") == second), "{grace}: no second branch");
        let alive = refresh(&rig, &second).await.status.as_u16();
        // Without a grace the others were thieves, or it was.
        assert_eq!(alive, if uses_that_win == 1 { 401 } else { 200 }, "{grace}");
    }
}

#[tokio::test]
async fn within_the_grace_the_one_before_is_taken_and_none_before_that() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let mut generations = vec![rig.login("alice", PASSWORD).await.text("refresh_token")];
    for _ in 0..3 {
        let next = refresh(&rig, generations.last().unwrap()).await.text("refresh_token");
        generations.push(next);
    }
    let again = refresh(&rig, &generations[2]).await;
    assert_eq!(again.text("refresh_token"), generations[3], "the one before");
    assert_eq!(
        refresh(&rig, &generations[0]).await.refusal(),
        (401, "invalid_refresh_token"),
        "all of it within the grace"
    );
    assert_eq!(refresh(&rig, &generations[3]).await.refusal(), (401, "invalid_refresh_token"), "which ended the family");
}

#[tokio::test]
async fn a_failed_login_hashes_once_whoever_it_is() {
    let rig = Rig::new(&format!("{QUICK}    lockout: {{mode: Disabled}}\n")).await;
    rig.account("alice", PASSWORD, &[]).await;
    rig.account("closed", PASSWORD, &[]).await;
    administer(&rig, "PATCH", "users/closed", json!({"status": "disabled"})).await;
    let invited = json!({"email": "invited@shop.example", "username": "invited"});
    assert_eq!(administer(&rig, "POST", "users", invited).await.status, 201);
    let mut seen = Vec::new();
    for name in ["alice", "closed", "invited", "nobody", "alice@shop.example", "nobody@shop.example", "%", "\u{0}"] {
        for code in [None, Some("123456")] {
            let before = rig.issuer.parts.passwords.computed();
            let body = json!({"username": name, "password": "wrong", "mfa_code": code});
            let answer = rig.post("/auth/login").json(body).send().await;
            seen.push((answer.body.to_string(), answer.status, rig.issuer.parts.passwords.computed() - before));
        }
    }
    assert_eq!(seen[0].2, 1);
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn of_many_who_confirm_one_second_factor_at_once_one_gets_its_backup_codes() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &[]).await;
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    let shown = rig.post("/auth/2fa/setup/totp").bearer(&token).send().await;
    let secret = crate::totp::TotpSecret::from_base32(&shown.text("secret")).unwrap();
    let now = u64::try_from(rig.store.database_now().await.unwrap().as_secs()).unwrap();
    let code = secret.code_at(&rig.policy.login.as_ref().unwrap().totp, now).unwrap();
    let confirm = || rig.post("/auth/2fa/verify/totp").bearer(&token).json(json!({"code": code})).send();
    let answers = join_all((0..12).map(|_| confirm())).await;
    let won = answers.iter().filter(|answer| answer.body["backup_codes"].is_array()).count();
    assert_eq!(won, 1, "{:?}", answers.iter().map(Answer::refusal).collect::<Vec<_>>());
}

/// Every call that changes something, with a body that it takes.
const UNSAFE: [(&str, &str, &str); 12] = [
    ("POST", "/auth/logout", "{}"),
    (
        "POST",
        "/auth/change-password",
        r#"{"current_password": "correct horse battery staple", "new_password": "evil horse battery", "confirm_password": "evil horse battery"}"#,
    ),
    ("POST", "/auth/api-keys", r#"{"name": "evil", "scopes": ["orders:read"]}"#),
    ("DELETE", "/auth/api-keys/any", "{}"),
    ("DELETE", "/auth/sessions", "{}"),
    ("DELETE", "/auth/sessions/any", "{}"),
    ("PATCH", "/users/me", r#"{"email": "eve@evil.example"}"#),
    ("DELETE", "/users/me", r#"{"password": "correct horse battery staple"}"#),
    ("POST", "/auth/2fa/setup/totp", "{}"),
    ("POST", "/auth/2fa/verify/totp", r#"{"code": "123456"}"#),
    ("POST", "/auth/2fa/backup-codes", r#"{"code": "123456"}"#),
    ("DELETE", "/auth/2fa/totp", r#"{"password": "correct horse battery staple", "code": "123456"}"#),
];

#[tokio::test]
async fn nothing_is_changed_by_a_page_elsewhere_whatever_it_makes_a_browser_send() {
    let cors = "    cors: {allowedOrigins: ['https://shop.example'], allowCredentials: true}\n";
    let rig = Rig::new(&format!("{QUICK}    cookies: {{mode: Enabled}}\n{cors}")).await;
    let alice = rig.account("alice", PASSWORD, &["user"]).await;
    let login = rig.login("alice", PASSWORD).await;
    let (access, refresh_token) = (login.text("access_token"), login.text("refresh_token"));
    let cookies = format!("__Host-cs_access={access}; __Host-cs_refresh={refresh_token}");
    let events = rig.events().await.len();
    // What a form can send, what fetch can send without asking, and what some servers take for another method.
    let pages: [&[(&str, &str)]; 5] = [
        &[("content-type", "text/plain")],
        &[("content-type", "application/x-www-form-urlencoded"), ("origin", "https://evil.example")],
        &[("content-type", "multipart/form-data; boundary=x"), ("origin", "null")],
        &[("x-http-method-override", "DELETE"), ("x-csrf-token", "")],
        &[
            ("origin", "https://shop.example"),
            ("x-csrf-token", "null"),
            ("x-xsrf-token", "x"),
            ("x-requested-with", "XMLHttpRequest"),
        ],
    ];
    for (method, path, body) in UNSAFE {
        for page in pages {
            let asking = match method {
                "PATCH" => rig.patch(path),
                "DELETE" => rig.delete(path),
                _ => rig.post(path),
            };
            let asking = page.iter().fold(asking, |asking, (name, value)| asking.header(name, value));
            let answer = asking.header("cookie", &cookies).text(body).send().await;
            assert_eq!(answer.refusal(), (403, "csrf_failed"), "{method} {path} {page:?}");
        }
    }
    for page in pages {
        let asking = page.iter().fold(rig.post("/auth/refresh"), |asking, (name, value)| asking.header(name, value));
        assert_eq!(asking.header("cookie", &cookies).send().await.refusal(), (403, "csrf_failed"), "{page:?}");
    }
    // Nor is anything done by what a link or a picture asks for.
    for (_, path, _) in UNSAFE {
        let answer = rig.get(path).header("cookie", &cookies).header("x-http-method-override", "POST").send().await;
        assert!([200, 404, 405].contains(&answer.status.as_u16()), "{path}: {}", answer.body);
    }
    assert!(rig.is_good(&access).await);
    let user = rig.store.user(rig.name(), &alice.id).await.unwrap().unwrap();
    assert_eq!((user.email.map(|email| email.written), user.pending_email), (alice.email.map(|email| email.written), None));
    let later = rig.events().await;
    assert_eq!(later.len(), events, "{later:?}");
}
