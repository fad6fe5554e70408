//! `countersign dev` as a child process.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PATIENCE, Policies, Process, Redis, binaries, eventually};
use crate::http::{Request, Target};

/// A running `dev` with its data directory.
pub(crate) struct Dev {
    process: Process,
    data: PathBuf,
    /// Removes the data at the end, where nobody else does.
    _temporary: Option<TempDir>,
    logs: TempDir,
    policies: PathBuf,
    redis: Option<String>,
    environment: Vec<(String, String)>,
}

impl Dev {
    /// Starts it on free ports and waits until it is ready.
    pub(crate) fn start(policies: &Policies, redis: Option<&Redis>) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let data = temporary.path().to_owned();
        Self::launch(policies.directory(), redis, data, Some(temporary), &[])
    }

    /// On the policies of a directory, with these variables in its environment.
    pub(crate) fn start_on(policies: &Path, environment: &[(&str, &str)]) -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let data = temporary.path().to_owned();
        Self::launch(policies, None, data, Some(temporary), environment)
    }

    /// The same, with its data in a given directory.
    pub(crate) fn start_in(policies: &Policies, redis: Option<&Redis>, data: PathBuf) -> Self {
        Self::launch(policies.directory(), redis, data, None, &[])
    }

    fn launch(
        policies: &Path,
        redis: Option<&Redis>,
        data: PathBuf,
        temporary: Option<TempDir>,
        environment: &[(&str, &str)],
    ) -> Self {
        let redis = redis.map(Redis::url);
        let policies = policies.to_owned();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let logs = tempfile::tempdir().unwrap();
        let process = launch(&data, &policies, redis.as_deref(), &environment, &logs);
        let mut dev = Self { process, data, _temporary: temporary, logs, policies, redis, environment };
        dev.wait_until_ready();
        dev
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same data.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_file(self.data().join("addresses.json"));
        self.process = launch(&self.data, &self.policies, self.redis.as_deref(), &self.environment, &self.logs);
        self.wait_until_ready();
    }

    fn wait_until_ready(&mut self) {
        eventually("dev is ready", PATIENCE, || {
            self.process.assert_running();
            let addresses = std::fs::read(self.data.join("addresses.json")).ok()?;
            let addresses: Value = serde_json::from_slice(&addresses).ok()?;
            let health = Target::Tcp(addresses["verifier_health"].as_str()?.into());
            let mut connection = crate::http::Connection::open(&health).ok()?;
            (Request::get("/readyz").send_on(&mut connection)?.status == 200).then_some(())
        });
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.data.clone()
    }

    /// An address that it bound, by its name in `addresses.json`.
    pub(crate) fn address(&self, name: &str) -> String {
        let addresses: Value = serde_json::from_slice(&std::fs::read(self.data().join("addresses.json")).unwrap()).unwrap();
        addresses[name].as_str().unwrap_or_else(|| panic!("no address {name} in {addresses}")).to_owned()
    }

    /// The verifier's Unix socket.
    pub(crate) fn socket(&self) -> Target {
        Target::Unix(self.address("socket").into())
    }

    /// The verifier's port.
    pub(crate) fn tcp(&self) -> Target {
        Target::Tcp(self.address("verifier"))
    }

    /// `/healthz`, `/readyz`, `/metrics` of the verifier.
    pub(crate) fn health(&self) -> Target {
        Target::Tcp(self.address("verifier_health"))
    }

    /// The issuer's port.
    pub(crate) fn issuer(&self) -> Target {
        Target::Tcp(self.address("issuer"))
    }

    /// The admin API's socket.
    pub(crate) fn admin(&self) -> Target {
        Target::Unix(self.address("admin_socket").into())
    }

    /// The directory of bundles that separate verifiers read.
    pub(crate) fn bundles(&self) -> PathBuf {
        self.data().join("bundles")
    }

    /// Mints a token of `shop/POLICY`; what comes back holds `token`, `token_id`, `session_id`, `expires_at`.
    pub(crate) fn mint(&self, policy: &str, request: &Value) -> Value {
        let answer = Request::post(&format!("/admin/v1/policies/shop/{policy}/tokens"), request).send(&self.admin());
        assert!(matches!(answer.status, 200 | 201), "mint: {} {}", answer.status, answer.json());
        answer.json()
    }

    /// Mints for a subject and returns the token alone.
    pub(crate) fn token(&self, policy: &str, subject: &str) -> String {
        self.mint(policy, &json!({"subject": subject, "roles": ["user"]}))["token"].as_str().unwrap().to_owned()
    }

    /// Revokes; the answer's status and body.
    pub(crate) fn revoke(&self, policy: &str, revocation: &Value) -> (u16, Value) {
        let path = format!("/admin/v1/policies/shop/{policy}/revocations");
        let answer = Request::post(&path, revocation).send(&self.admin());
        (answer.status, answer.json())
    }

    /// Revokes, and returns the position at which it is in the feed.
    pub(crate) fn revoked_at(&self, policy: &str, revocation: &Value) -> String {
        let (status, body) = self.revoke(policy, revocation);
        assert_eq!(status, 200, "{body}");
        body["position"].as_str().unwrap_or_else(|| panic!("no position in {body}")).to_owned()
    }
}

fn launch(data: &Path, policies: &Path, redis: Option<&str>, environment: &[(String, String)], logs: &TempDir) -> Process {
    let mut command = Command::new(binaries::path("countersign"));
    command.arg("dev").arg("--policies").arg(policies).arg("--data-dir").arg(data);
    for listener in ["verifier", "verifier-health", "issuer", "issuer-health", "admin"] {
        command.arg(format!("--{listener}-listen")).arg("127.0.0.1:0");
    }
    command.env_remove("REDIS_URL").env_remove("DATABASE_URL").env("NO_COLOR", "1");
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    if let Some(url) = redis {
        command.arg("--redis").arg(url);
    }
    Process::start(&mut command, logs.path().join("dev.log"))
}
