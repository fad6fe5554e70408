//! Lockout counters, rate windows, address blocks.

use std::sync::Arc;

use countersign_store::{
    AddressBlock, Counting, Device, Lockout, LockoutKey, MAX_BLOCKS, RateWindow, SecretHash, StoreError, transact,
};
use sqlx::AssertSqlSafe;

use crate::{
    accounts::{insert, user},
    rig::{Database, NOW, shop},
};

conformance! {
    accounts_standings_are_told_together,
    of_many_failures_at_once_each_is_counted_and_one_locks,
    failures_outside_the_window_are_forgotten,
    a_counter_saturates_and_never_wraps,
    counters_of_unknown_names_are_bounded_in_number_and_the_eldest_go,
    a_cleared_counter_begins_anew,
    a_reset_clears_the_account_and_its_devices_and_no_others,
    hits_are_counted_in_windows_that_begin_with_the_first,
    blocks_are_found_listed_lifted_and_bounded,
}

const COUNTING: Counting = Counting { window_ms: 900_000, expires: NOW.plus(86_400_000) };
const ALICE: LockoutKey<'static> = LockoutKey::Account("a");

async fn of_many_failures_at_once_each_is_counted_and_one_locks(db: Database) {
    let store = Arc::new(db.open().await);
    let guesses: Vec<_> = (0..200)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                transact!(&store, |tx| {
                    let counted = tx.count_failure(&shop(), ALICE, COUNTING, NOW).await?;
                    if counted.failures < 5 {
                        return Ok(false);
                    }
                    tx.lock_out(&shop(), ALICE, NOW.plus(1_800_000), COUNTING.expires, NOW).await
                })
            })
        })
        .collect();
    let mut locked = 0;
    for guess in guesses {
        locked += usize::from(guess.await.unwrap().unwrap());
    }
    assert_eq!(locked, 1);
    // The five that locked, and the 195 after them.
    let held = Lockout { failures: 195, locks: 1, locked_until: Some(NOW.plus(1_800_000)) };
    assert_eq!(store.lockout(&shop(), ALICE).await.unwrap(), held);
    store.close().await;
    let store = db.open().await;
    assert_eq!(store.lockout(&shop(), ALICE).await.unwrap(), held, "a restart forgets nothing");
    assert_eq!(store.locked_accounts(&shop(), "", 10, NOW).await.unwrap(), ["a"]);
    assert_eq!(store.locked_accounts(&shop(), "", 10, NOW.plus(1_800_000)).await.unwrap(), Vec::<String>::new());
}

async fn accounts_standings_are_told_together(db: Database) {
    let store = db.open().await;
    let ids: Vec<String> = ["a", "b", "c"].map(str::to_owned).into();
    for id in &ids {
        insert(&store, &user(id)).await.unwrap();
    }
    let until = NOW.plus(1_800_000);
    transact!(&store, |tx| {
        tx.begin_totp(&shop(), "a", b"sealed", "k1", NOW).await?;
        tx.begin_totp(&shop(), "b", b"sealed", "k1", NOW).await?;
        tx.confirm_totp(&shop(), "b", b"sealed", 10, NOW).await?;
        tx.count_failure(&shop(), LockoutKey::Account("a"), COUNTING, NOW).await?;
        tx.count_failure(&shop(), LockoutKey::Account("c"), COUNTING, NOW).await?;
        tx.lock_out(&shop(), LockoutKey::Account("c"), until, COUNTING.expires, NOW).await
    })
    .unwrap();
    let held = store.standings(&shop(), &ids).await.unwrap();
    let told: Vec<_> =
        held.values().map(|one| (one.second_factor, one.lockout.failures, one.lockout.locked_until)).collect();
    assert_eq!(told, [(false, 1, None), (true, 0, None), (false, 0, Some(until))]);
    assert_eq!(store.standings(&shop(), &["b".to_owned(), "nobody".to_owned()]).await.unwrap().len(), 1);
}

async fn failures_outside_the_window_are_forgotten(db: Database) {
    let store = db.open().await;
    let fail = async |at| {
        transact!(&store, |tx| { tx.count_failure(&shop(), ALICE, COUNTING, NOW.plus(at)).await }).unwrap().failures
    };
    assert_eq!([fail(0).await, fail(899_999).await, fail(900_000).await, fail(900_001).await], [1, 2, 1, 2]);
}

