//! Durable truth in SQL: key rings, revocations with their outbox, the feed's epoch, bundles' generations.
//!
//! SQLite here, one file, written by one process at a time; every commit is on disk before it is answered, so a process may be
//! killed at any moment. What is in SQL is the truth; a feed server may be wiped at any time.
//!
//! This crate must not know of HTTP, nor decide anything about keys or tokens.

mod issued;
mod lookup;
mod outbox;
mod revocations;
mod rings;
mod row;

use std::{
    fs::OpenOptions,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use countersign_core::{names::PolicyName, time::UnixMillis};
use sqlx::{
    Connection as _, Sqlite, SqlitePool, Transaction,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

pub use revocations::{Appended, HistoryFilter, NewRevocation, Recorded};

/// The store. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    /// One connection: SQLite has one writer, and waiting for it here is fair.
    writer: SqlitePool,
    readers: SqlitePool,
}

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database file can't be made or opened.
    #[error("the database {path} can't be opened: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A later release has written it.
    #[error("the database {path} can't be brought to this release's schema: {source}")]
    Schema {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: sqlx::migrate::MigrateError,
    },
    /// SQL failed.
    #[error("the database failed: {0}")]
    Sql(#[from] sqlx::Error),
    /// A row holds what this release can't read.
    #[error("the database holds {0} that this release can't read")]
    Corrupt(&'static str),
    /// Someone else has written since it was read.
    #[error("{0} was changed meanwhile; read it again")]
    Conflict(&'static str),
}

impl Store {
    /// Opens the database at `path`, made with mode 0600 when it isn't there, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let at = || path.to_owned();
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::Open { path: at(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(5))
            .foreign_keys(true);
        // A full disk makes SQLite end a transaction by itself, which the driver does not notice: such a connection would
        // refuse every later transaction, so it is closed and another one takes its place.
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .after_release(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            .connect_with(options.clone())
            .await?;
        sqlx::migrate!().run(&writer).await.map_err(|source| StoreError::Schema { path: at(), source })?;
        let readers = SqlitePoolOptions::new().max_connections(4).connect_with(options.read_only(true)).await?;
        Ok(Self { writer, readers })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// A value kept under a name.
    pub async fn meta(&self, name: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query_scalar("SELECT value FROM meta WHERE name = ?1").bind(name);
        Ok(row.fetch_optional(&self.readers).await?)
    }

    /// Keeps a value under a name.
    pub async fn set_meta(&self, name: &str, value: &str) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO UPDATE SET value = ?2")
            .bind(name)
            .bind(value)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Keeps `value` under `name` unless something is kept there; says what is kept afterwards. For what is made once, such
    /// as an installation's id.
    pub async fn meta_or_insert(&self, name: &str, value: &str) -> Result<String, StoreError> {
        sqlx::query("INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING")
            .bind(name)
            .bind(value)
            .execute(&self.writer)
            .await?;
        Ok(self.meta(name).await?.unwrap_or_else(|| value.to_owned()))
    }

    /// The generation of a policy's latest bundle; 0 before the first.
    pub async fn generation(&self, policy: &PolicyName) -> Result<u64, StoreError> {
        let row = sqlx::query_scalar::<_, i64>("SELECT generation FROM bundles WHERE policy = ?1").bind(policy.as_str());
        Ok(row.fetch_optional(&self.readers).await?.unwrap_or(0).unsigned_abs())
    }

    /// Takes the next generation: the last one plus one, or `now` in milliseconds if that is later, so that generations rise
    /// over restores of this database as well.
    pub async fn next_generation(&self, policy: &PolicyName, now: UnixMillis) -> Result<u64, StoreError> {
        let row = sqlx::query_scalar::<_, i64>(
            "INSERT INTO bundles (policy, generation) VALUES (?1, max(1, ?2))
             ON CONFLICT (policy) DO UPDATE SET generation = max(generation + 1, ?2) RETURNING generation",
        )
        .bind(policy.as_str())
        .bind(now.0);
        Ok(row.fetch_one(&self.writer).await?.unsigned_abs())
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}
