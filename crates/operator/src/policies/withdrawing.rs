//! Policies that go, and those whose kept keys aren't theirs to use.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use countersign_api::{
    bundle::Bundle,
    key_ring::{Kept, Record},
    policy::EffectivePolicy,
};
use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_feed::Clock;

use super::{
    Reconciler,
    caches::Declared,
    drafting::{Base, Draft, draft, take_over},
    keeping::Found,
    memory::{Managed, Next},
    reconcile::{AT_MOST, ReconcileError, WHILE_WAITING, next_generation},
    record::Recording as _,
    standing::Refused,
    turning,
};

/// How long is kept what nobody knows the policy's own time of: the default of `retainAfterDelete`, milliseconds.
const RETAINED_MS: i64 = 168 * 3_600_000;

/// A record of a policy of which nothing is known but what is declared, if anything.
pub(super) fn blank(name: &PolicyName, declared: Option<&Declared>, namespace_uid: &str) -> Record {
    let effective = declared.and_then(|declared| EffectivePolicy::try_from(&declared.policy).ok());
    Record {
        policy: name.clone(),
        uid: declared.map(|declared| declared.uid().to_owned()).unwrap_or_default(),
        origin: declared.map(|declared| declared.uid().to_owned()),
        namespace_uid: namespace_uid.to_owned(),
        issuer: declared.and_then(|declared| declared.policy.spec.issuer.clone()),
        generation: 0,
        withdrawn_time: None,
        retain_ms: effective.map_or(RETAINED_MS, |effective| effective.retain_after_delete.as_millis()),
        issued_until: None,
        key_sources: BTreeMap::new(),
        revoked: Vec::new(),
        spec: None,
    }
}

/// What a bundle without a ring leaves of its policy.
fn left_by(name: &PolicyName, bundle: &Bundle, namespace_uid: &str) -> Kept {
    let record = Record {
        uid: bundle.uid.clone(),
        issuer: bundle.verify.as_ref().and_then(|verify| verify.issuer.clone()),
        ..blank(name, None, namespace_uid)
    };
    Kept { record, rings: BTreeMap::new() }
}

impl Reconciler {
    /// Says that a policy's kept keys aren't used, and why. What verifiers hold stays as it is, or goes if it was another's.
    pub(super) async fn refuse(
        &self,
        name: &PolicyName,
        declared: &Declared,
        namespace_uid: &str,
        why: &Refused,
        managed: &mut Managed,
    ) -> Result<Next, ReconcileError> {
        self.ensure_finalizer(declared).await?;
        let understood = self.understand(name, declared, managed);
        let mut in_force = false;
        if managed.stored.is_some() {
            self.lay_down(name, None, managed).await?;
            self.tend_tombstone(name, managed).await?;
        } else if let Some(present) = self.present(name, managed).await? {
            in_force = present.verify.is_some();
            self.guard(&present, managed).await?;
        }
        self.publish_refused(name, declared, namespace_uid, why, managed);
        self.report_refused(name, declared, understood.err(), why, in_force, managed).await?;
        Ok(Next { within: Some(AT_MOST), ..Next::default() })
    }

    /// Keeps the last bundle of a policy whose ring isn't trusted: somebody who edits it changes nothing either.
    async fn guard(&self, present: &Arc<Bundle>, managed: &mut Managed) -> Result<(), ReconcileError> {
        let draft = Draft { bundle: Bundle::clone(present), secrets: None, keeps_secrets: true };
        if !self.is_written(&draft, managed)? {
            let decided_on = self.decided_on(&present.policy, managed).await?;
            self.write(&draft, decided_on, managed).await?;
        }
        Ok(())
    }

    /// Withdraws a policy: verifiers answer 404, and what is kept of it stays for its time.
    pub(super) async fn withdraw(
        &self,
        name: &PolicyName,
        declared: Option<&Declared>,
        namespace_uid: &str,
        found: Found,
        managed: &mut Managed,
    ) -> Result<Next, ReconcileError> {
        let (kept, version) = match found {
            // What isn't trusted is replaced, not kept: nobody knows whose keys those are.
            Found::Untrusted(_, secret) => {
                let record = blank(name, declared, namespace_uid);
                (Some(Kept { record, rings: BTreeMap::new() }), Some(secret.version))
            }
            Found::Nothing => {
                let present = self.present(name, managed).await?;
                (present.map(|bundle| left_by(name, &bundle, namespace_uid)), None)
            }
            Found::Stored => self.kept(name, Found::Stored, managed),
        };
        let Some(kept) = kept else {
            // Nothing was ever made for it.
            if let Some(declared) = declared {
                self.remove_finalizer(declared).await?;
            }
            return Ok(self.forget(name, managed));
        };
        self.lay_down(name, Some((kept, version, declared.map(Declared::uid))), managed).await?;
        self.stay_withdrawn(name, declared, managed).await
    }

