//! Whose people are kept under a policy's name, and their end.

use countersign_core::time::UnixMillis;
use countersign_store::{Claim, DuePeople, Erasure, Store, Tenure, UserFilter, transact};

use crate::{
    accounts::user,
    rig::{Database, shop},
};

conformance! {
    people_are_erased_in_steps_once_their_time_is_over_and_others_are_kept,
    whoever_takes_a_name_over_has_its_people_and_another_has_none_of_them,
    a_tombstone_of_before_changes_nothing,
    erasing_that_has_begun_goes_on_after_a_kill_and_nobody_takes_over_what_is_left,
    two_that_erase_at_once_erase_each_row_once,
}

/// Erases whatever is due, in steps. How many rows went.
pub(crate) async fn erase_all(store: &Store, policy: &countersign_core::names::PolicyName, batch: u32) -> u64 {
    let tenure = Tenure { policy, uid: "u1", origin: None, generation: 1 };
    store.withdraw_people(&tenure, UnixMillis(1)).await.unwrap();
    let mut erased = 0;
    loop {
        match store.erase_people(policy, batch).await.unwrap() {
            Erasure::Rows(rows) => erased += rows,
            Erasure::Done => return erased,
            Erasure::NotDue => panic!("it is due"),
        }
    }
}

async fn with_people(db: &Database) -> Store {
    let store = db.open().await;
    for id in ["a", "b", "c"] {
        transact!(&store, |tx| { tx.insert_user(&user(id)).await }).unwrap();
    }
    store
}

async fn left(store: &Store) -> usize {
    store.users(&shop(), &UserFilter { limit: 100, ..UserFilter::default() }).await.unwrap().len()
}

async fn soon(store: &Store) -> UnixMillis {
    store.database_now().await.unwrap().plus(3_600_000)
}

const PAST: UnixMillis = UnixMillis(1);

async fn people_are_erased_in_steps_once_their_time_is_over_and_others_are_kept(db: Database) {
    let store = with_people(&db).await;
    let policy = shop();
    let tenure = Tenure { policy: &policy, uid: "u1", origin: Some("u1"), generation: 5 };
    assert_eq!(store.erase_people(&policy, 9).await.unwrap(), Erasure::Done, "nobody said that it is gone");
    assert_eq!(store.claim_people(&tenure, false).await.unwrap(), Claim::Own);
    assert_eq!(store.erase_people(&policy, 9).await.unwrap(), Erasure::NotDue, "it is in force");
    assert!(store.withdraw_people(&Tenure { generation: 6, ..tenure }, soon(&store).await).await.unwrap());
    assert_eq!(store.due_people().await.unwrap(), []);
    assert_eq!(store.erase_people(&policy, 9).await.unwrap(), Erasure::NotDue, "by the database's clock");
    assert_eq!(left(&store).await, 3);

    assert!(store.withdraw_people(&Tenure { generation: 7, ..tenure }, PAST).await.unwrap());
    assert_eq!(store.due_people().await.unwrap(), [DuePeople { policy: shop(), begun: false }]);
    assert!(matches!(store.erase_people(&policy, 2).await.unwrap(), Erasure::Rows(2)), "a step is a bound");
    assert_eq!(left(&store).await, 1);
    assert_eq!(store.due_people().await.unwrap(), [DuePeople { policy: shop(), begun: true }]);
    assert!(matches!(store.erase_people(&policy, 2).await.unwrap(), Erasure::Rows(1)));
    assert_eq!(store.erase_people(&policy, 2).await.unwrap(), Erasure::Done);
    assert_eq!(store.due_people().await.unwrap(), []);
}

