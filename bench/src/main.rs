//! Measures Countersign on one machine, in one run, against the least that a server could do.
//!
//! Speed is counted in answers per second of *server CPU time*, not per second of the clock, and always as a ratio to a bare
//! hyper server that reads the same requests on the same kind of socket and answers a body of the same size: both stand on
//! one pinned core, the load generator on another, and they take turns, so that the machine's moods meet both alike.

mod admin;
mod affinity;
mod echo;
mod freshness;
mod http1;
mod instructions;
mod load;
mod memory;
mod people;
mod plan;
mod report;
mod rig;
mod server;
mod signing;
mod speed;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Measures Countersign against a bare echo server")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure everything and print the table.
    Run(plan::Options),
    /// The bare server that everything is compared with.
    Echo(echo::Options),
    /// The load generator.
    Load(load::Options),
    /// Bare Argon2id.
    Hash(people::HashOptions),
    /// More logins than can be served.
    Overload(people::OverloadOptions),
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Run(options) => plan::run(&options),
        Command::Echo(options) => echo::run(&options),
        Command::Load(options) => load::run(&options),
        Command::Hash(options) => people::hash(&options),
        Command::Overload(options) => people::overload(&options),
    }
}
