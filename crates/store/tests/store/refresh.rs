//! Refresh families: one living branch, whoever races and whatever is shown again.

use std::{collections::BTreeSet, sync::Arc};

use countersign_core::time::UnixMillis;
use countersign_store::{NewFamily, RefreshToken, Session, Store, Use, Used, transact};
use sqlx::Row as _;

use crate::{
    rig::{Database, NOW, shop},
    sessions::{MINUTE, ending, open, revoked, session},
};

conformance! {
    a_token_shown_again_within_the_grace_gets_the_same_successor,
    once_the_successor_was_used_showing_the_first_again_ends_everything,
    after_the_grace_showing_a_token_again_ends_everything,
    a_token_is_called_usable_for_as_long_as_it_renews,
    any_older_token_ends_everything_and_a_restart_revives_none,
    of_many_uses_at_once_all_get_one_successor,
    a_family_that_does_not_rotate_keeps_its_token,
    a_session_that_is_over_is_not_renewed,
    a_first_token_is_replaced_only_while_unused,
    a_family_can_take_the_place_of_another_in_a_session,
    only_hashes_are_kept,
    bits_are_erased_after_the_grace,
    a_token_renews_nothing_in_the_name_of_another_subject,
}

const GRACE: i64 = 10_000;

fn token(n: u8) -> RefreshToken {
    RefreshToken([n; 32])
}

async fn with_family(db: &Database, rotates: bool) -> Store {
    let store = db.open().await;
    open(&store, &session("s", 0), None).await;
    let (policy, token) = (shop(), token(1));
    let family = NewFamily {
        policy: &policy,
        id: "f",
        session: "s",
        token: &token,
        rotates,
        created: NOW,
        expires: NOW.plus(500 * MINUTE),
    };
    transact!(&store, |tx| { tx.insert_family(&family).await }).unwrap();
    store
}

/// Uses a token at `at`; fresh bits are made of `at` and a number of the caller's.
async fn using(store: &Store, token: &RefreshToken, at: i64, salt: u8) -> Used {
    let (policy, ending) = (shop(), ending(NOW.plus(at)));
    let mut bits = [salt; 32];
    bits[..8].copy_from_slice(&at.to_be_bytes());
    let owner = store.session_of_refresh_token(&policy, token).await.unwrap();
    let using = Use {
        policy: &policy,
        subject: owner.as_ref().map_or("nobody", |session| session.subject.as_str()),
        token,
        bits: &bits,
        grace_ms: GRACE,
        lifetime_ms: 500 * MINUTE,
        ending: &ending,
    };
    transact!(store, |tx| { tx.use_refresh_token(&using).await }).unwrap()
}

fn renewed(used: Used) -> (RefreshToken, bool) {
    match used {
        Used::Renewed { token, again, session } => {
            assert_eq!(session.id, "s");
            (token, again)
        }
        other => panic!("not renewed: {other:?}"),
    }
}

async fn ended(store: &Store, used: Used) {
    let Used::Reused { session, ended } = used else { panic!("no reuse seen: {used:?}") };
    assert_eq!(
        (session.id.as_str(), ended.sessions.as_slice(), ended.revocations.ids.len()),
        ("s", ["s".to_owned()].as_slice(), 1)
    );
    assert_eq!(revoked(store).await, BTreeSet::from(["s".to_owned()]));
    assert!(store.session(&shop(), "s").await.unwrap().unwrap().ended.is_some());
}

async fn a_token_shown_again_within_the_grace_gets_the_same_successor(db: Database) {
    let store = with_family(&db, true).await;
    let (second, again) = renewed(using(&store, &token(1), 0, 1).await);
    assert!(!again && second != token(1));
    for at in [1, GRACE - 1] {
        assert_eq!(renewed(using(&store, &token(1), at, 2).await), (second.clone(), true));
    }
    let (third, again) = renewed(using(&store, &second, GRACE, 3).await);
    assert!(!again && third != second);
    assert_eq!(using(&store, &token(9), 0, 1).await, Used::Unknown);
}

