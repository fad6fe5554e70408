//! What is to be written next of a living policy.

use std::{collections::BTreeMap, time::Duration};

use countersign_api::{
    bundle::RingName,
    key_ring::{Kept, Record},
};
use countersign_core::{names::PolicyName, revocation::Kind, ring::Action, time::UnixMillis};
use countersign_feed::Clock;

use super::{
    super::{
        Reconciler,
        drafting::{Base, Draft, draft, take_over},
        foreign,
        informing::Telling,
        memory::Managed,
        reconcile::{ReconcileError, next_generation},
        record::{MAX_SESSIONS, Recording as _},
        status::{Acceptance, Remark, Remedy},
        turning,
    },
    Observed, adopt_into,
};
use crate::{fleet::Fleet, registry::Cutting};

/// How long those who sign are waited for, when all tokens are cut off.
const CUTS_WITHIN: Duration = Duration::from_secs(1);

/// What is to be written next.
pub(super) struct Planned {
    pub(super) kept: Kept,
    pub(super) actions: BTreeMap<RingName, Vec<Action>>,
    pub(super) draft: Option<Draft>,
    /// The bundle has to be written, under a new generation or the one that is reserved.
    pub(super) stale: bool,
    /// What issuers are to be told beside.
    pub(super) telling: Telling,
    /// Ended sessions that one cut-off takes the place of; the turn is held until that is known here.
    pub(super) merged: Option<(usize, Cutting)>,
}

impl Reconciler {
    /// What ought to be kept and published now. `None`: nothing may be made for it.
    pub(super) async fn plan(
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
            next.record.key_sources = foreign::sources(effective, resolved);
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

    /// Whether later rings than those that are kept were lost. Taken for true once under each history.
    pub(super) fn lost(&self, name: &PolicyName, kept: &Kept, fleet: &Fleet, managed: &Managed) -> bool {
        if kept.rings.is_empty() || managed.restored_in.as_ref() == Some(&fleet.history) {
            return false;
        }
        let ahead = fleet.held_ahead(name).is_some_and(|held| held > kept.record.generation);
        ahead || self.hearing.is_lost_unnamed(name, fleet)
    }

    /// Gives a bundle that is written anew its generation.
    pub(super) fn raise(&self, name: &PolicyName, planned: &mut Planned) {
        let fleet = self.context.registry.fleet();
        let record = &mut planned.kept.record;
        record.generation = next_generation(record.generation, fleet.held_ahead(name), fleet.highest_held(), Clock::wall());
        if let Some(draft) = &mut planned.draft {
            draft.set_generation(record.generation);
        }
    }
}
