//! `/healthz`, `/readyz`, `/metrics`.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{Request, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use countersign_process::Tls;
use countersign_telemetry::exposition::CONTENT_TYPE;
use hyper::{body::Incoming, service::Service as _};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::{
    api_server::Writes,
    metrics,
    registry::Registry,
    serving::{Door, Peer},
};

/// Connections at once, and those of one address. Probes and scrapes are few and short.
const CONNECTIONS: usize = 64;
const OF_ONE_ADDRESS: usize = 32;
/// How long one may last: whoever else comes doesn't keep probes out for long.
const CONNECTION_WITHIN: Duration = Duration::from_secs(20);

/// What the health listener tells.
#[derive(Clone, Debug)]
pub struct Health(Arc<State_>);

#[derive(Debug)]
struct State_ {
    standing: Mutex<Standing>,
    policy_label: bool,
    writes: Arc<Writes>,
}

/// Where the process stands.
#[derive(Clone, Debug)]
enum Standing {
    /// Another process leads; this one is ready to.
    Candidate,
    Leading(Arc<Registry>),
    Ending,
}

impl Health {
    /// Binds the listener, if there is to be one, and serves.
    pub(crate) async fn bind(
        listen: Option<SocketAddr>,
        tls: Tls,
        policy_label: bool,
        writes: Arc<Writes>,
    ) -> io::Result<Self> {
        let health = Self(Arc::new(State_ { standing: Mutex::new(Standing::Candidate), policy_label, writes }));
        if let Some(address) = listen {
            let listener = TcpListener::bind(address).await?;
            tracing::info!(address = %listener.local_addr()?, "health and metrics");
            let routes = TowerToHyperService::new(health.routes());
            let door = Door { connections: CONNECTIONS, of_one_address: OF_ONE_ADDRESS, within: CONNECTION_WITHIN, tls };
            tokio::spawn(async move {
                let answer = move |request: Request<Incoming>| {
                    // Whoever asks is answered at once: there is nothing to be known of them.
                    request.extensions().get::<Peer>().into_iter().for_each(Peer::admit);
                    let answered = routes.call(request.map(Body::new));
                    async move { answered.await.unwrap_or_else(|never| match never {}) }
                };
                door.serve(&listener, &TaskTracker::new(), answer).await;
            });
        }
        Ok(health)
    }

    /// From here on this process leads.
    pub fn leads(&self, registry: Arc<Registry>) {
        *self.0.standing.lock() = Standing::Leading(registry);
    }

    /// From here on `/readyz` says no.
    pub fn end(&self) {
        *self.0.standing.lock() = Standing::Ending;
    }

    fn standing(&self) -> Standing {
        self.0.standing.lock().clone()
    }

    fn routes(&self) -> Router {
        Router::new()
            .route("/healthz", get(async || Json(json!({"status": "ok"}))))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics_text))
            .with_state(self.clone())
    }
}

/// A candidate is ready: it can take over at any moment.
async fn readyz(State(health): State<Health>) -> Response {
    let (status, body) = match health.standing() {
        Standing::Candidate => (StatusCode::OK, json!({"ready": true, "leading": false})),
        Standing::Ending => (StatusCode::SERVICE_UNAVAILABLE, json!({"ready": false, "leading": false})),
        Standing::Leading(registry) => {
            let (feed, fleet) = (registry.feed().borrow().clone(), registry.fleet());
            let policies = registry.policies();
            let refused: Vec<&str> =
                policies.iter().filter(|p| p.problem.is_some()).map(|p| p.name.as_str()).take(100).collect();
            let body = json!({
                "ready": true,
                "leading": true,
                "policies": policies.len(),
                "not_accepted": refused,
                "feed_fresh": feed.fresh,
                "feed_problem": feed.problem,
                "verifiers": fleet.known(),
            });
            (StatusCode::OK, body)
        }
    };
    (status, Json(body)).into_response()
}

async fn metrics_text(State(health): State<Health>) -> Response {
    let State_ { policy_label, writes, .. } = &*health.0;
    let text = match health.standing() {
        Standing::Leading(registry) => metrics::text(writes, Some(&registry), *policy_label),
        Standing::Candidate | Standing::Ending => metrics::text(writes, None, *policy_label),
    };
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response()
}
