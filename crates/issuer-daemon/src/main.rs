//! `countersign-issuer`.

use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use countersign_issuer_daemon::{Config, Flags, run};
use countersign_process::{known_variables, log_filter, unknown_variables};
use countersign_telemetry::{Format, Traces, install};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let flags = Flags::parse();
    match start(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => report(&error, 2),
        Err(Failure::Run(error)) => report(&error, 3),
    }
}

/// Variables by which the command line in the same container finds this process.
const COMMAND_LINE_S: [&str; 2] = ["COUNTERSIGN_SERVER", "COUNTERSIGN_POLICY"];

/// What ended the process before its time.
enum Failure {
    /// Flags or environment are wrong.
    Usage(anyhow::Error),
    /// They are right, and it can't go on.
    Run(anyhow::Error),
}

fn report(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("countersign-issuer: {error:#}");
    ExitCode::from(status)
}

fn start(flags: &Flags) -> Result<(), Failure> {
    let usage = |error: anyhow::Error| Failure::Usage(error.context("--log-level (LOG_LEVEL)"));
    let log = log_filter(&flags.log_level).map_err(|error| usage(error.into()))?;
    let log = EnvFilter::try_new(log).map_err(|error| usage(error.into()))?;
    let environment = |name: &str| std::env::var(name).ok();
    let config = Config::try_new(flags, &environment).map_err(|error| Failure::Usage(error.into()))?;
    let runtime = tokio::runtime::Runtime::new().context("the runtime does not start").map_err(Failure::Run)?;
    let to = |endpoint| Traces::to(endpoint, "countersign-issuer", runtime.handle().clone());
    let traces = config.otlp_endpoint.as_ref().map(to).transpose();
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let format = if flags.log_format == "json" { Format::Json } else { Format::Text { colours } };
    install(log, format, traces.as_ref().ok().and_then(Option::as_ref));
    // People log in without a collector too.
    let traces = traces.unwrap_or_else(|error| {
        tracing::error!(error = format!("{:#}", anyhow::Error::from(error)), "no traces are sent");
        None
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?config, "settings");
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut known = known_variables(&Flags::command());
    known.extend(COMMAND_LINE_S.map(str::to_owned));
    for warning in unknown_variables(&known, names) {
        tracing::warn!("{warning}");
    }
    runtime
        .block_on(async {
            let served = serve(config).await;
            if let Some(traces) = traces {
                traces.end().await;
            }
            served
        })
        .map_err(Failure::Run)
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let stop = CancellationToken::new();
    let running = run(config, stop.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return Ok(ended?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
    Ok(running.await?)
}
