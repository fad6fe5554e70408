//! What proves who one is beside a password: each works once.

use std::sync::Arc;

use countersign_store::{
    ApiKey, Challenge, Device, NewOneTimeToken, Retry, SecretHash, Store, StoreError, TakenToken, transact,
};

use crate::{
    accounts::{insert, user},
    rig::{Database, NOW, shop},
};

conformance! {
    of_many_uses_of_one_totp_code_one_succeeds,
    totp_is_in_use_once_its_first_code_was_shown,
    secrets_move_to_another_key,
    of_many_uses_of_one_backup_code_one_succeeds,
    a_challenge_takes_so_many_attempts_and_is_completed_once,
    a_login_that_comes_again_with_its_code_gets_its_session_once,
    open_challenges_are_those_that_a_code_could_complete,
    a_sent_code_works_once_and_only_the_last_one_of_its_channel,
    of_many_uses_of_one_token_one_succeeds,
    an_account_knows_its_last_ten_devices,
    api_keys_are_found_by_id_hash_and_owner,
}

/// How many of sixteen at once succeed.
async fn winners<F>(store: Store, attempt: impl Fn(Arc<Store>) -> F) -> usize
where
    F: Future<Output = Result<bool, StoreError>> + Send + 'static,
{
    let store = Arc::new(store);
    let attempts: Vec<_> = (0..16).map(|_| tokio::spawn(attempt(store.clone()))).collect();
    let mut won = 0;
    for attempt in attempts {
        won += usize::from(attempt.await.unwrap().unwrap());
    }
    won
}

fn secret(n: u8) -> SecretHash {
    SecretHash::of(&[n])
}

async fn with_totp(db: &Database) -> Store {
    let store = db.open().await;
    insert(&store, &user("a")).await.unwrap();
    transact!(&store, |tx| { tx.begin_totp(&shop(), "a", b"sealed", "k1", NOW).await }).unwrap();
    store
}

async fn of_many_uses_of_one_totp_code_one_succeeds(db: Database) {
    let store = with_totp(&db).await;
    let take = async |step| transact!(&store, |tx| { tx.take_totp(&shop(), "a", step).await }).unwrap();
    assert!(!take(10).await, "not in use yet");
    assert!(transact!(&store, |tx| { tx.confirm_totp(&shop(), "a", b"sealed", 10, NOW).await }).unwrap());
    assert!(!take(10).await, "the code that confirmed it");
    let won = winners(store.clone(), async |store| transact!(&store, |tx| { tx.take_totp(&shop(), "a", 11).await })).await;
    assert_eq!(won, 1);
    assert!(!take(11).await && !take(9).await && take(12).await);
}

async fn totp_is_in_use_once_its_first_code_was_shown(db: Database) {
    let store = with_totp(&db).await;
    let begin = async || transact!(&store, |tx| { tx.begin_totp(&shop(), "a", b"again", "k1", NOW).await });
    let confirm = async |sealed: &'static [u8]| {
        transact!(&store, |tx| { tx.confirm_totp(&shop(), "a", sealed, 1, NOW).await }).unwrap()
    };
    begin().await.unwrap();
    assert!(!confirm(b"sealed").await, "another secret stands there by now");
    assert!(confirm(b"again").await && !confirm(b"again").await);
    assert!(matches!(begin().await, Err(StoreError::Conflict("the second factor"))));
    let held = store.totp(&shop(), "a").await.unwrap().unwrap();
    assert_eq!((held.confirmed, held.last_step, held.secret.as_slice()), (Some(NOW), 1, b"again".as_slice()));
    assert!(!format!("{held:?}").contains("97"), "{held:?}");
    assert!(transact!(&store, |tx| { tx.remove_factors(&shop(), "a").await }).unwrap());
    begin().await.unwrap();
}

async fn secrets_move_to_another_key(db: Database) {
    let store = with_totp(&db).await;
    let held = store.totp_under_other_keys("k2", None, 10).await.unwrap();
    assert_eq!((held.len(), held[0].user.as_str()), (1, "a"));
    assert_eq!(store.totp_under_other_keys("k2", held.last(), 10).await.unwrap(), [], "nothing after the last");
    let moving = async || transact!(&store, |tx| { tx.reencrypt_totp(&held[0], b"sealed anew", "k2").await }).unwrap();
    assert!(moving().await && !moving().await);
    assert_eq!(store.totp_under_other_keys("k2", None, 10).await.unwrap(), []);
}

