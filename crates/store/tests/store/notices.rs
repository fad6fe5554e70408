//! What waits to be told, and the numbers that codes go to.

use std::sync::Arc;

use countersign_store::{NewNotice, Notice, NumberProof, SecretHash, Store, transact};

use crate::{
    accounts::{insert, user},
    rig::{Database, NOW, shop},
};

conformance! {
    a_notice_is_given_to_one_sender_and_again_when_that_one_is_gone,
    a_policy_that_has_enough_on_its_way_holds_up_no_other_s_notices,
    a_notice_stands_if_what_it_tells_of_does_and_goes_with_its_account,
    a_number_is_an_accounts_once_its_code_was_shown,
}

const LEASE_MS: i64 = 60_000;

async fn put(store: &Store, user: Option<&str>, content: &str, fails: bool) {
    let policy = shop();
    let notice = NewNotice { policy: &policy, user, kind: "locked", content, expires: NOW.plus(3_600_000) };
    let done = transact!(store, |tx| {
        tx.put_notice(&notice).await?;
        if fails { Err(countersign_store::StoreError::Conflict("a test")) } else { Ok(()) }
    });
    assert_eq!(done.is_err(), fails);
}

fn contents(taken: &[Notice]) -> Vec<&str> {
    taken.iter().map(|notice| notice.content.as_str()).collect()
}

async fn a_notice_is_given_to_one_sender_and_again_when_that_one_is_gone(db: Database) {
    let store = Arc::new(db.open().await);
    insert(&store, &user("a")).await.unwrap();
    for n in 0..20 {
        put(&store, Some("a"), &n.to_string(), false).await;
    }
    let senders: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move { store.take_notices(NOW, LEASE_MS, 3, &[]).await.unwrap() })
        })
        .collect();
    let mut taken = Vec::new();
    for sender in senders {
        taken.extend(sender.await.unwrap().into_iter().map(|notice| notice.id));
    }
    taken.extend(store.take_notices(NOW, LEASE_MS, 100, &[]).await.unwrap().into_iter().map(|notice| notice.id));
    let all = taken.len();
    taken.sort_unstable();
    taken.dedup();
    assert_eq!((all, taken.len()), (20, 20), "each was given to one");
    store.drop_notice(taken[0]).await.unwrap();
    assert_eq!(store.take_notices(NOW.plus(LEASE_MS - 1), LEASE_MS, 100, &[]).await.unwrap(), []);
    assert_eq!(
        store.take_notices(NOW.plus(LEASE_MS), LEASE_MS, 100, &[]).await.unwrap().len(),
        19,
        "but for the one that was sent"
    );
    assert_eq!(store.take_notices(NOW.plus(3_600_000), LEASE_MS, 100, &[]).await.unwrap(), [], "worth nothing any more");
}

async fn a_policy_that_has_enough_on_its_way_holds_up_no_other_s_notices(db: Database) {
    let store = db.open().await;
    for n in 0..20 {
        put(&store, None, &n.to_string(), false).await;
    }
    let other = "shop/other".parse().unwrap();
    let notice = NewNotice { policy: &other, user: None, kind: "locked", content: "other", expires: NOW.plus(1) };
    transact!(&store, |tx| { tx.put_notice(&notice).await }).unwrap();
    let taken = store.take_notices(NOW, LEASE_MS, 8, &[shop()]).await.unwrap();
    assert_eq!(contents(&taken), ["other"]);
    assert_eq!(store.take_notices(NOW, LEASE_MS, 8, &[shop(), other.clone()]).await.unwrap(), []);
    assert_eq!(
        store.take_notices(NOW, LEASE_MS, 8, std::slice::from_ref(&other)).await.unwrap().len(),
        8,
        "they wait all the same"
    );
}

async fn a_notice_stands_if_what_it_tells_of_does_and_goes_with_its_account(db: Database) {
    let store = db.open().await;
    insert(&store, &user("a")).await.unwrap();
    put(&store, Some("a"), "undone", true).await;
    put(&store, Some("a"), "done", false).await;
    put(&store, None, "nobody's", false).await;
    let taken = store.take_notices(NOW, 0, 100, &[]).await.unwrap();
    assert_eq!(contents(&taken), ["done", "nobody's"]);
    assert_eq!((taken[0].user.as_deref(), taken[1].user.as_deref()), (Some("a"), None));
    transact!(&store, |tx| { tx.delete_user(&shop(), "a").await }).unwrap();
    assert_eq!(contents(&store.take_notices(NOW, 0, 100, &[]).await.unwrap()), ["nobody's"]);
}

async fn a_number_is_an_accounts_once_its_code_was_shown(db: Database) {
    let store = db.open().await;
    insert(&store, &user("a")).await.unwrap();
    let (right, wrong) = (SecretHash::of(b"right"), SecretHash::of(b"wrong"));
    let begin = async |number: &str| {
        transact!(&store, |tx| { tx.begin_phone(&shop(), "a", number, &right, NOW.plus(1000)).await }).unwrap();
    };
    let prove = async |codes: &[SecretHash], after| {
        transact!(&store, |tx| { tx.prove_phone(&shop(), "a", codes, 3, NOW.plus(after)).await }).unwrap()
    };
    let held = async || store.phone(&shop(), "a").await.unwrap();
    assert_eq!(prove(&[right], 0).await, NumberProof::Nothing);
    begin("+4915112345678").await;
    assert_eq!((prove(&[wrong], 0).await, held().await), (NumberProof::Wrong(2), None));
    assert_eq!(prove(&[right], 1000).await, NumberProof::Nothing, "too late");
    assert_eq!(prove(&[wrong, right], 999).await, NumberProof::Confirmed("+4915112345678".into()));
    assert_eq!(prove(&[right], 999).await, NumberProof::Nothing, "a code is good once");
    begin("+4915100000000").await;
    assert_eq!(held().await.as_deref(), Some("+4915112345678"), "until the other one is shown to be its owner's");
    for left in [2, 1, 0] {
        assert_eq!(prove(&[wrong], 0).await, NumberProof::Wrong(left));
    }
    assert_eq!(prove(&[right], 0).await, NumberProof::Nothing, "it has had its attempts");
    assert!(transact!(&store, |tx| { tx.remove_phone(&shop(), "a").await }).unwrap());
    assert_eq!(held().await, None);
}
