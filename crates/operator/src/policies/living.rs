//! A policy that is declared and whose keys are its own: observe, plan, apply, report.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use countersign_api::{
    bundle::{Bundle, RingName},
    key_ring::{Kept, Record},
    policy::EffectivePolicy,
};
use countersign_core::{names::PolicyName, revocation::Kind, ring::Action, time::UnixMillis};
use countersign_feed::Clock;

use super::{
    Reconciler,
    caches::Declared,
    drafting::{Base, Draft, draft, take_over},
    informing::Telling,
    keeping::Found,
    memory::{Managed, Next, Waits},
    reconcile::{AT_MOST, ReconcileError, WHILE_WAITING, next_generation},
    record::{MAX_SESSIONS, Recording as _},
    references,
    reporting::Standings,
    status::{Acceptance, Remark, Remedy},
    turning,
    viewing::Voice,
    withdrawing::blank,
};
use crate::{fleet::Fleet, registry::Cutting};

/// How many plans in a row may each find something to do.
const MAX_PLANS: usize = 16;
/// How much longer a policy that waits is left alone for each that does.
const PER_WAITING: Duration = Duration::from_millis(20);
/// How long until a second look at what a verifier alone says.
const SECOND_LOOK: Duration = Duration::from_millis(250);
/// How long those who sign are waited for, when all tokens are cut off.
const CUTS_WITHIN: Duration = Duration::from_secs(1);

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

/// What is to be written next.
struct Planned {
    kept: Kept,
    actions: BTreeMap<RingName, Vec<Action>>,
    draft: Option<Draft>,
    /// The bundle has to be written, under a new generation or the one that is reserved.
    stale: bool,
    /// What issuers are to be told beside.
    telling: Telling,
    /// Ended sessions that one cut-off takes the place of; the turn is held until that is known here.
    merged: Option<(usize, Cutting)>,
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

