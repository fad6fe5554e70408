//! Which cluster is called, and as whom.

use std::path::Path;

use countersign_api::cluster::SYSTEM_NAMESPACE;
use kube::config::{Config, KubeConfigOptions, Kubeconfig, KubeconfigError};

use super::Cluster;
use crate::{
    args::Common,
    failure::{Failure, chain},
    output::printable,
};

/// What a pod's own cluster is called.
const IN_CLUSTER: &str = "in-cluster";

/// The token that a pod is given.
const POD_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// Where the way to a cluster is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// In a kubeconfig.
    Kubeconfig,
    /// In the pod that this process runs in.
    Pod,
}

/// The cluster that was named: by flags, by being the kubectl plugin, or by running in a pod.
pub(crate) fn named(common: &Common, plugin: bool) -> Option<Source> {
    if common.context.is_some() || common.kubeconfig.is_some() {
        return Some(Source::Kubeconfig);
    }
    let in_pod =
        std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|v| !v.is_empty()) && Path::new(POD_TOKEN).exists();
    match (plugin, in_pod) {
        // As kubectl: a kubeconfig in the pod comes before the pod's own account.
        (true, true) if present_context().is_none() => Some(Source::Pod),
        (true, _) => Some(Source::Kubeconfig),
        (false, true) => Some(Source::Pod),
        (false, false) => None,
    }
}

/// The current context of the kubeconfig that kubectl would use; none when there is no usable one.
pub(crate) fn present_context() -> Option<String> {
    let kubeconfig = Kubeconfig::read().ok()?;
    let current = kubeconfig.current_context.filter(|name| !name.is_empty())?;
    kubeconfig.contexts.iter().any(|context| context.name == current).then_some(current)
}

/// The cluster at the other end of `source`. No call is made yet.
pub(crate) async fn connect(common: &Common, source: Source) -> Result<Cluster, Failure> {
    let (name, mut config) = match source {
        Source::Pod => {
            let config = Config::incluster()
                .map_err(|e| Failure::unable(format!("can't use this pod's service account: {}", chain(&e))))?;
            (IN_CLUSTER.to_owned(), config)
        }
        Source::Kubeconfig => from_kubeconfig(common).await?,
    };
    config.connect_timeout = Some(common.timeout.0);
    // What fails is said; whether to try again is the caller's to decide.
    config.default_retry = false;
    let namespace = config.default_namespace.clone();
    let client = kube::Client::try_from(config.clone())
        .map_err(|e| Failure::unable(format!("can't set up the way to cluster {name}: {}", chain(&e))))?;
    Ok(Cluster {
        name,
        namespace,
        system_namespace: common.system_namespace.clone().unwrap_or_else(|| SYSTEM_NAMESPACE.to_owned()),
        client,
        config,
        timeout: common.timeout.0,
        account: common.as_service_account.clone(),
    })
}

async fn from_kubeconfig(common: &Common) -> Result<(String, Config), Failure> {
    let kubeconfig = match &common.kubeconfig {
        Some(file) => Kubeconfig::read_from(file),
        None => Kubeconfig::read(),
    };
    let kubeconfig = kubeconfig.map_err(|e| match e {
        KubeconfigError::FindPath => {
            Failure::usage("there is no kubeconfig").fix("name one with --kubeconfig, or in KUBECONFIG")
        }
        KubeconfigError::ReadConfig(error, path) => {
            Failure::usage(format!("kubeconfig {}: {error}", path.display())).fix("name another with --kubeconfig")
        }
        other => Failure::usage(format!("the kubeconfig is not usable: {}", chain(&other))),
    })?;
    let contexts: Vec<String> = kubeconfig.contexts.iter().map(|c| printable(&c.name)).collect();
    let choices = if contexts.is_empty() { "it has none".to_owned() } else { format!("it has {}", contexts.join(", ")) };
    let current = kubeconfig.current_context.clone().filter(|name| !name.is_empty());
    let name = match common.context.clone().or(current) {
        Some(name) if kubeconfig.contexts.iter().any(|c| c.name == name) => name,
        Some(name) => {
            let message = format!("the kubeconfig has no context {}", printable(&name));
            return Err(Failure::usage(message).fix(format!("{choices}; --context names one")));
        }
        None => {
            return Err(
                Failure::usage("the kubeconfig has no current context").fix(format!("name one with --context: {choices}"))
            );
        }
    };
    let options = KubeConfigOptions { context: Some(name.clone()), ..KubeConfigOptions::default() };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|e| Failure::usage(format!("context {}: {}", printable(&name), chain(&e))))?;
    Ok((printable(&name), config))
}
