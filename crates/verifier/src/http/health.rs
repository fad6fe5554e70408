//! Health and metrics, on a listener of their own.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde_json::json;

use super::{body, problem::Problem, verdict};
use crate::{
    app::App,
    metrics::Gauges,
    net::{Answer, Connected, OpenConnections, Service},
};

/// `/healthz`, `/readyz` and `/metrics`.
pub(crate) struct Health {
    pub(crate) app: Arc<App>,
    pub(crate) connections: Arc<dyn OpenConnections>,
}

impl Service for Health {
    async fn answer(&self, request: Request<Incoming>, _: &Connected) -> Answer {
        let (head, incoming) = request.into_parts();
        body::drain(incoming);
        let path = head.uri.path();
        if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
            return Problem::not_found().answer(&head.method);
        }
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return Problem::method("GET, HEAD").answer(&head.method);
        }
        let mut answer = match path {
            "/healthz" => verdict::json(br#"{"status":"ok"}"#.to_vec()),
            "/readyz" => self.ready(),
            _ => self.metrics(),
        };
        if head.method == Method::HEAD {
            *answer.body_mut() = Full::default();
        }
        answer
    }
}

impl Health {
    /// Ready: a snapshot is loaded, and we aren't leaving. What else may be wrong is told, and takes no node out of service.
    fn ready(&self) -> Answer {
        let app = &self.app;
        let snapshot = app.snapshot.load();
        let (view, stats) = (app.feed.view(), app.feed.stats());
        let draining = app.draining.load(Relaxed);
        let loaded = app.is_loaded();
        let ready = loaded && !draining;
        let body = json!({
            "ready": ready,
            "loaded": loaded,
            "draining": draining,
            "policies": snapshot.names().count(),
            "confirmed_ms": app.confirmed_ms(),
            "source": app.source.describe(),
            "refused": snapshot.refused.iter().chain(app.unwritten.load().iter()).collect::<Vec<_>>(),
            "feed": {
                "followed": app.feed.has_feed(),
                "fresh": view.fresh,
                "age_ms": view.age_ms,
                "position": view.position,
                "problem": stats.problem.as_deref(),
            },
        });
        let mut answer = verdict::json(body.to_string().into_bytes());
        if !ready {
            *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        answer
    }

    fn metrics(&self) -> Answer {
        let app = &self.app;
        let (view, stats) = (app.feed.view(), app.feed.stats());
        let snapshot = app.snapshot.load();
        let gauges = Gauges {
            feed_age_ms: view.age_ms,
            feed_fresh: view.fresh,
            feed_resyncs: stats.resyncs,
            writer_seen_ms: stats.writer_seen_ms,
            clock_difference_ms: stats.clock_difference_ms,
            entries: app.feed.entries_by_policy(),
            generations: snapshot.sorted().into_iter().map(|s| (s.policy().name.clone(), s.policy().generation)).collect(),
            connections: self.connections.open(),
            connections_refused: self.connections.refused(),
        };
        let mut text = app.metrics.render(&gauges, app.settings.policy_label);
        app.source.write_metrics(&mut text, app.confirmed_ms());
        let mut answer = Response::new(Full::new(Bytes::from(text.into_text())));
        let text_type = HeaderValue::from_static(countersign_telemetry::exposition::CONTENT_TYPE);
        answer.headers_mut().insert(header::CONTENT_TYPE, text_type);
        answer
    }
}
