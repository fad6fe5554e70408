//! How the feed stands.

use std::collections::BTreeMap;

use countersign_core::{revocation::Position, time::UnixMillis};
use countersign_feed::{Ack, Clock, Lease};

/// The feed as it was last seen.
#[derive(Clone, Debug, Default)]
pub struct FeedPresent {
    /// Whether the server was reached just now and its leases were read.
    pub fresh: bool,
    /// The server's clock, and this machine's monotonic one ([`Clock::boot_millis`]) at that moment.
    pub server_time: Option<(UnixMillis, i64)>,
    /// The epoch that the server is in, if a record names its present run.
    pub epoch: Option<u64>,
    /// Whether every live entry is in it.
    pub seeded: bool,
    /// The end of the feed: the latest position given out.
    pub tail: Option<Position>,
    /// The verifiers that are alive. Means nothing unless `fresh`.
    pub leases: Vec<Lease>,
    /// What the issuers that are alive say, by their pods' names. Means nothing unless `fresh`.
    pub issuers: BTreeMap<String, Option<Ack>>,
    /// Whether every entry of the present epoch was read from the server once, and is followed since. Whether that is every
    /// live entry, `seeded` says.
    pub caught_up: bool,
    /// How many entries were passed over because this release can't read them.
    pub unreadable: u64,
    /// What is wrong with it, for people: why it isn't fresh, or why entries can't be followed.
    pub problem: Option<String>,
}

impl FeedPresent {
    /// The server's clock now; `None` while the server is out of reach.
    pub fn server_now(&self) -> Option<UnixMillis> {
        let (server, boot) = self.server_time.filter(|_| self.fresh)?;
        Some(server.plus(Clock::boot_millis().saturating_sub(boot)))
    }
}
