//! What can be wrong with the flags.

use std::path::PathBuf;

use countersign_core::proxies::InvalidProxy;
use countersign_feed::{ISSUER_PREFIX, InvalidRedisUrl, MAX_LEASE_NAME};
use countersign_process::{HalfTls, TlsError};

/// What is wrong with the flags. Each message names the flag and the way out.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No source.
    #[error(
        "say where policies come from: --bundles DIR, a directory of bundles, or --kubeconfig FILE, a cluster (within a cluster \
         it is that one)"
    )]
    NoSource,
    /// Both.
    #[error("--bundles and {other} exclude each other: a directory of bundles, or a cluster")]
    TwoSources {
        /// The flag of the other.
        other: &'static str,
    },
    /// A cluster, and nobody to trust.
    #[error(
        "--bundle-trust FILE|DIR is missing: only signed bundles are taken from a cluster; mount the ConfigMap bundle-trust of \
         the operator's namespace, and name the mount (COUNTERSIGN_BUNDLE_TRUST)"
    )]
    NoTrust,
    /// A pod whose name the operator could not wait for.
    #[error(
        "POD_NAME is missing: in a cluster a verifier goes by its pod's name; set it in the container's env from the field \
         metadata.name, or give --name"
    )]
    NoName,
    /// A name that the operator could not read, or would take for an issuer's.
    #[error(
        "--name: a verifier's name has 1 to {MAX_LEASE_NAME} bytes, no control characters, and doesn't begin with {ISSUER_PREFIX}"
    )]
    Name,
    /// Not a namespace.
    #[error("--bundles-namespace: {0:?} is no name of a namespace")]
    Namespace(String),
    /// Neither.
    #[error("say where revocations come from: --redis URL, or --without-feed to serve policies with onStale: Allow only")]
    NoFeed,
    /// Both.
    #[error("--redis and --without-feed exclude each other: give one of them")]
    TwoFeeds,
    /// Not a URL of a Redis.
    #[error("--redis: {0}")]
    Redis(#[from] InvalidRedisUrl),
    /// A file that can't be read.
    #[error("{flag} {}: {source}", path.display())]
    File {
        /// Which flag names it.
        flag: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not an address.
    #[error("{flag}: {value:?} is no ADDR:PORT (as 127.0.0.1:7480 or [::]:7480) and not `off`")]
    Address {
        /// Which flag.
        flag: &'static str,
        /// What it says.
        value: String,
    },
    /// A certificate without its key, or the other way round.
    #[error(transparent)]
    HalfTls(#[from] HalfTls),
    /// TLS can't be served with these.
    #[error("--tls-cert, --tls-key: {0}")]
    Tls(#[from] TlsError),
    /// Not a network.
    #[error("--trusted-proxies: {0}")]
    Proxy(#[from] InvalidProxy),
    /// Not a number.
    #[error("--uncached-budget: {0:?} is no number of verifications per second above 0, and not `off`")]
    Budget(String),
    /// Nobody could connect.
    #[error("--max-connections must be above 0")]
    NoConnections,
    /// Nothing to serve on.
    #[error("--socket and --listen are both off: the verifier would serve nobody")]
    NoListener,
}

impl ConfigError {
    /// The flag that it is about, where it is about one.
    pub fn flag(&self) -> Option<&'static str> {
        match self {
            Self::Name => Some("name"),
            Self::Namespace(_) => Some("bundles-namespace"),
            Self::Redis(_) => Some("redis"),
            Self::File { flag, .. } | Self::Address { flag, .. } => Some(flag.trim_start_matches('-')),
            Self::Tls(_) => Some("tls-cert"),
            Self::Proxy(_) => Some("trusted-proxies"),
            Self::Budget(_) => Some("uncached-budget"),
            Self::NoConnections => Some("max-connections"),
            Self::NoSource
            | Self::TwoSources { .. }
            | Self::NoTrust
            | Self::NoName
            | Self::NoFeed
            | Self::TwoFeeds
            | Self::HalfTls(_)
            | Self::NoListener => None,
        }
    }
}
