//! Signing tokens with a policy's Active key: for declared sessions, and for people who ask through the command line.
//!
//! A token is signed in its policy's turn ([`crate::registry::Turn`]), by the policy, the cut-offs and the clocks of that very
//! moment, and only while this process leads.

mod api;
mod keys;
mod problem;
mod request;
mod server;
mod sign;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::ask as over_tls;

use std::{sync::Arc, time::Duration};

use countersign_api::bundle::RingName;
use countersign_core::{keys::SigningKeyError, names::PolicyName};
use countersign_feed::Clock;
use tokio::time::timeout;

use crate::{
    feed::Cutoffs,
    lease::Leading,
    registry::{PolicyView, Registry},
    run::Context,
};

pub use self::server::{ApiError, run};
pub(crate) use self::sign::{Minted, Moment, TokenOrder, sign};

/// How long it may take to write down up to when tokens may be issued.
const RESERVED_WITHIN: Duration = Duration::from_secs(5);
/// How often that may turn out not to be far enough.
const ATTEMPTS: usize = 3;

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MintError {
    /// Nothing signs now.
    #[error("the ring {} has no Active key; `countersign keys list` says what it waits for", .0.word())]
    NoSigningKey(RingName),
    /// A cut-off lies ahead of this clock.
    #[error("the clock is {behind_ms} ms behind a cut-off that was written, more than the policy's clockSkew")]
    ClockBehind {
        /// By how much.
        behind_ms: i64,
    },
    /// Two clocks, and nobody knows which is right.
    #[error("this machine's clock and the feed server's are {apart_ms} ms apart, more than the policy's clockSkew")]
    ClocksApart {
        /// By how much.
        apart_ms: i64,
    },
    /// The record doesn't say yet that tokens may have been issued so late.
    #[error("up to when tokens may be issued could not be written into the policy's key ring; try again")]
    NotReserved,
    /// Another process may lead.
    #[error("this operator doesn't lead any more; try again")]
    LeadsNoMore,
    /// The library failed.
    #[error(transparent)]
    Sign(#[from] SigningKeyError),
}

/// Where tokens are made.
#[derive(Clone, Copy)]
pub(crate) struct Mint<'a> {
    registry: &'a Registry,
    leading: &'a Leading,
    cutoffs: &'a Cutoffs,
}

impl<'a> Mint<'a> {
    pub(crate) fn new(context: &'a Context, cutoffs: &'a Cutoffs) -> Self {
        Self { registry: &context.registry, leading: &context.leading, cutoffs }
    }

    /// Makes what `order` asks for, given the policy as it stands at that moment; it may be asked more than once. Gives back
    /// that policy too.
    pub(crate) async fn issue<E: From<MintError>>(
        self,
        policy: &PolicyName,
        ring: RingName,
        mut order: impl FnMut(&PolicyView) -> Result<TokenOrder, E>,
    ) -> Result<(Arc<PolicyView>, Minted), E> {
        let turn = self.registry.turn(policy);
        let mut reserved = None;
        for _ in 0..ATTEMPTS {
            let issuing = turn.issue().await;
            if !self.leading.holds() {
                return Err(MintError::LeadsNoMore.into());
            }
            let view = self.registry.policy(policy).ok_or(MintError::NoSigningKey(ring))?;
            let order = order(&view)?;
            let server_now = self.registry.feed().borrow().server_now();
            let moment = Moment { now: Clock::wall(), server_now, reserved };
            let issue = moment.issue(&view, self.cutoffs, ring, &order)?;
            if !issue.is_beyond_server || turn.covers(issue.at) {
                let minted = sign(&view, self.cutoffs, ring, &order, issue.at)?;
                turn.remember(issue.at);
                return Ok((view, minted));
            }
            // Whoever writes it down may want to cut off first.
            drop(issuing);
            let until = issue.at.plus(issue.ahead_ms);
            let written = timeout(RESERVED_WITHIN, self.registry.reserve(policy, until)).await;
            if !matches!(written, Ok(Ok(()))) {
                return Err(MintError::NotReserved.into());
            }
            reserved = Some(until);
        }
        Err(MintError::NotReserved.into())
    }
}
