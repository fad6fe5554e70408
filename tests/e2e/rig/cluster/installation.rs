//! Countersign installed in a cluster by its chart, with the pods' programs run as processes of this machine.
//!
//! The pods themselves are Ready and run nothing. What the kubelet would do for ours is done here: their service accounts'
//! tokens, the mounted ConfigMap `bundle-trust`, their names.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Api, Cable, Cluster, Operator};
use crate::rig::{PATIENCE, Redis, Verifier, VerifierOptions, eventually};

/// The namespace of the operator and of key rings.
pub(crate) const SYSTEM: &str = "countersign-system";
/// The namespace of bundles.
pub(crate) const BUNDLES: &str = "countersign-bundles";

/// A cluster with everything installed, and a Redis.
pub(crate) struct Installation {
    mount: Mount,
    pub(crate) cluster: Cluster,
    pub(crate) redis: Redis,
    directory: TempDir,
}

impl Installation {
    /// Starts a cluster with that many nodes, a verifier pod on each, and pods for that many operators.
    pub(crate) fn start(nodes: usize, operators: usize) -> Self {
        let cluster = Cluster::start(nodes);
        let redis = Redis::start();
        let directory = tempfile::tempdir().unwrap();
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/countersign");
        cluster.helm(&[
            "install",
            "countersign",
            chart,
            "--namespace",
            SYSTEM,
            "--create-namespace",
            "--set",
            &format!("redis.url={},operator.replicas={operators}", redis.url()),
        ]);
        for (account, file) in [("countersign-operator", "operator"), ("countersign-verifier", "verifier")] {
            cluster.kubeconfig_of(SYSTEM, account, cluster.server(), &directory.path().join(file));
        }
        let mount = Mount::start(cluster.api(), directory.path().join("bundle-trust"));
        let installation = Self { mount, cluster, redis, directory };
        installation.pods("operator", operators);
        installation.pods("verifier", nodes);
        installation
    }

    pub(crate) fn api(&self) -> Api {
        self.cluster.api()
    }

    /// The Ready pods of a component, by node name, once there are that many.
    pub(crate) fn pods(&self, component: &str, count: usize) -> Vec<Value> {
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods?labelSelector=app.kubernetes.io/component={component}");
        eventually(&format!("{count} Ready pods of the {component}"), PATIENCE, || {
            let mut pods = self.api().list(&path);
            pods.retain(|pod| {
                let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            });
            pods.sort_by_key(|pod| pod["spec"]["nodeName"].to_string());
            (pods.len() >= count).then_some(pods)
        })
    }

    /// Runs the operator as its pod of that number.
    pub(crate) fn operator(&self, number: usize) -> Operator {
        let pod = &self.pods("operator", number + 1)[number];
        let operator = Operator::start(pod, &self.directory.path().join("operator"), &self.redis.url());
        let pod_address = format!("{}:7470", pod["status"]["podIP"].as_str().unwrap());
        self.cluster.route(&pod_address, &operator.address());
        operator
    }

    /// Runs the verifier of a node, ready or not, as soon as the operator has said whom to trust.
    pub(crate) fn launch_verifier(&self, node: usize) -> Verifier {
        self.launch_verifier_as(node, "verifier")
    }

    /// The same with a way of its own to the API server.
    pub(crate) fn launch_verifier_by(&self, node: usize, cable: &Cable) -> Verifier {
        let file = format!("verifier-{node}");
        self.cluster.kubeconfig_of(SYSTEM, "countersign-verifier", cable.address(), &self.directory.path().join(&file));
        self.launch_verifier_as(node, &file)
    }

    fn launch_verifier_as(&self, node: usize, kubeconfig: &str) -> Verifier {
        let trust = self.mount.wait();
        let pod = &self.pods("verifier", node + 1)[node];
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        let options = VerifierOptions {
            cluster: Some(self.directory.path().join(kubeconfig)),
            redis: Some(self.redis.url()),
            arguments: vec![format!("--bundle-trust={}", trust.display())],
            environment: vec![("POD_NAME".into(), name)],
            ..VerifierOptions::default()
        };
        Verifier::launch(Path::new(""), options)
    }
}

/// The ConfigMap `bundle-trust` as the kubelet would mount it: a directory that follows it.
struct Mount {
    directory: PathBuf,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Mount {
    fn start(api: Api, directory: PathBuf) -> Self {
        std::fs::create_dir(&directory).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (to, stopped) = (directory.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                follow(&api, &to);
                // The kubelet looks once a minute.
                std::thread::park_timeout(Duration::from_millis(200));
            }
        });
        Self { directory, stop, thread: Some(thread) }
    }

    /// Waits until it is there; the directory.
    fn wait(&self) -> &Path {
        eventually("the operator has written whom to trust", PATIENCE, || {
            std::fs::read_dir(&self.directory).unwrap().next().map(|_| ())
        });
        &self.directory
    }
}

fn follow(api: &Api, directory: &Path) {
    let Some(answer) = api.try_get(&format!("/api/v1/namespaces/{SYSTEM}/configmaps/bundle-trust")) else { return };
    let Some(data) = answer.json()["data"].as_object().cloned() else { return };
    for (key, text) in data {
        let (text, file) = (text.as_str().unwrap().to_owned(), directory.join(&key));
        if std::fs::read_to_string(&file).is_ok_and(|present| present == text) {
            continue;
        }
        let next = directory.with_file_name(format!("next-{key}"));
        std::fs::write(&next, text).unwrap();
        std::fs::rename(&next, &file).unwrap();
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}
