//! One look at one policy: observe, plan, apply, status.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use countersign_api::{
    bundle::RingName,
    cluster::FINALIZER,
    policy::{AuthPolicy, EffectivePolicy},
};
use countersign_core::{
    names::PolicyName,
    revocation::Kind,
    ring::{self, Ring},
    time::UnixMillis,
};
use countersign_feed::Clock;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    Reconciler,
    bundles::{Base, Draft, draft, foreign_keys},
    caches::Declared,
    keeping::Found,
    memory::{Managed, Next, Understood, Waits},
    record::{Kept, Record},
    references,
    reporting::Standings,
    signing::SigningError,
    standing::{Held, Refused, Standing, Wanted, standing},
    status::{Acceptance, Remark, Remedy},
    turning::{self, Situation, rotate_annotations},
};

/// How many plans in a row may each find something to do.
const MAX_PLANS: usize = 16;
/// How long a policy is left alone when nothing happens: what no watch tells is found then.
const AT_MOST: Duration = Duration::from_hours(1);
/// How often one that waits for verifiers is looked at, whatever they say.
const WHILE_WAITING: Duration = Duration::from_secs(5);

/// How much longer that takes for each policy that waits.
const PER_WAITING: Duration = Duration::from_millis(20);

/// Why a policy could not be brought forward now. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// What was decided on isn't there any more; look again.
    #[error("somebody else wrote at the same time")]
    Conflict,
    /// The API server.
    #[error(transparent)]
    Kube(kube::Error),
    /// A seal or a key.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// A ring.
    #[error(transparent)]
    Ring(#[from] ring::ApplyError),
    /// The namespace of a policy isn't known yet.
    #[error("the namespace isn't known yet")]
    Namespace,
    /// A task of ours.
    #[error("keys could not be made: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl From<kube::Error> for ReconcileError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if matches!(status.code, 404 | 409) && !is_forbidden_namespace(&status.message) => {
                Self::Conflict
            }
            error => Self::Kube(error),
        }
    }
}

/// A write into a namespace that isn't there is no conflict that goes away by looking again.
fn is_forbidden_namespace(message: &str) -> bool {
    message.starts_with("namespaces ")
}

impl ReconcileError {
    /// How long to wait after so many failures in a row, before jitter.
    pub(crate) fn back_off(&self, failures: u32) -> Duration {
        let (first, longest) = match self {
            Self::Conflict | Self::Namespace => (Duration::from_millis(50), Duration::from_secs(5)),
            // It takes a person to mend.
            Self::Kube(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 422) => {
                (Duration::from_secs(5), Duration::from_mins(5))
            }
            _ => (Duration::from_millis(500), Duration::from_mins(1)),
        };
        first.saturating_mul(1 << failures.min(16)).min(longest)
    }
}

impl Reconciler {
    /// Brings a policy as far as it goes now.
    pub(super) async fn reconcile(&self, name: &PolicyName, managed: &mut Managed) -> Result<Next, ReconcileError> {
        let declared = self.caches.policy(name);
        let found = self.find(name, managed).await?;
        let namespace_uid = self.caches.namespaces.one(name.namespace());
        if declared.is_some() && namespace_uid.is_none() {
            return Err(ReconcileError::Namespace);
        }
        let namespace_uid = namespace_uid.unwrap_or_default();
        let adopt = self.adopt_annotation(name, &found);
        let wanted = declared.as_deref().map(|declared| Wanted {
            uid: declared.uid(),
            namespace_uid: &namespace_uid,
            issuer: declared.policy.spec.issuer.as_deref(),
            deleting: declared.deleting(),
            adopt: adopt.as_deref(),
        });
        let held = match (&found, &managed.stored) {
            (Found::Untrusted(why, _), _) => Held::Untrusted(why),
            (_, Some(stored)) => Held::Record(&stored.kept.record),
            _ => Held::Nothing,
        };
        let now = Clock::wall();
        let decided = standing(wanted.as_ref(), held, now, self.server_now());
        match (decided, declared) {
            (Standing::Live { adopts }, Some(declared)) => {
                self.live(name, &declared, &namespace_uid, adopts, found, managed).await
            }
            (Standing::Refused(why), Some(declared)) => self.refuse(name, &declared, &namespace_uid, &why, managed).await,
            (Standing::Withdraw, declared) => self.withdraw(name, declared.as_deref(), found, managed).await,
            (Standing::Withdrawn { until }, declared) => {
                self.stay_withdrawn(name, declared.as_deref(), until, managed).await
            }
            (Standing::Erase, _) => {
                self.erase_bundle(name, managed).await?;
                self.erase_ring(name, managed).await?;
                tracing::info!(policy = %name, "the withdrawn policy's keys are erased");
                Ok(self.forget(name, managed))
            }
            // Decided by what is declared, so something is; or there is nothing at all.
            (Standing::Gone | Standing::Live { .. } | Standing::Refused(_), _) => Ok(self.forget(name, managed)),
        }
    }

