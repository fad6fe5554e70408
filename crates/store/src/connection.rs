//! Opening a database, and transactions on it. The only place that knows which of the two it is.

use std::{fmt, fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use countersign_core::time::UnixMillis;
use countersign_feed::Clock;
use sqlx::{
    Any, AnyConnection, AssertSqlSafe, Connection as _, Executor as _, Transaction,
    any::{AnyConnectOptions, AnyPoolOptions},
    sqlite::SqliteConnectOptions,
};

use crate::{
    Location, StoreError,
    connections::{Connections, Counted},
    schema,
};

/// The store. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    /// On SQLite one connection: it has one writer, and waiting for it here is fair.
    pub(crate) writer: Connections,
    pub(crate) readers: Connections,
    pub(crate) dialect: Dialect,
}

/// A PostgreSQL server's clock, milliseconds.
macro_rules! server_clock {
    () => {
        "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)"
    };
}
pub(crate) use server_clock;

/// Which database it is. Queries are written once, in what both understand; the few words that differ are here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    /// The text with `elements($1)`, the table of a JSON array's elements in its column `value`, in this dialect's words.
    pub(crate) fn with_elements(self, sql: &'static str) -> AssertSqlSafe<String> {
        AssertSqlSafe(sql.replace(
            "elements($1)",
            match self {
                Self::Sqlite => "json_each($1)",
                Self::Postgres => "json_array_elements_text(CAST($1 AS json))",
            },
        ))
    }

    /// As [`Self::with_elements`], with `clock()`: the server's clock, and nothing on SQLite, whose clock is this machine's.
    pub(crate) fn with_clock(self, sql: &'static str) -> AssertSqlSafe<String> {
        let AssertSqlSafe(sql) = self.with_elements(sql);
        AssertSqlSafe(sql.replace(
            "clock()",
            match self {
                Self::Sqlite => "NULL",
                Self::Postgres => server_clock!(),
            },
        ))
    }

    pub(crate) const fn begin(self) -> &'static str {
        match self {
            // The write lock first: a transaction that reads before it writes could not get it any more.
            Self::Sqlite => "BEGIN IMMEDIATE",
            Self::Postgres => "BEGIN ISOLATION LEVEL READ COMMITTED",
        }
    }
}

/// A transaction. What it wrote is undone unless it is committed. Made by [`crate::transact!`].
pub struct Tx {
    pub(crate) inner: Transaction<'static, Any>,
    pub(crate) dialect: Dialect,
    /// The numbers of the subjects that it holds.
    pub(crate) subjects: Vec<i64>,
    /// The server's clock when it took the last of its locks.
    pub(crate) locked: Option<UnixMillis>,
    /// Where its statements are counted.
    pub(crate) counted: Counted,
}

impl fmt::Debug for Tx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tx").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("dialect", &self.dialect).finish_non_exhaustive()
    }
}

/// Connections to a PostgreSQL server, unless asked otherwise.
pub const SERVER_CONNECTIONS: u32 = 16;

impl Store {
    /// Opens the database at a location.
    pub async fn connect(location: &Location) -> Result<Self, StoreError> {
        match location {
            Location::File(path) => Self::open(path).await,
            Location::Server(server) => Self::connect_to(server, SERVER_CONNECTIONS).await,
        }
    }

