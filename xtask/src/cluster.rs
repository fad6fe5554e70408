//! `cargo xtask cluster`: a real Kubernetes control plane without a container engine, built from Go modules (`tests/cluster`).
//!
//! Every program is kept in the cache under its version, so only the first run pays. The version of Kubernetes is the one that
//! `tests/cluster/go.mod` requires; those of the others are here.

mod measure;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use crate::run;

/// A program that `go install` makes.
struct Tool {
    name: &'static str,
    package: &'static str,
    version: &'static str,
}

const TOOLS: &[Tool] = &[
    // Plays the kubelet of nodes that don't exist.
    Tool { name: "kwok", package: "sigs.k8s.io/kwok/cmd/kwok", version: "v0.7.0" },
    Tool { name: "helm", package: "helm.sh/helm/v3/cmd/helm", version: "v3.22.0" },
];

/// API server, controller manager, scheduler, etcd and kubectl in one program, and what starts them.
const CONTROL_PLANE: &str = "countersign-cluster";

#[derive(Subcommand)]
pub(crate) enum Action {
    /// Build what the cluster consists of, unless the cache has it, and print where it is.
    Build,
    /// Start a cluster on free ports, print how to reach it, and end it with Ctrl-C.
    Up(Up),
    /// Rotate keys under load while leaders are killed and verifiers restart, and count failed verifications.
    Soak(measure::Soak),
    /// Apply many policies before many verifiers; count times, memory and writes.
    Scale(measure::Scale),
    /// Renew many declared sessions with tokens of one minute; look for any that expired.
    Churn(measure::Churn),
    /// Revoke keys that sign; time until the last verifier refuses and another key signs.
    Emergency(measure::Emergency),
}

#[derive(Args)]
pub(crate) struct Up {
    /// How many nodes it has. They are fake; their pods are Ready and run nothing.
    #[arg(long, default_value_t = 3)]
    nodes: u32,
    /// Move the servers' logs to this directory at the end.
    #[arg(long)]
    keep_logs: Option<PathBuf>,
}

/// What tells the end-to-end tests where the cluster's programs are.
pub(crate) const PROGRAMS: &str = "COUNTERSIGN_TEST_CLUSTER";

pub(crate) fn run(action: &Action) -> Result<()> {
    let programs = build()?;
    match action {
        Action::Build => println!("{}", programs.display()),
        Action::Up(options) => up(&programs, options)?,
        Action::Soak(options) => options.run(&programs)?,
        Action::Scale(options) => options.run(&programs)?,
        Action::Churn(options) => options.run(&programs)?,
        Action::Emergency(options) => options.run(&programs)?,
    }
    Ok(())
}

fn up(programs: &Path, options: &Up) -> Result<()> {
    let mut command = Command::new(programs.join(CONTROL_PLANE));
    command
        .args(["up", "--for-a-person", "--kwok"])
        .arg(programs.join("kwok"))
        .arg("--nodes")
        .arg(options.nodes.to_string());
    if let Some(directory) = &options.keep_logs {
        std::fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
        command.arg("--keep-logs").arg(directory);
    }
    // The cluster ends when its standard input does: also when this process is killed.
    let mut child = command.stdin(Stdio::piped()).spawn().context("could not start the cluster")?;
    let _held = child.stdin.take();
    let status = child.wait().context("could not wait for the cluster")?;
    if !status.success() {
        bail!("the cluster ended: {status}");
    }
    Ok(())
}

/// Makes sure that all programs are in the cache; the directory that has them side by side.
pub(crate) fn build() -> Result<PathBuf> {
    let cache = run::cache()?.join("cluster");
    let present = cache.join("current");
    std::fs::create_dir_all(&present).with_context(|| format!("could not make {}", present.display()))?;

    let control_plane = control_plane(&cache)?;
    link(&control_plane, &present.join(CONTROL_PLANE))?;
    link(&control_plane, &present.join("kubectl"))?;
    for tool in TOOLS {
        link(&install(tool, &cache)?, &present.join(tool.name))?;
    }
    Ok(present)
}

/// Helm, from the cache, else built.
pub(crate) fn helm() -> Result<PathBuf> {
    let helm = TOOLS.iter().find(|tool| tool.name == "helm").context("no version of Helm is named")?;
    install(helm, &run::cache()?.join("cluster"))
}

