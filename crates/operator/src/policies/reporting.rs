//! A policy's status: gathered, and written when it says anything new.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use countersign_api::{
    cluster::FIELD_MANAGER,
    key_ring::Kept,
    policy::{AuthPolicy, AuthPolicyStatus, EffectivePolicy},
};
use countersign_core::{names::PolicyName, ring::Phase};
use countersign_feed::Clock;
use kube::{
    Api,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    Reconciler,
    caches::Declared,
    living::waits,
    memory::{Managed, Next},
    reconcile::ReconcileError,
    record::RingSeen,
    standing::Refused,
    status::{Acceptance, Keys, Remedy, Situation, Turned, status},
};
use crate::{fleet::Count, versions::version_of};

/// How long a key may wait for verifiers before that is worth telling.
const WAITS_FOR_LONG_MS: i64 = 5_000;
/// How long a first status waits for verifiers, so that what settles at once is written once.
const SETTLES_WITHIN: Duration = Duration::from_millis(800);
/// How long a first status waits for a trusted issuer's keys to be fetched, or not.
const FETCHED_WITHIN: Duration = Duration::from_secs(10);
/// How often what is merely a snapshot of the moment is taken anew.
const REFRESH: Duration = Duration::from_mins(1);

/// Where a living policy stands.
pub(super) struct Standings<'a> {
    pub(super) acceptance: Acceptance,
    pub(super) effective: Option<Arc<EffectivePolicy>>,
    /// Nothing was made for it yet.
    pub(super) kept: Option<&'a Kept>,
    /// The bundle is made of what is declared now, not of what was in force before.
    pub(super) published: bool,
}

impl Reconciler {
    /// Says that a policy's kept keys may not be used.
    pub(super) async fn report_refused(
        &self,
        name: &PolicyName,
        declared: &Declared,
        unaccepted: Option<Acceptance>,
        why: &Refused,
        in_force: bool,
        managed: &mut Managed,
    ) -> Result<(), ReconcileError> {
        let object = countersign_api::cluster::ring_name(name);
        let word = self.adoption(name, declared, managed).await?;
        let hint = format!(
            "{why}; to take over what is there now all the same, annotate the Secret {object} in {} with {}={word}",
            self.context.config.system_namespace,
            countersign_api::cluster::ADOPT_ANNOTATION,
        );
        let acceptance = unaccepted.unwrap_or(Acceptance::Accepted(Vec::new()));
        let before = before(declared, managed);
        let said = status(&Situation {
            acceptance,
            keys: Keys::Refused { why: hint, in_force },
            ..nothing_told(declared, &before)
        });
        self.write_status(declared, &before, said, managed).await
    }

    /// The word with which an administrator lets a policy take over what its ring's Secret holds now.
    async fn adoption(&self, name: &PolicyName, declared: &Declared, managed: &Managed) -> Result<String, ReconcileError> {
        let object = countersign_api::cluster::ring_name(name);
        let found = match self.caches.rings.one(&object) {
            Some(RingSeen::Whole(secret)) => Some(secret),
            Some(RingSeen::Remembered { .. }) => self.read_ring(&object).await?,
            None => managed.untrusted.clone(),
        };
        Ok(found.map_or_else(|| declared.uid().to_owned(), |secret| secret.adoption(name, declared.uid())))
    }

    /// Says that a new leader has not heard yet what became of a policy's keys.
    pub(super) async fn report_unheard(
        &self,
        declared: &Declared,
        acceptance: &Acceptance,
        has_rings: bool,
        managed: &mut Managed,
    ) -> Result<(), ReconcileError> {
        let before = before(declared, managed);
        let said = status(&Situation {
            acceptance: acceptance.clone(),
            keys: if has_rings { Keys::Unheard } else { Keys::NotNeeded },
            feed_reached: self.context.registry.fleet().reached,
            ..nothing_told(declared, &before)
        });
        self.write_status(declared, &before, said, managed).await
    }

