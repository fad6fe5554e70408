//! What logins are decided on.

use countersign_core::time::UnixMillis;
use countersign_store::{
    AddressBlock, AtDoor, AuditEvent, AuditFilter, Candidate, Counting, Device, FoundAtDoor, LockoutKey, LoginName,
    PasswordHash, SecretHash, Severity, Store, transact,
};

use crate::{
    accounts::{insert, user},
    rig::{Database, NOW, shop},
};

conformance! {
    whoever_is_at_the_door_is_found_by_one_question,
    failures_are_counted_on_the_device_that_is_known_else_on_the_account_else_on_the_name,
    a_block_around_the_address_is_found_with_who_is_at_the_door,
    a_candidate_is_read_under_its_lock_with_what_it_is_held_to,
    events_that_are_written_together_keep_their_order,
    the_clock_of_a_transaction_is_that_of_its_last_lock,
    what_is_asked_is_counted,
}

const COUNTING: Counting = Counting { window_ms: 900_000, expires: NOW.plus(86_400_000) };

fn known() -> SecretHash {
    SecretHash::of(b"known")
}

fn unknown() -> SecretHash {
    SecretHash::of(b"unknown")
}

/// Two accounts, a password for one and a device that it knows.
async fn people(store: &Store) {
    for id in ["a", "b"] {
        insert(store, &user(id)).await.unwrap();
    }
    transact!(store, |tx| {
        tx.set_password(&shop(), "a", &PasswordHash::new("hash".into()), None, 0, NOW).await?;
        let device = Device { user: "a".into(), secret: known(), label: None, created: NOW, last_used: NOW };
        tx.remember_device(&shop(), &device, 10).await
    })
    .unwrap();
}

async fn at_door(store: &Store, name: LoginName<'_>, device: Option<&SecretHash>) -> FoundAtDoor {
    let policy = shop();
    let (unknown, networks) = (unknown(), ["0.0.0.0/0".to_owned(), "203.0.113.7/32".to_owned()]);
    store.at_door(&AtDoor { policy: &policy, name, device, unknown: &unknown, networks: &networks }).await.unwrap()
}

async fn whoever_is_at_the_door_is_found_by_one_question(db: Database) {
    let store = db.open().await;
    people(&store).await;
    let now = store.database_now().await.unwrap();
    for name in [LoginName::Name("name-a"), LoginName::Email("a@shop.example")] {
        let found = at_door(&store, name, Some(&known())).await;
        assert_eq!(found.candidate.user, store.user(&shop(), "a").await.unwrap());
        assert_eq!(found.candidate.password, store.password(&shop(), "a").await.unwrap());
        assert!(found.candidate.knows_device && !found.candidate.second_factor);
        assert_eq!((found.candidate.counter, found.blocked_until, found.tries_since), (None, None, None));
        assert!(found.now >= now, "{found:?}");
    }
    let without_password = at_door(&store, LoginName::Name("name-b"), Some(&known())).await.candidate;
    assert_eq!(without_password.user.map(|user| user.id).as_deref(), Some("b"));
    assert!(without_password.password.is_none() && !without_password.knows_device, "it is another's");
    for nobody in [LoginName::Name("a@shop.example"), LoginName::Email("name-a"), LoginName::Name(""), LoginName::Email("")]
    {
        assert_eq!(at_door(&store, nobody, Some(&known())).await.candidate, Candidate::default(), "{nobody:?}");
    }
    let since = UnixMillis(NOW.0 + 5);
    transact!(&store, |tx| { tx.forget_tries(&shop(), "a", NOW.plus(9), since).await }).unwrap();
    assert_eq!(at_door(&store, LoginName::Name("name-a"), None).await.tries_since, Some(since));
    transact!(&store, |tx| {
        tx.begin_totp(&shop(), "a", b"secret", "key", NOW).await?;
        tx.confirm_totp(&shop(), "a", b"secret", 1, NOW).await
    })
    .unwrap();
    assert!(at_door(&store, LoginName::Name("name-a"), None).await.candidate.second_factor);
}

