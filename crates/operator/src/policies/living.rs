//! A policy that is declared and whose keys are its own: observe, plan, apply, report.

mod planning;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use countersign_api::{
    bundle::Bundle,
    key_ring::{Kept, Record},
    policy::EffectivePolicy,
};
use countersign_core::{names::PolicyName, ring::Action};

use self::planning::Planned;
use super::{
    Reconciler,
    caches::Declared,
    drafting::{Base, Draft},
    keeping::Found,
    memory::{Managed, Next, Waits},
    reconcile::{AT_MOST, ReconcileError, WHILE_WAITING},
    record::Recording as _,
    reporting::Standings,
    status::Acceptance,
    viewing::Voice,
    withdrawing::blank,
};

/// How many plans in a row may each find something to do.
const MAX_PLANS: usize = 16;
/// How much longer a policy that waits is left alone for each that does.
const PER_WAITING: Duration = Duration::from_millis(20);
/// How long until a second look at what a verifier alone says.
const SECOND_LOOK: Duration = Duration::from_millis(250);

/// A living policy as it was observed.
struct Observed<'a> {
    name: &'a PolicyName,
    declared: &'a Declared,
    namespace_uid: &'a str,
    /// The spec by which rings turn.
    effective: Option<Arc<EffectivePolicy>>,
    /// It is the one that is declared.
    is_sound: bool,
    acceptance: Acceptance,
    base: Option<Base>,
    /// Nothing was kept of it.
    fresh: bool,
    /// A bundle of it that is later than what is kept.
    later: Option<Arc<Bundle>>,
}

impl Reconciler {
    /// Brings a living policy as far as it goes now.
    pub(super) async fn live(
        &self,
        name: &PolicyName,
        declared: &Arc<Declared>,
        namespace_uid: &str,
        adopts: bool,
        found: Found,
        managed: &mut Managed,
    ) -> Result<Next, ReconcileError> {
        self.ensure_finalizer(declared).await?;
        // What an administrator vouches for is sealed anew.
        managed.rewrite |= matches!(found, Found::Untrusted(..));
        let (kept, version) = self.kept(name, found, managed);
        let mut observed = self.observe(name, declared, namespace_uid, kept.as_ref(), managed).await?;
        // Nothing is made for a policy that was never accepted.
        if observed.base.is_none() && observed.fresh {
            return self.report_live(&observed, None, managed).await;
        }
        let kept =
            kept.unwrap_or_else(|| Kept { record: blank(name, Some(declared), namespace_uid), rings: BTreeMap::new() });
        if self.wants_a_second_look(name, &kept, managed) {
            return Ok(Next { within: Some(SECOND_LOOK), ..Next::default() });
        }
        match self.bring_forward(&mut observed, kept, version, managed).await {
            Ok(Some(kept)) => {
                if adopts {
                    self.tell_adopted(name, declared);
                }
                self.publish(&observed.shown(), &kept, Voice::Signs, managed)?;
                managed.tell_reserved();
                if !self.has_issuer(&kept.record) {
                    self.erase_told(name, managed).await?;
                }
                self.report_live(&observed, Some(&kept), managed).await
            }
            Ok(None) => self.report_live(&observed, None, managed).await,
            Err(error) => {
                // What was in force isn't what is declared, and people are told; but not of what mends itself.
                if managed.unwritten.is_some() && managed.failures > 0 {
                    let kept = managed.stored.as_ref().map(|stored| stored.kept.clone());
                    if let Err(unsaid) = self.report_live(&observed, kept.as_ref(), managed).await {
                        tracing::warn!(policy = %name, error = %unsaid, "and the policy's status can't say so");
                    }
                }
                Err(error)
            }
        }
    }

