//! `/healthz`, `/readyz`, `/metrics`.

use std::fmt::Write as _;

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use countersign_core::ring::Phase;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{IssuerPolicy, RingView, serving::Issuer};

/// Whether the process takes calls.
#[derive(Clone, Debug, Default)]
pub struct Health {
    draining: CancellationToken,
}

impl Health {
    /// From here on `/readyz` says no.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Whether calls are welcome.
    pub fn ready(&self) -> bool {
        !self.draining.is_cancelled()
    }

    /// Returns when the process is about to end.
    pub(crate) async fn draining(&self) {
        self.draining.cancelled().await;
    }
}

pub(crate) fn routes(issuer: Issuer) -> Router {
    Router::new()
        .route("/healthz", get(async || Json(json!({"status": "ok"}))))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(issuer)
}

async fn readyz(State(issuer): State<Issuer>) -> Response {
    let parts = &issuer.parts;
    let ready = parts.health.ready();
    let publisher = parts.publisher.status();
    let without_key: Vec<String> = parts
        .policies
        .load()
        .by_name
        .values()
        .filter(|p| p.own.as_ref().is_some_and(|own| own.access.signer.is_none()))
        .map(|p| p.name.to_string())
        .collect();
    let body = json!({
        "ready": ready,
        "outbox_pending": publisher.pending,
        "feed_problem": publisher.problem.as_deref(),
        "without_signing_key": without_key,
    });
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body)).into_response()
}

async fn metrics(State(issuer): State<Issuer>) -> Response {
    let parts = &issuer.parts;
    let mut text = Exposition::default();
    text.family("countersign_build_info", "gauge", "The version that runs");
    text.sample("countersign_build_info", &[("version", env!("CARGO_PKG_VERSION")), ("process", "issuer")], 1.0);
    text.family("countersign_outbox_pending", "gauge", "Revocations that are written and not yet in the feed");
    text.sample("countersign_outbox_pending", &[], count(parts.publisher.status().pending));
    let policies = parts.policies.load();
    let rings = || policies.by_name.values().flat_map(|policy| rings(policy));
    text.family(
        "countersign_key_rotation_waiting",
        "gauge",
        "1 while a published key waits for verifiers longer than planned",
    );
    for (policy, ring, view) in rings() {
        let waits = view.status.phase != Phase::Ready;
        let labels = [("policy", policy.name.as_str()), ("ring", ring)];
        text.sample("countersign_key_rotation_waiting", &labels, f64::from(u8::from(waits)));
    }
    text.family("countersign_key_next_rotation_timestamp_seconds", "gauge", "When the schedule wants the next key to sign");
    for (policy, ring, view) in rings() {
        if let Some(at) = view.status.next_rotation {
            let labels = [("policy", policy.name.as_str()), ("ring", ring)];
            text.sample("countersign_key_next_rotation_timestamp_seconds", &labels, seconds(at.as_secs()));
        }
    }
    text.family("countersign_policy_verifiers", "gauge", "Verifiers by whether they hold the policy's present generation");
    if let Ok(verifiers) = parts.fleet.verifiers().await {
        for policy in policies.by_name.values() {
            let enforcement = crate::admin::held_generation(policy, &verifiers);
            let lagging = enforcement.total - enforcement.confirmed;
            for (state, number) in [("enforced", enforcement.confirmed), ("lagging", lagging)] {
                let labels = [("policy", policy.name.as_str()), ("state", state)];
                text.sample("countersign_policy_verifiers", &labels, count(number as u64));
            }
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.0).into_response()
}

fn rings(policy: &IssuerPolicy) -> impl Iterator<Item = (&IssuerPolicy, &'static str, &RingView)> {
    let own = policy.own.iter();
    own.flat_map(move |own| [(policy, "access", &own.access), (policy, "api_key", &own.api_key)])
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
fn count(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_precision_loss, reason = "seconds are far below 2^53")]
fn seconds(secs: i64) -> f64 {
    secs as f64
}

/// The Prometheus text format.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Label values here are names that are parsed, or fixed words: nothing in them needs escaping.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}
