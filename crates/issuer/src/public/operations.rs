//! `/api/v1/auth/…`: what those who run it look at. All of it is JSON.

use std::time::Instant;

use axum::Json;
use countersign_core::time::UnixMillis;
use countersign_store::{AuditFilter, LockoutKey, Severity, UserStatus};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{audit::shown_page, login, sessions};
use crate::{
    bearer::{self, Permitted, Person},
    body::{Content, body_of},
    call::Call,
    names,
    problem::{Failed, Problem},
    second_factor,
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
pub(super) async fn health(call: Call) -> Json<Value> {
    let began = Instant::now();
    let database = call.now().await;
    let publisher = call.issuer.parts.publisher.status();
    let signs = call.policy.own.as_ref().is_some_and(|own| own.access.signer.is_some());
    let figures = match &database {
        Ok(now) => {
            let counted = figures(&call, *now);
            call.issuer.parts.recent.figures(&call.policy.name, *now, counted).await.unwrap_or_default()
        }
        Err(_) => Map::new(),
    };
    let word = |good: bool| if good { "healthy" } else { "unhealthy" };
    let feed = if publisher.problem.is_some() { "degraded" } else { "healthy" };
    let all_well = database.is_ok() && signs && publisher.problem.is_none();
    // Without its database nothing is answered; without the feed everything is, and verifiers hear of it later.
    let status = if all_well { "healthy" } else { word(database.is_ok() && signs) };
    let status = if status == "healthy" && !all_well { "degraded" } else { status };
    Json(json!({
        "status": status,
        "timestamp": database.unwrap_or_else(|_| countersign_feed::Clock::wall()).to_string(),
        "response_time_ms": u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        "environment": call.issuer.parts.environment,
        "components": {
            "database": {"status": word(!figures.is_empty())},
            "feed": {"status": feed, "pending": publisher.pending},
            "signing_keys": {"status": word(signs)},
        },
        "metrics": figures,
    }))
}

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
pub(super) async fn debug_report(asking: Permitted) -> Result<Json<Value>, Failed> {
    let call = permitted(asking)?;
    let now = call.now().await?;
    let parts = &call.issuer.parts;
    let publisher = parts.publisher.status();
    let feed = parts.feed.view();
    Ok(Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "environment": parts.environment,
        "timestamp": now.to_string(),
        "clock_difference_ms": countersign_feed::Clock::wall().since(now),
        "policy": call.policy.name,
        "effective": parts.status.effective(&call.policy.name),
        "keys": crate::admin::rings(&call.policy),
        "feed": {"fresh": feed.fresh, "age_ms": feed.age_ms, "epoch": publisher.epoch, "pending": publisher.pending,
                 "problem": publisher.problem.as_deref()},
        "metrics": figures(&call, now).await?,
    })))
}

#[derive(Deserialize)]
struct Token {
    token: String,
}

/// Whether a token is good here, and what it says.
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

#[derive(Deserialize)]
struct Diagnosed {
    token: Option<String>,
    user_id: Option<String>,
    ip: Option<String>,
}

/// What is wrong with an account, a token or an address: every gate with its state, and what opens it.
pub(super) async fn diagnose(asking: Permitted, Content(bytes): Content) -> Result<Json<Value>, Failed> {
    let call = permitted(asking)?;
    let body: Diagnosed = body_of(&bytes)?;
    let mut gates = Vec::new();
    if let Some(token) = &body.token {
        let found = token_gate(&call, token.trim()).await?;
        let good = found["valid"] == json!(true);
        gates.push(gate("token", good, found["detail"].as_str().unwrap_or("the token is good"), "log in again"));
    }
    if let Some(text) = &body.ip {
        let ip = text.parse().map_err(|_| Problem::validation("ip is not an address"))?;
        let networks = crate::addresses::networks_around(ip);
        let now = call.now().await?;
        let block = call.store().blocked(&call.policy.name, &networks, now).await?;
        let detail = block.as_ref().map_or("the address is not blocked".to_owned(), |block| {
            format!("{} is blocked until {}: {}", block.network, block.expires, block.reason)
        });
        gates.push(gate("address", block.is_none(), &detail, "countersign blocks remove ADDRESS"));
    }
    if let Some(id) = &body.user_id {
        gates.extend(account_gates(&call, id).await?);
    }
    if gates.is_empty() {
        return Err(Problem::validation("name what to look at: token, user_id (id, name or e-mail address) or ip").into());
    }
    let open = gates.iter().all(|gate| gate["open"] == json!(true));
    Ok(Json(json!({"policy": call.policy.name, "open": open, "gates": gates})))
}

fn gate(name: &str, open: bool, detail: &str, fix: &str) -> Value {
    json!({"gate": name, "open": open, "detail": detail, "fix": if open { None } else { Some(fix) }})
}

async fn account_gates(call: &Call, id: &str) -> Result<Vec<Value>, Failed> {
    let (store, policy, login) = (call.store(), &call.policy.name, call.login()?);
    let found = match store.user(policy, id).await? {
        Some(user) => Some(user),
        None => login::account(call, &names::folded(id.trim())).await?,
    };
    let Some(user) = found else {
        return Ok(vec![gate("account", false, "there is no such account", "countersign users create")]);
    };
    let now = call.now().await?;
    let id = user.id.as_str();
    let mut gates = vec![gate("account", true, &format!("the account {id}"), "")];
    let status = match (user.status, &user.status_reason) {
        (status, Some(reason)) => format!("{}: {reason}", status.word()),
        (status, None) => status.word().to_owned(),
    };
    let fix = format!("countersign users enable {id}, or unlock {id}");
    gates.push(gate("status", user.status == UserStatus::Active, &status, &fix));
    let has_password = store.password(policy, id).await?.is_some();
    let detail = if has_password { "has a password" } else { "has no password" };
    gates.push(gate("password", has_password, detail, "POST /auth/forgot-password"));
    let lockout = store.lockout(policy, LockoutKey::Account(id)).await?;
    let locked = lockout.locked_until.filter(|until| *until > now);
    let detail = match locked {
        Some(until) => format!("locked by failures until {until}"),
        None => format!("{} failures counted", lockout.failures),
    };
    gates.push(gate("lockout", locked.is_none(), &detail, &format!("countersign users unlock {id}")));
    let names: Vec<&str> = [&user.username, &user.email].into_iter().flatten().map(|name| name.folded.as_str()).collect();
    let rolled_out = login.rolled_out(policy, id, &names);
    gates.push(gate("rollout", rolled_out, "spec.login.rollout", "name the account in spec.login.rollout.subjects"));
    let enrolled = second_factor::is_on(call, &user).await?;
    let demanded = login.demands_second_factor(&user.roles);
    let detail = match (demanded, enrolled) {
        (_, true) => "enrolled",
        (true, false) => "demanded, and none is enrolled: the next login asks to set one up",
        (false, false) => "none",
    };
    gates.push(gate("second factor", enrolled || !demanded, detail, "log in and enrol, or take the role away"));
    let sessions = store.sessions(policy, id, None, MAX_COUNTED, now).await?.len();
    let most = login.settings.sessions.max_concurrent as usize;
    let rejects = login.settings.sessions.on_limit == countersign_api::policy::OnLimit::Reject;
    let detail = format!("{sessions} of {most} sessions");
    gates.push(gate("sessions", sessions < most || !rejects, &detail, &format!("countersign sessions end --all {id}")));
    Ok(gates)
}
