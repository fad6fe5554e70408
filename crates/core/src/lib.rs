//! What Countersign decides, as functions of values.
//!
//! Tokens, key rings, revocations, roles, rules, addresses and the verdict over them. This crate does no I/O, is not async
//! and has no clock: time, randomness and state come in as values. It must never learn of files, sockets, Kubernetes or SQL.
//!
//! Follow a token through in one reading: [`check::authenticate`] (is this credential genuine?) and then [`check::judge`]
//! (is it good, now, for this?).

pub mod addresses;
pub mod check;
pub mod claims;
pub mod csrf;
pub mod digest;
pub mod jose;
pub mod keys;
pub mod mapping;
pub mod mint;
pub mod names;
pub mod opaque;
pub mod percent;
pub mod policy;
pub mod proxies;
pub mod ratelimit;
pub mod revocation;
pub mod ring;
pub mod roles;
pub mod rules;
pub mod time;
pub mod verdict;
