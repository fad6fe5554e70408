//! The operator's dealings with the feed.
//!
//! It always follows ([`FeedFollower`]): which verifiers are alive and what each has applied, which keys were revoked through
//! an issuer, which cut-offs ended tokens of declared sessions. It never writes a reader's lease: it is no verifier, and nobody
//! may wait for it. Where no issuer is installed it is also the writer ([`FeedWriter`]), of the one truth that it owns: what
//! the bundles call revoked, and tells uses of emergency tokens, which an issuer would write into its audit.

mod cutoffs;
mod epochs;
mod follower;
mod outbox;
mod part;
mod uses;
mod writer;

pub(crate) use self::writer::{Changed, changed};
pub use self::{
    cutoffs::{Cutoffs, Ended},
    epochs::{ConfigMapEpochs, Epochs},
    follower::FeedFollower,
    outbox::BundleOutbox,
    part::{FeedPartError, run},
    writer::FeedWriter,
};

#[cfg(test)]
mod tests;
