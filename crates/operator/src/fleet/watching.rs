//! Keeps the fleet's roll: pods, nodes and what the feed says of leases.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use countersign_api::cluster::{
    self, APP_NAME, COMPONENT_LABEL, FIELD_MANAGER, FLEET, HISTORY, HISTORY_KEY, ISSUER, VERIFIER,
};
use countersign_feed::Clock;
use k8s_openapi::{
    api::core::v1::{ConfigMap, Node, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
    core::PartialObjectMeta,
    runtime::watcher,
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::{PodSeen, Roll, Verifier, roll::Listed};
use crate::{
    history::{History, Mismatch},
    mirror::{Mirror, WatchLost},
    registry::{FeedPresent, Request},
    run::Context,
    versions::version_of,
};

/// The key of the ConfigMap [`FLEET`]: the names of verifiers outside pods, as a JSON list.
const VERIFIERS_KEY: &str = "verifiers.json";
/// How often absences are looked at when nothing else happens.
const EVERY: Duration = Duration::from_secs(1);
/// A policy's `absentAfter`, unless it says otherwise.
const ABSENT_AFTER_MS: i64 = 600_000;
/// How many verifiers outside pods are remembered.
const MAX_REMEMBERED: usize = 1000;
/// How long it takes until a name that could not be written is tried again; twice as long each time, up to the other.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_AT_MOST: Duration = Duration::from_mins(1);

/// What a pod of ours is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Member {
    Verifier(PodSeen),
    /// One that the API server lists may still sign, unless all its containers have ended.
    Issuer {
        name: String,
        terminated: bool,
    },
}

/// What is watched.
#[derive(Default)]
struct Watched {
    members: Mirror<Member>,
    nodes: Mirror<()>,
    remembered: Mirror<BTreeSet<String>>,
    history: Mirror<(String, u64)>,
    /// Pods that were seen to have ended since the last look, were it by their last word.
    ended: Mutex<BTreeSet<String>>,
    changed: Notify,
}

impl Watched {
    fn member(&self, pod: Pod) -> Option<(String, Member)> {
        let (name, member) = member(pod)?;
        let terminated = match &member {
            Member::Verifier(pod) => pod.terminated,
            Member::Issuer { terminated, .. } => *terminated,
        };
        if terminated {
            self.ended.lock().insert(name.clone());
        }
        Some((name, member))
    }
}

/// Keeps the fleet until the process ends.
pub(crate) async fn run(context: Context, history: Arc<History>) -> Result<(), WatchLost> {
    let watched = Watched::default();
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &context.config.system_namespace);
    let ours = format!("app.kubernetes.io/name={APP_NAME},{COMPONENT_LABEL} in ({VERIFIER},{ISSUER})");
    let nodes: Api<PartialObjectMeta<Node>> = Api::all(context.client.clone());
    let system_maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.config.system_namespace);
    let bundle_maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.config.bundles_namespace);
    let named = |name: &str| watcher::Config::default().fields(&format!("metadata.name={name}"));
    let told = |_| watched.changed.notify_one();
    tokio::select! {
        lost = watched.members.run("pods", watcher(pods, watcher::Config::default().labels(&ours)), |pod| watched.member(pod), told) => lost,
        lost = watched.nodes.run("nodes", watcher(nodes, watcher::Config::default()), |node| Some((node.metadata.name?, ())), told) => lost,
        lost = watched.remembered.run("the fleet's memory", watcher(system_maps, named(FLEET)), remembered, told) => lost,
        lost = watched.history.run("the history", watcher(bundle_maps, named(HISTORY)), history_value, told) => lost,
        () = observe(&context, &watched, &history) => Ok(()),
        () = context.stop.cancelled() => Ok(()),
    }
}

