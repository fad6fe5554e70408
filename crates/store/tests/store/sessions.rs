//! Sessions: limits under race, activity, and ends that every verifier hears of.

use std::{collections::BTreeSet, sync::Arc};

use countersign_core::{
    revocation::{Entry, Kind},
    time::UnixMillis,
};
use countersign_store::{
    BeyondLimit, Ending, HistoryFilter, NewRevocation, Opening, Session, SessionLimit, Store, transact,
};

use crate::rig::{Database, NOW, shop};

conformance! {
    logins_at_once_never_make_one_session_too_many,
    a_limit_turns_away_when_it_says_so_and_writes_nothing,
    the_eldest_or_the_idlest_session_makes_room,
    activity_is_written_once_a_minute_and_revives_nothing,
    a_session_ends_with_its_revocation_or_not_at_all,
    all_sessions_end_but_the_one_at_hand,
    sessions_are_listed_page_by_page_and_only_while_they_live,
    a_mint_sees_every_cut_off_that_was_answered_before_it,
}

pub(crate) const MINUTE: i64 = 60_000;

pub(crate) fn session(id: &str, created: i64) -> Session {
    Session {
        policy: shop(),
        id: id.into(),
        subject: "alice".into(),
        created: NOW.plus(created),
        auth_time: NOW.plus(created),
        last_seen: NOW.plus(created),
        idle_ms: 60 * MINUTE,
        absolute_end: NOW.plus(600 * MINUTE),
        ip: Some("203.0.113.7".into()),
        user_agent: Some("curl".into()),
        device_id: None,
        device: None,
        remember_me: true,
        amr: vec!["pwd".into(), "otp".into()],
        ended: None,
        ended_because: None,
    }
}

pub(crate) fn ending(now: UnixMillis) -> Ending {
    Ending {
        now,
        reason: "logged out".into(),
        source: "test".into(),
        issuer: Some("https://own".into()),
        tokens_expire: now.plus(15 * MINUTE),
        max_entries: 100_000,
    }
}

pub(crate) async fn open(store: &Store, new: &Session, limit: Option<SessionLimit>) -> Opening {
    let ending = ending(new.created);
    transact!(store, |tx| { tx.open_session(new, limit, &ending).await }).unwrap()
}

async fn opened(store: &Store, new: &Session) {
    assert!(matches!(open(store, new, None).await, Opening::Opened(_)));
}

async fn live(store: &Store, now: UnixMillis) -> Vec<String> {
    store.sessions(&shop(), "alice", None, 100, now).await.unwrap().into_iter().map(|session| session.id).collect()
}

pub(crate) async fn revoked(store: &Store) -> BTreeSet<String> {
    let filter = HistoryFilter { kind: Some(Kind::Session), ..HistoryFilter::default() };
    store.history(&shop(), &filter).await.unwrap().into_iter().map(|row| row.entry.id).collect()
}

async fn logins_at_once_never_make_one_session_too_many(db: Database) {
    let store = Arc::new(db.open().await);
    let limit = SessionLimit { max: 3, beyond: BeyondLimit::EvictOldest };
    let logins: Vec<_> = (0..24)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { open(&store, &session(&format!("s{n:02}"), n), Some(limit)).await })
        })
        .collect();
    let mut evicted = BTreeSet::new();
    for login in logins {
        let Opening::Opened(ended) = login.await.unwrap() else { panic!("turned away") };
        assert!(ended.sessions.len() <= 1);
        evicted.extend(ended.sessions);
    }
    let live = live(&store, NOW.plus(MINUTE)).await;
    assert_eq!((live.len(), evicted.len()), (3, 21), "{live:?}");
    assert_eq!(revoked(&store).await, evicted, "whoever made room is revoked");
}

async fn a_limit_turns_away_when_it_says_so_and_writes_nothing(db: Database) {
    let store = db.open().await;
    for (max, beyond) in
        [(2, BeyondLimit::Reject), (0, BeyondLimit::Reject), (0, BeyondLimit::EvictOldest), (0, BeyondLimit::EvictIdle)]
    {
        let limit = Some(SessionLimit { max, beyond });
        for n in 0..max {
            assert!(matches!(open(&store, &session(&format!("s{n}"), i64::from(n)), limit).await, Opening::Opened(_)));
        }
        assert_eq!(open(&store, &session("late", 10), limit).await, Opening::Refused, "{max} {beyond:?}");
        assert_eq!(store.session(&shop(), "late").await.unwrap(), None);
    }
    // Sessions that are over don't count.
    let limit = Some(SessionLimit { max: 2, beyond: BeyondLimit::Reject });
    assert!(matches!(open(&store, &session("later", 61 * MINUTE), limit).await, Opening::Opened(_)));
}