async fn a_counter_saturates_and_never_wraps(db: Database) {
    let store = db.open().await;
    let fail = async || transact!(&store, |tx| { tx.count_failure(&shop(), ALICE, COUNTING, NOW).await }).unwrap();
    fail().await;
    let raw = db.raw().await;
    let sql = format!("UPDATE lockouts SET failures = {0}, locks = {0}", u32::MAX - 1);
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&raw).await.unwrap();
    assert_eq!([fail().await.failures, fail().await.failures], [u32::MAX; 2]);
    for until in [1, 2] {
        let lock = transact!(&store, |tx| {
            tx.lock_out(&shop(), ALICE, NOW.plus(until), COUNTING.expires, NOW.plus(until - 1)).await
        });
        assert!(lock.unwrap());
    }
    assert_eq!(store.lockout(&shop(), ALICE).await.unwrap().locks, u32::MAX);
}

async fn counters_of_unknown_names_are_bounded_in_number_and_the_eldest_go(db: Database) {
    let store = db.open().await;
    let fail = async |key: LockoutKey<'_>, at| {
        transact!(&store, |tx| { tx.count_failure(&shop(), key, COUNTING, NOW.plus(at)).await }).unwrap()
    };
    fail(ALICE, 0).await;
    for (name, at) in [("n1", 1), ("n2", 2), ("n3", 3), ("n1", 4), ("n4", 5)] {
        fail(LockoutKey::UnknownName(&SecretHash::of(name.as_bytes())), at).await;
    }
    assert_eq!(store.trim_unknown_names(&shop(), 4, 100).await.unwrap(), 0);
    assert_eq!(store.trim_unknown_names(&"shop/other".parse().unwrap(), 0, 100).await.unwrap(), 0, "each policy by itself");
    assert_eq!(store.trim_unknown_names(&shop(), 3, 100).await.unwrap(), 1);
    let mut held = Vec::new();
    for name in ["n1", "n2", "n3", "n4"] {
        held.push(
            store.lockout(&shop(), LockoutKey::UnknownName(&SecretHash::of(name.as_bytes()))).await.unwrap().failures,
        );
    }
    assert_eq!(held, [2, 0, 1, 1], "the one touched least recently went");
    assert_eq!(store.lockout(&shop(), ALICE).await.unwrap().failures, 1, "accounts' counters stay");
    assert_eq!(store.lockout(&shop(), LockoutKey::Device(&SecretHash::of(b"n1"))).await.unwrap(), Lockout::default());
}

async fn a_cleared_counter_begins_anew(db: Database) {
    let store = db.open().await;
    let clear = async || transact!(&store, |tx| { tx.clear_lockout(&shop(), ALICE, NOW).await }).unwrap();
    assert!(!clear().await);
    transact!(&store, |tx| {
        tx.count_failure(&shop(), ALICE, COUNTING, NOW).await?;
        tx.lock_out(&shop(), ALICE, NOW.plus(1), COUNTING.expires, NOW).await
    })
    .unwrap();
    assert!(clear().await);
    assert_eq!(store.lockout(&shop(), ALICE).await.unwrap(), Lockout::default());
}

async fn a_reset_clears_the_account_and_its_devices_and_no_others(db: Database) {
    let store = db.open().await;
    let (known, strange) = (SecretHash::of(b"known"), SecretHash::of(b"strange"));
    for (owner, secret) in [("a", known), ("b", strange)] {
        insert(&store, &user(owner)).await.unwrap();
        let device = Device { user: owner.into(), secret, label: None, created: NOW, last_used: NOW };
        transact!(&store, |tx| { tx.remember_device(&shop(), &device, 10).await }).unwrap();
    }
    let keys = [ALICE, LockoutKey::Device(&known), LockoutKey::Device(&strange), LockoutKey::Account("b")];
    for key in keys {
        transact!(&store, |tx| { tx.count_failure(&shop(), key, COUNTING, NOW).await }).unwrap();
    }
    assert!(!transact!(&store, |tx| { tx.clear_lockouts(&shop(), "a", NOW).await }).unwrap(), "it did not lock");
    let mut held = Vec::new();
    for key in keys {
        held.push(store.lockout(&shop(), key).await.unwrap().failures);
    }
    assert_eq!(held, [0, 0, 1, 1]);
}

