//! The feed: revocations from whoever makes them to every verifier, and who is listening.
//!
//! Writers commit to their own store and let a [`Publisher`] sweep it into a [`FeedServer`]: [`RedisFeed`] between processes,
//! [`MemoryFeed`] within one; both pass one conformance suite. Every verifier runs one [`Follower`], which keeps a
//! [`FeedState`] true: the revocations themselves, up to which [`Position`](countersign_core::revocation::Position) they are
//! held, and how long ago that was last known to be everything. Verdicts read the state alone; nothing on their path waits
//! for a server. The other way go uses of emergency tokens ([`ReportedUse`]) and when
//! sessions were seen ([`SeenSession`]).
//!
//! This crate must not know of policies' contents, HTTP or SQL.

mod activity;
mod clock;
mod collecting;
mod follower;
mod lease;
mod memory;
mod outbox;
mod publisher;
mod random;
mod redis;
mod server;
mod state;
mod uses;

pub use activity::{
    ActivityKeeper, KEPT_FOR as ACTIVITY_KEPT_FOR, MAX_SESSION_ID, MAX_WAITING_SESSIONS, SeenSession, collect_activity,
    collect_waiting_activity,
};
pub use clock::Clock;
pub use collecting::CollectError;
pub use follower::{Follower, FollowerConfig, FollowerError};
pub use lease::{
    Ack, ISSUER_PREFIX, Lease, MAX_ACK_BYTES, MAX_LEASE_NAME, MAX_REFUSED, RefusedPolicy, UnknownIssuerKey, is_lease_name,
};
pub use memory::{LiveStore, MemoryFeed};
pub use outbox::{Mark, Outbox, OutboxError, OutboxRow};
pub use publisher::{Publication, Publisher, PublisherConfig, PublisherStatus};
pub use redis::{Count, Counted, CounterWindow, InvalidRedisUrl, RedisCounters, RedisFeed, RedisOptions, RedisUrl};
pub use server::{
    BoxFuture, EpochRecord, FeedError, FeedServer, HeldBack, LeaseWrite, Page, PublishRow, Published, Removal, ServerState,
    TailItem,
};
pub use state::{FeedState, FeedStats, FeedView, MAX_WAITERS};
pub use uses::{EMERGENCY_USED, MAX_WAITING_USES, ReportedUse, UseKeeper, WaitingUse, collect_uses, collect_waiting_uses};
