//! `sessions` and `api-keys`: what accounts hold.

use axum::{
    Json,
    extract::Path,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use countersign_store::transact;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{Content, OfQuery, administered::Administered, body_of, users::found};
use crate::{
    audit::EventKind,
    closing,
    openapi::shapes,
    problem::{Failed, Problem},
    public,
};

/// The most of anything that is listed.
pub(super) const MAX_LISTED: u32 = 1000;

#[derive(Deserialize)]
pub(super) struct OfId {
    id: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct OfSubject {
    /// The account's id, name or e-mail address.
    subject: Option<String>,
    /// What the page before gave as `next_cursor`.
    cursor: Option<String>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
}

impl OfSubject {
    fn subject(&self) -> Result<&str, Problem> {
        self.subject.as_deref().ok_or_else(|| Problem::validation("the query lacks subject (id, name or e-mail address)"))
    }

    fn limit(&self) -> Result<u32, Problem> {
        let limit = self.limit.unwrap_or(MAX_LISTED);
        let fits = (1..=MAX_LISTED).contains(&limit);
        fits.then_some(limit).ok_or_else(|| Problem::validation(format!("limit is 1 to {MAX_LISTED}")))
    }
}

#[utoipa::path(
    get,
    path = "/sessions",
    tag = "administration",
    summary = "List an account's sessions",
    params(OfSubject),
    security(("bearer" = [])),
    responses((status = 200, description = "A page of those that live", body = shapes::administration::SessionsOf))
)]
pub(super) async fn sessions(asking: Administered, OfQuery(of): OfQuery<OfSubject>) -> Result<Json<Value>, Failed> {
    let call = &asking.0;
    let subject = found(call, of.subject()?).await?.id;
    let now = call.now().await?;
    let (store, policy, limit) = (call.store(), &call.policy.name, of.limit()?);
    let after = match &of.cursor {
        Some(id) => {
            let held = store.session(policy, id).await?.filter(|session| session.subject == subject);
            Some(held.ok_or_else(|| Problem::validation("cursor is none that a page of this account's sessions gave"))?)
        }
        None => None,
    };
    let sessions = store.sessions(policy, &subject, after.as_ref(), limit, now).await?;
    let next = sessions.last().filter(|_| sessions.len() >= limit as usize).map(|session| session.id.clone());
    let shown: Vec<Value> = sessions
        .iter()
        .map(|session| {
            let mut shown = public::session_shown(session, None);
            shown["subject"] = json!(session.subject);
            shown
        })
        .collect();
    Ok(Json(json!({"sessions": shown, "next_cursor": next})))
}

#[utoipa::path(
    delete,
    path = "/sessions",
    tag = "administration",
    summary = "End an account's sessions",
    params(OfSubject),
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
    )
)]
pub(super) async fn end_sessions(asking: Administered, OfQuery(of): OfQuery<OfSubject>) -> Result<Response, Failed> {
    let call = &asking.0;
    let subject = found(call, of.subject()?).await?.id;
    let policy = &call.policy;
    let over = transact!(call.store(), |tx| {
        tx.lock_subject(&policy.name, &subject).await?;
        let now = tx.database_now().await?;
        let over = tx.end_sessions(&policy.name, &subject, None, &policy.ending(now, "ended by an administrator")).await?;
        call.tell_ended(tx, &subject, &over, Some(("by", "administrator")), now).await?;
        Ok(over)
    })?;
    let count = over.sessions.len();
    public::ended(call, Some(over.revocations), count).await
}

#[utoipa::path(
    delete,
    path = "/sessions/{id}",
    tag = "administration",
    summary = "End a session",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
    )
)]
pub(super) async fn end_session(asking: Administered, Path(of): Path<OfId>) -> Result<Response, Failed> {
    let call = &asking.0;
    let policy = &call.policy;
    let held = call.store().session(&policy.name, &of.id).await?;
    let session = held.ok_or_else(|| Problem::not_found("there is no such session"))?;
    let over = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&policy.name, &session.subject).await?;
        let now = tx.database_now().await?;
        let over = tx.end_session(&policy.name, &of.id, &policy.ending(now, "ended by an administrator")).await?;
        if let Some(over) = &over {
            call.tell_ended(tx, &session.subject, over, Some(("by", "administrator")), now).await?;
        }
        Ok(over)
    })?;
    let count = over.as_ref().map_or(0, |over| over.sessions.len());
    public::ended(call, over.map(|over| over.revocations), count).await
}

#[utoipa::path(
    get,
    path = "/api-keys",
    tag = "administration",
    summary = "List API keys",
    description = "Of one account, or of all.",
    params(OfSubject),
    security(("bearer" = [])),
    responses((status = 200, description = "A page", body = shapes::administration::ApiKeysOf))
)]
pub(super) async fn api_keys(asking: Administered, OfQuery(of): OfQuery<OfSubject>) -> Result<Json<Value>, Failed> {
    let call = &asking.0;
    let owner = match &of.subject {
        Some(subject) => Some(found(call, subject).await?.id),
        None => None,
    };
    let limit = of.limit()?;
    let keys = call.store().api_keys(&call.policy.name, owner.as_deref(), of.cursor.as_deref(), limit).await?;
    let next = keys.last().filter(|_| keys.len() >= limit as usize).map(|key| key.id.clone());
    let shown: Vec<Value> = keys
        .iter()
        .map(|key| {
            let mut shown = public::api_key_shown(key);
            shown["owner"] = json!(key.owner);
            shown
        })
        .collect();
    Ok(Json(json!({"api_keys": shown, "next_cursor": next})))
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ApiKeyForRequest)]
struct NewKey {
    subject: String,
    name: String,
    scopes: Vec<String>,
    expires_in: Option<i64>,
}

#[utoipa::path(
    post,
    path = "/api-keys",
    tag = "administration",
    summary = "Make an API key for an account",
    request_body = NewKey,
    security(("bearer" = [])),
    responses((status = 201, description = "The key, shown this once", body = shapes::people::NewApiKey))
)]
pub(super) async fn create_api_key(asking: Administered, Content(bytes): Content) -> Result<Response, Failed> {
    let call = &asking.0;
    let body: NewKey = body_of(&bytes)?;
    let owner = found(call, &body.subject).await?;
    let made = public::make_api_key(call, &owner.id, None, body.name, body.scopes, body.expires_in).await?;
    Ok((StatusCode::CREATED, Json(made)).into_response())
}

#[utoipa::path(
    delete,
    path = "/api-keys/{id}",
    tag = "administration",
    summary = "Revoke an API key",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
    )
)]
pub(super) async fn revoke_api_key(asking: Administered, Path(of): Path<OfId>) -> Result<Response, Failed> {
    let call = &asking.0;
    let appended = transact!(call.store(), Failed, |tx| {
        let Some(key) = tx.api_key(&call.policy.name, &of.id).await? else {
            return Err(Problem::not_found("there is no such API key").into());
        };
        tx.lock_subject(&call.policy.name, &key.owner).await?;
        let now = tx.database_now().await?;
        let appended =
            closing::revoke_api_key(tx, &call.policy, &key.owner, &of.id, now, "revoked by an administrator").await?;
        if appended.is_some() {
            let event = call.event(EventKind::ApiKeyRevoked).subject(&key.owner).detail("id", of.id.as_str());
            event.detail("by", "administrator").write(tx, now).await?;
        }
        Ok(appended)
    })?;
    let count = usize::from(appended.is_some());
    public::ended(call, appended, count).await
}
