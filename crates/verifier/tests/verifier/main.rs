//! The verifier as its callers meet it: over real sockets.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub)]

mod abuse;
mod batch;
mod bundles;
mod contract;
mod forward_auth;
mod key_sets;
mod lifecycle;
mod rig;
mod wire;
