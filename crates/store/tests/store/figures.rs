//! Figures of a policy, and what administrators ask of grants.

use countersign_store::{ApiKey, AttemptsByHour, AuditEvent, NewFamily, RefreshToken, Severity, transact};

use crate::{
    rig::{Database, NOW, shop},
    sessions::{MINUTE, open, session},
};

conformance! {
    figures_count_what_is_there,
    keys_are_counted_and_revoked_by_owner,
    a_refresh_token_names_its_session,
}

async fn figures_count_what_is_there(db: Database) {
    let store = db.open().await;
    let on = |id: &str, subject: &str, device: Option<&str>| {
        let mut new = session(id, 0);
        (new.subject, new.device) = (subject.into(), device.map(Into::into));
        new
    };
    for new in
        [on("s1", "alice", Some("Firefox on Linux")), on("s2", "alice", Some("Firefox on Linux")), on("s3", "bob", None)]
    {
        open(&store, &new, None).await;
    }
    assert_eq!(store.active_subjects(&shop(), NOW).await.unwrap(), 2);
    assert_eq!(store.active_subjects(&shop(), NOW.plus(1)).await.unwrap(), 0);
    let devices = store.live_sessions_by_device(&shop(), NOW.plus(1)).await.unwrap();
    assert_eq!(devices, [(Some("Firefox on Linux".into()), 2), (None, 1)]);
    let event = |kind: &str, severity, minutes: i64| AuditEvent {
        policy: shop(),
        time: NOW.plus(minutes * MINUTE),
        kind: kind.into(),
        severity,
        subject: None,
        session: None,
        ip: None,
        user_agent: None,
        request: None,
        details: "{}".into(),
    };
    for one in [
        event("LOGIN_SUCCEEDED", Severity::Info, 0),
        event("LOGIN_FAILED", Severity::Warning, 1),
        event("LOGIN_FAILED", Severity::Warning, 70),
        event("REFRESH_REUSE", Severity::Critical, 71),
    ] {
        transact!(&store, |tx| { tx.append_audit(&one).await }).unwrap();
    }
    let hours = store.login_attempts(&shop(), NOW).await.unwrap();
    let counts: Vec<_> = hours.iter().map(|AttemptsByHour { succeeded, failed, .. }| (*succeeded, *failed)).collect();
    assert_eq!(counts, [(1, 1), (0, 1)]);
    assert!(hours[0].hour <= NOW && hours[1].hour.since(hours[0].hour) == 60 * MINUTE);
    assert_eq!(store.incidents(&shop(), NOW).await.unwrap(), 1);
}

async fn keys_are_counted_and_revoked_by_owner(db: Database) {
    let store = db.open().await;
    let key = |id: &str, owner: &str| ApiKey {
        policy: shop(),
        id: id.into(),
        owner: owner.into(),
        name: id.into(),
        hint: "csk_…abcd".into(),
        hash: None,
        scopes: vec!["orders:read".into()],
        roles: vec!["user".into()],
        created: NOW,
        expires: NOW.plus(MINUTE),
        last_used: None,
        revoked: None,
    };
    transact!(&store, |tx| {
        for one in [key("a", "alice"), key("b", "alice"), key("c", "bob")] {
            tx.insert_api_key(&one).await?;
        }
        Ok(())
    })
    .unwrap();
    let live = async |owner: &str, at| transact!(&store, |tx| { tx.live_api_keys(&shop(), owner, at).await }).unwrap();
    assert_eq!((live("alice", NOW).await, live("alice", NOW.plus(MINUTE)).await), (2, 0), "an expired one is none");
    let revoked = transact!(&store, |tx| { tx.mark_api_keys_of_revoked(&shop(), "alice", NOW).await }).unwrap();
    assert_eq!((revoked.len(), live("alice", NOW).await, live("bob", NOW).await), (2, 0, 1));
    let held = transact!(&store, |tx| { tx.api_key(&shop(), "a").await }).unwrap().unwrap();
    assert_eq!(held.revoked, Some(NOW));
}

async fn a_refresh_token_names_its_session(db: Database) {
    let store = db.open().await;
    open(&store, &session("s", 0), None).await;
    let token = RefreshToken([3; 32]);
    let family = NewFamily {
        policy: &shop(),
        id: "f",
        session: "s",
        token: &token,
        rotates: true,
        created: NOW,
        expires: NOW.plus(MINUTE),
    };
    let of = async |token: &RefreshToken| {
        store.session_of_refresh_token(&shop(), token).await.unwrap().map(|session| session.id)
    };
    transact!(&store, |tx| { tx.insert_family(&family).await }).unwrap();
    assert_eq!((of(&token).await.as_deref(), of(&RefreshToken([4; 32])).await), (Some("s"), None));
}
