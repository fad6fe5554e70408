//! Accounts and their passwords.

use countersign_core::time::UnixMillis;
use countersign_store::{Folded, PasswordHash, Store, StoreError, User, UserFilter, UserStatus, transact};

use crate::{
    rig::{Database, NOW, shop},
    tenures::erase_all,
};

conformance! {
    an_account_is_found_by_id_name_and_address_and_only_under_its_policy,
    no_two_accounts_of_a_policy_have_one_name_or_address,
    accounts_are_read_page_by_page_by_status_and_by_import,
    what_fails_in_a_transaction_leaves_nothing_behind,
    a_password_is_changed_once_by_those_who_knew_the_old_one,
    an_erased_account_leaves_nothing_of_its_own,
    text_of_every_kind_is_kept_as_it_is,
    the_databases_clock_is_near_ours,
    text_with_a_nul_is_kept_or_refused_by_name,
    a_policys_people_are_erased_in_batches_and_no_others,
}

pub(crate) fn named(name: &str) -> Folded {
    Folded { written: name.to_owned(), folded: name.to_lowercase() }
}

pub(crate) fn user(id: &str) -> User {
    User {
        policy: shop(),
        id: id.into(),
        username: Some(named(&format!("Name-{id}"))),
        email: Some(named(&format!("{id}@Shop.example"))),
        pending_email: None,
        first_name: Some("Ada".into()),
        last_name: None,
        status: UserStatus::Active,
        status_reason: None,
        status_until: None,
        roles: vec!["user".into(), "admin".into()],
        email_verified: true,
        created: NOW,
        last_login: None,
        password_changed: None,
        import_batch: None,
    }
}

pub(crate) async fn insert(store: &Store, user: &User) -> Result<(), StoreError> {
    transact!(store, |tx| { tx.insert_user(user).await })
}

async fn an_account_is_found_by_id_name_and_address_and_only_under_its_policy(db: Database) {
    let store = db.open().await;
    let mut alice = user("a");
    insert(&store, &alice).await.unwrap();
    for found in [
        store.user(&shop(), "a").await,
        store.user_by_name(&shop(), "name-a").await,
        store.user_by_email(&shop(), "a@shop.example").await,
    ] {
        assert_eq!(found.unwrap().as_ref(), Some(&alice));
    }
    let other = "shop/other".parse().unwrap();
    assert_eq!(store.user(&other, "a").await.unwrap(), None);
    assert_eq!(store.user_by_email(&other, "a@shop.example").await.unwrap(), None);
    alice.status = UserStatus::Locked;
    alice.status_reason = Some("asked for".into());
    alice.status_until = Some(UnixMillis(5));
    alice.pending_email = Some(named("New@shop.example"));
    alice.last_login = Some(NOW);
    assert!(transact!(&store, |tx| { tx.save_user(&alice).await }).unwrap());
    assert_eq!(store.user(&shop(), "a").await.unwrap(), Some(alice));
    assert_eq!(store.user_by_email(&shop(), "new@shop.example").await.unwrap(), None, "not before its link was used");
    assert!(!transact!(&store, |tx| { tx.save_user(&user("nobody")).await }).unwrap());
}

async fn no_two_accounts_of_a_policy_have_one_name_or_address(db: Database) {
    let store = db.open().await;
    insert(&store, &user("a")).await.unwrap();
    let cases = [
        (User { email: Some(named("A@SHOP.example")), ..user("b") }, "the e-mail address"),
        (User { username: Some(named("NAME-A")), ..user("b") }, "the name"),
        (User { username: None, email: None, ..user("a") }, "the id"),
    ];
    for (taken, what) in cases {
        let result = insert(&store, &taken).await;
        assert!(matches!(result, Err(StoreError::Taken(said)) if said == what), "{what}: {result:?}");
    }
    // Those without either don't stand in each other's way, and another policy is another world.
    insert(&store, &User { username: None, email: None, ..user("c") }).await.unwrap();
    insert(&store, &User { username: None, email: None, ..user("d") }).await.unwrap();
    insert(&store, &User { policy: "shop/other".parse().unwrap(), ..user("a") }).await.unwrap();
}