async fn the_eldest_or_the_idlest_session_makes_room(db: Database) {
    let store = db.open().await;
    for (id, created) in [("s1", 0), ("s2", 1), ("s3", 2)] {
        opened(&store, &session(id, created)).await;
    }
    transact!(&store, |tx| { tx.session_seen(&shop(), "s1", NOW.plus(2 * MINUTE)).await }).unwrap();
    let evict = async |id, beyond| match open(&store, &session(id, 3 * MINUTE), Some(SessionLimit { max: 3, beyond })).await
    {
        Opening::Opened(ended) => ended.sessions,
        Opening::Refused => panic!("turned away"),
    };
    assert_eq!(evict("s4", BeyondLimit::EvictIdle).await, ["s2"]);
    assert_eq!(evict("s5", BeyondLimit::EvictOldest).await, ["s1"]);
    // A limit that was lowered since is kept from the next login on.
    let lower = Some(SessionLimit { max: 1, beyond: BeyondLimit::EvictOldest });
    assert!(matches!(open(&store, &session("s6", 4 * MINUTE), lower).await, Opening::Opened(e) if e.sessions.len() == 3));
}

async fn activity_is_written_once_a_minute_and_revives_nothing(db: Database) {
    let store = db.open().await;
    opened(&store, &session("s", 0)).await;
    let seen = async |at: i64| transact!(&store, |tx| { tx.session_seen(&shop(), "s", NOW.plus(at)).await }).unwrap();
    let ends = async || store.session(&shop(), "s").await.unwrap().unwrap().ends();
    assert!(!seen(59_999).await && seen(MINUTE).await);
    assert_eq!(ends().await, NOW.plus(61 * MINUTE));
    assert!(!seen(30_000).await, "reports come late and in any order");
    assert!(!seen(61 * MINUTE).await, "idle for too long by then");
    for minute in 1..12 {
        assert!(seen(minute * 50 * MINUTE).await);
    }
    assert_eq!(ends().await, NOW.plus(600 * MINUTE), "no activity moves the absolute end");
    assert!(!seen(600 * MINUTE).await);
    assert!(!transact!(&store, |tx| { tx.session_used(&shop(), "s", NOW.plus(600 * MINUTE)).await }).unwrap());
    let short = Session { idle_ms: 60_000, ..session("short", 0) };
    opened(&store, &short).await;
    let short_seen =
        async |at: i64| transact!(&store, |tx| { tx.session_seen(&shop(), "short", NOW.plus(at)).await }).unwrap();
    assert_eq!(short.seen_every_ms(), 2000);
    assert!(!short_seen(1999).await && short_seen(2000).await && short_seen(61_999).await, "no minute is waited for");
    assert!(!short_seen(62_000).await);
    assert!(transact!(&store, |tx| { tx.session_used(&shop(), "short", NOW.plus(62_000)).await }).unwrap());
    let client = transact!(&store, |tx| {
        tx.session_client(&shop(), "s", Some("2001:db8::1"), (Some("b"), Some("c")), NOW.plus(7)).await
    });
    assert!(client.unwrap());
    let held = store.session(&shop(), "s").await.unwrap().unwrap();
    assert_eq!((held.ip.as_deref(), held.auth_time), (Some("2001:db8::1"), NOW.plus(7)));
    assert_eq!((held.user_agent.as_deref(), held.device.as_deref()), (Some("b"), Some("c")));
    transact!(&store, |tx| { tx.end_session(&shop(), "s", &ending(NOW)).await }).unwrap().unwrap();
    assert!(!seen(599 * MINUTE).await, "ended");
}

