//! What those who run an issuer see of it: limits, metrics, and events that nobody asked for.

use countersign_feed::{ActivityKeeper as _, Clock, SeenSession};
use countersign_store::{Session, transact};
use countersign_telemetry::Exposition;
use serde_json::{Value, json};

use super::rig::{QUICK, Rig};
use crate::{Confirmation, SessionActivity, SignsWhile};

const PASSWORD: &str = "correct horse battery staple";
const QUICK_HASH: &str = "    passwords: {argon2id: {memory: 64Ki, iterations: 1}}\n";

async fn token(rig: &Rig, name: &str) -> String {
    rig.login(name, PASSWORD).await.text("access_token")
}

#[tokio::test]
async fn what_verifiers_saw_keeps_a_session_alive_once_a_minute_and_a_clock_that_is_ahead_keeps_none() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let (store, policy) = (rig.issuer.parts.store.clone(), rig.policy.name.clone());
    let begun = store.session(&policy, &rig.login("alice", PASSWORD).await.text("session_id")).await.unwrap().unwrap();
    let now = store.database_now().await.unwrap();
    let ending = rig.policy.ending(now, "test");
    for id in ["quiet", "busy", "ahead", "over"] {
        let long_ago = now.minus(600_000);
        let session = Session { id: id.to_owned(), created: long_ago, last_seen: long_ago, ..begun.clone() };
        transact!(&store, |tx| { tx.open_session(&session, None, &ending).await }).unwrap();
    }
    transact!(&store, |tx| { tx.end_session(&policy, "over", &ending).await }).unwrap();
    let saw = |session: &str, ms: i64| SeenSession { policy: policy.clone(), session: session.into(), at: now.plus(ms) };
    let keeper = SessionActivity::new(store.clone());
    let seen = [saw("busy", -90_000), saw("ahead", 3_600_000), saw("over", -1000), saw("nobody's", -1000)];
    keeper.keep(&seen).await.unwrap();
    let last_seen = async |id: &str| store.session(&policy, id).await.unwrap().unwrap().last_seen;
    assert_eq!(last_seen("busy").await, now.minus(90_000));
    assert_eq!((last_seen("quiet").await, last_seen("over").await), (now.minus(600_000), now.minus(600_000)));
    let ahead = last_seen("ahead").await;
    assert!((now..=store.database_now().await.unwrap()).contains(&ahead), "{ahead}");
    keeper.keep(&[saw("busy", -45_000)]).await.unwrap();
    assert_eq!(last_seen("busy").await, now.minus(90_000), "written at most once a minute");
    keeper.keep(&[saw("busy", -30_000)]).await.unwrap();
    assert_eq!(last_seen("busy").await, now.minus(30_000));
    let (hour, long_over) = (3_600_000, now.minus(4 * 3_600_000));
    let session = Session { id: "idle".to_owned(), created: long_over, last_seen: long_over, idle_ms: hour, ..begun };
    transact!(&store, |tx| { tx.open_session(&session, None, &ending).await }).unwrap();
    keeper.keep(&[saw("idle", -3 * hour - 60_000)]).await.unwrap();
    assert_eq!(last_seen("idle").await, long_over, "what has been over for longer than moments wait stays over");
}

#[tokio::test]
async fn a_subjects_calls_are_limited_and_anothers_are_not() {
    let limits = "    rateLimits: {login: {}, api: {perSubject: {limit: 2, window: 1m}}}\n";
    let rig = Rig::new(&format!("{QUICK_HASH}{limits}")).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    rig.account("bob", PASSWORD, &["user"]).await;
    let (alice, again, bob) = (token(&rig, "alice").await, token(&rig, "alice").await, token(&rig, "bob").await);
    for token in [&alice, &again] {
        assert_eq!(rig.get("/users/me").bearer(token).send().await.status, 200);
    }
    let refused = rig.get("/users/me").bearer(&alice).send().await;
    assert_eq!(refused.refusal(), (429, "rate_limited"));
    for (name, value) in [("ratelimit-limit", "2"), ("ratelimit-remaining", "0")] {
        assert_eq!(refused.headers[name], value);
    }
    assert!(refused.headers.contains_key("retry-after") && refused.headers.contains_key("ratelimit-reset"));
    assert_eq!(rig.get("/users/me").bearer(&bob).send().await.status, 200);
    assert_eq!(rig.get("/users/me").bearer("nonsense").send().await.status, 401, "a bad token is nobody's call");
}

#[tokio::test]
async fn who_may_look_sees_the_limits_and_how_logins_stand() {
    let limits = "    rateLimits: {login: {perAccountAndAddress: {limit: 3, window: 5m}}, api: {}}\n";
    let rig = Rig::new(&format!("{QUICK_HASH}{limits}")).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    rig.account("root", PASSWORD, &["admin"]).await;
    rig.login("alice", "wrong").await;
    let (alice, root) = (token(&rig, "alice").await, token(&rig, "root").await);
    let path = "/api/v1/auth/rate-limit-status";
    assert_eq!(rig.get(path).bearer(&alice).send().await.refusal(), (403, "forbidden"));
    let answer = rig.get(path).bearer(&root).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.body["limits"]["login"]["per_account_and_address"], json!({"limit": 3, "window_s": 300}));
    assert_eq!(answer.body["limits"]["login"]["per_address"], Value::Null);
    assert_eq!((&answer.body["counted_on"], &answer.body["redis_away"]), (&json!("store"), &json!(false)));
    assert_eq!(
        answer.body["failed_logins"]["this_minute"].as_u64().unwrap()
            + answer.body["failed_logins"]["last_minute"].as_u64().unwrap(),
        1
    );
    assert_eq!(answer.body.get("login"), None);
    for _ in 0..2 {
        let stand = rig.get(&format!("{path}?user=ALICE&ip=203.0.113.7")).bearer(&root).send().await;
        assert_eq!(stand.body["login"][0]["name"], "alice", "{}", stand.body);
        assert_eq!(stand.body["login"][0]["remaining"], 1, "a wrong and a right login; looking is no try");
    }
    for wrong in ["user=alice", "ip=nonsense"] {
        assert_eq!(rig.get(&format!("{path}?{wrong}")).bearer(&root).send().await.status, 422, "{wrong}");
    }
}

