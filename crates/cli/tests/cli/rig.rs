//! A `countersign dev` as a child process, and commands against it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A command that inherits nothing that would change its answer.
pub(crate) fn countersign() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign"));
    for name in [
        "COUNTERSIGN_SERVER",
        "COUNTERSIGN_TOKEN",
        "REDIS_URL",
        "DATABASE_URL",
        "PORT",
        "JWT_SECRET_KEY",
        "LOG_LEVEL",
        "SMTP_HOST",
    ] {
        command.env_remove(name);
    }
    for name in ["COUNTERSIGN_CONTEXT", "COUNTERSIGN_KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HTTPS_PROXY", "HTTP_PROXY"] {
        command.env_remove(name);
    }
    // Whatever cluster the person at this machine works with is none of these tests' business.
    command.env("KUBECONFIG", "/nonexistent/kubeconfig").env("NO_COLOR", "1");
    command
}

/// What a command said and how it ended.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub(crate) fn line(&self) -> &str {
        assert_eq!(self.status, 0, "{self:?}");
        self.out.trim_end()
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Runs a command to its end, with this on its standard input.
pub(crate) fn run_with(mut command: Command, input: &str) -> Said {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A command that doesn't read it may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap().into()
}

/// The same in an empty directory, without any server.
pub(crate) fn alone(arguments: &[&str]) -> Said {
    let directory = tempfile::tempdir().unwrap();
    let mut command = countersign();
    command.args(arguments).current_dir(directory.path());
    run_with(command, "")
}

/// Waits for a condition.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

/// A running `dev` in a directory of its own.
pub(crate) struct Dev {
    directory: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    child: Option<Child>,
}

impl Dev {
    /// With the built-in policy.
    pub(crate) fn start() -> Self {
        Self::with(&[], &[])
    }

    pub(crate) fn with(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let dev = Self::prepared(arguments, environment);
        dev.started()
    }

    /// Prepared, for a test that starts it by itself.
    pub(crate) fn unstarted() -> Self {
        Self::prepared(&[], &[])
    }

    /// Where the command is.
    pub(crate) fn binaries() -> PathBuf {
        PathBuf::from(env!("CARGO_BIN_EXE_countersign")).parent().map(Path::to_owned).unwrap_or_default()
    }

    /// With a directory `policies` that holds these files.
    pub(crate) fn on_policies(files: &[(&str, &str)]) -> Self {
        Self::with_policies(files, &[])
    }

    /// The same, in an environment.
    pub(crate) fn with_policies(files: &[(&str, &str)], environment: &[(&str, &str)]) -> Self {
        let dev = Self::prepared(&["--policies", "policies"], environment);
        for (name, text) in files {
            dev.write(name, text);
        }
        dev.started()
    }

    fn prepared(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            environment: environment.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
            child: None,
        }
    }

    fn started(mut self) -> Self {
        self.launch();
        self
    }

    fn launch(&mut self) {
        self.child = Some(self.command().stdout(Stdio::null()).stderr(self.log()).spawn().unwrap());
        eventually("dev is up", || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none(), "dev ended: {ended:?}\n{}", self.said());
            self.data().join("addresses.json").exists().then_some(())
        });
    }

    /// `countersign dev …` on free ports, in the directory.
    pub(crate) fn command(&self) -> Command {
        let mut command = countersign();
        command.arg("dev").args(&self.arguments).current_dir(self.directory.path());
        for listener in ["verifier", "verifier-health", "issuer", "issuer-health", "admin"] {
            command.arg(format!("--{listener}-listen=127.0.0.1:0"));
        }
        command.envs(self.environment.iter().map(|(n, v)| (n, v)));
        command
    }

    /// Where it says things, for who starts it.
    pub(crate) fn log(&self) -> std::fs::File {
        std::fs::OpenOptions::new().create(true).append(true).open(self.directory.path().join("log")).unwrap()
    }

    /// What it logged so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn restart(&mut self) {
        self.kill();
        let _ = std::fs::remove_file(self.data().join("addresses.json"));
        self.launch();
    }

    /// SIGTERM, and how it ends.
    pub(crate) fn terminate(&mut self) -> i32 {
        let mut child = self.child.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap().code().unwrap_or(-1)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.directory.path().join(".countersign")
    }

    pub(crate) fn addresses(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.data().join("addresses.json")).unwrap()).unwrap()
    }

    /// Puts a policy file in place, all at once.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.policies().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, text).unwrap();
        std::fs::rename(temporary, path).unwrap();
    }

    pub(crate) fn policies(&self) -> PathBuf {
        self.directory.path().join("policies")
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A command in the directory, so that it finds the admin socket by itself.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        self.run_with(arguments, "")
    }

    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Said {
        let mut command = countersign();
        command.args(arguments).current_dir(self.directory.path());
        run_with(command, input)
    }

    /// A token of a subject.
    pub(crate) fn mint(&self, arguments: &[&str]) -> String {
        let mut all = vec!["token", "mint"];
        all.extend(arguments);
        self.run(&all).line().to_owned()
    }

    /// The verdict on a token, and the exit status.
    pub(crate) fn verdict(&self, token: &str, arguments: &[&str]) -> (i32, String) {
        let mut all = vec!["verify", "-", "-o", "name"];
        all.extend(arguments);
        let said = self.run_with(&all, token);
        (said.status, said.out.trim_end().to_owned())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A policy `shop/NAME` with an issuer of its own.
pub(crate) fn policy(name: &str, more: &str) -> String {
    format!(
        "apiVersion: countersign.dev/v1alpha1\nkind: AuthPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  \
         audiences: [{name}-api]\n  issuer: https://auth.{name}.example\n  roles: [{{name: user, permissions: [\"orders:read\"]}}]\n{more}"
    )
}
