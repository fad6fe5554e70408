//! `POST`, `GET` and `DELETE /auth/api-keys`.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use countersign_core::{mint::ApiKeySpec, roles::grants, time::UnixMillis};
use countersign_store::{ApiKey, UserStatus, transact};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::ended;
use crate::{
    audit::EventKind,
    bearer::Person,
    body::{Content, OfPath, body_of},
    call::Call,
    closing,
    minter::new_id,
    openapi::shapes,
    problem::{Failed, Problem},
};

/// The most scopes of a key, and the longest of them, bytes.
const MAX_SCOPES: usize = 64;
const MAX_TEXT: usize = 128;
/// The most keys that are listed, and that one owner may have at once.
const MAX_KEYS: u32 = 1000;
/// How much of a key is kept to recognise it by: its last characters.
const HINT: usize = 4;

#[derive(Deserialize, ToSchema)]
#[schema(as = ApiKeyRequest)]
struct Body {
    name: String,
    scopes: Vec<String>,
    expires_in: Option<i64>,
}

#[utoipa::path(
    post,
    path = "/auth/api-keys",
    tag = "API keys",
    summary = "Make an API key",
    description = "It may do what its scopes say, within what its owner may.",
    request_body = Body,
    security(("bearer" = [])),
    responses((status = 201, description = "The key, shown this once", body = shapes::people::NewApiKey))
)]
pub(super) async fn create(person: Person, Content(bytes): Content) -> Result<Response, Failed> {
    let Person { call, user, session } = person;
    let body: Body = body_of(&bytes)?;
    let made = make(&call, &user.id, Some(&session.id), body.name, body.scopes, body.expires_in).await?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

/// Makes a key of an owner, who asks for it in a session or is asked for by an administrator; what its maker is shown, once.
/// The owner is read again under its lock: a key says no more than they may when it is issued.
pub(crate) async fn make(
    call: &Call,
    owner: &str,
    session: Option<&str>,
    name: String,
    scopes: Vec<String>,
    expires_in: Option<i64>,
) -> Result<Value, Failed> {
    let policy = &call.policy;
    let longest_s = policy.tokens.api_key_max_ttl_ms / 1000;
    let life_s = match expires_in {
        None => longest_s,
        Some(seconds) if (1..=longest_s).contains(&seconds) => seconds,
        Some(_) => {
            let detail = format!("expires_in is 1 to {longest_s} seconds (spec.tokens.apiKeyMaxTTL)");
            return Err(Problem::validation(detail).into());
        }
    };
    let unmergeable = call.store().unmergeable_entries(&policy.name).await?;
    if unmergeable >= u64::try_from(policy.max_entries).unwrap_or(u64::MAX) {
        // Nothing could take the place of what it is revoked by.
        return Err(Problem::unavailable("too much is revoked that can't be merged: no API key is issued for now").into());
    }
    let (made, key) = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&policy.name, owner).await?;
        let now = tx.database_now().await?;
        let user = tx.user(&policy.name, owner).await?.filter(|user| user.status == UserStatus::Active);
        let roles = user.ok_or_else(|| Problem::invalid_token("the account is closed"))?.roles;
        check(call, &roles, &name, &scopes)?;
        let rests_on = match session {
            None => None,
            Some(id) => {
                let session = tx.session(&policy.name, id).await?.filter(|session| session.is_live(now));
                Some(session.ok_or_else(|| Problem::invalid_token("the session has ended"))?.auth_time)
            }
        };
        let spec = ApiKeySpec {
            issuer: policy.own.as_ref().map(|own| own.issuer.clone()).unwrap_or_default(),
            subject: owner.to_owned(),
            audiences: policy.audiences.clone(),
            roles: roles.clone(),
            scopes: scopes.clone(),
            token_id: new_id(),
            issued_at: UnixMillis(0),
            expires: UnixMillis(0),
        };
        let id = spec.token_id.clone();
        let grant = call.issuer.parts.minter.grant_api_key(tx, policy, spec, life_s * 1000, rests_on).await?;
        let held = tx.live_api_keys(&policy.name, owner, grant.issued_at()).await?;
        if held >= u64::from(MAX_KEYS) {
            return Err(Problem::validation(format!("there are {MAX_KEYS} keys already: revoke some")).into());
        }
        let key = grant.sign()?;
        let made = ApiKey {
            policy: policy.name.clone(),
            id,
            owner: owner.to_owned(),
            name: name.clone(),
            hint: format!("csk_…{}", &key[key.len().saturating_sub(HINT)..]),
            hash: None,
            scopes: scopes.clone(),
            roles,
            created: grant.issued_at(),
            expires: grant.expires(),
            last_used: None,
            revoked: None,
        };
        tx.insert_api_key(&made).await?;
        let event = call.event(EventKind::ApiKeyCreated).subject(owner).detail("id", made.id.as_str());
        event.detail("scopes", json!(made.scopes)).write(tx, made.created).await?;
        Ok((made, key))
    })?;
    let mut shown = shown(&made);
    shown["key"] = json!(key);
    Ok(shown)
}

