//! Connections of strangers: so many at once, each for so long, one request to each.

use std::{
    collections::{HashMap, hash_map::Entry},
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{body::Body, response::Response};
use countersign_process::{Begun, Tls};
use http::Request;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_util::task::TaskTracker;

/// How long a handshake, and then a request's head, may take.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long whoever asks may take to be known while others wait for a place.
const ADMITTED_WITHIN: Duration = Duration::from_secs(1);
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
    /// Those of one address; more are closed at once.
    pub(crate) of_one_address: usize,
    /// How long one may last, whatever its peer does.
    pub(crate) within: Duration,
    /// What they begin with.
    pub(crate) tls: Tls,
}

/// Whom a request comes from, as its listener knows it: among the request's extensions.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// The other end of the connection.
    pub(crate) address: IpAddr,
    admitted: Arc<AtomicBool>,
}

impl Peer {
    pub(crate) fn at(address: IpAddr) -> Self {
        Self { address, admitted: Arc::default() }
    }

    /// From here on its connection makes room for nobody: whoever asks is no stranger.
    pub(crate) fn admit(&self) {
        self.admitted.store(true, Relaxed);
    }
}

/// The connections that are open.
struct Places {
    free: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's place, given back when it ends in whatever way.
struct Place {
    places: Arc<Places>,
    address: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    /// `None`: its address has as many as it may.
    fn of(self: &Arc<Self>, address: IpAddr, most: usize, permit: OwnedSemaphorePermit) -> Option<Place> {
        let mut by_address = self.by_address.lock();
        let open = by_address.entry(address).or_default();
        (*open < most).then(|| {
            *open += 1;
            Place { places: self.clone(), address, _permit: permit }
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_address = self.places.by_address.lock();
        if let Entry::Occupied(mut open) = by_address.entry(self.address) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

impl Door {
    /// Has every request answered, until it is dropped.
    pub(crate) async fn serve<A, F>(&self, listener: &TcpListener, tracker: &TaskTracker, answer: A)
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let free = Arc::new(Semaphore::new(self.connections));
        let places = Arc::new(Places { free: free.clone(), by_address: Mutex::default() });
        loop {
            let Ok(permit) = free.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let address = peer.ip().to_canonical();
                    let Some(place) = places.of(address, self.of_one_address, permit) else {
                        tracing::debug!(%peer, "a connection too many of one address");
                        continue;
                    };
                    let (door, answer) = (self.clone(), answer.clone());
                    tracker.spawn(async move {
                        match timeout(door.within, door.converse(stream, answer, &place)).await {
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

    async fn converse<A, F>(&self, stream: TcpStream, answer: A, place: &Place) -> Result<(), String>
    where
        A: Fn(Request<Incoming>) -> F + Send + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let peer = Peer::at(place.address);
        let admitted = peer.admitted.clone();
        let answer = move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            answer(request)
        };
        let conversation = async {
            let begun =
                timeout(HEAD_WITHIN, self.tls.begin(stream)).await.map_err(|_| "no handshake in time".to_owned())?;
            match begun.map_err(|error| error.to_string())? {
                Begun::Plain(stream) => talk(stream, answer).await,
                Begun::Encrypted(stream) => talk(stream, answer).await,
            }
        };
        tokio::select! {
            ended = conversation => ended,
            () = makes_room(&place.places.free, &admitted) => Err("it made room for others".to_owned()),
        }
    }
}

/// Returns when others wait for a place and nobody was admitted on this connection for a while: strangers who fill a listener
/// keep nobody out for longer.
async fn makes_room(free: &Semaphore, admitted: &AtomicBool) {
    loop {
        tokio::time::sleep(ADMITTED_WITHIN).await;
        if admitted.load(Relaxed) {
            std::future::pending::<()>().await;
        }
        if free.available_permits() == 0 {
            return;
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

#[cfg(test)]
mod tests;