async fn whoever_takes_a_name_over_has_its_people_and_another_has_none_of_them(db: Database) {
    let store = with_people(&db).await;
    let policy = shop();
    let first = Tenure { policy: &policy, uid: "u1", origin: Some("u1"), generation: 5 };
    let heir = Tenure { uid: "u2", generation: 9, ..first };
    let another = Tenure { uid: "u3", origin: Some("u3"), generation: 9, ..first };
    let of_an_earlier_release = Tenure { uid: "u4", origin: None, generation: 9, ..first };
    let until = soon(&store).await;
    for (comes, vouched, expected, why) in [
        (first, false, Claim::Own, "it is back, from a backup"),
        (Tenure { generation: 1, ..first }, false, Claim::Own, "with an older bundle"),
        (heir, false, Claim::Own, "it took over the keys"),
        (Tenure { origin: Some("lost"), ..first }, false, Claim::Own, "the same object, whose ring was lost"),
        (of_an_earlier_release, false, Claim::Own, "nobody knows of another"),
        (another, false, Claim::Anothers { until: Some(until) }, "it took over nothing"),
        (another, true, Claim::Own, "an administrator says so"),
    ] {
        // As after `first` alone.
        erase_nothing_but_the_row(&db).await;
        store.claim_people(&first, false).await.unwrap();
        store.withdraw_people(&first, until).await.unwrap();
        assert_eq!(store.claim_people(&comes, vouched).await.unwrap(), expected, "{why}");
        let kept = store.erase_people(&policy, 9).await.unwrap();
        assert_eq!((kept, left(&store).await), (Erasure::NotDue, 3), "{why}");
    }

    // Nobody saw the first one go.
    erase_nothing_but_the_row(&db).await;
    store.claim_people(&first, false).await.unwrap();
    assert_eq!(store.claim_people(&another, false).await.unwrap(), Claim::Anothers { until: None });
    assert!(store.withdraw_people(&another, PAST).await.unwrap());
    assert_eq!(store.due_people().await.unwrap(), [], "its end is not theirs");

    // Once the time of the first is over, nothing is left for another; but one that took over the keys has come in time.
    store.withdraw_people(&Tenure { generation: 10, ..first }, PAST).await.unwrap();
    assert_eq!(store.claim_people(&heir, false).await.unwrap(), Claim::Own);
    store.withdraw_people(&Tenure { generation: 11, ..heir }, PAST).await.unwrap();
    for vouched in [false, true] {
        assert_eq!(store.claim_people(&another, vouched).await.unwrap(), Claim::Erasing);
    }
    assert!(matches!(store.erase_people(&policy, 9).await.unwrap(), Erasure::Rows(_)));
    assert_eq!(store.erase_people(&policy, 9).await.unwrap(), Erasure::Done);
    assert_eq!(store.claim_people(&another, false).await.unwrap(), Claim::Own);
}

async fn erase_nothing_but_the_row(db: &Database) {
    sqlx::query("DELETE FROM tenures").execute(&db.raw().await).await.unwrap();
}

async fn a_tombstone_of_before_changes_nothing(db: Database) {
    let store = with_people(&db).await;
    let policy = shop();
    let first = Tenure { policy: &policy, uid: "u1", origin: Some("u1"), generation: 5 };
    assert!(store.withdraw_people(&first, soon(&store).await).await.unwrap());
    let heir = Tenure { uid: "u2", generation: 9, ..first };
    assert_eq!(store.claim_people(&heir, false).await.unwrap(), Claim::Own);
    let again = db.open().await;
    for store in [&store, &again] {
        assert!(!store.withdraw_people(&first, PAST).await.unwrap());
        assert_eq!(store.due_people().await.unwrap(), []);
    }
    assert!(store.withdraw_people(&Tenure { generation: 9, ..heir }, PAST).await.unwrap(), "its own is heeded");
}

async fn erasing_that_has_begun_goes_on_after_a_kill_and_nobody_takes_over_what_is_left(db: Database) {
    let store = with_people(&db).await;
    let policy = shop();
    let first = Tenure { policy: &policy, uid: "u1", origin: Some("u1"), generation: 5 };
    store.withdraw_people(&first, PAST).await.unwrap();
    assert!(matches!(store.erase_people(&policy, 1).await.unwrap(), Erasure::Rows(1)));
    drop(store);
    let store = db.open().await;
    for comes in [first, Tenure { uid: "u2", generation: 9, ..first }] {
        assert_eq!(store.claim_people(&comes, true).await.unwrap(), Claim::Erasing);
    }
    assert!(store.withdraw_people(&Tenure { generation: 10, ..first }, soon(&store).await).await.unwrap());
    assert!(matches!(store.erase_people(&policy, 9).await.unwrap(), Erasure::Rows(2)), "there is no way back");
    assert_eq!(store.erase_people(&policy, 9).await.unwrap(), Erasure::Done);
    assert_eq!(left(&store).await, 0);
}

async fn two_that_erase_at_once_erase_each_row_once(db: Database) {
    let one = with_people(&db).await;
    let two = if matches!(db, Database::File(_)) { one.clone() } else { db.open().await };
    let policy = shop();
    one.withdraw_people(&Tenure { policy: &policy, uid: "u1", origin: None, generation: 5 }, PAST).await.unwrap();
    let erase = async |store: Store| {
        let mut erased = 0;
        while let Erasure::Rows(rows) = store.erase_people(&shop(), 1).await.unwrap() {
            erased += rows;
        }
        erased
    };
    let (by_one, by_two) = tokio::join!(erase(one.clone()), erase(two));
    assert_eq!((by_one + by_two, left(&one).await), (3, 0));
}