async fn of_many_uses_of_one_backup_code_one_succeeds(db: Database) {
    let store = with_totp(&db).await;
    let replace =
        async |codes: &[SecretHash]| transact!(&store, |tx| { tx.replace_backup_codes(&shop(), "a", codes).await });
    replace(&[secret(9)]).await.unwrap();
    replace(&[secret(1), secret(2)]).await.unwrap();
    let take = async |n| transact!(&store, |tx| { tx.take_backup_code(&shop(), "a", &secret(n)).await }).unwrap();
    assert!(!take(9).await, "replaced");
    let won = winners(store.clone(), async |store| {
        transact!(&store, |tx| { tx.take_backup_code(&shop(), "a", &secret(1)).await })
    });
    assert_eq!(won.await, 1);
    assert_eq!(store.backup_codes_left(&shop(), "a").await.unwrap(), 1);
}

fn challenge(id: &str) -> Challenge {
    Challenge {
        policy: shop(),
        id: id.into(),
        user: "a".into(),
        created: NOW,
        expires: NOW.plus(300_000),
        attempts: 0,
        ip: Some("203.0.113.7".into()),
        user_agent: None,
        request: "{}".into(),
        completed: None,
        session: None,
    }
}

async fn with_challenge(db: &Database) -> Store {
    let store = db.open().await;
    insert(&store, &user("a")).await.unwrap();
    transact!(&store, |tx| { tx.insert_challenge(&challenge("c")).await }).unwrap();
    assert_eq!(store.challenge(&shop(), "c").await.unwrap(), Some(challenge("c")));
    store
}

async fn a_challenge_takes_so_many_attempts_and_is_completed_once(db: Database) {
    let store = with_challenge(&db).await;
    let count = async |now| transact!(&store, |tx| { tx.count_attempt(&shop(), "c", 5, now).await }).unwrap();
    assert_eq!(count(NOW.plus(300_000)).await, None, "it is over");
    let won = winners(store.clone(), async |store| {
        transact!(&store, |tx| { tx.count_attempt(&shop(), "c", 5, NOW).await }).map(|counted| counted.is_some())
    });
    assert_eq!(won.await, 5);
    let won = winners(store.clone(), async |store| {
        transact!(&store, |tx| { tx.complete_challenge(&shop(), "c", "s", &secret(1), NOW).await })
    });
    assert_eq!(won.await, 1);
    let held = store.challenge(&shop(), "c").await.unwrap().unwrap();
    assert_eq!((held.attempts, held.completed, held.session.as_deref()), (5, Some(NOW), Some("s")));
    assert_eq!(count(NOW).await, None);
}

async fn a_login_that_comes_again_with_its_code_gets_its_session_once(db: Database) {
    let store = with_challenge(&db).await;
    transact!(&store, |tx| { tx.insert_challenge(&challenge("d")).await }).unwrap();
    let code = secret(1);
    let fitting = Retry { user: "a", code: &code, ip: Some("203.0.113.7"), user_agent: None };
    let take = async |retry: &Retry<'_>, now| transact!(&store, |tx| { tx.take_retry(&shop(), retry, now).await }).unwrap();
    assert_eq!(take(&fitting, NOW).await, None, "nothing was completed");
    for (challenge, session, code) in [("c", "s1", secret(1)), ("d", "s2", secret(2))] {
        let completed = transact!(&store, |tx| { tx.complete_challenge(&shop(), challenge, session, &code, NOW).await });
        assert!(completed.unwrap());
    }
    let other = secret(3);
    for (why, retry, now) in [
        ("another address", Retry { ip: Some("203.0.113.8"), ..fitting }, NOW),
        ("no address", Retry { ip: None, ..fitting }, NOW),
        ("another agent", Retry { user_agent: Some("x"), ..fitting }, NOW),
        ("another code", Retry { code: &other, ..fitting }, NOW),
        ("another person", Retry { user: "b", ..fitting }, NOW),
        ("too late", fitting, NOW.plus(300_000)),
    ] {
        assert!(!store.is_retry(&shop(), &retry, now).await.unwrap(), "{why}");
        assert_eq!(take(&retry, now).await, None, "{why}");
    }
    let open = async |session| store.retry_is_open(&shop(), session).await.unwrap();
    assert!(open("s1").await && open("s2").await && !open("s3").await);
    assert!(store.is_retry(&shop(), &fitting, NOW).await.unwrap());
    assert_eq!(take(&fitting, NOW).await.as_deref(), Some("s1"));
    assert!(!store.is_retry(&shop(), &fitting, NOW).await.unwrap());
    assert_eq!(take(&fitting, NOW).await, None, "once");
    transact!(&store, |tx| { tx.close_retry(&shop(), "s2", NOW).await }).unwrap();
    assert!(!open("s1").await && !open("s2").await);
    let code = secret(2);
    assert_eq!(take(&Retry { code: &code, ..fitting }, NOW).await, None, "the session was used");
}

