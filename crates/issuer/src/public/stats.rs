//! `GET /auth/stats/…`: figures of a policy.

use axum::Json;
use countersign_core::time::UnixMillis;
use countersign_store::{AttemptsByHour, User};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use crate::{
    bearer::Permitted,
    body::OfQuery,
    call::Call,
    openapi::shapes,
    problem::{Failed, Problem},
};

/// What lets read figures.
const PERMISSION: &str = "stats:read";
const DAY_S: i64 = 86_400;
/// The widest window, seconds.
const MAX_WINDOW_S: i64 = 90 * DAY_S;
/// Accounts that are listed.
const MAX_LISTED: u32 = 1000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// How far back, seconds.
    #[param(minimum = 1, maximum = 7_776_000)]
    window_s: Option<i64>,
}

impl Asked {
    fn window_s(&self, default: i64) -> Result<i64, Problem> {
        let window = self.window_s.unwrap_or(default);
        if (1..=MAX_WINDOW_S).contains(&window) {
            Ok(window)
        } else {
            Err(Problem::validation(format!("window_s is 1 to {MAX_WINDOW_S} seconds")))
        }
    }
}

fn permitted(permitted: Permitted) -> Result<Call, Failed> {
    permitted.caller.require(PERMISSION)?;
    permitted.call.login()?;
    Ok(permitted.call)
}

#[utoipa::path(
    get,
    path = "/auth/stats/active-users",
    tag = "stats",
    summary = "Count active accounts",
    params(Asked),
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "How many", body = shapes::operations::ActiveUsers))
)]
pub(super) async fn active_users(asking: Permitted, OfQuery(asked): OfQuery<Asked>) -> Result<Json<Value>, Failed> {
    let call = permitted(asking)?;
    let window_s = asked.window_s(DAY_S)?;
    let since = call.now().await?.minus(window_s * 1000);
    let active_users = call.store().active_subjects(&call.policy.name, since).await?;
    Ok(Json(json!({"window_s": window_s, "active_users": active_users})))
}

#[utoipa::path(
    get,
    path = "/auth/stats/login-attempts",
    tag = "stats",
    summary = "Count logins",
    params(Asked),
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "How they went", body = shapes::operations::LoginAttempts))
)]
pub(super) async fn login_attempts(asking: Permitted, OfQuery(asked): OfQuery<Asked>) -> Result<Json<Value>, Failed> {
    let call = permitted(asking)?;
    let window_s = asked.window_s(DAY_S)?;
    let since = call.now().await?.minus(window_s * 1000);
    let hours = call.store().login_attempts(&call.policy.name, since).await?;
    let succeeded: u64 = hours.iter().map(|hour| hour.succeeded).sum();
    let failed: u64 = hours.iter().map(|hour| hour.failed).sum();
    let by_hour: Vec<Value> = hours
        .iter()
        .map(|AttemptsByHour { hour, succeeded, failed }| {
            json!({"hour": hour.as_secs(), "succeeded": succeeded, "failed": failed})
        })
        .collect();
    Ok(Json(json!({"window_s": window_s, "succeeded": succeeded, "failed": failed, "by_hour": by_hour})))
}

#[utoipa::path(
    get,
    path = "/auth/stats/locked-accounts",
    tag = "stats",
    summary = "List accounts that failures have locked",
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "The first thousand", body = shapes::operations::LockedAccounts))
)]
pub(super) async fn locked_accounts(asking: Permitted) -> Result<Json<Value>, Failed> {
    let call = permitted(asking)?;
    let now = call.now().await?;
    let ids = call.store().locked_accounts(&call.policy.name, "", MAX_LISTED, now).await?;
    let mut accounts = Vec::new();
    for id in &ids {
        let until = call.store().lockout(&call.policy.name, countersign_store::LockoutKey::Account(id)).await?.locked_until;
        let user: Option<User> = call.store().user(&call.policy.name, id).await?;
        let name = |name: &Option<countersign_store::Folded>| name.as_ref().map(|name| name.written.clone());
        accounts.push(json!({
            "id": id,
            "username": user.as_ref().and_then(|user| name(&user.username)),
            "email": user.as_ref().and_then(|user| name(&user.email)),
            "locked_until": until.map(UnixMillis::as_secs),
        }));
    }
    Ok(Json(json!({"locked_accounts": accounts.len(), "accounts": accounts})))
}

#[utoipa::path(
    get,
    path = "/auth/stats/sessions",
    tag = "stats",
    summary = "Count live sessions",
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "How many, by device", body = shapes::operations::SessionFigures))
)]
pub(super) async fn sessions(asking: Permitted) -> Result<Json<Value>, Failed> {
    let call = permitted(asking)?;
    let now = call.now().await?;
    let devices = call.store().live_sessions_by_device(&call.policy.name, now).await?;
    let active: u64 = devices.iter().map(|(_, count)| count).sum();
    let by_device: serde_json::Map<String, Value> =
        devices.into_iter().map(|(device, count)| (device.unwrap_or_else(|| "unknown".to_owned()), json!(count))).collect();
    Ok(Json(json!({"active_sessions": active, "by_device": by_device})))
}
