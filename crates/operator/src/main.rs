//! `countersign-operator`.

use std::{io::IsTerminal as _, process::ExitCode};

use anyhow::Context as _;
use clap::Parser as _;
use countersign_operator::{Config, Environment, Flags};
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

/// What ended the process before its time.
enum Failure {
    /// Flags or environment are wrong.
    Usage(anyhow::Error),
    /// They are right, and it can't go on.
    Run(anyhow::Error),
}

fn report(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("countersign-operator: {error:#}");
    ExitCode::from(status)
}

fn start(flags: &Flags) -> Result<(), Failure> {
    let log = EnvFilter::try_new(&flags.log_level)
        .with_context(|| format!("--log-level (LOG_LEVEL): {:?} is no level", flags.log_level))
        .map_err(Failure::Usage)?;
    let config = Config::try_new(flags, environment()).map_err(|error| Failure::Usage(error.into()))?;
    let runtime = tokio::runtime::Runtime::new().context("the runtime does not start").map_err(Failure::Run)?;
    let to = |endpoint| Traces::to(endpoint, "countersign-operator", runtime.handle().clone());
    let traces = config.otlp_endpoint.as_ref().map(to).transpose();
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let format = if flags.log_format == "json" { Format::Json } else { Format::Text { colours } };
    install(log, format, traces.as_ref().ok().and_then(Option::as_ref));
    // Policies are kept without a collector too.
    let traces = traces.unwrap_or_else(|error| {
        tracing::error!(error = format!("{:#}", anyhow::Error::from(error)), "no traces are sent");
        None
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?config, "settings");
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
    let running = countersign_operator::run(config, stop.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return Ok(ended?),
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending; whoever waits for the Lease takes over");
    stop.cancel();
    Ok(running.await?)
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