    /// Writes the record of a policy that is withdrawn now, and the tombstone that verifiers read. `None`: of what is stored, if
    /// that isn't withdrawn already.
    async fn lay_down(
        &self,
        name: &PolicyName,
        kept: Option<(Kept, Option<u64>, Option<&str>)>,
        managed: &mut Managed,
    ) -> Result<(), ReconcileError> {
        let stored = || {
            let stored = managed.stored.as_ref().filter(|stored| stored.kept.record.withdrawn_time.is_none())?;
            Some((stored.kept.clone(), stored.version, None))
        };
        let Some((mut kept, version, uid)) = kept.or_else(stored) else { return Ok(()) };
        let now = Clock::wall();
        let fleet = self.context.registry.fleet();
        if let Some(later) = self.later_bundle(name, kept.record.generation, managed).await? {
            take_over(&mut kept, &later, now);
            kept.rings = turning::restored(&kept.rings, None, fleet.highest_held(), now);
        }
        if let Some(uid) = uid {
            kept.record.pass_to(uid);
        }
        kept.record.withdrawn_time = Some(now);
        kept.record.generation = next_generation(kept.record.generation, fleet.held_ahead(name), fleet.highest_held(), now);
        kept.record.revoke(managed.ends.iter().flat_map(|end| end.entries.iter().cloned()));
        let until = now.plus(kept.record.retain_ms);
        let tombstone = draft(&Base::Tombstone, &kept);
        let decided_on = self.decided_on(name, managed).await?;
        self.store(managed, kept, version).await?;
        managed.present = None;
        if let Some(tombstone) = tombstone {
            self.write(&tombstone, decided_on, managed).await?;
        }
        tracing::info!(policy = %name, %until, "the policy is withdrawn; its keys are kept until then");
        Ok(())
    }

    /// Keeps the tombstone of a withdrawn policy as it ought to be, with what was ended since.
    async fn tend_tombstone(&self, name: &PolicyName, managed: &mut Managed) -> Result<(), ReconcileError> {
        for _ in 0..2 {
            let Some(stored) = &managed.stored else { return Err(ReconcileError::Conflict) };
            let (mut kept, version) = (stored.kept.clone(), stored.version);
            let before = kept.clone();
            kept.record.revoke(managed.ends.iter().flat_map(|end| end.entries.iter().cloned()));
            let now = Clock::wall();
            kept.record.purge(now, self.server_now());
            let fleet = self.context.registry.fleet();
            let ahead = fleet.held_ahead(name);
            let Some(mut tombstone) = draft(&Base::Tombstone, &kept) else { break };
            let stale = ahead.is_some_and(|held| held > kept.record.generation) || !self.is_written(&tombstone, managed)?;
            if !stale && !managed.rewrite && kept == before {
                break;
            }
            if stale {
                kept.record.generation = next_generation(kept.record.generation, ahead, fleet.highest_held(), now);
                tombstone.set_generation(kept.record.generation);
            }
            let decided_on = self.decided_on(name, managed).await?;
            self.store(managed, kept, version).await?;
            if stale {
                self.write(&tombstone, decided_on, managed).await?;
            }
        }
        managed.tell_ended();
        match managed.stored.as_ref().map(|stored| stored.kept.record.clone()) {
            Some(record) => self.keep_told(&record, managed).await,
            None => Ok(()),
        }
    }

    /// Keeps a withdrawn policy for its time.
    pub(super) async fn stay_withdrawn(
        &self,
        name: &PolicyName,
        declared: Option<&Declared>,
        managed: &mut Managed,
    ) -> Result<Next, ReconcileError> {
        self.tend_tombstone(name, managed).await?;
        self.publish_withdrawn(name, managed);
        self.in_use.forget(name);
        let disturbed = self.claims.set(name, None, 0);
        for other in disturbed {
            self.dirty.add(other);
        }
        (managed.understood, managed.last_effective) = (None, None);
        if let Some(declared) = declared {
            self.remove_finalizer(declared).await?;
        }
        let record = managed.stored.as_ref().map(|stored| &stored.kept.record);
        let until = record.and_then(|record| Some(record.withdrawn_time?.plus(record.retain_ms)));
        let left = until.map_or(0, |until: UnixMillis| u64::try_from(until.since(Clock::wall())).unwrap_or(0));
        // Past its time it waits for the feed server's clock.
        let within = Duration::from_millis(left).max(WHILE_WAITING).min(AT_MOST);
        Ok(Next { within: Some(within), ..Next::default() })
    }
}
