//! Emergency tokens: recorded whoever asks in whatever way, or not accepted.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use countersign_api::bundle::{BundleEmergency, VerifySection};
use countersign_core::mint::{self, AccessTokenSpec};
use countersign_feed::{FeedServer as _, MAX_WAITING_USES, ReportedUse};
use countersign_verifier::{AuditLog, Config, Feed};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::{
    rig::{AUDIENCE, Bundles, ISSUER, Rig, TestFeed, eventually, keys, now, section, token},
    wire::Answer,
};

const REASON: &str = "the pager is on fire";

/// Lines that were written, for as long as there is room.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<Vec<Value>>>,
    full: Arc<AtomicBool>,
}

impl Log {
    fn set(&self) -> impl FnOnce(&mut Config) + use<> {
        let log = self.clone();
        move |config| {
            config.audit_log = AuditLog::new(move |line| {
                if log.full.load(SeqCst) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                log.lines.lock().push(serde_json::from_str(line).unwrap());
                Ok(())
            });
        }
    }

    fn count(&self) -> usize {
        self.lines.lock().len()
    }
}

fn with_emergency() -> VerifySection {
    let rules = BundleEmergency { max_ttl_ms: 3_600_000, roles: vec!["admin".into()], not_after: now().plus(7_200_000) };
    VerifySection { emergency: Some(rules), ..section() }
}

fn emergency_token() -> String {
    let spec = AccessTokenSpec {
        issuer: ISSUER.into(),
        subject: "alice".into(),
        audiences: vec![AUDIENCE.into()],
        roles: vec!["admin".into()],
        scopes: Vec::new(),
        session_id: Some("s1".into()),
        token_id: "e1".into(),
        issued_at: now(),
        expires: now().plus(3_600_000),
        amr: Vec::new(),
        client_id: None,
        extra: Map::new(),
    };
    mint::mint_emergency(&keys().access, &spec, REASON).unwrap()
}

async fn introspect(rig: &Rig, token: &str) -> Answer {
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    rig.unix().await.ask("POST", "/v1/policies/shop/shop/introspect", &form, format!("token={token}")).await
}

async fn authorize(rig: &Rig, token: &str) -> Answer {
    let bearer = format!("Bearer {token}");
    let headers = [("Authorization", bearer.as_str()), ("X-Forwarded-Method", "GET"), ("X-Forwarded-Uri", "/orders?a=b")];
    rig.unix().await.ask("GET", "/v1/policies/shop/shop/authorize", &headers, "").await
}

async fn batch(rig: &Rig, token: &str, times: usize) -> Vec<u64> {
    let items = vec![json!({ "token": token }); times];
    let answer = rig.post("/v1/policies/shop/shop/verify-batch", &json!({ "items": items })).await.json();
    answer["results"].as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect()
}