    fn adopt_annotation(&self, name: &PolicyName, found: &Found) -> Option<String> {
        match found {
            Found::Untrusted(_, secret) => secret.adopt.clone(),
            _ => self.caches.rings.one(&countersign_api::cluster::ring_name(name))?.adopt,
        }
    }

    pub(super) fn server_now(&self) -> Option<UnixMillis> {
        self.feed.borrow().server_now()
    }

    fn forget(&self, name: &PolicyName, managed: &mut Managed) -> Next {
        self.context.registry.forget(name);
        self.in_use.forget(name);
        self.claims.forget(name);
        managed.tell_ended();
        Next { gone: true, ..Next::default() }
    }

    async fn live(
        &self,
        name: &PolicyName,
        declared: &Arc<Declared>,
        namespace_uid: &str,
        adopts: bool,
        found: Found,
        managed: &mut Managed,
    ) -> Result<Next, ReconcileError> {
        self.ensure_finalizer(declared).await?;
        let understood = self.understand(name, declared, managed);
        let (mut acceptance, mut base) = match &understood {
            Err(refused) => (refused.clone(), None),
            Ok(effective) => self.resolve(name, effective, managed).await?,
        };
        if base.is_none() {
            base = self.present(name, managed).await?.filter(|bundle| bundle.verify.is_some()).map(Base::Present);
        } else if managed.present.is_some() && matches!(acceptance, Acceptance::Accepted(_)) {
            managed.present = None;
        }
        // What an administrator vouches for is sealed anew.
        managed.rewrite |= matches!(found, Found::Untrusted(..));
        let (mut kept, mut version) = self.kept(found, managed);
        let fresh = kept.is_none();
        let mut kept = match kept.take() {
            Some(kept) => kept,
            None => Kept { record: blank(name), rings: BTreeMap::new() },
        };
        // Nothing is made for a policy that was never accepted.
        if base.is_none() && fresh {
            return self.report_live(name, declared, namespace_uid, &understood, acceptance, None, managed).await;
        }
        let effective = understood.as_ref().ok();
        let registry = &self.context.registry;
        let feed_revoked = registry.revoked_keys(name);
        for _ in 0..MAX_PLANS {
            let now = Clock::wall();
            let mut next = kept.clone();
            adopt_into(&mut next.record, declared, namespace_uid, effective.map(|e| &**e));
            if let Some(effective) = effective {
                next.record.revoke(effective.revoked_keys(name));
                if effective.issuer.is_some() {
                    for ring in RingName::ALL {
                        next.rings.entry(ring).or_default();
                    }
                }
            }
            next.record.revoke(managed.ends.iter().flat_map(|end| end.entries.iter().cloned()));
            next.record.purge(now, self.server_now());
            if let Some(Base::Declared(effective, resolved)) = &base {
                next.record.key_sources = references::sources(effective, resolved);
            }
            managed.reserves.iter().for_each(|reserve| next.record.reserve(reserve.until));
            let fleet = registry.fleet();
            // A later bundle than any that is known of: an older state came back. Whoever remembers wrote it anew before this.
            if base.is_some() && fleet.held_ahead(name).is_some_and(|held| held > kept.record.generation) {
                tracing::error!(policy = %name, "the key rings are of an older state than verifiers hold; fresh keys are made");
                next.rings = turning::restored(&next.rings, effective.map(|e| &**e), 0, now);
                // Nobody knows up to when tokens were issued since; generations are times.
                let held = fleet.held_ahead(name).and_then(|held| i64::try_from(held).ok()).map(UnixMillis);
                [Some(now), held, self.server_now()].into_iter().flatten().for_each(|at| next.record.reserve(at));
            }
            let mut planned = BTreeMap::new();
            if let Some(effective) = effective {
                let situation =
                    self.situation(name, effective, declared, &next, &feed_revoked, &fleet, &managed.since, now);
                planned = situation.plan(&next.rings);
                if !planned.is_empty() {
                    let (rings, planned) = (next.rings.clone(), planned.clone());
                    next.rings = tokio::task::spawn_blocking(move || turning::apply(&rings, &planned, now)).await??;
                }
            }
            let mut drafted = base.as_ref().and_then(|base| draft(base, &next));
            if let Some(length) = drafted.as_ref().and_then(Draft::too_large) {
                let message =
                    format!("its bundle has {} KiB, more than 900: remove roles, rules or inline keys", length >> 10);
                acceptance = Acceptance::Refused { remark: Remark::new("TooLarge", message), remedy: Remedy::Person };
                base = self.present(name, managed).await?.filter(|bundle| bundle.verify.is_some()).map(Base::Present);
                if base.is_none() && fresh {
                    return self.report_live(name, declared, namespace_uid, &understood, acceptance, None, managed).await;
                }
                drafted = base.as_ref().and_then(|base| draft(base, &next));
            }
            let stale = match &drafted {
                None => false,
                Some(drafted) => {
                    self.recognise_secrets(drafted, managed).await?;
                    let ahead = fleet.held_ahead(name).is_some_and(|held| held > next.record.generation);
                    ahead || !self.is_written(drafted, managed)?
                }
            };
            let changed = next != kept || managed.rewrite || fresh && managed.stored.is_none();
            if !changed && !stale {
                break;
            }
            if stale {
                next.record.generation = next_generation(next.record.generation, fleet.held_ahead(name), now);
                if let Some(drafted) = &mut drafted {
                    drafted.bundle.generation = next.record.generation;
                }
            }
            self.store(managed, next.clone(), version).await?;
            version = managed.stored.as_ref().and_then(|stored| stored.version);
            self.tell(name, declared, &planned);
            kept = next;
            // What was revoked signs nothing more, whether or not the bundle can be written now.
            self.publish(name, declared, namespace_uid, effective, &acceptance, &kept, managed)?;
            if stale && let Some(drafted) = &drafted {
                self.write(drafted, managed).await?;
            }
        }
        if adopts {
            self.tell_adopted(name, declared);
        }
        managed.tell_ended();
        self.publish(name, declared, namespace_uid, effective, &acceptance, &kept, managed)?;
        managed.tell_reserved();
        self.report_live(name, declared, namespace_uid, &understood, acceptance, Some(&kept), managed).await
    }

