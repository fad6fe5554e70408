//! Takes the startup taint off a node once its verifier is Ready, where that is asked for (`--startup-taint`).
//!
//! New nodes are given the taint by whoever makes them; apps that don't tolerate it wait until they have somebody to ask. It
//! is never put on a node from here: a verifier that fails later must not drive apps away.

use std::{collections::HashSet, time::Duration};

use countersign_api::cluster::{APP_NAME, COMPONENT_LABEL, STARTUP_TAINT, VERIFIER};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api,
    api::{Patch, PatchParams},
    runtime::watcher::{self, watcher},
};
use serde_json::json;
use tokio::sync::Notify;

use crate::{
    mirror::{Mirror, WatchLost},
    run::Context,
};

/// How soon nodes that could not be changed are tried again.
const AGAIN: Duration = Duration::from_secs(5);

#[derive(Default)]
struct Watched {
    /// By name: whether it has the taint.
    nodes: Mirror<bool>,
    /// Verifiers' pods by name: their node, once they are Ready.
    ready: Mirror<Option<String>>,
    changed: Notify,
}

/// Works until the process ends; does nothing where it isn't asked for.
pub(crate) async fn run(context: Context) -> Result<(), WatchLost> {
    if !context.config.startup_taint {
        context.stop.cancelled().await;
        return Ok(());
    }
    let watched = Watched::default();
    let nodes: Api<Node> = Api::all(context.client.clone());
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &context.config.system_namespace);
    let ours =
        watcher::Config::default().labels(&format!("app.kubernetes.io/name={APP_NAME},{COMPONENT_LABEL}={VERIFIER}"));
    let told = |_| watched.changed.notify_one();
    let tainted = |node: Node| Some((node.metadata.name.clone()?, is_tainted(&node)));
    let ready = |pod: Pod| Some((pod.metadata.name.clone()?, ready_on(pod)));
    tokio::select! {
        lost = watched.nodes.run("nodes' taints", watcher(nodes.clone(), watcher::Config::default()), tainted, told) => lost,
        lost = watched.ready.run("verifiers' readiness", watcher(pods, ours), ready, told) => lost,
        () = keep(&nodes, &watched) => Ok(()),
        () = context.stop.cancelled() => Ok(()),
    }
}

async fn keep(nodes: &Api<Node>, watched: &Watched) {
    tokio::join!(watched.nodes.synced(), watched.ready.synced());
    loop {
        let mut failed = false;
        for name in due(watched) {
            match take_off(nodes, &name).await {
                Ok(()) => tracing::info!(node = name, "its verifier is ready: the startup taint is taken off"),
                Err(error) => {
                    failed = true;
                    tracing::warn!(node = name, %error, "the startup taint could not be taken off; trying again");
                }
            }
        }
        tokio::select! {
            () = watched.changed.notified() => {}
            () = tokio::time::sleep(AGAIN), if failed => {}
        }
    }
}

/// The nodes that have the taint and a Ready verifier.
fn due(watched: &Watched) -> Vec<String> {
    let served: HashSet<String> = watched.ready.all().into_iter().flatten().collect();
    served.into_iter().filter(|node| watched.nodes.one(node) == Some(true)).collect()
}

/// Others change a node's taints too: what was read goes back only if nobody did meanwhile.
async fn take_off(nodes: &Api<Node>, name: &str) -> Result<(), kube::Error> {
    let Some(node) = nodes.get_opt(name).await? else { return Ok(()) };
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let others: Vec<_> = taints.iter().filter(|taint| taint.key != STARTUP_TAINT).collect();
    if others.len() == taints.len() {
        return Ok(());
    }
    let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": others}});
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
}

fn is_tainted(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    taints.into_iter().flatten().any(|taint| taint.key == STARTUP_TAINT)
}

fn ready_on(pod: Pod) -> Option<String> {
    let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
    let is_ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if is_ready && pod.metadata.deletion_timestamp.is_none() { pod.spec?.node_name } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_s_taint_goes_with_a_ready_verifier_of_its_own() {
        let pod = |ready: &str, node: Option<&str>| {
            let conditions = json!([{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": ready}]);
            serde_json::from_value::<Pod>(
                json!({"spec": {"nodeName": node, "containers": []}, "status": {"conditions": conditions}}),
            )
            .unwrap()
        };
        assert_eq!(ready_on(pod("True", Some("a"))).as_deref(), Some("a"));
        assert_eq!(ready_on(pod("False", Some("a"))), None);
        assert_eq!(ready_on(pod("True", None)), None);
        assert_eq!(ready_on(Pod::default()), None);

        let node = |taints| serde_json::from_value::<Node>(json!({"spec": {"taints": taints}})).unwrap();
        let ours = json!({"key": STARTUP_TAINT, "effect": "NoSchedule"});
        let other = json!({"key": "dedicated", "value": "x", "effect": "NoSchedule"});
        assert!(is_tainted(&node(json!([other, ours]))));
        assert!(!is_tainted(&node(json!([other]))));
        assert!(!is_tainted(&Node::default()));
    }
}
