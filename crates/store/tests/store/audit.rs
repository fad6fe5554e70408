//! The audit trail: with what it tells of, in order, and so that a change shows.

use std::sync::Arc;

use countersign_store::{
    AuditCursor, AuditEvent, AuditFilter, Break, Chain, Link, Logged, Severity, Store, StoreError, Unlogged, transact,
};

use crate::{
    accounts::user,
    rig::{Database, NOW, shop},
};

conformance! {
    an_event_is_there_exactly_when_what_it_tells_of_is,
    events_are_asked_by_subject_kind_severity_and_time_page_by_page,
    sealers_at_once_make_one_chain,
    a_changed_removed_or_added_event_shows,
    a_long_chain_is_followed_a_part_at_a_time,
    what_is_left_after_retention_can_be_verified,
    a_chain_that_was_made_anew_does_not_fit_what_was_logged,
    each_place_is_logged_once_by_whoever_holds_the_log,
    the_log_is_held_by_one_at_a_time,
    what_waits_for_the_log_outlives_its_retention,
}

fn event(kind: &str, severity: Severity, subject: Option<&str>, at: i64) -> AuditEvent {
    AuditEvent {
        policy: shop(),
        time: NOW.plus(at),
        kind: kind.into(),
        severity,
        subject: subject.map(Into::into),
        session: Some("s".into()),
        ip: Some("203.0.113.7".into()),
        user_agent: None,
        request: Some("r".into()),
        details: "{}".into(),
    }
}

async fn append(store: &Store, event: &AuditEvent) {
    transact!(store, |tx| { tx.append_audit(event).await }).unwrap();
}

async fn with_chain(db: &Database, events: i64) -> Store {
    let store = db.open().await;
    for n in 0..events {
        append(&store, &event("LOGIN_SUCCEEDED", Severity::Info, Some("a"), n)).await;
    }
    assert_eq!(store.seal_audit(&shop(), 1000).await.unwrap().unwrap().place, events);
    store
}

async fn an_event_is_there_exactly_when_what_it_tells_of_is(db: Database) {
    let store = db.open().await;
    let created = event("USER_CREATED", Severity::Info, Some("a"), 0);
    for fails in [true, false] {
        let done = transact!(&store, |tx| {
            tx.insert_user(&user("a")).await?;
            tx.append_audit(&created).await?;
            if fails { Err(StoreError::Conflict("a test")) } else { Ok(()) }
        });
        assert_eq!(done.is_err(), fails);
        let kept = store.audit(&shop(), &AuditFilter { limit: 10, ..AuditFilter::default() }).await.unwrap();
        assert_eq!(
            kept.into_iter().map(|kept| kept.event).collect::<Vec<_>>(),
            if fails { vec![] } else { vec![created.clone()] }
        );
    }
}

async fn events_are_asked_by_subject_kind_severity_and_time_page_by_page(db: Database) {
    let store = db.open().await;
    let (info, warning, critical) = (Severity::Info, Severity::Warning, Severity::Critical);
    let written = [
        event("LOGIN_SUCCEEDED", info, Some("a"), 0),
        event("LOGIN_FAILED", warning, None, 1),
        event("REFRESH_REUSE", critical, Some("a"), 1),
        event("LOGIN_FAILED", warning, Some("b"), 2),
        event("LOGIN_SUCCEEDED", info, Some("b"), 3),
    ];
    for event in &written {
        append(&store, event).await;
    }
    let all = AuditFilter::default();
    let subject = |subject: &str| Some(subject.to_owned());
    for (filter, expected) in [
        (all.clone(), vec![4, 3, 2, 1, 0]),
        (AuditFilter { subject: subject("a"), ..all.clone() }, vec![2, 0]),
        (AuditFilter { subject: subject("b"), kind: subject("LOGIN_FAILED"), ..all.clone() }, vec![3]),
        (AuditFilter { kind: subject("LOGIN_FAILED"), ..all.clone() }, vec![3, 1]),
        (AuditFilter { at_least: Some(warning), ..all.clone() }, vec![3, 2, 1]),
        (AuditFilter { at_least: Some(critical), ..all.clone() }, vec![2]),
        (AuditFilter { ip: subject("192.0.2.9"), ..all.clone() }, vec![]),
        (AuditFilter { at_least: Some(info), since: Some(NOW.plus(2)), ..all.clone() }, vec![4, 3]),
        (AuditFilter { subject: subject("a"), at_least: Some(warning), since: Some(NOW.plus(1)), ..all }, vec![2]),
    ] {
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let page = store.audit(&shop(), &AuditFilter { before, limit: 2, ..filter.clone() }).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(AuditCursor { time: last.event.time, id: last.id });
            found.extend(page.into_iter().map(|kept| kept.event));
        }
        let expected: Vec<_> = expected.into_iter().map(|n: usize| written[n].clone()).collect();
        assert_eq!(found, expected, "{filter:?}");
    }
}

