//! A credential's way to its verdict.
//!
//! [`authenticate`] answers "is this genuine?": parse, issuer, key, signature, claims. Its successes may be cached, because
//! nothing that it establishes changes with time. [`judge`] answers "is it good, now, for this?" and runs on every call:
//! expiry, revocation, staleness, demands, rules, addresses, rate. Only [`judge`] can make an [`Allowed`].

mod authenticate;
mod credential;
mod judge;

#[cfg(test)]
mod tests;

pub use authenticate::{MAX_KEYS_TRIED, authenticate};
pub use credential::{Authenticated, CredentialKind};
pub use judge::{Allowed, Ask, Require, World, judge};
