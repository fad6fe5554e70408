//! `countersign-verifier`: the daemon on every node.

use std::{fs, io::IsTerminal as _, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use countersign_feed::{Follower, FollowerConfig, RedisFeed, RedisOptions};
use countersign_process::{known_variables, unknown_variables, variable_behind};
use countersign_telemetry::{Format, Traces, install};
use countersign_verifier::{Config, Feed, FeedConfig, Flags, Verifier};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let mut flags = Flags::parse();
    // `dev` calls the same thing by another name, and both names are known in both.
    flags.jwks_allow_private |= std::env::var(ALLOW_PRIVATE_ISSUERS).is_ok_and(|value| is_true(&value));
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => report(&error, 2),
        Err(Failure::Start(error)) => report(&error, 3),
    }
}

/// The variable of `countersign dev` for --jwks-allow-private.
const ALLOW_PRIVATE_ISSUERS: &str = "COUNTERSIGN_ALLOW_PRIVATE_ISSUERS";

fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|word| word.eq_ignore_ascii_case(value))
}

/// What ended the process before its time.
enum Failure {
    /// Flags or environment are wrong.
    Usage(anyhow::Error),
    /// They are right, and it can't be done.
    Start(anyhow::Error),
}

fn report(error: &anyhow::Error, status: u8) -> ExitCode {
    eprintln!("countersign-verifier: {}", causes(error));
    ExitCode::from(status)
}

/// An error with what caused it. Many say their cause themselves: that isn't said twice.
fn causes(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

/// What is wrong with the flags; where a variable gave one its value, by the variable's name.
fn usage(error: countersign_verifier::ConfigError) -> Failure {
    let arguments: Vec<_> = std::env::args_os().collect();
    let variable = error.flag().and_then(|flag| variable_behind(&Flags::command(), flag, &arguments));
    let error = anyhow::Error::from(error);
    Failure::Usage(match variable {
        Some(variable) => anyhow::anyhow!("{} (the value is that of {variable} in the environment)", causes(&error)),
        None => error,
    })
}

fn run(flags: &Flags) -> Result<(), Failure> {
    let log = flags.log_filter().map_err(usage)?;
    let log = EnvFilter::try_new(log).context("--log-level (LOG_LEVEL)").map_err(Failure::Usage)?;
    let config = Config::try_from(flags).map_err(usage)?;
    let feed = flags.feed(std::env::var("REDIS_URL").ok()).map_err(usage)?;
    let collector = flags.traces().map_err(usage)?;
    // On one core there is nobody to share work with, and sharing it costs.
    let single = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
    let mut builder =
        if single { tokio::runtime::Builder::new_current_thread() } else { tokio::runtime::Builder::new_multi_thread() };
    let runtime = builder.enable_all().build().context("the runtime does not start").map_err(Failure::Start)?;
    let to = |endpoint| Traces::to(endpoint, "countersign-verifier", runtime.handle().clone());
    let traces = collector.as_ref().map(to).transpose();
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let format = if flags.log_format == "json" { Format::Json } else { Format::Text { colours } };
    install(log, format, traces.as_ref().ok().and_then(Option::as_ref));
    // Verdicts are given without a collector too.
    let traces = traces.unwrap_or_else(|error| {
        tracing::error!(error = causes(&error.into()), "no traces are sent");
        None
    });
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?config, ?feed, "settings");
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    let mut known = known_variables(&Flags::command());
    known.insert(ALLOW_PRIVATE_ISSUERS.to_owned());
    for warning in unknown_variables(&known, names) {
        tracing::warn!("{warning}");
    }
    if config.data_dir.is_none() {
        tracing::warn!("no --data-dir: a restart will need the bundle directory and the feed to serve anything");
    }
    runtime
        .block_on(async {
            let served = serve(flags, config, feed).await;
            if let Some(traces) = traces {
                traces.end().await;
            }
            served
        })
        .map_err(Failure::Start)
}

async fn serve(flags: &Flags, config: Config, feed: FeedConfig) -> anyhow::Result<()> {
    // Before anything else: an early signal must not kill a process that is about to remove its socket.
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let feed = match feed {
        FeedConfig::Without => Feed::Without,
        FeedConfig::Redis { url, ca_pem } => {
            let server = RedisFeed::new(*url, RedisOptions { ca_pem, ..RedisOptions::default() })?;
            let name = name(flags.given_name(), config.data_dir.as_deref())?;
            let mut following = FollowerConfig::new(name);
            if let Some(data_dir) = &config.data_dir {
                following = following.saved_in(data_dir.join("feed"));
            }
            Feed::Followed(Follower::spawn(Arc::new(server), following)?)
        }
    };
    // A start may wait for an API server that is away; whoever wants to stop needn't.
    let verifier = tokio::select! {
        verifier = Verifier::start(config, feed) => verifier?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    verifier.shutdown().await;
    Ok(())
}

/// A name that no other verifier has. One with a data directory keeps it, so that the fleet knows it again.
fn name(given: Option<&str>, data_dir: Option<&Path>) -> anyhow::Result<String> {
    if let Some(name) = given {
        return Ok(name.to_owned());
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let Some(data_dir) = data_dir else { return Ok(format!("{host}-{}", std::process::id())) };
    let path = data_dir.join("name");
    if let Ok(kept) = fs::read_to_string(&path)
        && !kept.trim().is_empty()
    {
        return Ok(kept.trim().to_owned());
    }
    let mut random = [0; 4];
    aws_lc_rs::rand::fill(&mut random).ok().context("no randomness")?;
    let name = format!("{host}-{:08x}", u32::from_be_bytes(random));
    fs::create_dir_all(data_dir)
        .and_then(|()| fs::write(&path, &name))
        .with_context(|| format!("--data-dir: {} cannot be written", path.display()))?;
    Ok(name)
}
