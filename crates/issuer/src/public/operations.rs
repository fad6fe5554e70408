//! `/api/v1/auth/…`: what those who run it look at. All of it is JSON.

use std::time::Instant;

use axum::Json;
use countersign_core::time::UnixMillis;
use countersign_store::{AuditFilter, Severity};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    audit::shown_page,
    diagnosis::{Diagnosed, diagnosis},
    sessions,
};
use crate::{
    bearer::{self, Permitted, Person},
    body::{Content, body_of},
    call::Call,
    openapi::shapes,
    problem::Failed,
};

/// What lets look.
const PERMISSION: &str = "ops:read";
const DAY_MS: i64 = 86_400_000;
/// Events on the dashboard, and blocks that are counted.
const RECENT: u32 = 20;
const MAX_COUNTED: u32 = 1000;

pub(super) fn permitted(permitted: Permitted) -> Result<Call, Failed> {
    permitted.caller.require(PERMISSION)?;
    Ok(permitted.call)
}

/// Open to everyone: whether the parts work, and a few figures.
#[utoipa::path(
    get,
    path = "/health",
    tag = "operations",
    summary = "Whether the parts work",
    description = "Open to everyone.",
    responses((status = 200, description = "Also when they don't", body = shapes::operations::Health))
)]
pub(super) async fn health(call: Call) -> Json<Value> {
    let began = Instant::now();
    let database = call.now().await;
    let publisher = call.issuer.parts.publisher.status();
    let signs = call.policy.own.as_ref().is_some_and(|own| own.access.signer.is_some());
    let figures = match &database {
        Ok(now) => {
            let counted = figures(&call, *now);
            call.issuer.parts.recent.figures(&call.policy.name, *now, counted).await.ok()
        }
        Err(_) => None,
    };
    let word = |good: bool| if good { "healthy" } else { "unhealthy" };
    let feed = if publisher.problem.is_some() { "degraded" } else { "healthy" };
    let answers = figures.is_some();
    let all_well = answers && signs && publisher.problem.is_none();
    // Without its database nothing is answered; without the feed everything is, and verifiers hear of it later.
    let status = if all_well { "healthy" } else { word(answers && signs) };
    let status = if status == "healthy" && !all_well { "degraded" } else { status };
    Json(json!({
        "status": status,
        "timestamp": database.unwrap_or_else(|_| countersign_feed::Clock::wall()).to_string(),
        "response_time_ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "environment": call.issuer.parts.environment,
        "components": {
            "database": {"status": word(answers)},
            "feed": {"status": feed, "pending": publisher.pending},
            "signing_keys": {"status": word(signs)},
        },
        "metrics": figures.unwrap_or_else(|| FIGURES.map(|name| (name.to_owned(), Value::Null)).into_iter().collect()),
    }))
}

/// What is counted.
const FIGURES: [&str; 4] = ["active_sessions", "cached_tokens", "blocked_ips", "security_incidents_24h"];

async fn figures(call: &Call, now: UnixMillis) -> Result<Map<String, Value>, Failed> {
    let (store, policy) = (call.store(), &call.policy.name);
    let figures = json!({
        "active_sessions": store.live_sessions(policy, now).await?,
        // Tokens are judged anew on every call here: verifiers are those who cache.
        "cached_tokens": 0,
        "blocked_ips": store.blocks(policy, "", MAX_COUNTED, now).await?.len(),
        "security_incidents_24h": store.incidents(policy, now.minus(DAY_MS)).await?,
    });
    Ok(if let Value::Object(figures) = figures { figures } else { Map::new() })
}

/// The caller's own session.
#[utoipa::path(
    get,
    path = "/session-status",
    tag = "operations",
    summary = "The caller's own session",
    description = "Needs no permission but the session's own token.",
    security(("bearer" = [])),
    responses((status = 200, description = "How it stands", body = shapes::operations::SessionStatus))
)]
pub(super) async fn session_status(person: Person) -> Result<Json<Value>, Failed> {
    let Person { call, user, session } = person;
    let now = call.now().await?;
    let mut shown = sessions::shown(&session, Some(&session.id));
    shown["active"] = json!(session.is_live(now));
    shown["subject"] = json!(user.id);
    shown["amr"] = json!(session.amr);
    shown["auth_time"] = json!(session.auth_time.as_secs());
    shown["expires_in"] = json!(session.ends().since(now).max(0) / 1000);
    Ok(Json(shown))
}

#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    summary = "Figures",
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "Figures", body = shapes::operations::OperationsMetrics))
)]
pub(super) async fn metrics(asking: Permitted) -> Result<Json<Value>, Failed> {
    let call = permitted(asking)?;
    let now = call.now().await?;
    let (store, policy) = (call.store(), &call.policy.name);
    let attempts = store.login_attempts(policy, now.minus(DAY_MS)).await?;
    let users: Map<String, Value> = store
        .user_counts(policy)
        .await?
        .into_iter()
        .map(|(status, count)| (status.word().to_owned(), json!(count)))
        .collect();
    let mut body = figures(&call, now).await?;
    body.insert("logins_24h".into(), json!(attempts.iter().map(|hour| hour.succeeded).sum::<u64>()));
    body.insert("failed_logins_24h".into(), json!(attempts.iter().map(|hour| hour.failed).sum::<u64>()));
    body.insert("locked_accounts".into(), json!(store.locked_accounts(policy, "", MAX_COUNTED, now).await?.len()));
    body.insert("users".into(), Value::Object(users));
    body.insert("outbox_pending".into(), json!(call.issuer.parts.publisher.status().pending));
    Ok(Json(Value::Object(body)))
}

