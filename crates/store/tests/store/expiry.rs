//! Rows that have had their time.

use countersign_core::time::UnixMillis;
use countersign_store::{AddressBlock, Counting, LockoutKey, NewFamily, RefreshToken, SecretHash, Session, transact};
use sqlx::Row as _;

use crate::{
    rig::{Database, NOW, shop},
    sessions::{open, session},
};

conformance! {
    expired_rows_leave_in_batches_and_only_by_both_clocks,
}

const HOUR: i64 = 3_600_000;

async fn expired_rows_leave_in_batches_and_only_by_both_clocks(db: Database) {
    let store = db.open().await;
    let now = store.database_now().await.unwrap();
    let (old, young) = (now.minus(HOUR + 60_000), now.minus(60_000));
    for (n, ends) in [old, old, old, young].into_iter().enumerate() {
        let (id, token) = (n.to_string(), RefreshToken([u8::try_from(n).unwrap(); 32]));
        let begun = Session {
            created: UnixMillis(1),
            last_seen: UnixMillis(1),
            absolute_end: ends,
            idle_ms: now.0,
            ..session(&id, 0)
        };
        open(&store, &begun, None).await;
        let (policy, name) = (shop(), SecretHash::of(id.as_bytes()));
        let key = LockoutKey::UnknownName(&name);
        let family =
            NewFamily { policy: &policy, id: &id, session: &id, token: &token, rotates: true, created: NOW, expires: ends };
        let block = AddressBlock {
            policy: shop(),
            network: id.clone(),
            reason: String::new(),
            source: String::new(),
            created: UnixMillis(1),
            expires: ends,
        };
        let counting = Counting { window_ms: 1, expires: ends };
        transact!(&store, |tx| {
            tx.insert_family(&family).await?;
            tx.count_failure(&policy, key, counting, UnixMillis(1)).await?;
            tx.block(&block).await
        })
        .unwrap();
        store.count_hit(&shop(), &id, ends.0 - 1, UnixMillis(1)).await.unwrap();
    }
    let tables = ["sessions", "refresh_families", "refresh_tokens", "lockouts", "address_blocks", "rate_buckets"];
    let raw = db.raw().await;
    let left = async || {
        let mut left = Vec::new();
        for table in tables {
            let count = sqlx::AssertSqlSafe(format!("SELECT count(*) AS counted FROM {table}"));
            left.push(sqlx::query(count).fetch_one(&raw).await.unwrap().get::<i64, _>("counted"));
        }
        left
    };
    assert_eq!(store.remove_expired(old, 100).await.unwrap(), 0, "our own clock says otherwise");
    assert_eq!(left().await, [4; 6]);
    assert!(store.remove_expired(now, 2).await.unwrap() <= 2 * 9);
    assert_eq!(left().await, [2; 6], "no more than a batch of each");
    while store.remove_expired(UnixMillis::FOREVER, 2).await.unwrap() > 0 {}
    assert_eq!(left().await, [1; 6], "what is expired for less than an hour by the database's clock stays");
}