    /// What is kept, and the version of it; what an administrator vouches for included.
    fn kept(&self, found: Found, managed: &Managed) -> (Option<Kept>, Option<u64>) {
        match found {
            Found::Nothing => (None, None),
            Found::Stored => {
                let stored = managed.stored.as_ref();
                (stored.map(|stored| stored.kept.clone()), stored.and_then(|stored| stored.version))
            }
            Found::Untrusted(_, secret) => (secret.open(&self.keys, true).ok(), Some(secret.version)),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one moment's view of all that bears on the rings")]
    pub(super) fn situation<'a>(
        &self,
        name: &'a PolicyName,
        effective: &'a EffectivePolicy,
        declared: &Declared,
        kept: &Kept,
        feed_revoked: &std::collections::BTreeSet<String>,
        fleet: &'a crate::fleet::Fleet,
        since: &'a BTreeMap<String, crate::fleet::Since>,
        now: UnixMillis,
    ) -> Situation<'a> {
        let own = kept.record.revoked.iter().filter(|entry| entry.kind == Kind::Key).map(|entry| entry.id.clone());
        let view = self.context.registry.policy(name);
        let rings = view.iter().flat_map(|view| &view.own).flat_map(|own| &own.rings);
        Situation {
            name,
            effective,
            rotate: rotate_annotations(declared),
            revoked: own.chain(feed_revoked.iter().cloned()).collect(),
            fleet,
            since,
            signs_by: rings.map(|(ring, view)| (*ring, view.ring.version)).collect(),
            server_now: self.server_now(),
            now,
        }
    }