fn control_plane(cache: &Path) -> Result<PathBuf> {
    let module = run::root().join("tests/cluster");
    let (version, fingerprint) = describe(&module)?;
    let (major, minor) = version
        .trim_start_matches('v')
        .split_once('.')
        .and_then(|(major, rest)| Some((major, rest.split_once('.')?.0)))
        .with_context(|| format!("not a version: {version}"))?;
    let flags = [("gitVersion", version.as_str()), ("gitMajor", major), ("gitMinor", minor)]
        .map(|(name, value)| format!("-X k8s.io/component-base/version.{name}={value}"))
        .join(" ");
    keep(&cache.join(format!("{version}-{fingerprint:016x}")), CONTROL_PLANE, |directory| {
        let flags = format!("-s -w {flags}");
        run::run(
            go()?
                .current_dir(&module)
                .args(["build", "-trimpath", "-ldflags", &flags, "-o"])
                .arg(directory.join(CONTROL_PLANE))
                .arg("."),
        )
    })
}

fn install(tool: &Tool, cache: &Path) -> Result<PathBuf> {
    keep(&cache.join(format!("{}-{}", tool.name, tool.version)), tool.name, |directory| {
        let package = format!("{}@{}", tool.package, tool.version);
        run::run(go()?.args(["install", "-trimpath", "-ldflags", "-s -w", &package]).env("GOBIN", directory))
    })
}

/// The program of that name in a directory of the cache, which `make` fills when it isn't there. Another run may do the same
/// meanwhile: the directory appears whole or not at all.
fn keep(directory: &Path, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let program = directory.join(name);
    if program.is_file() {
        return Ok(program);
    }
    let mut unfinished = directory.as_os_str().to_owned();
    unfinished.push(format!(".unfinished-{}", std::process::id()));
    let unfinished = PathBuf::from(unfinished);
    std::fs::create_dir_all(&unfinished).with_context(|| format!("could not make {}", unfinished.display()))?;
    make(&unfinished)?;
    let moved = std::fs::rename(&unfinished, directory);
    if !program.is_file() {
        moved.with_context(|| format!("could not keep {}", program.display()))?;
        bail!("the build left no {}", program.display());
    }
    Ok(program)
}

/// Puts a symbolic link in place of another at once.
fn link(to: &Path, at: &Path) -> Result<()> {
    if std::fs::read_link(at).is_ok_and(|present| present == to) {
        return Ok(());
    }
    let next = at.with_extension(format!("next-{}", std::process::id()));
    std::os::unix::fs::symlink(to, &next)
        .and_then(|()| std::fs::rename(&next, at))
        .with_context(|| format!("could not link {}", at.display()))
}

/// The version of Kubernetes that the module requires, and a fingerprint of its source.
fn describe(module: &Path) -> Result<(String, u64)> {
    let entries = std::fs::read_dir(module).with_context(|| format!("could not read {}", module.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.retain(|file| {
        file.extension().is_some_and(|extension| ["go", "mod", "sum"].iter().any(|source| extension == *source))
    });
    files.sort();
    let mut fingerprint = DefaultHasher::new();
    let mut version = None;
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
        text.hash(&mut fingerprint);
        if file.ends_with("go.mod") {
            version = text.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes ")).map(str::to_owned);
        }
    }
    let version = version.context("tests/cluster/go.mod doesn't require k8s.io/kubernetes")?;
    Ok((version, fingerprint.finish()))
}

/// Go, without C: what it builds runs anywhere. An older Go fetches the version that a module asks for.
fn go() -> Result<Command> {
    const OLDEST: (u32, u32) = (1, 21);

    let output = Command::new("go").args(["env", "GOVERSION"]).output();
    let version = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let numbers =
        version.trim_start_matches("go").split('.').map(str::parse).collect::<Result<Vec<u32>, _>>().unwrap_or_default();
    if !matches!(numbers[..], [major, minor, ..] if (major, minor) >= OLDEST) {
        let found = if version.is_empty() { "there is none".to_owned() } else { format!("this is {version}") };
        bail!(
            "the test cluster is built with Go {}.{} or later; {found}. Install one from the Go project's downloads (Debian 12's is too old; \
             Debian 13: sudo apt-get install golang-go) and put it on the PATH",
            OLDEST.0,
            OLDEST.1
        );
    }
    let mut go = Command::new("go");
    go.env("CGO_ENABLED", "0");
    Ok(go)
}
