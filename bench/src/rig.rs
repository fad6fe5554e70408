//! The parts to measure: a Redis, a `dev` as the writer, and verifiers that follow it.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    http1::{self, Client, Target},
    server::Server,
    signing::{ISSUER, Keys},
};

/// The policy that is measured.
pub(crate) const POLICY: &str = "bench/main";

/// Waits until `condition` gives a value, looking every few milliseconds.
pub(crate) fn wait<T>(what: &str, within: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("not within {within:?}: {what}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A path beside this program.
fn binary(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    if !path.is_file() {
        bail!("{} is not built; run `cargo xtask bench`", path.display());
    }
    Ok(path)
}

/// A Redis of its own.
pub(crate) struct Redis {
    _server: Server,
    _directory: TempDir,
    pub(crate) url: String,
}

impl Redis {
    pub(crate) fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning", "--port"]);
        command.arg(port.to_string()).arg("--dir").arg(directory.path());
        let server = Server::start(&mut command)?;
        wait("redis listens", Duration::from_secs(10), || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).ok()))?;
        Ok(Self { _server: server, _directory: directory, url: format!("redis://127.0.0.1:{port}") })
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// `countersign dev` on a directory of policies.
pub(crate) struct Dev {
    server: Server,
    directory: TempDir,
}

/// How a `dev` is started.
pub(crate) struct DevStart<'a> {
    pub(crate) redis: Option<&'a Redis>,
    /// Names in the namespace `bench`, and what is under `spec`.
    pub(crate) policies: Vec<(String, Value)>,
    /// The database instead of the file in its directory.
    pub(crate) database: Option<&'a str>,
    /// On the server's core alone.
    pub(crate) pinned: bool,
}

impl Dev {
    /// Starts one with [`POLICY`], which trusts the bench's issuer, and `more` policies like it.
    pub(crate) fn start(redis: &Redis, keys: &Keys, more: usize) -> Result<Self> {
        let names = std::iter::once("main".to_owned()).chain((0..more).map(|number| format!("more-{number:04}")));
        let policies = names.map(|name| {
            let spec = trusting_the_bench(&name, keys);
            (name, spec)
        });
        Self::start_with(&DevStart { redis: Some(redis), policies: policies.collect(), database: None, pinned: false })
    }

    pub(crate) fn start_with(start: &DevStart<'_>) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let policies = directory.path().join("policies");
        fs::create_dir(&policies)?;
        for (name, spec) in &start.policies {
            let policy = json!({
                "apiVersion": "countersign.dev/v1alpha1", "kind": "AuthPolicy",
                "metadata": {"name": name, "namespace": "bench"}, "spec": spec,
            });
            fs::write(policies.join(format!("{name}.yaml")), policy.to_string()).context("could not write a policy")?;
        }
        let mut command = Command::new(binary("countersign")?);
        command.arg("dev").arg("--policies").arg(&policies).arg("--data-dir").arg(directory.path().join("data"));
        for listener in ["verifier", "verifier-health", "issuer", "issuer-health", "admin"] {
            command.arg(format!("--{listener}-listen")).arg("127.0.0.1:0");
        }
        if let Some(redis) = start.redis {
            command.arg("--redis").arg(&redis.url);
        }
        if let Some(database) = start.database {
            command.env("DATABASE_URL", database);
        }
        let log = fs::File::create(directory.path().join("log"))?;
        command.stderr(Stdio::from(log)).env("NO_COLOR", "1");
        let mut server = if start.pinned { Server::start_pinned(&mut command)? } else { Server::start(&mut command)? };
        let dev_log = directory.path().join("log");
        let data = directory.path().join("data");
        wait("dev is ready", Duration::from_mins(3), || {
            if !server.is_running() {
                bail!("dev ended:\n{}", fs::read_to_string(&dev_log).unwrap_or_default());
            }
            let Some(health) = address(&data, "verifier_health") else { return Ok(None) };
            Ok(ready(&Target::Tcp(health)).then_some(()))
        })?;
        let dev = Self { server, directory };
        wait("every bundle is written", Duration::from_mins(1), || {
            let bundles = fs::read_dir(dev.bundles()).map(Iterator::count).unwrap_or_default();
            Ok((bundles >= start.policies.len()).then_some(()))
        })?;
        Ok(dev)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub(crate) fn admin(&self) -> Result<Target> {
        address(&self.data(), "admin_socket").map(|path| Target::Unix(path.into())).context("dev tells no admin socket")
    }

    pub(crate) fn issuer(&self) -> Result<Target> {
        address(&self.data(), "issuer").map(Target::Tcp).context("dev tells no address of its issuer")
    }

    /// Its database, where that is a file.
    pub(crate) fn database(&self) -> PathBuf {
        self.data().join("countersign.db")
    }

    pub(crate) fn bundles(&self) -> PathBuf {
        self.data().join("bundles")
    }
}

fn trusting_the_bench(name: &str, keys: &Keys) -> Value {
    json!({
        "audiences": ["bench"], "issuer": format!("https://{name}.example"),
        "roles": [{"name": "user", "permissions": ["orders:read", "orders:write"]}],
        "trustedIssuers": [{
            "name": "bench", "issuer": ISSUER, "algorithms": ["EdDSA", "ES256", "RS256"], "jwks": {"inline": keys.jwks()},
        }],
    })
}

fn address(data: &Path, name: &str) -> Option<String> {
    let addresses: Value = serde_json::from_slice(&fs::read(data.join("addresses.json")).ok()?).ok()?;
    Some(addresses[name].as_str()?.to_owned())
}

fn ready(health: &Target) -> bool {
    let request = http1::request("GET", "/readyz", &[], None);
    Client::connect(health).and_then(|mut client| client.call(&request)).is_ok_and(|(status, ..)| status == 200)
}

/// A `countersign-verifier` under measurement.
pub(crate) struct Verifier {
    server: Server,
    directory: TempDir,
}

/// How a verifier is started.
pub(crate) struct Start<'a> {
    pub(crate) bundles: &'a Path,
    pub(crate) redis: &'a Redis,
    /// On the server's core alone.
    pub(crate) pinned: bool,
    /// Under this program (valgrind).
    pub(crate) under: &'a [String],
}

