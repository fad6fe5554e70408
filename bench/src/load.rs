//! The load generator: a process of its own, so that its CPU time is nobody's but its own.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{
    affinity,
    http1::{self, Head, Target},
    server,
};

#[derive(Args)]
pub(crate) struct Options {
    /// `unix:PATH` or `ADDR:PORT`.
    #[arg(long)]
    target: Target,
    /// How many connections at once, each with one request under way.
    #[arg(long)]
    connections: usize,
    /// The process whose CPU time is counted.
    #[arg(long)]
    server_pid: u32,
    /// Processes whose CPU time is counted apart: those of its database.
    #[arg(long, value_delimiter = ',')]
    beside: Vec<u32>,
    /// The file of requests, as [`write_requests`] wrote it.
    #[arg(long)]
    requests: PathBuf,
    /// Each item of the file is a refresh token instead, which a connection of its own renews at this path again and again.
    #[arg(long)]
    refresh_at: Option<String>,
    /// The status that every answer must have.
    #[arg(long, default_value_t = 200)]
    status: u16,
    /// How long to measure; without it, until each request was sent once.
    #[arg(long)]
    millis: Option<u64>,
}

/// What one measurement saw.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Answers within the measured time.
    pub(crate) answers: u64,
    /// The server's CPU time in it, nanoseconds.
    pub(crate) server_cpu_ns: u64,
    /// The CPU time of the processes beside it.
    pub(crate) beside_cpu_ns: u64,
    /// How long it was.
    pub(crate) wall_ns: u64,
}

impl Measured {
    /// Answers for each second of the server's CPU time.
    #[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of a run fit a double's 53 bits")]
    pub(crate) fn per_cpu_second(&self) -> f64 {
        self.answers as f64 * 1e9 / self.server_cpu_ns.max(1) as f64
    }

    /// Answers for each second of CPU time of the server and of what is beside it.
    #[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of a run fit a double's 53 bits")]
    pub(crate) fn per_cpu_second_of_all(&self) -> f64 {
        self.answers as f64 * 1e9 / (self.server_cpu_ns + self.beside_cpu_ns).max(1) as f64
    }

    /// Answers for each second of the clock.
    #[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of a run fit a double's 53 bits")]
    pub(crate) fn per_second(&self) -> f64 {
        self.answers as f64 * 1e9 / self.wall_ns.max(1) as f64
    }
}

/// Writes requests, each after its length.
pub(crate) fn write_requests(path: &Path, requests: &[Vec<u8>]) -> Result<()> {
    let mut bytes = Vec::new();
    for request in requests {
        bytes.extend_from_slice(&u32::try_from(request.len())?.to_le_bytes());
        bytes.extend_from_slice(request);
    }
    fs::write(path, bytes).context("could not write the requests")
}

pub(crate) fn read_requests(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = fs::read(path).context("could not read the requests")?;
    let mut rest = bytes.as_slice();
    let mut requests = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk() {
        let (request, after) =
            after.split_at_checked(u32::from_le_bytes(*length) as usize).context("the file of requests ends early")?;
        requests.push(request.to_vec());
        rest = after;
    }
    Ok(requests)
}

