//! `/healthz`, `/readyz`, `/metrics`.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use countersign_core::ring::Phase;
use countersign_telemetry::{Exposition, exposition::CONTENT_TYPE, families};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{IssuerPolicy, RingView, SignsWhile, serving::Issuer};

families! {
    pub METRICS;
    BUILD_INFO = Gauge "countersign_build_info" ["version", "process"] "The version that runs.";
    OUTBOX_PENDING = Gauge "countersign_outbox_pending" [] "Revocations that are written and not yet in the feed.";
    ROTATION_WAITING = Gauge "countersign_key_rotation_waiting" ["policy", "ring"]
        "1 while a published key waits for verifiers longer than planned.";
    CONFIRMED_AGE = Gauge "countersign_issuer_confirmed_age_seconds" []
        "For how long the API server has not confirmed what this issuer holds; absent outside a cluster, and before it ever did.";
    UNCONFIRMED = Gauge "countersign_issuer_unconfirmed_policies" []
        "Policies for which nothing is signed because the API server has not confirmed what is held; absent outside a cluster.";
    NEXT_ROTATION = Gauge "countersign_key_next_rotation_timestamp_seconds" ["policy", "ring"]
        "When the schedule wants the next key to sign.";
    POLICY_VERIFIERS = Gauge "countersign_policy_verifiers" ["policy", "state"]
        "Verifiers by whether they hold the policy's present generation: `enforced` or `lagging`; the operator tells in a cluster.";
    pub(crate) LOGIN_ATTEMPTS = Counter "auth_login_attempts_total" ["result"]
        "Logins: `success`; `failure` (a wrong name, password or code); `refused` (a limit, a lock or a closed account).";
    pub(crate) LOGIN_FAILURES = Counter "auth_login_failures_total" [] "Logins with a wrong name, password or code.";
    pub(crate) CHALLENGES = Counter "auth_2fa_challenges_total" [] "Codes that logins were asked for.";
    pub(crate) ACTIVE_SESSIONS = Gauge "auth_active_sessions" ["policy"] "People's sessions that live.";
    pub(crate) REFRESH_DURATION = Histogram "auth_token_refresh_duration_seconds" [] "Time to new tokens of a session, refusals included.";
    pub(crate) MAILS = Counter "countersign_mails_total" ["result"]
        "Mails: `sent`; `failed` (given up); `dropped` (the queue was full).";
    pub(crate) SMS = Counter "countersign_sms_total" ["result"]
        "Messages by SMS: `sent` (the policy's webhook took them); `failed`; `dropped` (too many were on their way).";
    pub(crate) LIMITS_FALLBACKS = Counter "countersign_rate_limit_fallbacks_total" []
        "Counts of rate limits that were kept in the store because Redis was away.";
    pub(crate) LIMITS_REDIS_AWAY = Gauge "countersign_rate_limit_redis_away" [] "1 while rate limits are counted in the store because Redis is away.";
    pub(crate) AUDIT_EVENTS = Counter "countersign_audit_events_total" ["severity"]
        "Audit events of concern that were written here: `warning`, `critical`.";
    pub(crate) AUDIT_LOG_EVENTS = Counter "countersign_audit_log_events_total" [] "Events that this issuer wrote to the audit log (`--audit-log`).";
    pub(crate) AUDIT_LOG_FAILURES = Counter "countersign_audit_log_failures_total" []
        "Times the audit log could not be written, and every ten seconds that a write takes.";
    pub(crate) AUDIT_LOG_WAITING = Gauge "countersign_audit_log_waiting" []
        "Sealed events that are not in the audit log yet, of all issuers on one database; absent without `--audit-log`.";
}

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
    let lapsed = |p: &&std::sync::Arc<IssuerPolicy>| p.signs_while.as_ref().is_some_and(|signs| !signs.holds());
    let unconfirmed: Vec<String> =
        parts.policies.load().by_name.values().filter(lapsed).map(|p| p.name.to_string()).collect();
    let body = json!({
        "ready": ready,
        "outbox_pending": publisher.pending,
        "feed_problem": publisher.problem.as_deref(),
        "without_signing_key": without_key,
        "unconfirmed": unconfirmed,
    });
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body)).into_response()
}

async fn metrics(State(issuer): State<Issuer>) -> Response {
    let parts = &issuer.parts;
    let mut text = Exposition::default();
    text.family(&BUILD_INFO).add(&[("version", env!("CARGO_PKG_VERSION")), ("process", "issuer")], 1);
    text.single(&OUTBOX_PENDING, parts.publisher.status().pending);
    let policies = parts.policies.load();
    let rings = || policies.by_name.values().flat_map(|policy| rings(policy));
    let mut waiting = text.family(&ROTATION_WAITING);
    for (policy, ring, view) in rings() {
        let waits = view.status.phase != Phase::Ready;
        waiting.add(&[("policy", policy.name.as_str()), ("ring", ring)], u8::from(waits));
    }
    let mut next = text.family(&NEXT_ROTATION);
    for (policy, ring, view) in rings() {
        if let Some(at) = view.status.next_rotation {
            next.add(&[("policy", policy.name.as_str()), ("ring", ring)], at.as_secs());
        }
    }
    unconfirmed(policies.by_name.values().filter_map(|policy| policy.signs_while.as_ref()), &mut text);
    if parts.fleet.acknowledges_generations()
        && let Ok(fleet) = parts.fleet.verifiers().await
    {
        let mut verifiers = text.family(&POLICY_VERIFIERS);
        for policy in policies.by_name.values() {
            let enforcement = crate::admin::held_generation(policy, &fleet);
            let lagging = enforcement.total - enforcement.confirmed;
            for (state, number) in [("enforced", enforcement.confirmed), ("lagging", lagging)] {
                verifiers.add(&[("policy", policy.name.as_str()), ("state", state)], number);
            }
        }
    }
    crate::metrics::tell(parts, &mut text).await;
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text.into_text()).into_response()
}

/// Until when what is held is known to be what there is.
fn unconfirmed<'p>(policies: impl Iterator<Item = &'p SignsWhile>, text: &mut Exposition) {
    let (mut lapsed, mut age_ms, mut any) = (0_u64, None, false);
    for signs in policies {
        any = true;
        lapsed += u64::from(!signs.holds());
        age_ms = age_ms.max(signs.confirmed.age_ms());
    }
    if let Some(age_ms) = age_ms {
        text.single(&CONFIRMED_AGE, age_ms / 1000);
    }
    if any {
        text.single(&UNCONFIRMED, lapsed);
    }
}

fn rings(policy: &IssuerPolicy) -> impl Iterator<Item = (&IssuerPolicy, &'static str, &RingView)> {
    let own = policy.own.iter();
    own.flat_map(move |own| [(policy, "access", &own.access), (policy, "api_key", &own.api_key)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_says_what_there_is() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let wanted = countersign_telemetry::reference::rewritten(&page, "issuer", METRICS).unwrap();
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        } else {
            assert!(page == wanted, "docs/reference/metrics.md is out of date; run: cargo xtask drift --write");
        }
    }
}
