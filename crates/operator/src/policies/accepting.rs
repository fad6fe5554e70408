//! What a policy's spec and its references come to: accepted or not, and the bundle's base.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::policy::EffectivePolicy;
use countersign_core::names::PolicyName;
use tokio::time::Instant;

use super::{
    Reconciler,
    caches::Declared,
    drafting::{Base, foreign_keys},
    foreign,
    memory::{Managed, Understood},
    reconcile::ReconcileError,
    references::{self, Audience, Resolution},
    status::{Acceptance, Remark, Remedy},
};

impl Reconciler {
    /// The spec with every default filled in; looked at once per generation.
    pub(super) fn understand(
        &self,
        name: &PolicyName,
        declared: &Declared,
        managed: &mut Managed,
    ) -> Result<Arc<EffectivePolicy>, Acceptance> {
        let (uid, generation) = (declared.uid(), declared.generation());
        if let Some(held) = managed.understood.as_ref().filter(|held| held.uid == uid && held.generation == generation) {
            return held.outcome.clone();
        }
        let outcome =
            with_defaults(declared).map(Arc::new).map_err(|remark| Acceptance::Refused { remark, remedy: Remedy::Person });
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
        if let Ok(effective) = &outcome {
            managed.last_effective = Some((uid.to_owned(), effective.clone()));
        }
        managed.understood = Some(Understood { uid: uid.to_owned(), generation, outcome: outcome.clone() });
        outcome
    }

    /// What the policy's references gave; read anew when they changed.
    pub(super) async fn resolve(
        &self,
        name: &PolicyName,
        effective: &Arc<EffectivePolicy>,
        managed: &mut Managed,
    ) -> Result<(Acceptance, Option<Base>), ReconcileError> {
        if self.in_use.take_changed(name) {
            managed.resolved = None;
        }
        if managed.resolved.is_none() {
            let audience = self.audience();
            let wanted = references::wanted(effective, audience);
            let fetched =
                references::fetch(&self.context.client, name.namespace(), wanted).await.map_err(ReconcileError::Kube)?;
            self.in_use.set(name, &fetched);
            managed.resolved = Some(references::resolution(effective, &fetched, audience));
        }
        let Resolution { mut resolved, login, warnings } = match &managed.resolved {
            Some(Ok(resolution)) => resolution.clone(),
            Some(Err(refused)) => return Ok((refused.clone(), None)),
            None => return Err(ReconcileError::Conflict),
        };
        let fetched = self.context.registry.foreign_keys(name);
        let held = if foreign::lacks(effective, &fetched) {
            let held = self.present(name, managed).await?.map(|bundle| foreign_keys(&bundle)).unwrap_or_default();
            let sources = managed.stored.as_ref().map(|stored| &stored.kept.record.key_sources);
            sources.map(|sources| foreign::still_theirs(effective, held, sources)).unwrap_or_default()
        } else {
            BTreeMap::new()
        };
        let missing = foreign::add(effective, &mut resolved, &fetched, &held);
        let acceptance = match missing {
            Some((remark, remedy)) => Acceptance::Refused { remark, remedy },
            None => Acceptance::Accepted(self.warnings(name, effective, &warnings)),
        };
        Ok((acceptance, Some(Base::Declared(effective.clone(), resolved, login))))
    }

    /// For whom references are looked at.
    fn audience(&self) -> Audience {
        if self.context.config.no_issuer { Audience::Verifiers } else { Audience::Everyone }
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

    /// The spec by which rings turn and tokens are signed: the present one, or else the last one of this object that made
    /// sense. A mistake in an edit ends nothing that was in force.
    pub(super) fn effective(
        declared: &Declared,
        understood: &Result<Arc<EffectivePolicy>, Acceptance>,
        managed: &Managed,
    ) -> Option<Arc<EffectivePolicy>> {
        let last =
            || managed.last_effective.as_ref().filter(|(uid, _)| uid == declared.uid()).map(|(_, last)| last.clone());
        understood.as_ref().ok().cloned().or_else(last)
    }
}

/// A spec with every default filled in, or what is wrong with it.
fn with_defaults(declared: &Declared) -> Result<EffectivePolicy, Remark> {
    if let Some(why) = &declared.unreadable {
        return Err(Remark::new("Invalid", format!("spec: can't be read by this version of the operator: {why}")));
    }
    EffectivePolicy::try_from(&declared.policy).map_err(|problems| {
        let message: Vec<String> = problems.iter().map(ToString::to_string).collect();
        // A key that stands in the policy itself may be what is wrong.
        let reason = if problems.iter().any(|problem| problem.weak_key) { "WeakKey" } else { "Invalid" };
        Remark::new(reason, message.join("; "))
    })
}
