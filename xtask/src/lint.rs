//! `cargo xtask lint`: formatting, clippy, and the rules on dependencies (`deny.toml`).

use std::{path::PathBuf, process::Command};

use anyhow::Result;

use crate::run::{self, Skipped};

pub(crate) fn run(skipped: &mut Skipped) -> Result<()> {
    run::run(run::cargo().args(["fmt", "--all", "--check"]))?;
    run::run(run::cargo().args(["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    let deny = cargo_deny()?;
    run::run(deny_command(&deny).args(["check", "bans", "licenses", "sources"]))?;
    // The advisories live in a database of their own, which a machine behind a package mirror may not reach.
    if run::succeeds(deny_command(&deny).args(["fetch", "db"])) {
        run::run(deny_command(&deny).args(["check", "--disable-fetch", "advisories"]))?;
    } else {
        skipped.add("cargo deny advisories (the advisory database is out of reach)");
    }
    Ok(())
}

fn deny_command(program: &PathBuf) -> Command {
    let mut command = Command::new(program);
    command.current_dir(run::root()).args(["--workspace", "--all-features", "--log-level", "error"]);
    command
}

/// cargo-deny from the path, else from the cache, else built (a few minutes, once).
fn cargo_deny() -> Result<PathBuf> {
    const VERSION: &str = "0.20.2";

    if run::on_path("cargo-deny") {
        return Ok("cargo-deny".into());
    }
    let tools = run::cache()?.join("tools");
    let program = tools.join("bin/cargo-deny");
    if !program.is_file() {
        run::run(
            run::cargo()
                .args(["install", "--quiet", "--locked", "--version", VERSION, "cargo-deny", "--root"])
                .arg(&tools)
                // Outside our own target directory: its profile and lock file are its own.
                .env("CARGO_TARGET_DIR", run::cache()?.join("build/cargo-deny"))
                // The workspace's `rust-toolchain.toml` decides the compiler, its lints must not.
                .env_remove("RUSTFLAGS"),
        )?;
    }
    Ok(program)
}
