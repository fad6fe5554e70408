//! A listener's connections: how many there may be, how slow, and how they end.

use std::{convert::Infallible, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo, response::Response};
use countersign_process::{Begun, Tls};
use hyper::{Request, body::Incoming, header, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tower_service::Service as _;

use super::patience::{Patience, Timely, Wait, Watched};
use crate::actor::PeerUser;

/// A request's whole head, bytes.
const MAX_HEAD: usize = 24 << 10;
/// Header fields of a request.
const MAX_HEADERS: usize = 100;
/// A pause when the system has nothing to give.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// Bounds of one listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Connections at once. Further ones wait with the kernel.
    pub(super) connections: usize,
    pub(super) patience: Patience,
}

/// A listener, and what its connections begin with.
pub(super) enum Door {
    Tcp(TcpListener, Tls),
    Unix(UnixListener),
}

enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Who is at the other end.
#[derive(Clone, Copy)]
enum Peer {
    Address(SocketAddr),
    User(PeerUser),
    Unknown,
}

impl Door {
    async fn accept(&self) -> std::io::Result<Accepted> {
        match self {
            Self::Tcp(listener, _) => listener.accept().await.map(|(stream, peer)| Accepted::Tcp(stream, peer)),
            Self::Unix(listener) => listener.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }
}

/// Serves `routes` until `stop`, then answers what is under way and ends. A dropped future ends everything at once.
pub(super) async fn serve(door: Door, routes: Router, bounds: Bounds, stop: CancellationToken) {
    let shared = Arc::new(Shared {
        routes,
        places: Arc::new(Semaphore::new(bounds.connections)),
        patience: bounds.patience,
        stop: stop.clone(),
    });
    let mut connections = JoinSet::new();
    let mut place = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Ok(free) = shared.places.clone().acquire_owned(), if place.is_none() => place = Some(free),
            accepted = door.accept(), if place.is_some() => match (accepted, place.take()) {
                (Ok(accepted), Some(place)) => {
                    let tls = if let Door::Tcp(_, tls) = &door { tls.clone() } else { Tls::Off };
                    connections.spawn(shared.clone().run(accepted, tls, place));
                }
                (Ok(_), None) => {}
                (Err(error), held) => {
                    place = held;
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                }
            },
        }
    }
    drop(door);
    while connections.join_next().await.is_some() {}
}

struct Shared {
    routes: Router,
    places: Arc<Semaphore>,
    patience: Patience,
    stop: CancellationToken,
}

impl Shared {
    async fn run(self: Arc<Self>, accepted: Accepted, tls: Tls, _place: OwnedSemaphorePermit) {
        match accepted {
            Accepted::Unix(stream) => {
                let peer = stream.peer_cred().map_or(Peer::Unknown, |peer| Peer::User(PeerUser(peer.uid())));
                self.talk(stream, peer).await;
            }
            Accepted::Tcp(stream, peer) => match tokio::time::timeout(self.patience.handshake, tls.begin(stream)).await {
                Ok(Ok(Begun::Plain(stream))) => self.talk(stream, Peer::Address(peer)).await,
                Ok(Ok(Begun::Encrypted(stream))) => self.talk(*stream, Peer::Address(peer)).await,
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
            },
        }
    }

    async fn talk(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: Peer) {
        let wait = Arc::new(Wait::new());
        let stream = TokioIo::new(Watched::new(stream, wait.clone()));
        let service = service_fn(|request: Request<Incoming>| {
            let wait = wait.clone();
            async move {
                wait.serving();
                let answer = self.answer(request, peer).await;
                wait.answered();
                Ok::<_, Infallible>(answer)
            }
        });
        let mut http = http1::Builder::new();
        http.max_headers(MAX_HEADERS).max_header_size(MAX_HEAD).max_buf_size(64 << 10);
        let mut connection = pin!(http.serve_connection(stream, service));
        let mut look = tokio::time::interval(self.patience.idle_when_crowded.min(Duration::from_millis(500)));
        let mut closing = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(%error, "connection ended");
                    }
                    return;
                }
                () = self.stop.cancelled(), if !closing => {
                    closing = true;
                    connection.as_mut().graceful_shutdown();
                }
                _ = look.tick() => {
                    if wait.is_over(&self.patience, self.places.available_permits() == 0) {
                        return;
                    }
                }
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: Peer) -> Response {
        let within = self.patience.body;
        let awaits_continue = request.headers().contains_key(header::EXPECT);
        let mut request = request.map(|body| Body::new(Timely::new(body, within, awaits_continue)));
        match peer {
            Peer::Address(peer) => drop(request.extensions_mut().insert(ConnectInfo(peer))),
            Peer::User(user) => drop(request.extensions_mut().insert(user)),
            Peer::Unknown => {}
        }
        let mut routes = self.routes.clone();
        // A router is always ready, and never fails.
        let mut answer = routes.call(request).await.unwrap_or_else(|never| match never {});
        if self.stop.is_cancelled() {
            answer.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
        }
        answer
    }
}

#[cfg(test)]
mod tests;