    /// Whether later rings than those that are kept were lost. Taken for true once under each history.
    fn lost(&self, name: &PolicyName, kept: &Kept, fleet: &Fleet, managed: &Managed) -> bool {
        if kept.rings.is_empty() || managed.restored_in.as_ref() == Some(&fleet.history) {
            return false;
        }
        let ahead = fleet.held_ahead(name).is_some_and(|held| held > kept.record.generation);
        ahead || self.hearing.is_lost_unnamed(name, fleet)
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

    /// Gives a bundle that is written anew its generation.
    fn raise(&self, name: &PolicyName, planned: &mut Planned) {
        let fleet = self.context.registry.fleet();
        let record = &mut planned.kept.record;
        record.generation = next_generation(record.generation, fleet.held_ahead(name), fleet.highest_held(), Clock::wall());
        if let Some(draft) = &mut planned.draft {
            draft.set_generation(record.generation);
        }
    }

    /// What ought to be kept and published now. `None`: nothing may be made for it.
    async fn plan(
        &self,
        observed: &mut Observed<'_>,
        kept: &Kept,
        managed: &mut Managed,
    ) -> Result<Option<Planned>, ReconcileError> {
        let (name, now) = (observed.name, Clock::wall());
        let fleet = self.context.registry.fleet();
        let mut next = kept.clone();
        if let Some(later) = &observed.later {
            tracing::error!(policy = %name, "the key rings are of an older state than their bundle; fresh keys are made");
            take_over(&mut next, later, now);
        }
        adopt_into(&mut next.record, observed);
        if let Some(effective) = &observed.effective {
            next.record.revoke(effective.revoked_keys(name));
            if effective.issuer.is_some() {
                for ring in RingName::ALL {
                    next.rings.entry(ring).or_default();
                }
            }
        }
        next.record.revoke(managed.ends.iter().flat_map(|end| end.entries.iter().cloned()));
        next.record.purge(now, self.server_now());
        if let Some(Base::Declared(effective, resolved, _)) = &observed.base {
            next.record.key_sources = references::sources(effective, resolved);
        }
        managed.reserves.iter().for_each(|reserve| next.record.reserve(reserve.until));
        let merged = self.merge(observed, &mut next.record).await;
        // Whoever remembers wrote what is remembered anew before this.
        let lost = observed.base.is_some() && self.lost(name, kept, &fleet, managed);
        if lost || observed.later.is_some() {
            if lost {
                tracing::error!(policy = %name, "the key rings are of an older state than verifiers hold; fresh keys are made");
                managed.restored_in = Some(fleet.history.clone());
            }
            next.rings = turning::restored(&next.rings, observed.effective.as_deref(), fleet.highest_held(), now);
            // Nobody knows up to when tokens were issued since; generations are times.
            let held = fleet.held_ahead(name).max(Some(fleet.highest_held()));
            let held = held.and_then(|held| i64::try_from(held).ok()).map(UnixMillis);
            [Some(now), held, self.server_now()].into_iter().flatten().for_each(|at| next.record.reserve(at));
        }
        let mut actions = BTreeMap::new();
        if let Some(effective) = &observed.effective {
            let feed_revoked = self.context.registry.revoked_keys(name);
            let situation = self.situation(name, effective, observed.declared, &next, &feed_revoked, &fleet, managed, now);
            actions = situation.plan(&next.rings);
            if !actions.is_empty() {
                let (rings, planned) = (next.rings.clone(), actions.clone());
                next.rings = tokio::task::spawn_blocking(move || turning::apply(&rings, &planned, now)).await??;
            }
        }
        let Some((draft, telling)) = self.fitting(observed, &next, managed).await? else { return Ok(None) };
        let stale = match &draft {
            None => false,
            Some(draft) => {
                self.recognise_secrets(draft, managed).await?;
                let ahead = fleet.held_ahead(name).is_some_and(|held| held > next.record.generation);
                ahead || !self.is_written(draft, managed)?
            }
        };
        Ok(Some(Planned { kept: next, actions, draft, stale, telling, merged }))
    }

    /// The bundle and what issuers are told, if neither is too large; else the last good ones, with the present keys and
    /// revocations. Outer `None`: there is none, and nothing is kept. Inner `None`: there is none that fits.
    async fn fitting(
        &self,
        observed: &mut Observed<'_>,
        next: &Kept,
        managed: &mut Managed,
    ) -> Result<Option<(Option<Draft>, Telling)>, ReconcileError> {
        let nothing = Ok(Some((None, Telling::Stays)));
        for _ in 0..2 {
            let Some(draft) = observed.base.as_ref().and_then(|base| draft(base, next)) else { return nothing };
            let telling = self.telling(observed.declared, observed.base.as_ref(), &next.record, managed).await?;
            let why = draft.too_large(&self.keys.seal_bundle(&draft.bundle)?).or_else(|| telling.too_large());
            let Some(why) = why else { return Ok(Some((Some(draft), telling))) };
            let was_last_good = matches!(observed.base, Some(Base::Present(_)));
            let remark = Remark::new("TooLarge", why.to_string());
            observed.acceptance = Acceptance::Refused { remark, remedy: Remedy::Person };
            if was_last_good {
                managed.unwritten = Some(why.to_string());
                return nothing;
            }
            observed.base = self.last_good(observed.name, managed).await?;
            if observed.base.is_none() && observed.fresh {
                return Ok(None);
            }
        }
        nothing
    }

    /// Past a thousand ended sessions one cut-off takes their place, at the time when the last token was issued.
    async fn merge(&self, observed: &Observed<'_>, record: &mut Record) -> Option<(usize, Cutting)> {
        if record.revoked.iter().filter(|entry| entry.kind == Kind::Session).count() <= MAX_SESSIONS {
            return None;
        }
        let turn = self.context.registry.turn(observed.name);
        // Whoever signs may wait for this very look to reserve a time for it: then the next look merges.
        let cutting = turn.cut(|| (Clock::wall(), self.server_now()));
        let cutting = tokio::time::timeout(CUTS_WITHIN, cutting).await.ok()?;
        let life = observed.effective.as_ref().map_or(0, |e| e.longest_access_life_ms() + e.tokens.clock_skew.as_millis());
        Some((record.merge(cutting.at, life), cutting))
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
    declared.uid().clone_into(&mut record.uid);
    observed.namespace_uid.clone_into(&mut record.namespace_uid);
    record.withdrawn_time = None;
    if let Some(effective) = &observed.effective {
        record.issuer.clone_from(&effective.issuer);
        record.retain_ms = effective.retain_after_delete.as_millis();
    }
}