async fn observe(context: &Context, watched: &Watched, history: &History) {
    tokio::join!(watched.members.synced(), watched.nodes.synced(), watched.remembered.synced(), watched.history.synced());
    let mut roll = Roll::default();
    let mut memory = Memory::default();
    let mut feed = context.registry.feed();
    let mut told: Option<(Vec<Verifier>, bool, String)> = None;
    let mut told_at = Instant::now();
    loop {
        let shown = watched.history.one(HISTORY);
        match history.compare(shown.as_ref().map(|(value, version)| (value.as_str(), *version))) {
            None => {}
            Some(Mismatch::Deleted) => {
                if let Err(error) = history.restore().await {
                    tracing::warn!(%error, "the history was deleted and can't be written again now");
                }
            }
            Some(Mismatch::Another) => {
                tracing::error!("the history of bundles is another than this leader began: the API server was restored");
                if context.registry.ask(Request::WentBack).await.is_err() {
                    return;
                }
            }
        }
        let present = feed.borrow_and_update().clone();
        let verifiers = look(&mut roll, context, watched, &present);
        memory.keep(context, watched, &roll).await;
        let issuers = watched.members.all().into_iter().filter_map(|member| match member {
            Member::Issuer { name, terminated: false } => Some(name),
            Member::Issuer { .. } | Member::Verifier(_) => None,
        });
        let value = history.value();
        let key = (said(&verifiers), present.fresh, value.clone());
        context.registry.set_fleet(roll.fleet(verifiers, &value, &present, issuers, Clock::wall()));
        if told.as_ref() != Some(&key) || told_at.elapsed() >= EVERY {
            told = Some(key);
            told_at = Instant::now();
            if context.registry.ask(Request::Fleet).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = feed.changed() => if changed.is_err() { return },
            () = watched.changed.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

fn look(roll: &mut Roll, context: &Context, watched: &Watched, present: &FeedPresent) -> Vec<Verifier> {
    // What ended was listed before, or still is: so the list is read after.
    let ended = std::mem::take(&mut *watched.ended.lock());
    let pod = |member| match member {
        Member::Verifier(pod) => Some(pod),
        Member::Issuer { .. } => None,
    };
    let pods: Vec<PodSeen> = watched.members.all().into_iter().filter_map(pod).collect();
    let nodes: BTreeSet<String> = watched.nodes.keys().into_iter().collect();
    let remembered = watched.remembered.one(FLEET).unwrap_or_default();
    let listed = Listed {
        pods: &pods,
        nodes: &nodes,
        ended: &ended,
        remembered: &remembered,
        longest_absent_after_ms: if roll.misses_any() { longest_absent_after(context) } else { i64::MAX },
    };
    roll.observe(&listed, present, Clock::boot_millis())
}

/// Of all policies, in milliseconds.
pub(crate) fn longest_absent_after(context: &Context) -> i64 {
    let policies = context.registry.policies();
    let declared = policies.iter().filter_map(|view| view.effective.as_ref());
    declared.map(|effective| effective.keys.absent_after.as_millis()).max().unwrap_or(0).max(ABSENT_AFTER_MS)
}

/// Absences aside, which change all the time.
fn said(verifiers: &[Verifier]) -> Vec<Verifier> {
    verifiers.iter().map(|verifier| Verifier { absent_ms: 0, ..verifier.clone() }).collect()
}

fn member(pod: Pod) -> Option<(String, Member)> {
    let name = pod.metadata.name?;
    let issuer = pod.metadata.labels.as_ref().and_then(|l| l.get(COMPONENT_LABEL)).is_some_and(|c| c == ISSUER);
    let status = pod.status.unwrap_or_default();
    let containers = status.container_statuses.unwrap_or_default();
    let ended = |c: &k8s_openapi::api::core::v1::ContainerStatus| c.state.as_ref().is_some_and(|s| s.terminated.is_some());
    // A container that is about to be started again counts as running; a pod that has come to its end doesn't restart any.
    // The phase alone proves nothing: the control plane sets it too, for a node that it can't reach.
    let phase_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let being_deleted = pod.metadata.deletion_timestamp.is_some();
    let terminated = (phase_over || being_deleted) && !containers.is_empty() && containers.iter().all(ended);
    if issuer {
        return Some((name.clone(), Member::Issuer { name, terminated }));
    }
    let node = pod.spec.and_then(|spec| spec.node_name).filter(|node| !node.is_empty());
    Some((name.clone(), Member::Verifier(PodSeen { name, node, terminated })))
}

fn remembered(map: ConfigMap) -> Option<(String, BTreeSet<String>)> {
    let names = names_in(&map);
    Some((map.metadata.name?, names))
}

fn names_in(map: &ConfigMap) -> BTreeSet<String> {
    let text = map.data.as_ref().and_then(|data| data.get(VERIFIERS_KEY));
    let parsed = text.map(|text| serde_json::from_str(text)).transpose();
    parsed
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "the ConfigMap {FLEET} can't be read: no verifier outside a pod is remembered");
            None
        })
        .unwrap_or_default()
}

fn history_value(map: ConfigMap) -> Option<(String, (String, u64))> {
    let version = version_of(&map.metadata);
    let value = map.data.and_then(|mut data| data.remove(HISTORY_KEY)).unwrap_or_default();
    Some((map.metadata.name?, (value, version)))
}

/// What is remembered of verifiers outside pods, and when that may be tried again.
#[derive(Default)]
struct Memory {
    failures: u32,
    again: Option<Instant>,
    /// Whether it was said that there are too many.
    full: bool,
}