async fn sealers_at_once_make_one_chain(db: Database) {
    let store = Arc::new(db.open().await);
    assert_eq!(store.seal_audit(&shop(), 10).await.unwrap(), None);
    assert_eq!(store.verify_audit(&shop(), &[]).await.unwrap(), Ok(Chain::EMPTY.head()));
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                append(&store, &event("LOGIN_FAILED", Severity::Warning, None, n)).await;
                store.seal_audit(&shop(), 3).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    while store.seal_audit(&shop(), 3).await.unwrap().is_some() {}
    assert_eq!(store.unsealed_policies().await.unwrap(), []);
    assert_eq!(store.verify_audit(&shop(), &[]).await.unwrap().unwrap().place, 40);
    append(&store, &event("LOGIN_FAILED", Severity::Warning, None, 0)).await;
    assert_eq!(store.unsealed_policies().await.unwrap(), [shop()]);
}

async fn a_long_chain_is_followed_a_part_at_a_time(db: Database) {
    let store = db.open().await;
    transact!(&store, |tx| {
        for n in 0..1500 {
            tx.append_audit(&event("LOGIN_SUCCEEDED", Severity::Info, Some("a"), n)).await?;
        }
        Ok(())
    })
    .unwrap();
    while store.seal_audit(&shop(), 1000).await.unwrap().is_some() {}
    let part = async |from| store.verify_audit_part(&shop(), &[], from, 1).await.unwrap();
    let first = part(None).await.unwrap();
    assert_eq!((first.head.place, first.whole), (1000, false));
    let second = part(Some(first.head)).await.unwrap();
    assert_eq!((second.head.place, second.whole), (1500, true));
    assert_eq!(store.verify_audit(&shop(), &[]).await.unwrap(), Ok(second.head));
    let forged = Link { hash: [0; 32], ..first.head };
    assert_eq!(part(Some(forged)).await, Err(Break::Hash { place: 1001 }));
    let at_the_end = Link { hash: [0; 32], ..second.head };
    assert_eq!(part(Some(at_the_end)).await, Err(Break::Rewritten { place: 1500 }));
    let beyond = Link { place: 1501, ..second.head };
    assert_eq!(part(Some(beyond)).await, Err(Break::End { expected: 1501, found: 1500 }));
}

