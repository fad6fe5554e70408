//! What to do about a ring now.

use std::collections::{BTreeMap, BTreeSet};

use super::{KeyState, Ring, RingKey};
use crate::{jose::Algorithm, time::UnixMillis};

/// How long a fresh key waits for acknowledgements when there is no other key to sign with.
pub const EMERGENCY_WAIT_MS: i64 = 2_000;

/// What the policy says about a ring.
#[derive(Clone, Debug)]
pub struct RotationSpec {
    /// What new keys sign with. A change starts a rotation.
    pub algorithm: Algorithm,
    /// How long a key signs before its successor does, milliseconds.
    pub interval_ms: i64,
    /// How long a key is published before a scheduled rotation makes it sign, milliseconds.
    pub prepublish_ms: i64,
    /// `spec.keys.rotation.revision`: another value rotates once, as soon as the fleet allows.
    pub revision: Option<String>,
    /// The rotation annotation: any new value rotates once, as soon as the fleet allows.
    pub rotation: Option<String>,
    /// The names of revoked keys, from the policy and the feed together.
    pub revoked: BTreeSet<String>,
    /// What to do when verifiers don't acknowledge.
    pub on_unacknowledged: OnUnacknowledged,
    /// After how long they count as not acknowledging, milliseconds since the key was in the bundle.
    pub ack_timeout_ms: i64,
    /// The longest life of a token that the ring's keys sign from now on, milliseconds.
    pub max_ttl_ms: i64,
    /// Tolerance between clocks, milliseconds.
    pub clock_skew_ms: i64,
}

/// What to do when a required verifier doesn't acknowledge a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnacknowledged {
    /// Go on signing with the old key.
    #[default]
    Wait,
    /// Sign with the new key once `ack_timeout_ms` are over.
    Proceed,
}

/// What is known of the fleet at the moment of planning.
#[derive(Clone, Debug, Default)]
pub struct Acks {
    /// How many verifiers exist, required or not.
    pub known: usize,
    /// How many of them must acknowledge a key before it signs.
    pub required: usize,
    /// The keys that every required verifier holds. Not consulted while `required` is 0: an empty set is never "all".
    pub held_by_all: BTreeSet<String>,
    /// The keys that are in the bundle, as it is written now, each with the instant since when; one that is earlier than the
    /// key was made counts as that. A key that was never published signs only where nobody verifies.
    pub published: BTreeMap<String, UnixMillis>,
    /// The newest version of the ring up to which every issuer that may still sign has acknowledged it.
    pub issuers_hold: u64,
    /// The feed server's clock; `None` while it is out of reach, and then no key is removed. When a key's last token dies is
    /// reckoned from the later of it and the planner's own, and has passed only when both say so: no step of one clock takes
    /// a key away from living tokens.
    pub server_now: Option<UnixMillis>,
}

impl Acks {
    fn all_hold(&self, kid: &str) -> bool {
        self.required > 0 && self.held_by_all.contains(kid)
    }
}

/// One change of a ring. [`Ring::apply`] takes them in the order in which [`plan()`] gave them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Revoke a key for good, and erase its private half. Pending keys go with the Active one: whoever took the one from
    /// where they lie together took the others too.
    Revoke {
        /// Which.
        kid: String,
    },
    /// Make a key and publish it.
    Create {
        /// Of what kind.
        algorithm: Algorithm,
        /// What it is for.
        cause: Cause,
    },
    /// Sign with this key from now on; the one that signed so far retires.
    Activate {
        /// Which.
        kid: String,
        /// Whether not every required verifier has it yet.
        unacknowledged: bool,
        /// The longest life of a token that it will sign, milliseconds.
        ttl_ms: i64,
        /// The revision that is handled by this.
        revision: Option<String>,
        /// The annotation that is handled by this.
        rotation: Option<String>,
    },
    /// Every required verifier has the key now.
    Acknowledged {
        /// Which.
        kid: String,
    },
    /// The key may sign tokens that live this long.
    NoteLifetime {
        /// Which.
        kid: String,
        /// Milliseconds.
        ttl_ms: i64,
    },
    /// No issuer signs with the key any more: from `at` on nothing that it signed lives.
    ScheduleRemoval {
        /// Which.
        kid: String,
        /// When.
        at: UnixMillis,
    },
    /// Forget a key: nothing that it signed lives, or it never signed.
    Remove {
        /// Which.
        kid: String,
    },
    /// The clock went back behind what is noted of the key: count its waits from now.
    Restamp {
        /// Which.
        kid: String,
        /// No removal later than this.
        remove_by: Option<UnixMillis>,
    },
}

