//! `GET keys`, `POST keys/rotate`.

use axum::{Json, http::StatusCode};
use countersign_core::ring::{KeyState, RingKey};
use countersign_store::transact;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Content, OfPolicy, administered::Acting, body_of};
use crate::{
    IssuerPolicy, RingView,
    audit::EventKind,
    openapi::shapes,
    problem::{Failed, Problem},
    serving::{RingChoice, RotateError},
};

#[utoipa::path(
    get,
    path = "/keys",
    tag = "administration",
    summary = "Show both key rings",
    description = "Public halves alone.",
    security(("bearer" = [])),
    responses((status = 200, description = "The rings", body = shapes::administration::Keys))
)]
pub(super) async fn list(policy: OfPolicy) -> Json<Value> {
    Json(rings(&policy.0))
}

/// Both rings of a policy, public halves alone.
pub(crate) fn rings(policy: &IssuerPolicy) -> Value {
    let (mut rings, mut status) = (json!({"access": [], "api_key": []}), json!({}));
    if let Some(own) = &policy.own {
        for (name, view) in [("access", &own.access), ("api_key", &own.api_key)] {
            rings[name] = view.ring.keys.iter().map(|key| shown(key, view)).collect();
            status[name] = ring_status(view);
        }
    }
    json!({"policy": policy.name, "rings": rings, "status": status})
}

fn shown(key: &RingKey, view: &RingView) -> Value {
    let mut shown = json!(key.view(&view.status));
    shown["verifiers"] = match key.state {
        KeyState::Revoked => Value::Null,
        _ => json!(view.held.get(&key.kid)),
    };
    shown
}

pub(super) fn ring_status(view: &RingView) -> Value {
    let held = view.status.waiting.as_ref().and_then(|waiting| view.held.get(&waiting.kid));
    json!(view.status.view(Some(held.map_or(&[], |held| held.lagging.as_slice()))))
}

#[derive(Deserialize, ToSchema)]
#[schema(as = RotateRequest)]
struct Body {
    ring: Option<String>,
}

#[utoipa::path(
    post,
    path = "/keys/rotate",
    tag = "administration",
    summary = "Rotate keys now",
    description = "The new key signs once every verifier has acknowledged it.",
    request_body = Option<Body>,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "It has begun", body = shapes::administration::RotationRequested),
        (status = 409, description = "`elsewhere`: the operator rotates keys here, and `fix` is the command"),
    )
)]
pub(super) async fn rotate(Acting(call): Acting, Content(bytes): Content) -> Result<Json<Value>, Failed> {
    let body: Body = if bytes.is_empty() { Body { ring: None } } else { body_of(&bytes)? };
    let ring = match body.ring.as_deref() {
        None | Some("access") => RingChoice::Access,
        Some("api-key" | "api_key") => RingChoice::ApiKey,
        Some("all") => RingChoice::All,
        Some(_) => return Err(Problem::validation("ring is one of access, api-key, all").into()),
    };
    match call.issuer.parts.keys.rotate(&call.policy.name, ring).await {
        Ok(()) => {
            transact!(call.store(), |tx| {
                let now = tx.database_now().await?;
                // `KEY_ROTATED` tells when the new key signs.
                let event = call.event(EventKind::AdminAction).detail("action", "rotate_keys");
                event.detail("ring", ring.word()).write(tx, now).await
            })?;
            Ok(Json(json!({"requested": true})))
        }
        Err(RotateError::Elsewhere { command }) => {
            let detail = RotateError::Elsewhere { command: String::new() }.to_string();
            Err(Problem::new(StatusCode::CONFLICT, "elsewhere", detail).fix(command).into())
        }
        Err(error @ RotateError::NoRings) => Err(Problem::validation(error.to_string()).into()),
        Err(error @ RotateError::Store(_)) => Err(Problem::internal(&error).into()),
    }
}
