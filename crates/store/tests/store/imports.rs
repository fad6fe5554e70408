//! Accounts that were brought from other schemas, and the tables that they are read from.

use countersign_core::time::UnixMillis;
use countersign_store::{
    ApiKey, Foreign, Import, Location, PasswordHash, Relation, SecretHash, Store, StoreError, User, transact,
};
use futures_util::TryStreamExt as _;

use crate::{
    accounts::user,
    foreign::PATIENCE,
    rig::{Database, NOW, shop},
    tenures::erase_all,
};

conformance! {
    an_import_is_begun_once_and_forgotten_when_nothing_of_it_is_left,
    a_row_is_brought_once_and_what_became_of_it_stays_known,
    the_state_of_an_account_changes_with_all_that_is_done_to_it_and_with_nothing_else,
    imported_api_keys_are_told_from_those_that_were_made_here,
    anothers_tables_are_read_as_texts_in_order_and_can_not_be_written_to,
}

const IMPORT: &str = "old-shop";

fn import() -> Import {
    Import { policy: shop(), name: IMPORT.into(), source: "old.db".into(), begun: NOW, finished: None }
}

async fn bring(store: &Store, key: &str, user: &User) -> Result<(), StoreError> {
    transact!(store, |tx| {
        tx.insert_user(user).await?;
        tx.record_imported_user(&shop(), IMPORT, key, &user.id).await
    })
}

async fn an_import_is_begun_once_and_forgotten_when_nothing_of_it_is_left(db: Database) {
    let store = db.open().await;
    assert!(transact!(&store, |tx| { tx.begin_import(&import()).await }).unwrap());
    let later = Import { begun: NOW.plus(1), source: "elsewhere".into(), ..import() };
    assert!(!transact!(&store, |tx| { tx.begin_import(&later).await }).unwrap());
    assert_eq!(store.import(&shop(), IMPORT).await.unwrap(), Some(import()));
    assert!(transact!(&store, |tx| { tx.finish_import(&shop(), IMPORT, NOW.plus(2)).await }).unwrap());
    assert_eq!(store.import(&shop(), IMPORT).await.unwrap().unwrap().finished, Some(NOW.plus(2)));

    bring(&store, "1", &user("a")).await.unwrap();
    assert!(!transact!(&store, |tx| { tx.forget_import(&shop(), IMPORT).await }).unwrap());
    assert!(transact!(&store, |tx| { tx.forget_imported_user(&shop(), IMPORT, "1").await }).unwrap());
    assert!(transact!(&store, |tx| { tx.forget_import(&shop(), IMPORT).await }).unwrap());
    assert_eq!(store.import(&shop(), IMPORT).await.unwrap(), None);
    assert!(!transact!(&store, |tx| { tx.finish_import(&shop(), IMPORT, NOW).await }).unwrap());
}

async fn a_row_is_brought_once_and_what_became_of_it_stays_known(db: Database) {
    let store = db.open().await;
    for (key, id) in [("1", "a"), ("10", "b"), ("2", "c")] {
        bring(&store, key, &user(id)).await.unwrap();
    }
    let again = bring(&store, "1", &user("d")).await;
    assert!(matches!(again, Err(StoreError::Taken(_))), "{again:?}");
    assert_eq!(store.user(&shop(), "d").await.unwrap(), None, "neither row nor account");
    assert_eq!(store.count_imported(&shop(), IMPORT).await.unwrap(), 3);
    for (id, name, address, taken) in [
        ("d", Some("name-a"), Some("x@shop.example"), (true, false)),
        ("d", None, Some("b@shop.example"), (false, true)),
        ("d", Some("name-a"), Some("b@shop.example"), (true, true)),
        ("a", Some("name-a"), Some("a@shop.example"), (false, false)),
        ("d", None, None, (false, false)),
    ] {
        let found = transact!(&store, |tx| { tx.names_taken(&shop(), id, name, address).await }).unwrap();
        assert_eq!(found, taken, "{id} {name:?} {address:?}");
    }
    let keys = async |after: &str, limit| {
        let page = store.imported_users(&shop(), IMPORT, after, limit).await.unwrap();
        page.into_iter().map(|one| one.row_key).collect::<Vec<_>>()
    };
    assert_eq!(keys("", 2).await, ["1", "10"]);
    assert_eq!(keys("10", 2).await, ["2"]);
    transact!(&store, |tx| { tx.delete_user(&shop(), "a").await }).unwrap();
    let kept = transact!(&store, |tx| { tx.imported_user(&shop(), IMPORT, "1").await }).unwrap().unwrap();
    assert_eq!(kept.user, "a", "an account that was erased is not brought again");
    assert_eq!(transact!(&store, |tx| { tx.account_state(&shop(), "a").await }).unwrap(), None);
    erase_all(&store, &shop(), 2).await;
    assert_eq!(store.count_imported(&shop(), IMPORT).await.unwrap(), 0);
}