async fn hits_are_counted_in_windows_that_begin_with_the_first(db: Database) {
    let store = Arc::new(db.open().await);
    let hits: Vec<_> = (0..20)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.count_hit(&shop(), "login:a", 1000, NOW).await.unwrap().hits })
        })
        .collect();
    let mut counted = Vec::new();
    for hit in hits {
        counted.push(hit.await.unwrap());
    }
    counted.sort_unstable();
    assert_eq!(counted, (1..=20).collect::<Vec<_>>(), "each hit is another one");
    let window = async |at| store.rate_window(&shop(), "login:a", NOW.plus(at)).await.unwrap();
    assert_eq!(window(999).await, Some(RateWindow { hits: 20, ends: NOW.plus(1000) }));
    assert_eq!(window(1000).await, None);
    let next = store.count_hit(&shop(), "login:a", 1000, NOW.plus(1000)).await.unwrap();
    assert_eq!(next, RateWindow { hits: 1, ends: NOW.plus(2000) });
    let again = store.count_hit(&shop(), "login:a", 1000, NOW.plus(1500)).await.unwrap();
    assert_eq!(again, RateWindow { hits: 2, ends: NOW.plus(2000) });
    store.take_back_hit(&shop(), "login:a").await.unwrap();
    assert_eq!(window(1500).await, Some(RateWindow { hits: 1, ends: NOW.plus(2000) }), "it ends when it would have");
    for _ in 0..2 {
        store.take_back_hit(&shop(), "login:a").await.unwrap();
        assert_eq!(window(1500).await, None, "nothing is counted below nothing");
    }
    store.count_hit(&shop(), "login:a", 1000, NOW.plus(1500)).await.unwrap();
    assert!(store.clear_rate_window(&shop(), "login:a").await.unwrap());
    assert!(!store.clear_rate_window(&shop(), "login:a").await.unwrap());
}

async fn blocks_are_found_listed_lifted_and_bounded(db: Database) {
    let store = db.open().await;
    let block = |network: &str, for_ms| AddressBlock {
        policy: shop(),
        network: network.into(),
        reason: "guessing".into(),
        source: "test".into(),
        created: NOW,
        expires: NOW.plus(for_ms),
    };
    let put = async |new: AddressBlock| transact!(&store, |tx| { tx.block(&new).await });
    put(block("203.0.113.7/32", 1000)).await.unwrap();
    put(block("203.0.113.7/32", 2000)).await.unwrap();
    put(block("2001:db8::/64", 10)).await.unwrap();
    let around = ["203.0.113.7/32".to_owned(), "203.0.113.0/24".to_owned()];
    let blocked = async |at| store.blocked(&shop(), &around, NOW.plus(at)).await.unwrap();
    assert_eq!(blocked(1999).await, Some(block("203.0.113.7/32", 2000)));
    assert_eq!(blocked(2000).await, None);
    assert_eq!(store.blocks(&shop(), "", 10, NOW.plus(10)).await.unwrap(), [block("203.0.113.7/32", 2000)]);
    assert_eq!(store.blocks(&shop(), "2001:db8::/64", 1, NOW).await.unwrap()[0].network, "203.0.113.7/32");
    let lift = async || transact!(&store, |tx| { tx.unblock(&shop(), "203.0.113.7/32", NOW).await }).unwrap();
    assert!(lift().await && !lift().await);
    let fill = format!(
        "INSERT INTO address_blocks (policy, network, reason, source, created, expires)
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {MAX_BLOCKS})
         SELECT 'shop/shop', CAST(i AS TEXT), '', '', 0, {} FROM n",
        NOW.0 + 500
    );
    sqlx::raw_sql(AssertSqlSafe(fill)).execute(&db.raw().await).await.unwrap();
    assert!(matches!(put(block("198.51.100.1/32", 1000)).await, Err(StoreError::Full("address blocks"))));
    let later = AddressBlock { created: NOW.plus(500), ..block("198.51.100.1/32", 1000) };
    put(later).await.unwrap();
}
