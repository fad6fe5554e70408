//! How often the database is asked: what a login costs beside the hash of its password is mostly that.

use axum::http::StatusCode;
use serde_json::json;

use super::{
    home,
    rig::{Answer, QUICK, Rig},
};

const PASSWORD: &str = "correct horse battery staple";
/// So many times each: now and then one is followed by what is due once a second, and something else may be asked meanwhile.
const TIMES: usize = 12;

/// How many statements a call takes, of several the least.
async fn least(rig: &Rig, mut call: impl AsyncFnMut() -> Answer) -> u64 {
    let mut least = u64::MAX;
    for _ in 0..TIMES {
        let before = rig.store.statements();
        let answer = call().await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
        least = least.min(rig.store.statements() - before);
    }
    least
}

#[tokio::test]
async fn a_login_and_a_refresh_ask_the_database_no_more_often_than_they_must() {
    let rig = Rig::new(&format!("{QUICK}    sessions: {{maxConcurrent: 1000}}\n")).await.alone();
    rig.account("alice", PASSWORD, &["user"]).await;
    // One before the hash. Then: begin, the account, what ended, the limit, the session, its family, its token, its device, the
    // account's last login, the trail, commit. A server is asked for a lock beside, and tells the time with what is asked anyway.
    let lock = u64::from(home::is_server());
    for _ in 0..10 {
        assert_eq!(rig.login("alice", PASSWORD).await.status, 200, "as many devices as there may be");
    }
    assert_eq!(least(&rig, async || rig.login("alice", PASSWORD).await).await, 12 + lock);

    let device = rig.login("alice", PASSWORD).await.text("device_token");
    let known = json!({"username": "alice", "password": PASSWORD, "device_token": device});
    assert_eq!(least(&rig, async || rig.post("/auth/login").json(known.clone()).send().await).await, 12 + lock);

    // The token before, and the time; then: begin, the token, its use, its successor, its family, the account, what ended, commit.
    let mut token = rig.login("alice", PASSWORD).await.text("refresh_token");
    let refreshed = least(&rig, async || {
        let answer = rig.post("/auth/refresh").json(json!({"refresh_token": token})).send().await;
        token = answer.text("refresh_token");
        answer
    });
    assert_eq!(refreshed.await, 9 + 2 * lock);
}