impl Memory {
    async fn keep(&mut self, context: &Context, watched: &Watched, roll: &Roll) {
        let fresh = roll.to_remember();
        if fresh.is_empty() || self.again.is_some_and(|again| Instant::now() < again) {
            return;
        }
        let (names, left_out) = remember(watched.remembered.one(FLEET).unwrap_or_default(), &fresh);
        if left_out > 0 && !std::mem::replace(&mut self.full, true) {
            tracing::error!(
                left_out,
                "more than {MAX_REMEMBERED} verifiers outside pods: a later leader won't know of those left out; forget \
                 those that are gone (countersign fleet forget NAME), and see who may write leases"
            );
        }
        if left_out == fresh.len() {
            return;
        }
        match write(context, &names).await {
            Ok(()) => {
                (self.failures, self.again) = (0, None);
                tracing::info!(verifiers = ?fresh, "verifiers outside pods are remembered until they are forgotten by name");
            }
            Err(error) => {
                let wait = RETRY.saturating_mul(1 << self.failures.min(6)).min(RETRY_AT_MOST);
                self.failures = self.failures.saturating_add(1);
                self.again = Some(Instant::now() + wait);
                tracing::warn!(%error, "the ConfigMap {FLEET} can't be written");
            }
        }
    }
}

/// The names with those that are new, as far as there is room, and how many there wasn't room for.
fn remember(mut names: BTreeSet<String>, fresh: &[String]) -> (BTreeSet<String>, usize) {
    let room = MAX_REMEMBERED.saturating_sub(names.len());
    names.extend(fresh.iter().take(room).cloned());
    (names, fresh.len().saturating_sub(room))
}

async fn write(context: &Context, names: &BTreeSet<String>) -> Result<(), kube::Error> {
    let text = serde_json::to_string(names).map_err(kube::Error::SerdeError)?;
    let map = ConfigMap {
        metadata: ObjectMeta { name: Some(FLEET.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([(VERIFIERS_KEY.to_owned(), text)])),
        ..ConfigMap::default()
    };
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.config.system_namespace);
    let written = api.patch(FLEET, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&map)).await?;
    context.versions.note(version_of(&written.metadata));
    Ok(())
}

/// Forgets a verifier outside pods, so that no rotation waits for it. Whether it was remembered.
pub(crate) async fn forget(context: &Context, name: &str) -> Result<bool, kube::Error> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.config.system_namespace);
    let Some(mut map) = api.get_opt(cluster::FLEET).await? else { return Ok(false) };
    let mut names = names_in(&map);
    if !names.remove(name) {
        return Ok(false);
    }
    let text = serde_json::to_string(&names).map_err(kube::Error::SerdeError)?;
    map.data = Some(BTreeMap::from([(VERIFIERS_KEY.to_owned(), text)]));
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    let written = api.replace(FLEET, &params, &map).await?;
    context.versions.note(version_of(&written.metadata));
    Ok(true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_has_ended_when_its_containers_have_and_not_because_the_control_plane_says_so() {
        let (running, over) = (json!({"running": {}}), json!({"terminated": {"exitCode": 0}}));
        for (phase, deleted, states, terminated) in [
            ("Running", false, vec![&running], false),
            ("Running", false, vec![&over], false),
            ("Running", true, vec![&running], false),
            ("Running", true, vec![&over, &running], false),
            ("Running", true, vec![&over, &over], true),
            ("Running", true, vec![], false),
            ("Failed", false, vec![&running], false),
            ("Failed", true, vec![&running], false),
            ("Failed", false, vec![], false),
            ("Failed", false, vec![&over], true),
            ("Succeeded", false, vec![&over, &over], true),
        ] {
            let statuses: Vec<_> = states
                .iter()
                .map(|state| json!({"name": "c", "image": "i", "imageID": "i", "ready": false, "restartCount": 0, "state": state}))
                .collect();
            let mut pod = json!({
                "metadata": {"name": "v"},
                "spec": {"nodeName": "n", "containers": []},
                "status": {"phase": phase, "containerStatuses": statuses},
            });
            if deleted {
                pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            let watched = Watched::default();
            let (_, member) = watched.member(serde_json::from_value(pod).unwrap()).unwrap();
            let expected = Member::Verifier(PodSeen { name: "v".into(), node: Some("n".into()), terminated });
            assert_eq!(member, expected, "{phase} {deleted} {states:?}");
            assert_eq!(watched.ended.lock().contains("v"), terminated, "its last word is heard");
        }
    }

    #[test]
    fn no_more_verifiers_outside_pods_are_remembered_than_an_object_can_hold() {
        let verifiers = |range: std::ops::Range<usize>| range.map(|i| format!("v{i:04}")).collect::<Vec<_>>();
        let (names, left_out) = remember(BTreeSet::new(), &verifiers(0..3));
        assert_eq!((names.len(), left_out), (3, 0));
        let (names, left_out) = remember(verifiers(0..999).into_iter().collect(), &verifiers(999..1010));
        assert_eq!((names.len(), left_out), (MAX_REMEMBERED, 10));
    }
}
