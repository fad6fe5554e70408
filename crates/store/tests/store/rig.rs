//! Databases of a test's own.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_store::{Location, Store};
use countersign_test_servers::Postgres;
use sqlx::{AnyPool, Row as _};
use tempfile::TempDir;

pub(crate) fn shop() -> PolicyName {
    "shop/shop".parse().unwrap()
}

pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// An empty database.
pub(crate) enum Database {
    File(TempDir),
    Server(Arc<Postgres>, u32),
}

impl Database {
    pub(crate) fn file() -> Self {
        Self::File(tempfile::tempdir().unwrap())
    }

    pub(crate) fn server() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = Postgres::shared().unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        server.create(&format!("test{number}"), None).unwrap();
        Self::Server(server, number)
    }

    pub(crate) fn location(&self) -> Location {
        match self {
            Self::File(dir) => Location::File(dir.path().join("store.db")),
            Self::Server(server, number) => server.url(&format!("test{number}")).parse().unwrap(),
        }
    }

    pub(crate) async fn open(&self) -> Store {
        Store::connect(&self.location()).await.unwrap()
    }

    /// A connection past the store, for what only a test does.
    pub(crate) async fn raw(&self) -> AnyPool {
        sqlx::any::install_default_drivers();
        let url = match self {
            Self::File(dir) => format!("sqlite://{}", dir.path().join("store.db").display()),
            Self::Server(server, number) => server.url(&format!("test{number}")),
        };
        AnyPool::connect(&url).await.unwrap()
    }

    /// The same, of a file that isn't there yet.
    pub(crate) async fn raw_of_new_file(&self) -> AnyPool {
        if let Self::File(dir) = self {
            std::fs::File::create(dir.path().join("store.db")).unwrap();
        }
        self.raw().await
    }

    /// How a statement would be run, in the database's words.
    pub(crate) async fn plan(&self, raw: &AnyPool, sql: &str) -> String {
        let (explain, column) = match self {
            Self::File(_) => ("EXPLAIN QUERY PLAN", "detail"),
            Self::Server(..) => ("EXPLAIN", "QUERY PLAN"),
        };
        let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("{explain} {sql}"))).fetch_all(raw).await.unwrap();
        rows.iter().map(|row| row.get::<String, _>(column)).collect::<Vec<_>>().join("\n")
    }
}
