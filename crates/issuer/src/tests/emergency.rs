//! Emergency tokens at the issuer: who gets one, and that each use of one is in the audit trail before anything is done.

use countersign_store::{AuditFilter, Severity};
use serde_json::{Value, json};

use super::rig::{Answer, Rig, policy_yaml};

const TOKENS: &str = "/admin/v1/policies/shop/shop/tokens";

async fn rig(emergency: &str) -> Rig {
    Rig::of(&format!("{}{emergency}", policy_yaml(""))).await
}

const ENABLED: &str = "  emergency: {mode: Enabled, notAfter: '2099-01-01T00:00:00Z', maxTTL: 2h, roles: [admin]}\n";

async fn mint(rig: &Rig, more: Value) -> Answer {
    let mut body = json!({"subject": "alice", "roles": ["admin"], "emergency": true, "reason": "INC-42"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    rig.post(TOKENS).over_admin_socket().json(body).send().await
}

/// Kind, severity, subject and reason of the trail's events about emergencies, oldest first.
async fn trail(rig: &Rig) -> Vec<(String, Severity, String, Value)> {
    let filter = AuditFilter { at_least: Some(Severity::Critical), limit: 100, ..AuditFilter::default() };
    let events = rig.store.audit(rig.name(), &filter).await.unwrap();
    let told = events.into_iter().rev().map(|kept| {
        let details: Value = serde_json::from_str(&kept.event.details).unwrap();
        (kept.event.kind, kept.event.severity, kept.event.subject.unwrap(), details["reason"].clone())
    });
    told.collect()
}

#[tokio::test]
async fn a_use_at_the_issuer_itself_is_in_the_trail_before_the_call_is_answered() {
    let rig = rig(ENABLED).await;
    let minted = mint(&rig, json!({})).await;
    assert_eq!(minted.status, 200, "{:?}", minted.body);
    let token = minted.text("token");
    let event = |kind: &str| (kind.to_owned(), Severity::Critical, "alice".to_owned(), json!("INC-42"));
    assert_eq!(trail(&rig).await, [event("EMERGENCY_MINTED")]);
    for uses in 1..=2 {
        let answer = rig.get("/auth/audit").bearer(&token).send().await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        let used = trail(&rig).await.into_iter().filter(|told| *told == event("EMERGENCY_USED")).count();
        assert_eq!(used, uses);
        let shown = answer.body["events"].as_array().unwrap();
        assert!(shown.iter().any(|event| event["event_type"] == "EMERGENCY_USED"), "{shown:?}");
    }
    // The session of an emergency token is no login: what belongs to a person stays closed.
    let answer = rig.get("/users/me").bearer(&token).send().await;
    assert_eq!(answer.status, 401, "{:?}", answer.body);
}

#[tokio::test]
async fn a_token_that_goes_beyond_the_policy_s_bounds_is_not_made() {
    let enabled = rig(ENABLED).await;
    for (more, status, part) in [
        (json!({"reason": null}), 422, "reason"),
        (json!({"reason": ""}), 422, "reason"),
        (json!({"roles": ["user"]}), 422, "spec.emergency.roles: user"),
        (json!({"ttl_s": 7201}), 422, "spec.emergency.maxTTL"),
        (json!({"ttl_s": 0}), 422, "spec.emergency.maxTTL"),
    ] {
        let answer = mint(&enabled, more.clone()).await;
        assert_eq!(answer.status, status, "{more}: {:?}", answer.body);
        assert!(answer.body.to_string().contains(part), "{more}: {:?}", answer.body);
    }
    let off = rig("").await;
    let over = rig("  emergency: {mode: Enabled, notAfter: '2020-01-01T00:00:00Z', roles: [admin]}\n").await;
    for (rig, part) in [(&off, "Disabled"), (&over, "notAfter")] {
        let answer = mint(rig, json!({})).await;
        assert_eq!(answer.refusal(), (403, "forbidden"), "{:?}", answer.body);
        assert!(answer.body.to_string().contains(part), "{:?}", answer.body);
    }
    for rig in [&enabled, &off, &over] {
        assert_eq!(trail(rig).await, []);
    }
    // Nobody breaks the glass by asking for an ordinary token with more words.
    let ordinary = mint(&enabled, json!({"emergency": false})).await;
    assert_eq!(kind_of(&enabled, &ordinary.text("token")).await, "access");
}

async fn kind_of(rig: &Rig, token: &str) -> &'static str {
    let caller = crate::bearer::judge(&rig.issuer, &rig.policy, token, None, &crate::bearer::Around::default()).await;
    caller.map_or("none", |caller| caller.credential.kind().word())
}

#[tokio::test]
async fn what_ended_with_a_session_stays_ended_for_as_long_as_an_emergency_token_of_it_lives() {
    let rig = rig(ENABLED).await;
    let minted = mint(&rig, json!({})).await;
    let expires = minted.body["expires_at"].as_i64().unwrap();
    let ended = json!({"kind": "session", "id": minted.text("session_id")});
    let path = "/admin/v1/policies/shop/shop/revocations?wait_ms=0";
    let answer = rig.post(path).over_admin_socket().json(ended).send().await;
    assert!(answer.status.is_success(), "{:?}", answer.body);
    let ending = rig.policy.ending(rig.store.database_now().await.unwrap(), "over");
    assert!(ending.tokens_expire.as_secs() >= expires, "a login's end is kept no shorter");
    let refused = rig.get("/auth/audit").bearer(&minted.text("token")).send().await;
    assert_eq!(refused.status, 401, "{:?}", refused.body);
}
