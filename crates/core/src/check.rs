//! A credential's way to its verdict.
//!
//! [`authenticate`] answers "is this genuine?": parse, issuer, key, signature, claims. Its successes may be cached, because
//! nothing that it establishes changes with time. [`judge`] answers "is it good, now, for this?" and runs on every call:
//! expiry, revocation, staleness, demands, rules, addresses, rate. Only [`judge`] can make an [`Allowed`], and for an emergency
//! token only after the [`Witness`] has recorded its use.

mod authenticate;
mod credential;
mod emergency;
mod judge;

#[cfg(test)]
mod tests;

pub use authenticate::{MAX_KEYS_TRIED, authenticate};
pub use credential::{Authenticated, CredentialKind};
pub use emergency::{EmergencyUse, NoRoom, NoWitness, Witness};
pub use judge::{Allowed, Ask, Require, World, judge, judge_also};