async fn failures_are_counted_on_the_device_that_is_known_else_on_the_account_else_on_the_name(db: Database) {
    let store = db.open().await;
    people(&store).await;
    let (known, unknown, strange) = (known(), unknown(), SecretHash::of(b"strange"));
    for (failures, key) in
        [(1, LockoutKey::UnknownName(&unknown)), (2, LockoutKey::Account("a")), (3, LockoutKey::Device(&known))]
    {
        for _ in 0..failures {
            transact!(&store, |tx| { tx.count_failure(&shop(), key, COUNTING, NOW).await }).unwrap();
        }
    }
    for (name, device, failures) in [
        ("nobody", None, Some(1)),
        ("nobody", Some(&known), Some(1)),
        ("name-a", None, Some(2)),
        ("name-a", Some(&strange), Some(2)),
        ("name-a", Some(&known), Some(3)),
        ("name-b", Some(&known), None),
    ] {
        let counter = at_door(&store, LoginName::Name(name), device).await.candidate.counter;
        assert_eq!(counter.map(|counter| counter.failures), failures, "{name} {device:?}");
    }
}

async fn a_block_around_the_address_is_found_with_who_is_at_the_door(db: Database) {
    let store = db.open().await;
    for (network, expires) in [("0.0.0.0/0", 7), ("203.0.113.7/32", 9), ("198.51.100.7/32", 11)] {
        let block = AddressBlock {
            policy: shop(),
            network: network.into(),
            reason: String::new(),
            source: String::new(),
            created: NOW,
            expires: NOW.plus(expires),
        };
        transact!(&store, |tx| { tx.block(&block).await }).unwrap();
    }
    let found = at_door(&store, LoginName::Name("nobody"), None).await;
    assert_eq!(found.blocked_until, Some(NOW.plus(9)), "the one that lasts longest");
}

async fn a_candidate_is_read_under_its_lock_with_what_it_is_held_to(db: Database) {
    let store = db.open().await;
    people(&store).await;
    let found = at_door(&store, LoginName::Name("name-a"), Some(&known())).await.candidate;
    let read = async |id: &str| {
        transact!(&store, |tx| {
            tx.lock_subject(&shop(), id).await?;
            tx.candidate(&shop(), id, LockoutKey::Account(id), Some(&known())).await
        })
        .unwrap()
    };
    assert_eq!(read("a").await, found);
    assert_eq!(read("nobody").await, Candidate::default());
    transact!(&store, |tx| {
        tx.count_failure(&shop(), LockoutKey::Account("a"), COUNTING, NOW).await?;
        tx.logged_in(&shop(), "a", NOW.plus(3)).await
    })
    .unwrap();
    let later = read("a").await;
    assert_eq!(later.counter.map(|counter| counter.failures), Some(1));
    assert_eq!(later.user.unwrap().last_login, Some(NOW.plus(3)));
}

async fn events_that_are_written_together_keep_their_order(db: Database) {
    let store = db.open().await;
    let event = |n: i64| AuditEvent {
        policy: shop(),
        time: NOW,
        kind: format!("KIND_{n}"),
        severity: Severity::Warning,
        subject: (n % 2 == 0).then(|| "a".to_owned()),
        session: None,
        ip: Some("203.0.113.7".into()),
        user_agent: None,
        request: None,
        details: "{}".into(),
    };
    let written: Vec<_> = (0..50).map(event).collect();
    transact!(&store, |tx| {
        tx.append_audits(&[]).await?;
        tx.append_audits(&written).await
    })
    .unwrap();
    let kept = store.audit(&shop(), &AuditFilter { limit: 100, ..AuditFilter::default() }).await.unwrap();
    assert_eq!(kept.into_iter().rev().map(|kept| kept.event).collect::<Vec<_>>(), written);
}

async fn the_clock_of_a_transaction_is_that_of_its_last_lock(db: Database) {
    let store = db.open().await;
    let before = store.database_now().await.unwrap();
    let (first, second) = transact!(&store, |tx| {
        tx.lock_subject(&shop(), "a").await?;
        let first = tx.database_now().await?;
        tx.lock_subject(&shop(), "b").await?;
        Ok((first, tx.database_now().await?))
    })
    .unwrap();
    let after = store.database_now().await.unwrap();
    assert!(before <= first && first <= second && second <= after, "{before:?} {first:?} {second:?} {after:?}");
}

async fn what_is_asked_is_counted(db: Database) {
    let store = db.open().await;
    let before = store.statements();
    assert_eq!(store.user(&shop(), "a").await.unwrap(), None);
    assert_eq!(store.statements() - before, 1);
    let clocks = transact!(&store, |tx| {
        tx.lock_subject(&shop(), "a").await?;
        tx.lock_subject(&shop(), "a").await?;
        tx.user(&shop(), "a").await?;
        tx.database_now().await?;
        tx.database_now().await
    });
    clocks.unwrap();
    // It begins and ends; on a server it takes a lock, which tells the time.
    let lock = u64::from(matches!(db, Database::Server(..)));
    assert_eq!(store.statements() - before, 1 + 3 + lock);
}
