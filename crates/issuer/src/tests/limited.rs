//! Limits on what needs no login: refreshes and clients' secrets; and what answers tell of limits.

use serde_json::json;

use super::rig::{Answer, QUICK, Rig};

const PASSWORD: &str = "correct horse battery staple";
const ELSEWHERE: &str = "198.51.100.9";

fn limits(login: &str, api: &str) -> String {
    format!(
        "    passwords: {{argon2id: {{memory: 64Ki, iterations: 1}}}}
    rateLimits: {{login: {login}, register: {{}}, passwordReset: {{}}, api: {api}}}\n"
    )
}

async fn refresh(rig: &Rig, token: &str) -> Answer {
    rig.post("/auth/refresh").json(json!({"refresh_token": token})).send().await
}

fn told<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.get(name).map(|value| value.to_str().unwrap())
}

/// How often an event was written.
async fn count(rig: &Rig, kind: &str) -> usize {
    rig.events().await.iter().filter(|event| *event == kind).count()
}

#[tokio::test]
async fn a_subjects_refreshes_are_limited_and_anothers_and_its_other_calls_are_not() {
    let rig = Rig::new(&limits("{}", "{perSubject: {limit: 3, window: 1m}}")).await;
    for name in ["alice", "bob"] {
        rig.account(name, PASSWORD, &["user"]).await;
    }
    let (alice, bob) = (rig.login("alice", PASSWORD).await, rig.login("bob", PASSWORD).await);
    let mut last = alice;
    for left in ["2", "1", "0"] {
        last = refresh(&rig, &last.text("refresh_token")).await;
        assert_eq!(last.status, 200, "{}", last.body);
        assert_eq!((told(&last, "ratelimit-limit"), told(&last, "ratelimit-remaining")), (Some("3"), Some(left)));
    }
    let refused = refresh(&rig, &last.text("refresh_token")).await;
    assert_eq!(refused.refusal(), (429, "rate_limited"));
    assert!(told(&refused, "retry-after").is_some());
    let me = rig.get("/users/me").bearer(&last.text("access_token")).send().await;
    assert_eq!((me.status.as_u16(), told(&me, "ratelimit-remaining")), (200, Some("2")), "counted by itself");
    assert_eq!(refresh(&rig, &bob.text("refresh_token")).await.status, 200);
    let by_form = format!("grant_type=refresh_token&refresh_token={}", last.text("refresh_token"));
    let oauth = rig.post("/oauth/token").header("content-type", "application/x-www-form-urlencoded").text(&by_form);
    let oauth = oauth.send().await;
    assert_eq!(oauth.refusal(), (429, "temporarily_unavailable"), "by whatever route");
    assert!(told(&oauth, "retry-after").is_some() && told(&oauth, "ratelimit-limit").is_some());
}

#[tokio::test]
async fn refresh_tokens_that_nobody_was_given_are_limited_by_address_and_written_down() {
    let rig = Rig::new(&limits("{perAddress: {limit: 3, window: 5m}}", "{}")).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let login = rig.login("alice", PASSWORD).await;
    let unknown = format!("csr_{}", "A".repeat(43));
    for text in ["nonsense", unknown.as_str(), unknown.as_str()] {
        assert_eq!(refresh(&rig, text).await.refusal(), (401, "invalid_refresh_token"), "{text}");
    }
    assert_eq!(refresh(&rig, &unknown).await.refusal(), (429, "rate_limited"));
    assert_eq!(count(&rig, "INVALID_TOKEN").await, 3);
    assert_eq!(refresh(&rig, &login.text("refresh_token")).await.status, 200, "a good one is no guess");
    let elsewhere = rig.post("/auth/refresh").from(ELSEWHERE).json(json!({"refresh_token": unknown})).send().await;
    assert_eq!(elsewhere.refusal(), (401, "invalid_refresh_token"));
}

#[tokio::test]
async fn a_refresh_token_of_a_session_that_was_ended_is_written_down() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let login = rig.login("alice", PASSWORD).await;
    rig.post("/auth/logout").bearer(&login.text("access_token")).send().await;
    assert_eq!(refresh(&rig, &login.text("refresh_token")).await.refusal(), (401, "invalid_refresh_token"));
    assert_eq!(count(&rig, "INVALID_TOKEN").await, 1);
}

#[tokio::test]
async fn whoever_kept_a_refresh_token_of_a_session_that_is_over_keeps_its_owner_from_nothing() {
    let rig = Rig::new(&limits("{perAddress: {limit: 100, window: 5m}}", "{perSubject: {limit: 3, window: 1m}}")).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let (old, present) = (rig.login("alice", PASSWORD).await, rig.login("alice", PASSWORD).await);
    rig.post("/auth/logout").bearer(&old.text("access_token")).send().await;
    for _ in 0..5 {
        let body = json!({"refresh_token": old.text("refresh_token")});
        let answer = rig.post("/auth/refresh").from(ELSEWHERE).json(body).send().await;
        assert_eq!(answer.refusal(), (401, "invalid_refresh_token"));
    }
    assert_eq!(refresh(&rig, &present.text("refresh_token")).await.status, 200);
}

