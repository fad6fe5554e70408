//! How an entry looks as a row.

use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Kind, Position},
    time::UnixMillis,
};
use sqlx::{Row as _, any::AnyRow};

use crate::StoreError;

pub(crate) const fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Token => "token",
        Kind::Session => "session",
        Kind::Subject => "subject",
        Kind::ApiKey => "api_key",
        Kind::Key => "key",
        Kind::Policy => "policy",
        Kind::Ip => "ip",
    }
}

pub(crate) fn kind(word: &str) -> Result<Kind, StoreError> {
    Ok(match word {
        "token" => Kind::Token,
        "session" => Kind::Session,
        "subject" => Kind::Subject,
        "api_key" => Kind::ApiKey,
        "key" => Kind::Key,
        "policy" => Kind::Policy,
        "ip" => Kind::Ip,
        _ => return Err(StoreError::Corrupt("a revocation's kind")),
    })
}

pub(crate) fn entry(row: &AnyRow) -> Result<Entry, StoreError> {
    let policy: PolicyName =
        row.try_get::<&str, _>("policy")?.parse().map_err(|_| StoreError::Corrupt("a policy's name"))?;
    Ok(Entry {
        policy,
        kind: kind(row.try_get("kind")?)?,
        issuer: row.try_get("issuer")?,
        id: row.try_get("name")?,
        cutoff: UnixMillis(row.try_get("cutoff")?),
        expires: UnixMillis(row.try_get("expires")?),
        version: row.try_get::<i64, _>("version")?.unsigned_abs(),
        reason: row.try_get("reason")?,
        source: row.try_get("source")?,
    })
}

/// A version as SQLite holds it: nobody counts further.
pub(crate) fn version(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

pub(crate) fn position(score: Option<i64>) -> Option<Position> {
    Position::from_score(u64::try_from(score?).ok()?)
}

pub(crate) fn score(position: Position) -> i64 {
    i64::try_from(position.score()).unwrap_or(i64::MAX)
}