    async fn observe<'a>(
        &self,
        name: &'a PolicyName,
        declared: &'a Declared,
        namespace_uid: &'a str,
        kept: Option<&Kept>,
        managed: &mut Managed,
    ) -> Result<Observed<'a>, ReconcileError> {
        let understood = self.understand(name, declared, managed);
        if understood.is_err() && managed.last_effective.is_none() {
            let last = kept.and_then(|kept| kept.record.last_effective(&declared.policy));
            managed.last_effective = last.map(|last| (declared.uid().to_owned(), Arc::new(last)));
        }
        let (acceptance, mut base) = match &understood {
            Err(refused) => (refused.clone(), None),
            Ok(effective) => self.resolve(name, effective, managed).await?,
        };
        let later = self.later_bundle(name, kept.map_or(0, |kept| kept.record.generation), managed).await?;
        if base.is_none() {
            base = self.last_good(name, managed).await?;
        } else if managed.present.is_some() && matches!(acceptance, Acceptance::Accepted(_)) {
            managed.present = None;
        }
        let effective = Self::effective(declared, &understood, managed);
        let (is_sound, fresh) = (understood.is_ok(), kept.is_none());
        Ok(Observed { name, declared, namespace_uid, effective, is_sound, acceptance, base, fresh, later })
    }

    /// The bundle that is in force, as the base of the next.
    async fn last_good(&self, name: &PolicyName, managed: &mut Managed) -> Result<Option<Base>, ReconcileError> {
        Ok(self.present(name, managed).await?.filter(|bundle| bundle.verify.is_some()).map(Base::Present))
    }

    /// A verifier that holds more than is kept says that an older state came back. Private keys aren't erased on one look.
    fn wants_a_second_look(&self, name: &PolicyName, kept: &Kept, managed: &mut Managed) -> bool {
        let ahead = self.lost(name, kept, &self.context.registry.fleet(), managed);
        let first = ahead && !managed.suspected;
        managed.suspected = ahead;
        first
    }

    /// Plans and writes until there is nothing to do. `None`: nothing may be made for it.
    async fn bring_forward(
        &self,
        observed: &mut Observed<'_>,
        mut kept: Kept,
        mut version: Option<u64>,
        managed: &mut Managed,
    ) -> Result<Option<Kept>, ReconcileError> {
        let name = observed.name;
        for _ in 0..MAX_PLANS {
            let Some(mut planned) = self.plan(observed, &kept, managed).await? else { return Ok(None) };
            let changed = planned.kept != kept || managed.rewrite || observed.fresh && managed.stored.is_none();
            if !changed && !planned.stale && !planned.telling.is_stale() {
                if observed.is_too_large(&planned) {
                    return Ok(Some(kept));
                }
                managed.tell_ended();
                return Ok(Some(kept));
            }
            let signs_next = planned.actions.values().flatten().any(|action| matches!(action, Action::Activate { .. }));
            if signs_next && !self.is_as_acknowledged(name, managed).await? {
                return Err(ReconcileError::Conflict);
            }
            let decided_on = self.decided_on(name, managed).await?;
            let told_on = self.told_decided_on(name, managed).await?;
            let digest = planned.draft.as_ref().map(Draft::digest);
            let reserved = managed.reserved.is_some() && managed.reserved == digest.map(|d| (kept.record.generation, d));
            let goes_on = !changed && reserved && self.is_still_stored(managed).await?;
            if !goes_on {
                if planned.stale {
                    self.raise(name, &mut planned);
                }
                self.store(managed, planned.kept.clone(), version).await?;
                version = managed.stored.as_ref().and_then(|stored| stored.version);
                if planned.stale {
                    let generation = planned.kept.record.generation;
                    managed.reserved = planned.draft.as_ref().map(|draft| (generation, draft.digest()));
                }
                self.tell(name, observed.declared, &kept.rings, &planned.actions);
            }
            (observed.later, observed.fresh) = (None, false);
            // What was revoked signs nothing more, whether or not the bundle can be written now.
            self.publish(&observed.shown(), &planned.kept, Voice::Signs, managed)?;
            if let Some((sessions, cutting)) = planned.merged.take() {
                self.tell_merged(name, observed.declared, sessions);
                drop(cutting);
            }
            if planned.stale
                && let Some(draft) = &planned.draft
            {
                self.write(draft, decided_on, managed).await?;
            }
            self.tell_issuers(planned.telling, told_on, managed).await?;
            kept = planned.kept;
        }
        managed.tell_ended();
        Ok(Some(kept))
    }

    /// What is kept, and the version of it; what an administrator vouches for included.
    pub(super) fn kept(&self, name: &PolicyName, found: Found, managed: &Managed) -> (Option<Kept>, Option<u64>) {
        match found {
            Found::Nothing => (None, None),
            Found::Stored => {
                let stored = managed.stored.as_ref();
                (stored.map(|stored| stored.kept.clone()), stored.and_then(|stored| stored.version))
            }
            Found::Untrusted(_, secret) => (secret.open(name, &self.keys, true).ok(), Some(secret.version)),
        }
    }

    /// Says where a living policy stands, and when to look at it again.
    async fn report_live(
        &self,
        observed: &Observed<'_>,
        kept: Option<&Kept>,
        managed: &mut Managed,
    ) -> Result<Next, ReconcileError> {
        if kept.is_none() {
            self.publish_unaccepted(&observed.shown());
        }
        let standings = Standings {
            acceptance: observed.acceptance.clone(),
            effective: observed.effective.clone(),
            kept,
            published: matches!(observed.base, Some(Base::Declared(..))),
        };
        let mut next = self.report(observed.name, observed.declared, standings, managed).await?;
        next.within = Some(next.within.unwrap_or(AT_MOST).min(AT_MOST));
        if next.waits_for.is_some() {
            // Very many that wait are looked at more rarely: what they wait for wakes them.
            let waiting = u32::try_from(*self.context.registry.waiting().borrow()).unwrap_or(u32::MAX);
            let patience = WHILE_WAITING.max(PER_WAITING.saturating_mul(waiting));
            next.within = next.within.map(|within| within.min(patience));
        }
        Ok(next)
    }
}

