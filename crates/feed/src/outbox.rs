//! The writer's truth, as a publisher needs it.

use countersign_core::{
    revocation::{Entry, Position},
    time::UnixMillis,
};

use crate::server::{BoxFuture, Removal};

/// Rows that a publisher sweeps into a server. A row counts as published only while its mark names the present epoch, so
/// opening an epoch turns every live row into work.
pub trait Outbox: Send + Sync + std::fmt::Debug {
    /// The epoch that the truth is in; 0 before the first.
    fn epoch(&self) -> BoxFuture<'_, Result<u64, OutboxError>>;

    /// Moves from one epoch to a later one, if it still is in `from`. False when it is not. Unless positions are kept, rows
    /// forget in the same step where they stood: readers hold positions of another history of this truth.
    fn advance_epoch(&self, from: u64, to: u64, keep_positions: bool) -> BoxFuture<'_, Result<bool, OutboxError>>;

    /// Up to `limit` rows not yet published in `epoch`, the oldest first.
    fn unpublished(&self, epoch: u64, limit: usize) -> BoxFuture<'_, Result<Vec<OutboxRow>, OutboxError>>;

    /// These rows as they stand, published in `epoch` or not; those that are gone are left out.
    fn rows<'a>(&'a self, epoch: u64, ids: &'a [i64]) -> BoxFuture<'a, Result<Vec<OutboxRow>, OutboxError>>;

    /// Records where rows stand. Rows that changed since, and all rows when the truth has left `epoch`, are left alone.
    fn mark<'a>(&'a self, epoch: u64, marks: &'a [Mark]) -> BoxFuture<'a, Result<(), OutboxError>>;

    /// The latest position recorded.
    fn highest_position(&self) -> BoxFuture<'_, Result<Position, OutboxError>>;

    /// How many rows are not published in `epoch`.
    fn pending(&self, epoch: u64) -> BoxFuture<'_, Result<u64, OutboxError>>;

    /// Up to `limit` entries whose place a published cut-off has taken, still to be taken out of the server, each with where
    /// it stood when that happened.
    fn merged(&self, limit: usize) -> BoxFuture<'_, Result<Vec<(i64, Removal)>, OutboxError>>;

    /// Says that merged entries are out of the server.
    fn forget_merged<'a>(&'a self, ids: &'a [i64]) -> BoxFuture<'a, Result<(), OutboxError>>;

    /// Removes rows that both clocks call expired for over an hour. Returns how many.
    fn purge(&self, server_now: UnixMillis, own_now: UnixMillis) -> BoxFuture<'_, Result<u64, OutboxError>>;
}

/// A row to publish.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// The row's number.
    pub id: i64,
    /// Changes whenever the row does.
    pub revision: i64,
    /// What it says.
    pub entry: Entry,
    /// Where it stands or stood, if it has not changed since.
    pub recorded: Option<Position>,
    /// Whether it is published in the epoch that was asked about.
    pub published: bool,
}

/// Where a row stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The row's number.
    pub id: i64,
    /// The revision that was published.
    pub revision: i64,
    /// Its position.
    pub position: Position,
}

/// The writer's truth could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the revocations' store failed: {0}")]
pub struct OutboxError(#[source] pub Box<dyn std::error::Error + Send + Sync>);
