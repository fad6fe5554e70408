//! `GET keys`, `POST keys/rotate`.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use countersign_core::{
    ring::{KeyState, Phase, RingKey, Waiting},
    time::UnixMillis,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Content, OfPolicy, body_of};
use crate::{
    RingView,
    problem::Problem,
    serving::{Issuer, RingChoice, RotateError},
};

pub(super) async fn list(policy: OfPolicy) -> Json<Value> {
    let (mut rings, mut status) = (json!({"access": [], "api_key": []}), json!({}));
    if let Some(own) = &policy.0.own {
        for (name, view) in [("access", &own.access), ("api_key", &own.api_key)] {
            rings[name] = view.ring.keys.iter().map(|key| shown(key, view)).collect();
            status[name] = ring_status(view);
        }
    }
    Json(json!({"policy": policy.0.name, "rings": rings, "status": status}))
}

fn shown(key: &RingKey, view: &RingView) -> Value {
    let secs = |at: Option<UnixMillis>| at.map(UnixMillis::as_secs);
    let waiting = view.status.waiting.as_ref().filter(|w| w.kid == key.kid);
    json!({
        "kid": key.kid,
        "alg": key.algorithm,
        "state": key.state.as_str(),
        "created_at": key.created.as_secs(),
        "activated_at": secs(key.activated),
        "retiring_at": secs(key.retiring_since),
        "removed_at": secs(key.remove_after),
        "revoked_at": secs(key.revoked),
        "signs_at": secs(waiting.map(|w| w.not_before)),
        "verifiers": if key.state == KeyState::Revoked { None } else { view.held.get(&key.kid) },
    })
}

pub(super) fn ring_status(view: &RingView) -> Value {
    let status = &view.status;
    json!({
        "phase": phase(status.phase),
        "active_kid": status.active_kid,
        "last_rotation_at": status.last_rotation.map(UnixMillis::as_secs),
        "next_rotation_at": status.next_rotation.map(UnixMillis::as_secs),
        "waiting": status.waiting.as_ref().map(|waiting| waits(waiting, view)),
    })
}

fn waits(waiting: &Waiting, view: &RingView) -> Value {
    let held = view.held.get(&waiting.kid);
    let lagging = held.map(|h| h.lagging.clone()).unwrap_or_default();
    let detail = if waiting.for_verifiers && lagging.is_empty() {
        format!("{} waits for a verifier to acknowledge it", waiting.kid)
    } else if waiting.for_verifiers {
        format!("{} waits for {}", waiting.kid, lagging.join(", "))
    } else {
        format!("{} is acknowledged and signs from {}", waiting.kid, waiting.not_before)
    };
    json!({"kid": waiting.kid, "since": waiting.since.as_secs(), "lagging": lagging, "detail": detail})
}

/// The reasons of the condition `KeysReady`.
pub(super) fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Ready => "Ready",
        Phase::Generating => "Generating",
        Phase::RotationWaiting => "RotationWaiting",
        Phase::NoSigningKey => "NoSigningKey",
        Phase::EmergencyUnacknowledged => "EmergencyUnacknowledged",
    }
}

#[derive(Deserialize)]
struct Body {
    ring: Option<String>,
}

pub(super) async fn rotate(
    State(issuer): State<Issuer>,
    policy: OfPolicy,
    Content(bytes): Content,
) -> Result<Response, Problem> {
    let body: Body = if bytes.is_empty() { Body { ring: None } } else { body_of(&bytes)? };
    let ring = match body.ring.as_deref() {
        None | Some("access") => RingChoice::Access,
        Some("api-key" | "api_key") => RingChoice::ApiKey,
        Some("all") => RingChoice::All,
        Some(_) => return Err(Problem::validation("ring is one of access, api-key, all")),
    };
    match issuer.parts.keys.rotate(&policy.0.name, ring).await {
        Ok(()) => Ok((StatusCode::ACCEPTED, Json(json!({"requested": true}))).into_response()),
        Err(RotateError::Elsewhere { command }) => {
            let detail = RotateError::Elsewhere { command: String::new() }.to_string();
            Err(Problem::new(StatusCode::CONFLICT, "elsewhere", detail).fix(command))
        }
        Err(error @ RotateError::NoRings) => Err(Problem::validation(error.to_string())),
        Err(error @ RotateError::Store(_)) => Err(Problem::internal(&error)),
    }
}
