//! `/oauth/token`, `/oauth/introspect`, `/oauth/revoke` and `/userinfo`: what services and libraries of OAuth ask.
//!
//! Grants are client credentials (RFC 6749 section 4.4) and refresh (section 6); there is no authorization-code flow. Clients
//! are those of the policy's `login.clients`.

mod error;

use std::collections::BTreeMap;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    Json,
    body::Bytes,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_api::policy::EffectiveOauthClient;
use countersign_core::{check::CredentialKind, revocation::Kind, time::UnixMillis};
use countersign_store::{NewRevocation, transact};
use serde_json::{Value, json};

use self::error::{OauthError, described};
pub(super) use self::error::{no_such_method, turned_away};
use super::{
    door, place,
    refresh::{By, Renewed, renew},
};
use crate::{
    audit::EventKind,
    bearer::{self, Permitted},
    body::Content,
    call::{Call, Published},
    closing,
    minter::MintRequest,
    openapi::shapes,
    opening,
    problem::{Failed, Problem},
};

/// Where tokens are got.
pub(super) const TOKEN: &str = "/oauth/token";

type Form = BTreeMap<String, String>;

/// A body, or why it could not be read.
type Sent = Result<Content, Problem>;

/// The parameters that are read.
const PARAMETERS: [&str; 6] = ["grant_type", "scope", "client_id", "client_secret", "refresh_token", "token"];

/// The parameters of a form: each at most once, and those that nobody knows ignored (RFC 6749 section 3.2).
fn form(headers: &HeaderMap, bytes: &Bytes) -> Result<Form, OauthError> {
    let typ = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !typ.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        return Err(OauthError::new("invalid_request", "send the parameters as application/x-www-form-urlencoded"));
    }
    let mut form = Form::new();
    for (name, value) in form_urlencoded::parse(bytes).filter(|(name, _)| PARAMETERS.contains(&name.as_ref())) {
        // RFC 6749 section 3.1: without a value is not sent.
        if !value.is_empty() && form.insert(name.into_owned(), value.into_owned()).is_some() {
            return Err(OauthError::new("invalid_request", "a parameter stands twice"));
        }
    }
    Ok(form)
}

/// The client, by `Authorization: Basic` or by parameters, never both (RFC 6749 section 2.3.1). Whoever guesses secrets is
/// limited like one who guesses passwords, and blocked in the end.
async fn client<'c>(call: &'c Call, headers: &HeaderMap, form: &Form) -> Result<&'c EffectiveOauthClient, OauthError> {
    let login = call.login().map_err(Failed::from)?;
    let basic = tries_basic(headers);
    let (id, secret) = match (basic, form.get("client_id"), form.get("client_secret")) {
        (true, named, None) => {
            let shown = by_basic(headers).ok_or_else(|| OauthError::invalid_client(true))?;
            if named.is_some_and(|named| *named != shown.0) {
                return Err(OauthError::new("invalid_request", "client_id names another client than the header"));
            }
            shown
        }
        (false, Some(id), Some(secret)) => (id.clone(), secret.clone()),
        (true, _, Some(_)) => {
            return Err(OauthError::new(
                "invalid_request",
                "the client authenticates by a header or by parameters, not both",
            ));
        }
        (false, ..) => return Err(OauthError::invalid_client(false)),
    };
    match door::not_blocked(call, call.now().await.map_err(Failed::from)?).await {
        Err(Failed::Problem(problem)) if problem.status() == StatusCode::FORBIDDEN => {
            return Err(OauthError::access_denied(problem.detail()));
        }
        may => may?,
    }
    let shown = door::client_secret(call, &id).await?;
    let known = login.settings.clients.iter().find(|known| known.client_id == id);
    let held = known.and_then(|known| login.references.clients.get(&known.client_id));
    match (known, held) {
        (Some(known), Some(held)) if verify_slices_are_equal(held, secret.as_bytes()).is_ok() => {
            shown.accepted().await?;
            Ok(known)
        }
        _ => {
            shown.rejected(known.is_some()).await?;
            Err(OauthError::invalid_client(basic))
        }
    }
}

/// Whether the client tries to authenticate by a header: a Bearer token there is nobody's secret.
fn tries_basic(headers: &HeaderMap) -> bool {
    let scheme = |value: &HeaderValue| value.to_str().ok().and_then(|value| value.split(' ').next().map(str::to_owned));
    let mut schemes = headers.get_all(header::AUTHORIZATION).iter().map(scheme);
    schemes.any(|scheme| scheme.is_none_or(|scheme| !scheme.eq_ignore_ascii_case("bearer")))
}

