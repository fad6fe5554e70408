//! `/healthz`, `/readyz`, `/metrics`.

use std::{fmt::Write as _, io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::Body,
    extract::State,
    http::{Request, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use countersign_api::bundle::RingName;
use countersign_core::ring::Phase;
use hyper::{body::Incoming, service::Service as _};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::{
    fleet::Since,
    registry::{PolicyView, Registry},
    serving::Door,
};

/// Probes and scrapes are few and short; whoever else comes doesn't keep them out for long.
const DOOR: Door = Door { connections: 64, within: Duration::from_secs(20), tls: None };

/// What the health listener tells.
#[derive(Clone, Debug)]
pub struct Health(Arc<State_>);

#[derive(Debug)]
struct State_ {
    standing: Mutex<Standing>,
    policy_label: bool,
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
    pub async fn bind(listen: Option<SocketAddr>, policy_label: bool) -> io::Result<Self> {
        let health = Self(Arc::new(State_ { standing: Mutex::new(Standing::Candidate), policy_label }));
        if let Some(address) = listen {
            let listener = TcpListener::bind(address).await?;
            tracing::info!(address = %listener.local_addr()?, "health and metrics");
            let routes = TowerToHyperService::new(health.routes());
            tokio::spawn(async move {
                let answer = move |request: Request<Incoming>| {
                    let answered = routes.call(request.map(Body::new));
                    async move { answered.await.unwrap_or_else(|never| match never {}) }
                };
                DOOR.serve(&listener, &TaskTracker::new(), answer).await;
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
            .route("/metrics", get(metrics))
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

async fn metrics(State(health): State<Health>) -> Response {
    let mut text = Exposition::default();
    text.family("countersign_build_info", "gauge", "The version that runs");
    text.sample("countersign_build_info", &[("version", env!("CARGO_PKG_VERSION")), ("process", "operator")], 1);
    let standing = health.standing();
    text.family("countersign_operator_leading", "gauge", "1 on the operator that leads");
    text.sample("countersign_operator_leading", &[], i64::from(matches!(standing, Standing::Leading(_))));
    if let Standing::Leading(registry) = standing {
        let policies = registry.policies();
        text.feed(&registry);
        text.work(&registry, &policies);
        if health.0.policy_label {
            text.policies(&registry, &policies);
        } else {
            text.family("countersign_operator_policies", "gauge", "Policies that are kept");
            text.sample("countersign_operator_policies", &[], count(policies.len()));
        }
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text.0).into_response()
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The Prometheus text format.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Label values here are names that are parsed, or fixed words: nothing in them needs escaping.
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: i64) {
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{v}\"")).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn feed(&mut self, registry: &Registry) {
        self.family("countersign_feed_fresh", "gauge", "1 while the feed is reached");
        self.sample("countersign_feed_fresh", &[], i64::from(registry.feed().borrow().fresh));
        let fleet = registry.fleet();
        self.family("countersign_operator_verifiers", "gauge", "Verifiers, by whether their lease is alive");
        let alive = fleet.verifiers.iter().filter(|v| v.alive).count();
        self.sample("countersign_operator_verifiers", &[("state", "alive")], count(alive));
        self.sample("countersign_operator_verifiers", &[("state", "absent")], count(fleet.verifiers.len() - alive));
        self.family("countersign_operator_policies_waiting", "gauge", "Policies that wait for verifiers");
        self.sample("countersign_operator_policies_waiting", &[], count(*registry.waiting().borrow()));
    }

    fn work(&mut self, registry: &Registry, policies: &[Arc<PolicyView>]) {
        let counts = registry.counts();
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.family("countersign_outbox_pending", "gauge", "Revocations that aren't in the feed yet");
        self.sample("countersign_outbox_pending", &[], gauge(counts.not_published()));
        self.family("countersign_feed_unreadable_entries", "gauge", "Entries of the feed that this release can't read");
        self.sample("countersign_feed_unreadable_entries", &[], gauge(registry.feed().borrow().unreadable));
        self.family("countersign_operator_policies_not_accepted", "gauge", "Policies whose spec isn't accepted");
        let refused = policies.iter().filter(|policy| policy.problem.is_some() && !policy.withdrawn).count();
        self.sample("countersign_operator_policies_not_accepted", &[], count(refused));
        self.family("countersign_operator_reconciles_total", "counter", "Looks at policies, by how they went");
        let (well, failed) = counts.looks();
        self.sample("countersign_operator_reconciles_total", &[("result", "ok")], gauge(well));
        self.sample("countersign_operator_reconciles_total", &[("result", "error")], gauge(failed));
        self.family("countersign_operator_reconcile_seconds_total", "counter", "What all looks at policies took together");
        let micros = counts.looked_micros();
        let _ = writeln!(
            self.0,
            "countersign_operator_reconcile_seconds_total {}.{:06}",
            micros / 1_000_000,
            micros % 1_000_000
        );
        self.family("countersign_operator_queued_policies", "gauge", "Policies that are to be looked at at some time");
        self.sample("countersign_operator_queued_policies", &[], gauge(counts.waiting_for_a_look()));
    }

    fn policies(&mut self, registry: &Registry, policies: &[Arc<PolicyView>]) {
        let fleet = registry.fleet();
        self.family("countersign_bundle_generation", "gauge", "The generation of the bundle that is written");
        for policy in policies {
            let generation = i64::try_from(policy.bundle_generation).unwrap_or(i64::MAX);
            self.sample("countersign_bundle_generation", &[("policy", policy.name.as_str())], generation);
        }
        self.family("countersign_policy_verifiers", "gauge", "Verifiers by whether they hold the policy's present bundle");
        for policy in policies {
            let Some(effective) = &policy.effective else { continue };
            let since = Since { version: policy.bundle_version, generation: policy.bundle_generation };
            let (held, required) = fleet.held(&policy.name, since, effective.keys.absent_after.as_millis());
            for (state, number) in [("enforced", held), ("lagging", required - held)] {
                self.sample(
                    "countersign_policy_verifiers",
                    &[("policy", policy.name.as_str()), ("state", state)],
                    count(number),
                );
            }
        }
        let rings = || policies.iter().flat_map(|policy| RingName::ALL.map(|ring| (policy, ring)));
        let held = |policy: &PolicyView, ring| policy.own.as_ref().and_then(|own| own.ring(ring)).map(|v| v.status.clone());
        self.family(
            "countersign_key_rotation_waiting",
            "gauge",
            "1 while a ring isn't as it should be: a rotation waits, or no key signs",
        );
        for (policy, ring) in rings() {
            if let Some(status) = held(policy, ring) {
                let labels = [("policy", policy.name.as_str()), ("ring", ring.word())];
                self.sample("countersign_key_rotation_waiting", &labels, i64::from(status.phase != Phase::Ready));
            }
        }
        self.family(
            "countersign_key_next_rotation_timestamp_seconds",
            "gauge",
            "When the schedule wants the next key to sign",
        );
        for (policy, ring) in rings() {
            if let Some(at) = held(policy, ring).and_then(|status| status.next_rotation) {
                let labels = [("policy", policy.name.as_str()), ("ring", ring.word())];
                self.sample("countersign_key_next_rotation_timestamp_seconds", &labels, at.as_secs());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_parts_count_is_told_in_the_text_format() {
        let (registry, _inbox) = Registry::new();
        registry.counts().looked(Duration::from_micros(1_500_007), true);
        registry.counts().looked(Duration::from_millis(500), false);
        registry.counts().queued(3);
        registry.counts().unpublished(2);
        let mut text = Exposition::default();
        text.work(&registry, &[]);
        for line in [
            "countersign_outbox_pending 2",
            "countersign_operator_reconciles_total{result=\"ok\"} 1",
            "countersign_operator_reconciles_total{result=\"error\"} 1",
            "countersign_operator_reconcile_seconds_total 2.000007",
            "countersign_operator_queued_policies 3",
            "countersign_operator_policies_not_accepted 0",
        ] {
            assert!(text.0.lines().any(|said| said == line), "{line}\n{}", text.0);
        }
    }
}
