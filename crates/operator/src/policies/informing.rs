//! What issuers are told of a policy beside its bundle and its rings, in a Secret of its own: the policy as it was accepted last,
//! and what its part about people refers to.
//!
//! No verifier reads it, and none is touched when it changes. It is written like a bundle: fenced by the version that it was
//! decided on and by the rings, only when it says something else, and anew when somebody else changed it or the key that signs is
//! another. While an edit isn't accepted it stays as it was. Where no issuer is installed there is none.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{
    cluster::{FORMAT, ISSUE_KEY, ISSUE_LABEL, OWNER_UID_LABEL, POLICY_ANNOTATION, issue_name},
    issue::{IssueSection, SCHEMA},
    key_ring::Record,
};
use countersign_core::{digest::sha256, names::PolicyName};
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use zeroize::Zeroizing;

use super::{
    Reconciler,
    bundles::{gone, only, put},
    caches::Declared,
    drafting::{Base, TooLarge},
    keeping::MAX_SECRET,
    memory::Managed,
    reconcile::ReconcileError,
};
use crate::versions::{Shown, shown, version_of};

/// The Secret as it was last written, or found as it ought to be.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    version: u64,
    section: Arc<IssueSection>,
    /// The kid of the key that signed it.
    key: String,
    /// The watch has shown it, so that its absence there means something.
    confirmed: bool,
}

/// What is to be done about the Secret.
pub(super) enum Telling {
    /// Nothing: it is as it ought to be, or nothing better is known.
    Stays,
    /// It is to say this.
    Write {
        section: Arc<IssueSection>,
        /// The kid of the key that signed it.
        key: String,
        sealed: Zeroizing<String>,
    },
}

impl Telling {
    /// Whether it is too much for a Secret.
    pub(super) fn too_large(&self) -> Option<TooLarge> {
        let Self::Write { section, sealed, .. } = self else { return None };
        let lists = section.references.breached.is_some();
        (sealed.len() > MAX_SECRET).then(|| TooLarge::Issuers { length: sealed.len(), lists })
    }

    /// Whether there is anything to write.
    pub(super) const fn is_stale(&self) -> bool {
        matches!(self, Self::Write { .. })
    }
}

impl Reconciler {
    /// Whether anybody is there to be told, who logs people in to this policy.
    pub(super) fn has_issuer(&self, record: &Record) -> bool {
        record.issuer.is_some() && !self.context.config.no_issuer
    }

    /// Takes note of what the watch shows of the Secret.
    pub(super) async fn look_at_told(&self, name: &PolicyName, managed: &mut Managed) -> Result<(), ReconcileError> {
        let Some(told) = &mut managed.told else { return Ok(()) };
        let object = issue_name(name);
        let cached = self.caches.issues.one(&object).map(|seen| seen.version);
        let mut found = shown(Some(told.version), told.confirmed, cached);
        if found == Shown::Lags && cached.is_none() {
            // Not yet seen by the watch, or deleted before anybody looked.
            let metadata = self.system_secrets().get_metadata_opt(&object).await?;
            found = match shown(Some(told.version), true, metadata.map(|found| version_of(&found.metadata))) {
                Shown::AsWritten => Shown::Lags,
                found => found,
            };
        }
        match found {
            Shown::Lags => {}
            Shown::AsWritten => told.confirmed = true,
            Shown::WentBack => return Err(self.went_back(name).await),
            Shown::Later | Shown::Gone => managed.told = None,
        }
        Ok(())
    }

    /// What is to be done about the Secret, where the policy has come to `base`.
    pub(super) async fn telling(
        &self,
        declared: &Declared,
        base: Option<&Base>,
        record: &Record,
        managed: &mut Managed,
    ) -> Result<Telling, ReconcileError> {
        if !self.has_issuer(record) {
            return Ok(Telling::Stays);
        }
        let section = if let Some(Base::Declared(_, _, references)) = base {
            IssueSection {
                schema: SCHEMA,
                policy: record.policy.clone(),
                uid: record.uid.clone(),
                generation: declared.generation(),
                spec: declared.policy.spec.clone(),
                references: references.clone(),
            }
        } else if let Some(last) = self.last_told(&record.policy, managed).await? {
            IssueSection { uid: record.uid.clone(), ..IssueSection::clone(&last) }
        } else {
            return Ok(Telling::Stays);
        };
        self.compared(section, managed)
    }

    /// A section beside what is there.
    fn compared(&self, section: IssueSection, managed: &mut Managed) -> Result<Telling, ReconcileError> {
        if managed.told.as_ref().is_some_and(|told| *told.section == section && self.keys.signs(&told.key)) {
            return Ok(Telling::Stays);
        }
        let section = Arc::new(section);
        let (key, sealed) = self.keys.seal_issue(&section)?;
        if managed.told.is_none()
            && !managed.told_unsure
            && let Some(seen) = self.caches.issues.one(&issue_name(&section.policy))
            && seen.sha256 == sha256(sealed.as_bytes())
            && seen.owner.as_ref() == Some(&section.uid)
            && seen.policy.as_deref() == Some(section.policy.as_str())
        {
            managed.section = Some(section.clone());
            managed.told = Some(Told { version: seen.version, section, key, confirmed: true });
            return Ok(Telling::Stays);
        }
        Ok(Telling::Write { section, key, sealed })
    }

