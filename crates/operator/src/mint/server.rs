//! The listener: TLS with a certificate of its own making, and limits on everything that a stranger controls.
//!
//! Callers come through the API server's service proxy, which doesn't verify a backend's certificate; who asks is proven by
//! a token of theirs, never by the connection.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::IntoResponse as _};
use http::Request;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::{
    api::{self, Api},
    problem::Problem,
};
use crate::{feed::Cutoffs, run::Context};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// Requests that ask the API server at once.
const REQUESTS: usize = 32;
/// How long a handshake, and then a request's head, may take.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long a request may take in all.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);
/// How long a connection may last, whatever its peer does.
const CONNECTION_WITHIN: Duration = Duration::from_mins(1);
/// The largest head of a request: a Kubernetes token and little more.
const MAX_HEAD: usize = 32 * 1024;
/// The most headers.
const MAX_HEADERS: usize = 64;
/// A pause when the system has nothing to give.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);
/// How long requests under way may take to end after the stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the API can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address is taken, or isn't ours.
    #[error("--listen: {0}")]
    Bind(#[source] io::Error),
    /// No certificate could be made.
    #[error("no certificate could be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// TLS won't have it.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Serves the command line's API until `context.stop`.
pub async fn run(context: Context, cutoffs: Arc<Cutoffs>) -> Result<(), ApiError> {
    let stop = context.stop.clone();
    let Some(address) = context.config.listen else {
        stop.cancelled().await;
        return Ok(());
    };
    let acceptor = acceptor(&context.config.system_namespace)?;
    let listener = TcpListener::bind(address).await.map_err(ApiError::Bind)?;
    tracing::info!(address = %listener.local_addr().map_err(ApiError::Bind)?, "the command line's API");
    let server = Server {
        routes: TowerToHyperService::new(api::routes(Api { context, cutoffs })),
        requests: Arc::new(Semaphore::new(REQUESTS)),
    };
    let tracker = TaskTracker::new();
    tokio::select! {
        () = stop.cancelled() => {}
        () = accept(&listener, &acceptor, &server, &tracker) => {}
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(DRAIN, tracker.wait()).await.is_err() {
        tracing::warn!("requests that were under way did not end in time");
    }
    Ok(())
}

/// What connections share.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) routes: TowerToHyperService<Router>,
    pub(super) requests: Arc<Semaphore>,
}

/// TLS under a certificate that lives as long as the process.
pub(super) fn acceptor(system_namespace: &str) -> Result<TlsAcceptor, ApiError> {
    let service = countersign_api::cluster::OPERATOR_SERVICE;
    let names =
        [format!("{service}.{system_namespace}.svc"), format!("{service}.{system_namespace}"), "localhost".to_owned()];
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(names)?.self_signed(&key)?;
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

pub(super) async fn accept(listener: &TcpListener, acceptor: &TlsAcceptor, server: &Server, tracker: &TaskTracker) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (acceptor, server) = (acceptor.clone(), server.clone());
                tracker.spawn(async move {
                    let conversation = serve(stream, acceptor, server, place);
                    match tokio::time::timeout(CONNECTION_WITHIN, conversation).await {
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

async fn serve(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    server: Server,
    _place: OwnedSemaphorePermit,
) -> Result<(), String> {
    let shaken = tokio::time::timeout(HEAD_WITHIN, acceptor.accept(stream)).await;
    let stream = shaken.map_err(|_| "no handshake in time".to_owned())?.map_err(|error| error.to_string())?;
    let service = service_fn(move |request: Request<Incoming>| {
        let server = server.clone();
        async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
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

impl Server {
    async fn answer(self, request: Request<Incoming>) -> http::Response<Body> {
        let head: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if head > MAX_HEAD {
            return Problem::head_too_large().into_response();
        }
        let Ok(_place) = self.requests.clone().try_acquire_owned() else {
            return Problem::overloaded().into_response();
        };
        let answered = self.routes.call(request.map(Body::new));
        match tokio::time::timeout(REQUEST_WITHIN, answered).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => Problem::unavailable("the request took too long").into_response(),
        }
    }
}
