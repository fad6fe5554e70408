//! What others are told of a policy: the view that other parts share, events, and its status.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use countersign_api::{
    bundle::RingName,
    cluster::FIELD_MANAGER,
    policy::{AuthPolicy, AuthPolicyStatus, EffectivePolicy},
};
use countersign_core::{
    names::PolicyName,
    ring::{Action, Phase, Ring, RingStatus},
};
use countersign_feed::Clock;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Resource as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    Reconciler,
    caches::Declared,
    memory::{Managed, Next},
    reconcile::{ReconcileError, ring_version, waits},
    record::Kept,
    signing::SigningError,
    standing::Refused,
    status::{Acceptance, Keys, Remedy, Situation, Turned, status},
};
use crate::{
    fleet::{Count, Since},
    registry::{OwnKeys, PolicyView, RingView},
    versions::version_of,
};

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
}

impl Reconciler {
    /// Publishes a policy's view, with keys ready to sign.
    #[expect(clippy::too_many_arguments, reason = "all that a view is made of")]
    pub(super) fn publish(
        &self,
        name: &PolicyName,
        declared: &Declared,
        namespace_uid: &str,
        effective: Option<&Arc<EffectivePolicy>>,
        acceptance: &Acceptance,
        kept: &Kept,
        managed: &mut Managed,
    ) -> Result<(), ReconcileError> {
        self.context.registry.turn(name).raise(kept.record.issued_until);
        let mut rings = BTreeMap::new();
        if let Some(effective) = effective {
            let statuses = self.ring_statuses(name, declared, effective, kept, &managed.since);
            for (ring, held) in &kept.rings {
                let version = ring_version(held);
                let known = managed.signers.get(ring).filter(|(of, _)| *of == version).map(|(_, signer)| signer.clone());
                let signer = match known {
                    Some(signer) => signer,
                    None => held.signing_key().map_err(SigningError::from)?.map(Arc::new),
                };
                managed.signers.insert(*ring, (version, signer.clone()));
                let Some(status) = statuses.get(ring).cloned() else { continue };
                rings.insert(*ring, RingView { ring: held.clone(), status, signer });
            }
        }
        let own = kept.record.issuer.clone().filter(|_| !rings.is_empty()).map(|issuer| OwnKeys { issuer, rings });
        let since = managed.written.map(|written| written.since).unwrap_or_default();
        let view = PolicyView {
            name: name.clone(),
            uid: declared.uid().to_owned(),
            namespace_uid: namespace_uid.to_owned(),
            generation: declared.generation(),
            effective: effective.cloned(),
            problem: problem(acceptance),
            withdrawn: false,
            bundle_generation: since.generation,
            bundle_version: since.version,
            own,
            revoked: kept.record.revoked.clone().into(),
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
        since: &BTreeMap<String, Since>,
    ) -> BTreeMap<RingName, RingStatus> {
        let registry = &self.context.registry;
        let (revoked, fleet) = (registry.revoked_keys(name), registry.fleet());
        let situation = self.situation(name, effective, declared, kept, &revoked, &fleet, since, Clock::wall());
        kept.rings.iter().map(|(ring, held)| (*ring, situation.status(*ring, held))).collect()
    }

    /// A policy for which nothing was made yet: others may have to fetch what it lacks.
    pub(super) fn publish_unaccepted(
        &self,
        name: &PolicyName,
        declared: &Declared,
        namespace_uid: &str,
        effective: Option<&Arc<EffectivePolicy>>,
        acceptance: &Acceptance,
    ) {
        self.show(PolicyView {
            effective: effective.cloned(),
            problem: problem(acceptance),
            ..bare(name, declared, namespace_uid)
        });
    }

    /// A policy whose kept keys may not be used.
    pub(super) fn publish_refused(&self, name: &PolicyName, declared: &Declared, namespace_uid: &str, why: &Refused) {
        self.show(PolicyView { problem: Some(why.to_string()), ..bare(name, declared, namespace_uid) });
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

    /// Events and log lines of what was done to a policy's rings.
    pub(super) fn tell(&self, name: &PolicyName, declared: &Declared, planned: &BTreeMap<RingName, Vec<Action>>) {
        let regarding = reference(declared);
        let events = &self.context.events;
        for (ring, actions) in planned {
            let ring = ring.word();
            for action in actions {
                match action {
                    Action::Create { algorithm, cause } => {
                        tracing::info!(policy = %name, ring, ?cause, %algorithm, "a key is made");
                        events.normal(&regarding, "KeyGenerated", format!("a new {algorithm} key for the {ring} ring"));
                    }
                    Action::Activate { kid, unacknowledged, .. } => {
                        tracing::info!(policy = %name, ring, kid, unacknowledged, "the key signs");
                        events.normal(&regarding, "KeyActivated", format!("key {kid} of the {ring} ring signs"));
                    }
                    Action::Revoke { kid } => {
                        tracing::warn!(policy = %name, ring, kid, "the key is revoked");
                        events.warning(
                            &regarding,
                            "KeyRevoked",
                            format!("key {kid} of the {ring} ring is revoked for good"),
                        );
                    }
                    Action::Remove { kid } => {
                        tracing::info!(policy = %name, ring, kid, "the key is gone");
                        events.normal(
                            &regarding,
                            "KeyRetired",
                            format!("key {kid} of the {ring} ring is gone: nothing it signed lives"),
                        );
                    }
                    _ => {}
                }
            }
        }
    }

    pub(super) fn tell_adopted(&self, name: &PolicyName, declared: &Declared) {
        tracing::info!(policy = %name, "the policy took over the keys of an earlier one of its name");
        let note = "the keys that an earlier policy of this name left are taken over";
        self.context.events.normal(&reference(declared), "Adopted", note);
    }

    /// Says that a policy's kept keys may not be used.
    pub(super) async fn report_refused(
        &self,
        name: &PolicyName,
        declared: &Declared,
        unaccepted: Option<Acceptance>,
        why: &Refused,
        managed: &mut Managed,
    ) -> Result<(), ReconcileError> {
        let hint = format!(
            "{why}; to take them over all the same, annotate the Secret {} in {} with {}={}",
            countersign_api::cluster::ring_name(name),
            self.context.config.system_namespace,
            countersign_api::cluster::ADOPT_ANNOTATION,
            declared.uid(),
        );
        let acceptance = unaccepted.unwrap_or(Acceptance::Accepted(Vec::new()));
        let before = before(declared, managed);
        let said = status(&Situation {
            generation: declared.generation(),
            before: &before,
            acceptance,
            keys: Keys::Refused(hint),
            count: Count::default(),
            bundle_generation: 0,
            feed_reached: true,
            lagging_for_long: false,
            refresh: false,
            issuers: 0,
            now: Clock::wall(),
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
        let mut keys = if effective.is_some_and(|e| e.issuer.is_none()) { Keys::NotNeeded } else { Keys::NotYet };
        if let (Some(effective), Some(kept)) = (effective, standings.kept)
            && !kept.rings.is_empty()
        {
            let revoked = self.context.registry.revoked_keys(name);
            let situation = self.situation(name, effective, declared, kept, &revoked, &fleet, &managed.since, now);
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
        }
        let before = before(declared, managed);
        let waited_long = managed.lagging_since.is_some_and(|since| since.elapsed() >= millis(absent_after));
        let refresh = managed.status_at.get_or_insert_with(Instant::now).elapsed() >= REFRESH;
        let settles_within = match &standings.acceptance {
            Acceptance::Accepted(_) => SETTLES_WITHIN,
            Acceptance::Refused { remedy: Remedy::Moment, .. } => FETCHED_WITHIN,
            Acceptance::Refused { .. } => Duration::ZERO,
        };
        let accepted = matches!(standings.acceptance, Acceptance::Accepted(_));
        let said = status(&Situation {
            generation: declared.generation(),
            before: &before,
            acceptance: standings.acceptance,
            keys,
            count: count.clone(),
            bundle_generation: present.generation,
            feed_reached: fleet.reached,
            lagging_for_long: waited_long,
            refresh,
            issuers: fleet.issuers,
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
        let api: Api<AuthPolicy> = Api::namespaced(self.context.client.clone(), namespace);
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

    /// Events for what a condition says for the first time.
    fn tell_changes(&self, declared: &Declared, before: &AuthPolicyStatus, said: &AuthPolicyStatus) {
        let regarding = reference(declared);
        let reason = |status: &AuthPolicyStatus, type_: &str| {
            status.conditions.iter().find(|c| c.type_ == type_).map(|c| (c.reason.clone(), c.message.clone()))
        };
        for (type_, reasons) in [
            ("Accepted", &["SecretNotFound", "SecretInvalid", "WeakKey", "IssuerShared", "TooLarge", "Invalid"][..]),
            ("KeysReady", &["RotationWaiting", "EmergencyUnacknowledged", "AdoptionRefused"]),
            ("Enforced", &["VerifiersRefused"]),
        ] {
            let (Some((now, message)), then) = (reason(said, type_), reason(before, type_)) else { continue };
            if then.is_some_and(|(then, _)| then == now) || !reasons.contains(&now.as_str()) {
                continue;
            }
            let event = match now.as_str() {
                "VerifiersRefused" => "BundleRefused",
                "SecretNotFound" => "SecretInvalid",
                other => other,
            };
            self.context.events.warning(&regarding, event, message);
        }
    }
}

fn alike(a: &PolicyView, b: &PolicyView) -> bool {
    let rings = |view: &PolicyView| -> Vec<(RingName, Ring, RingStatus)> {
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

/// The status as it is, as far as is known: what was written last, unless the watch shows something later.
fn before(declared: &Declared, managed: &Managed) -> AuthPolicyStatus {
    match &managed.status {
        Some((version, status)) if *version >= declared.version => status.clone(),
        _ => declared.policy.status.clone().unwrap_or_default(),
    }
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

fn reference(declared: &Declared) -> ObjectReference {
    declared.policy.object_ref(&())
}