fn by_basic(headers: &HeaderMap) -> Option<(String, String)> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?.to_str().ok()?, values.next()) else { return None };
    let (scheme, encoded) = value.split_once(' ')?;
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = text.split_once(':')?;
    // Both are form-encoded before they are joined.
    let decoded = |text: &str| {
        form_urlencoded::parse(format!("v={}", text.replace('&', "%26")).as_bytes()).next().map(|(_, v)| v.into_owned())
    };
    scheme.eq_ignore_ascii_case("basic").then_some((decoded(id)?, decoded(secret)?))
}

#[utoipa::path(
    post,
    path = "/oauth/token",
    tag = "OAuth",
    summary = "Get a token",
    description = "Client credentials, or refresh (RFC 6749 sections 4.4 and 6). A refresh needs no client.",
    request_body(content = shapes::services::TokenRequest, content_type = "application/x-www-form-urlencoded"),
    security((), ("client" = [])),
    responses(
        (status = 200, description = "Tokens", body = shapes::services::OauthTokens),
        (status = 401, description = "`invalid_client`"),
        (status = 403, description = "`access_denied`: the address is blocked"),
        (status = 429, description = "Too many wrong secrets, or too many calls"),
    )
)]
pub(super) async fn token(call: Call, headers: HeaderMap, content: Sent) -> Result<Response, OauthError> {
    let form = form(&headers, &content?.0)?;
    match form.get("grant_type").map(String::as_str) {
        Some("client_credentials") => client_credentials(&call, client(&call, &headers, &form).await?, &form).await,
        Some("refresh_token") => refresh(&call, &form).await,
        Some(_) => Err(OauthError::new("unsupported_grant_type", "grant_type is client_credentials or refresh_token")),
        None => Err(OauthError::new("invalid_request", "grant_type is missing")),
    }
}

async fn client_credentials(call: &Call, client: &EffectiveOauthClient, form: &Form) -> Result<Response, OauthError> {
    let asked: Vec<String> =
        form.get("scope").map(|s| s.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect()).unwrap_or_default();
    if let Some(beyond) = asked.iter().find(|scope| !client.scopes.contains(scope)) {
        let beyond: String = beyond.chars().filter(char::is_ascii_graphic).take(64).collect();
        return Err(OauthError::new("invalid_scope", format!("{beyond} is none of the client's scopes")));
    }
    let scopes = if asked.is_empty() { client.scopes.clone() } else { asked };
    let request = MintRequest {
        subject: client.client_id.clone(),
        roles: client.roles.clone(),
        scopes: scopes.clone(),
        client_id: Some(client.client_id.clone()),
        ..MintRequest::default()
    };
    let grant = transact!(call.store(), Failed, |tx| {
        let grant = call.issuer.parts.minter.grant(tx, &call.policy, &request, None).await?;
        let event = call.event(EventKind::TokenIssued).subject(&client.client_id);
        event.detail("grant_type", "client_credentials").write(tx, grant.issued_at()).await?;
        Ok(grant)
    })?;
    let issued_at = grant.issued_at();
    let minted = grant.sign().map_err(Failed::from)?;
    Ok(tokens(&json!({
        "access_token": minted.token,
        "token_type": "Bearer",
        "expires_in": minted.expires_at.as_secs() - issued_at.as_secs(),
        "scope": scopes.join(" "),
    })))
}

async fn refresh(call: &Call, form: &Form) -> Result<Response, OauthError> {
    call.login().map_err(Failed::from)?;
    let text = form.get("refresh_token").ok_or_else(|| OauthError::new("invalid_request", "refresh_token is missing"))?;
    let Renewed { grant, token } = renew(call, text, By::Body).await?;
    let issued_at = grant.issued_at();
    let minted = grant.sign().map_err(Failed::from)?;
    Ok(tokens(&json!({
        "access_token": minted.token,
        "refresh_token": opening::refresh_text(&token),
        "token_type": "Bearer",
        "expires_in": minted.expires_at.as_secs() - issued_at.as_secs(),
    })))
}

