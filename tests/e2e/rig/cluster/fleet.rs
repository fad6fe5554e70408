//! Verifiers that acknowledge and give no verdicts, any number of them in one process.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{
    forge::unique,
    rig::{Process, Redis, Reply, binary, eventually},
};

/// How long any number may take to acknowledge.
const ALL: Duration = Duration::from_mins(5);

/// A running simulation, in the names of pods.
pub(crate) struct SimulatedFleet {
    process: Process,
    settings: Settings,
    /// What the acknowledgements of this run begin with.
    run: String,
}

struct Settings {
    kubeconfig: PathBuf,
    trust: PathBuf,
    redis: String,
    names: Vec<String>,
    directory: TempDir,
}

impl SimulatedFleet {
    pub(super) fn start(kubeconfig: &Path, trust: &Path, redis: &str, names: Vec<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("names"), names.join("\n")).unwrap();
        let settings = Settings {
            kubeconfig: kubeconfig.to_owned(),
            trust: trust.to_owned(),
            redis: redis.to_owned(),
            names,
            directory,
        };
        let (process, run) = settings.launch();
        Self { process, settings, run }
    }

    /// `kill -9` for all, and again.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        (self.process, self.run) = self.settings.launch();
    }

    /// Waits until each says of this run what it has applied.
    pub(crate) fn wait_until_acknowledged(&mut self, redis: &Redis) {
        let keys: Vec<String> = self.settings.names.iter().map(|name| format!("{{cs}}:lease:{name}")).collect();
        let command: Vec<&str> = std::iter::once("MGET").chain(keys.iter().map(String::as_str)).collect();
        eventually("all simulated verifiers acknowledge", ALL, || {
            self.process.assert_running();
            let Reply::List(leases) = redis.command(&command) else { panic!("no leases") };
            let of_this_run = |lease: &Reply| {
                let Reply::Text(lease) = lease else { return false };
                let lease: Value = serde_json::from_str(lease).unwrap_or_default();
                lease["ack"]["history"].as_str().is_some_and(|history| !history.is_empty())
                    && lease["ack"]["start_id"].as_str().is_some_and(|id| id.starts_with(&self.run))
            };
            let all = leases.iter().all(of_this_run);
            if !all {
                std::thread::park_timeout(Duration::from_millis(50));
            }
            all.then_some(())
        });
    }

    pub(crate) fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Settings {
    fn launch(&self) -> (Process, String) {
        let run = format!("run-{}-", unique());
        let mut command = Command::new(binary("countersign-simulated-fleet"));
        command
            .args(["--redis", &self.redis, "--run", &run])
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--bundle-trust")
            .arg(&self.trust)
            .arg("--names")
            .arg(self.directory.path().join("names"));
        (Process::start(&mut command, self.directory.path().join("fleet.log")), run)
    }
}
