//! The way to the API server, and what can go wrong on it.

use std::time::Duration;

use countersign_process::{UnusableKubeconfig, causes, cluster_of};
use kube::{Client, config::InClusterError};

use crate::config::KubernetesSource;

const CONNECT: Duration = Duration::from_secs(5);
/// Answers that are not streams take no longer.
const ANSWER: Duration = Duration::from_secs(30);

/// Why the API server can't be asked, or what is wrong with its answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The kubeconfig can't be used.
    #[error(transparent)]
    Kubeconfig(#[from] UnusableKubeconfig),
    /// Not a pod, or one without a service account's token.
    #[error("this is no pod that may ask its cluster ({0}): mount the service account's token, or give --kubeconfig FILE")]
    NotInCluster(#[from] InClusterError),
    /// TLS or the like.
    #[error("the API server can't be asked: {0}")]
    Client(#[source] Box<kube::Error>),
    /// It doesn't know us, or doesn't let us read.
    #[error(
        "the API server refuses to show {what} of namespace {namespace}: {message}: bind this verifier's service account there \
         to a Role that lets it get, list and watch configmaps and secrets"
    )]
    Denied {
        /// `ConfigMaps` or `Secrets`.
        what: &'static str,
        /// Where.
        namespace: String,
        /// What the API server said.
        message: String,
    },
    /// It is away, or overloaded.
    #[error("the API server does not answer: {0}")]
    Away(String),
    /// It answered something that no API server may.
    #[error("the API server answered unexpectedly: {0}")]
    Unexpected(String),
    /// What was asked for is too old to be told any more.
    #[error("the API server no longer knows the version that was asked for")]
    Gone,
}

impl ApiError {
    /// Whether somebody has to change something before it can go away.
    pub(super) const fn wants_mending(&self) -> bool {
        matches!(self, Self::Kubeconfig(_) | Self::NotInCluster(_) | Self::Client(_) | Self::Denied { .. })
    }

    /// What a request for `what` came to.
    pub(super) fn of(error: kube::Error, what: &'static str, namespace: &str) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                401 | 403 => Self::Denied { what, namespace: namespace.to_owned(), message: status.message.clone() },
                410 => Self::Gone,
                _ => Self::Away(format!("{} ({})", status.message, status.code)),
            },
            kube::Error::SerdeError(error) => Self::Unexpected(error.to_string()),
            // A connection that is refused says so only at the end.
            error => Self::Away(causes(&error)),
        }
    }
}

/// A client for the cluster. Asks nothing yet.
pub(super) async fn connect(source: &KubernetesSource) -> Result<Client, ApiError> {
    let mut config = match &source.kubeconfig {
        Some(path) => cluster_of(path).await?,
        None => kube::Config::incluster()?,
    };
    config.connect_timeout = Some(CONNECT);
    // Whoever asks here has a pace of its own.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| ApiError::Client(Box::new(error)))
}

/// An answer, if it comes in time.
pub(super) async fn in_time<T>(
    request: impl Future<Output = kube::Result<T>>,
    what: &'static str,
    namespace: &str,
) -> Result<T, ApiError> {
    match tokio::time::timeout(ANSWER, request).await {
        Ok(answer) => answer.map_err(|error| ApiError::of(error, what, namespace)),
        Err(_) => Err(ApiError::Away(format!("no answer within {} s", ANSWER.as_secs()))),
    }
}
