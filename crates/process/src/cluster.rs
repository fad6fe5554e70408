//! Which cluster a process works in.

use std::path::{Path, PathBuf};

use kube::{
    Config,
    config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError},
};

/// A kubeconfig that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("--kubeconfig {}: {source}", path.display())]
pub struct UnusableKubeconfig {
    path: PathBuf,
    source: KubeconfigError,
}

/// Why there is no cluster to work in.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The one that was named.
    #[error(transparent)]
    Kubeconfig(#[from] UnusableKubeconfig),
    /// None was named, this is no pod, and the environment has none.
    #[error(transparent)]
    Nowhere(#[from] InferConfigError),
}

/// The cluster that a kubeconfig names, else the one that this pod is in, else the environment's (`KUBECONFIG`).
pub async fn find_cluster(kubeconfig: Option<&Path>) -> Result<Config, ClusterError> {
    // One provider of cryptography for the whole process; another part may have been first.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match kubeconfig {
        Some(path) => Ok(cluster_of(path).await?),
        None => Ok(Config::infer().await?),
    }
}

/// The cluster of a kubeconfig's current context.
pub async fn cluster_of(path: &Path) -> Result<Config, UnusableKubeconfig> {
    let unusable = |source| UnusableKubeconfig { path: path.to_owned(), source };
    let kubeconfig = Kubeconfig::read_from(path).map_err(unusable)?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(unusable)
}
