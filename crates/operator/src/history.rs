//! The history of bundles: a random value that every leader begins anew.
//!
//! A verifier acknowledges under the history that its watch has shown it. What was acknowledged before this leader, or before
//! the API server was restored, may speak of bundles that are not there any more, and doesn't count.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::cluster::{FIELD_MANAGER, HISTORY, HISTORY_KEY};
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use parking_lot::Mutex;

use crate::{
    jitter::random_id,
    run::Context,
    versions::{Shown, Versions, version_of},
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
    state: Mutex<State>,
}

/// The present history, and how it is written.
#[derive(Default)]
struct State {
    /// Empty while a new one has still to be written.
    value: String,
    version: u64,
    /// The watch has shown that version, so that anything else there means something.
    confirmed: bool,
}

/// What the watch's view of the history asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// It was deleted: the same value is to be written again.
    Deleted,
    /// It is another's, or an earlier one: the API server was restored, or somebody else leads.
    Another,
}

/// Begins a history.
pub(crate) async fn begin(context: &Context) -> Result<Arc<History>, HistoryError> {
    let history = History {
        api: Api::namespaced(context.client.clone(), &context.config.bundles_namespace),
        versions: context.versions.clone(),
        state: Mutex::default(),
    };
    history.renew().await?;
    Ok(Arc::new(history))
}

impl History {
    /// The present value; empty while a new one has still to be written: nothing acknowledged counts then.
    pub(crate) fn value(&self) -> String {
        self.state.lock().value.clone()
    }

    /// From here on no acknowledgement counts, until [`History::renew`].
    pub(crate) fn lost(&self) {
        self.state.lock().value.clear();
    }

    /// Compares it with what the watch shows: a value, at a version.
    pub(crate) fn compare(&self, shown: Option<(&str, u64)>) -> Option<Mismatch> {
        let mut state = self.state.lock();
        if state.value.is_empty() {
            return None;
        }
        match crate::versions::shown(Some(state.version), state.confirmed, shown.map(|(_, version)| version)) {
            Shown::Lags => None,
            Shown::AsWritten => {
                state.confirmed = true;
                None
            }
            Shown::Gone => Some(Mismatch::Deleted),
            Shown::WentBack => Some(Mismatch::Another),
            // Its metadata may have been touched.
            Shown::Later => {
                let (value, version) = shown?;
                if value != state.value {
                    return Some(Mismatch::Another);
                }
                (state.version, state.confirmed) = (version, true);
                None
            }
        }
    }

    /// Writes a fresh value, over whatever is there now.
    pub(crate) async fn renew(&self) -> Result<(), HistoryError> {
        let fresh = random_id().ok_or(HistoryError::Random)?;
        let found = self.api.get_metadata_opt(HISTORY).await?;
        self.write(fresh, found.map(|found| version_of(&found.metadata))).await
    }

    /// Writes the present value again, where somebody has deleted it.
    pub(crate) async fn restore(&self) -> Result<(), HistoryError> {
        let value = self.value();
        if value.is_empty() { Ok(()) } else { self.write(value, None).await }
    }

    /// `on`: the version that is overwritten, and no other, so that nobody who leads no more overwrites a later history.
    async fn write(&self, value: String, on: Option<u64>) -> Result<(), HistoryError> {
        let map = ConfigMap {
            metadata: ObjectMeta {
                name: Some(HISTORY.to_owned()),
                resource_version: on.map(|version| version.to_string()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(HISTORY_KEY.to_owned(), value.clone())])),
            ..ConfigMap::default()
        };
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        let written = match on {
            None => {
                let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
                self.api.create(&params, &map).await?
            }
            Some(_) => self.api.patch(HISTORY, &apply, &Patch::Apply(&map)).await?,
        };
        let version = version_of(&written.metadata);
        self.versions.note(version);
        *self.state.lock() = State { value, version, confirmed: false };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::ApiServer;

    #[tokio::test]
    async fn a_history_that_goes_back_or_becomes_another_shows_a_restore_and_one_that_is_deleted_is_written_again() {
        let server = ApiServer::default();
        let (context, _inbox) = server.context();
        let history = begin(&context).await.unwrap();
        let (value, version) = (history.value(), history.state.lock().version);
        assert!(!value.is_empty());
        assert_eq!(history.compare(Some(("of before", version - 1))), None, "the watch lags");
        assert_eq!(history.compare(Some((&value, version))), None);
        assert_eq!(history.compare(Some(("of before", version - 1))), Some(Mismatch::Another), "it lags no more");
        assert_eq!(history.compare(Some(("another's", version + 1))), Some(Mismatch::Another));
        assert_eq!(history.compare(None), Some(Mismatch::Deleted));
        assert_eq!(history.compare(Some((&value, version + 1))), None, "somebody touched its labels");
        history.lost();
        assert_eq!(history.compare(Some(("another's", version + 5))), None, "a new one is on its way");
        history.renew().await.unwrap();
        assert_ne!(history.value(), value);
    }
}
