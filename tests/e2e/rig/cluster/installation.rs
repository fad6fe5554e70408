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

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    Api, Cable, Cluster, Operator, SimulatedFleet, Writes,
    issuer::{Given, Issuer},
};
use crate::rig::{PATIENCE, Redis, Verifier, VerifierOptions, eventually, eventually_every};
use countersign_test_servers::Postgres;

/// The namespace of the operator and of key rings.
pub(crate) const SYSTEM: &str = "countersign-system";
/// The namespace of bundles.
pub(crate) const BUNDLES: &str = "countersign-bundles";

/// The database of the issuers.
const DATABASE: &str = "issuers";

/// How long a large fleet's pods take to become Ready.
const ALL_PODS: Duration = Duration::from_mins(10);

/// What is installed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    pub(crate) nodes: usize,
    pub(crate) operators: usize,
    /// Issuers, on one PostgreSQL.
    pub(crate) issuers: usize,
    /// Nodes have no verifier pods.
    pub(crate) without_verifiers: bool,
    /// Further arguments of operators.
    pub(crate) operator_arguments: Vec<String>,
    /// Further arguments of issuers.
    pub(crate) issuer_arguments: Vec<String>,
    /// Further variables of issuers.
    pub(crate) issuer_environment: Vec<(String, String)>,
}

/// A cluster with everything installed, and a Redis.
pub(crate) struct Installation {
    mount: Mount,
    pub(crate) cluster: Cluster,
    pub(crate) redis: Redis,
    directory: TempDir,
    operator_arguments: Vec<String>,
    database: Option<Postgres>,
    issuer_arguments: Vec<String>,
    issuer_environment: Vec<(String, String)>,
}

impl Installation {
    /// Starts a cluster with that many nodes, a verifier pod on each, and pods for that many operators.
    pub(crate) fn start(nodes: usize, operators: usize) -> Self {
        Self::with(Setup { nodes, operators, ..Setup::default() })
    }

    /// Starts a cluster and installs the chart.
    pub(crate) fn with(setup: Setup) -> Self {
        let cluster = Cluster::start(setup.nodes);
        let redis = Redis::start();
        let directory = tempfile::tempdir().unwrap();
        let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/../../charts/countersign");
        let nowhere = if setup.without_verifiers { ",verifier.nodeSelector.nowhere=here" } else { "" };
        let people = match setup.issuers {
            0 => String::new(),
            issuers => format!(",issuer.enabled=true,issuer.replicas={issuers},issuer.database.existingSecret=database"),
        };
        let values = format!("redis.url={},operator.replicas={}{nowhere}{people}", redis.url(), setup.operators);
        let install = ["install", "countersign", chart, "--namespace", SYSTEM, "--create-namespace", "--set", &values];
        cluster.helm(&install);
        let parts: &[&str] =
            if setup.issuers == 0 { &["operator", "verifier"] } else { &["operator", "verifier", "issuer"] };
        for file in parts {
            let account = &format!("countersign-{file}");
            cluster.kubeconfig_of(SYSTEM, account, cluster.server(), &directory.path().join(file));
        }
        let mut operator_arguments = setup.operator_arguments;
        if setup.issuers == 0 {
            operator_arguments.push("--no-issuer".to_owned());
        }
        let database = (setup.issuers > 0).then(|| Postgres::start(&["fsync=off"]).unwrap());
        if let Some(database) = &database {
            database.create(DATABASE, None).unwrap();
        }
        let mount = Mount::start(cluster.api(), directory.path().join("bundle-trust"));
        let installation = Self {
            mount,
            cluster,
            redis,
            directory,
            operator_arguments,
            database,
            issuer_arguments: setup.issuer_arguments,
            issuer_environment: setup.issuer_environment,
        };
        installation.pods("operator", setup.operators);
        installation.pods("issuer", setup.issuers);
        if !setup.without_verifiers {
            installation.pods("verifier", setup.nodes);
        }
        installation
    }

    pub(crate) fn api(&self) -> Api {
        self.cluster.api()
    }

    /// The Ready pods of a component, by node name, once there are that many.
    pub(crate) fn pods(&self, component: &str, count: usize) -> Vec<Value> {
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods?labelSelector=app.kubernetes.io/component={component}");
        // A list of hundreds is dear.
        let pause = Duration::from_millis(2 + 2 * count as u64);
        eventually_every(pause, &format!("{count} Ready pods of the {component}"), ALL_PODS, || {
            let mut pods = self.api().list(&path);
            pods.retain(|pod| {
                let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
                conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
                    && pod["metadata"]["deletionTimestamp"].is_null()
            });
            pods.sort_by_key(|pod| pod["spec"]["nodeName"].to_string());
            (pods.len() >= count).then_some(pods)
        })
    }

    /// What operators and verifiers write from now on.
    pub(crate) fn writes_from_now(&self) -> Writes {
        self.cluster.writes_from_now(SYSTEM)
    }