    /// What issuers were told last, as far as anybody knows: what this process wrote or, before it wrote any, what is there
    /// and is one of ours.
    async fn last_told(
        &self,
        name: &PolicyName,
        managed: &mut Managed,
    ) -> Result<Option<Arc<IssueSection>>, ReconcileError> {
        let object = issue_name(name);
        if managed.section.is_none() && self.caches.issues.one(&object).is_some() {
            let secret = self.system_secrets().get_opt(&object).await?;
            let bytes = secret.and_then(|secret| Some(Zeroizing::new(secret.data?.remove(ISSUE_KEY)?.0)));
            match bytes.map(|bytes| IssueSection::open(&bytes, &self.keys.trust(), name)) {
                Some(Ok(section)) => managed.section = Some(Arc::new(section)),
                Some(Err(why)) => tracing::error!(policy = %name, %why, "what is there for issuers is not ours"),
                None => {}
            }
        }
        Ok(managed.section.clone())
    }

    /// The version of the Secret that a write is decided on. To be asked before the rings are stored.
    pub(super) async fn told_decided_on(
        &self,
        name: &PolicyName,
        managed: &Managed,
    ) -> Result<Option<u64>, ReconcileError> {
        let object = issue_name(name);
        if managed.told_unsure {
            let found = self.system_secrets().get_metadata_opt(&object).await?.map(|found| version_of(&found.metadata));
            self.not_before(name, managed.told.as_ref().map(|told| told.version), found).await?;
            return Ok(found);
        }
        let told = managed.told.as_ref().map(|told| told.version);
        Ok(told.or_else(|| Some(self.caches.issues.one(&object)?.version)))
    }

    /// Writes what is to be told, if the Secret still is as it was when that was decided.
    pub(super) async fn tell_issuers(
        &self,
        telling: Telling,
        decided_on: Option<u64>,
        managed: &mut Managed,
    ) -> Result<(), ReconcileError> {
        let Telling::Write { section, key, sealed } = telling else { return Ok(()) };
        let object = issue_name(&section.policy);
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(object.clone()),
                labels: Some(BTreeMap::from([
                    (ISSUE_LABEL.to_owned(), FORMAT.to_owned()),
                    (OWNER_UID_LABEL.to_owned(), section.uid.clone()),
                ])),
                annotations: Some(BTreeMap::from([(POLICY_ANNOTATION.to_owned(), section.policy.to_string())])),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(ISSUE_KEY.to_owned(), ByteString(sealed.as_bytes().to_vec()))])),
            ..Secret::default()
        };
        // Whatever fails below, what is there then isn't known.
        managed.told_unsure = true;
        let written = put(&self.system_secrets(), &object, secret, decided_on).await.map_err(ReconcileError::from);
        match written {
            Ok(written) => {
                let version = version_of(&written.metadata);
                self.context.versions.note(version);
                tracing::debug!(policy = %section.policy, version, "issuers are told");
                managed.told_unsure = false;
                managed.section = Some(section.clone());
                managed.told = Some(Told { version, section, key, confirmed: false });
                Ok(())
            }
            Err(error) => {
                if !matches!(error, ReconcileError::Conflict) {
                    managed.unwritten = Some(error.to_string());
                }
                Err(error)
            }
        }
    }

    /// Keeps what is told of a policy that is withdrawn: signed with the key that signs now. Nothing else about it changes.
    pub(super) async fn keep_told(&self, record: &Record, managed: &mut Managed) -> Result<(), ReconcileError> {
        let name = &record.policy;
        if !self.has_issuer(record) {
            return self.erase_told(name, managed).await;
        }
        let seen = self.caches.issues.one(&issue_name(name));
        if seen.is_none_or(|seen| seen.key.is_none_or(|key| self.keys.signs(&key))) {
            return Ok(());
        }
        let Some(last) = self.last_told(name, managed).await? else { return Ok(()) };
        let telling = self.compared(IssueSection::clone(&last), managed)?;
        let decided_on = self.told_decided_on(name, managed).await?;
        if telling.is_stale() && self.is_still_stored(managed).await? {
            self.tell_issuers(telling, decided_on, managed).await?;
        }
        Ok(())
    }

    /// Deletes the Secret, if it still is the one that is known.
    pub(super) async fn erase_told(&self, name: &PolicyName, managed: &mut Managed) -> Result<(), ReconcileError> {
        let object = issue_name(name);
        if let Some(seen) = self.caches.issues.one(&object) {
            gone(self.system_secrets().delete(&object, &only(seen.version, seen.uid)).await)?;
        }
        (managed.told, managed.section) = (None, None);
        Ok(())
    }
}
