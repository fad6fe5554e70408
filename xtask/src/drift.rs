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

/// What compares a generated file: the package, what of it, the tests' filter. They write when one of [`WRITE`] is set.
const GENERATED: &[(&str, &[&str], &str)] = &[
    // crds/ and docs/reference/policy.md
    ("countersign-api", &["--lib"], "crds::tests"),
    // docs/reference/metrics.md, a table from each
    ("countersign-verifier", &["--lib"], "metrics::tests::the_reference"),
    ("countersign-operator", &["--lib"], "metrics::tests::the_reference"),
    ("countersign-issuer", &["--lib"], "health::tests::the_reference"),
    // docs/cli.md
    ("countersign", &["--test", "cli"], "documented"),
];

const WRITE: [&str; 2] = ["UPDATE_GENERATED", "UPDATE_GOLDEN"];

pub(crate) fn run(options: &Options) -> Result<()> {
    for (package, part, filter) in GENERATED {
        let mut command = run::cargo();
        command.args(["test", "--quiet", "--package", package]).args(*part).arg(filter);
        if options.write {
            command.envs(WRITE.map(|name| (name, "1")));
        }
        run::run(&mut command)?;
    }
    // What the chart renders to, and its reference; last, because it copies crds/.
    chart::run(&chart::Options { write: options.write })
}
