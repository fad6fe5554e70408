//! `countersign-verifier`: the daemon on every node.

use std::{fs, path::Path, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser as _};
use countersign_feed::{Follower, FollowerConfig, RedisFeed, RedisOptions};
use countersign_process::{Failure, Process, Signals, Telling, exit_code, warn_of_unknown_variables};
use countersign_verifier::{Config, ConfigError, Feed, FeedConfig, Flags, Verifier};
use tokio::runtime::Builder;

fn main() -> ExitCode {
    let mut flags = Flags::parse();
    // `dev` calls the same thing by another name, and both names are known in both.
    flags.jwks_allow_private |= std::env::var(ALLOW_PRIVATE_ISSUERS).is_ok_and(|value| is_true(&value));
    exit_code("countersign-verifier", start(&flags))
}

/// The variable of `countersign dev` for --jwks-allow-private.
const ALLOW_PRIVATE_ISSUERS: &str = "COUNTERSIGN_ALLOW_PRIVATE_ISSUERS";

fn is_true(value: &str) -> bool {
    ["1", "true", "yes", "on"].iter().any(|word| word.eq_ignore_ascii_case(value))
}

fn start(flags: &Flags) -> Result<(), Failure> {
    let command = Flags::command();
    let usage = |error: ConfigError| Failure::of_flag(&command, error.flag(), error);
    let telling = Telling::of(&flags.telling, &command)?;
    let config = Config::try_from(flags).map_err(usage)?;
    let feed = flags.feed(std::env::var("REDIS_URL").ok()).map_err(usage)?;
    // On one core there is nobody to share work with, and sharing it costs.
    let single = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
    let runtime = if single { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    let process = Process::begin("countersign-verifier", telling, runtime)?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), ?config, ?feed, "settings");
    warn_of_unknown_variables(&command, &[ALLOW_PRIVATE_ISSUERS]);
    if config.data_dir.is_none() {
        tracing::warn!("no --data-dir: a restart will need the bundle directory and the feed to serve anything");
    }
    process.run(serve(flags, config, feed))
}

async fn serve(flags: &Flags, config: Config, feed: FeedConfig) -> anyhow::Result<()> {
    // Before anything else: an early signal must not kill a process that is about to remove its socket.
    let mut signals = Signals::listen()?;
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
        () = signals.told_to_end() => return Ok(()),
    };
    signals.told_to_end().await;
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