    /// Writes the status if it says anything new; says what the policy waits for.
    pub(super) async fn report(
        &self,
        name: &PolicyName,
        declared: &Declared,
        standings: Standings<'_>,
        managed: &mut Managed,
    ) -> Result<Next, ReconcileError> {
        let now = Clock::wall();
        let fleet = self.context.registry.fleet();
        let effective = standings.effective.as_ref();
        let present = managed.written.filter(|_| standings.kept.is_some()).map(|written| written.since).unwrap_or_default();
        let waits_for = |version| waits(version, effective);
        let absent_after = waits_for(0).absent_after_ms;
        let count = fleet.count(name, present, absent_after);
        let mut next = Next::default();
        let mut issuers = None;
        let mut keys = if effective.is_some_and(|e| e.issuer.is_none()) { Keys::NotNeeded } else { Keys::NotYet };
        if let (Some(effective), Some(kept)) = (effective, standings.kept)
            && !kept.rings.is_empty()
        {
            let revoked = self.context.registry.revoked_keys(name);
            let situation = self.situation(name, effective, declared, kept, &revoked, &fleet, managed, now);
            let mut turned = BTreeMap::new();
            for (ring, held) in &kept.rings {
                let mut standing = situation.status(*ring, held);
                let mut lagging = Vec::new();
                if let Some(waiting) = standing.waiting.clone().filter(|waiting| waiting.for_verifiers) {
                    let since = managed.since.get(&waiting.kid).copied().unwrap_or_default();
                    lagging = fleet.count(name, since, absent_after).lagging;
                    next.waits_for = Some(waits_for(since.version));
                    let due = waiting.since.max(waiting.not_before).plus(WAITS_FOR_LONG_MS);
                    if standing.phase == Phase::RotationWaiting && now < due {
                        standing.phase = Phase::Ready;
                    }
                }
                turned.insert(*ring, Turned { ring: held.clone(), status: standing, lagging });
            }
            let due = situation.next_change(&kept.rings);
            next.within = due.map(|at| Duration::from_millis(u64::try_from(at.since(now)).unwrap_or(0)));
            keys = Keys::Rings(turned);
            issuers = Some(fleet.issuers_at(name, managed.stored_version())).filter(|(_, replicas)| *replicas > 0);
            next.waits_for_issuers = issuers.filter(|(hold, all)| hold < all).map(|_| managed.stored_version());
        }
        let before = before(declared, managed);
        let waited_long = managed.lagging_since.is_some_and(|since| since.elapsed() >= millis(absent_after));
        let refresh = managed.status_at.get_or_insert_with(Instant::now).elapsed() >= REFRESH;
        let settles_within = match &standings.acceptance {
            Acceptance::Accepted(_) => SETTLES_WITHIN,
            Acceptance::Refused { remedy: Remedy::Moment, .. } => FETCHED_WITHIN,
            Acceptance::Refused { .. } => Duration::ZERO,
        };
        let accepted = matches!(standings.acceptance, Acceptance::Accepted(_)) && managed.unwritten.is_none();
        let said = status(&Situation {
            generation: declared.generation(),
            before: &before,
            acceptance: standings.acceptance,
            keys,
            count: count.clone(),
            issuers,
            bundle_generation: present.generation,
            feed_reached: fleet.reached,
            lagging_for_long: waited_long,
            refresh,
            published: standings.published,
            unwritten: managed.unwritten.clone(),
            now,
        });
        if count.complete() {
            managed.lagging_since = None;
        } else {
            managed.lagging_since.get_or_insert_with(Instant::now);
        }
        let settled = said.conditions.iter().any(|c| c.type_ == "Enforced" && c.status == "True");
        if !settled && present.version > 0 {
            next.waits_for = Some(
                next.waits_for.map_or(waits_for(present.version), |held| waits_for(held.version.max(present.version))),
            );
        }
        next.holds = (present.version > 0).then(|| waits_for(present.version));
        let may_settle = !accepted || fleet.known() > 0 && fleet.reached;
        let fresh = managed.generation_since.filter(|_| !settled && may_settle);
        if let Some((_, since)) = fresh
            && since.elapsed() < settles_within
        {
            // What settles within a moment is told once.
            let left = settles_within.saturating_sub(since.elapsed());
            next.within = Some(next.within.map_or(left, |within| within.min(left)));
            return Ok(next);
        }
        self.write_status(declared, &before, said, managed).await?;
        Ok(next)
    }

    async fn write_status(
        &self,
        declared: &Declared,
        before: &AuthPolicyStatus,
        said: AuthPolicyStatus,
        managed: &mut Managed,
    ) -> Result<(), ReconcileError> {
        if *before == said {
            return Ok(());
        }
        let metadata = &declared.policy.metadata;
        let (namespace, name) =
            (metadata.namespace.as_deref().unwrap_or("default"), metadata.name.as_deref().unwrap_or_default());
        // Of the answer nothing but the version is read.
        let api: Api<PartialObjectMeta<AuthPolicy>> = Api::namespaced(self.context.client.clone(), namespace);
        let patch = json!({
            "apiVersion": "countersign.dev/v1alpha1",
            "kind": "AuthPolicy",
            "metadata": {"name": name, "namespace": namespace, "uid": metadata.uid},
            "status": said,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = match api.patch_status(name, &params, &Patch::Apply(&patch)).await {
            Ok(written) => written,
            // It went meanwhile; the watch will say so.
            Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let version = version_of(&written.metadata);
        self.context.versions.note(version);
        self.tell_changes(declared, before, &said);
        managed.status = Some((version, said));
        managed.status_at = Some(Instant::now());
        Ok(())
    }
}

/// The status as it is, as far as is known: what was written last, until the watch shows that or something later.
fn before(declared: &Declared, managed: &mut Managed) -> AuthPolicyStatus {
    managed.status.take_if(|(version, _)| *version <= declared.version);
    let shown = || declared.policy.status.clone().unwrap_or_default();
    managed.status.as_ref().map_or_else(shown, |(_, written)| written.clone())
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// What is said of a policy of which nothing is counted.
fn nothing_told<'a>(declared: &Declared, before: &'a AuthPolicyStatus) -> Situation<'a> {
    Situation {
        generation: declared.generation(),
        before,
        acceptance: Acceptance::Accepted(Vec::new()),
        keys: Keys::NotYet,
        count: Count::default(),
        issuers: None,
        bundle_generation: 0,
        feed_reached: true,
        lagging_for_long: false,
        refresh: false,
        published: false,
        unwritten: None,
        now: Clock::wall(),
    }
}