/// A policy with an OAuth client.
async fn with_client(more: &str) -> Rig {
    let client =
        "    clients: [{clientID: billing, secretKeyRef: {name: billing, key: secret}, scopes: ['orders:read']}]\n";
    let login = limits("{perAccountAndAddress: {limit: 3, window: 5m}, perAddress: {limit: 100, window: 5m}}", "{}");
    Rig::with_references(&format!("{login}{client}{more}"), |references| {
        references.clients.insert("billing".into(), b"a secret".to_vec().into());
    })
    .await
}

async fn form(rig: &Rig, path: &str, text: &str, from: &str) -> Answer {
    rig.post(path).from(from).header("content-type", "application/x-www-form-urlencoded").text(text).send().await
}

#[tokio::test]
async fn a_clients_secret_is_not_found_by_trying_at_any_of_its_calls() {
    let here = "203.0.113.7";
    for (path, more) in
        [("/oauth/token", "grant_type=client_credentials"), ("/oauth/introspect", "token=x"), ("/oauth/revoke", "token=x")]
    {
        let rig = with_client("").await;
        let (wrong, right) = (
            format!("{more}&client_id=billing&client_secret=no"),
            format!("{more}&client_id=billing&client_secret=a+secret"),
        );
        for _ in 0..5 {
            assert_eq!(form(&rig, path, &right, here).await.status, 200, "right ones aren't counted");
        }
        for _ in 0..3 {
            assert_eq!(form(&rig, path, &wrong, here).await.refusal(), (401, "invalid_client"), "{path}");
        }
        for text in [&wrong, &right] {
            let refused = form(&rig, path, text, here).await;
            assert_eq!(refused.refusal(), (429, "temporarily_unavailable"), "{path}: {text}");
            assert!(told(&refused, "retry-after").is_some() && told(&refused, "ratelimit-limit") == Some("3"));
        }
        assert_eq!(form(&rig, path, &right, ELSEWHERE).await.status, 200, "from elsewhere nobody guessed");
        assert_eq!(count(&rig, "CLIENT_REJECTED").await, 3, "{path}");
    }
}

#[tokio::test]
async fn of_many_guesses_at_once_no_more_are_compared_than_one_after_the_other() {
    let rig = with_client("").await;
    let text = |n: u32| {
        let secret = if n == 9 { "a+secret".to_owned() } else { format!("no-{n}") };
        format!("grant_type=client_credentials&client_id=billing&client_secret={secret}")
    };
    let guesses = (0..20).map(async |n| form(&rig, "/oauth/token", &text(n), "203.0.113.7").await.status.as_u16());
    let answers = futures_util::future::join_all(guesses).await;
    let refused = answers.iter().filter(|status| **status == 429).count();
    assert!(refused >= 16 && answers.iter().filter(|status| **status == 401).count() == 3, "{answers:?}");
}

#[tokio::test]
async fn right_secrets_at_once_refuse_none_of_each_other() {
    let rig = with_client("").await;
    let right = "grant_type=client_credentials&client_id=billing&client_secret=a+secret";
    let calls = (0..20).map(async |_| form(&rig, "/oauth/token", right, "203.0.113.7").await.status.as_u16());
    assert_eq!(futures_util::future::join_all(calls).await, [200; 20]);
}

#[tokio::test]
async fn guesses_from_many_addresses_are_limited_and_keep_no_service_from_its_tokens() {
    let rig = with_client("").await;
    let right = "grant_type=client_credentials&client_id=billing&client_secret=a+secret";
    let home = "203.0.113.7";
    assert_eq!(form(&rig, "/oauth/token", right, home).await.status, 200);
    let wrong = "grant_type=client_credentials&client_id=billing&client_secret=no";
    for n in 0..100 {
        let guess = form(&rig, "/oauth/token", wrong, &format!("198.51.100.{n}")).await;
        assert_eq!(guess.refusal(), (401, "invalid_client"), "{n}");
    }
    for text in [wrong, right] {
        let refused = form(&rig, "/oauth/token", text, "198.51.100.200").await;
        assert_eq!(refused.refusal(), (429, "temporarily_unavailable"), "{text}");
    }
    assert_eq!(form(&rig, "/oauth/token", right, home).await.status, 200, "where its secret was shown before");
    let other = wrong.replace("billing", "other");
    assert_eq!(form(&rig, "/oauth/token", &other, "198.51.100.200").await.refusal(), (401, "invalid_client"));
}

