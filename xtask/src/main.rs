//! Developers' commands: `cargo xtask …`. Thin: each one names what it runs, runs it, and says what it left out.

mod bench;
mod chart;
mod cluster;
mod drift;
mod lint;
mod parts;
mod run;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Developers' commands of Countersign")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the tests need, then run every test.
    Test(test::Options),
    /// Formatting, clippy, and the rules on dependencies.
    Lint,
    /// Compare generated files with what the code generates now.
    Drift(drift::Options),
    /// Lint, render and compare the Helm chart, and test its alerts.
    Chart(chart::Options),
    /// Measure speed, memory and freshness (release build).
    Bench(bench::Options),
    /// A real Kubernetes control plane to try things on.
    #[command(subcommand)]
    Cluster(cluster::Action),
    /// What continuous integration runs: lint, drift, test.
    Ci,
}

fn main() -> Result<()> {
    let mut skipped = run::Skipped::default();
    match Cli::parse().command {
        Command::Test(options) => test::run(&options, &mut skipped)?,
        Command::Lint => lint::run(&mut skipped)?,
        Command::Drift(options) => drift::run(&options)?,
        Command::Chart(options) => chart::run(&options)?,
        Command::Bench(options) => bench::run(&options)?,
        Command::Cluster(action) => return cluster::run(&action),
        Command::Ci => {
            lint::run(&mut skipped)?;
            drift::run(&drift::Options::default())?;
            test::run(&test::Options::default(), &mut skipped)?;
        }
    }
    skipped.report();
    Ok(())
}
