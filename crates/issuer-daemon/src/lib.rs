//! `countersign-issuer`: the issuer of a cluster.
//!
//! What the operator writes (rings, what issuers are told, bundles) is watched and put together into policies; the issuer
//! itself, which knows nothing of Kubernetes, serves by them. This process writes nothing to the API server. It acknowledges
//! through the feed up to which version it holds the rings, so that no key's end is reckoned while it may still sign.

mod assembling;
mod config;
mod following;
mod holding;
mod people;
mod run;
mod trust;
mod users;
mod watching;

pub use config::{Config, ConfigError, Flags, Keys, Redis};
pub use run::{RunError, run};