fn check(call: &Call, roles: &[String], name: &str, scopes: &[String]) -> Result<(), Problem> {
    if name.trim().is_empty() || name.len() > MAX_TEXT || name.chars().any(char::is_control) {
        return Err(Problem::validation(format!("name has 1 to {MAX_TEXT} bytes and no control characters")));
    }
    let odd = |scope: &String| scope.is_empty() || scope.len() > MAX_TEXT || !scope.bytes().all(|b| b.is_ascii_graphic());
    if scopes.is_empty() || scopes.len() > MAX_SCOPES || scopes.iter().any(odd) {
        let detail = format!("scopes are 1 to {MAX_SCOPES} permissions, each of at most {MAX_TEXT} visible characters");
        return Err(Problem::validation(detail));
    }
    let permissions = call.policy.compiled.roles.permissions_of(roles);
    match scopes.iter().find(|scope| !grants(&permissions, scope)) {
        Some(scope) => Err(Problem::validation(format!("scopes: {scope} is beyond the owner's own permissions"))),
        None => Ok(()),
    }
}

/// A key as its owner sees it.
pub(crate) fn shown(key: &ApiKey) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "hint": key.hint,
        "scopes": key.scopes,
        "created_at": key.created.as_secs(),
        "expires_at": key.expires.as_secs(),
        "last_used_at": key.last_used.map(UnixMillis::as_secs),
        "revoked_at": key.revoked.map(UnixMillis::as_secs),
    })
}

#[utoipa::path(
    get,
    path = "/auth/api-keys",
    tag = "API keys",
    summary = "List one's API keys",
    security(("bearer" = [])),
    responses((status = 200, description = "Without the keys themselves", body = shapes::people::ApiKeys))
)]
pub(super) async fn list(person: Person) -> Result<Json<Value>, Failed> {
    let Person { call, user, .. } = person;
    let keys = call.store().api_keys(&call.policy.name, Some(&user.id), None, MAX_KEYS).await?;
    Ok(Json(json!({"api_keys": keys.iter().map(shown).collect::<Vec<_>>()})))
}

#[utoipa::path(
    delete,
    path = "/auth/api-keys/{id}",
    tag = "API keys",
    summary = "Revoke one of one's API keys",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
    )
)]
pub(super) async fn revoke(person: Person, OfPath(id): OfPath<String>) -> Result<Response, Failed> {
    let Person { call, user, .. } = person;
    let appended = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&call.policy.name, &user.id).await?;
        let now = tx.database_now().await?;
        let held = tx.api_key(&call.policy.name, &id).await?.filter(|key| key.owner == user.id);
        if held.is_none() {
            return Err(Problem::not_found("there is no such API key of yours").into());
        }
        let appended = closing::revoke_api_key(tx, &call.policy, &user.id, &id, now, "revoked by its owner").await?;
        if appended.is_some() {
            let event = call.event(EventKind::ApiKeyRevoked).subject(&user.id).detail("id", id.as_str());
            event.write(tx, now).await?;
        }
        Ok(appended)
    })?;
    let count = usize::from(appended.is_some());
    ended(&call, appended, count).await
}