    /// The spec with every default filled in; looked at once per generation.
    fn understand(
        &self,
        name: &PolicyName,
        declared: &Declared,
        managed: &mut Managed,
    ) -> Result<Arc<EffectivePolicy>, Acceptance> {
        let (uid, generation) = (declared.uid(), declared.generation());
        if let Some(held) = managed.understood.as_ref().filter(|held| held.uid == uid && held.generation == generation) {
            return held.outcome.clone();
        }
        let outcome = EffectivePolicy::try_from(&declared.policy).map(Arc::new).map_err(|problems| {
            let message: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Acceptance::Refused { remark: Remark::new("Invalid", message.join("; ")), remedy: Remedy::Person }
        });
        managed.resolved = None;
        managed.generation_since = Some((generation, Instant::now()));
        let issuer = outcome.as_ref().ok().and_then(|effective| effective.issuer.clone());
        let disturbed = self.claims.set(
            name,
            issuer,
            declared.policy.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
        );
        for other in disturbed {
            self.dirty.add(other);
        }
        managed.understood = Some(Understood { uid: uid.to_owned(), generation, outcome: outcome.clone() });
        outcome
    }

    /// What the policy's references gave; read anew when they changed.
    async fn resolve(
        &self,
        name: &PolicyName,
        effective: &Arc<EffectivePolicy>,
        managed: &mut Managed,
    ) -> Result<(Acceptance, Option<Base>), ReconcileError> {
        if self.in_use.take_changed(name) {
            managed.resolved = None;
        }
        if managed.resolved.is_none() {
            let wanted = references::wanted(effective);
            let fetched =
                references::fetch(&self.context.client, name.namespace(), wanted).await.map_err(ReconcileError::Kube)?;
            self.in_use.set(name, &fetched);
            managed.resolved = Some(references::resolution(effective, &fetched));
        }
        let (mut resolved, warnings) = match &managed.resolved {
            Some(Ok((resolved, warnings))) => (resolved.clone(), warnings.clone()),
            Some(Err(refused)) => return Ok((refused.clone(), None)),
            None => return Err(ReconcileError::Conflict),
        };
        let fetched = self.context.registry.foreign_keys(name);
        let held = if references::lacks_foreign(effective, &fetched) {
            let held = self.present(name, managed).await?.map(|bundle| foreign_keys(&bundle)).unwrap_or_default();
            let sources = managed.stored.as_ref().map(|stored| &stored.kept.record.key_sources);
            sources.map(|sources| references::still_theirs(effective, held, sources)).unwrap_or_default()
        } else {
            BTreeMap::new()
        };
        let missing = references::add_foreign(effective, &mut resolved, &fetched, &held);
        let acceptance = match missing {
            Some((remark, remedy)) => Acceptance::Refused { remark, remedy },
            None => Acceptance::Accepted(self.warnings(name, effective, &warnings)),
        };
        Ok((acceptance, Some(Base::Declared(effective.clone(), resolved))))
    }

    fn warnings(&self, name: &PolicyName, effective: &EffectivePolicy, found: &[countersign_api::Problem]) -> Vec<Remark> {
        let mut remarks = Vec::new();
        if let Some(other) = self.claims.earlier(name) {
            let message =
                format!("{other} has the same issuer: tokens of both carry one iss, and each verifies only its own");
            remarks.push(Remark::new("IssuerShared", message));
        }
        let unchecked = |audiences: &Option<Vec<String>>| audiences.as_ref().is_some_and(|a| a.iter().any(|a| a == "*"));
        for trusted in effective.trusted_issuers.iter().filter(|t| unchecked(&t.audiences)) {
            let message =
                format!("the audience of {}'s tokens is not checked: those made for anyone are accepted", trusted.name);
            remarks.push(Remark::new("AudienceUnchecked", message));
        }
        if effective.login.as_ref().is_some_and(|login| login.mail.is_none()) {
            remarks.push(Remark::new(
                "MailNotConfigured",
                "login.mail is absent: mails go out by the issuer's own settings, if it has any",
            ));
        }
        // Others have no reason of their own.
        remarks.extend(found.iter().map(|problem| Remark::new("Accepted", problem.to_string())));
        remarks
    }

    async fn refuse(
        &self,
        name: &PolicyName,
        declared: &Declared,
        namespace_uid: &str,
        why: &Refused,
        managed: &mut Managed,
    ) -> Result<Next, ReconcileError> {
        self.ensure_finalizer(declared).await?;
        let understood = self.understand(name, declared, managed);
        self.publish_refused(name, declared, namespace_uid, why);
        self.report_refused(name, declared, understood.err(), why, managed).await?;
        Ok(Next { within: Some(AT_MOST), ..Next::default() })
    }