#[tokio::test]
async fn guessing_clients_secrets_blocks_the_address() {
    let rig = with_client("    addressBlocking: {failedLogins: 4}\n").await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let guess = async |client: &str, from: &str| {
        let text = format!("grant_type=client_credentials&client_id={client}&client_secret=no");
        form(&rig, "/oauth/token", &text, from).await
    };
    for client in ["a", "b", "billing", "d"] {
        assert_eq!(guess(client, "203.0.113.7").await.refusal(), (401, "invalid_client"));
    }
    assert_eq!(guess("e", "203.0.113.7").await.refusal(), (403, "access_denied"));
    assert_eq!(rig.login("alice", PASSWORD).await.refusal(), (403, "address_blocked"), "of logins as well");
    assert_eq!(guess("billing", ELSEWHERE).await.refusal(), (401, "invalid_client"));
    assert_eq!(count(&rig, "IP_BLOCKED").await, 1);
}

#[tokio::test]
async fn answers_of_calls_that_are_limited_tell_what_is_left_whatever_they_say() {
    let rig = Rig::new(&limits("{}", "{perSubject: {limit: 9, window: 1m}}")).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    let answers = [
        rig.get("/auth/sessions").bearer(&token).send().await,
        rig.get("/users/me").bearer(&token).send().await,
        rig.delete("/auth/sessions/nonsense").bearer(&token).send().await,
        rig.get("/auth/audit").bearer(&token).send().await,
    ];
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status.as_u16()).collect();
    assert_eq!(statuses, [200, 200, 404, 403]);
    for (answer, left) in answers.iter().zip(["8", "7", "6", "5"]) {
        assert_eq!((told(answer, "ratelimit-limit"), told(answer, "ratelimit-remaining")), (Some("9"), Some(left)));
        assert!(told(answer, "ratelimit-reset").is_some() && told(answer, "retry-after").is_none());
    }
    let unlimited = rig.get("/.well-known/jwks.json").send().await;
    assert_eq!(told(&unlimited, "ratelimit-limit"), None);
}

#[tokio::test]
async fn who_was_locked_out_comes_in_at_once_when_unlocked_or_with_a_new_password() {
    const OTHER: &str = "another horse of that battery";
    // With the limits that a policy has by itself.
    let rig = Rig::new("    passwords: {argon2id: {memory: 64Ki, iterations: 1}}\n").await;
    for name in ["alice", "bob"] {
        rig.account(name, PASSWORD, &["user"]).await;
    }
    let lock_out = async |name: &str| {
        for _ in 0..5 {
            assert_eq!(rig.login(name, "wrong").await.refusal(), (401, "invalid_credentials"));
        }
        assert_eq!(rig.login(name, PASSWORD).await.refusal(), (423, "account_locked"));
    };
    lock_out("alice").await;
    let unlocked = rig.post("/admin/v1/policies/shop/shop/users/alice/unlock").over_admin_socket().send().await;
    assert_eq!(unlocked.body["held_by"], json!(["lockout"]), "{}", unlocked.body);
    assert_eq!(rig.login("alice", PASSWORD).await.status, 200);
    lock_out("bob").await;
    rig.post("/auth/forgot-password").json(json!({"email": "bob@shop.example"})).send().await;
    let token = rig.mails().await.into_iter().find(|mail| mail.link.is_some()).unwrap().token();
    let reset = rig.post("/auth/reset-password").json(json!({"token": token, "new_password": OTHER})).send().await;
    assert_eq!(reset.status, 200, "{}", reset.body);
    let again = rig.login("bob", OTHER).await;
    assert_eq!((again.status.as_u16(), told(&again, "ratelimit-remaining")), (200, Some("4")), "{}", again.body);
}

#[tokio::test]
async fn what_an_administrators_lock_turns_away_is_no_try() {
    let rig = Rig::new(&limits("{perAccountAndAddress: {limit: 3, window: 5m}}", "{}")).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let administer = async |call: &str, body: serde_json::Value| {
        let path = format!("/admin/v1/policies/shop/shop/users/alice/{call}");
        rig.post(&path).json(body).over_admin_socket().send().await
    };
    administer("lock", json!({"reason": "laptop stolen"})).await;
    for _ in 0..5 {
        assert_eq!(rig.login("alice", PASSWORD).await.refusal(), (423, "account_locked"));
    }
    for _ in 0..3 {
        assert_eq!(rig.login("alice", "wrong").await.refusal(), (401, "invalid_credentials"), "a try all the same");
    }
    assert_eq!(rig.login("alice", PASSWORD).await.refusal(), (429, "rate_limited"));
}