async fn open_challenges_are_those_that_a_code_could_complete(db: Database) {
    let store = with_challenge(&db).await;
    transact!(&store, |tx| {
        tx.insert_challenge(&Challenge { id: "later".into(), created: NOW.plus(1), ..challenge("c") }).await?;
        tx.insert_challenge(&Challenge { id: "over".into(), expires: NOW, ..challenge("c") }).await
    })
    .unwrap();
    let open = async |at_most| {
        let open = transact!(&store, |tx| { tx.open_challenges(&shop(), "a", at_most, NOW).await }).unwrap();
        open.into_iter().map(|challenge| challenge.id).collect::<Vec<_>>()
    };
    assert_eq!(open(1).await, ["later", "c"]);
    transact!(&store, |tx| { tx.count_attempt(&shop(), "c", 5, NOW).await }).unwrap();
    assert_eq!((open(1).await, open(2).await.len()), (vec!["later".to_owned()], 2), "one has had its attempts");
    transact!(&store, |tx| { tx.complete_challenge(&shop(), "later", "s", &secret(1), NOW).await }).unwrap();
    assert_eq!(open(5).await, ["c"]);
}

async fn a_sent_code_works_once_and_only_the_last_one_of_its_channel(db: Database) {
    let store = with_challenge(&db).await;
    for (channel, code) in [("email", 1), ("email", 2), ("sms", 3)] {
        let put = transact!(&store, |tx| { tx.put_sent_code(&shop(), "c", channel, &secret(code), NOW.plus(10)).await });
        put.unwrap();
    }
    let take = async |n, now| transact!(&store, |tx| { tx.take_sent_code(&shop(), "c", &secret(n), now).await }).unwrap();
    assert_eq!(take(1, NOW).await, None);
    assert_eq!(take(3, NOW.plus(10)).await, None, "too late");
    assert_eq!(take(2, NOW).await.as_deref(), Some("email"));
    assert_eq!(take(2, NOW).await, None);
}

async fn of_many_uses_of_one_token_one_succeeds(db: Database) {
    let store = db.open().await;
    insert(&store, &user("a")).await.unwrap();
    let (policy, expires) = (shop(), NOW.plus(1000));
    for n in 1..=3 {
        let new = NewOneTimeToken {
            policy: &policy,
            hash: secret(n),
            purpose: "reset",
            user: "a",
            content: "c",
            created: NOW,
            expires,
        };
        transact!(&store, |tx| { tx.insert_one_time_token(&new).await }).unwrap();
    }
    let take = async |purpose, n, now| {
        transact!(&store, |tx| { tx.take_one_time_token(&shop(), purpose, &secret(n), now).await }).unwrap()
    };
    assert_eq!(take("verify", 1, NOW).await, None, "for another purpose");
    assert_eq!(take("reset", 1, expires).await, None, "too late");
    let look = async |purpose, now| store.one_time_token(&shop(), purpose, &secret(1), now).await.unwrap();
    assert_eq!(look("verify", NOW).await, None);
    assert_eq!(look("reset", expires).await, None);
    assert!(look("reset", NOW).await.is_some() && look("reset", NOW).await.is_some(), "looking takes nothing");
    assert_eq!(take("reset", 1, NOW).await, Some(TakenToken { user: "a".into(), content: "c".into() }));
    let won = winners(store.clone(), async |store| {
        transact!(&store, |tx| { tx.take_one_time_token(&shop(), "reset", &secret(2), NOW).await }).map(|t| t.is_some())
    });
    assert_eq!(won.await, 1);
    assert_eq!(transact!(&store, |tx| { tx.withdraw_one_time_tokens(&shop(), "a", "reset").await }).unwrap(), 1);
    assert_eq!(take("reset", 3, NOW).await, None);
    for (n, content) in [(5, "present"), (6, "other"), (7, "third")] {
        let new = NewOneTimeToken {
            policy: &policy,
            hash: secret(n),
            purpose: "verify",
            user: "a",
            content,
            created: NOW,
            expires,
        };
        transact!(&store, |tx| { tx.insert_one_time_token(&new).await }).unwrap();
    }
    let others =
        transact!(&store, |tx| { tx.withdraw_other_one_time_tokens(&shop(), "a", "verify", "present").await }).unwrap();
    assert_eq!((others, take("verify", 6, NOW).await), (2, None));
    assert!(take("verify", 5, NOW).await.is_some(), "the one that is named stays");
    let of_nobody = NewOneTimeToken {
        policy: &policy,
        hash: secret(4),
        purpose: "reset",
        user: "",
        content: "c",
        created: NOW,
        expires,
    };
    transact!(&store, |tx| { tx.insert_one_time_token(&of_nobody).await }).unwrap();
    assert_eq!(take("reset", 4, NOW).await, None, "nobody's is none");
}

