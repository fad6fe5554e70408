//! A Kubernetes cluster: the real control plane of `tests/cluster`, with nodes that only seem to be there.

mod api;
mod cable;
mod fleet;
mod installation;
mod issuer;
mod operator;
mod writes;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use serde_json::Value;

pub(crate) use api::{Api, condition, path};
pub(crate) use cable::Cable;
pub(crate) use fleet::SimulatedFleet;
pub(crate) use installation::{BUNDLES, Installation, SYSTEM, Setup};
pub(crate) use issuer::Issuer;
pub(crate) use operator::Operator;
pub(crate) use writes::{Counts, Write, Writes};

use crate::http::Target;

/// A running cluster. It ends with its value, and with this process however that ends.
pub(crate) struct Cluster {
    control: Mutex<Control>,
    address: Value,
    programs: PathBuf,
}

/// The process that holds the servers: it obeys lines, and ends with its standard input.
struct Control {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Cluster {
    /// The one that tests share which take nothing away from it, with our CRDs.
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| {
            let cluster = Self::start(2);
            cluster.install_crds();
            cluster
        })
    }

    /// Starts one with that many nodes; returns when they are Ready.
    pub(crate) fn start(nodes: usize) -> Self {
        let programs = programs();
        let mut child = Command::new(programs.join("countersign-cluster"))
            .args(["up", "--kwok"])
            .arg(programs.join("kwok"))
            .args(["--nodes", &nodes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = serde_json::from_str(&line).expect("the cluster starts; its standard error says why not");
        Self { control: Mutex::new(Control { child, input, output }), address, programs }
    }

    /// Applies `crds/`.
    pub(crate) fn install_crds(&self) {
        let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../../crds");
        self.kubectl_ok(&["apply", "--server-side", "-f", crds]);
        self.kubectl_ok(&["wait", "--for=condition=Established", "--timeout=30s", "-f", crds]);
    }

    /// Runs kubectl as the administrator.
    pub(crate) fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_with(arguments, "")
    }

    /// Runs kubectl with something on its standard input.
    pub(crate) fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self
            .kubectl_command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may refuse its arguments before it reads.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Runs kubectl, which must succeed; its standard output.
    pub(crate) fn kubectl_ok(&self, arguments: &[&str]) -> String {
        let output = self.kubectl(arguments);
        assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.programs.join("kubectl"));
        command.env("KUBECONFIG", self.kubeconfig()).env("KUBECACHEDIR", self.directory().join("kubectl"));
        command
    }

    /// Runs helm as the administrator; it must succeed. Its standard output.
    pub(crate) fn helm(&self, arguments: &[&str]) -> String {
        let output = self.run_helm(arguments);
        assert!(output.status.success(), "helm {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs helm as the administrator; it must fail. Its standard error.
    pub(crate) fn helm_refused(&self, arguments: &[&str]) -> String {
        let output = self.run_helm(arguments);
        assert!(!output.status.success(), "helm {arguments:?} should fail");
        String::from_utf8(output.stderr).unwrap()
    }

    fn run_helm(&self, arguments: &[&str]) -> Output {
        Command::new(self.programs.join("helm"))
            .env("KUBECONFIG", self.kubeconfig())
            .env("HELM_CACHE_HOME", self.directory().join("helm"))
            .env("HELM_CONFIG_HOME", self.directory().join("helm"))
            .env("HELM_DATA_HOME", self.directory().join("helm"))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// The API server, as the administrator.
    pub(crate) fn api(&self) -> Api {
        Api::new(Target::Unix(self.text("socket").into()))
    }

    /// A namespace of its own for a test.
    pub(crate) fn namespace(&self, what: &str) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.api().namespace(&name);
        name
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.text("kubeconfig").into()
    }

    /// Host and port of the API server.
    pub(crate) fn server(&self) -> &str {
        self.text("server").trim_start_matches("https://")
    }

    /// Writes a kubeconfig for a service account, whose token is bound to nothing but the account, to reach the API server at
    /// an address.
    pub(crate) fn kubeconfig_of(&self, namespace: &str, service_account: &str, server: &str, to: &Path) {
        let token = self.api().service_account_token(namespace, service_account, &[]);
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": service_account, "namespace": namespace}}],
            "clusters": [{"name": "test", "cluster": {"server": format!("https://{server}"), "certificate-authority": self.text("caFile")}}],
            "users": [{"name": service_account, "user": {"token": token}}],
        });
        std::fs::write(to, config.to_string()).unwrap();
    }

    /// `kill -9` for the API server.
    pub(crate) fn kill_api_server(&self) {
        self.command("kill kube-apiserver");
    }

    /// Starts it again; it is ready when this returns.
    pub(crate) fn revive_api_server(&self) {
        self.command("start kube-apiserver");
    }

    /// Takes a backup of etcd.
    pub(crate) fn save(&self, name: &str) {
        self.command(&format!("save {name}"));
    }

    /// Restores one: what was written since is lost, and resource versions go back.
    pub(crate) fn load(&self, name: &str) {
        self.command(&format!("load {name}"));
    }

    /// Makes a process answer for a pod when the API server proxies to that pod or to a Service in front of it.
    pub(crate) fn route(&self, pod_address: &str, process_address: &str) {
        self.command(&format!("route {pod_address} {process_address}"));
    }

    /// Who wrote what since the start, one JSON object of the API server's audit log each; the administrator is left out.
    pub(crate) fn writes(&self) -> Vec<Value> {
        let log = std::fs::read_to_string(self.directory().join("audit.jsonl")).unwrap_or_default();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The same from now on, by the service accounts of a namespace.
    pub(crate) fn writes_from_now(&self, namespace: &str) -> Writes {
        Writes::from_now(self.directory().join("audit.jsonl"), namespace)
    }

    fn directory(&self) -> PathBuf {
        self.text("directory").into()
    }

    fn text(&self, name: &str) -> &str {
        self.address[name].as_str().unwrap()
    }

    fn command(&self, line: &str) {
        let mut control = self.control.lock().unwrap();
        writeln!(control.input.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        control.output.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), "ok", "{line}");
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.wait();
    }
}

/// Where `cargo xtask cluster build` keeps what a cluster consists of.
fn programs() -> PathBuf {
    let programs = std::env::var_os("COUNTERSIGN_TEST_CLUSTER").map_or_else(
        || {
            let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
            let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
            cache.expect("HOME is set").join("countersign/cluster/current")
        },
        PathBuf::from,
    );
    assert!(programs.join("countersign-cluster").exists(), "run: cargo xtask cluster build");
    programs
}