    async fn withdraw(
        &self,
        name: &PolicyName,
        declared: Option<&Declared>,
        found: Found,
        managed: &mut Managed,
    ) -> Result<Next, ReconcileError> {
        let (kept, version) = match found {
            // What isn't trusted is replaced, not kept: nobody knows whose keys those are.
            Found::Untrusted(_, secret) => {
                (Some(Kept { record: blank(name), rings: BTreeMap::new() }), Some(secret.version))
            }
            other => self.kept(other, managed),
        };
        let Some(mut kept) = kept else {
            // Nothing was ever made for it.
            if let Some(declared) = declared {
                self.remove_finalizer(declared).await?;
            }
            return Ok(self.forget(name, managed));
        };
        let now = Clock::wall();
        if let Some(declared) = declared {
            kept.record.uid = declared.uid().to_owned();
        }
        kept.record.withdrawn_time = Some(now);
        kept.record.generation =
            next_generation(kept.record.generation, self.context.registry.fleet().held_ahead(name), now);
        kept.record.revoke(managed.ends.iter().flat_map(|end| end.entries.iter().cloned()));
        let until = now.plus(kept.record.retain_ms);
        let tombstone = draft(&Base::Tombstone, &kept);
        self.store(managed, kept, version).await?;
        if let Some(tombstone) = tombstone {
            self.write(&tombstone, managed).await?;
        }
        tracing::info!(policy = %name, %until, "the policy is withdrawn; its keys are kept until then");
        self.stay_withdrawn(name, declared, until, managed).await
    }

    async fn stay_withdrawn(
        &self,
        name: &PolicyName,
        declared: Option<&Declared>,
        until: UnixMillis,
        managed: &mut Managed,
    ) -> Result<Next, ReconcileError> {
        for _ in 0..2 {
            let Some(stored) = &managed.stored else { return Err(ReconcileError::Conflict) };
            let (mut kept, version) = (stored.kept.clone(), stored.version);
            let before = kept.clone();
            kept.record.revoke(managed.ends.iter().flat_map(|end| end.entries.iter().cloned()));
            let now = Clock::wall();
            kept.record.purge(now, self.server_now());
            let ahead = self.context.registry.fleet().held_ahead(name);
            let Some(mut tombstone) = draft(&Base::Tombstone, &kept) else { break };
            let stale = ahead.is_some_and(|held| held > kept.record.generation) || !self.is_written(&tombstone, managed)?;
            if !stale && !managed.rewrite && kept == before {
                break;
            }
            if stale {
                kept.record.generation = next_generation(kept.record.generation, ahead, now);
                tombstone.bundle.generation = kept.record.generation;
            }
            self.store(managed, kept, version).await?;
            if stale {
                self.write(&tombstone, managed).await?;
            }
        }
        managed.tell_ended();
        self.publish_withdrawn(name, managed);
        self.in_use.forget(name);
        let disturbed = self.claims.set(name, None, 0);
        for other in disturbed {
            self.dirty.add(other);
        }
        managed.understood = None;
        if let Some(declared) = declared {
            self.remove_finalizer(declared).await?;
        }
        let left = u64::try_from(until.since(Clock::wall())).unwrap_or(0);
        // Past its time it waits for the feed server's clock.
        let within = Duration::from_millis(left).max(WHILE_WAITING).min(AT_MOST);
        Ok(Next { within: Some(within), ..Next::default() })
    }

    /// The finalizer keeps an object from going before its policy is withdrawn.
    async fn ensure_finalizer(&self, declared: &Declared) -> Result<(), ReconcileError> {
        let has = declared.policy.metadata.finalizers.as_ref().is_some_and(|all| all.iter().any(|f| f == FINALIZER));
        if has { Ok(()) } else { self.patch_finalizers(declared, &[FINALIZER]).await }
    }

    async fn remove_finalizer(&self, declared: &Declared) -> Result<(), ReconcileError> {
        let has = declared.policy.metadata.finalizers.as_ref().is_some_and(|all| all.iter().any(|f| f == FINALIZER));
        if !has {
            return Ok(());
        }
        match self.patch_finalizers(declared, &[]).await {
            // It is gone already.
            Err(ReconcileError::Conflict) => Ok(()),
            other => other,
        }
    }

