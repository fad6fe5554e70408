//! What ends, whenever and by whatever it does: what is told of it, and at what time it takes place.

use std::sync::Arc;

use countersign_core::revocation::Kind;
use countersign_feed::FeedState;
use countersign_store::{AuditFilter, transact};
use countersign_test_servers::Postgres;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{
    home::Home,
    rig::{Answer, QUICK, Rig},
};
use crate::{
    AuditRetention, Issuer, IssuerConfig,
    bearer::{Around, judge},
    closing,
};

const PASSWORD: &str = "correct horse battery staple";

async fn refresh(rig: &Rig, token: &str) -> Answer {
    rig.post("/auth/refresh").json(json!({"refresh_token": token})).send().await
}

/// A refresh token that was used, and its successor too.
async fn stolen(rig: &Rig) -> String {
    rig.account("alice", PASSWORD, &["user"]).await;
    let first = rig.login("alice", PASSWORD).await.text("refresh_token");
    let second = refresh(rig, &first).await.text("refresh_token");
    assert_eq!(refresh(rig, &second).await.status, 200);
    first
}

#[tokio::test]
async fn a_theft_that_ends_a_session_says_where_that_stands_in_the_feed() {
    let rig = Rig::new(QUICK).await;
    let reused = refresh(&rig, &stolen(&rig).await).await;
    assert_eq!(reused.refusal(), (401, "invalid_refresh_token"));
    assert!(reused.body["position"].is_string() && reused.body["pending"].is_null(), "{}", reused.body);
    rig.caught_up(&reused).await;
    let away = Rig::new(QUICK).await;
    let first = stolen(&away).await;
    away.take_feed_away();
    let reused = refresh(&away, &first).await;
    assert_eq!(reused.status, 401);
    assert_eq!((&reused.body["position"], &reused.body["pending"]), (&Value::Null, &json!(true)));
}

#[tokio::test]
async fn a_login_that_ends_another_session_says_where_that_stands_in_the_feed() {
    let rig = Rig::new(&format!("{QUICK}    sessions: {{maxConcurrent: 1}}\n")).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let first = rig.login("alice", PASSWORD).await;
    assert!(first.body.get("position").is_none(), "nothing ended: {}", first.body);
    let second = rig.login("alice", PASSWORD).await;
    assert_eq!(second.status, 200);
    rig.caught_up(&second).await;
    assert!(!rig.is_good(&first.text("access_token")).await);
    rig.take_feed_away();
    let third = rig.login("alice", PASSWORD).await;
    assert_eq!((third.status.as_u16(), &third.body["pending"]), (202, &json!(true)), "{}", third.body);
    assert!(third.body["access_token"].is_string(), "it is a login all the same");
}

/// The issuer as it is when nothing reaches it from the feed.
fn cut_off(rig: &Rig) -> Issuer {
    let parts = &rig.issuer.parts;
    Issuer::new(IssuerConfig {
        store: parts.store.clone(),
        publisher: parts.publisher.clone(),
        feed: FeedState::without_feed(),
        fleet: parts.fleet.clone(),
        policies: parts.policies.clone(),
        keys: parts.keys.clone(),
        status: parts.status.clone(),
        secrets: parts.secrets.clone(),
        passwords: parts.passwords.clone(),
        sms: parts.sms.clone(),
        mailer: parts.mailer.clone(),
        counters: None,
        trusted_proxies: parts.trusted_proxies.clone(),
        trusted_hosts: Vec::new(),
        environment: "test".into(),
        audit_retention: AuditRetention::OFF,
        audit_log: None,
    })
}

#[tokio::test]
async fn without_the_feed_what_a_revoked_key_has_signed_is_no_good() {
    let rig = Rig::new(QUICK).await;
    rig.account("alice", PASSWORD, &["user"]).await;
    let token = rig.login("alice", PASSWORD).await.text("access_token");
    let body = json!({"name": "ci", "scopes": ["orders:read"]});
    let key = rig.post("/auth/api-keys").bearer(&token).json(body).send().await.text("key");
    let alone = cut_off(&rig);
    let good = async |token: &str| judge(&alone, &rig.policy, token, None, &Around::default()).await.is_ok();
    assert!(good(&token).await && good(&key).await);
    let own = rig.policy.own.as_ref().unwrap();
    for (ring, ended, lives) in [(&own.access, &token, Some(&key)), (&own.api_key, &key, None)] {
        // Written, and published by nobody.
        transact!(&*rig.store, |tx| {
            let now = tx.database_now().await?;
            let entry = closing::entry(
                &rig.policy,
                Kind::Key,
                &ring.ring.keys[0].kid,
                countersign_core::time::UnixMillis::FOREVER,
                now,
                "leaked",
            );
            let new = countersign_store::NewRevocation { entry, subject: None, access_only: false };
            tx.revoke(&[new], now, |_| 1000).await.map(|_| ())
        })
        .unwrap();
        assert!(!good(ended).await);
        if let Some(lives) = lives {
            assert!(good(lives).await, "of the other ring");
        }
    }
}

/// Succeeds once somebody waits for a subject.
const SOMEBODY_WAITS: &str = "DO $$ BEGIN
    IF NOT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted) THEN RAISE EXCEPTION 'nobody'; END IF;
END $$";

#[tokio::test]
#[ignore = "needs PostgreSQL's programs; `cargo xtask test` installs them"]
async fn what_waited_for_another_takes_place_after_it() {
    let server = Postgres::start(&["fsync=off"]).unwrap();
    let home = Home::on(&server).await;
    let rig = Arc::new(Rig::at(home, QUICK).await);
    let first = stolen(&rig).await;
    let alice = rig.login("alice", PASSWORD).await;
    let (token, subject) = (alice.text("access_token"), alice.body["user"]["id"].as_str().unwrap().to_owned());
    for (path, asked, kind) in [
        ("/auth/refresh", json!({"refresh_token": first}), "REFRESH_REUSE"),
        ("/auth/logout", json!({}), "SESSION_REVOKED"),
    ] {
        let (release, released) = oneshot::channel::<()>();
        let (held, holds) = oneshot::channel();
        let (store, policy, whom) = (rig.store.clone(), rig.name().clone(), subject.clone());
        let holder = tokio::spawn(async move {
            let (mut held, mut released) = (Some(held), Some(released));
            transact!(&*store, |tx| {
                tx.lock_subject(&policy, &whom).await?;
                held.take().unwrap().send(()).unwrap();
                released.take().unwrap().await.unwrap();
                tx.database_now().await
            })
            .unwrap()
        });
        holds.await.unwrap();
        let asking = rig.post(path).bearer(&token).json(asked).send();
        let asking = tokio::spawn(asking);
        while server.run("own", SOMEBODY_WAITS).is_err() {
            tokio::task::yield_now().await;
        }
        release.send(()).unwrap();
        let before = holder.await.unwrap();
        asking.await.unwrap();
        let filter = AuditFilter { kind: Some(kind.into()), limit: 1, ..AuditFilter::default() };
        let told = rig.store.audit(rig.name(), &filter).await.unwrap();
        assert!(told[0].event.time >= before, "{path}: {:?} is before {before:?}", told[0].event.time);
    }
}