    /// Runs the operator as its pod of that number.
    pub(crate) fn operator(&self, number: usize) -> Operator {
        let pod = &self.pods("operator", number + 1)[number];
        let kubeconfig = self.directory.path().join("operator");
        let operator = Operator::start(pod, &kubeconfig, &self.redis.url(), &self.operator_arguments);
        let pod_address = format!("{}:7470", pod["status"]["podIP"].as_str().unwrap());
        self.cluster.route(&pod_address, &operator.address());
        operator
    }

    /// Runs the issuer as its pod of that number, once the operator has said whom to trust.
    pub(crate) fn issuer(&self, number: usize) -> Issuer {
        let pod = &self.pods("issuer", number + 1)[number];
        let database = self.database.as_ref().expect("issuers were set up");
        let issuer = Issuer::launch(&Given {
            pod,
            kubeconfig: &self.directory.path().join("issuer"),
            trust: self.mount.wait(),
            redis: &self.redis.url(),
            database: &database.url(DATABASE),
            arguments: &self.issuer_arguments,
            environment: &self.issuer_environment,
        });
        let pod_address = format!("{}:7493", pod["status"]["podIP"].as_str().unwrap());
        self.cluster.route(&pod_address, issuer.cluster_address());
        issuer
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

    /// The same with a mount of its own, whose content [`Installation::mount_trust`] brings.
    pub(crate) fn launch_verifier_apart(&self, node: usize, cable: &Cable, mount: &Path) -> Verifier {
        let file = format!("verifier-{node}");
        self.cluster.kubeconfig_of(SYSTEM, "countersign-verifier", cable.address(), &self.directory.path().join(&file));
        self.run_verifier(node, self.verifier_options(&file), mount)
    }

    /// Brings a mount of the ConfigMap `bundle-trust` to the present.
    pub(crate) fn mount_trust(&self, mount: &Path) {
        follow(&self.api(), mount);
    }

    /// Runs the verifier of a node that serves on a socket which an older process may be serving on.
    pub(crate) fn launch_verifier_at(&self, node: usize, socket: &Path) -> Verifier {
        let options = VerifierOptions { socket: Some(socket.to_owned()), ..self.verifier_options("verifier") };
        self.run_verifier(node, options, self.mount.wait())
    }

    fn launch_verifier_as(&self, node: usize, kubeconfig: &str) -> Verifier {
        self.run_verifier(node, self.verifier_options(kubeconfig), self.mount.wait())
    }

    fn verifier_options(&self, kubeconfig: &str) -> VerifierOptions {
        VerifierOptions {
            cluster: Some(self.directory.path().join(kubeconfig)),
            redis: Some(self.redis.url()),
            ..VerifierOptions::default()
        }
    }

    fn run_verifier(&self, node: usize, mut options: VerifierOptions, trust: &Path) -> Verifier {
        let pod = &self.pods("verifier", node + 1)[node];
        options.arguments.push(format!("--bundle-trust={}", trust.display()));
        options.environment.push(("POD_NAME".into(), pod["metadata"]["name"].as_str().unwrap().to_owned()));
        Verifier::launch(Path::new(""), options)
    }

    /// Plays the verifiers of that many nodes: they acknowledge, and give no verdicts.
    pub(crate) fn simulate_verifiers(&self, nodes: usize) -> SimulatedFleet {
        let pods = self.pods("verifier", nodes);
        let names = pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect();
        SimulatedFleet::start(&self.directory.path().join("verifier"), self.mount.wait(), &self.redis.url(), names)
    }

    /// Replaces every verifier pod by one of a new name, as an upgrade does. The processes aren't touched.
    pub(crate) fn renew_verifier_pods(&self) {
        let names =
            |pods: &[Value]| -> Vec<String> { pods.iter().map(|pod| pod["metadata"]["name"].to_string()).collect() };
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods?labelSelector=app.kubernetes.io/component=verifier");
        let api = self.api();
        let old = api.list(&path);
        let before = names(&old);
        // Each is told to have ended, as a kubelet tells it: one that merely vanishes may still run. The DaemonSet's controller
        // then replaces it.
        for pod in &old {
            let ended = pod["spec"]["containers"].as_array().unwrap().iter().map(|container| {
                json!({"name": container["name"], "image": container["image"], "imageID": "", "ready": false,
                       "restartCount": 0, "state": {"terminated": {"exitCode": 0}}})
            });
            let status = json!({"phase": "Succeeded", "containerStatuses": ended.collect::<Vec<_>>()});
            let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{}/status", pod["metadata"]["name"].as_str().unwrap());
            api.merge(&path, &json!({"status": status}));
        }
        eventually("every verifier pod is another", PATIENCE * 2, || {
            let now = names(&self.pods("verifier", before.len()));
            (now.len() == before.len() && now.iter().all(|name| !before.contains(name))).then_some(())
        });
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