    /// Opens the SQLite database at `path`, made with mode 0600 when it isn't there, and brings its schema up to date.
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(failed)?;
        let options = |read_only| file_options(path, read_only).map_err(failed);
        // A full disk makes SQLite end a transaction by itself, which the driver does not notice: such a connection would
        // refuse every later transaction, so it is closed and another one takes its place.
        let writer = pool("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA busy_timeout = 5000;", 1)
            .after_release(|connection, _| Box::pin(async move { Ok(!connection.is_in_transaction()) }))
            .connect_with(options(false)?)
            .await?;
        let schema = |source| StoreError::Schema { database: path.display().to_string(), source };
        schema::sqlite().run(&writer).await.map_err(schema)?;
        let readers = pool("PRAGMA busy_timeout = 5000;", 4).connect_with(options(true)?).await?;
        let counted = Counted::default();
        let (writer, readers) = (Connections::new(writer, &counted), Connections::new(readers, &counted));
        Ok(Self { writer, readers, dialect: Dialect::Sqlite })
    }

    /// Opens a PostgreSQL database with at most so many connections, and brings its schema up to date: one process at a time,
    /// the others wait.
    pub async fn connect_to(server: &crate::Server, connections: u32) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let options: AnyConnectOptions = server.url().parse()?;
        let writer = pool(SERVER_SETTINGS, connections).connect_with(options).await?;
        let schema = |source| StoreError::Schema { database: server.to_string(), source };
        let migrated = async {
            // On a connection of its own: others' migrations, and an index on a large table, may take their time.
            let mut connection = writer.acquire().await?.detach();
            connection.execute("SET lock_timeout = 0").await?;
            connection.execute("SET statement_timeout = 0").await?;
            schema::postgres().run(&mut connection).await?;
            Ok(connection.close().await?)
        };
        migrated.await.map_err(schema)?;
        let writer = Connections::new(writer, &Counted::default());
        Ok(Self { readers: writer.clone(), writer, dialect: Dialect::Postgres })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// How many statements this process has asked of the database. Each is a wait for it, and what a call costs is mostly
    /// those; transactions beginning and ending are among them.
    pub fn statements(&self) -> u64 {
        self.writer.counted.so_far()
    }

    /// The database's own clock, which of SQLite is this machine's.
    pub async fn database_now(&self) -> Result<UnixMillis, StoreError> {
        match self.dialect {
            Dialect::Sqlite => Ok(Clock::wall()),
            Dialect::Postgres => Ok(UnixMillis(sqlx::query_scalar(SERVER_NOW).fetch_one(&self.readers).await?)),
        }
    }
}

impl Tx {
    /// For one statement.
    pub(crate) fn connection(&mut self) -> &mut AnyConnection {
        self.counted.one();
        &mut self.inner
    }

    /// The database's own clock: as it was when this transaction took the last of its locks, which tells it for nothing, or now
    /// where it has none. Of two transactions that hold the same, the one that comes first is never the later by it.
    pub async fn database_now(&mut self) -> Result<UnixMillis, StoreError> {
        match (self.dialect, self.locked) {
            (Dialect::Sqlite, _) => Ok(Clock::wall()),
            (Dialect::Postgres, Some(locked)) => Ok(locked),
            (Dialect::Postgres, None) => Ok(UnixMillis(sqlx::query_scalar(SERVER_NOW).fetch_one(self.connection()).await?)),
        }
    }
}

const SERVER_NOW: &str = concat!("SELECT ", server_clock!());

/// Nobody waits for ever, and what was answered is on disk.
const SERVER_SETTINGS: &str = "SET lock_timeout = '10s'; SET statement_timeout = '30s';
    SET idle_in_transaction_session_timeout = '30s'; SET synchronous_commit = on;";

/// A connection that nobody used for longer is asked whether it is alive before it is used again.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

pub(crate) fn pool(settings: &'static str, connections: u32) -> AnyPoolOptions {
    AnyPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(Duration::from_secs(30))
        .after_connect(move |connection, _| {
            Box::pin(async move { connection.execute(sqlx::raw_sql(settings)).await.map(|_| ()) })
        })
        // Not before each use: that would be as long a wait as the statement itself.
        .test_before_acquire(false)
        .before_acquire(|connection, been| {
            Box::pin(async move {
                if been.idle_for <= TRUSTED_FOR {
                    return Ok(true);
                }
                let alive = connection.ping().await;
                if let Err(error) = &alive {
                    tracing::info!(%error, "a connection to the database was lost while nobody used it");
                }
                Ok(alive.is_ok())
            })
        })
}

pub(crate) fn file_options(path: &Path, read_only: bool) -> io::Result<AnyConnectOptions> {
    use sqlx::ConnectOptions as _;
    sqlx::any::install_default_drivers();
    // The options become a URL and back, in which only a whole path is unambiguous and a percent sign begins an escape.
    let path = path.canonicalize()?;
    let path = path.to_str().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidFilename, "the path is not UTF-8"))?;
    let options = SqliteConnectOptions::new().filename(path.replace('%', "%25")).read_only(read_only);
    AnyConnectOptions::from_url(&options.to_url_lossy()).map_err(io::Error::other)
}
