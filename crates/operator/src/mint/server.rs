//! The listener: TLS, with a certificate of its own making unless there is another, and limits on everything that a stranger controls.
//!
//! Callers come through the API server's service proxy, which doesn't verify a backend's certificate; who asks is proven by
//! a token of theirs, never by the connection.

use std::{io, sync::Arc, time::Duration};

use axum::{Router, body::Body, response::IntoResponse as _};
use countersign_api::cluster::OPERATOR_SERVICE;
use countersign_process::Tls;
use countersign_reviews::{CertificateError, Reviewer, self_signed};
use http::Request;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{body::Incoming, service::Service as _};
use hyper_util::service::TowerToHyperService;
use tokio::{net::TcpListener, sync::Semaphore, time::timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::{
    api::{self, Api, MAX_BODY},
    problem::Problem,
};
use crate::{
    feed::Cutoffs,
    run::Context,
    serving::{Door, MAX_HEAD},
};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;
/// Those of one address. People come from few: the API server's, and those of operators that don't lead.
const OF_ONE_ADDRESS: usize = 128;
/// Requests that ask the API server at once.
const REQUESTS: usize = 32;
/// How long a request's body may take. Nobody else's place is taken meanwhile.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// How long a request may take in all.
const REQUEST_WITHIN: Duration = Duration::from_secs(30);
/// How long a connection may last, whatever its peer does.
const CONNECTION_WITHIN: Duration = Duration::from_mins(1);
/// How long requests under way may take to end after the stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Why the API can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The address is taken, or isn't ours.
    #[error("--listen: {0}")]
    Bind(#[source] io::Error),
    /// There is no certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Serves the command line's API until `context.stop`, with a certificate of its own making unless there is another.
pub async fn run(context: Context, cutoffs: Arc<Cutoffs>, certificate: Option<TlsAcceptor>) -> Result<(), ApiError> {
    let stop = context.stop.clone();
    let Some(address) = context.config.listen else {
        stop.cancelled().await;
        return Ok(());
    };
    let door = door(&context.config.system_namespace, certificate)?;
    let listener = TcpListener::bind(address).await.map_err(ApiError::Bind)?;
    tracing::info!(address = %listener.local_addr().map_err(ApiError::Bind)?, "the command line's API");
    let reviewer = Reviewer::new(context.client.clone());
    let server = Server {
        routes: TowerToHyperService::new(api::routes(Api { context, cutoffs, reviewer })),
        requests: Arc::new(Semaphore::new(REQUESTS)),
    };
    let tracker = TaskTracker::new();
    tokio::select! {
        () = stop.cancelled() => {}
        () = server.serve(&door, &listener, &tracker) => {}
    }
    drop(listener);
    tracker.close();
    if timeout(DRAIN, tracker.wait()).await.is_err() {
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

/// What connections are held to.
pub(super) fn door(system_namespace: &str, certificate: Option<TlsAcceptor>) -> Result<Door, ApiError> {
    let tls = Tls::Required(match certificate {
        Some(certificate) => certificate,
        None => self_signed(OPERATOR_SERVICE, system_namespace)?,
    });
    Ok(Door { connections: CONNECTIONS, of_one_address: OF_ONE_ADDRESS, within: CONNECTION_WITHIN, tls })
}

impl Server {
    pub(super) async fn serve(&self, door: &Door, listener: &TcpListener, tracker: &TaskTracker) {
        let server = self.clone();
        door.serve(listener, tracker, move |request| server.clone().answer(request)).await;
    }

    async fn answer(self, request: Request<Incoming>) -> http::Response<Body> {
        let head: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        if head > MAX_HEAD {
            return Problem::head_too_large().into_response();
        }
        let (head, body) = request.into_parts();
        let body = match timeout(BODY_WITHIN, Limited::new(body, MAX_BODY).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return Problem::too_large(format!("the body is over {MAX_BODY} bytes")).into_response();
            }
            Ok(Err(error)) => return Problem::invalid_request(format!("the body breaks off: {error}")).into_response(),
            Err(_) => return Problem::too_slow().into_response(),
        };
        let Ok(_place) = self.requests.clone().try_acquire_owned() else {
            return Problem::overloaded().into_response();
        };
        let answered = self.routes.call(Request::from_parts(head, Body::from(body)));
        match timeout(REQUEST_WITHIN, answered).await {
            Ok(Ok(response)) => response,
            Ok(Err(never)) => match never {},
            Err(_) => Problem::unavailable("the request took too long").into_response(),
        }
    }
}