#[utoipa::path(
    get,
    path = "/security-dashboard",
    tag = "operations",
    summary = "What happened in the last 24 hours",
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "Figures and events", body = shapes::operations::Dashboard))
)]
pub(super) async fn security_dashboard(asking: Permitted) -> Result<Json<Value>, Failed> {
    let call = permitted(asking)?;
    let now = call.now().await?;
    let (store, policy) = (call.store(), &call.policy.name);
    let recent = AuditFilter {
        at_least: Some(Severity::Warning),
        since: Some(now.minus(DAY_MS)),
        limit: RECENT,
        ..AuditFilter::default()
    };
    let attempts = store.login_attempts(policy, now.minus(DAY_MS)).await?;
    let (succeeded, failed) = attempts.iter().fold((0, 0), |(good, bad), hour| (good + hour.succeeded, bad + hour.failed));
    let blocks = store.blocks(policy, "", MAX_COUNTED, now).await?;
    Ok(Json(json!({
        "window_s": DAY_MS / 1000,
        "logins": {"succeeded": succeeded, "failed": failed},
        "incidents": store.incidents(policy, now.minus(DAY_MS)).await?,
        "locked_accounts": store.locked_accounts(policy, "", MAX_COUNTED, now).await?.len(),
        "blocked_addresses": blocks.len(),
        "recent": shown_page(&store.audit(policy, &recent).await?, RECENT)["events"],
    })))
}

/// What a support case needs to know; nothing of it is secret.
#[utoipa::path(
    get,
    path = "/debug-report",
    tag = "operations",
    summary = "What a support case needs to know",
    description = "Nothing of it is secret.",
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "The report", body = shapes::operations::DebugReport))
)]
pub(super) async fn debug_report(asking: Permitted) -> Result<Json<Value>, Failed> {
    Ok(Json(debug_report_of(&permitted(asking)?).await?))
}

pub(crate) async fn debug_report_of(call: &Call) -> Result<Value, Failed> {
    let now = call.now().await?;
    let parts = &call.issuer.parts;
    let publisher = parts.publisher.status();
    let feed = parts.feed.view();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "environment": parts.environment,
        "timestamp": now.to_string(),
        "clock_difference_ms": countersign_feed::Clock::wall().since(now),
        "policy": call.policy.name,
        "effective": parts.status.effective(&call.policy.name),
        "keys": crate::admin::rings(&call.policy),
        "feed": {"fresh": feed.fresh, "age_ms": feed.age_ms, "epoch": publisher.epoch, "pending": publisher.pending,
                 "problem": publisher.problem.as_deref()},
        "metrics": figures(call, now).await?,
    }))
}

#[derive(Deserialize, ToSchema)]
#[schema(as = TokenToValidate)]
struct Token {
    token: String,
}

/// Whether a token is good here, and what it says.
#[utoipa::path(
    post,
    path = "/validate-token",
    tag = "operations",
    summary = "Whether a token is good here",
    description = "Judged as by a verifier that is told of no request.",
    request_body = Token,
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "What it says, or why it is refused", body = shapes::operations::Validated))
)]
pub(super) async fn validate_token(asking: Permitted, Content(bytes): Content) -> Result<Json<Value>, Failed> {
    let call = permitted(asking)?;
    let body: Token = body_of(&bytes)?;
    Ok(Json(token_gate(&call, body.token.trim()).await?))
}

async fn token_gate(call: &Call, token: &str) -> Result<Value, Failed> {
    match bearer::judge(&call.issuer, &call.policy, token, None, &bearer::Around::default()).await {
        Ok(caller) => {
            let credential = &caller.credential;
            Ok(json!({
                "valid": true,
                "verdict": "valid",
                "kind": credential.kind().word(),
                "subject": credential.subject(),
                "session_id": credential.session_id(),
                "token_id": credential.token_id(),
                "expires_at": credential.expires_at().map(UnixMillis::as_secs),
                "roles": credential.roles(),
                "permissions": credential.permissions(),
                "scopes": credential.scopes(),
            }))
        }
        Err(Failed::Problem(problem)) if problem.status().is_client_error() => {
            Ok(json!({"valid": false, "verdict": "refused", "detail": problem.detail()}))
        }
        Err(failed) => Err(failed),
    }
}

/// What is wrong with an account, a token or an address: every gate with its state, and what opens it.
#[utoipa::path(
    post,
    path = "/diagnose",
    tag = "operations",
    summary = "What keeps somebody out",
    description = "Every gate with its state, and what opens it. At least one member is needed.",
    request_body = Diagnosed,
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "The gates", body = shapes::operations::Diagnosis))
)]
pub(super) async fn diagnose(asking: Permitted, Content(bytes): Content) -> Result<Json<Value>, Failed> {
    let call = permitted(asking)?;
    Ok(Json(diagnosis(&call, &body_of(&bytes)?).await?))
}
