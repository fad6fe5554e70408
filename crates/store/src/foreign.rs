//! Another application's tables, read and never written: what an import reads.
//!
//! Queries are somebody else's text, so they run where nothing can be written: on PostgreSQL in a transaction that begins as
//! READ ONLY and can't become another, on SQLite on a file that is opened for reading. Each is one statement.

use std::{collections::VecDeque, path::Path, time::Duration};

use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use sqlx::{
    Any, AnyPool, AssertSqlSafe, Row as _, Transaction,
    any::{AnyConnectOptions, AnyRow},
};

use crate::{
    Location, StoreError,
    connection::{Dialect, file_options, pool},
};

/// The transaction that queries run in on PostgreSQL.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
/// How many rows PostgreSQL is asked for at once: its time is measured for so many, whatever is done with them meanwhile.
const FETCH: &str = "FETCH FORWARD 500 FROM source";

/// The longest `statement_timeout` that PostgreSQL takes.
const MAX_TIMEOUT_MS: u128 = i32::MAX as u128;

/// A database of another application, opened so that it can't be written to.
#[derive(Clone, Debug)]
pub struct Foreign {
    pool: AnyPool,
    dialect: Dialect,
}

/// What rows are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// A table or view, with its schema before a dot where it has one.
    Table(String),
    /// A query: one statement.
    Query(String),
}

impl Foreign {
    /// Opens the database at a location. A file that isn't there is an error. A PostgreSQL that takes longer than `patience`
    /// for the next rows ends the query; zero is no bound.
    pub async fn open(location: &Location, patience: Duration) -> Result<Self, StoreError> {
        match location {
            Location::File(path) => {
                let settings = "PRAGMA query_only = ON; PRAGMA busy_timeout = 5000;";
                let pool = pool(settings, 1).connect_with(read_only(path)?).await?;
                Ok(Self { pool, dialect: Dialect::Sqlite })
            }
            Location::Server(server) => {
                sqlx::any::install_default_drivers();
                let options: AnyConnectOptions = server.url().parse()?;
                // Between two calls for rows there may be much to do with them.
                let pool = pool("SET idle_in_transaction_session_timeout = 0", 1).connect_with(options).await?;
                let timeout = format!("SET statement_timeout = {}", patience.as_millis().min(MAX_TIMEOUT_MS));
                sqlx::query(AssertSqlSafe(timeout)).execute(&pool).await?;
                Ok(Self { pool, dialect: Dialect::Postgres })
            }
        }
    }

    /// Rows as texts, one for each of these columns, in the order of the first; all of one moment.
    pub fn rows<'f>(
        &'f self,
        relation: &Relation,
        columns: &[String],
    ) -> BoxStream<'f, Result<Vec<Option<String>>, StoreError>> {
        let count = columns.len();
        let sql = select(relation, columns);
        let rows = match (self.dialect, relation) {
            // Its driver would run every statement of a text. PostgreSQL refuses by itself.
            (Dialect::Sqlite, Relation::Query(query)) if !is_one_statement(query) => {
                stream::iter([Err(StoreError::Statements)]).boxed()
            }
            (Dialect::Sqlite, _) => sqlx::query(AssertSqlSafe(sql)).fetch(&self.pool).map_err(StoreError::from).boxed(),
            (Dialect::Postgres, _) => stream::once(self.declare(sql)).try_flatten().boxed(),
        };
        rows.and_then(move |row| {
            let texts: Result<Vec<Option<String>>, sqlx::Error> = (0..count).map(|column| row.try_get(column)).collect();
            std::future::ready(texts.map_err(StoreError::from))
        })
        .boxed()
    }

    /// Opens a cursor on PostgreSQL; its rows.
    async fn declare(&self, sql: String) -> Result<BoxStream<'static, Result<AnyRow, StoreError>>, StoreError> {
        let mut transaction = self.pool.begin_with(BEGIN).await?;
        let declare = format!("DECLARE source NO SCROLL CURSOR FOR {sql}");
        sqlx::query(AssertSqlSafe(declare)).execute(&mut *transaction).await?;
        Ok(stream::try_unfold((transaction, VecDeque::new()), next).boxed())
    }

    /// Closes it.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A cursor's transaction, and the rows that it gave and nobody has taken yet.
