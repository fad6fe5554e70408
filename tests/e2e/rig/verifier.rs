//! `countersign-verifier` as a child process.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PATIENCE, Process, binaries, eventually};
use crate::http::{Answer, Connection, Request, Target};

/// How a verifier is started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    /// `--redis`; without it `--without-feed`.
    pub(crate) redis: Option<String>,
    /// Further arguments.
    pub(crate) arguments: Vec<String>,
    /// A program that starts it, with its own arguments (`prlimit …`).
    pub(crate) under: Vec<String>,
    /// Further environment variables.
    pub(crate) environment: Vec<(String, String)>,
    /// Its socket, when not in a directory of its own.
    pub(crate) socket: Option<PathBuf>,
    /// Where it keeps its state, when not in a directory of its own.
    pub(crate) data: Option<PathBuf>,
    /// The kubeconfig of the cluster that it follows in place of a directory.
    pub(crate) cluster: Option<PathBuf>,
}

/// A running verifier with its data directory.
pub(crate) struct Verifier {
    process: Process,
    data: TempDir,
    bundles: PathBuf,
    options: Options,
}

impl Verifier {
    /// Starts one on a directory of bundles, following a Redis, and waits until it is ready.
    pub(crate) fn start(bundles: &Path, redis: &str) -> Self {
        Self::with(bundles, Options { redis: Some(redis.into()), ..Options::default() })
    }

    /// Starts one and waits until it is ready.
    pub(crate) fn with(bundles: &Path, options: Options) -> Self {
        let mut verifier = Self::launch(bundles, options);
        verifier.wait_until_ready();
        verifier
    }

    /// Starts one, ready or not.
    pub(crate) fn launch(bundles: &Path, options: Options) -> Self {
        let data = tempfile::tempdir().unwrap();
        let process = launch(&data, bundles, &options);
        Self { process, data, bundles: bundles.to_owned(), options }
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same data, ready or not.
    pub(crate) fn relaunch(&mut self) {
        self.process.kill();
        self.process = launch(&self.data, &self.bundles, &self.options);
    }

    /// Starts it again on the same data and waits until it is ready.
    pub(crate) fn restart(&mut self) {
        self.relaunch();
        self.wait_until_ready();
    }

    /// Asks it to end. It drains, and then it is gone.
    pub(crate) fn terminate(&self) {
        self.process.signal(rustix::process::Signal::TERM);
    }

    /// Copies what it has saved so far.
    pub(crate) fn save_disk(&self, to: &Path) {
        copy_files(&self.data(), to);
    }

    /// `kill -9`, and again on a disk as it was once; ready or not.
    pub(crate) fn relaunch_on(&mut self, disk: &Path) {
        self.process.kill();
        std::fs::remove_dir_all(self.data()).unwrap();
        copy_files(disk, &self.data());
        self.process = launch(&self.data, &self.bundles, &self.options);
    }

    pub(crate) fn wait_until_ready(&mut self) {
        eventually("the verifier is ready", PATIENCE, || {
            self.process.assert_running();
            self.health("/readyz").filter(|answer| answer.status == 200)
        });
    }

    /// Waits until its revocations are up to date.
    pub(crate) fn wait_until_fresh(&mut self) {
        eventually("the verifier is fresh", PATIENCE, || {
            self.process.assert_running();
            (self.feed()["fresh"] == true).then_some(())
        });
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Where it keeps its state.
    pub(crate) fn data(&self) -> PathBuf {
        self.options.data.clone().unwrap_or_else(|| self.data.path().join("state"))
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> Target {
        Target::Unix(socket(&self.data, &self.options))
    }

    /// Its health port's socket: `/healthz`, `/readyz`, `/metrics`. `None` while it doesn't answer.
    pub(crate) fn health(&self, path: &str) -> Option<Answer> {
        let address = self.addresses()?["verifier_health"].as_str()?.to_owned();
        Request::get(path).send_on(&mut Connection::open(&Target::Tcp(address)).ok()?)
    }

    /// Its TCP port.
    pub(crate) fn tcp(&self) -> Target {
        Target::Tcp(self.addresses().unwrap()["verifier"].as_str().unwrap().to_owned())
    }

    fn addresses(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.data().join("addresses.json")).ok()?).ok()
    }

    /// `GET /v1/feed`.
    pub(crate) fn feed(&self) -> Value {
        Connection::open(&self.socket())
            .ok()
            .and_then(|mut connection| Request::get("/v1/feed").send_on(&mut connection))
            .map(|answer| answer.json())
            .unwrap_or_default()
    }

    /// The verdict on a token of `shop/POLICY`: status and word.
    pub(crate) fn verify(&self, policy: &str, token: &str) -> (u16, String) {
        let answer = self.verify_request(policy, &json!({"token": token}));
        (answer.status, answer.word())
    }

    /// The verdict on a token of `NAMESPACE/POLICY`: status and word.
    pub(crate) fn verify_of(&self, namespace: &str, policy: &str, token: &str) -> (u16, String) {
        let path = format!("/v1/policies/{namespace}/{policy}/verify");
        let answer = Request::post(&path, &json!({"token": token})).send(&self.socket());
        (answer.status, answer.word())
    }

    /// The answer to a verify request.
    pub(crate) fn verify_request(&self, policy: &str, request: &Value) -> Answer {
        Request::post(&format!("/v1/policies/shop/{policy}/verify"), request).send(&self.socket())
    }
}

/// Copies a directory. What its owner replaces meanwhile is there before or after.
fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let copy = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_files(&entry.path(), &copy);
        } else if let Err(error) = std::fs::copy(entry.path(), copy) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", entry.path().display());
        }
    }
}

fn launch(data: &TempDir, bundles: &Path, options: &Options) -> Process {
    let program = binaries::path("countersign-verifier");
    let mut command = match options.under.split_first() {
        Some((wrapper, arguments)) => {
            let mut command = Command::new(wrapper);
            command.args(arguments).arg(program);
            command
        }
        None => Command::new(program),
    };
    let state = options.data.clone().unwrap_or_else(|| data.path().join("state"));
    // The addresses of an earlier process would be taken for this one's.
    let _ = std::fs::remove_file(state.join("addresses.json"));
    match &options.cluster {
        Some(kubeconfig) => command.arg("--kubeconfig").arg(kubeconfig),
        None => command.arg("--bundles").arg(bundles),
    };
    command.arg("--data-dir").arg(&state);
    command.arg("--socket").arg(socket(data, options));
    command.args(["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0"]);
    match &options.redis {
        Some(url) => command.arg("--redis").arg(url),
        None => command.arg("--without-feed"),
    };
    command.args(&options.arguments).envs(options.environment.iter().cloned()).env_remove("REDIS_URL").env("NO_COLOR", "1");
    Process::start(&mut command, data.path().join("verifier.log"))
}

fn socket(data: &TempDir, options: &Options) -> PathBuf {
    options.socket.clone().unwrap_or_else(|| data.path().join("verifier.sock"))
}
