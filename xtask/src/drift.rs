//! `cargo xtask drift`: what is generated from code must be what is committed.
//!
//! The tests that know how to generate a file also compare it; this runs them alone, and with `--write` lets them write.

use anyhow::Result;
use clap::Args;

use crate::{chart, run};

#[derive(Args, Default)]
pub(crate) struct Options {
    /// Write the files instead of comparing.
    #[arg(long)]
    write: bool,
}

/// The tests that compare generated files. They write when one of [`WRITE`] is set.
const GENERATED: [&str; 3] = [
    // crds/ and docs/reference/policy.md
    "crds::tests",
    // docs/reference/metrics.md, a table from each process; docs/reference/openapi.json and openapi-admin.json
    "tests::the_reference",
    // docs/cli.md
    "documented",
];

const WRITE: [&str; 2] = ["UPDATE_GENERATED", "UPDATE_GOLDEN"];

pub(crate) fn run(options: &Options) -> Result<()> {
    let mut command = run::cargo();
    // Of the whole workspace at once, as the tests are built anyway: alone a package would be built with other features.
    command.args(["test", "--quiet", "--workspace", "--exclude", "countersign-e2e", "--lib", "--test", "cli", "--"]);
    command.args(GENERATED);
    if options.write {
        command.envs(WRITE.map(|name| (name, "1")));
    }
    run::run(&mut command)?;
    // What the chart renders to, and its reference; last, because it copies crds/.
    chart::run(&chart::Options { write: options.write })
}
