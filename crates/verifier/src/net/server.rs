//! Accept loops, the bound on connections, and the way out.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use countersign_process::{Begun, Tls};
use parking_lot::Mutex;
use slab::Slab;
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::{
    connection::{self, Service},
    listener::{Accepted, Bound, Peer},
    meter::{Meter, Patience, TICK, Ticks},
};

/// How long idle clients may keep a connection once draining began: whoever asks in that time is answered and told to close.
const LINGER: Duration = Duration::from_secs(1);

/// How long answers under way may take once draining began.
const DRAIN: Duration = Duration::from_secs(10);

/// A backlog that yields nothing for this long is empty.
const BACKLOG_QUIET: Duration = Duration::from_millis(20);

/// Said to a connection over the limit, before it is closed.
const OVERLOADED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n\
    retry-after: 1\r\nconnection: close\r\ncontent-length: 140\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Service Unavailable\",\"status\":503,\"error\":\"overloaded\",\
    \"detail\":\"too many open connections; try again later\"}";

/// Bounds of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerLimits {
    /// Connections open at once, over all listeners.
    pub(crate) connections: usize,
    /// At that limit, whether the connection that has been idle for longest makes room. Looks at all of them: for few.
    pub(crate) idle_make_room: bool,
    /// Patience with slow peers.
    pub(crate) patience: Patience,
    /// How long connections on TCP are still taken once draining began: those behind a Service come until it has heard of it.
    pub(crate) farewell: Duration,
}

/// The order to leave, as connections see it.
pub(crate) struct Drain {
    /// Every answer from now on closes its connection.
    pub(super) begun: AtomicBool,
    /// Connections without a request under way are closed.
    pub(super) closing_idle: AtomicBool,
    pub(super) close_idle: Notify,
}

/// Tells of a server's connections.
pub(crate) trait OpenConnections: Send + Sync {
    /// Open now.
    fn open(&self) -> usize;
    /// Refused at the limit since the start.
    fn refused(&self) -> u64;
}

impl<S: Send + Sync> OpenConnections for Shared<S> {
    fn open(&self) -> usize {
        self.open.lock().len()
    }

    fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

/// Several listeners that answer alike.
pub(crate) struct Server<S> {
    shared: Arc<Shared<S>>,
    loops: JoinSet<()>,
    stop_accepting: CancellationToken,
    sweeper: AbortHandle,
}

struct Shared<S> {
    service: Arc<S>,
    limits: ServerLimits,
    ticks: Arc<Ticks>,
    drain: Arc<Drain>,
    open: Mutex<Slab<Tracked>>,
    closed_one: Notify,
    refused: AtomicU64,
}

struct Tracked {
    meter: Arc<Meter>,
    task: AbortHandle,
}

impl<S: Service> Server<S> {
    /// Serves `listeners` until told to drain. Must be called within a runtime.
    pub(crate) fn start(listeners: Vec<(Bound, Tls)>, service: Arc<S>, limits: ServerLimits) -> Self {
        let shared = Arc::new(Shared {
            service,
            limits,
            ticks: Arc::default(),
            drain: Arc::new(Drain::new()),
            open: Mutex::default(),
            closed_one: Notify::new(),
            refused: AtomicU64::new(0),
        });
        let stop_accepting = CancellationToken::new();
        let mut loops = JoinSet::new();
        for (bound, tls) in listeners {
            loops.spawn(shared.clone().accept(bound, tls, stop_accepting.clone()));
        }
        let sweeper = tokio::spawn(shared.clone().sweep()).abort_handle();
        Self { shared, loops, stop_accepting, sweeper }
    }

    /// Stops accepting, answers what has begun, closes the rest.
    pub(crate) async fn drain(mut self) {
        self.shared.drain.begun.store(true, Relaxed);
        self.stop_accepting.cancel();
        while self.loops.join_next().await.is_some() {}
        if tokio::time::timeout(LINGER, self.shared.all_closed()).await.is_err() {
            self.shared.drain.notify_idle();
            if tokio::time::timeout(DRAIN, self.shared.all_closed()).await.is_err() {
                self.shared.abort_all();
            }
        }
    }

    /// Tells of its connections.
    pub(crate) fn connections(&self) -> Arc<dyn OpenConnections> {
        self.shared.clone()
    }

