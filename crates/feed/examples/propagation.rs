//! How long a revocation takes from the publisher's return to being in force on the last of many readers, on a Redis of its own.
//!
//! `cargo run --release -p countersign-feed --example propagation -- [READERS] [REVOCATIONS] [BURST]`

use std::{
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use countersign_core::{
    revocation::{Entry, Kind, Position},
    time::UnixMillis,
};
use countersign_feed::{FeedServer, FeedState, Follower, FollowerConfig, PublishRow, RedisFeed, RedisOptions};

struct Redis(Child);

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn session(n: usize) -> Entry {
    Entry {
        policy: "shop/shop".parse().expect("a policy's name"),
        kind: Kind::Session,
        issuer: None,
        id: format!("session-{n}"),
        cutoff: UnixMillis::FOREVER,
        expires: UnixMillis(4_000_000_000_000),
        version: 0,
        reason: String::new(),
        source: String::new(),
    }
}

/// The time from `since` until every reader holds `position`.
async fn all_reach(states: &[Arc<FeedState>], position: Position, since: Instant) -> Duration {
    for state in states {
        assert!(state.wait_for(position, Duration::from_mins(1)).await, "not reached");
    }
    since.elapsed()
}

fn report(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let at = |fraction: usize| took[(took.len() - 1) * fraction / 1000].as_secs_f64() * 1000.0;
    println!("{what}: p50 {:.2} ms, p99 {:.2} ms, p99.9 {:.2} ms, worst {:.2} ms", at(500), at(990), at(999), at(1000));
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<usize>().expect("a number"));
    let (readers, revocations, burst) =
        (args.next().unwrap_or(200), args.next().unwrap_or(1000), args.next().unwrap_or(10_000));
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed (`cargo xtask test` does that)");
    let _redis = Redis(child);
    let feed = || -> Arc<dyn FeedServer> {
        let url = format!("redis://127.0.0.1:{port}").parse().expect("a Redis URL");
        Arc::new(RedisFeed::new(url, RedisOptions::default()).expect("a Redis URL"))
    };
    let writer = feed();
    let deadline = Instant::now() + Duration::from_secs(10);
    while writer.open_epoch(1).await.is_err() {
        assert!(Instant::now() < deadline, "redis-server did not come up");
        tokio::task::yield_now().await;
    }
    writer.seal(1).await.expect("sealed");
    let followers: Vec<Follower> = (0..readers)
        .map(|n| Follower::spawn(feed(), FollowerConfig::new(format!("reader-{n}"))).expect("no directory to fail on"))
        .collect();
    let states: Vec<Arc<FeedState>> = followers.iter().map(|follower| Arc::clone(follower.state())).collect();
    while !states.iter().all(|state| state.view().fresh) {
        tokio::task::yield_now().await;
    }
    println!("{readers} readers, one Redis, one machine");

    let publish = async |from: usize, n: usize| {
        let rows: Vec<_> = (from..from + n).map(|n| PublishRow { entry: session(n), recorded: None }).collect();
        writer.publish(1, Position::ZERO, &rows).await.expect("published").last().expect("a row").position
    };
    let mut took = Vec::with_capacity(revocations);
    for n in 0..revocations {
        let position = publish(n, 1).await;
        took.push(all_reach(&states, position, Instant::now()).await);
    }
    report("one at a time", took);

    let started = Instant::now();
    let mut pending = Vec::new();
    let step = 100;
    for from in (revocations..revocations + burst).step_by(step) {
        let position = publish(from, step).await;
        let (states, since) = (states.clone(), Instant::now());
        pending.push(tokio::spawn(async move { all_reach(&states, position, since).await }));
    }
    let mut took = Vec::with_capacity(pending.len());
    for done in pending {
        took.push(done.await.expect("no panic"));
    }
    report(&format!("a burst of {burst}, {step} at a time"), took);
    println!("all of the burst in force everywhere after {:.0} ms", started.elapsed().as_secs_f64() * 1000.0);
}