/// RFC 6749 section 5.1: nobody keeps it.
fn tokens(body: &Value) -> Response {
    ([(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")], Json(body)).into_response()
}

/// RFC 7662.
#[utoipa::path(
    post,
    path = "/oauth/introspect",
    tag = "OAuth",
    summary = "Ask about a token",
    description = "RFC 7662. The client authenticates.",
    request_body(content = shapes::services::AboutToken, content_type = "application/x-www-form-urlencoded"),
    security((), ("client" = [])),
    responses(
        (status = 200, description = "What it says, if it is good", body = shapes::services::Introspected),
        (status = 401, description = "`invalid_client`"),
        (status = 403, description = "`access_denied`: the address is blocked"),
        (status = 429, description = "Too many wrong secrets, or too many calls"),
    )
)]
pub(super) async fn introspect(call: Call, headers: HeaderMap, content: Sent) -> Result<Response, OauthError> {
    let form = form(&headers, &content?.0)?;
    client(&call, &headers, &form).await?;
    let token = form.get("token").ok_or_else(|| OauthError::new("invalid_request", "token is missing"))?;
    let inactive = || Ok(tokens(&json!({"active": false})));
    if let Some(refresh) = opening::refresh_token(token.trim()) {
        return refresh_token(&call, &refresh).await;
    }
    let Ok(credential) = bearer::genuine(&call.issuer, &call.policy, token.trim()) else { return inactive() };
    // Rules and address lists ask for a request: who introspects has none to tell of.
    match bearer::standing(&call.issuer, &call.policy, token.trim()).await {
        Ok(_) => {}
        Err(Failed::Problem(problem)) if problem.status().is_client_error() => return inactive(),
        Err(failed) => return Err(failed.into()),
    }
    let credential = &credential;
    let secs = |at: Option<UnixMillis>| at.map(UnixMillis::as_secs);
    let mut body = json!({
        "active": true,
        "iss": credential.issuer(),
        "sub": credential.subject(),
        "aud": credential.audience(),
        "exp": secs(credential.expires_at()),
        "iat": secs(credential.issued_at()),
        "jti": credential.token_id(),
        "sid": credential.session_id(),
        "scope": credential.scopes().join(" "),
        "client_id": credential.claim("client_id"),
        "roles": credential.roles(),
        "token_type": "Bearer",
    });
    if let Value::Object(members) = &mut body {
        members.retain(|_, value| !value.is_null());
    }
    Ok(tokens(&body))
}

/// A refresh token is good while it is the one to use next, or may be shown again within the grace.
async fn refresh_token(call: &Call, token: &countersign_store::RefreshToken) -> Result<Response, OauthError> {
    let (policy, now) = (&call.policy.name, call.now().await.map_err(Failed::from)?);
    let found = call.store().usable_refresh_token(policy, token, now).await.map_err(Failed::from)?;
    Ok(tokens(&match found {
        Some((session, ends)) => json!({
            "active": true,
            "iss": call.policy.own.as_ref().map(|own| &own.issuer),
            "sub": session.subject,
            "sid": session.id,
            "iat": session.created.as_secs(),
            "exp": ends.as_secs(),
            "token_type": "refresh_token",
        }),
        None => json!({"active": false}),
    }))
}

/// RFC 7009: 200 whether or not there was anything to revoke.
#[utoipa::path(
    post,
    path = "/oauth/revoke",
    tag = "OAuth",
    summary = "End a token",
    description = "RFC 7009: 200 whether or not there was anything to end. The client authenticates.",
    request_body(content = shapes::services::AboutToken, content_type = "application/x-www-form-urlencoded"),
    security((), ("client" = [])),
    responses(
        (status = 200, description = "It is ended", body = shapes::Standing),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Standing),
        (status = 401, description = "`invalid_client`"),
        (status = 403, description = "`access_denied`: the address is blocked"),
        (status = 429, description = "Too many wrong secrets, or too many calls"),
    )
)]
pub(super) async fn revoke(call: Call, headers: HeaderMap, content: Sent) -> Result<Response, OauthError> {
    let form = form(&headers, &content?.0)?;
    let client = client(&call, &headers, &form).await?;
    let token = form.get("token").ok_or_else(|| OauthError::new("invalid_request", "token is missing"))?.trim();
    let ended = match opening::refresh_token(token) {
        Some(refresh) => end_session(&call, &client.client_id, &refresh).await?,
        None => end_token(&call, &client.client_id, token).await?,
    };
    let published = match ended {
        Some(ended) => call.publish(ended).await,
        None => Published::Nothing,
    };
    // RFC 7009 section 2.2: clients need not look at the body.
    let mut body = json!({});
    let status = place(&mut body, published, StatusCode::OK);
    Ok((status, Json(body)).into_response())
}

