//! `cargo xtask bench`: builds for release, then leaves the measuring to the `countersign-bench` crate.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::{parts, run};

#[derive(Args)]
pub(crate) struct Options {
    /// Passed on to `countersign-bench run`, for example `-o json`, `--only speed` or `--quick`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    parts::debian_packages()?;
    let packages = ["countersign", "countersign-verifier", "countersign-bench"];
    run::run(
        run::cargo()
            .args(["build", "--quiet", "--release"])
            .args(packages.iter().flat_map(|package| ["--package", package])),
    )?;
    run::run(
        run::cargo()
            .args(["run", "--quiet", "--release", "--package", "countersign-bench", "--", "run"])
            .args(&options.arguments),
    )
}
