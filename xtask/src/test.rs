//! `cargo xtask test`: everything, with what it needs.

use std::{ffi::OsString, num::NonZero};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    cluster, parts,
    run::{self, Skipped},
};

#[derive(Args, Default)]
pub(crate) struct Options {
    /// Passed on to `cargo test`, for example a filter.
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

/// Programs without which a test leaves a part out, and what it then leaves out.
const OPTIONAL: &[(&str, &str)] = &[];

pub(crate) fn run(options: &Options, skipped: &mut Skipped) -> Result<()> {
    parts::debian_packages()?;
    let python = parts::python()?;
    let node_modules = parts::node_modules()?;
    let control_plane = cluster::build()?;
    for (program, part) in OPTIONAL {
        if !run::on_path(program) {
            skipped.add(format!("{part} (no {program})"));
        }
    }
    // The end-to-end tests run the real binaries. With the tests, so that all is built with one set of features, and once.
    run::run(run::cargo().args(["build", "--quiet", "--workspace", "--bins", "--tests"]))?;
    let binaries = std::env::current_exe()?.parent().context("xtask lies in no directory")?.to_owned();
    let run = |which: &[&str], threads: Option<usize>| {
        let mut command = run::cargo();
        command.args(["test", "--workspace"]).args(which).arg("--");
        // Tests that need the variables below are marked ignored, so that a plain `cargo test` passes without them.
        command.arg("--include-ignored").args(&options.arguments);
        let given = options.arguments.iter().any(|argument| argument.to_string_lossy().starts_with("--test-threads"));
        if let Some(threads) = threads.filter(|_| !given) {
            command.arg(format!("--test-threads={threads}"));
        }
        command
            .env("COUNTERSIGN_TEST_PYTHON", &python)
            .env("COUNTERSIGN_TEST_NODE_MODULES", &node_modules)
            .env(cluster::PROGRAMS, &control_plane)
            .env("COUNTERSIGN_TEST_BINARIES", &binaries);
        run::run(&mut command)
    };
    let others = run(&["--exclude", "countersign-e2e", "--no-fail-fast"], None);
    // They mostly wait: for leases, expiries and controllers.
    let threads = std::thread::available_parallelism().map_or(2, NonZero::get) * 2;
    let end_to_end = run(&["--test", "e2e"], Some(threads));
    others.and(end_to_end)
}