/// Why a key is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The ring never had one that signed.
    First,
    /// The interval is nearly over.
    Scheduled,
    /// The revision or the annotation changed.
    Requested,
    /// The policy's algorithm changed.
    Algorithm,
    /// The key that signed was revoked.
    Emergency,
}

/// What to do about `ring` now: nothing, or changes that belong together in one write. After a write there may be more to
/// do at once: plan again until there is nothing.
///
/// A policy that lengthens its tokens' lives must not reach an issuer before the plan that notes the new length is written.
pub fn plan(ring: &Ring, spec: &RotationSpec, acks: &Acks, now: UnixMillis) -> Vec<Action> {
    let revocations = revocations(ring, spec);
    if !revocations.is_empty() {
        return revocations;
    }
    let mut actions = Vec::new();
    for key in &ring.keys {
        actions.extend(restamp(key, spec, acks, now));
        actions.extend(note_lifetime(key, spec));
        actions.extend(retire(key, spec, acks, now));
        if key.unacknowledged && key.state == KeyState::Active && acks.all_hold(&key.kid) {
            actions.push(Action::Acknowledged { kid: key.kid.clone() });
        }
    }
    actions.extend(rotate(ring, spec, acks, now));
    actions
}

/// Revocations, and the key that takes the place of what they take: made in the same write, so that no moment passes in
/// which the ring only knows what it lost.
fn revocations(ring: &Ring, spec: &RotationSpec) -> Vec<Action> {
    let mut falls: Vec<&RingKey> =
        ring.keys.iter().filter(|key| key.state != KeyState::Revoked && spec.revoked.contains(&key.kid)).collect();
    // The Active key last: Pending ones that are revoked by name leave their names behind, those that it drags along don't.
    falls.sort_by_key(|key| key.state == KeyState::Active);
    let mut actions: Vec<Action> = falls.iter().map(|key| Action::Revoke { kid: key.kid.clone() }).collect();

    let active_falls = falls.iter().any(|key| key.state == KeyState::Active);
    let pending_stays = ring.in_state(KeyState::Pending).any(|key| !spec.revoked.contains(&key.kid));
    if active_falls {
        actions.push(Action::Create { algorithm: spec.algorithm, cause: Cause::Emergency });
    } else if !actions.is_empty() && ring.active().is_none() && !pending_stays {
        let cause = if ring.has_signed() { Cause::Emergency } else { Cause::First };
        actions.push(Action::Create { algorithm: spec.algorithm, cause });
    }
    actions
}

/// The step towards the next key that signs.
fn rotate(ring: &Ring, spec: &RotationSpec, acks: &Acks, now: UnixMillis) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut pending = None;
    for key in ring.in_state(KeyState::Pending) {
        // One successor is enough, and none of another kind than the policy now asks for. It never signed.
        if pending.is_none() && key.algorithm == spec.algorithm {
            pending = Some(key);
        } else {
            actions.push(Action::Remove { kid: key.kid.clone() });
        }
    }
    let cause = wanted(ring, spec, now);
    match (pending, cause) {
        (None, Some(cause)) => actions.push(Action::Create { algorithm: spec.algorithm, cause }),
        (Some(key), cause) => actions.extend(activate(ring, key, cause, spec, acks, now)),
        (None, None) => {}
    }
    actions
}

/// Why a successor should be published now, if it should.
pub(super) fn wanted(ring: &Ring, spec: &RotationSpec, now: UnixMillis) -> Option<Cause> {
    let Some(active) = ring.active() else {
        return Some(if ring.has_signed() { Cause::Emergency } else { Cause::First });
    };
    let is_new = |asked: &Option<String>, handled: &Option<String>| asked.is_some() && asked != handled;
    if is_new(&spec.revision, &ring.handled_revision) || is_new(&spec.rotation, &ring.handled_rotation) {
        Some(Cause::Requested)
    } else if active.algorithm != spec.algorithm {
        Some(Cause::Algorithm)
    } else if now >= due(active, spec).minus(spec.prepublish_ms) {
        Some(Cause::Scheduled)
    } else {
        None
    }
}

/// When the Active key's time is over.
pub(super) fn due(active: &RingKey, spec: &RotationSpec) -> UnixMillis {
    active.activated.unwrap_or(active.created).plus(spec.interval_ms)
}