struct Shared {
    requests: Vec<Vec<u8>>,
    status: u16,
    once: bool,
    next: AtomicUsize,
    answers: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn take(&self) -> Option<&[u8]> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        if self.once {
            self.requests.get(next).map(Vec::as_slice)
        } else {
            Some(&self.requests[next % self.requests.len()])
        }
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    affinity::pin(affinity::CLIENT)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(measure(options))?;
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

async fn measure(options: &Options) -> Result<Measured> {
    let requests = read_requests(&options.requests)?;
    if requests.is_empty() {
        bail!("no requests");
    }
    let once = options.millis.is_none();
    // Requests that may be sent once only: a twentieth of them warms up.
    let warm_up = requests.len() as u64 / 20;
    let shared = Arc::new(Shared {
        requests,
        status: options.status,
        once,
        next: AtomicUsize::new(0),
        answers: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let mut connections = tokio::task::JoinSet::new();
    for number in 0..options.connections {
        let (shared, refresh_at) = (Arc::clone(&shared), options.refresh_at.clone());
        match &options.target {
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await?;
                connections.spawn(async move { connection(stream, &shared, number, refresh_at).await });
            }
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                connections.spawn(async move { connection(stream, &shared, number, refresh_at).await });
            }
        }
    }

    let mut ended = None;
    if let Some(millis) = options.millis {
        tokio::time::sleep(Duration::from_millis(millis / 4)).await;
        let start = Sample::take(&shared, options)?;
        tokio::time::sleep(Duration::from_millis(millis)).await;
        ended = Some(Sample::take(&shared, options)?.since(&start));
        shared.stop.store(true, Ordering::Relaxed);
    }
    let start = if once {
        while shared.answers.load(Ordering::Relaxed) < warm_up && !connections.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Some(Sample::take(&shared, options)?)
    } else {
        None
    };
    while let Some(connection) = connections.join_next().await {
        connection??;
    }
    match (ended, start) {
        (Some(measured), _) => Ok(measured),
        (None, Some(start)) => Ok(Sample::take(&shared, options)?.since(&start)),
        (None, None) => bail!("nothing was measured"),
    }
}

/// The counters at one moment.
struct Sample {
    answers: u64,
    cpu: Duration,
    /// Absent of one that has ended, as a database's workers do.
    beside: Vec<Option<Duration>>,
    at: Instant,
}

impl Sample {
    fn take(shared: &Shared, options: &Options) -> Result<Self> {
        let beside = options.beside.iter().map(|pid| server::cpu_time(*pid).ok()).collect();
        Ok(Self {
            answers: shared.answers.load(Ordering::Relaxed),
            cpu: server::cpu_time(options.server_pid)?,
            beside,
            at: Instant::now(),
        })
    }

    fn since(&self, start: &Self) -> Measured {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let both = self.beside.iter().zip(&start.beside);
        let beside = both.filter_map(|(now, then)| Some(now.as_ref()?.saturating_sub(*then.as_ref()?))).sum();
        Measured {
            answers: self.answers - start.answers,
            server_cpu_ns: nanos(self.cpu.saturating_sub(start.cpu)),
            beside_cpu_ns: nanos(beside),
            wall_ns: nanos(self.at - start.at),
        }
    }
}

async fn connection(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: &Shared,
    number: usize,
    refresh_at: Option<String>,
) -> Result<()> {
    let mut buffer = Vec::with_capacity(64 * 1024);
    if let Some(path) = refresh_at {
        let mut token = String::from_utf8(shared.requests.get(number).context("more connections than tokens")?.clone())?;
        while !shared.stop.load(Ordering::Relaxed) {
            let body = json!({"refresh_token": token}).to_string();
            let head =
                exchange(&mut stream, &http1::request("POST", &path, &[], Some(body.as_bytes())), shared, &mut buffer)
                    .await?;
            let answer: Value = serde_json::from_slice(&buffer[head.length..])?;
            let next = answer["refresh_token"].as_str().context("an answer without a refresh token")?;
            next.clone_into(&mut token);
        }
        return Ok(());
    }
    while let Some(request) = shared.take() {
        exchange(&mut stream, request, shared, &mut buffer).await?;
    }
    Ok(())
}

/// Sends a request and takes its answer, which counts when it is as it must be.
async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    shared: &Shared,
    buffer: &mut Vec<u8>,
) -> Result<Head> {
    let head = http1::exchange(stream, request, buffer).await?;
    if head.status != shared.status {
        bail!("status {}: {}", head.status, String::from_utf8_lossy(&buffer[head.length..]));
    }
    shared.answers.fetch_add(1, Ordering::Relaxed);
    Ok(head)
}
