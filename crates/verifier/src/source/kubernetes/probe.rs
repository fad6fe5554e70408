//! Where the API server stands, and in which history.

use countersign_api::cluster::{HISTORY, HISTORY_KEY};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::ListParams};

use super::{
    connect::{ApiError, in_time},
    object::number,
};

/// What is read, in words.
pub(super) const CONFIG_MAPS: &str = "ConfigMaps";

/// The `history` ConfigMap as the API server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct History {
    pub(super) value: String,
    pub(super) version: u64,
}

/// The API server's present version.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) asked_at: i64,
    pub(super) version: u64,
    pub(super) history: Option<History>,
}

/// Asks for the `history` ConfigMap alone, without a version in the question: the answer's own is the present one.
pub(super) async fn probe(api: Api<ConfigMap>, namespace: String, asked_at: i64) -> Result<Probe, ApiError> {
    let only = ListParams::default().fields(&format!("metadata.name={HISTORY}")).limit(1);
    let list = in_time(api.list(&only), CONFIG_MAPS, &namespace).await?;
    let version = number(list.metadata.resource_version.as_deref())?;
    let history = list.items.first().map(history_of).transpose()?.flatten();
    Ok(Probe { asked_at, version, history })
}

pub(super) fn history_of(object: &ConfigMap) -> Result<Option<History>, ApiError> {
    if object.metadata.name.as_deref() != Some(HISTORY) {
        return Ok(None);
    }
    let value = object.data.as_ref().and_then(|data| data.get(HISTORY_KEY)).cloned().unwrap_or_default();
    Ok(Some(History { value, version: number(object.metadata.resource_version.as_deref())? }))
}
