//! Resident memory, and the time from start to ready.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Kind, Position},
    time::UnixMillis,
};
use countersign_feed::{FeedServer as _, PublishRow, RedisFeed, RedisOptions};

use crate::{
    plan::Effort,
    report::{Bar, Figure},
    rig::{Dev, POLICY, Redis, Start, Verifier, wait},
    server,
    signing::Keys,
};

const PART: &str = "memory and start";
const MEGABYTE: f64 = 1e6;

#[expect(clippy::cast_precision_loss, reason = "bytes of memory fit a double's 53 bits")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / MEGABYTE
}

pub(crate) fn measure(effort: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    let keys = Keys::generate()?;
    let redis = Redis::start()?;
    let dev = Dev::start(&redis, &keys, 0)?;
    let start = |bundles| Start { bundles, redis: &redis, pinned: false, under: &[] };
    let bundles = dev.bundles();

    let (verifier, _) = Verifier::start(&start(&bundles))?;
    verifier.wait_until_fresh(0)?;
    let idle = settled(verifier.pid())?;
    figures.push(Figure::new(PART, "resident, idle with one policy", megabytes(idle), "MB").bar(Bar::AtMost(12.0)));
    verifier.terminate()?;

    many_policies(effort, &keys, figures)?;

    eprintln!("publishing {} revocations", effort.revocations);
    publish(&redis, effort.revocations)?;
    let (verifier, _) = Verifier::start(&start(&bundles))?;
    let entries = verifier.wait_until_fresh(effort.revocations as u64)?;
    let full = settled(verifier.pid())?;
    figures.push(
        Figure::new(
            PART,
            format!("resident above idle, {entries} live revocations"),
            megabytes(full.saturating_sub(idle)),
            "MB",
        )
        .bar(Bar::AtMost(64.0)),
    );
    let peak = server::peak(verifier.pid())?;
    figures.push(Figure::new(
        PART,
        "the same at its peak, while reading and saving them",
        megabytes(peak.saturating_sub(idle)),
        "MB",
    ));
    verifier.terminate()
}

/// Resident memory once it has stayed the same for a while: what was read has been saved by then.
fn settled(pid: u32) -> Result<u64> {
    let mut last = (Instant::now(), server::resident(pid)?);
    wait("memory settles", Duration::from_mins(2), || {
        let now = server::resident(pid)?;
        if now.abs_diff(last.1) > now / 100 {
            last = (Instant::now(), now);
        }
        Ok((last.0.elapsed() > Duration::from_secs(7)).then_some(now))
    })
}

fn many_policies(effort: &Effort, keys: &Keys, figures: &mut Vec<Figure>) -> Result<()> {
    eprintln!("making {} policies", effort.policies);
    let redis = Redis::start()?;
    let dev = Dev::start(&redis, keys, effort.policies - 1)?;
    let start = Start { bundles: &dev.bundles(), redis: &redis, pinned: false, under: &[] };
    let mut took = Duration::MAX;
    for _ in 0..effort.rounds {
        let (verifier, ready) = Verifier::start(&start)?;
        took = took.min(ready);
        if figures.iter().all(|figure| !figure.name.starts_with("resident, with")) {
            verifier.wait_until_fresh(0)?;
            let resident = megabytes(server::resident(verifier.pid())?);
            figures.push(Figure::new(PART, format!("resident, with {} policies", effort.policies), resident, "MB"));
        }
        verifier.terminate()?;
    }
    let name = format!("from start to ready, {} policies, nothing saved", effort.policies);
    figures.push(Figure::new(PART, name, took.as_secs_f64() * 1e3, "ms").bar(Bar::AtMost(500.0)));
    Ok(())
}

/// Puts live entries into the feed as a writer would.
fn publish(redis: &Redis, count: usize) -> Result<()> {
    let policy: PolicyName = POLICY.parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let feed = RedisFeed::new(redis.url.parse()?, RedisOptions::default())?;
        let epoch = feed.state().await?.present().context("dev has opened no epoch")?.epoch;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_millis();
        let expires = UnixMillis(i64::try_from(now)? + 86_400_000);
        for start in (0..count).step_by(1000) {
            let rows: Vec<PublishRow> = (start..count.min(start + 1000))
                .map(|number| PublishRow {
                    entry: Entry {
                        policy: policy.clone(),
                        kind: Kind::Token,
                        issuer: None,
                        id: format!("0193f3b2-7e80-7a53-b2c4-{number:012}"),
                        cutoff: UnixMillis::FOREVER,
                        expires,
                        version: 0,
                        reason: String::new(),
                        source: "bench".into(),
                    },
                    recorded: None,
                })
                .collect();
            feed.publish(epoch, Position::ZERO, &rows).await?;
        }
        Ok(())
    })
}
