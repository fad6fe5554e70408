//! A TCP listener that shakes hands before a connection counts as accepted.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::serve::Listener;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many may be under way: a client that stalls keeps nobody else waiting.
const HANDSHAKES: usize = 1024;
/// A pause when the system has nothing to give.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

type Accepted = (TlsStream<TcpStream>, SocketAddr);

/// Connections whose handshake is done.
pub(crate) struct TlsListener {
    accepted: mpsc::Receiver<Accepted>,
    address: io::Result<SocketAddr>,
    accepting: JoinHandle<()>,
}

impl TlsListener {
    /// Accepts from `listener` in a task of its own.
    pub(crate) fn new(listener: TcpListener, acceptor: TlsAcceptor) -> Self {
        let (ready, accepted) = mpsc::channel(16);
        let address = listener.local_addr();
        Self { accepted, address, accepting: tokio::spawn(accept(listener, acceptor, ready)) }
    }
}

impl Drop for TlsListener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Accepted {
        match self.accepted.recv().await {
            Some(accepted) => accepted,
            // The task ends only with this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.address.as_ref().copied().map_err(|e| io::Error::new(e.kind(), e.to_string()))
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, ready: mpsc::Sender<Accepted>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections");
                tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                continue;
            }
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => drop(ready.send((stream, peer)).await),
                Ok(Err(error)) => tracing::debug!(%peer, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%peer, "TLS handshake timed out"),
            }
            drop(place);
        });
    }
}