async fn a_changed_removed_or_added_event_shows(db: Database) {
    let store = with_chain(&db, 9).await;
    assert_eq!(store.verify_audit(&shop(), &[]).await.unwrap().unwrap().place, 9);
    let raw = db.raw().await;
    for (sql, undo, expected) in [
        (
            "UPDATE audit_events SET subject = NULL WHERE place = 4",
            "UPDATE audit_events SET subject = 'a' WHERE place = 4",
            Break::Hash { place: 4 },
        ),
        (
            "UPDATE audit_events SET subject = '' WHERE place = 4",
            "UPDATE audit_events SET subject = 'a' WHERE place = 4",
            Break::Hash { place: 4 },
        ),
        (
            "UPDATE audit_events SET place = 0 WHERE place = 5",
            "UPDATE audit_events SET place = 5 WHERE place = 0",
            Break::Place { expected: 5, found: 6 },
        ),
        (
            "UPDATE audit_events SET place = 0 WHERE place = 9",
            "UPDATE audit_events SET place = 9 WHERE place = 0",
            Break::End { expected: 9, found: 8 },
        ),
        (
            "INSERT INTO audit_events (policy, time, type, severity, details, place, hash)
               SELECT policy, time, type, severity, details, 10, hash FROM audit_events WHERE place = 9",
            "DELETE FROM audit_events WHERE place = 10",
            Break::Hash { place: 10 },
        ),
    ] {
        sqlx::raw_sql(sql).execute(&raw).await.unwrap();
        assert_eq!(store.verify_audit(&shop(), &[]).await.unwrap(), Err(expected), "{sql}");
        sqlx::raw_sql(undo).execute(&raw).await.unwrap();
        assert!(store.verify_audit(&shop(), &[]).await.unwrap().is_ok(), "{undo}");
    }
}

async fn what_is_left_after_retention_can_be_verified(db: Database) {
    let store = with_chain(&db, 9).await;
    assert_eq!(store.audited_policies().await.unwrap(), [shop()]);
    assert_eq!(store.forget_audit(&shop(), NOW, 100, false).await.unwrap(), 0);
    assert_eq!(store.forget_audit(&shop(), NOW.plus(5), 3, false).await.unwrap(), 3, "in batches");
    assert_eq!(store.forget_audit(&shop(), NOW.plus(5), 100, false).await.unwrap(), 2);
    let head = store.verify_audit(&shop(), &[]).await.unwrap().unwrap();
    assert_eq!(head.place, 9);
    assert_eq!(store.audit(&shop(), &AuditFilter { limit: 100, ..AuditFilter::default() }).await.unwrap().len(), 4);
    assert_eq!(store.forget_audit(&shop(), NOW.plus(500), 100, false).await.unwrap(), 4);
    assert_eq!(store.verify_audit(&shop(), &[]).await.unwrap(), Ok(head), "an empty chain still knows where it was");
    append(&store, &event("LOGIN_FAILED", Severity::Warning, None, 10)).await;
    assert_eq!(store.seal_audit(&shop(), 10).await.unwrap().unwrap().place, 10);
    assert_eq!(store.verify_audit(&shop(), &[]).await.unwrap().unwrap().place, 10);
}

async fn a_chain_that_was_made_anew_does_not_fit_what_was_logged(db: Database) {
    let store = with_chain(&db, 5).await;
    let logged = store.verify_audit(&shop(), &[]).await.unwrap().unwrap();
    assert_eq!(store.verify_audit(&shop(), &[logged]).await.unwrap(), Ok(logged));
    let raw = db.raw().await;
    let anew = "DELETE FROM audit_chains; UPDATE audit_events SET subject = 'b', place = NULL, hash = NULL";
    sqlx::raw_sql(anew).execute(&raw).await.unwrap();
    assert_eq!(store.seal_audit(&shop(), 100).await.unwrap().unwrap().place, 5);
    assert!(store.verify_audit(&shop(), &[]).await.unwrap().is_ok());
    assert_eq!(store.verify_audit(&shop(), &[logged]).await.unwrap(), Err(Break::Rewritten { place: 5 }));
    sqlx::raw_sql("DELETE FROM audit_events; DELETE FROM audit_chains").execute(&raw).await.unwrap();
    assert_eq!(store.verify_audit(&shop(), &[logged]).await.unwrap(), Err(Break::End { expected: 5, found: 0 }));
}

fn logged(after: i64, to: i64) -> Logged {
    Logged { policy: shop(), after, to }
}

