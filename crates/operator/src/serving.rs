//! Connections of strangers: so many at once, each for so long, one request to each.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{body::Body, response::Response};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

/// How long a handshake, and then a request's head, may take.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// The largest head of a request: a Kubernetes token and little more.
pub(crate) const MAX_HEAD: usize = 32 * 1024;
/// The most headers.
const MAX_HEADERS: usize = 64;
/// A pause when the system has nothing to give.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// What a listener's connections are held to.
#[derive(Clone)]
pub(crate) struct Door {
    /// Connections at once; more wait in the kernel's queue.
    pub(crate) connections: usize,
    /// How long one may last, whatever its peer does.
    pub(crate) within: Duration,
    /// What they begin with; absent: plain HTTP.
    pub(crate) tls: Option<TlsAcceptor>,
}

impl Door {
    /// Has every request answered, until it is dropped.
    pub(crate) async fn serve<A, F>(&self, listener: &TcpListener, tracker: &TaskTracker, answer: A)
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(self.connections));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (door, answer) = (self.clone(), answer.clone());
                    tracker.spawn(async move {
                        match timeout(door.within, door.converse(stream, answer, place)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(problem)) => tracing::debug!(%peer, problem, "a connection failed"),
                            Err(_) => tracing::debug!(%peer, "a connection lasted too long"),
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                }
            }
        }
    }

    async fn converse<A, F>(&self, stream: TcpStream, answer: A, _place: OwnedSemaphorePermit) -> Result<(), String>
    where
        A: Fn(Request<Incoming>) -> F + Send + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        match &self.tls {
            None => talk(stream, answer).await,
            Some(tls) => {
                let shaken = timeout(HEAD_WITHIN, tls.accept(stream)).await;
                let stream = shaken.map_err(|_| "no handshake in time".to_owned())?.map_err(|error| error.to_string())?;
                talk(stream, answer).await
            }
        }
    }
}

async fn talk<S, A, F>(stream: S, answer: A) -> Result<(), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    // One request to a connection: nothing is gained by more, and idle ones would hold places.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    connection.await.map_err(|error| error.to_string())
}
