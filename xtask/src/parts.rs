//! The real programs that tests run against: Debian packages, a Python environment, a Node one.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use crate::run;

/// A program that tests need, and the Debian package it comes in.
struct Part {
    program: &'static str,
    package: &'static str,
}

const NEEDED: &[Part] = &[
    Part { program: "redis-server", package: "redis-server" },
    Part { program: "faketime", package: "faketime" },
    Part { program: "python3", package: "python3" },
    Part { program: "promtool", package: "prometheus" },
    Part { program: "node", package: "nodejs" },
    Part { program: "npm", package: "npm" },
];

/// Makes sure that the Debian packages are there: installs them when root, else names the command.
pub(crate) fn debian_packages() -> Result<()> {
    let mut missing: Vec<_> = NEEDED.iter().filter(|part| !run::on_path(part.program)).map(|part| part.package).collect();
    if run::on_path("python3") && !run::succeeds(Command::new("python3").args(["-c", "import venv, ensurepip"])) {
        missing.push("python3-venv");
    }
    if !postgresql_installed() {
        missing.push("postgresql");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let install = format!("apt-get install --yes --no-install-recommends {}", missing.join(" "));
    if !is_root() || !run::on_path("apt-get") {
        bail!("the tests need programs that are not installed; run: sudo {install}");
    }
    run::run(Command::new("apt-get").args(["update", "--quiet"]))?;
    // A package must not start its service: every test runs its own server.
    run::run(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("RUNLEVEL", "1")
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&missing),
    )
}

/// Debian keeps PostgreSQL's programs off the path, in a directory for each version.
fn postgresql_installed() -> bool {
    let mut versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    run::on_path("pg_ctl") || versions.any(|version| version.path().join("bin/pg_ctl").is_file())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout.trim_ascii() == b"0")
}

const PYTHON_PACKAGES: &[&str] = &[
    "PyJWT==2.10.1",
    "cryptography==50.0.2",
    "pyotp==2.12.0",
    "requests==2.34.2",
    // The calls that it makes up follow from its version and Hypothesis'.
    "schemathesis==4.32.5",
    "hypothesis==6.170.15",
];

/// A Python with what clients are written with, and with schemathesis, in the cache: the tests of interoperability, of clients
/// and of the OpenAPI documents run it.
pub(crate) fn python() -> Result<PathBuf> {
    let environment = run::cache()?.join("python");
    let python = environment.join("bin/python");
    let works = || run::succeeds(Command::new(&python).args(["-c", "import jwt, cryptography, pyotp, requests"]));
    if !(holds(&environment, PYTHON_PACKAGES) && works()) {
        run::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&environment))?;
        run::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PYTHON_PACKAGES))?;
        now_holds(&environment, PYTHON_PACKAGES)?;
    }
    Ok(python)
}

/// The file in a directory of parts that says which ones were installed.
const INSTALLED: &str = "installed";

fn holds(directory: &Path, packages: &[&str]) -> bool {
    std::fs::read_to_string(directory.join(INSTALLED)).is_ok_and(|installed| installed == packages.join("\n"))
}

fn now_holds(directory: &Path, packages: &[&str]) -> Result<()> {
    Ok(std::fs::write(directory.join(INSTALLED), packages.join("\n"))?)
}

const NODE_PACKAGES: &[&str] = &["jose@6.2.17"];

/// A `node_modules` with `jose`, in the cache.
pub(crate) fn node_modules() -> Result<PathBuf> {
    let directory = run::cache()?.join("node");
    let modules = directory.join("node_modules");
    if !(holds(&directory, NODE_PACKAGES) && modules.join("jose/package.json").is_file()) {
        std::fs::create_dir_all(&directory)?;
        run::run(
            Command::new("npm")
                .args(["install", "--no-audit", "--no-fund", "--silent", "--prefix"])
                .arg(&directory)
                .args(NODE_PACKAGES),
        )?;
        now_holds(&directory, NODE_PACKAGES)?;
    }
    Ok(modules)
}
