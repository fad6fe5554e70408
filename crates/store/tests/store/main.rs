//! The store: one suite, run on an SQLite file and on a PostgreSQL server of the tests' own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by failing")]

/// Makes two tests of each case: on SQLite, and on PostgreSQL.
macro_rules! conformance {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                super::$case($crate::rig::Database::file()).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            #[ignore = "needs PostgreSQL's programs; `cargo xtask test` installs them"]
            async fn $case() {
                super::$case($crate::rig::Database::server()).await;
            })+
        }
    };
}

mod accounts;
mod audit;
mod expiry;
mod figures;
mod file;
mod foreign;
mod guards;
mod imports;
mod logins;
mod notices;
mod plans;
mod proofs;
mod refresh;
mod revocations;
mod rig;
mod sessions;
mod tenures;
mod together;
