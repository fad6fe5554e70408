//! What there is to say about a ring.

use super::{
    Acks, KeyState, Ring, RotationSpec, plan,
    plan::{due, signs_anyway_from, signs_from, wanted},
};
use crate::time::UnixMillis;

/// Where a ring stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingStatus {
    /// The condition `KeysReady`.
    pub phase: Phase,
    /// The key that signs.
    pub active_kid: Option<String>,
    /// When it began to.
    pub last_rotation: Option<UnixMillis>,
    /// When the schedule wants its successor to.
    pub next_rotation: Option<UnixMillis>,
    /// The key that is about to sign, and what it waits for.
    pub waiting: Option<Waiting>,
}

/// The state of a ring in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A key signs, and every required verifier has it.
    Ready,
    /// The first key is on its way.
    Generating,
    /// A rotation waits for verifiers; the old key goes on signing.
    RotationWaiting,
    /// The key that signed was revoked and none signs in its place yet.
    NoSigningKey,
    /// A key signs that not every required verifier has.
    EmergencyUnacknowledged,
}

/// What a published key waits for before it signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The key.
    pub kid: String,
    /// When it was published.
    pub since: UnixMillis,
    /// Whether required verifiers have not acknowledged it.
    pub for_verifiers: bool,
    /// The earliest instant at which it may sign.
    pub not_before: UnixMillis,
    /// When it signs although not acknowledged; `None`: never.
    pub anyway_from: Option<UnixMillis>,
}

/// Where `ring` stands.
pub fn status(ring: &Ring, spec: &RotationSpec, acks: &Acks, now: UnixMillis) -> RingStatus {
    let active = ring.active();
    let cause = wanted(ring, spec, now);
    let waiting = ring.in_state(KeyState::Pending).find(|key| key.algorithm == spec.algorithm).map(|key| Waiting {
        kid: key.kid.clone(),
        since: key.created,
        for_verifiers: acks.required == 0 || !acks.held_by_all.contains(&key.kid),
        not_before: signs_from(ring, key, cause, spec),
        anyway_from: signs_anyway_from(key, cause, spec, acks),
    });
    let overdue = waiting.as_ref().is_some_and(|w| w.for_verifiers && now >= w.not_before);
    let phase = match active {
        None if ring.has_signed() => Phase::NoSigningKey,
        None => Phase::Generating,
        Some(_) if overdue => Phase::RotationWaiting,
        Some(key) if key.unacknowledged => Phase::EmergencyUnacknowledged,
        Some(_) => Phase::Ready,
    };
    RingStatus {
        phase,
        active_kid: active.map(|key| key.kid.clone()),
        last_rotation: active.and_then(|key| key.activated),
        next_rotation: active.map(|key| due(key, spec)),
        waiting,
    }
}

/// The next instant at which time alone may give [`plan()`] something to do, were nothing else to change. Now, if it has
/// something to do already.
pub fn next_change(ring: &Ring, spec: &RotationSpec, acks: &Acks, now: UnixMillis) -> Option<UnixMillis> {
    if !plan(ring, spec, acks, now).is_empty() {
        return Some(now);
    }
    let cause = wanted(ring, spec, now);
    let mut instants = Vec::new();
    if let Some(active) = ring.active() {
        instants.extend([due(active, spec).minus(spec.prepublish_ms), due(active, spec)]);
    }
    for key in &ring.keys {
        match key.state {
            KeyState::Pending => {
                instants.push(signs_from(ring, key, cause, spec));
                instants.extend(signs_anyway_from(key, cause, spec, acks));
            }
            KeyState::Retiring => instants.extend(key.remove_after),
            KeyState::Active | KeyState::Revoked => {}
        }
    }
    instants.into_iter().filter(|at| *at > now).min()
}
