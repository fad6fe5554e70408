//! What a feed server does, whichever it is.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use countersign_core::{
    revocation::{Entry, EntryKey, Position},
    time::UnixMillis,
};

use crate::{
    activity::SeenSession,
    lease::{Ack, Lease},
    uses::{ReportedUse, WaitingUse},
};

/// A future of a trait object's method.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An entry to take out, and the position past which it stays.
pub type Removal = (EntryKey, Position);

/// The place where revocations live between their writers and their readers.
///
/// A server holds one [`EpochRecord`], the set of live entries scored by [`Position`], and a short tail of the latest. Every
/// write is checked, atomically with itself, against the record: it must name the caller's epoch and the server's present
/// run. So a server that lost data, or another one in its place, can't be written to until a new epoch is opened.
pub trait FeedServer: Send + Sync + fmt::Debug {
    /// The server in words, without any secret.
    fn describe(&self) -> String;

    /// The present state, and whether this server may be used at all (see [`HeldBack`]).
    fn state(&self) -> BoxFuture<'_, Result<ServerState, FeedError>>;

    /// Writes a reader's lease and reads the state in the same step.
    fn write_lease<'a>(&'a self, lease: &'a LeaseWrite) -> BoxFuture<'a, Result<ServerState, FeedError>>;

    /// Takes a reader's lease away, if it is still the one written last by `lease`'s writer: what another run has written under
    /// the name since stays.
    fn release_lease<'a>(&'a self, lease: &'a LeaseWrite) -> BoxFuture<'a, Result<(), FeedError>>;

    /// Leases that are alive.
    fn leases(&self) -> BoxFuture<'_, Result<Vec<Lease>, FeedError>>;

    /// Says that a writer is alive, and reads the state in the same step.
    fn write_writer_lease<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ServerState, FeedError>>;

    /// Up to `limit` live entries after `after`, in order, with the state at that moment.
    fn page(&self, after: Position, limit: usize) -> BoxFuture<'_, Result<Page, FeedError>>;

    /// The entries of the tail after `after`; waits up to `wait` for one to come.
    fn tail(&self, after: Position, wait: Duration) -> BoxFuture<'_, Result<Vec<TailItem>, FeedError>>;

    /// Writes the record of `epoch`, unseeded and with this server's run, unless one of that or a later epoch stands there
    /// with this server's run. Says what stands afterwards.
    fn open_epoch(&self, epoch: u64) -> BoxFuture<'_, Result<ServerState, FeedError>>;

    /// Marks `epoch` seeded. [`FeedError::EpochChanged`] when the record says otherwise.
    fn seal(&self, epoch: u64) -> BoxFuture<'_, Result<(), FeedError>>;

    /// Puts entries in, in order. `floor` is the latest position that the writer's truth has recorded: a server whose tail is
    /// behind it in the same epoch lost data.
    fn publish<'a>(
        &'a self,
        epoch: u64,
        floor: Position,
        rows: &'a [PublishRow],
    ) -> BoxFuture<'a, Result<Vec<Published>, FeedError>>;

    /// Takes out entries that a published cut-off stands in for, each unless it stands past the position named with it: then
    /// it has come to say more.
    fn remove<'a>(&'a self, epoch: u64, entries: &'a [Removal]) -> BoxFuture<'a, Result<(), FeedError>>;

    /// Leaves uses of emergency tokens for whoever keeps the audit. [`FeedError::Crowded`] when too many wait already: then none
    /// of these was taken.
    fn report_uses<'a>(&'a self, uses: &'a [ReportedUse]) -> BoxFuture<'a, Result<(), FeedError>>;

    /// The uses that have waited for longest, at most `limit`.
    fn waiting_uses(&self, limit: usize) -> BoxFuture<'_, Result<Vec<WaitingUse>, FeedError>>;

    /// Takes out uses that were written down, by their places.
    fn take_out_uses<'a>(&'a self, places: &'a [String]) -> BoxFuture<'a, Result<(), FeedError>>;

    /// Leaves when sessions were seen for whoever keeps sessions; of several moments of a session the latest stays. How many
    /// found no room, with [`MAX_WAITING_SESSIONS`] others waiting.
    ///
    /// [`MAX_WAITING_SESSIONS`]: crate::MAX_WAITING_SESSIONS
    fn report_activity<'a>(&'a self, seen: &'a [SeenSession]) -> BoxFuture<'a, Result<u64, FeedError>>;

    /// Takes out when sessions were seen, at most `limit` of them: nobody else is given these.
    fn take_activity(&self, limit: usize) -> BoxFuture<'_, Result<Vec<SeenSession>, FeedError>>;

    /// Takes out what both clocks call expired for over an hour; a bounded number at a time. Returns how many.
    fn purge(&self, epoch: u64, own_now: UnixMillis) -> BoxFuture<'_, Result<u64, FeedError>>;
}

