//! `POST revocations`, `GET revocations`.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use countersign_core::{revocation::Kind, time::UnixMillis};
use countersign_store::{HistoryFilter, Recorded, StoreError};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{Content, OfPolicy, OfQuery, administered::Acting, body_of};
use crate::{
    InvalidRevocation, RevocationRequest, RevokeError, Revoker,
    openapi::shapes,
    problem::{Failed, Problem},
    serving::Issuer,
};

/// How many rows a page has unless asked otherwise, and at most.
const PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;
/// The longest wait for verifiers.
pub(super) const MAX_WAIT: Duration = Duration::from_mins(10);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Wait {
    wait_ms: Option<u64>,
}

#[utoipa::path(
    post,
    path = "/revocations",
    tag = "tokens",
    summary = "Revoke",
    description = "By kind and id, or by the credential itself. 200 once it is in the feed; with `wait_ms`, once every \
        verifier enforces it or that long has passed.",
    params(Wait),
    request_body = RevocationRequest,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "It is in the feed", body = shapes::administration::Revoked),
        (status = 202, description = "It is kept, and published once the feed is back", body = shapes::administration::Revoked),
    )
)]
pub(super) async fn revoke(
    Acting(call): Acting,
    OfQuery(wait): OfQuery<Wait>,
    Content(bytes): Content,
) -> Result<Response, Problem> {
    let request: RevocationRequest = body_of(&bytes)?;
    let (parts, policy) = (&call.issuer.parts, &call.policy);
    if request.id.as_ref().is_some_and(|id| Revoker::is_opaque_key_of_another(&parts.policies, &policy.name, id)) {
        return Err(problem(&InvalidRevocation::CredentialAsId.into()));
    }
    let wait = Duration::from_millis(wait.wait_ms.unwrap_or(0)).min(MAX_WAIT);
    let revoked = parts.revoker.revoke(&call, &request, "admin", wait).await;
    let revoked = revoked.map_err(|error| problem(&error))?;
    let mut body = json!({
        "policy": policy.name,
        "kind": revoked.kind,
        "id": revoked.id,
        "position": revoked.position,
        "verifiers": revoked.verifiers,
    });
    if revoked.position.is_some() {
        return Ok(Json(body).into_response());
    }
    body["pending"] = json!(true);
    body["verifiers"] = Value::Null;
    Ok((StatusCode::ACCEPTED, Json(body)).into_response())
}

fn problem(error: &RevokeError) -> Problem {
    match error {
        // What is wrong only because of the time that it is.
        RevokeError::Invalid(InvalidRevocation::BeforeInFuture) => Problem::invalid_request(error.to_string()),
        RevokeError::Invalid(InvalidRevocation::CredentialAsId) => Problem::validation(error.to_string())
            .fix("send it as `credential`, in place of kind and id; or give the id that it bears"),
        RevokeError::Invalid(_) => Problem::validation(error.to_string()),
        RevokeError::Store(StoreError::Nul) => Problem::validation("a text holds a NUL character"),
        RevokeError::Store(error) => Problem::of_store(error),
    }
}

#[derive(Deserialize, ToSchema)]
#[schema(as = CredentialShown)]
struct Credential {
    credential: String,
}

#[utoipa::path(
    post,
    path = super::POLICY_OF,
    tag = "process",
    summary = "Which policies know a credential's issuer",
    request_body = Credential,
    security(("bearer" = [])),
    responses((status = 200, description = "Their names", body = shapes::administration::PolicyOfCredential))
)]
pub(super) async fn policy_of(State(issuer): State<Issuer>, Content(bytes): Content) -> Result<Json<Value>, Problem> {
    let body: Credential = body_of(&bytes)?;
    let policies = Revoker::policies_of(&issuer.parts.policies, &body.credential);
    match policies.first() {
        Some(policy) => Ok(Json(json!({"policy": policy, "policies": policies}))),
        None => {
            Err(Problem::not_found("no policy knows the issuer of this credential").fix("name the policy with --policy"))
        }
    }
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    #[param(inline, value_type = Option<shapes::administration::Kind>)]
    kind: Option<Kind>,
    subject: Option<String>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    cursor: Option<i64>,
}

#[utoipa::path(
    get,
    path = "/revocations",
    tag = "tokens",
    summary = "List what was revoked",
    description = "Newest first.",
    params(Asked),
    security(("bearer" = [])),
    responses((status = 200, description = "A page", body = shapes::administration::Revocations))
)]
pub(super) async fn history(
    State(issuer): State<Issuer>,
    policy: OfPolicy,
    OfQuery(asked): OfQuery<Asked>,
) -> Result<Json<Value>, Problem> {
    let limit = asked.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::validation(format!("limit is 1 to {MAX_PAGE}")));
    }
    let filter = HistoryFilter { subject: asked.subject, kind: asked.kind, before: asked.cursor, limit: Some(limit) };
    let rows =
        issuer.parts.store.history(&policy.0.name, &filter).await.map_err(|error| Problem::from(Failed::from(error)))?;
    let full = rows.len() >= limit as usize;
    let next = rows.last().filter(|_| full).map(|row| row.id);
    let rows: Vec<Value> = rows.iter().map(shown).collect();
    Ok(Json(json!({"revocations": rows, "next_cursor": next})))
}

fn shown(row: &Recorded) -> Value {
    let finite = |at: UnixMillis| (at != UnixMillis::FOREVER).then(|| at.as_secs());
    let entry = &row.entry;
    json!({
        "kind": entry.kind,
        "id": entry.id,
        "issuer": entry.issuer,
        "subject": row.subject,
        "at": row.created.as_secs(),
        "before": finite(entry.cutoff),
        "expires_at": finite(entry.expires),
        "reason": entry.reason,
        "source": entry.source,
        "position": row.position,
    })
}