    async fn patch_finalizers(&self, declared: &Declared, finalizers: &[&str]) -> Result<(), ReconcileError> {
        let metadata = &declared.policy.metadata;
        let namespace = metadata.namespace.as_deref().unwrap_or("default");
        let name = metadata.name.as_deref().unwrap_or_default();
        let api: Api<AuthPolicy> = Api::namespaced(self.context.client.clone(), namespace);
        let patch = json!({
            "apiVersion": "countersign.dev/v1alpha1",
            "kind": "AuthPolicy",
            // With the uid, or applying would create one that is gone.
            "metadata": {"name": name, "namespace": namespace, "uid": metadata.uid, "finalizers": finalizers},
        });
        let params = PatchParams::apply(countersign_api::cluster::FIELD_MANAGER).force();
        api.patch_metadata(name, &params, &Patch::Apply(&patch)).await?;
        Ok(())
    }

    /// Says where a living policy stands, and when to look at it again.
    #[expect(clippy::too_many_arguments, reason = "all that a status is made of")]
    async fn report_live(
        &self,
        name: &PolicyName,
        declared: &Declared,
        namespace_uid: &str,
        understood: &Result<Arc<EffectivePolicy>, Acceptance>,
        acceptance: Acceptance,
        kept: Option<&Kept>,
        managed: &mut Managed,
    ) -> Result<Next, ReconcileError> {
        if kept.is_none() {
            self.publish_unaccepted(name, declared, namespace_uid, understood.as_ref().ok(), &acceptance);
        }
        let standings = Standings { acceptance, effective: understood.as_ref().ok().cloned(), kept };
        let mut next = self.report(name, declared, standings, managed).await?;
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

/// What verifiers are to have come to.
pub(super) fn waits(version: u64, effective: Option<&Arc<EffectivePolicy>>) -> Waits {
    let absent_after_ms = effective.map_or(600_000, |effective| effective.keys.absent_after.as_millis());
    Waits { version, absent_after_ms }
}

fn blank(name: &PolicyName) -> Record {
    Record {
        policy: name.clone(),
        uid: String::new(),
        namespace_uid: String::new(),
        issuer: None,
        generation: 0,
        withdrawn_time: None,
        retain_ms: 0,
        issued_until: None,
        key_sources: BTreeMap::new(),
        revoked: Vec::new(),
    }
}

/// The record of a policy that is in force.
fn adopt_into(record: &mut Record, declared: &Declared, namespace_uid: &str, effective: Option<&EffectivePolicy>) {
    declared.uid().clone_into(&mut record.uid);
    namespace_uid.clone_into(&mut record.namespace_uid);
    record.withdrawn_time = None;
    if let Some(effective) = effective {
        record.issuer.clone_from(&effective.issuer);
        record.retain_ms = effective.retain_after_delete.as_millis();
    }
}

/// Higher than any before it, and than what any verifier holds.
fn next_generation(last: u64, held: Option<u64>, now: UnixMillis) -> u64 {
    let now = u64::try_from(now.0).unwrap_or(0);
    now.max(last + 1).max(held.map_or(0, |held| held + 1))
}

/// Rings whose versions say whether they are the same.
pub(super) fn ring_version(ring: &Ring) -> u64 {
    ring.version
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_rises_over_restores_and_clocks_that_went_back() {
        let now = UnixMillis(1000);
        assert_eq!(next_generation(0, None, now), 1000);
        assert_eq!(next_generation(1000, None, now), 1001);
        assert_eq!(next_generation(5000, None, now), 5001);
        assert_eq!(next_generation(5, Some(7000), now), 7001);
    }

    #[test]
    fn failures_wait_by_their_kind_and_not_for_ever() {
        let conflict = ReconcileError::Conflict;
        assert_eq!(conflict.back_off(0), Duration::from_millis(50));
        assert_eq!(conflict.back_off(99), Duration::from_secs(5));
        let task = ReconcileError::Kube(kube::Error::LinesCodecMaxLineLengthExceeded);
        assert_eq!(task.back_off(0), Duration::from_millis(500));
        assert_eq!(task.back_off(40), Duration::from_mins(1));
    }
}