    /// Closes everything at once.
    pub(crate) fn close(self) {
        self.shared.abort_all();
    }
}

impl<S> Drop for Server<S> {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}

impl<S: Service> Shared<S> {
    async fn accept(self: Arc<Self>, bound: Bound, tls: Tls, stop: CancellationToken) {
        let mut stopped = pin!(stop.cancelled());
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => break,
                accepted = bound.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer, &tls),
                    Err(error) => accept_failed(&bound, &error).await,
                },
            }
        }
        bound.unlink();
        if let Bound::Tcp(_) = bound {
            // Each is answered once, and told to close.
            let late = async {
                loop {
                    match bound.accept().await {
                        Ok((stream, peer)) => self.admit(stream, peer, &tls),
                        Err(error) => accept_failed(&bound, &error).await,
                    }
                }
            };
            let _ = tokio::time::timeout(self.limits.farewell, late).await;
        }
        // Whoever connected before the name was gone is in the backlog, and is served.
        while let Ok(Ok((stream, peer))) = tokio::time::timeout(BACKLOG_QUIET, bound.accept()).await {
            self.admit(stream, peer, &tls);
        }
    }

    fn admit(self: &Arc<Self>, stream: Accepted, peer: Peer, tls: &Tls) {
        let meter = Arc::new(Meter::new(&self.ticks));
        // The entry is made under the same lock that the task needs to leave it.
        let mut open = self.open.lock();
        if open.len() >= self.limits.connections && !self.make_room(&open) {
            drop(open);
            self.refused.fetch_add(1, Relaxed);
            refuse(&stream, matches!(tls, Tls::Required(_)));
            return;
        }
        let slot = open.vacant_entry();
        let place = Place { shared: self.clone(), key: slot.key() };
        let task = tokio::spawn(self.clone().run(stream, peer, tls.clone(), meter.clone(), place)).abort_handle();
        slot.insert(Tracked { meter, task });
    }

    /// Ends an idle connection. Its entry goes when its task does, a moment later.
    fn make_room(&self, open: &Slab<Tracked>) -> bool {
        if !self.limits.idle_make_room || open.len() >= self.limits.connections * 2 {
            return false;
        }
        let idle = open.iter().filter_map(|(_, tracked)| Some((tracked.meter.idle_for(&self.ticks)?, tracked)));
        let longest = idle.max_by_key(|(ticks, _)| *ticks);
        longest.inspect(|(_, tracked)| tracked.task.abort()).is_some()
    }

    async fn run(self: Arc<Self>, stream: Accepted, peer: Peer, tls: Tls, meter: Arc<Meter>, _place: Place<S>) {
        let (ticks, drain, service) = (self.ticks.clone(), self.drain.clone(), self.service.clone());
        let stream = match stream {
            Accepted::Unix(stream) => return connection::serve(stream, peer, meter, ticks, drain, service).await,
            Accepted::Tcp(stream) => stream,
        };
        match tokio::time::timeout(self.limits.patience.handshake, tls.begin(stream)).await {
            Ok(Ok(Begun::Encrypted(stream))) => connection::serve(*stream, peer, meter, ticks, drain, service).await,
            Ok(Ok(Begun::Plain(stream))) => connection::serve(stream, peer, meter, ticks, drain, service).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake timed out"),
        }
    }

    /// Closes connections whose peers have used up our patience.
    async fn sweep(self: Arc<Self>) {
        let mut every = tokio::time::interval(TICK);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let now = self.ticks.advance();
            let overdue: Vec<AbortHandle> = self
                .open
                .lock()
                .iter()
                .map(|(_, tracked)| tracked)
                .filter(|tracked| tracked.meter.is_overdue(now, &self.limits.patience))
                .map(|tracked| tracked.task.clone())
                .collect();
            for task in overdue {
                task.abort();
            }
        }
    }

    async fn all_closed(&self) {
        loop {
            let mut closed_one = pin!(self.closed_one.notified());
            closed_one.as_mut().enable();
            if self.open.lock().is_empty() {
                return;
            }
            closed_one.await;
        }
    }

    fn abort_all(&self) {
        let tasks: Vec<_> = self.open.lock().iter().map(|(_, t)| t.task.clone()).collect();
        for task in tasks {
            task.abort();
        }
    }
}

/// A connection's entry among the open ones, given back when its task ends in whatever way.
struct Place<S> {
    shared: Arc<Shared<S>>,
    key: usize,
}

impl<S> Drop for Place<S> {
    fn drop(&mut self) {
        self.shared.open.lock().try_remove(self.key);
        self.shared.closed_one.notify_waiters();
    }
}

async fn accept_failed(bound: &Bound, error: &io::Error) {
    use io::ErrorKind as Kind;
    // What ails one peer is over already; what ails us (no descriptors, no memory) needs a pause.
    if !matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset | Kind::NotConnected) {
        tracing::warn!(listener = %bound, %error, "cannot accept connections");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Says why, if the socket takes it at once, and closes.
fn refuse(stream: &Accepted, tls: bool) {
    if tls {
        return;
    }
    // What lies unread when a socket closes makes the system reset it, and the peer lose the answer.
    let mut request = [0; 4096];
    let _ = match stream {
        Accepted::Tcp(stream) => (stream.try_read(&mut request), stream.try_write(OVERLOADED)),
        Accepted::Unix(stream) => (stream.try_read(&mut request), stream.try_write(OVERLOADED)),
    };
}

/// Lifts the soft limit on open files to the hard one. Returns what it is then.
pub(crate) fn raise_open_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum;
    let raised = setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: limit.maximum }).is_ok();
    let now = if raised { wanted } else { limit.current };
    now.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX)
}