impl Verifier {
    /// Starts one and waits until it is ready; says how long that took.
    pub(crate) fn start(start: &Start<'_>) -> Result<(Self, Duration)> {
        let directory = tempfile::tempdir()?;
        let state = directory.path().join("state");
        let program = binary("countersign-verifier")?;
        let mut command = match start.under.split_first() {
            Some((wrapper, arguments)) => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("--bundles").arg(start.bundles).arg("--redis").arg(&start.redis.url);
        command.arg("--data-dir").arg(&state).arg("--socket").arg(directory.path().join("verifier.sock"));
        command.args(["--listen", "127.0.0.1:0", "--health-listen", "127.0.0.1:0", "--uncached-budget", "off"]);
        let log_path = directory.path().join("log");
        command.stderr(Stdio::from(fs::File::create(&log_path)?)).env("NO_COLOR", "1");
        let started = Instant::now();
        let mut server = if start.pinned { Server::start_pinned(&mut command)? } else { Server::start(&mut command)? };
        let within = Duration::from_secs(if start.under.is_empty() { 60 } else { 600 });
        wait("the verifier is ready", within, || {
            if !server.is_running() {
                bail!("the verifier ended:\n{}", fs::read_to_string(&log_path).unwrap_or_default());
            }
            let Some(health) = address(&state, "verifier_health") else { return Ok(None) };
            Ok(ready(&Target::Tcp(health)).then_some(()))
        })?;
        Ok((Self { server, directory }, started.elapsed()))
    }

    /// Waits until its revocations are up to date; how many it holds.
    pub(crate) fn wait_until_fresh(&self, at_least: u64) -> Result<u64> {
        let request = http1::request("GET", "/v1/feed", &[], None);
        wait("the verifier is fresh", Duration::from_mins(10), || {
            let (_, _, body) = Client::connect(&self.socket())?.call(&request)?;
            let feed: Value = serde_json::from_slice(&body)?;
            let entries = feed["entries"].as_u64().unwrap_or_default();
            Ok((feed["fresh"] == true && entries >= at_least).then_some(entries))
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(crate) fn socket(&self) -> Target {
        Target::Unix(self.directory.path().join("verifier.sock"))
    }

    pub(crate) fn tcp(&self) -> Result<Target> {
        address(&self.directory.path().join("state"), "verifier").map(Target::Tcp).context("the verifier tells no address")
    }

    /// Ends it in order.
    pub(crate) fn terminate(self) -> Result<()> {
        self.server.terminate()
    }
}

/// The bare echo server.
pub(crate) struct Echo {
    server: Server,
    directory: TempDir,
    address: String,
}

impl Echo {
    /// Starts one that answers bodies of this size.
    pub(crate) fn start(answer_bytes: usize, under: &[String]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let program = std::env::current_exe()?;
        let mut command = match under.split_first() {
            Some((wrapper, arguments)) => {
                let mut command = Command::new(wrapper);
                command.args(arguments).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(["echo", "--listen", "127.0.0.1:0", "--answer-bytes"]).arg(answer_bytes.to_string());
        command.arg("--socket").arg(directory.path().join("echo.sock"));
        let mut server = Server::start_pinned(&mut command)?;
        let address = server.line()?;
        Ok(Self { server, directory, address })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub(crate) fn socket(&self) -> Target {
        Target::Unix(self.directory.path().join("echo.sock"))
    }

    pub(crate) fn tcp(&self) -> Target {
        Target::Tcp(self.address.clone())
    }

    /// Ends it in order.
    pub(crate) fn terminate(self) -> Result<()> {
        self.server.terminate()
    }
}
