//! `countersign-operator` as a child process, in its pod's name.

use std::{net::TcpListener, path::Path, process::Command};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http::{Answer, Connection, Request, Target},
    rig::{PATIENCE, Process, binary, eventually},
};

/// A running operator.
pub(crate) struct Operator {
    process: Process,
    api: String,
    health: String,
    identity: String,
    _directory: TempDir,
}

impl Operator {
    pub(super) fn start(pod: &Value, kubeconfig: &Path, redis: &str, arguments: &[String]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = pod["metadata"]["name"].as_str().unwrap().to_owned();
        // Between finding a free port and binding it somebody else may take it: then try the next.
        for _ in 0..10 {
            let [api, health] = free_addresses();
            let mut command = Command::new(binary("countersign-operator"));
            command
                .args(["--redis", redis, "--listen", &api, "--health-listen", &health, "--kubeconfig"])
                .arg(kubeconfig)
                .args(arguments)
                .env("POD_NAME", &identity)
                .env("NO_COLOR", "1")
                .env("OTEL_BSP_SCHEDULE_DELAY", "200")
                .env_remove("REDIS_URL");
            let mut process = Process::start(&mut command, directory.path().join("operator.log"));
            let up = eventually("the operator answers or ends", PATIENCE, || {
                if process.ended().is_some() {
                    assert!(process.log().contains("in use"), "the operator ended:\n{}", process.log());
                    return Some(false);
                }
                get(&health, "/healthz").map(|_| true)
            });
            if up {
                return Self { process, api, health, identity, _directory: directory };
            }
        }
        panic!("no free port for the operator");
    }

    /// Where its API for the command line listens.
    pub(crate) fn address(&self) -> String {
        self.api.clone()
    }

    /// Its name among operators: the Lease's holder when it leads.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    /// Whether it is ready: leading, or standing by.
    pub(crate) fn is_ready(&self) -> bool {
        get(&self.health, "/readyz").is_some_and(|answer| answer.status == 200)
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn stop(&mut self) {
        self.process.signal(Signal::TERM);
        self.process.wait(PATIENCE);
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn get(address: &str, path: &str) -> Option<Answer> {
    Request::get(path).send_on(&mut Connection::open(&Target::Tcp(address.to_owned())).ok()?)
}

/// Two addresses that were free a moment ago.
fn free_addresses() -> [String; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().to_string())
}