async fn accounts_are_read_page_by_page_by_status_and_by_import(db: Database) {
    let store = db.open().await;
    for (n, id) in ["e", "b", "D", "a", "c"].into_iter().enumerate() {
        let status = if n % 2 == 0 { UserStatus::Disabled } else { UserStatus::Active };
        let import_batch = (n > 1).then(|| "first".to_owned());
        insert(&store, &User { status, import_batch, username: None, email: None, ..user(id) }).await.unwrap();
    }
    let pages = async |status| {
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let page = store.users(&shop(), &UserFilter { status, after, limit: 2 }).await.unwrap();
            let Some(last) = page.last() else { return ids };
            after = Some(last.id.clone());
            ids.extend(page.into_iter().map(|user| user.id));
        }
    };
    assert_eq!(pages(None).await, ["D", "a", "b", "c", "e"], "byte by byte");
    assert_eq!(pages(Some(UserStatus::Disabled)).await, ["D", "c", "e"]);
    assert_eq!(store.users_of_batch(&shop(), "first", "", 2).await.unwrap(), ["D", "a"]);
    assert_eq!(store.users_of_batch(&shop(), "first", "a", 2).await.unwrap(), ["c"]);
    let mut counts = store.user_counts(&shop()).await.unwrap();
    counts.sort_by_key(|(status, _)| status.word());
    assert_eq!(counts, [(UserStatus::Active, 2), (UserStatus::Disabled, 3)]);
}

async fn what_fails_in_a_transaction_leaves_nothing_behind(db: Database) {
    let store = db.open().await;
    let failed: Result<(), _> = transact!(&store, |tx| {
        tx.insert_user(&user("a")).await?;
        Err(StoreError::Conflict("a test"))
    });
    assert!(matches!(failed, Err(StoreError::Conflict("a test"))));
    assert_eq!(store.user(&shop(), "a").await.unwrap(), None);
    insert(&store, &user("a")).await.unwrap();
}

async fn a_password_is_changed_once_by_those_who_knew_the_old_one(db: Database) {
    let store = db.open().await;
    insert(&store, &user("a")).await.unwrap();
    let hash = |n: u32| PasswordHash::new(format!("$argon2id${n}"));
    let set = async |new: u32, old: Option<u32>| {
        let (new, old) = (hash(new), old.map(hash));
        transact!(&store, |tx| { tx.set_password(&shop(), "a", &new, old.as_ref(), 2, NOW).await })
    };
    assert_eq!(store.password(&shop(), "a").await.unwrap(), None);
    set(1, None).await.unwrap();
    let (one, two) = tokio::join!(set(2, Some(1)), set(3, Some(1)));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    assert!(matches!(one.and(two), Err(StoreError::Conflict("the password"))));
    set(4, None).await.unwrap();
    set(5, None).await.unwrap();
    assert_eq!(store.password(&shop(), "a").await.unwrap().unwrap().hash, hash(5));
    let old = store.old_passwords(&shop(), "a", 10).await.unwrap();
    assert_eq!((old.len(), &old[0]), (2, &hash(4)), "the latest two are remembered");
    assert_eq!(store.user(&shop(), "a").await.unwrap().unwrap().password_changed, Some(NOW));
    let rehash = async |from, to| {
        let (from, to) = (hash(from), hash(to));
        transact!(&store, |tx| { tx.rehash_password(&shop(), "a", &from, &to).await }).unwrap()
    };
    assert!(rehash(5, 6).await && !rehash(5, 7).await);
    assert_eq!(store.old_passwords(&shop(), "a", 10).await.unwrap(), old, "the same password is no earlier one");
    assert!(!format!("{:?}", store.password(&shop(), "a").await).contains("argon2"));
}

