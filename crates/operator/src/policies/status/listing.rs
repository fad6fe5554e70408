//! The keys that a status lists.

use countersign_api::{
    bundle::RingName,
    policy::{KeyRingStatus, KeyStatus, RingKeyState, StatusRing},
};
use countersign_core::ring::KeyState;

use super::{Keys, MAX_KEYS, Situation, Turned, time};

const fn status_ring(ring: RingName) -> StatusRing {
    match ring {
        RingName::Access => StatusRing::Access,
        RingName::ApiKey => StatusRing::APIKey,
    }
}

pub(super) fn key_rings(situation: &Situation<'_>) -> Vec<KeyRingStatus> {
    let rings = match &situation.keys {
        Keys::Rings(rings) => rings,
        Keys::Unheard => return situation.before.key_rings.clone(),
        _ => return Vec::new(),
    };
    let ring = |(name, turned): (&RingName, &Turned)| KeyRingStatus {
        name: status_ring(*name),
        active_kid: turned.status.active_kid.clone(),
        last_rotation_time: turned.status.last_rotation.map(time),
        next_rotation_time: turned.status.next_rotation.map(time),
        handled_revision: turned.ring.handled_revision.clone(),
        handled_rotation: turned.ring.handled_rotation.clone(),
    };
    rings.iter().map(ring).collect()
}

/// The keys; of very many, the latest.
pub(super) fn keys(situation: &Situation<'_>) -> Vec<KeyStatus> {
    let rings = match &situation.keys {
        Keys::Rings(rings) => rings,
        Keys::Unheard => return situation.before.keys.clone(),
        _ => return Vec::new(),
    };
    let mut keys = Vec::new();
    for (name, turned) in rings {
        let latest = turned.ring.keys.iter().rev().take(MAX_KEYS / RingName::ALL.len());
        let listed = latest.map(|key| KeyStatus {
            kid: key.kid.clone(),
            ring: status_ring(*name),
            algorithm: key.algorithm.as_str().to_owned(),
            state: match key.state {
                KeyState::Pending => RingKeyState::Pending,
                KeyState::Active => RingKeyState::Active,
                KeyState::Retiring => RingKeyState::Retiring,
                KeyState::Revoked => RingKeyState::Revoked,
            },
            creation_time: Some(time(key.created)),
            activation_time: key.activated.map(time),
            retirement_time: key.revoked.or(key.retiring_since).map(time),
        });
        let from = keys.len();
        keys.extend(listed);
        keys[from..].reverse();
    }
    keys
}
