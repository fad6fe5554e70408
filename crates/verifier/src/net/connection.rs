//! One connection: from accepted socket to its last answer.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Notify,
};

use super::{
    listener::Peer,
    meter::{Meter, Ticks},
    server::Drain,
    stream::Watched,
};

/// A whole head: 16 KiB of header fields and 8 KiB of target. What lies between is told apart by the service.
const MAX_HEAD: usize = 24 * 1024;

/// Header fields in one request.
const MAX_HEADERS: usize = 100;

/// What a request is answered with.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Answers requests.
pub(crate) trait Service: Send + Sync + 'static {
    /// One request of `connected`.
    fn answer(&self, request: Request<Incoming>, connected: &Connected) -> impl Future<Output = Answer> + Send;
}

/// What a service may know of the connection that a request came on.
pub(crate) struct Connected {
    pub(crate) peer: Peer,
    meter: Arc<Meter>,
}

impl Connected {
    /// Whether some request on this connection declared its length twice; then one with a chunked body can't be trusted.
    pub(crate) fn is_length_ambiguous(&self) -> bool {
        self.meter.is_length_ambiguous()
    }
}

/// Serves one connection until it closes, by itself or because `drain` asks it to.
pub(super) async fn serve<S: Service>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    meter: Arc<Meter>,
    ticks: Arc<Ticks>,
    drain: Arc<Drain>,
    service: Arc<S>,
) {
    let stream = TokioIo::new(Watched::new(stream, meter.clone(), ticks.clone()));
    let closing = drain.clone();
    // One share for each request to hold on to.
    let served = Arc::new((service, Connected { peer, meter }, ticks, drain));
    let service = service_fn(move |request: Request<Incoming>| {
        let served = served.clone();
        async move {
            let (service, connected, ticks, drain) = &*served;
            connected.meter.serving(ticks);
            let mut answer = service.answer(request, connected).await;
            connected.meter.answered(ticks);
            if drain.begun.load(Relaxed) {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let mut builder = http1::Builder::new();
    builder.max_headers(MAX_HEADERS).max_header_size(MAX_HEAD).max_buf_size(64 * 1024);
    let connection = builder.serve_connection(stream, service);
    let mut wake = pin!(closing.close_idle.notified());
    let mut connection = pin!(connection);
    let mut watching = false;
    let mut asked = false;
    std::future::poll_fn(|cx| {
        // Registered once: the task's waker stays the same, so nothing is polled for it per request.
        if !watching {
            watching = true;
            let _ = poll_once(wake.as_mut(), cx);
        }
        let result = connection.as_mut().poll(cx);
        if result.is_ready() || asked || !closing.closing_idle.load(Relaxed) {
            return result.map(|r| {
                if let Err(error) = r {
                    tracing::debug!(%error, "connection ended");
                }
            });
        }
        asked = true;
        connection.as_mut().graceful_shutdown();
        connection.as_mut().poll(cx).map(|_| ())
    })
    .await;
}

fn poll_once(wake: Pin<&mut impl Future<Output = ()>>, cx: &mut Context<'_>) -> Poll<()> {
    wake.poll(cx)
}

impl Drain {
    pub(super) fn notify_idle(&self) {
        self.closing_idle.store(true, Relaxed);
        self.close_idle.notify_waiters();
    }

    pub(super) fn new() -> Self {
        Self { begun: false.into(), closing_idle: false.into(), close_idle: Notify::new() }
    }
}
