//! Many verifiers as the operator sees them, in one process.
//!
//! Each has its name, its own connections to Redis, and the feed's own follower: leases and acknowledgements are written by the
//! code that writes a verifier's. What they share is one watch of the bundles and one copy of what it brought: a bundle is
//! opened, its signature checked, and kept, before anybody acknowledges it; one that isn't good is refused by all. They give no
//! verdicts.
//!
//! It must not know how the operator reckons.

mod bundles;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use clap::Parser;
use countersign_api::{bundle::SCHEMA, cluster};
use countersign_feed::{Ack, Follower, FollowerConfig, MAX_REFUSED, RedisFeed, RedisOptions, RefusedPolicy};
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::{sync::watch, task::JoinSet};

use crate::bundles::{Applied, Bundles};

#[derive(Parser)]
#[command(about = "Simulates acknowledging verifiers")]
struct Flags {
    /// The verifiers' kubeconfig
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Namespace of bundles
    #[arg(long, value_name = "NAME", default_value = cluster::BUNDLES_NAMESPACE)]
    bundles_namespace: String,
    /// The ConfigMap bundle-trust, mounted as a directory
    #[arg(long, value_name = "DIR")]
    bundle_trust: PathBuf,
    /// Redis
    #[arg(long, value_name = "URL")]
    redis: String,
    /// The verifiers' names, one a line
    #[arg(long, value_name = "FILE")]
    names: PathBuf,
    /// The identity of this run of all of them
    #[arg(long, value_name = "TEXT")]
    run: String,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let flags = Flags::parse();
    let kubeconfig = Kubeconfig::read_from(&flags.kubeconfig).context("--kubeconfig")?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    config.connect_timeout = Some(Duration::from_secs(5));
    let client = kube::Client::try_from(config)?;
    let names = std::fs::read_to_string(&flags.names).context("--names")?;

    // The first lease of each carries no acknowledgement, as a verifier's does.
    let mut followers = Vec::new();
    for name in names.lines() {
        let server = RedisFeed::new(flags.redis.parse().context("--redis")?, RedisOptions::default())?;
        followers.push(Follower::spawn(Arc::new(server), FollowerConfig::new(name))?);
    }
    let (publish, applied) = watch::channel(None);
    let mut tasks = JoinSet::new();
    for (number, follower) in followers.into_iter().enumerate() {
        let start_id = format!("{}-{number}", flags.run);
        tasks.spawn(acknowledge(follower, start_id, applied.clone()));
    }
    drop(applied);
    let bundles = Bundles::new(client, &flags.bundles_namespace, flags.bundle_trust, publish);
    tokio::select! {
        ended = bundles.follow() => ended,
        _ = tasks.join_next() => anyhow::bail!("a verifier ended"),
    }
}

/// One verifier: says what has been applied, whenever that changes.
async fn acknowledge(follower: Follower, start_id: String, mut applied: watch::Receiver<Option<Applied>>) {
    while applied.changed().await.is_ok() {
        let ack = applied.borrow_and_update().clone().map(|applied| ack(&start_id, applied));
        follower.set_ack(ack);
    }
}

fn ack(start_id: &str, applied: Applied) -> Ack {
    let refused = |(policy, held): &(String, Option<u64>)| RefusedPolicy {
        policy: policy.clone(),
        held: *held,
        reason: "simulated".to_owned(),
    };
    Ack {
        start_id: start_id.to_owned(),
        history: applied.history,
        revision: applied.revision.to_string(),
        schemas: (1..=SCHEMA).collect(),
        trusted_bundle_keys: applied.trusted,
        refused: applied.refused.iter().take(MAX_REFUSED).map(refused).collect(),
        refused_more: applied.refused.len() > MAX_REFUSED,
        highest_held: applied.highest,
        ..Ack::default()
    }
}
