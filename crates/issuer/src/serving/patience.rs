//! How long a connection's peer may take for what it owes us.

use std::{
    error::Error,
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Bytes;
use countersign_feed::Clock;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

/// How long each thing may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// A TLS handshake.
    pub(super) handshake: Duration,
    /// From a head's first byte to its end.
    pub(super) head: Duration,
    /// From a head's end to its body's.
    pub(super) body: Duration,
    /// To take any byte of an answer.
    pub(super) write: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// The same, while others wait for a place.
    pub(super) idle_when_crowded: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(10),
            body: Duration::from_secs(20),
            write: Duration::from_secs(20),
            idle: Duration::from_mins(3),
            idle_when_crowded: Duration::from_secs(1),
        }
    }
}

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const SERVING: u8 = 2;
const NOT_BLOCKED: i64 = i64::MAX;

/// What one connection is waiting for, and since when.
#[derive(Debug)]
pub(super) struct Wait {
    phase: AtomicU8,
    since: AtomicI64,
    blocked_since: AtomicI64,
}

impl Wait {
    pub(super) fn new() -> Self {
        Self {
            phase: AtomicU8::new(IDLE),
            since: AtomicI64::new(Clock::boot_millis()),
            blocked_since: AtomicI64::new(NOT_BLOCKED),
        }
    }

    fn enter(&self, phase: u8) {
        self.since.store(Clock::boot_millis(), Relaxed);
        self.phase.store(phase, Relaxed);
    }

    /// A head is whole.
    pub(super) fn serving(&self) {
        self.enter(SERVING);
    }

    /// The answer is made.
    pub(super) fn answered(&self) {
        self.enter(IDLE);
    }

    fn read(&self) {
        if self.phase.load(Relaxed) == IDLE {
            self.enter(HEAD);
        }
    }

    fn wrote(&self, blocked: bool) {
        if blocked {
            let _ = self.blocked_since.compare_exchange(NOT_BLOCKED, Clock::boot_millis(), Relaxed, Relaxed);
        } else {
            self.blocked_since.store(NOT_BLOCKED, Relaxed);
        }
    }

    /// Whether the peer has used up our patience. How long an answer takes is up to us, and a body is timed where it is read.
    pub(super) fn is_over(&self, patience: &Patience, crowded: bool) -> bool {
        let now = Clock::boot_millis();
        let over = |since: i64, limit: Duration| i128::from(now) - i128::from(since) > i128::from(millis(limit));
        if over(self.blocked_since.load(Relaxed), patience.write) {
            return true;
        }
        let since = self.since.load(Relaxed);
        match self.phase.load(Relaxed) {
            IDLE => over(since, if crowded { patience.idle_when_crowded } else { patience.idle }),
            HEAD => over(since, patience.head),
            _ => false,
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A stream that tells its connection's [`Wait`] what happens.
pub(super) struct Watched<S> {
    stream: S,
    wait: Arc<Wait>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, wait: Arc<Wait>) -> Self {
        Self { stream, wait }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.wait.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wait.wrote(result.is_pending());
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.wait.wrote(result.is_pending());
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wait.wrote(result.is_pending());
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// A request's body did not come in time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TooSlow;

impl TooSlow {
    /// Whether it is what `error` comes from.
    pub(crate) fn caused(error: &(dyn Error + 'static)) -> bool {
        let mut next = Some(error);
        while let Some(cause) = next {
            if cause.is::<Self>() {
                return true;
            }
            next = cause.source();
        }
        false
    }
}

impl fmt::Display for TooSlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request's body did not come in time")
    }
}

impl Error for TooSlow {}

/// How much of a body that nobody wants is read all the same, so that the peer gets to read our answer.
const MAX_DRAINED: usize = 8 << 20;
/// How long that may take.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A request's body, to be read by a certain time. One that is let go before its end is read on in the background and
/// forgotten: a peer that still sends would otherwise be reset before it has our answer.
pub(super) struct Timely {
    body: Option<Incoming>,
    until: Pin<Box<Sleep>>,
    /// What the peer sends only when told to go on, it isn't sending.
    awaits_continue: bool,
}

impl Timely {
    pub(super) fn new(body: Incoming, within: Duration, awaits_continue: bool) -> Self {
        Self { body: Some(body), until: Box::pin(tokio::time::sleep(within)), awaits_continue }
    }
}

impl Drop for Timely {
    fn drop(&mut self) {
        let unread = self.body.take().filter(|body| !body.is_end_stream() && !self.awaits_continue);
        if let (Some(body), Ok(runtime)) = (unread, tokio::runtime::Handle::try_current()) {
            runtime.spawn(tokio::time::timeout(DRAIN_TIME, drain(body)));
        }
    }
}

async fn drain(mut body: Incoming) {
    let mut left = MAX_DRAINED;
    while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        left = match left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
            Some(left) => left,
            None => return,
        };
    }
}

impl Body for Timely {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            if !matches!(frame, Some(Ok(_))) {
                self.body = None;
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)));
        }
        ready!(self.until.as_mut().poll(cx));
        // Who was too slow is waited for no longer.
        self.body = None;
        Poll::Ready(Some(Err(axum::Error::new(TooSlow))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