async fn start(section: VerifySection, feed: Feed, log: &Log) -> (Bundles, Rig) {
    let bundles = Bundles::new();
    bundles.put_policy("shop/shop", 1, section);
    let rig = Rig::with(&bundles, feed, log.set()).await;
    (bundles, rig)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_use_is_recorded_in_whatever_way_it_is_asked_for_and_however_often() {
    let log = Log::default();
    let (_bundles, rig) = start(with_emergency(), Feed::Without, &log).await;
    let token = emergency_token();
    let ask = json!({"token": token, "client": {"ip": "::ffff:192.0.2.7", "user_agent": "curl\n\"8\""}});
    let first = rig.verify("shop/shop", ask.clone()).await;
    assert_eq!((first.status, &first.json()["kind"]), (200, &json!("emergency")));
    assert_eq!(first.json()["claims"]["emergency"]["reason"], REASON);
    assert_eq!(rig.verify("shop/shop", ask).await.status, 200);
    assert_eq!(log.count(), 2, "what was proven before is recorded again");
    assert_eq!(batch(&rig, &token, 3).await, [200; 3]);
    assert_eq!(log.count(), 5);
    assert_eq!(introspect(&rig, &token).await.json()["active"], true);
    assert_eq!(authorize(&rig, &token).await.status, 200);
    assert_eq!(log.count(), 7);

    // What is refused was no use, and other tokens are nobody's business here.
    let unmet = json!({"token": token, "require": {"scopes": ["none"]}});
    assert_eq!(rig.verify("shop/shop", unmet).await.word(), (403, "denied".into()));
    assert_eq!(rig.word(&crate::rig::token()).await.0, 200);
    assert_eq!(log.count(), 7);
    let metrics = String::from_utf8(rig.health("/metrics").await.body).unwrap();
    assert!(metrics.contains("countersign_emergency_uses_total{policy=\"shop/shop\"} 7\n"), "{metrics}");

    let lines = log.lines.lock().clone();
    let ids: HashSet<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 7);
    let signature = token.rsplit('.').next().unwrap();
    for line in &lines {
        for (member, value) in [
            ("level", "WARN"),
            ("target", "countersign::audit"),
            ("event_type", "EMERGENCY_USED"),
            ("severity", "CRITICAL"),
            ("policy", "shop/shop"),
            ("subject", "alice"),
            ("token_id", "e1"),
            ("session_id", "s1"),
            ("reason", REASON),
        ] {
            assert_eq!(line[member], value, "{line}");
        }
        assert!(!line.to_string().contains(signature), "never the token");
    }
    assert_eq!((&lines[0]["ip"], &lines[0]["user_agent"]), (&json!("192.0.2.7"), &json!("curl\n\"8\"")));
    assert_eq!(lines[6]["request"], "GET /orders");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_use_cannot_be_written_down_there_is_none() {
    let log = Log::default();
    let (_bundles, rig) = start(with_emergency(), Feed::Without, &log).await;
    let emergency = emergency_token();
    assert_eq!(rig.word(&emergency).await.0, 200);
    log.full.store(true, SeqCst);
    let refused = rig.verify("shop/shop", json!({ "token": emergency })).await;
    assert_eq!(refused.word(), (503, "not_ready".into()));
    assert!(refused.json()["detail"].as_str().unwrap().contains("recorded"), "{}", refused.json());
    assert_eq!(batch(&rig, &emergency, 2).await, [503; 2]);
    // Never "inactive": nothing is said about the token.
    assert_eq!(introspect(&rig, &emergency).await.status, 503);
    let answer = authorize(&rig, &emergency).await;
    assert_eq!((answer.status, answer.header("x-auth-subject")), (503, Some("")));
    assert_eq!(rig.word(&token()).await.0, 200, "everything else goes on");
    log.full.store(false, SeqCst);
    assert_eq!(rig.word(&emergency).await.0, 200);
    assert_eq!(log.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_reach_the_feed_server_and_none_is_accepted_when_too_many_wait_for_it() {
    let log = Log::default();
    let feed = TestFeed::new().await;
    let (_bundles, rig) = start(with_emergency(), feed.follow(), &log).await;
    let emergency = emergency_token();
    rig.eventually_word(&token(), 200, "valid").await;
    assert_eq!(rig.word(&emergency).await.0, 200);
    let waiting = async || feed.0.waiting_uses(usize::MAX >> 1).await.unwrap();
    eventually("the use is on the server", async || waiting().await.len() == 1).await;
    let first: ReportedUse = waiting().await.remove(0).used.unwrap();
    assert_eq!((first.reason.as_str(), first.verifier.as_str(), first.subject.as_str()), (REASON, "test", "alice"));

    // Nobody takes them out, and the server is full.
    feed.0.report_uses(&vec![first; MAX_WAITING_USES - 1]).await.unwrap();
    let mut valid = 1;
    loop {
        let statuses = batch(&rig, &emergency, 1000).await;
        let taken = statuses.iter().filter(|status| **status == 200).count();
        valid += taken;
        if taken < 1000 {
            assert!(statuses[taken..].iter().all(|status| *status == 503));
            break;
        }
        assert!(valid < 10_000, "a bound that is none");
    }
    assert_eq!(log.count(), valid, "what was answered 200 is written down, and nothing else");
    assert_eq!(rig.word(&emergency).await, (503, "not_ready".into()));
    assert_eq!(rig.word(&token()).await.0, 200);

    // Whoever keeps the audit is back.
    let places: Vec<String> = waiting().await.into_iter().map(|waiting| waiting.place).collect();
    feed.0.take_out_uses(&places).await.unwrap();
    rig.eventually_word(&emergency, 200, "valid").await;
    eventually("all that was answered is on the server", async || waiting().await.len() == valid).await;
    let ids: HashSet<String> = waiting().await.into_iter().map(|waiting| waiting.used.unwrap().id).collect();
    assert_eq!(ids.len(), valid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_ends_emergency_tokens_ends_those_that_were_accepted_before() {
    let log = Log::default();
    let (bundles, rig) = start(with_emergency(), Feed::Without, &log).await;
    let emergency = emergency_token();
    assert_eq!(rig.word(&emergency).await.0, 200);
    let mut narrower = with_emergency();
    narrower.emergency.as_mut().unwrap().roles = vec!["user".into()];
    bundles.put_policy("shop/shop", 2, narrower);
    rig.eventually_word(&emergency, 401, "invalid_claims").await;
    let mut over = with_emergency();
    over.emergency.as_mut().unwrap().not_after = now();
    bundles.put_policy("shop/shop", 3, over);
    rig.eventually_word(&emergency, 401, "expired").await;
    bundles.put_policy("shop/shop", 4, section());
    rig.eventually_word(&emergency, 401, "invalid_claims").await;
    let used = log.count();
    assert_eq!(rig.word(&emergency).await.0, 401);
    assert_eq!(log.count(), used);
}
