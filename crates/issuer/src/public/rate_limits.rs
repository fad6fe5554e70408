//! Limits on everybody's calls: how often a subject may call, and `GET /api/v1/auth/rate-limit-status`.

use std::net::IpAddr;

use axum::Json;
use countersign_api::policy::EffectiveRateLimit;
use countersign_core::{
    check::{Authenticated, CredentialKind},
    time::UnixMillis,
};
use countersign_store::{Folded, User};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::IntoParams;

use super::{
    door::{self, Tried},
    login, operations, owner,
};
use crate::{
    bearer::Permitted,
    body::OfQuery,
    call::Call,
    limits::{Standing, joined_key},
    names,
    openapi::shapes,
    problem::{Failed, Problem},
};

/// What a subject's calls are counted under.
const CALLS: &str = "api-subject";
/// What refreshes are counted under: of a subject, and of tokens that are of no use, by address.
const REFRESHES: &str = "refresh-subject";
const USELESS_REFRESHES: &str = "refresh-useless";

/// Counts a call, or refuses it with 429. An API key is counted by itself: a busy service of somebody's leaves their browser
/// its calls.
pub(crate) async fn may_call(call: &Call, credential: &Authenticated) -> Result<(), Failed> {
    let Some(login) = &call.policy.login else { return Ok(()) };
    let key = match (credential.kind(), credential.token_id()) {
        (CredentialKind::ApiKey, Some(id)) => joined_key(&["key", id]),
        // Two issuers may mean two people by one name.
        _ => joined_key(&["subject", credential.issuer().unwrap_or_default(), credential.subject()]),
    };
    let limit = login.settings.rate_limits.api.per_subject.as_ref();
    call.count([owner::of_account(CALLS, &key, limit)]).await.map(|_| ())
}

/// Counts a refresh of a subject's sessions, beside its other calls: a page that makes too many of those stays logged in.
pub(super) async fn may_refresh(call: &Call, subject: &str) -> Result<(), Failed> {
    let limit = call.login()?.settings.rate_limits.api.per_subject.as_ref();
    call.count([owner::of_account(REFRESHES, subject, limit)]).await.map(|_| ())
}

/// Counts, by address, refresh tokens that can be of no use, and writes the first of them down where there is something to
/// tell.
pub(super) async fn useless_refresh_token(call: &Call, told: Option<&str>) -> Result<(), Failed> {
    let limit = call.login()?.settings.rate_limits.login.per_address.as_ref();
    call.count([owner::of_address(call, USELESS_REFRESHES, limit)]).await?;
    match told {
        Some(reason) => door::bad_token(call, reason).await,
        None => Ok(()),
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Id, name or e-mail address.
    user: Option<String>,
    #[param(inline, value_type = Option<shapes::Address>)]
    ip: Option<String>,
}

/// What the policy allows, where tries are counted, and how an account's or an address' tries stand. Looking is no try.
#[utoipa::path(
    get,
    path = "/rate-limit-status",
    tag = "operations",
    summary = "How limits stand",
    description = "Of an account and address, or of an address, when they are named. Looking is no try.",
    params(Asked),
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "The limits", body = shapes::operations::RateLimits))
)]
pub(super) async fn status(asking: Permitted, OfQuery(asked): OfQuery<Asked>) -> Result<Json<Value>, Failed> {
    let call = operations::permitted(asking)?;
    let (login, limits, now) = (call.login()?, &call.issuer.parts.limits, call.now().await?);
    let set = &login.settings.rate_limits;
    let ip = asked.ip.as_deref().map(str::parse::<IpAddr>).transpose();
    let ip = ip.map_err(|_| Problem::validation("ip is not an address"))?;
    let pressure = limits.pressure(&call.policy.name, now).await?;
    let account = set.login.per_account_and_address.as_ref().or(set.login.per_address.as_ref());
    let mut body = json!({
        "policy": call.policy.name,
        "limits": {
            "login": {
                "per_account_and_address": shown(set.login.per_account_and_address.as_ref()),
                "per_address": shown(set.login.per_address.as_ref()),
            },
            "register": {"per_address": shown(set.register.per_address.as_ref())},
            "password_reset": {
                "per_account": shown(set.password_reset.per_account.as_ref()),
                "per_address": shown(set.password_reset.per_address.as_ref()),
            },
            "api": {"per_subject": shown(set.api.per_subject.as_ref())},
        },
        "counted_on": if limits.has_redis() && !limits.redis_away() { "redis" } else { "store" },
        "redis_away": limits.redis_away(),
        "fallbacks": limits.fallbacks(),
        "failed_logins": {"last_minute": pressure.last_minute, "this_minute": pressure.this_minute},
        "under_attack": account.is_some_and(|limit| pressure.is_attack(limit.limit)),
    });
    if asked.user.is_some() || ip.is_some() {
        body["login"] = standings(&call, asked.user.as_deref(), ip, now).await?;
    }
    Ok(Json(body))
}

fn shown(limit: Option<&EffectiveRateLimit>) -> Value {
    limit.map_or(Value::Null, |limit| json!({"limit": limit.limit, "window_s": limit.window.as_millis() / 1000}))
}

/// How logins stand: of an account from an address when both are named, and of the address alone.
async fn standings(call: &Call, user: Option<&str>, ip: Option<IpAddr>, now: UnixMillis) -> Result<Value, Failed> {
    let Some(ip) = ip else {
        return Err(Problem::validation("name ip too: logins are counted by account and address, or by address").into());
    };
    let mut windows = Vec::new();
    for tried in names_of(call, user).await? {
        let held = door::windows(call, Some(&tried), ip, now).await?;
        windows.extend(held.into_iter().map(|window| (Some(tried.name.clone()), window)));
    }
    if windows.is_empty() {
        windows.extend(door::windows(call, None, ip, now).await?.into_iter().map(|window| (None, window)));
    }
    let mut told = Vec::new();
    for (name, window) in windows {
        let what = window.what;
        let name = name.filter(|_| what == door::BY_ACCOUNT);
        // Every name of an account has the same address' window.
        if name.is_none() && told.iter().any(|told: &Value| told["limit_of"] == json!(what)) {
            continue;
        }
        if let Some(standing) = call.issuer.parts.limits.peek(&call.policy.name, &[window], now).await? {
            let Standing { allowed, limit, remaining, reset_ms } = standing;
            told.push(json!({
                "limit_of": what,
                "name": name,
                "allowed": allowed,
                "limit": limit,
                "remaining": remaining,
                "reset_s": reset_ms / 1000,
            }));
        }
    }
    Ok(json!(told))
}

/// The names by which an account logs in; of one that isn't there, what was typed, because that is counted alike.
pub(super) async fn names_of(call: &Call, user: Option<&str>) -> Result<Vec<Tried>, Failed> {
    let Some(typed) = user else { return Ok(Vec::new()) };
    let folded = names::folded(typed.trim());
    let found = match call.store().user(&call.policy.name, typed).await? {
        Some(user) => Some(user),
        None => login::account(call, &folded).await?,
    };
    Ok(match found {
        Some(User { id, username, email, .. }) => {
            let since = call.store().tries_since(&call.policy.name, &id).await?;
            let tried = |name: Folded| Tried { name: name.folded, since };
            [username, email].into_iter().flatten().map(tried).collect()
        }
        None => vec![Tried { name: folded, since: None }],
    })
}
