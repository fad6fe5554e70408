//! `countersign-issuer`.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use countersign_issuer_daemon::{Config, Flags, run};
use countersign_process::{Failure, Process, Telling, exit_code, until_told, warn_of_unknown_variables};

fn main() -> ExitCode {
    exit_code("countersign-issuer", start(&Flags::parse()))
}

/// Variables by which the command line in the same container finds this process.
const COMMAND_LINE_S: [&str; 2] = ["COUNTERSIGN_SERVER", "COUNTERSIGN_POLICY"];

fn start(flags: &Flags) -> Result<(), Failure> {
    let command = Flags::command();
    let telling = Telling::of(&flags.telling, &command)?;
    let environment = |name: &str| std::env::var(name).ok();
    let config = Config::try_new(flags, &environment).map_err(Failure::usage)?;
    let process = Process::begin("countersign-issuer", telling, tokio::runtime::Builder::new_multi_thread())?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?config, "settings");
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    warn_of_unknown_variables(&command, &COMMAND_LINE_S);
    process.run(until_told(|stop| run(config, stop)))
}