async fn each_place_is_logged_once_by_whoever_holds_the_log(db: Database) {
    let store = with_chain(&db, 9).await;
    assert!(store.hold_audit_log("one", 60_000).await.unwrap());
    assert_eq!(store.unlogged_audit().await.unwrap(), [Unlogged { policy: shop(), logged: 0, sealed: 9 }]);
    let places = async |after, limit| {
        let events = store.sealed_audit(&shop(), after, limit).await.unwrap();
        events.into_iter().map(|kept| kept.link.unwrap().place).collect::<Vec<_>>()
    };
    assert_eq!(places(0, 4).await, [1, 2, 3, 4]);
    assert!(store.audit_logged("one", &[logged(0, 4)], 60_000).await.unwrap());
    assert_eq!(store.unlogged_audit().await.unwrap(), [Unlogged { policy: shop(), logged: 4, sealed: 9 }]);
    assert_eq!((places(4, 100).await, store.unlogged_events().await.unwrap()), (vec![5, 6, 7, 8, 9], 5));
    assert!(store.audit_logged("one", &[logged(0, 9)], 60_000).await.unwrap());
    assert_eq!(store.unlogged_events().await.unwrap(), 5, "from another place than where the log ends");
    assert!(!store.audit_logged("two", &[logged(4, 9)], 60_000).await.unwrap());
    assert_eq!(store.unlogged_events().await.unwrap(), 5, "by somebody who doesn't hold it");
    assert!(store.audit_logged("one", &[logged(4, 9)], 60_000).await.unwrap());
    assert_eq!((store.unlogged_audit().await.unwrap(), store.unlogged_events().await.unwrap()), (vec![], 0));
    append(&store, &event("LOGIN_FAILED", Severity::Warning, None, 10)).await;
    assert_eq!(store.unlogged_audit().await.unwrap(), [], "it isn't sealed");
    store.seal_audit(&shop(), 10).await.unwrap();
    assert_eq!(store.unlogged_audit().await.unwrap(), [Unlogged { policy: shop(), logged: 9, sealed: 10 }]);
    assert_eq!(store.verify_audit(&shop(), &[]).await.unwrap().unwrap().place, 10);
}

async fn the_log_is_held_by_one_at_a_time(db: Database) {
    let store = with_chain(&db, 3).await;
    assert!(store.hold_audit_log("one", 60_000).await.unwrap());
    assert!(store.hold_audit_log("one", 60_000).await.unwrap(), "again");
    assert!(!store.hold_audit_log("two", 60_000).await.unwrap());
    store.release_audit_log("two").await.unwrap();
    assert!(!store.hold_audit_log("two", 60_000).await.unwrap(), "nobody releases another's");
    store.release_audit_log("one").await.unwrap();
    assert!(store.hold_audit_log("two", 0).await.unwrap());
    assert!(store.hold_audit_log("one", 60_000).await.unwrap(), "the other's time is over");
    assert!(!store.audit_logged("two", &[logged(0, 3)], 60_000).await.unwrap());
    assert_eq!(store.unlogged_events().await.unwrap(), 3);
}

async fn what_waits_for_the_log_outlives_its_retention(db: Database) {
    let store = with_chain(&db, 9).await;
    let later = NOW.plus(500);
    assert_eq!(store.forget_audit(&shop(), later, 100, true).await.unwrap(), 0);
    assert!(store.hold_audit_log("one", 60_000).await.unwrap());
    assert!(store.audit_logged("one", &[logged(0, 4)], 60_000).await.unwrap());
    assert_eq!(store.forget_audit(&shop(), later, 100, true).await.unwrap(), 4);
    assert_eq!(store.unlogged_events().await.unwrap(), 5);
    assert_eq!(store.forget_audit(&shop(), later, 3, false).await.unwrap(), 3, "where there is no log");
    assert_eq!(store.unlogged_events().await.unwrap(), 2, "what is gone waits for nothing");
    assert_eq!(store.verify_audit(&shop(), &[]).await.unwrap().unwrap().place, 9);
}