async fn once_the_successor_was_used_showing_the_first_again_ends_everything(db: Database) {
    let store = with_family(&db, true).await;
    let (second, _) = renewed(using(&store, &token(1), 0, 1).await);
    let (third, _) = renewed(using(&store, &second, 1, 1).await);
    ended(&store, using(&store, &token(1), 2, 1).await).await;
    for token in [token(1), second, third] {
        assert_eq!(using(&store, &token, 3, 1).await, Used::Over);
    }
}

async fn after_the_grace_showing_a_token_again_ends_everything(db: Database) {
    let store = with_family(&db, true).await;
    let (second, _) = renewed(using(&store, &token(1), 0, 1).await);
    ended(&store, using(&store, &token(1), GRACE, 1).await).await;
    assert_eq!(using(&store, &second, GRACE, 1).await, Used::Over);
}

async fn a_token_is_called_usable_for_as_long_as_it_renews(db: Database) {
    let store = with_family(&db, true).await;
    let ends = async |token: &RefreshToken, at: i64| {
        store.usable_refresh_token(&shop(), token, NOW.plus(at)).await.unwrap().map(|(_, ends)| ends.since(NOW))
    };
    let (second, _) = renewed(using(&store, &token(1), 0, 1).await);
    assert!(ends(&token(1), GRACE - 1).await.is_some());
    renewed(using(&store, &token(1), GRACE - 1, 1).await);
    let end = ends(&second, GRACE - 1).await.unwrap();
    assert_eq!((ends(&second, end - 1).await, ends(&second, end).await), (Some(end), None));
    assert_eq!(using(&store, &second, end, 1).await, Used::Over);
    assert_eq!(ends(&token(1), GRACE).await, None);
    ended(&store, using(&store, &token(1), GRACE, 1).await).await;
    assert_eq!(ends(&second, GRACE).await, None);
}

async fn any_older_token_ends_everything_and_a_restart_revives_none(db: Database) {
    let store = with_family(&db, true).await;
    let mut tokens = vec![token(1)];
    for n in 0..5 {
        tokens.push(renewed(using(&store, tokens.last().unwrap(), n, 1).await).0);
    }
    store.close().await;
    let store = db.open().await;
    ended(&store, using(&store, &tokens[2], 6, 1).await).await;
    store.close().await;
    let store = db.open().await;
    for token in &tokens {
        assert_eq!(using(&store, token, 7, 1).await, Used::Over);
    }
}

async fn of_many_uses_at_once_all_get_one_successor(db: Database) {
    let store = Arc::new(with_family(&db, true).await);
    let mut present = token(1);
    for round in 0..3 {
        let uses: Vec<_> = (0..12)
            .map(|salt| {
                let (store, present) = (store.clone(), present.clone());
                tokio::spawn(async move { renewed(using(&store, &present, round, salt).await) })
            })
            .collect();
        let mut answers = Vec::new();
        for used in uses {
            answers.push(used.await.unwrap());
        }
        assert_eq!(answers.iter().filter(|(_, again)| !again).count(), 1, "one was first");
        assert!(answers.iter().all(|(token, _)| *token == answers[0].0), "nobody got a branch of their own");
        present = answers.remove(0).0;
    }
    let raw = db.raw().await;
    let living = sqlx::query("SELECT count(*) AS living FROM refresh_tokens WHERE rotated IS NULL").fetch_one(&raw).await;
    assert_eq!(living.unwrap().get::<i64, _>("living"), 1);
}

async fn a_family_that_does_not_rotate_keeps_its_token(db: Database) {
    let store = with_family(&db, false).await;
    for at in [0, GRACE * 2, 30 * MINUTE] {
        assert_eq!(renewed(using(&store, &token(1), at, 1).await), (token(1), false));
    }
    transact!(&store, |tx| { tx.end_session(&shop(), "s", &ending(NOW)).await }).unwrap();
    assert_eq!(using(&store, &token(1), 31 * MINUTE, 1).await, Used::Over);
}