/// What of a living policy others are shown.
pub(super) struct Living<'a> {
    pub(super) name: &'a PolicyName,
    pub(super) declared: &'a Declared,
    pub(super) namespace_uid: &'a str,
    pub(super) effective: Option<&'a Arc<EffectivePolicy>>,
    pub(super) acceptance: &'a Acceptance,
}

impl Observed<'_> {
    fn shown(&self) -> Living<'_> {
        Living {
            name: self.name,
            declared: self.declared,
            namespace_uid: self.namespace_uid,
            effective: self.effective.as_ref(),
            acceptance: &self.acceptance,
        }
    }

    /// Whether nothing fits: what was to be ended then isn't, on verifiers.
    fn is_too_large(&self, planned: &Planned) -> bool {
        planned.draft.is_none() && self.base.is_some()
    }
}

/// What verifiers are to have come to.
pub(super) fn waits(version: u64, effective: Option<&Arc<EffectivePolicy>>) -> Waits {
    let absent_after_ms = effective.map_or(600_000, |effective| effective.keys.absent_after.as_millis());
    Waits { version, absent_after_ms }
}

/// The record of a policy that is in force.
fn adopt_into(record: &mut Record, observed: &Observed<'_>) {
    let declared = observed.declared;
    if observed.is_sound {
        record.note_spec(&declared.policy.spec);
    } else if record.uid != declared.uid() {
        record.spec = None;
    }
    if record.uid != declared.uid() {
        record.pass_to(declared.uid());
    }
    observed.namespace_uid.clone_into(&mut record.namespace_uid);
    record.withdrawn_time = None;
    if let Some(effective) = &observed.effective {
        record.issuer.clone_from(&effective.issuer);
        record.retain_ms = effective.retain_after_delete.as_millis();
    }
}
