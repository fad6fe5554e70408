//! `POST tokens`.

use axum::Json;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Content, administered::Acting, body_of};
use crate::{MintRequest, openapi::shapes, problem::Problem};

#[derive(Deserialize, ToSchema)]
#[schema(as = MintRequest)]
struct Body {
    subject: String,
    roles: Option<Vec<String>>,
    scopes: Option<Vec<String>>,
    audiences: Option<Vec<String>>,
    ttl_s: Option<i64>,
    session_id: Option<String>,
    emergency: Option<bool>,
    reason: Option<String>,
}

#[utoipa::path(
    post,
    path = "/tokens",
    tag = "tokens",
    summary = "Mint a token for a subject",
    description = "With `emergency`, one that verifiers take while nothing else works; it needs a `reason`, which is \
        audited.",
    request_body = Body,
    security(("bearer" = [])),
    responses((status = 200, description = "The token", body = shapes::administration::Minted))
)]
pub(super) async fn mint(Acting(call): Acting, Content(bytes): Content) -> Result<Json<Value>, Problem> {
    let body: Body = body_of(&bytes)?;
    let emergency = match (body.emergency, body.reason) {
        (Some(true), Some(reason)) => Some(reason),
        (Some(true), None) => {
            return Err(Problem::validation("reason: an emergency token needs one; it is audited, and no secret"));
        }
        (Some(false) | None, _) => None,
    };
    let request = MintRequest {
        subject: body.subject,
        roles: body.roles.unwrap_or_default(),
        scopes: body.scopes.unwrap_or_default(),
        audiences: body.audiences.unwrap_or_default(),
        ttl_s: body.ttl_s,
        session_id: body.session_id,
        emergency,
        ..MintRequest::default()
    };
    let minted = call.issuer.parts.minter.mint(&call, &request).await.map_err(|error| Problem::from(&error))?;
    Ok(Json(json!({
        "token": minted.token,
        "token_id": minted.token_id,
        "session_id": minted.session_id,
        "expires_at": minted.expires_at.as_secs(),
        "warnings": minted.warnings,
    })))
}
