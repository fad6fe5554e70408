//! `countersign-operator`.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use countersign_operator::{Config, Environment, Flags};
use countersign_process::{Failure, Process, Telling, exit_code, until_told, warn_of_unknown_variables};

fn main() -> ExitCode {
    exit_code("countersign-operator", start(&Flags::parse()))
}

fn start(flags: &Flags) -> Result<(), Failure> {
    let command = Flags::command();
    let telling = Telling::of(&flags.telling, &command)?;
    let config = Config::try_new(flags, environment()).map_err(Failure::usage)?;
    let process = Process::begin("countersign-operator", telling, tokio::runtime::Builder::new_multi_thread())?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?config, "settings");
    warn_of_unknown_variables(&command, &[]);
    process.run(until_told(|stop| countersign_operator::run(config, stop)))
}

fn environment() -> Environment {
    let host = std::env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
    let host = host.or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok());
    let host = host.as_deref().map_or("operator", str::trim).to_owned();
    Environment {
        redis_url: std::env::var("REDIS_URL").ok(),
        pod_name: std::env::var("POD_NAME").ok(),
        process: format!("{host}-{}", std::process::id()),
    }
}
