//! `GET` and `DELETE /auth/sessions`.

use axum::{Json, response::Response};
use countersign_store::{Session, transact};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::ended;
use crate::{
    bearer::Person,
    body::{Content, OfPath, body_of},
    openapi::shapes,
    problem::{Failed, Problem},
};

/// The most sessions that are listed.
const MAX_LISTED: u32 = 1000;

#[utoipa::path(
    get,
    path = "/auth/sessions",
    tag = "sessions",
    summary = "List one's sessions",
    security(("bearer" = [])),
    responses((status = 200, description = "Those that live", body = shapes::people::Sessions))
)]
pub(super) async fn list(person: Person) -> Result<Json<Value>, Failed> {
    let Person { call, user, session } = person;
    let now = call.now().await?;
    let sessions = call.store().sessions(&call.policy.name, &user.id, None, MAX_LISTED, now).await?;
    let shown: Vec<Value> = sessions.iter().map(|one| shown(one, Some(&session.id))).collect();
    Ok(Json(json!({"sessions": shown})))
}

/// A session as its owner sees it.
pub(crate) fn shown(session: &Session, current: Option<&str>) -> Value {
    json!({
        "session_id": session.id,
        "created_at": session.created.as_secs(),
        "last_seen_at": session.last_seen.as_secs(),
        "expires_at": session.ends().as_secs(),
        "ip": session.ip,
        "user_agent": session.user_agent,
        "device": session.device,
        "device_id": session.device_id,
        "current": current == Some(session.id.as_str()),
    })
}

#[utoipa::path(
    delete,
    path = "/auth/sessions/{id}",
    tag = "sessions",
    summary = "End one of one's sessions",
    description = "Another's is 404.",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
    )
)]
pub(super) async fn end_one(person: Person, OfPath(id): OfPath<String>) -> Result<Response, Failed> {
    let Person { call, user, .. } = person;
    let policy = &call.policy;
    let appended = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&policy.name, &user.id).await?;
        let now = tx.database_now().await?;
        let held = tx.session(&policy.name, &id).await?;
        if held.is_none_or(|held| held.subject != user.id) {
            return Err(Problem::not_found("there is no such session of yours").into());
        }
        let over = tx.end_session(&policy.name, &id, &policy.ending(now, "ended by its owner")).await?;
        if let Some(over) = &over {
            call.tell_ended(tx, &user.id, over, None, now).await?;
        }
        Ok(over)
    })?;
    let count = appended.as_ref().map_or(0, |over| over.sessions.len());
    ended(&call, appended.map(|over| over.revocations), count).await
}

#[derive(Default, Deserialize, ToSchema)]
#[schema(as = EndSessionsRequest)]
struct Body {
    keep_current: Option<bool>,
}

#[utoipa::path(
    delete,
    path = "/auth/sessions",
    tag = "sessions",
    summary = "End one's sessions",
    description = "All of them, or all but the caller's own.",
    request_body = Option<Body>,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
    )
)]
pub(super) async fn end_all(person: Person, Content(bytes): Content) -> Result<Response, Failed> {
    let Person { call, user, session } = person;
    let body: Body = if bytes.is_empty() { Body::default() } else { body_of(&bytes)? };
    let policy = &call.policy;
    let except = body.keep_current.unwrap_or(false).then_some(session.id.as_str());
    let over = transact!(call.store(), |tx| {
        tx.lock_subject(&policy.name, &user.id).await?;
        let now = tx.database_now().await?;
        let over = tx.end_sessions(&policy.name, &user.id, except, &policy.ending(now, "ended by its owner")).await?;
        call.tell_ended(tx, &user.id, &over, None, now).await?;
        Ok(over)
    })?;
    let count = over.sessions.len();
    ended(&call, Some(over.revocations), count).await
}
