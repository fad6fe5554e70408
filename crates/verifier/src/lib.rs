//! The verifier: policies' bundles and the revocation feed in, verdicts out, over HTTP and a Unix socket.
//!
//! Follow a request: [`net`] accepts its connection, `http::service` finds the question in it, `app` finds or proves the token
//! and lets `countersign_core::check` judge it, `http::verdict` writes the answer. Follow a policy: `source::directory` or
//! `source::kubernetes` reads its bundle, `source::held` decides whether it may replace the one before, `source::enforced` compiles it into a
//! [`slot`](slot::PolicySlot), publishes the snapshot that requests read, and saves it; `source::keeper` acknowledges it.
//!
//! This crate holds no private key, writes to no store, and asks nobody anything on the way to a verdict.

mod activity;
mod app;
mod cache;
pub mod config;
mod emergency;
mod http;
mod metrics;
mod net;
mod slot;
mod source;
mod verifier;

pub use countersign_process::TrustError;

pub use config::{Config, ConfigError, FeedConfig, Flags};
pub use emergency::AuditLog;
pub use metrics::METRICS;
pub use net::BindError;
pub use source::{jwks::ClientError, keeper::SourceError, kubernetes::ApiError, status::KeySetProblem};
pub use verifier::{Addresses, Feed, RunningVerifier, StartError, Verifier};