async fn the_state_of_an_account_changes_with_all_that_is_done_to_it_and_with_nothing_else(db: Database) {
    let store = db.open().await;
    let alice = user("a");
    bring(&store, "1", &alice).await.unwrap();
    let state = async || transact!(&store, |tx| { tx.account_state(&shop(), "a").await }).unwrap().unwrap();
    let recorded = transact!(&store, |tx| { tx.imported_user(&shop(), IMPORT, "1").await }).unwrap().unwrap();
    assert_eq!(state().await, recorded.state);
    for changed in [
        User { last_login: Some(NOW), ..alice.clone() },
        User { roles: vec!["user".into()], ..alice.clone() },
        User { email_verified: false, ..alice.clone() },
        User { first_name: None, last_name: Some("Ada".into()), ..alice.clone() },
    ] {
        transact!(&store, |tx| { tx.save_user(&changed).await }).unwrap();
        assert_ne!(state().await, recorded.state, "{changed:?}");
        transact!(&store, |tx| { tx.save_user(&alice).await }).unwrap();
        assert_eq!(state().await, recorded.state);
    }
    transact!(&store, |tx| { tx.begin_totp(&shop(), "a", b"sealed", "key", NOW).await }).unwrap();
    let with_totp = state().await;
    assert_ne!(with_totp, recorded.state);
    let held = store.totp_under_other_keys("new", None, 10).await.unwrap();
    transact!(&store, |tx| { tx.reencrypt_totp(&held[0], b"sealed anew", "new").await }).unwrap();
    assert_eq!(state().await, with_totp, "a change of keys is nobody's use of an account");
    let hash = PasswordHash::new("$argon2id$…".into());
    transact!(&store, |tx| { tx.set_password(&shop(), "a", &hash, None, 0, NOW).await }).unwrap();
    assert_ne!(state().await, with_totp);
}

async fn imported_api_keys_are_told_from_those_that_were_made_here(db: Database) {
    let store = db.open().await;
    let key = |id: &str, hash: Option<SecretHash>| ApiKey {
        policy: shop(),
        id: id.into(),
        owner: "a".into(),
        name: "ci".into(),
        hint: String::new(),
        hash,
        scopes: vec!["orders:read".into()],
        roles: Vec::new(),
        created: NOW,
        expires: UnixMillis::FOREVER,
        last_used: None,
        revoked: None,
    };
    let insert = async |key: ApiKey| transact!(&store, |tx| { tx.insert_api_key(&key).await }).unwrap();
    insert(key("1", Some(SecretHash::of(b"one")))).await;
    insert(key("2", Some(SecretHash::of(b"two")))).await;
    assert_eq!(transact!(&store, |tx| { tx.imported_api_keys(&shop(), "a").await }).unwrap(), ["1", "2"]);
    transact!(&store, |tx| { tx.mark_api_key_revoked(&shop(), "1", NOW).await }).unwrap();
    assert_eq!(transact!(&store, |tx| { tx.imported_api_keys(&shop(), "a").await }).unwrap(), ["2"]);
    let has_own = async || transact!(&store, |tx| { tx.has_own_api_keys(&shop(), "a").await }).unwrap();
    assert!(!has_own().await);
    insert(key("3", None)).await;
    assert!(has_own().await);
    assert_eq!(transact!(&store, |tx| { tx.forget_imported_api_keys(&shop(), "b").await }).unwrap(), 0);
    assert_eq!(transact!(&store, |tx| { tx.forget_imported_api_keys(&shop(), "a").await }).unwrap(), 2);
    assert!(store.api_key(&shop(), "3").await.unwrap().is_some());
}

async fn anothers_tables_are_read_as_texts_in_order_and_can_not_be_written_to(db: Database) {
    let raw = db.raw_of_new_file().await;
    for sql in [
        "CREATE TABLE \"user\" (id INTEGER, email TEXT, is_active BOOLEAN, ratio REAL)",
        "INSERT INTO \"user\" VALUES (2, 'bob@old.example', FALSE, 1.5), (1, NULL, TRUE, NULL)",
    ] {
        sqlx::raw_sql(sql).execute(&raw).await.unwrap();
    }
    raw.close().await;
    let foreign = Foreign::open(&db.location(), PATIENCE).await.unwrap();
    let columns = ["id", "email", "ratio"].map(str::to_owned);
    let rows = async |relation: Relation, columns: &[String]| {
        foreign.rows(&relation, columns).try_collect::<Vec<Vec<Option<String>>>>().await
    };
    let table = Relation::Table("user".into());
    let expected = [[Some("1"), None, None], [Some("2"), Some("bob@old.example"), Some("1.5")]];
    let expected: Vec<Vec<Option<String>>> =
        expected.iter().map(|row| row.iter().map(|text| text.map(str::to_owned)).collect()).collect();
    assert_eq!(rows(table.clone(), &columns).await.unwrap(), expected);
    let query = Relation::Query("SELECT id, email, ratio FROM \"user\" WHERE id > 1;".into());
    assert_eq!(rows(query, &columns).await.unwrap(), expected[1..]);
    let misspelt = rows(table, &["id".to_owned(), "emial".to_owned()]).await;
    assert!(misspelt.is_err(), "a column that isn't there is no text: {misspelt:?}");
    for sql in ["DELETE FROM \"user\" RETURNING id", "WITH gone AS (DELETE FROM \"user\" RETURNING id) SELECT id FROM gone"]
    {
        let written = rows(Relation::Query(sql.into()), &columns[..1]).await;
        assert!(written.is_err(), "{sql}: {written:?}");
    }
    foreign.close().await;
    let nowhere = Foreign::open(&Location::File("/nonexistent/old.db".into()), PATIENCE).await;
    assert!(matches!(nowhere, Err(StoreError::Open { .. })), "{nowhere:?}");
}
