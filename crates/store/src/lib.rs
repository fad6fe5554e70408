//! Durable truth in SQL: accounts and their sessions, key rings, revocations with their outbox, the audit trail.
//!
//! SQLite (one file, written by one process at a time) or PostgreSQL, behind one interface: every query is written once, and
//! one suite of tests runs on both. Every commit is on disk before it is answered, so a process may be killed at any moment.
//! What is in SQL is the truth; a feed server may be wiped at any time.
//!
//! What must happen together is done in one [`Tx`], by [`transact!`]. Times come from the caller, in milliseconds, save
//! [`Store::database_now`]. Everything belongs to a policy and is found only under it.
//!
//! This crate must not know of HTTP, nor decide anything about keys, tokens or people: it keeps what others decided, and sees
//! to it that of two who decide at once one comes first.

mod api_keys;
mod audit;
mod blocks;
mod challenges;
mod columns;
mod connection;
mod connections;
mod devices;
mod error;
mod expiry;
mod factors;
mod figures;
mod foreign;
mod imports;
mod issued;
mod location;
mod lockouts;
mod locks;
mod logins;
mod lookup;
mod meta;
mod notices;
mod one_time;
mod outbox;
mod passwords;
mod phones;
mod rates;
mod refresh;
mod restoring;
mod revocations;
mod rings;
mod row;
mod schema;
mod secrets;
mod sessions;
pub mod statements;
mod tenures;
mod transaction;
mod users;

pub use api_keys::ApiKey;
pub use audit::{
    AuditCursor, AuditEvent, AuditFilter, Break, Chain, Followed, KeptEvent, Link, Logged, Severity, Unlogged,
};
pub use blocks::{AddressBlock, MAX_BLOCKS};
pub use challenges::{Challenge, Retry};
pub use connection::{SERVER_CONNECTIONS, Store, Tx};
pub use devices::Device;
pub use error::StoreError;
pub use factors::{HeldTotp, Totp};
pub use figures::AttemptsByHour;
pub use foreign::{Foreign, Relation};
pub use imports::{Import, ImportedUser};
pub use location::{InvalidLocation, Location, Server};
pub use lockouts::{Counting, Lockout, LockoutKey};
pub use logins::{AtDoor, Candidate, FoundAtDoor, LoginName};
pub use lookup::MintBounds;
pub use notices::{NewNotice, Notice};
pub use one_time::{NewOneTimeToken, TakenToken};
pub use passwords::Password;
pub use phones::NumberProof;
pub use rates::RateWindow;
pub use refresh::{NewFamily, RefreshStanding, RefreshToken, Use, Used};
pub use revocations::{Appended, HistoryFilter, NewRevocation, Recorded};
pub use secrets::{PasswordHash, SecretHash};
pub use sessions::{BeyondLimit, Ended, Ending, Opening, Session, SessionLimit};
pub use tenures::{Claim, DuePeople, Erasure, Tenure};
pub use transaction::{Attempts, Failure};
pub use users::{Folded, Standing, User, UserFilter, UserStatus};