/// What a server says of itself, read in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// This run of the server: changes whenever it may have lost data, or is another one.
    pub run_id: String,
    /// Its clock, microseconds since the Unix epoch.
    pub now_micros: i64,
    /// The epoch record, if there is one.
    pub record: Option<EpochRecord>,
    /// How long ago a writer was last seen, milliseconds.
    pub writer_seen_ms: Option<u64>,
}

/// Which epoch a server is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochRecord {
    /// The epoch.
    pub epoch: u64,
    /// The run of the server that it was opened on.
    pub run_id: String,
    /// Whether every live entry has been put in since.
    pub seeded: bool,
    /// The latest place given out.
    pub place: u64,
    /// The latest position that a reader brought with it and this server lacks: entries were lost, or this is another server.
    pub ahead: Option<Position>,
    /// Whether the live set holds as many entries as were put in. False when a key of it was evicted or deleted.
    pub whole: bool,
}

impl ServerState {
    /// The record, when it names this very run of the server.
    pub fn present(&self) -> Option<&EpochRecord> {
        self.record.as_ref().filter(|record| record.run_id == self.run_id)
    }

    /// The server's clock.
    pub const fn now(&self) -> UnixMillis {
        UnixMillis(self.now_micros.div_euclid(1000))
    }
}

impl EpochRecord {
    /// The end of the feed: the latest position given out.
    pub fn tail(&self) -> Position {
        Position::new(self.epoch, self.place).unwrap_or(Position::ZERO)
    }
}

/// A reader's sign of life.
#[derive(Clone, Debug)]
pub struct LeaseWrite {
    /// The reader's name.
    pub name: String,
    /// How long it is good for.
    pub ttl: Duration,
    /// Up to where the reader holds the feed.
    pub position: Option<Position>,
    /// What it has applied.
    pub ack: Option<Ack>,
}

/// A part of the live set.
#[derive(Clone, Debug)]
pub struct Page {
    /// Entries by position.
    pub entries: Vec<(Position, Entry)>,
    /// Where entries stand that this release can't read.
    pub unreadable: Vec<Position>,
    /// Whether more follow.
    pub more: bool,
    /// The state at the same moment.
    pub state: ServerState,
}

impl Page {
    /// The last position on the page, of whatever stands there.
    pub fn last(&self) -> Option<Position> {
        let read = self.entries.last().map(|(position, _)| *position);
        read.max(self.unreadable.last().copied())
    }
}

/// An entry of the tail.
#[derive(Clone, Debug)]
pub struct TailItem {
    /// Where it stands.
    pub position: Position,
    /// When the server took it, microseconds by its clock.
    pub at_micros: i64,
    /// What it says; absent: this release can't read it.
    pub entry: Option<Entry>,
}

/// An entry to put in.
#[derive(Clone, Debug)]
pub struct PublishRow {
    /// The entry.
    pub entry: Entry,
    /// The position that the writer's truth has recorded for it in an earlier epoch: it keeps that one, so that readers who
    /// hold it needn't read it again.
    pub recorded: Option<Position>,
}

/// Where an entry stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its position.
    pub position: Position,
}

/// Why a server did not do as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// It could not be reached, or did not answer in time.
    #[error("the feed server is out of reach: {0}")]
    Unreachable(String),
    /// It takes no writes: a replica, or short of replicas.
    #[error("the feed server takes no writes: {0}")]
    ReadOnly(String),
    /// It may not be used until someone changes its configuration.
    #[error(transparent)]
    Refused(#[from] HeldBack),
    /// Its epoch record is not what the caller believed.
    #[error("the feed's epoch has changed")]
    EpochChanged,
    /// Its tail is behind what was published in this very epoch.
    #[error("the feed server lost entries of the present epoch")]
    RolledBack,
    /// No epoch or place is left to give out.
    #[error("the feed's epoch has no places left")]
    Full,
    /// Too many uses of emergency tokens wait on it: nobody takes them out.
    #[error("too many uses of emergency tokens wait on the feed server for whoever keeps the audit")]
    Crowded,
    /// It answered something else than the protocol says.
    #[error("the feed server answered unexpectedly: {0}")]
    Protocol(String),
}

/// Why a server may not be used as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeldBack {
    /// It would evict revocations when memory runs short.
    #[error(
        "Redis has maxmemory-policy {0}, which evicts revocations when memory runs short and so revives revoked tokens: set \
         maxmemory-policy to volatile-ttl (CONFIG SET maxmemory-policy volatile-ttl, and in redis.conf)"
    )]
    Evicts(String),
    /// It hides which run of it this is, so lost data could not be noticed.
    #[error(
        "Redis shows no run_id in INFO server, so a restart that loses data could not be noticed: use a Redis (or a service \
         plan) whose INFO is complete, and let this user run INFO"
    )]
    NoRunId,
    /// It does not tell whether it would evict revocations.
    #[error(
        "Redis tells its maxmemory-policy neither by CONFIG GET nor in INFO memory, so nobody knows whether it evicts \
         revocations: let this user run one of the two"
    )]
    NoEvictionPolicy,
}