async fn a_session_that_is_over_is_not_renewed(db: Database) {
    let store = with_family(&db, true).await;
    assert_eq!(using(&store, &token(1), 60 * MINUTE, 1).await, Used::Over, "idle for too long");
    let (mut present, mut at) = (token(1), 0);
    while at + 50 * MINUTE < 600 * MINUTE {
        at += 50 * MINUTE;
        present = renewed(using(&store, &present, at, 1).await).0;
    }
    assert_eq!(using(&store, &present, 600 * MINUTE, 1).await, Used::Over, "the absolute end");
    // And a token that was not used for its own lifetime, in a session that lives on.
    open(&store, &Session { idle_ms: i64::from(u32::MAX), absolute_end: UnixMillis(i64::MAX), ..session("t", 0) }, None)
        .await;
    let (policy, token) = (shop(), token(2));
    let family = NewFamily {
        policy: &policy,
        id: "g",
        session: "t",
        token: &token,
        rotates: true,
        created: NOW,
        expires: NOW.plus(5),
    };
    transact!(&store, |tx| { tx.insert_family(&family).await }).unwrap();
    assert_eq!(using(&store, &token, 5, 1).await, Used::Over);
}

async fn a_first_token_is_replaced_only_while_unused(db: Database) {
    let store = with_family(&db, true).await;
    let replace = async |n| transact!(&store, |tx| { tx.replace_first_token(&shop(), "s", &token(n)).await }).unwrap();
    assert!(replace(2).await);
    assert_eq!(using(&store, &token(1), 0, 1).await, Used::Unknown);
    renewed(using(&store, &token(2), 0, 1).await);
    assert!(!replace(3).await);
}

async fn a_family_can_take_the_place_of_another_in_a_session(db: Database) {
    let store = with_family(&db, true).await;
    let (policy, second) = (shop(), token(2));
    let family = NewFamily {
        policy: &policy,
        id: "g",
        session: "s",
        token: &second,
        rotates: true,
        created: NOW,
        expires: NOW.plus(500 * MINUTE),
    };
    transact!(&store, |tx| {
        tx.end_families(&policy, "s", NOW).await?;
        tx.insert_family(&family).await
    })
    .unwrap();
    assert_eq!(using(&store, &token(1), 1, 1).await, Used::Over);
    renewed(using(&store, &second, 2, 2).await);
    assert!(store.session(&policy, "s").await.unwrap().unwrap().ended.is_none());
}

async fn only_hashes_are_kept(db: Database) {
    let store = with_family(&db, true).await;
    let (second, _) = renewed(using(&store, &token(1), 0, 1).await);
    let rows = sqlx::query("SELECT hash, predecessor, bits FROM refresh_tokens").fetch_all(&db.raw().await).await.unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        for column in ["hash", "predecessor", "bits"] {
            let kept: Option<Vec<u8>> = row.get(column);
            assert!(kept.is_none_or(|kept| kept != token(1).0 && kept != second.0), "{column} is a token");
        }
    }
    assert_eq!(format!("{:?}", token(1)), "RefreshToken(…)");
}

async fn bits_are_erased_after_the_grace(db: Database) {
    let store = with_family(&db, true).await;
    let (second, _) = renewed(using(&store, &token(1), 0, 1).await);
    assert_eq!(store.erase_refresh_bits(NOW.plus(GRACE - 1), 100).await.unwrap(), 0);
    assert_eq!(store.erase_refresh_bits(NOW.plus(GRACE), 100).await.unwrap(), 1);
    // A clock that has gone back doesn't bring the grace back either.
    renewed(using(&store, &second, 1, 1).await);
    ended(&store, using(&store, &token(1), 2, 1).await).await;
}

async fn a_token_renews_nothing_in_the_name_of_another_subject(db: Database) {
    let store = with_family(&db, true).await;
    let (policy, ending) = (shop(), ending(NOW));
    let first = token(1);
    let using = Use {
        policy: &policy,
        subject: "mallory",
        token: &first,
        bits: &[1; 32],
        grace_ms: GRACE,
        lifetime_ms: MINUTE,
        ending: &ending,
    };
    let used = transact!(&store, |tx| { tx.use_refresh_token(&using).await }).unwrap();
    assert_eq!(used, Used::Unknown);
}