async fn a_session_ends_with_its_revocation_or_not_at_all(db: Database) {
    let store = db.open().await;
    opened(&store, &session("s", 0)).await;
    let failed: Result<(), _> = transact!(&store, |tx| {
        tx.end_session(&shop(), "s", &ending(NOW)).await?;
        Err(countersign_store::StoreError::Conflict("a test"))
    });
    assert!(failed.is_err());
    assert_eq!((live(&store, NOW).await, revoked(&store).await.len()), (vec!["s".to_owned()], 0));
    let end = async || transact!(&store, |tx| { tx.end_session(&shop(), "s", &ending(NOW)).await }).unwrap();
    let (one, two) = tokio::join!(end(), end());
    let ended = one.clone().or(two.clone()).unwrap();
    assert!(one.is_some() != two.is_some(), "once");
    assert_eq!((ended.sessions, ended.revocations.ids.len()), (vec!["s".to_owned()], 1));
    let row = store.history(&shop(), &HistoryFilter::default()).await.unwrap().remove(0);
    assert_eq!((row.entry.id.as_str(), row.subject.as_deref()), ("s", Some("alice")));
    assert_eq!((row.entry.issuer.as_deref(), row.entry.expires), (Some("https://own"), NOW.plus(15 * MINUTE)));
    let held = store.session(&shop(), "s").await.unwrap().unwrap();
    assert_eq!((held.ended, held.ended_because.as_deref()), (Some(NOW), Some("logged out")));
}

async fn all_sessions_end_but_the_one_at_hand(db: Database) {
    let store = db.open().await;
    for n in 0..4 {
        opened(&store, &session(&format!("s{n}"), n)).await;
    }
    opened(&store, &Session { subject: "bob".into(), ..session("b", 0) }).await;
    let end = async |except| {
        transact!(&store, |tx| { tx.end_sessions(&shop(), "alice", except, &ending(NOW)).await }).unwrap().sessions
    };
    assert_eq!(end(Some("s2")).await, ["s0", "s1", "s3"]);
    assert_eq!(live(&store, NOW).await, ["s2"]);
    assert_eq!(end(None).await, ["s2"]);
    assert_eq!(end(None).await, Vec::<String>::new());
    assert!(store.session(&shop(), "b").await.unwrap().unwrap().is_live(NOW));
}

async fn sessions_are_listed_page_by_page_and_only_while_they_live(db: Database) {
    let store = db.open().await;
    for (id, created) in [("c", 0), ("a", 1), ("b", 1), ("d", 2)] {
        opened(&store, &session(id, created)).await;
    }
    let first = store.sessions(&shop(), "alice", None, 2, NOW).await.unwrap();
    let rest = store.sessions(&shop(), "alice", first.last(), 9, NOW).await.unwrap();
    let ids: Vec<_> = first.iter().chain(&rest).map(|session| session.id.as_str()).collect();
    assert_eq!(ids, ["c", "a", "b", "d"]);
    assert_eq!(first[0], session("c", 0));
    assert_eq!(live(&store, NOW.plus(60 * MINUTE + 1)).await, ["d"]);
    assert_eq!(store.live_sessions(&shop(), NOW.plus(60 * MINUTE)).await.unwrap(), 3);
    assert_eq!(live(&store, NOW.plus(61 * MINUTE)).await, Vec::<String>::new());
}

/// As an issuer mints: what was cut off before its lock is seen, and what is cut off after it comes after the mint.
async fn a_mint_sees_every_cut_off_that_was_answered_before_it(db: Database) {
    let store = Arc::new(db.open().await);
    let cut_off = |kind, id: &str| NewRevocation {
        entry: Entry {
            policy: shop(),
            kind,
            issuer: None,
            id: id.into(),
            cutoff: NOW,
            expires: NOW.plus(MINUTE),
            version: 0,
            reason: "test".into(),
            source: "test".into(),
        },
        subject: None,
        access_only: false,
    };
    for revocation in [cut_off(Kind::Subject, "alice"), cut_off(Kind::Policy, "")] {
        let (key, order) = (revocation.entry.key(), Arc::new(tokio::sync::Mutex::new(Vec::new())));
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                let (store, key, order, revocation) = (store.clone(), key.clone(), order.clone(), revocation.clone());
                tokio::spawn(async move {
                    if n == 4 {
                        store.revoke(&[revocation], NOW, |_| 100).await.unwrap();
                        order.lock().await.push("cut off");
                        return;
                    }
                    let answered = order.lock().await.contains(&"cut off");
                    let seen = transact!(&store, |tx| {
                        tx.lock_subject(&shop(), "alice").await?;
                        Ok(!tx.entries(std::slice::from_ref(&key)).await?.is_empty())
                    });
                    assert!(seen.unwrap() || !answered, "a mint that began after the cut-off was answered saw none");
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(store.entries(&[key]).await.unwrap().len(), 1);
    }
}