#[tokio::test]
async fn logins_and_refreshes_are_counted_under_the_names_that_dashboards_know() {
    let limits = "    rateLimits: {login: {perAccountAndAddress: {limit: 2, window: 5m}}}\n";
    let rig = Rig::new(&format!("{QUICK_HASH}{limits}")).await.alone();
    rig.account("alice", PASSWORD, &["user"]).await;
    rig.login("alice", "wrong").await;
    let login = rig.login("alice", PASSWORD).await;
    assert_eq!(rig.login("alice", PASSWORD).await.status, 429);
    let body = json!({"refresh_token": login.text("refresh_token")});
    assert_eq!(rig.post("/auth/refresh").json(body).send().await.status, 200);
    let mut text = Exposition::default();
    crate::metrics::tell(&rig.issuer.parts, &mut text).await;
    let text = text.into_text();
    for line in [
        "auth_login_attempts_total{result=\"success\"} 1",
        "auth_login_attempts_total{result=\"failure\"} 1",
        "auth_login_attempts_total{result=\"refused\"} 1",
        "auth_login_failures_total 1",
        "countersign_audit_events_total{severity=\"critical\"} 0",
        "auth_2fa_challenges_total 0",
        "auth_active_sessions{policy=\"shop/shop\"} 1",
        "auth_token_refresh_duration_seconds_count 1",
        "countersign_rate_limit_redis_away 0",
    ] {
        assert!(text.lines().any(|told| told == line), "{line} in {text}");
    }
}

#[tokio::test]
async fn a_token_that_was_taken_back_leaves_a_few_lines_in_the_trail() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let good = token(&rig, "alice").await;
    let (head, signature) = good.rsplit_once('.').unwrap();
    // Another signature of the same form: the bits that base64url leaves over at its end stay as they are.
    let (first, rest) = signature.split_at(1);
    let forged = format!("{head}.{}{rest}", if first == "A" { "B" } else { "A" });
    for _ in 0..12 {
        assert_eq!(rig.get("/users/me").bearer(&forged).send().await.status, 401);
    }
    assert_eq!(rig.get("/users/me").bearer("nonsense").send().await.status, 401);
    let told = |events: Vec<String>| events.iter().filter(|kind| *kind == "INVALID_TOKEN").count();
    assert_eq!(told(rig.events().await), 5);
    let over = rig.post("/auth/logout").bearer(&good).send().await;
    rig.caught_up(&over).await;
    assert_eq!(rig.get("/users/me").bearer(&good).from("198.51.100.9").send().await.status, 401);
    assert_eq!(told(rig.events().await), 6, "another address has lines of its own");
}

#[tokio::test]
async fn what_an_administrator_revokes_is_in_the_trail() {
    let rig = Rig::new(QUICK).await;
    let kid = rig.policy.own.as_ref().unwrap().api_key.ring.keys[0].kid.clone();
    for (body, kind) in [
        (json!({"kind": "subject", "id": "alice", "reason": "left"}), "ADMIN_ACTION"),
        (json!({"kind": "key", "id": kid, "reason": "leaked"}), "KEY_REVOKED"),
    ] {
        let asking = rig.post("/admin/v1/policies/shop/shop/revocations").json(body).over_admin_socket();
        let answer = asking.send().await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(rig.events().await.last().map(String::as_str), Some(kind));
    }
}

#[tokio::test]
async fn nothing_is_signed_by_keys_that_nobody_has_confirmed_and_all_is_as_it_was_when_somebody_does() {
    let confirmed = Confirmation::default();
    let lapsed = Clock::boot_millis() - 300_000;
    let rig = Rig::signing_while(SignsWhile::of(confirmed.clone(), 600_000)).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let login = async || {
        let body = json!({"username": "alice", "password": PASSWORD});
        rig.post("/auth/login").json(body).send().await
    };
    let refused = login().await;
    assert_eq!(refused.refusal(), (503, "unavailable"), "it was never confirmed");
    confirmed.note(lapsed);
    let refused = login().await;
    let detail = refused.text("detail");
    assert!(detail.contains("the API server has not confirmed its keys for 300 s"), "{detail}");
    let says = async |unconfirmed: &str, number: u8| {
        let ready = rig.health("/readyz").await;
        assert!(ready.contains(&format!("\"unconfirmed\":{unconfirmed}")) && ready.contains("\"ready\":true"), "{ready}");
        let metrics = rig.health("/metrics").await;
        assert!(metrics.contains(&format!("countersign_issuer_unconfirmed_policies {number}\n")), "{metrics}");
    };
    says("[\"shop/shop\"]", 1).await;
    confirmed.note(Clock::boot_millis());
    let refresh = login().await.text("refresh_token");
    says("[]", 0).await;
    let refreshed = rig.post("/auth/refresh").json(json!({"refresh_token": refresh})).send().await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.body);
}