async fn end_session(
    call: &Call,
    client: &str,
    token: &countersign_store::RefreshToken,
) -> Result<Option<countersign_store::Appended>, Failed> {
    let policy = &call.policy;
    let Some(session) = call.store().session_of_refresh_token(&policy.name, token).await? else { return Ok(None) };
    transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&policy.name, &session.subject).await?;
        let now = tx.database_now().await?;
        let ended = tx.end_session(&policy.name, &session.id, &policy.ending(now, "revoked by a client")).await?;
        if ended.is_some() {
            let event = call.event(EventKind::SessionRevoked).subject(&session.subject).session(&session.id);
            event.detail("client_id", client).write(tx, now).await?;
        }
        Ok(ended.map(|ended| ended.revocations))
    })
}

async fn end_token(call: &Call, client: &str, token: &str) -> Result<Option<countersign_store::Appended>, Failed> {
    let policy = &call.policy;
    // Whatever it may do and wherever it may come from: what is genuine is ended.
    let Ok(credential) = &bearer::genuine(&call.issuer, policy, token) else { return Ok(None) };
    let Some(id) = credential.token_id() else { return Ok(None) };
    transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&policy.name, credential.subject()).await?;
        let now = tx.database_now().await?;
        if credential.kind() == CredentialKind::ApiKey {
            let held = tx.api_key(&policy.name, id).await?;
            if let Some(held) = held {
                let ended = closing::revoke_api_key(tx, policy, &held.owner, id, now, "revoked by a client").await?;
                if ended.is_some() {
                    let event = call.event(EventKind::ApiKeyRevoked).subject(&held.owner).detail("id", id);
                    event.detail("client_id", client).write(tx, now).await?;
                }
                return Ok(ended);
            }
        }
        let kind = if credential.kind() == CredentialKind::ApiKey { Kind::ApiKey } else { Kind::Token };
        let entry = closing::entry(policy, kind, id, UnixMillis::FOREVER, now, "revoked by a client");
        let entry = countersign_core::revocation::Entry {
            issuer: credential.issuer().map(str::to_owned),
            expires: credential.expires_at().map_or(entry.expires, |at| at.plus(policy.clock_skew_ms)),
            ..entry
        };
        let subject = Some(credential.subject().to_owned());
        let new = NewRevocation { entry, subject, access_only: credential.kind() == CredentialKind::Access };
        let appended = tx.revoke(&[new], now, |_| policy.max_entries).await?;
        let event = call.event(EventKind::AdminAction).subject(credential.subject());
        event.detail("action", "revoke token").detail("token_id", id).detail("client_id", client).write(tx, now).await?;
        Ok(Some(appended))
    })
}

/// OpenID Connect Core section 5.3, as far as accounts have such claims.
#[utoipa::path(
    method(get, post),
    path = "/userinfo",
    tag = "OAuth",
    summary = "Claims about the caller",
    description = "OpenID Connect Core section 5.3, as far as accounts have such claims.",
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "What is known", body = shapes::services::UserInfo))
)]
pub(super) async fn userinfo(permitted: Result<Permitted, Failed>) -> Result<Json<Value>, Problem> {
    claims_of(permitted).await.map_err(described)
}

async fn claims_of(permitted: Result<Permitted, Failed>) -> Result<Json<Value>, Failed> {
    let Permitted { call, caller } = permitted?;
    call.login()?;
    let user = caller.user(&call).await?;
    let name = [&user.first_name, &user.last_name].into_iter().flatten().cloned().collect::<Vec<_>>().join(" ");
    let mut body = json!({
        "sub": user.id,
        "name": Some(name).filter(|name| !name.is_empty()),
        "given_name": user.first_name,
        "family_name": user.last_name,
        "preferred_username": user.username.as_ref().map(|name| &name.written),
        "email": user.email.as_ref().map(|email| &email.written),
        "email_verified": user.email.is_some().then_some(user.email_verified),
    });
    if let Value::Object(members) = &mut body {
        members.retain(|_, value| !value.is_null());
    }
    Ok(Json(body))
}
