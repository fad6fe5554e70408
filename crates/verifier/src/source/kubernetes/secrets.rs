//! Verify-secrets, asked for when a bundle names others than are held.

use std::{sync::Arc, time::Duration};

use countersign_api::cluster::VERIFY_SECRETS_KEY;
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::connect::{ApiError, in_time};

/// How many are asked for at once.
const AT_ONCE: usize = 8;
/// How long changes wait for the secrets that they need. What isn't there by then is refused, and asked for again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Reads verify-secrets.
pub(super) struct SecretReader {
    api: Api<Secret>,
    namespace: String,
}

impl SecretReader {
    pub(super) fn new(client: Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), namespace: namespace.to_owned() }
    }

    /// The verify-secrets of these bundles, as far as they are there.
    pub(super) async fn read(&self, files: Vec<String>) -> Vec<(String, Option<Arc<[u8]>>)> {
        let until = tokio::time::Instant::now() + PATIENCE;
        stream::iter(files)
            .map(async |file| {
                let found = match tokio::time::timeout_at(until, self.one(&file)).await {
                    Ok(Ok(found)) => found,
                    Ok(Err(error)) => {
                        tracing::warn!(file, %error, "verify-secrets can't be read");
                        None
                    }
                    Err(_) => None,
                };
                (file, found)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await
    }

    async fn one(&self, file: &str) -> Result<Option<Arc<[u8]>>, ApiError> {
        let name = file.strip_suffix(".json").unwrap_or(file);
        let secret = in_time(self.api.get_opt(name), "Secrets", &self.namespace).await?;
        let bytes = secret.and_then(|secret| secret.data).and_then(|mut data| data.remove(VERIFY_SECRETS_KEY));
        Ok(bytes.map(|bytes| Arc::from(bytes.0)))
    }
}
