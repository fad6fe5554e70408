//! Why the store did not do as asked.

use std::{io, path::PathBuf};

/// Why the store did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What names the database is no such name.
    #[error("{0}")]
    Location(#[from] crate::location::InvalidLocation),
    /// The database file can't be made or opened.
    #[error("the database {path} can't be opened: {source}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A later release has written it.
    #[error("the database {database} can't be brought to this release's schema: {source}")]
    Schema {
        /// The database, without its password.
        database: String,
        /// What is wrong.
        source: sqlx::migrate::MigrateError,
    },
    /// SQL failed.
    #[error("the database failed: {0}")]
    Sql(sqlx::Error),
    /// Text with a NUL, which PostgreSQL does not keep. Whoever takes text from people refuses it before.
    #[error("text with a NUL can't be kept")]
    Nul,
    /// A row holds what this release can't read.
    #[error("the database holds {0} that this release can't read")]
    Corrupt(&'static str),
    /// A query of another application's tables holds more than one.
    #[error("the query is more than one statement")]
    Statements,
    /// Someone else has written since it was read.
    #[error("{0} was changed meanwhile; read it again")]
    Conflict(&'static str),
    /// Another row has what must be unique.
    #[error("{0} is taken")]
    Taken(&'static str),
    /// A bound is reached.
    #[error("there are as many {0} as there may be")]
    Full(&'static str),
}

/// SQLSTATE 40001, serialization_failure, and 40P01, deadlock_detected: PostgreSQL has undone the transaction and asks for it
/// again.
const UNDONE: [&str; 2] = ["40001", "40P01"];

/// SQLSTATE classes of a server that can't serve now: connection exceptions, insufficient resources, operator intervention (it
/// stops, starts or was killed), and 55P03, a lock that was not got in time.
const AWAY: [&str; 4] = ["08", "53", "57", "55P03"];
/// SQLSTATE 57P01, admin_shutdown, 57P02, crash_shutdown, and 57P05, idle_session_timeout: the server has ended the connection.
const ENDED: [&str; 3] = ["57P01", "57P02", "57P05"];
/// SQLSTATE 57014, query_canceled.
const QUERY_CANCELED: &str = "57014";
/// The length of an SQLSTATE. SQLite's own codes are shorter.
const SQLSTATE: usize = 5;

/// SQLSTATE 22021, character_not_in_repertoire.
const NO_CHARACTER: &str = "22021";

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(said) if said.code().is_some_and(|code| code == NO_CHARACTER) => Self::Nul,
            _ => Self::Sql(error),
        }
    }
}

impl StoreError {
    /// Whether the database undid the transaction for reasons of its own, so that the same may be tried again.
    pub(crate) fn is_undone(&self) -> bool {
        let Self::Sql(sqlx::Error::Database(error)) = self else { return false };
        error.code().is_some_and(|code| UNDONE.contains(&code.as_ref()))
    }

    /// Whether the database is out of reach or too busy, so that the same may go well a little later. What it was asked to write
    /// is then unknown.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Sql(
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::WorkerCrashed,
            ) => true,
            Self::Sql(sqlx::Error::Database(error)) => {
                error.code().is_some_and(|code| code.len() == SQLSTATE && AWAY.iter().any(|class| code.starts_with(class)))
            }
            _ => false,
        }
    }

    /// Whether the connection is gone over which the database was to be asked.
    pub(crate) fn is_lost(&self) -> bool {
        match self {
            Self::Sql(sqlx::Error::Io(_)) => true,
            Self::Sql(sqlx::Error::Database(error)) => error.code().is_some_and(|code| ENDED.contains(&code.as_ref())),
            _ => false,
        }
    }

    /// Whether a statement was ended because it took longer than it may.
    pub fn is_out_of_time(&self) -> bool {
        let Self::Sql(sqlx::Error::Database(error)) = self else { return false };
        error.code().is_some_and(|code| code == QUERY_CANCELED)
    }

    /// Says `what` of a row that is not unique, and leaves any other failure as it is.
    pub(crate) fn taken(error: sqlx::Error, what: &'static str) -> Self {
        match &error {
            sqlx::Error::Database(said) if said.is_unique_violation() => Self::Taken(what),
            _ => error.into(),
        }
    }
}
