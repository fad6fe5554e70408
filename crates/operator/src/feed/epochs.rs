//! Where epochs of the feed are numbered.

use std::time::{Duration, Instant};

use countersign_api::cluster::{FEED_EPOCH, FIELD_MANAGER};
use countersign_feed::{BoxFuture, OutboxError};
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};
use parking_lot::Mutex;

/// The key of the ConfigMap that holds the number.
const EPOCH_KEY: &str = "epoch";
/// How long a number that was read is believed. Only the leading operator writes it, and one that no longer leads is refused
/// by the feed server, which knows the later epoch.
const BELIEVED_FOR: Duration = Duration::from_secs(30);

/// A number that only rises, and only from what its writer knew it to be.
pub trait Epochs: Send + Sync + std::fmt::Debug {
    /// The present epoch; 0 before the first.
    fn present(&self) -> BoxFuture<'_, Result<u64, OutboxError>>;

    /// Moves from one epoch to a later one. False when the present one is not `from`.
    fn advance(&self, from: u64, to: u64) -> BoxFuture<'_, Result<bool, OutboxError>>;
}

/// The number in the ConfigMap [`FEED_EPOCH`] of the system namespace.
#[derive(Debug)]
pub struct ConfigMapEpochs {
    api: Api<ConfigMap>,
    held: Mutex<Option<(u64, Instant)>>,
}

/// Why the ConfigMap is of no use.
#[derive(Debug, thiserror::Error)]
pub enum EpochsError {
    /// The API server.
    #[error("ConfigMap {FEED_EPOCH}: {0}")]
    Api(#[from] kube::Error),
    /// Somebody wrote something else into it.
    #[error("ConfigMap {FEED_EPOCH}: data.{EPOCH_KEY} is {0:?}, which is no number; delete the ConfigMap to start anew")]
    NotANumber(String),
}

impl From<EpochsError> for OutboxError {
    fn from(error: EpochsError) -> Self {
        Self(Box::new(error))
    }
}

impl ConfigMapEpochs {
    /// The number kept in `system_namespace`.
    pub fn new(client: Client, system_namespace: &str) -> Self {
        Self { api: Api::namespaced(client, system_namespace), held: Mutex::new(None) }
    }

    async fn read(&self) -> Result<(u64, Option<ConfigMap>), EpochsError> {
        let object = self.api.get_opt(FEED_EPOCH).await?;
        let text = object.as_ref().and_then(|map| map.data.as_ref()?.get(EPOCH_KEY));
        let epoch = match text {
            Some(text) => text.parse().map_err(|_| EpochsError::NotANumber(text.chars().take(64).collect()))?,
            None => 0,
        };
        *self.held.lock() = Some((epoch, Instant::now()));
        Ok((epoch, object))
    }

    async fn write(&self, from: u64, to: u64) -> Result<bool, EpochsError> {
        let (present, object) = self.read().await?;
        if present != from || to <= from {
            return Ok(false);
        }
        let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let number = (EPOCH_KEY.to_owned(), to.to_string());
        let written = if let Some(mut map) = object {
            // The object's resourceVersion goes back with it: another writer's change in between is a conflict.
            map.data.get_or_insert_default().extend([number]);
            self.api.replace(FEED_EPOCH, &parameters, &map).await
        } else {
            let metadata = ObjectMeta { name: Some(FEED_EPOCH.to_owned()), ..ObjectMeta::default() };
            let map = ConfigMap { metadata, data: Some([number].into()), ..ConfigMap::default() };
            self.api.create(&parameters, &map).await
        };
        match written {
            Ok(_) => {
                *self.held.lock() = Some((to, Instant::now()));
                Ok(true)
            }
            // Changed, made or deleted by somebody else meanwhile.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                *self.held.lock() = None;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }
}

impl Epochs for ConfigMapEpochs {
    fn present(&self) -> BoxFuture<'_, Result<u64, OutboxError>> {
        Box::pin(async {
            let held = *self.held.lock();
            match held.filter(|(_, read)| read.elapsed() < BELIEVED_FOR) {
                Some((epoch, _)) => Ok(epoch),
                None => Ok(self.read().await?.0),
            }
        })
    }

    fn advance(&self, from: u64, to: u64) -> BoxFuture<'_, Result<bool, OutboxError>> {
        Box::pin(async move { Ok(self.write(from, to).await?) })
    }
}
