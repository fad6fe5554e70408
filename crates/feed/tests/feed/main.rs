//! The feed as a whole: one conformance suite on both servers, then what can go wrong with a real Redis.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by failing")]

mod conformance;
mod connections;
mod counters;
mod double;
mod faults;
mod gate;
mod histories;
mod merging;
mod proxy;
mod redis_server;
mod roles;
mod scene;