async fn an_account_knows_its_last_ten_devices(db: Database) {
    let store = db.open().await;
    insert(&store, &user("a")).await.unwrap();
    insert(&store, &user("b")).await.unwrap();
    let remember = async |n: u8, owner: &str, at: i64| {
        let used = NOW.plus(at);
        let device =
            Device { user: owner.into(), secret: secret(n), label: Some("laptop".into()), created: used, last_used: used };
        transact!(&store, |tx| { tx.remember_device(&shop(), &device, 10).await }).unwrap()
    };
    for n in 0..10 {
        assert!(remember(n, "a", i64::from(n)).await);
    }
    let used = async |owner: &str| {
        transact!(&store, |tx| { tx.device_used(&shop(), owner, &secret(0), NOW.plus(100)).await }).unwrap()
    };
    assert!(used("a").await);
    assert!(!used("b").await, "it is another's");
    assert!(!remember(0, "b", 100).await, "it is another's");
    assert!(!remember(0, "a", 100).await, "it is known");
    assert!(remember(10, "a", 101).await);
    assert_eq!(store.device(&shop(), &secret(1)).await.unwrap(), None, "used least recently");
    let known = store.device(&shop(), &secret(0)).await.unwrap().unwrap();
    assert_eq!((known.user.as_str(), known.created, known.last_used), ("a", NOW, NOW.plus(100)));
    assert_eq!(store.devices(&shop(), "a").await.unwrap().len(), 10);
    assert!(remember(20, "b", 101).await);
    let forget = async |but: Option<u8>| {
        let but = but.map(secret);
        transact!(&store, |tx| { tx.forget_devices(&shop(), "a", but.as_ref()).await }).unwrap()
    };
    assert_eq!(forget(Some(0)).await, 9);
    let left: Vec<_> = store.devices(&shop(), "a").await.unwrap().into_iter().map(|device| device.secret).collect();
    assert_eq!(left, [secret(0)], "all but the one that is named");
    assert_eq!(forget(None).await, 1);
    assert_eq!(store.devices(&shop(), "b").await.unwrap().len(), 1, "another's stays");
}

async fn api_keys_are_found_by_id_hash_and_owner(db: Database) {
    let store = db.open().await;
    let key = |id: &str, owner: &str, hash| ApiKey {
        policy: shop(),
        id: id.into(),
        owner: owner.into(),
        name: "deploy".into(),
        hint: "csk_…f00d".into(),
        hash,
        scopes: vec!["orders:read".into()],
        roles: vec![],
        created: NOW,
        expires: NOW.plus(1000),
        last_used: None,
        revoked: None,
    };
    let keys = [key("k1", "a", None), key("k2", "b", Some(secret(1))), key("k3", "a", None)];
    for key in &keys {
        transact!(&store, |tx| { tx.insert_api_key(key).await }).unwrap();
    }
    for taken in [key("k1", "c", None), key("k4", "c", Some(secret(1)))] {
        let result = transact!(&store, |tx| { tx.insert_api_key(&taken).await });
        assert!(matches!(result, Err(StoreError::Taken("the API key"))), "{result:?}");
    }
    assert_eq!(store.api_key(&shop(), "k1").await.unwrap().as_ref(), Some(&keys[0]));
    assert_eq!(store.api_key_by_hash(&shop(), &secret(1)).await.unwrap().as_ref(), Some(&keys[1]));
    assert_eq!(store.api_keys(&shop(), Some("a"), None, 10).await.unwrap(), [keys[0].clone(), keys[2].clone()]);
    assert_eq!(store.api_keys(&shop(), None, Some("k1"), 1).await.unwrap(), [keys[1].clone()]);
    let used = async |at| transact!(&store, |tx| { tx.api_key_used(&shop(), "k1", at).await }).unwrap();
    assert!(used(NOW).await && !used(NOW.plus(59_999)).await && used(NOW.plus(60_000)).await);
    let revoke = async || transact!(&store, |tx| { tx.mark_api_key_revoked(&shop(), "k1", NOW).await }).unwrap();
    assert!(revoke().await && !revoke().await);
    assert_eq!(store.api_key(&shop(), "k1").await.unwrap().unwrap().revoked, Some(NOW));
}
