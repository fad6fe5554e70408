//! Cookie mode: tokens that pages never see, and `GET /auth/csrf`.

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use countersign_api::policy::{EffectiveCookies, Switch};
use countersign_store::Session;
use serde_json::{Value, json};

use super::door;
use super::owner::issuer_of;
use crate::{
    bearer,
    call::Call,
    cookies::{self, Cookie},
    csrf, guard,
    openapi::shapes,
    opening,
    problem::{Failed, Problem},
};

/// How long a browser keeps the secret by which its device is known, seconds: a year.
const DEVICE_AGE_S: i64 = 31_536_000;

/// The policy's cookies, where it has any.
pub(super) fn settings(call: &Call) -> Option<&EffectiveCookies> {
    let login = call.policy.login.as_ref()?;
    Some(&login.settings.cookies).filter(|cookies| cookies.mode == Switch::Enabled)
}

/// 422 where somebody wants cookies and the policy has none.
pub(super) fn may_want(call: &Call) -> Result<&EffectiveCookies, Problem> {
    settings(call).ok_or_else(|| Problem::validation("cookies: this policy has none (spec.login.cookies.mode is Disabled)"))
}

/// 403 where a page that may not call made a browser ask for a login's cookies: its visitor would go on in an account that the
/// page has chosen, and leave there what is theirs.
pub(super) fn may_be_given(call: &Call, headers: &HeaderMap) -> Result<(), Problem> {
    let cors = call.login()?.settings.cors.as_ref();
    if !guard::is_foreign(cors, issuer_of(call), headers) {
        return Ok(());
    }
    let detail =
        "a page of another origin can't log its visitors in with cookies, unless spec.login.cors.allowedOrigins names it";
    Err(Problem::new(StatusCode::FORBIDDEN, "csrf_failed", detail))
}

/// A cookie of a request. One that can't be read is as good as none.
pub(super) fn shown<'h>(settings: &EffectiveCookies, headers: &'h HeaderMap, cookie: Cookie) -> Option<&'h str> {
    cookies::read(settings, headers, cookie).ok().flatten()
}

/// Takes the tokens out of an answer's body and puts them into cookies.
pub(super) fn hide(call: &Call, settings: &EffectiveCookies, body: &mut Value) -> Result<Vec<HeaderValue>, Problem> {
    let age = body["expires_in"].as_i64();
    let refresh_age = Some(call.policy.tokens.refresh_ttl_ms / 1000);
    let mut set = Vec::new();
    let kinds = [
        ("access_token", Cookie::Access, age),
        ("refresh_token", Cookie::Refresh, refresh_age),
        ("device_token", Cookie::Device, Some(DEVICE_AGE_S)),
    ];
    for (member, cookie, age) in kinds {
        let value = body.as_object_mut().and_then(|members| members.remove(member));
        let Some(Value::String(value)) = value else { continue };
        let line = cookies::set(settings, cookie, &value, age);
        set.push(line.ok_or_else(|| Problem::internal(&"a token can't stand in a cookie"))?);
    }
    if let Some(members) = body.as_object_mut() {
        members.remove("token_type");
    }
    Ok(set)
}

/// Sets cookies on an answer.
pub(super) fn put(answer: &mut Response, cookies: Vec<HeaderValue>) {
    for cookie in cookies {
        answer.headers_mut().append(header::SET_COOKIE, cookie);
    }
}

/// Takes a session's cookies away. Its device stays known.
pub(super) fn forget(call: &Call, answer: &mut Response) {
    let Some(settings) = settings(call) else { return };
    put(
        answer,
        [Cookie::Access, Cookie::Refresh].into_iter().filter_map(|cookie| cookies::clear(settings, cookie)).collect(),
    );
}

/// `GET /auth/csrf`: by the session's token, or by its refresh cookie alone, so that a page whose access cookie has run out can
/// refresh.
#[utoipa::path(
    get,
    path = "/auth/csrf",
    tag = "sessions",
    summary = "Get a CSRF token",
    description = "Bound to the session. The refresh cookie alone is enough.",
    security(("bearer" = [])),
    responses((status = 200, description = "The token", body = shapes::people::CsrfToken))
)]
pub(super) async fn csrf(call: Call, headers: HeaderMap) -> Result<Json<Value>, Failed> {
    call.login()?;
    let session = match by_access(&call, &headers).await {
        Err(Failed::Problem(problem)) if problem.status().as_u16() == 401 => {
            by_refresh(&call, &headers).await?.ok_or(Failed::Problem(problem))?
        }
        found => found?,
    };
    let token = csrf::token(&call.issuer, &call.policy, &session)?;
    Ok(Json(json!({"csrf_token": token, "session_id": session.id, "expires_at": session.ends().as_secs()})))
}

async fn by_access(call: &Call, headers: &HeaderMap) -> Result<Session, Failed> {
    let shown = door::watched(call, bearer::credential(&call.policy, headers).map_err(Failed::from)).await?;
    let judged = bearer::judge(&call.issuer, &call.policy, shown.token, None, &bearer::Around::default()).await;
    let caller = door::watched(call, judged).await?;
    caller.session.ok_or_else(|| Problem::invalid_token("this call needs the token of a login").into())
}

/// The live session of a request's refresh cookie, where nothing else authorises it.
pub(super) async fn by_refresh(call: &Call, headers: &HeaderMap) -> Result<Option<Session>, Failed> {
    if headers.contains_key(header::AUTHORIZATION) || headers.contains_key("x-api-key") {
        return Ok(None);
    }
    let token = settings(call).and_then(|settings| shown(settings, headers, Cookie::Refresh));
    let Some(token) = token.and_then(opening::refresh_token) else { return Ok(None) };
    let found = call.store().refresh_standing(&call.policy.name, &token).await?;
    let now = call.now().await?;
    Ok(found.filter(|standing| standing.is_live(now)).map(|standing| standing.session))
}