/// The earliest instant at which `pending` may sign, acknowledgements aside. A key that nobody asks for any more, because the
/// request was taken back, waits for the schedule.
pub(super) fn signs_from(ring: &Ring, pending: &RingKey, cause: Option<Cause>, spec: &RotationSpec) -> UnixMillis {
    match (cause, ring.active()) {
        // Readers of the key set who keep a copy have `prepublish` to fetch a new one, even when we come late.
        (Some(Cause::Scheduled) | None, Some(active)) => due(active, spec).max(pending.created.plus(spec.prepublish_ms)),
        _ => pending.created,
    }
}

/// The instant at which `pending` signs although not acknowledged; `None`: never, or not before it is in the bundle.
pub(super) fn signs_anyway_from(
    pending: &RingKey,
    cause: Option<Cause>,
    spec: &RotationSpec,
    acks: &Acks,
) -> Option<UnixMillis> {
    let proceed = spec.on_unacknowledged == OnUnacknowledged::Proceed;
    let published = pending.created.max(*acks.published.get(&pending.kid)?);
    match cause {
        Some(Cause::Emergency) => Some(published.plus(EMERGENCY_WAIT_MS)),
        // Nobody holds a token that it could fail.
        Some(Cause::First) => Some(published.plus(spec.ack_timeout_ms)),
        _ if proceed => Some(published.plus(spec.ack_timeout_ms)),
        _ => None,
    }
}

fn activate(
    ring: &Ring,
    pending: &RingKey,
    cause: Option<Cause>,
    spec: &RotationSpec,
    acks: &Acks,
    now: UnixMillis,
) -> Option<Action> {
    let acknowledged = acks.all_hold(&pending.kid);
    let nobody_to_wait_for = cause == Some(Cause::First) && acks.known == 0;
    let anyway = || signs_anyway_from(pending, cause, spec, acks).is_some_and(|from| now >= from);
    let may = acknowledged || nobody_to_wait_for || anyway();
    (may && now >= signs_from(ring, pending, cause, spec)).then(|| Action::Activate {
        kid: pending.kid.clone(),
        unacknowledged: !acknowledged && !nobody_to_wait_for,
        ttl_ms: spec.max_ttl_ms,
        revision: spec.revision.clone(),
        rotation: spec.rotation.clone(),
    })
}

/// A policy that lengthens its tokens' lives lengthens the keys' too, before the first such token is signed.
fn note_lifetime(key: &RingKey, spec: &RotationSpec) -> Option<Action> {
    let may_sign = match key.state {
        KeyState::Active => true,
        KeyState::Retiring => key.remove_after.is_none(),
        KeyState::Pending | KeyState::Revoked => false,
    };
    (may_sign && key.longest_ttl_ms < spec.max_ttl_ms)
        .then(|| Action::NoteLifetime { kid: key.kid.clone(), ttl_ms: spec.max_ttl_ms })
}

/// The step of a Retiring key towards its end.
fn retire(key: &RingKey, spec: &RotationSpec, acks: &Acks, now: UnixMillis) -> Option<Action> {
    if key.state != KeyState::Retiring {
        return None;
    }
    let kid = key.kid.clone();
    let server_now = acks.server_now?;
    match key.remove_after {
        // Counted from now, not from when the issuers stopped: they may have signed up to this moment.
        None => (acks.issuers_hold >= key.retired_in?)
            .then(|| Action::ScheduleRemoval { kid, at: last_token_dead(key, spec, now.max(server_now)) }),
        Some(at) => (now >= at && server_now >= at).then_some(Action::Remove { kid }),
    }
}

/// When the last token of a key is dead that was signed before `now`.
fn last_token_dead(key: &RingKey, spec: &RotationSpec, now: UnixMillis) -> UnixMillis {
    now.plus(key.longest_ttl_ms.max(spec.max_ttl_ms)).plus(spec.clock_skew_ms)
}

/// What a clock that went back, or one that was ahead for a while, left in the future.
fn restamp(key: &RingKey, spec: &RotationSpec, acks: &Acks, now: UnixMillis) -> Option<Action> {
    // Clocks of two planners differ a little; that is no step.
    let latest = now.plus(spec.clock_skew_ms);
    let remove_by = acks.server_now.map(|server_now| last_token_dead(key, spec, latest.max(server_now)));
    let waits_for_the_future = match key.state {
        KeyState::Pending => key.created > latest,
        KeyState::Active => key.activated.is_some_and(|at| at > latest),
        KeyState::Retiring => key.remove_after.is_some_and(|at| remove_by.is_some_and(|by| at > by)),
        KeyState::Revoked => false,
    };
    waits_for_the_future.then(|| Action::Restamp { kid: key.kid.clone(), remove_by })
}
