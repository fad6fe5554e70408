//! Another application's tables: whatever a query says, they are read and not written.

use std::time::Duration;

use countersign_store::{Foreign, Relation, StoreError};
use futures_util::TryStreamExt as _;
use sqlx::AnyPool;

use crate::rig::Database;

conformance! {
    rows_are_read_in_order_whatever_their_number,
    no_query_writes_and_none_is_more_than_one_statement,
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Rows, the lowest ids last.
async fn with_users(db: &Database, count: u32) -> AnyPool {
    let raw = db.raw_of_new_file().await;
    let numbers = format!("WITH RECURSIVE n(id) AS (SELECT {count} UNION ALL SELECT id - 1 FROM n WHERE id > 1)");
    let insert = format!("CREATE TABLE users (id INTEGER, name TEXT); INSERT INTO users {numbers} SELECT id, NULL FROM n");
    sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&raw).await.unwrap();
    raw
}

async fn ids(foreign: &Foreign, relation: &Relation) -> Result<Vec<Option<String>>, StoreError> {
    let columns = ["id".to_owned(), "name".to_owned()];
    let rows: Vec<Vec<Option<String>>> = foreign.rows(relation, &columns).try_collect().await?;
    assert!(rows.iter().all(|row| row.len() == 2 && row[1].is_none()));
    Ok(rows.into_iter().map(|row| row[0].clone()).collect())
}

fn query(sql: &str) -> Relation {
    Relation::Query(sql.to_owned())
}

async fn rows_are_read_in_order_whatever_their_number(db: Database) {
    // More than are asked for at once, and not a multiple of that.
    let raw = with_users(&db, 1234).await;
    let foreign = Foreign::open(&db.location(), PATIENCE).await.unwrap();
    let expected: Vec<Option<String>> = (1..=1234).map(|id| Some(id.to_string())).collect();
    for relation in
        [Relation::Table("users".into()), query("SELECT id, name FROM users;\n"), query("SELECT * FROM users -- all")]
    {
        assert_eq!(ids(&foreign, &relation).await.unwrap(), expected, "{relation:?}");
    }
    // One that is dropped halfway leaves nothing behind for the next.
    let columns = ["id".to_owned()];
    assert!(foreign.rows(&query("SELECT id FROM users"), &columns).try_next().await.unwrap().is_some());
    assert_eq!(ids(&foreign, &query("SELECT * FROM users WHERE id > 5000")).await.unwrap(), []);
    foreign.close().await;
    raw.close().await;
}

async fn no_query_writes_and_none_is_more_than_one_statement(db: Database) {
    let raw = with_users(&db, 2).await;
    let only_read = "SELECT set_config('default_transaction_read_only', 'off', false) AS id, NULL AS name";
    let writes = "CREATE FUNCTION emptied() RETURNS INTEGER LANGUAGE sql AS 'DELETE FROM users RETURNING id'";
    if matches!(db, Database::Server(..)) {
        sqlx::raw_sql(writes).execute(&raw).await.unwrap();
    }
    let foreign = Foreign::open(&db.location(), PATIENCE).await.unwrap();
    for sql in [
        "SELECT 1 AS id, NULL AS name) AS source; DELETE FROM users; SELECT (1",
        "SELECT 1 AS id, NULL AS name; DELETE FROM users",
        "SELECT emptied() AS id, NULL AS name",
        "SELECT set_config('transaction_read_only', 'off', true) AS id, emptied()::text AS name",
        only_read,
        "SELECT emptied() AS id, NULL AS name",
    ] {
        let said = ids(&foreign, &query(sql)).await;
        assert!(said.is_err() || sql == only_read, "{sql}: {said:?}");
    }
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&raw).await.unwrap();
    assert_eq!(left, 2);
    foreign.close().await;
    raw.close().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL's programs; `cargo xtask test` installs them"]
async fn a_server_ends_a_query_that_takes_too_long() {
    let db = Database::server();
    let raw = with_users(&db, 1).await;
    let foreign = Foreign::open(&db.location(), Duration::from_millis(500)).await.unwrap();
    let error = ids(&foreign, &query("SELECT id, pg_sleep(60)::text AS name FROM users")).await.unwrap_err();
    assert!(error.is_out_of_time(), "{error}");
    assert_eq!(ids(&foreign, &query("SELECT * FROM users")).await.unwrap().len(), 1);
    foreign.close().await;
    raw.close().await;
}
