//! Before the operator goes for good: ends it, then takes its finalizers off policies and sessions.
//!
//! Without an operator nobody would take them off, and neither a policy nor its namespace could be deleted any more. One that
//! still ran would put them on again. Policies, key rings and bundles stay as they are, so verifiers that still run serve on.

use std::time::Duration;

use countersign_api::{
    cluster::{APP_NAME, COMPONENT_LABEL, FINALIZER, OPERATOR, OPERATOR_SERVICE},
    policy::AuthPolicy,
    session::Session,
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{apps::v1::Deployment, core::v1::Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How many objects are asked for at a time.
const PAGE: u32 = 500;
/// How often it is looked whether operators have ended.
const LOOK: Duration = Duration::from_millis(500);
/// How often one object is tried again when somebody else changes it meanwhile.
const TRIES: usize = 5;

/// What was let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Released {
    /// AuthPolicies.
    pub(crate) policies: usize,
    /// Sessions.
    pub(crate) sessions: usize,
}

/// Why finalizers are still there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UninstallError {
    /// The Deployment can't be scaled down.
    #[error("the operator can't be ended: {0}")]
    Scale(#[source] kube::Error),
    /// Its pods don't end.
    #[error("operators still run after {} s: {}", waited.as_secs(), names.join(", "))]
    Running {
        /// For how long it was waited.
        waited: Duration,
        /// Their pods.
        names: Vec<String>,
    },
    /// What there is can't be read.
    #[error("{what} can't be listed: {source}")]
    List {
        /// Of which kind.
        what: &'static str,
        /// What the API server said.
        source: kube::Error,
    },
    /// One of them can't be let go.
    #[error("the finalizer of {what} {object} can't be taken off: {source}")]
    Finalizer {
        /// Of which kind.
        what: &'static str,
        /// Which.
        object: String,
        /// What the API server said.
        source: kube::Error,
    },
}

/// Ends the operator's Deployment, waits until none of its pods is left, and takes all finalizers off.
pub(crate) async fn uninstall(
    client: &Client,
    system_namespace: &str,
    patience: Duration,
) -> Result<Released, UninstallError> {
    end_operators(client, system_namespace, patience).await?;
    Ok(Released {
        policies: release::<AuthPolicy>(client, "AuthPolicies").await?,
        sessions: release::<Session>(client, "Sessions").await?,
    })
}

async fn end_operators(client: &Client, namespace: &str, patience: Duration) -> Result<(), UninstallError> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let none = Patch::Merge(json!({"spec": {"replicas": 0}}));
    match deployments.patch_scale(OPERATOR_SERVICE, &PatchParams::default(), &none).await {
        Ok(_) => {}
        Err(error) if is_absent(&error) => {}
        Err(error) => return Err(UninstallError::Scale(error)),
    }
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let ours = ListParams::default().labels(&format!("app.kubernetes.io/name={APP_NAME},{COMPONENT_LABEL}={OPERATOR}"));
    let started = Instant::now();
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let found = pods.list(&ours).await.map_err(|source| UninstallError::List { what: "pods", source })?;
        let names: Vec<String> =
            found.items.iter().filter(|pod| !has_ended(pod)).map(kube::ResourceExt::name_any).collect();
        if names.is_empty() {
            return Ok(());
        }
        if started.elapsed() >= patience {
            return Err(UninstallError::Running { waited: patience, names });
        }
    }
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

async fn release<K>(client: &Client, what: &'static str) -> Result<usize, UninstallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let all: Api<K> = Api::all(client.clone());
    let mut page = ListParams::default().limit(PAGE);
    let mut released = 0;
    loop {
        let found = match all.list_metadata(&page).await {
            Ok(found) => found,
            // The definitions are gone already, and everything with them.
            Err(error) if is_absent(&error) => return Ok(released),
            Err(source) => return Err(UninstallError::List { what, source }),
        };
        for object in &found.items {
            if object.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
                let namespace = object.namespace().unwrap_or_default();
                let name = object.name_any();
                let taken = take_off::<K>(client, &namespace, &name).await;
                taken.map_err(|source| UninstallError::Finalizer {
                    what,
                    object: format!("{namespace}/{name}"),
                    source,
                })?;
                released += 1;
            }
        }
        match found.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(released),
        }
    }
}

/// Takes ours off and leaves others' where they are, whoever else writes the object meanwhile.
async fn take_off<K>(client: &Client, namespace: &str, name: &str) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let mut tries = 1;
    loop {
        let Some(object) = api.get_metadata_opt(name).await? else { return Ok(()) };
        let others: Vec<&String> = object.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
        if others.len() == object.finalizers().len() {
            return Ok(());
        }
        let patch = json!({"metadata": {"resourceVersion": object.resource_version(), "finalizers": others}});
        match api.patch_metadata(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => return Ok(()),
            Err(error) if is_absent(&error) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 && tries < TRIES => tries += 1,
            Err(error) => return Err(error),
        }
    }
}

fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}
