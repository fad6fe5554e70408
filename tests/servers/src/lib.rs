//! Real servers for tests and measurements: each on a socket in a directory of its own, started from the programs that the
//! system has, ended with its value.
//!
//! It must not know of what is tested with them.

mod postgres;
mod processes;

pub use postgres::Postgres;