type Cursor = (Transaction<'static, Any>, VecDeque<AnyRow>);

/// The next row of a cursor.
async fn next((mut transaction, mut rows): Cursor) -> Result<Option<(AnyRow, Cursor)>, StoreError> {
    if rows.is_empty() {
        // Not kept prepared: another cursor of this name has other columns.
        rows = sqlx::query(FETCH).persistent(false).fetch_all(&mut *transaction).await?.into();
    }
    if let Some(row) = rows.pop_front() {
        return Ok(Some((row, (transaction, rows))));
    }
    transaction.rollback().await?;
    Ok(None)
}

fn read_only(path: &Path) -> Result<AnyConnectOptions, StoreError> {
    file_options(path, true).map_err(|source| StoreError::Open { path: path.to_owned(), source })
}

/// Every value as text: the driver knows few of the types that other schemas have. A column that is named with its relation
/// is never taken for a text, which SQLite does with a bare name in quotes that it doesn't know.
fn select(relation: &Relation, columns: &[String]) -> String {
    let texts: Vec<String> = columns.iter().map(|name| format!("CAST(source.{} AS TEXT)", quoted(name))).collect();
    let from = match relation {
        Relation::Table(name) => name.split('.').map(quoted).collect::<Vec<_>>().join("."),
        // On a line of its own: a comment at the query's end takes in nothing that follows.
        Relation::Query(sql) => format!("({}\n)", without_end(sql)),
    };
    let order = columns.first().map(|name| format!(" ORDER BY source.{}", quoted(name))).unwrap_or_default();
    format!("SELECT {} FROM {from} AS source{order}", texts.join(", "))
}

fn without_end(sql: &str) -> &str {
    sql.trim_end().trim_end_matches(';')
}

/// Whether a text in SQLite's words is a single statement: no semicolon but the last ends one.
fn is_one_statement(sql: &str) -> bool {
    let mut rest = without_end(sql);
    while let Some(at) = rest.find([';', '\'', '"', '`', '[', '-', '/']) {
        let (opening, inside) = (&rest.as_bytes()[at..], &rest[at + 1..]);
        let end = match opening {
            [b';', ..] => return false,
            // A quote that is written twice ends one text and begins the next.
            [quote @ (b'\'' | b'"' | b'`'), ..] => inside.find(char::from(*quote)).map(|end| end + 1),
            [b'[', ..] => inside.find(']').map(|end| end + 1),
            [b'-', b'-', ..] => inside.find('\n').map(|end| end + 1),
            [b'/', b'*', ..] => inside[1..].find("*/").map(|end| end + 3),
            _ => Some(0),
        };
        // What is opened and never closed takes in all the rest.
        let Some(end) = end else { return true };
        rest = &inside[end..];
    }
    true
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_names_whatever_stands_in_them() {
        let columns = ["id".to_owned(), "e\"mail".to_owned()];
        assert_eq!(
            select(&Relation::Table("auth.users".into()), &columns),
            "SELECT CAST(source.\"id\" AS TEXT), CAST(source.\"e\"\"mail\" AS TEXT) FROM \"auth\".\"users\" AS source \
             ORDER BY source.\"id\""
        );
        assert_eq!(
            select(&Relation::Query("SELECT 1 AS id;\n".into()), &columns[..1]),
            "SELECT CAST(source.\"id\" AS TEXT) FROM (SELECT 1 AS id\n) AS source ORDER BY source.\"id\""
        );
    }
    #[test]
    fn a_statement_ends_at_a_semicolon_that_is_no_part_of_a_text_a_name_or_a_comment() {
        for (sql, expected) in [
            ("SELECT 1", true),
            ("SELECT 1;\n", true),
            ("SELECT ';', \"a;b\", `c;d`, [e;f] FROM t -- ;\n/* ; */ WHERE a - 1 > b / 2", true),
            ("SELECT 'it''s; one' -- the last ;", true),
            ("SELECT 1 /*/ ; */", true),
            ("SELECT '''; DELETE FROM users; --'", true),
            ("SELECT ''; DELETE FROM users; --'", false),
            ("SELECT 1; DELETE FROM users", false),
            ("SELECT 1 AS id) AS source; DELETE FROM users; SELECT (1", false),
            ("SELECT 1 /* */; DELETE FROM users /* */", false),
            ("SELECT 1 --\n; DELETE FROM users", false),
            ("SELECT [a]; DELETE FROM users", false),
            ("SELECT 1 - -1; DELETE FROM users", false),
            ("SELECT 'größe'; DELETE FROM users", false),
        ] {
            assert_eq!(is_one_statement(sql), expected, "{sql}");
        }
    }
}
