//! Many more logins than can be served: those that are let in are answered as soon as the queue before them allows, the others
//! at once, and nothing grows.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::TcpStream;

use crate::{
    affinity,
    http1::{self, Target},
    load,
    plan::Effort,
    report::{Bar, Figure},
    rig::Dev,
    server,
};

const PART: &str = "people: more logins at once than can be served";
/// Clients at once. The queue of a pool with one thread is a fourth of that.
const CLIENTS: usize = 256;
/// How many may wait for the one thread, and the one that it works on.
const PLACES: f64 = 65.0;
/// How long a client that was turned away waits before it tries again.
const BACK_OFF: Duration = Duration::from_millis(500);

#[derive(Args)]
pub(crate) struct Options {
    /// `ADDR:PORT`.
    #[arg(long)]
    target: String,
    /// The file of requests.
    #[arg(long)]
    requests: PathBuf,
    /// How long to go on.
    #[arg(long)]
    millis: u64,
}

/// What the clients saw.
#[derive(Debug, Serialize, Deserialize)]
struct Seen {
    served: u64,
    turned_away: u64,
    p50_ms: f64,
    p99_ms: f64,
    per_second: f64,
}

/// Two rounds: what the first needs the second needs too, and no more.
pub(super) fn measure(effort: &Effort, dev: &Dev, requests: &Path, figures: &mut Vec<Figure>) -> Result<()> {
    let millis = effort.millis * 8;
    let round = || -> Result<(Seen, u64)> {
        let mut command = Command::new(std::env::current_exe()?);
        let Target::Tcp(target) = dev.issuer()? else { bail!("the issuer listens on no port") };
        command.arg("overload").arg("--target").arg(target).arg("--requests").arg(requests);
        command.arg("--millis").arg(millis.to_string());
        let seen = super::found(&mut command)?;
        Ok((seen, server::peak(dev.pid())?))
    };
    let (_, first) = round()?;
    let (seen, second) = round()?;
    if seen.turned_away == 0 {
        bail!("{CLIENTS} clients at once are not too many: {seen:?}");
    }
    // The time that it takes to work off a full queue.
    let bound = PLACES / seen.per_second * 1e3;
    let name = format!("p99 of the logins let in, {CLIENTS} clients, against the time of a full queue");
    eprintln!("{name}: {:.2}", seen.p99_ms / bound);
    figures.push(Figure::new(PART, name, seen.p99_ms, "ms").against(bound, seen.p99_ms / bound).bar(Bar::AtMost(1.25)));
    figures.push(Figure::new(PART, "p50 of the logins let in", seen.p50_ms, "ms"));
    figures.push(Figure::new(PART, "let in", seen.per_second, "a second"));
    #[expect(clippy::cast_precision_loss, reason = "counts and bytes fit a double's 53 bits")]
    {
        let name = "answered 503 overloaded meanwhile, for each that was let in";
        figures.push(Figure::new(PART, name, seen.turned_away as f64 / seen.served.max(1) as f64, "answers"));
        let growth = second.saturating_sub(first) as f64 / 1e6;
        figures
            .push(Figure::new(PART, "growth of resident memory, a second round of it", growth, "MB").bar(Bar::AtMost(4.0)));
    }
    Ok(())
}

#[derive(Default)]
struct Tally {
    next: AtomicUsize,
    turned_away: AtomicU64,
    waited: Mutex<Vec<Duration>>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    affinity::pin(affinity::CLIENT)?;
    let requests: Arc<[Vec<u8>]> = load::read_requests(&options.requests)?.into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let seen = runtime.block_on(press(options, requests))?;
    println!("{}", serde_json::to_string(&seen)?);
    Ok(())
}

async fn press(options: &Options, requests: Arc<[Vec<u8>]>) -> Result<Seen> {
    let (tally, began) = (Arc::new(Tally::default()), Instant::now());
    let until = began + Duration::from_millis(options.millis);
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..CLIENTS {
        let (tally, requests, target) = (tally.clone(), requests.clone(), options.target.clone());
        clients.spawn(async move { client(&target, &requests, &tally, until).await });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    let seconds = began.elapsed().as_secs_f64();
    let mut waited = std::mem::take(&mut *tally.waited.lock().unwrap_or_else(PoisonError::into_inner));
    waited.sort();
    let at = |percent: usize| waited.get(waited.len() * percent / 100).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3);
    let served = waited.len();
    #[expect(clippy::cast_precision_loss, reason = "a count")]
    let per_second = served as f64 / seconds;
    Ok(Seen {
        served: served as u64,
        turned_away: tally.turned_away.load(Ordering::Relaxed),
        p50_ms: at(50),
        p99_ms: at(99),
        per_second,
    })
}

async fn client(target: &str, requests: &[Vec<u8>], tally: &Tally, until: Instant) -> Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    while Instant::now() < until {
        let request = &requests[tally.next.fetch_add(1, Ordering::Relaxed) % requests.len()];
        let asked = Instant::now();
        let head = http1::exchange(&mut stream, request, &mut buffer).await?;
        let body: Value = serde_json::from_slice(&buffer[head.length..])?;
        match (head.status, body["error"].as_str()) {
            (200, _) => tally.waited.lock().unwrap_or_else(PoisonError::into_inner).push(asked.elapsed()),
            (503, Some("overloaded")) => {
                tally.turned_away.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(BACK_OFF).await;
            }
            (status, _) => bail!("status {status}: {body}"),
        }
    }
    Ok(())
}
