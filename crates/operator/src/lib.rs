//! The operator: from what is declared on the API server to key rings, bundles, declared sessions and status.
//!
//! One process of several leads. A policy's way, each time that anything about it may have changed: **observe** (what is
//! declared, kept, written, acknowledged: caches kept by watches), **plan** (pure functions of that), **apply** (the ring
//! Secret first, fenced by its version; then the bundle, by server-side apply), **status** (patched only on change).
//!
//! It must not see a user, serve a verdict, or put a private key anywhere but into Secrets of its own namespace.

pub mod config;
pub mod events;
pub mod feed;
pub mod fleet;
pub mod health;
pub mod jwks;
pub mod lease;
pub mod mint;
pub mod registry;
pub mod run;
pub mod sessions;
pub mod versions;

mod api_server;
mod forwarding;
mod history;
mod jitter;
mod metrics;
mod mirror;
mod policies;
#[cfg(test)]
mod scripted;
mod serving;
mod startup;

pub use config::{Config, ConfigError, Environment, Flags};
pub use metrics::METRICS;
pub use run::{Context, RunError, run};
