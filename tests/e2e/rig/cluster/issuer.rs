//! `countersign-issuer` as a child process, in its pod's name.

use std::{net::TcpListener, path::Path, process::Command};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    http::{Answer, Connection, Request, Target},
    rig::{PATIENCE, Process, binary, eventually},
};

/// What an issuer's pod is given.
pub(super) struct Given<'a> {
    pub(super) pod: &'a Value,
    pub(super) kubeconfig: &'a Path,
    pub(super) trust: &'a Path,
    pub(super) redis: &'a str,
    pub(super) database: &'a str,
    pub(super) arguments: &'a [String],
    pub(super) environment: &'a [(String, String)],
}

/// A running issuer.
pub(crate) struct Issuer {
    process: Process,
    address: String,
    cluster: String,
    _directory: TempDir,
}

impl Issuer {
    /// Starts one; it is ready when it has read the policies.
    pub(super) fn launch(given: &Given<'_>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let identity = given.pod["metadata"]["name"].as_str().unwrap();
        let admin = directory.path().join("admin.sock");
        // Between finding a free port and binding it somebody else may take it: then try the next.
        for _ in 0..10 {
            let [address, health, admin_address, cluster] = free_addresses();
            let mut command = Command::new(binary("countersign-issuer"));
            command
                .args(["--listen", &address, "--health-listen", &health, "--admin-listen", &admin_address])
                .args(["--cluster-admin-listen", &cluster])
                .arg("--admin-socket")
                .arg(&admin)
                .arg("--kubeconfig")
                .arg(given.kubeconfig)
                .arg("--bundle-trust")
                .arg(given.trust)
                .args(given.arguments)
                .envs(given.environment.iter().map(|(name, value)| (name, value)))
                .env("POD_NAME", identity)
                .env("DATABASE_URL", given.database)
                .env("REDIS_URL", given.redis)
                .env("TOKEN_ENCRYPTION_KEY", "the same for every replica")
                .env("NO_COLOR", "1")
                .env("OTEL_BSP_SCHEDULE_DELAY", "200");
            let mut process = Process::start(&mut command, directory.path().join("issuer.log"));
            let up = eventually("the issuer answers or ends", PATIENCE, || {
                if process.ended().is_some() {
                    assert!(process.log().contains("in use"), "the issuer ended:\n{}", process.log());
                    return Some(false);
                }
                send(&health, &Request::get("/readyz")).filter(|answer| answer.status == 200).map(|_| true)
            });
            if up {
                return Self { process, address, cluster, _directory: directory };
            }
        }
        panic!("no free port for the issuer");
    }

    /// Where users of the cluster administer it.
    pub(super) fn cluster_address(&self) -> &str {
        &self.cluster
    }

    /// Where people's clients ask it: host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Asks it, as people's clients do.
    pub(crate) fn send(&self, request: &Request) -> Option<Answer> {
        send(&self.address, request)
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
}

fn send(address: &str, request: &Request) -> Option<Answer> {
    request.send_on(&mut Connection::open(&Target::Tcp(address.to_owned())).ok()?)
}

/// Addresses that were free a moment ago.
fn free_addresses() -> [String; 4] {
    let listeners = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().to_string())
}
