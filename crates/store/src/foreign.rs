//! Another application's tables, read and never written: what an import reads.

use std::path::Path;

use futures_util::{Stream, TryStreamExt as _};
use sqlx::{AnyPool, AssertSqlSafe, Row as _, any::AnyConnectOptions};

use crate::{
    Location, StoreError,
    connection::{file_options, pool},
};

/// A database of another application, opened so that it can't be written to.
#[derive(Clone, Debug)]
pub struct Foreign {
    pool: AnyPool,
}

/// What rows are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// A table or view, with its schema before a dot where it has one.
    Table(String),
    /// A query.
    Query(String),
}

impl Foreign {
    /// Opens the database at a location. A file that isn't there is an error.
    pub async fn open(location: &Location) -> Result<Self, StoreError> {
        let pool = match location {
            Location::File(path) => {
                pool("PRAGMA query_only = ON; PRAGMA busy_timeout = 5000;", 1).connect_with(read_only(path)?).await?
            }
            Location::Server(server) => {
                sqlx::any::install_default_drivers();
                let options: AnyConnectOptions = server.url().parse()?;
                pool("SET default_transaction_read_only = on; SET statement_timeout = 0;", 1).connect_with(options).await?
            }
        };
        Ok(Self { pool })
    }

    /// Rows as texts, one for each of these columns, in the order of the first; in one statement, so that all are of one moment.
    pub fn rows<'f>(
        &'f self,
        relation: &Relation,
        columns: &[String],
    ) -> impl Stream<Item = Result<Vec<Option<String>>, StoreError>> + Send + Unpin + 'f {
        let count = columns.len();
        let rows = sqlx::query(AssertSqlSafe(select(relation, columns))).fetch(&self.pool);
        rows.map_err(StoreError::from).and_then(move |row| {
            let texts: Result<Vec<Option<String>>, sqlx::Error> = (0..count).map(|column| row.try_get(column)).collect();
            std::future::ready(texts.map_err(StoreError::from))
        })
    }

    /// Closes it.
    pub async fn close(&self) {
        self.pool.close().await;
    }
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
        Relation::Query(sql) => format!("({})", sql.trim().trim_end_matches(';')),
    };
    let order = columns.first().map(|name| format!(" ORDER BY source.{}", quoted(name))).unwrap_or_default();
    format!("SELECT {} FROM {from} AS source{order}", texts.join(", "))
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
            "SELECT CAST(source.\"id\" AS TEXT) FROM (SELECT 1 AS id) AS source ORDER BY source.\"id\""
        );
    }
}
