//! A policy's rings as the command line shows them; the same shape as the issuer's.

use countersign_api::bundle::RingName;
use countersign_core::{
    ring::{Phase, RingKey, Waiting},
    time::UnixMillis,
};
use serde_json::{Value, json};

use crate::registry::{PolicyView, RingView};

pub(super) fn shown(view: &PolicyView) -> Value {
    let (mut rings, mut status) = (json!({"access": [], "api_key": []}), json!({}));
    for name in RingName::ALL {
        let Some(ring) = view.own.as_ref().and_then(|own| own.ring(name)) else { continue };
        rings[name.word()] = ring.ring.keys.iter().map(|key| key_shown(key, ring)).collect();
        status[name.word()] = ring_status(ring);
    }
    json!({"policy": view.name, "rings": rings, "status": status})
}

fn key_shown(key: &RingKey, view: &RingView) -> Value {
    let secs = |at: Option<UnixMillis>| at.map(UnixMillis::as_secs);
    let waiting = view.status.waiting.as_ref().filter(|waiting| waiting.kid == key.kid);
    json!({
        "kid": key.kid,
        "alg": key.algorithm,
        "state": key.state.as_str(),
        "created_at": key.created.as_secs(),
        "activated_at": secs(key.activated),
        "retiring_at": secs(key.retiring_since),
        "removed_at": secs(key.remove_after),
        "revoked_at": secs(key.revoked),
        "signs_at": secs(waiting.map(|waiting| waiting.not_before)),
    })
}

fn ring_status(view: &RingView) -> Value {
    let status = &view.status;
    json!({
        "phase": phase(status.phase),
        "active_kid": status.active_kid,
        "last_rotation_at": status.last_rotation.map(UnixMillis::as_secs),
        "next_rotation_at": status.next_rotation.map(UnixMillis::as_secs),
        "waiting": status.waiting.as_ref().map(waits),
    })
}

fn waits(waiting: &Waiting) -> Value {
    let detail = if waiting.for_verifiers {
        format!("{} waits for verifiers to acknowledge it", waiting.kid)
    } else {
        format!("{} is acknowledged and signs from {}", waiting.kid, waiting.not_before)
    };
    json!({"kid": waiting.kid, "since": waiting.since.as_secs(), "detail": detail})
}

const fn phase(phase: Phase) -> &'static str {
    match phase {
        Phase::Ready => "Ready",
        Phase::Generating => "Generating",
        Phase::RotationWaiting => "RotationWaiting",
        Phase::NoSigningKey => "NoSigningKey",
        Phase::EmergencyUnacknowledged => "EmergencyUnacknowledged",
    }
}
