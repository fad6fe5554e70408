//! A policy's rings and what bears on them: from the policy and the fleet to core's plan, and back to the next rings.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use countersign_api::{
    bundle::RingName,
    key_ring::{Kept, Rings},
    policy::{EffectivePolicy, ROTATE_ANNOTATION, ROTATE_API_KEY_ANNOTATION},
};
use countersign_core::{
    keys::SigningKey,
    names::PolicyName,
    revocation::Kind,
    ring::{self, Acks, Action, ApplyError, Ring, RingStatus, RotationSpec, next_change, plan},
    time::UnixMillis,
};

use super::{Reconciler, caches::Declared, memory::Managed};
use crate::fleet::{Fleet, Since};

/// What bears on a policy's rings at one moment.
#[derive(Debug)]
pub(crate) struct Situation<'a> {
    pub(crate) name: &'a PolicyName,
    pub(crate) effective: &'a EffectivePolicy,
    /// The rotation annotations.
    pub(crate) rotate: BTreeMap<RingName, String>,
    /// The names of keys that policy or feed call revoked.
    pub(crate) revoked: BTreeSet<String>,
    pub(crate) fleet: &'a Fleet,
    /// From which write on the bundle holds each key.
    pub(crate) since: &'a BTreeMap<String, Since>,
    /// The versions of the rings that everybody signs by: the operator itself, and every issuer.
    pub(crate) signs_by: BTreeMap<RingName, u64>,
    pub(crate) server_now: Option<UnixMillis>,
    pub(crate) now: UnixMillis,
}

impl Reconciler {
    #[expect(clippy::too_many_arguments, reason = "one moment's view of all that bears on the rings")]
    pub(super) fn situation<'a>(
        &self,
        name: &'a PolicyName,
        effective: &'a EffectivePolicy,
        declared: &Declared,
        kept: &Kept,
        feed_revoked: &BTreeSet<String>,
        fleet: &'a Fleet,
        managed: &'a Managed,
        now: UnixMillis,
    ) -> Situation<'a> {
        let own = kept.record.revoked.iter().filter(|entry| entry.kind == Kind::Key).map(|entry| entry.id.clone());
        let view = self.context.registry.policy(name);
        let rings = view.iter().flat_map(|view| &view.own).flat_map(|own| &own.rings);
        let stored = managed.stored.as_ref();
        let (hold, issuers) = fleet.issuers_at(name, managed.stored_version());
        // What issuers have applied is what is stored.
        let of_issuers = |ring: &RingName| match stored.and_then(|stored| stored.kept.rings.get(ring)) {
            _ if issuers == 0 => u64::MAX,
            Some(stored) if hold == issuers => stored.version,
            _ => 0,
        };
        Situation {
            name,
            effective,
            rotate: rotate_annotations(declared),
            revoked: own.chain(feed_revoked.iter().cloned()).collect(),
            fleet,
            since: &managed.since,
            signs_by: rings.map(|(ring, view)| (*ring, view.ring.version.min(of_issuers(ring)))).collect(),
            server_now: self.server_now(),
            now,
        }
    }
}

/// The rotation annotations of a policy.
pub(crate) fn rotate_annotations(declared: &Declared) -> BTreeMap<RingName, String> {
    let names = [(RingName::Access, ROTATE_ANNOTATION), (RingName::ApiKey, ROTATE_API_KEY_ANNOTATION)];
    let given = names.into_iter().filter_map(|(ring, name)| Some((ring, declared.annotation(name)?.to_owned())));
    given.filter(|(_, value)| !value.is_empty()).collect()
}

impl Situation<'_> {
    /// What the policy says about a ring.
    pub(crate) fn spec(&self, ring: RingName) -> RotationSpec {
        self.effective.rotation_spec(ring, self.rotate.get(&ring).cloned(), self.revoked.clone())
    }

    /// What the fleet holds of a ring.
    pub(crate) fn acks(&self, name: RingName, ring: &Ring) -> Acks {
        let absent_after = self.absent_after_ms();
        let held = |kid: &&String| {
            let since = self.since.get(*kid).copied().unwrap_or_default();
            self.fleet.all_hold(self.name, since, absent_after)
        };
        Acks {
            known: self.fleet.known(),
            required: self.fleet.quorum(absent_after).required.len(),
            held_by_all: ring.keys.iter().map(|key| &key.kid).filter(held).cloned().collect(),
            published: ring.keys.iter().filter_map(|key| Some((key.kid.clone(), self.published(&key.kid)?))).collect(),
            issuers_hold: self.signs_by.get(&name).copied().unwrap_or(0),
            server_now: self.server_now,
        }
    }

    /// Since when the bundle has held a key. A bundle's generation is the time of its write, unless that ran ahead of the
    /// clock: then the wait is counted from when the key was made.
    fn published(&self, kid: &str) -> Option<UnixMillis> {
        let since = self.since.get(kid).filter(|since| since.version > 0)?;
        let written = i64::try_from(since.generation).map_or(UnixMillis::FOREVER, UnixMillis);
        Some(if written > self.now { UnixMillis(0) } else { written })
    }

    pub(crate) fn absent_after_ms(&self) -> i64 {
        self.effective.keys.absent_after.as_millis()
    }

    /// What to do about each ring now. Rings that need nothing are left out.
    pub(crate) fn plan(&self, rings: &Rings) -> BTreeMap<RingName, Vec<Action>> {
        let planned =
            rings.iter().map(|(name, ring)| (*name, plan(ring, &self.spec(*name), &self.acks(*name, ring), self.now)));
        planned.filter(|(_, actions)| !actions.is_empty()).collect()
    }

    /// Where a ring stands.
    pub(crate) fn status(&self, name: RingName, ring: &Ring) -> RingStatus {
        ring::status(ring, &self.spec(name), &self.acks(name, ring), self.now)
    }

    /// The next instant at which time alone may give something to do.
    pub(crate) fn next_change(&self, rings: &Rings) -> Option<UnixMillis> {
        let next =
            rings.iter().filter_map(|(name, ring)| next_change(ring, &self.spec(*name), &self.acks(*name, ring), self.now));
        next.min()
    }
}

/// What rings are worth that came back from a backup, with nobody who remembers what became of them since. `above`: the highest
/// generation of any bundle that any verifier holds; rings and bundles count in the same milliseconds.
pub(crate) fn restored(rings: &Rings, effective: Option<&EffectivePolicy>, above: u64, now: UnixMillis) -> Rings {
    let life = |ring: &RingName| match (ring, effective) {
        (RingName::Access, Some(effective)) => effective.longest_access_life_ms(),
        (RingName::ApiKey, Some(effective)) => effective.tokens.api_key_max_ttl.as_millis(),
        // What is noted of each key has to do.
        (_, None) => 0,
    };
    rings.iter().map(|(name, ring)| (*name, Arc::new(ring.restored(life(name), above, now)))).collect()
}

/// The rings that planned actions make. Blocks while keys are made.
pub(crate) fn apply(
    rings: &Rings,
    planned: &BTreeMap<RingName, Vec<Action>>,
    now: UnixMillis,
) -> Result<Rings, ApplyError> {
    let mut next = rings.clone();
    for (name, actions) in planned {
        if let Some(ring) = next.get_mut(name) {
            *ring = Arc::new(ring.apply(actions, now, SigningKey::generate)?);
        }
    }
    Ok(next)
}
