//! Keeps the snapshot in step with its source.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use countersign_feed::{Ack, Follower};
use countersign_process::TrustError;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    directory::DirectoryKeeper,
    enforced::Enforced,
    jwks::ClientError,
    kubernetes::{ApiError, KubernetesKeeper},
    saved::Saved,
};
use crate::{
    app::{App, UnknownKey},
    config::{Config, Source},
};

/// Why there is nothing to start with.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The directory can't be read, and nothing is saved.
    #[error("the bundle directory {} cannot be read: {source}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The data directory can't be used.
    #[error("the data directory {} cannot be used: {source}", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Foreign key sets can't be fetched.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Nobody is trusted, and nothing is saved.
    #[error(
        "--bundle-trust {}: {source}: mount the ConfigMap bundle-trust of the operator's namespace there, which the operator \
         writes when it first starts",
        path.display()
    )]
    Trust {
        /// What the flag says.
        path: PathBuf,
        /// Why.
        source: TrustError,
    },
    /// The API server can't be asked, and nothing is saved.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// The task that follows the source.
pub(crate) enum Keeper {
    /// Bundles in a directory.
    Directory(Box<DirectoryKeeper>),
    /// Bundles in a cluster.
    Kubernetes(Box<KubernetesKeeper>),
}

/// What a keeper is given.
pub(crate) struct Post {
    pub(crate) app: Arc<App>,
    pub(crate) follower: Option<Arc<Follower>>,
    pub(crate) unknown_keys: mpsc::Receiver<UnknownKey>,
}

impl Keeper {
    /// Loads what there is. Binds nothing yet.
    pub(crate) async fn start(config: &Config, post: Post) -> Result<Self, SourceError> {
        let disk = config.data_dir.as_deref().map(open).transpose()?;
        Ok(match &config.source {
            Source::Directory(path) => {
                let rules = config.fetch_rules.clone();
                Self::Directory(Box::new(DirectoryKeeper::start(path.clone(), disk, rules, post).await?))
            }
            Source::Kubernetes(cluster) => {
                Self::Kubernetes(Box::new(KubernetesKeeper::start(cluster.clone(), disk, post).await?))
            }
        })
    }

    /// Follows the source until told to stop; what is being put in force then is saved as well.
    pub(crate) async fn run(self, stop: CancellationToken) {
        match self {
            Self::Directory(keeper) => keeper.run(stop).await,
            Self::Kubernetes(keeper) => keeper.run(stop).await,
        }
    }
}

fn open(data_dir: &Path) -> Result<Saved, SourceError> {
    Saved::open(data_dir).map_err(|source| SourceError::DataDir { path: data_dir.to_owned(), source })
}

/// What is in force, lent to threads that may block. One task alone uses it, so nobody ever waits for the lock.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<Enforced>>);

impl Shared {
    pub(super) fn new(enforced: Enforced) -> Self {
        Self(Arc::new(Mutex::new(enforced)))
    }

    /// Runs work on a thread for it.
    pub(super) async fn blocking<R: Send + 'static>(&self, work: impl FnOnce(&mut Enforced) -> R + Send + 'static) -> R {
        let enforced = self.0.clone();
        match tokio::task::spawn_blocking(move || work(&mut enforced.lock())).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Looks at what takes no time.
    pub(super) fn with<R>(&self, look: impl FnOnce(&Enforced) -> R) -> R {
        look(&self.0.lock())
    }
}

/// Says what is in force and saved, once it is, and only when that is news.
pub(super) struct Acknowledging {
    follower: Option<Arc<Follower>>,
    pub(super) start_id: String,
    last: Option<Ack>,
}

impl Acknowledging {
    pub(super) fn new(follower: Option<Arc<Follower>>) -> Self {
        Self { follower, start_id: random_id(), last: None }
    }

    pub(super) fn say(&mut self, ack: Ack) {
        if self.last.as_ref() != Some(&ack) {
            if let Some(follower) = &self.follower {
                follower.set_ack(Some(ack.clone()));
            }
            self.last = Some(ack);
        }
    }
}

fn random_id() -> String {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's randomness works");
    hex::encode(bytes)
}
