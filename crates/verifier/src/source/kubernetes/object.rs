//! What a ConfigMap of the bundles namespace means.

use std::sync::Arc;

use countersign_api::{
    bundle::is_bundle_file,
    cluster::{BUNDLE_KEY, HISTORY, HISTORY_KEY, POLICY_ANNOTATION},
};
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use super::{
    super::held::{Offer, Unreadable},
    connect::ApiError,
};

/// What is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A bundle, by the name that its file would have.
    Bundle(String, Offer),
    /// No bundle of that name any more.
    Gone(String),
    /// The history that acknowledgements are of; empty when nobody names one.
    History(String),
}

/// What an object means to us, if anything.
pub(super) fn present(object: ConfigMap) -> Option<Change> {
    let ConfigMap { metadata, data, .. } = object;
    let mut data = data.unwrap_or_default();
    if metadata.name.as_deref() == Some(HISTORY) {
        return Some(Change::History(data.remove(HISTORY_KEY).unwrap_or_default()));
    }
    let file = bundle_file(&metadata)?;
    let policy = metadata.annotations.as_ref().and_then(|a| a.get(POLICY_ANNOTATION)).and_then(|name| name.parse().ok());
    let content = match data.remove(BUNDLE_KEY) {
        Some(text) => Ok(Arc::from(text.into_bytes())),
        None => Err(Unreadable(format!("the ConfigMap has no key {BUNDLE_KEY}"))),
    };
    Some(Change::Bundle(file, Offer { content, secrets: None, policy }))
}

/// What an object's end means to us, if anything.
pub(super) fn gone(object: &ConfigMap) -> Option<Change> {
    if object.metadata.name.as_deref() == Some(HISTORY) {
        return Some(Change::History(String::new()));
    }
    bundle_file(&object.metadata).map(Change::Gone)
}

fn bundle_file(metadata: &ObjectMeta) -> Option<String> {
    let file = format!("{}.json", metadata.name.as_deref()?);
    is_bundle_file(&file).then_some(file)
}

/// A version as a number: the API server's can be compared, and a later one is higher.
pub(super) fn number(text: Option<&str>) -> Result<u64, ApiError> {
    let unlike = || ApiError::Unexpected(format!("{text:?} is no resourceVersion that can be compared"));
    text.and_then(|text| text.parse().ok()).ok_or_else(unlike)
}
