//! The verifier as its callers meet it: over real sockets.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by failing")]

mod abuse;
mod activity;
mod api_server;
mod batch;
mod bundles;
mod contract;
mod emergency;
mod forward_auth;
mod key_sets;
mod kubernetes;
mod lifecycle;
mod processes;
mod rig;
mod wire;
