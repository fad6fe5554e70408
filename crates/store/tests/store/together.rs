//! Several at once on one database: processes that start, and transactions that wait for each other.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use countersign_core::time::UnixMillis;
use countersign_store::transact;
use tokio::sync::Barrier;

use crate::rig::{Database, shop};

conformance! {
    two_replicas_see_what_the_other_committed,
    transactions_that_wait_for_each_other_both_commit,
    a_transaction_begins_though_the_server_has_ended_every_connection,
}

async fn two_replicas_see_what_the_other_committed(db: Database) {
    let (one, two) = match db {
        Database::File(_) => (db.open().await, db.open().await),
        // On an empty database: both bring it up to date.
        Database::Server(..) => tokio::join!(db.open(), db.open()),
    };
    one.set_meta("a", "1").await.unwrap();
    assert_eq!(two.meta("a").await.unwrap().as_deref(), Some("1"));
    transact!(&two, |tx| { tx.issue_until(&shop(), UnixMillis(5)).await }).unwrap();
    assert_eq!(transact!(&one, |tx| { tx.issued_until(&shop()).await }).unwrap(), Some(UnixMillis(5)));
}

async fn transactions_that_wait_for_each_other_both_commit(db: Database) {
    let store = db.open().await;
    // On SQLite there is one transaction at a time, and nothing to meet.
    let meeting = matches!(db, Database::Server(..)).then(|| Arc::new(Barrier::new(2)));
    let tried = Arc::new(AtomicU32::new(0));
    let both = [("alice", "bob"), ("bob", "alice")].map(|(first, second)| {
        let (store, meeting, tried) = (store.clone(), meeting.clone(), tried.clone());
        tokio::spawn(async move {
            transact!(&store, |tx| {
                tx.lock_subject(&shop(), first).await?;
                if let Some(meeting) = &meeting
                    && tried.fetch_add(1, Ordering::SeqCst) < 2
                {
                    meeting.wait().await;
                }
                tx.lock_subject(&shop(), second).await
            })
        })
    });
    for one in both {
        one.await.unwrap().unwrap();
    }
    if meeting.is_some() {
        assert_eq!(tried.load(Ordering::SeqCst), 3, "one of them was undone and tried again");
    }
}

/// Every other connection to this database ends before it answers.
const END_OTHERS: &str = "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid, 30000)) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";

async fn a_transaction_begins_though_the_server_has_ended_every_connection(db: Database) {
    let store = db.open().await;
    // On SQLite there is one, and nobody to end it.
    if let Database::Server(..) = db {
        let meeting = Arc::new(Barrier::new(3));
        let open = ["a", "b", "c"].map(|subject| {
            let (store, meeting) = (store.clone(), meeting.clone());
            tokio::spawn(async move {
                transact!(&store, |tx| {
                    tx.lock_subject(&shop(), subject).await?;
                    meeting.wait().await;
                    Ok(())
                })
            })
        });
        for one in open {
            one.await.unwrap().unwrap();
        }
        let ended: i64 = sqlx::query_scalar(END_OTHERS).fetch_one(&db.raw().await).await.unwrap();
        assert!(ended >= 3, "{ended}");
    }
    transact!(&store, |tx| { tx.lock_subject(&shop(), "a").await }).unwrap();
}
