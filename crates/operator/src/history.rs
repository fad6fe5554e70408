//! The history of bundles: a random value that every leader begins anew.
//!
//! A verifier acknowledges under the history that its watch has shown it. What was acknowledged before this leader, or before
//! the API server was restored, may speak of bundles that are not there any more, and doesn't count.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::cluster::{FIELD_MANAGER, HISTORY, HISTORY_KEY};
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use parking_lot::Mutex;

use crate::{
    jitter::random_id,
    run::Context,
    versions::{Versions, version_of},
};

/// Why it can't be begun.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HistoryError {
    /// The API server.
    #[error("the ConfigMap {HISTORY} can't be written: {0}")]
    Write(#[from] kube::Error),
    /// No randomness.
    #[error("the system gives no randomness")]
    Random,
}

/// The present history.
pub(crate) struct History {
    api: Api<ConfigMap>,
    versions: Arc<Versions>,
    value: Mutex<String>,
}

/// Begins a history.
pub(crate) async fn begin(context: &Context) -> Result<Arc<History>, HistoryError> {
    let history = History {
        api: Api::namespaced(context.client.clone(), &context.config.bundles_namespace),
        versions: context.versions.clone(),
        value: Mutex::default(),
    };
    history.renew().await?;
    Ok(Arc::new(history))
}

impl History {
    /// The present value; empty while a new one has still to be written: nothing acknowledged counts then.
    pub(crate) fn value(&self) -> String {
        self.value.lock().clone()
    }

    /// From here on no acknowledgement counts, until [`History::renew`].
    pub(crate) fn lost(&self) {
        self.value.lock().clear();
    }

    /// Writes a fresh value.
    pub(crate) async fn renew(&self) -> Result<(), HistoryError> {
        let fresh = random_id().ok_or(HistoryError::Random)?;
        self.write(&fresh).await?;
        *self.value.lock() = fresh;
        Ok(())
    }

    /// Writes the present value again, over what somebody else has written.
    pub(crate) async fn repair(&self) -> Result<(), HistoryError> {
        let value = self.value();
        if value.is_empty() { self.renew().await } else { self.write(&value).await }
    }

    async fn write(&self, value: &str) -> Result<(), HistoryError> {
        let map = ConfigMap {
            metadata: ObjectMeta { name: Some(HISTORY.to_owned()), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([(HISTORY_KEY.to_owned(), value.to_owned())])),
            ..ConfigMap::default()
        };
        let written = self.api.patch(HISTORY, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&map)).await?;
        self.versions.note(version_of(&written.metadata));
        Ok(())
    }
}