async fn an_erased_account_leaves_nothing_of_its_own(db: Database) {
    let store = db.open().await;
    insert(&store, &user("a")).await.unwrap();
    transact!(&store, |tx| {
        tx.set_password(&shop(), "a", &PasswordHash::new("x".into()), None, 5, NOW).await?;
        tx.set_password(&shop(), "a", &PasswordHash::new("y".into()), None, 5, NOW).await?;
        tx.begin_totp(&shop(), "a", b"secret", "k", NOW).await
    })
    .unwrap();
    let delete = async || transact!(&store, |tx| { tx.delete_user(&shop(), "a").await }).unwrap();
    assert!(delete().await && !delete().await);
    insert(&store, &user("a")).await.unwrap();
    assert_eq!(store.password(&shop(), "a").await.unwrap(), None);
    assert_eq!(store.old_passwords(&shop(), "a", 9).await.unwrap(), []);
    assert_eq!(store.totp(&shop(), "a").await.unwrap(), None);
}

async fn text_of_every_kind_is_kept_as_it_is(db: Database) {
    let store = db.open().await;
    for (n, text) in
        ["'; DROP TABLE users; --", "%_\\", "\u{202e}\u{1f980}ß", "", "$1 elements($1) ?1"].into_iter().enumerate()
    {
        let written =
            User { username: Some(named(text)), email: None, first_name: Some(text.into()), ..user(&n.to_string()) };
        insert(&store, &written).await.unwrap();
        assert_eq!(store.user_by_name(&shop(), &text.to_lowercase()).await.unwrap(), Some(written), "{text:?}");
    }
}

async fn the_databases_clock_is_near_ours(db: Database) {
    let store = db.open().await;
    let before = countersign_feed::Clock::wall();
    let inside = transact!(&store, |tx| { tx.database_now().await }).unwrap();
    let after = store.database_now().await.unwrap();
    assert!(before.0 - 1 <= inside.0 && inside <= after && after.0 <= countersign_feed::Clock::wall().0 + 1);
}

async fn text_with_a_nul_is_kept_or_refused_by_name(db: Database) {
    let store = db.open().await;
    let found = store.user_by_name(&shop(), "a\0").await;
    let inserted = insert(&store, &User { username: Some(named("a\0")), ..user("a") }).await;
    match db {
        Database::File(_) => assert!(found.unwrap().is_none() && inserted.is_ok()),
        Database::Server(..) => {
            assert!(matches!((&found, &inserted), (Err(StoreError::Nul), Err(StoreError::Nul))), "{found:?} {inserted:?}");
        }
    }
}

async fn a_policys_people_are_erased_in_batches_and_no_others(db: Database) {
    let store = db.open().await;
    let other = "shop/other".parse().unwrap();
    for id in ["a", "b", "c"] {
        insert(&store, &user(id)).await.unwrap();
        insert(&store, &User { policy: shop(), ..user(&format!("{id}2")) }).await.unwrap();
        insert(&store, &User { policy: "shop/other".parse().unwrap(), ..user(id) }).await.unwrap();
        transact!(&store, |tx| {
            tx.set_password(&shop(), id, &PasswordHash::new("x".into()), None, 1, NOW).await?;
            tx.set_password(&shop(), id, &PasswordHash::new("y".into()), None, 1, NOW).await?;
            tx.begin_totp(&shop(), id, b"secret", "k", NOW).await
        })
        .unwrap();
        store.count_hit(&shop(), id, 1000, NOW).await.unwrap();
    }
    assert!(erase_all(&store, &shop(), 2).await > 0);
    let everyone = UserFilter { limit: 100, ..UserFilter::default() };
    assert_eq!(store.users(&shop(), &everyone).await.unwrap(), []);
    assert_eq!(store.users(&other, &everyone).await.unwrap().len(), 3);
    assert_eq!(store.rate_window(&shop(), "a", NOW).await.unwrap(), None);
}
