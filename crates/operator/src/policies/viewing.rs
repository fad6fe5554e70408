//! What the other parts see of a policy.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{bundle::RingName, key_ring::Kept, policy::EffectivePolicy};
use countersign_core::{
    names::PolicyName,
    ring::{Ring, RingStatus},
};
use countersign_feed::Clock;

use super::{
    Reconciler, caches::Declared, living::Living, memory::Managed, reconcile::ReconcileError, signing::SigningError,
    standing::Refused, status::Acceptance,
};
use crate::registry::{OwnKeys, PolicyView, RingView};

/// Whether a policy's keys sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Voice {
    /// They do.
    Signs,
    /// Not yet: who asks is answered 503.
    Silent,
}

impl Reconciler {
    /// Publishes a policy's view, with keys ready to sign.
    pub(super) fn publish(
        &self,
        living: &Living<'_>,
        kept: &Kept,
        voice: Voice,
        managed: &Managed,
    ) -> Result<(), ReconcileError> {
        let Living { name, declared, effective, .. } = *living;
        self.context.registry.turn(name).raise(kept.record.issued_until);
        let mut rings = BTreeMap::new();
        if let Some(effective) = effective {
            let mut statuses = self.ring_statuses(name, declared, effective, kept, managed);
            let shown = self.context.registry.policy(name);
            let known = |ring| shown.as_ref().and_then(|view| view.own.as_ref()?.ring(ring));
            for (ring, held) in &kept.rings {
                let Some(status) = statuses.remove(ring) else { continue };
                let known = known(*ring).filter(|view| view.ring == *held).and_then(|view| view.signer.clone());
                let signer = match (voice, known) {
                    (Voice::Silent, _) => None,
                    (Voice::Signs, Some(signer)) => Some(signer),
                    (Voice::Signs, None) => held.signing_key().map_err(SigningError::from)?.map(Arc::new),
                };
                rings.insert(*ring, Box::new(RingView { ring: held.clone(), status, signer }));
            }
        }
        let own = kept.record.issuer.clone().filter(|_| !rings.is_empty()).map(|issuer| OwnKeys { issuer, rings });
        let since = managed.written.map(|written| written.since).unwrap_or_default();
        let view = PolicyView {
            effective: effective.cloned(),
            problem: problem(living.acceptance),
            bundle_generation: since.generation,
            bundle_version: since.version,
            own,
            revoked: kept.record.revoked.clone().into(),
            ..bare(name, declared, living.namespace_uid)
        };
        self.show(view);
        Ok(())
    }

    /// Publishes a view, unless it is the one that is shown.
    fn show(&self, view: PolicyView) {
        let same = self.context.registry.policy(&view.name).is_some_and(|shown| alike(&shown, &view));
        if !same {
            self.context.registry.publish(view);
        }
    }

    fn ring_statuses(
        &self,
        name: &PolicyName,
        declared: &Declared,
        effective: &Arc<EffectivePolicy>,
        kept: &Kept,
        managed: &Managed,
    ) -> BTreeMap<RingName, RingStatus> {
        let registry = &self.context.registry;
        let (revoked, fleet) = (registry.revoked_keys(name), registry.fleet());
        let situation = self.situation(name, effective, declared, kept, &revoked, &fleet, managed, Clock::wall());
        kept.rings.iter().map(|(ring, held)| (*ring, situation.status(*ring, held))).collect()
    }

    /// A policy for which nothing was made yet: others may have to fetch what it lacks.
    pub(super) fn publish_unaccepted(&self, living: &Living<'_>) {
        self.show(PolicyView {
            effective: living.effective.cloned(),
            problem: problem(living.acceptance),
            ..bare(living.name, living.declared, living.namespace_uid)
        });
    }

    /// A policy whose kept keys may not be used.
    pub(super) fn publish_refused(
        &self,
        name: &PolicyName,
        declared: &Declared,
        namespace_uid: &str,
        why: &Refused,
        managed: &Managed,
    ) {
        let revoked = managed.stored.as_ref().map(|stored| stored.kept.record.revoked.clone()).unwrap_or_default();
        let problem = Some(why.to_string());
        self.show(PolicyView { problem, revoked: revoked.into(), ..bare(name, declared, namespace_uid) });
    }

    /// A withdrawn policy.
    pub(super) fn publish_withdrawn(&self, name: &PolicyName, managed: &Managed) {
        let Some(stored) = &managed.stored else { return };
        let record = &stored.kept.record;
        let since = managed.written.map(|written| written.since).unwrap_or_default();
        self.show(PolicyView {
            name: name.clone(),
            uid: record.uid.clone(),
            namespace_uid: record.namespace_uid.clone(),
            generation: 0,
            effective: None,
            problem: None,
            withdrawn: true,
            bundle_generation: since.generation,
            bundle_version: since.version,
            own: None,
            revoked: record.revoked.clone().into(),
        });
    }
}

fn alike(a: &PolicyView, b: &PolicyView) -> bool {
    let rings = |view: &PolicyView| -> Vec<(RingName, Arc<Ring>, RingStatus)> {
        let own = view.own.iter().flat_map(|own| &own.rings);
        own.map(|(name, ring)| (*name, ring.ring.clone(), ring.status.clone())).collect()
    };
    let effective = match (&a.effective, &b.effective) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    effective
        && (&a.uid, &a.namespace_uid, a.generation, &a.problem, a.withdrawn)
            == (&b.uid, &b.namespace_uid, b.generation, &b.problem, b.withdrawn)
        && (a.bundle_generation, a.bundle_version, &a.revoked) == (b.bundle_generation, b.bundle_version, &b.revoked)
        && rings(a) == rings(b)
}

fn problem(acceptance: &Acceptance) -> Option<String> {
    match acceptance {
        Acceptance::Accepted(_) => None,
        Acceptance::Refused { remark, .. } => Some(remark.message.clone()),
    }
}

fn bare(name: &PolicyName, declared: &Declared, namespace_uid: &str) -> PolicyView {
    PolicyView {
        name: name.clone(),
        uid: declared.uid().to_owned(),
        namespace_uid: namespace_uid.to_owned(),
        generation: declared.generation(),
        effective: None,
        problem: None,
        withdrawn: false,
        bundle_generation: 0,
        bundle_version: 0,
        own: None,
        revoked: Arc::from([]),
    }
}
