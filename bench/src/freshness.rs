//! How soon a revocation is in force everywhere: from the revoke call's return to refusal by the last of many readers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use countersign_core::{
    names::PolicyName,
    revocation::{Kind, Position, Revocable},
    time::UnixMillis,
};
use countersign_feed::{FeedState, Follower, FollowerConfig, RedisFeed, RedisOptions};

use crate::{
    admin::Admin,
    plan::Effort,
    report::{Bar, Figure},
    rig::{Dev, POLICY, Redis},
    signing::Keys,
};

/// Writers at once in the burst.
const WRITERS: usize = 8;
/// In a burst, one revocation of so many is followed to every reader.
const SAMPLED: usize = 10;

pub(crate) fn measure(effort: &Effort, figures: &mut Vec<Figure>) -> Result<()> {
    let redis = Redis::start()?;
    let dev = Dev::start(&redis, &Keys::generate()?, 0)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let followers = runtime.block_on(follow(&redis, effort.readers))?;
    let readers: Arc<[Arc<FeedState>]> = followers.iter().map(|follower| Arc::clone(follower.state())).collect();
    let admin = dev.admin()?;

    let mut one = Admin::connect(&admin, POLICY)?;
    let mut singles = Vec::with_capacity(effort.singles);
    for number in 0..effort.singles {
        let id = format!("single-{number}");
        let position: Position = one.revoke(&id)?.parse()?;
        let returned = Instant::now();
        singles.push(runtime.block_on(in_force(Arc::clone(&readers), id, position, returned))?);
    }
    push(figures, &format!("one after another, {} readers", effort.readers), singles, true);

    let next = Arc::new(AtomicUsize::new(0));
    let (sender, samples) = std::sync::mpsc::channel();
    let started = Instant::now();
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (admin, next, sender, readers) = (admin.clone(), Arc::clone(&next), sender.clone(), Arc::clone(&readers));
            let (handle, burst) = (runtime.handle().clone(), effort.burst);
            std::thread::spawn(move || -> Result<()> {
                let mut admin = Admin::connect(&admin, POLICY)?;
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= burst {
                        return Ok(());
                    }
                    let id = format!("burst-{number}");
                    let position: Position = admin.revoke(&id)?.parse()?;
                    if number.is_multiple_of(SAMPLED) {
                        let sample = in_force(Arc::clone(&readers), id, position, Instant::now());
                        sender.send(handle.spawn(sample))?;
                    }
                }
            })
        })
        .collect();
    drop(sender);
    for writer in writers {
        writer.join().ok().context("a writer panicked")??;
    }
    let took = started.elapsed();
    let burst = samples.into_iter().map(|sample| runtime.block_on(sample)?).collect::<Result<Vec<_>>>()?;
    push(figures, &format!("in a burst of {} within {:.1} s", effort.burst, took.as_secs_f64()), burst, false);
    Ok(())
}

async fn follow(redis: &Redis, readers: usize) -> Result<Vec<Follower>> {
    let mut followers = Vec::with_capacity(readers);
    for number in 0..readers {
        let server = Arc::new(RedisFeed::new(redis.url.parse()?, RedisOptions::default())?);
        followers.push(Follower::spawn(server, FollowerConfig::new(format!("reader-{number}")))?);
    }
    let deadline = Instant::now() + Duration::from_mins(1);
    while followers.iter().any(|follower| !follower.state().view().fresh) {
        if Instant::now() > deadline {
            bail!("not all readers became fresh");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(followers)
}

/// Waits until every reader refuses the token; how long after `returned` the last of them did.
async fn in_force(readers: Arc<[Arc<FeedState>]>, id: String, position: Position, returned: Instant) -> Result<Duration> {
    let policy: PolicyName = POLICY.parse()?;
    for reader in &*readers {
        if !reader.wait_for(position, Duration::from_secs(30)).await {
            bail!("a reader did not reach {position} in 30 s");
        }
        let revocations = reader.revocations();
        let ids = revocations.hasher().ids_of(&Revocable {
            policy: &policy,
            issuer: Some("https://main.example"),
            own: true,
            access_ring: true,
            token_kind: Kind::Token,
            token_id: Some(&id),
            session_id: None,
            subject: None,
            kid: None,
        });
        if revocations.lookup(&ids, Some(UnixMillis(0))).is_none() {
            bail!("a reader at {position} does not refuse {id}");
        }
    }
    Ok(returned.elapsed())
}

fn push(figures: &mut Vec<Figure>, what: &str, mut samples: Vec<Duration>, barred: bool) {
    samples.sort_unstable();
    for (name, thousandth) in [("p50", 500), ("p99", 990), ("p99.9", 999)] {
        let at = (samples.len() * thousandth / 1000).min(samples.len().saturating_sub(1));
        let value = samples.get(at).map_or(f64::NAN, |sample| sample.as_secs_f64() * 1e3);
        let figure =
            Figure::new("freshness: revoke's return to the last reader's refusal", format!("{what}: {name}"), value, "ms");
        figures.push(if barred && name == "p99" { figure.bar(Bar::AtMost(10.0)) } else { figure });
    }
}
