//! Bundles on the API server: whether they are as they ought to be, and their one writer.
//!
//! Every write carries the version that it was decided on, so that a leader of yesterday overwrites nothing. A bundle that
//! somebody else wrote, deleted or put back is written anew, and whatever verifiers acknowledged of its keys counts no more: one
//! that starts at that moment reads the wrong bundle.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use countersign_api::{
    bundle::{self, Bundle},
    cluster::{
        BUNDLE_KEY, BUNDLE_LABEL, FIELD_MANAGER, FORMAT, OWNER_UID_LABEL, POLICY_ANNOTATION, VERIFY_SECRETS_KEY,
        VERIFY_SECRETS_LABEL, bundle_name,
    },
};
use countersign_core::{digest::sha256, names::PolicyName};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Resource,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Reconciler,
    drafting::Draft,
    memory::{Managed, Written},
    reconcile::ReconcileError,
    signing::params,
};
use crate::{
    fleet::Since,
    versions::{Shown, shown, version_of},
};

/// The versions that bundle and verify-secrets were decided on; `None`: there is none yet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct DecidedOn {
    bundle: Option<u64>,
    secrets: Option<u64>,
}

impl Reconciler {
    fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.context.client.clone(), &self.context.config.bundles_namespace)
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.context.client.clone(), &self.context.config.bundles_namespace)
    }

    /// The content of the bundle that is written, if it is one of ours.
    pub(super) async fn present(
        &self,
        name: &PolicyName,
        managed: &mut Managed,
    ) -> Result<Option<Arc<Bundle>>, ReconcileError> {
        if managed.present.is_none() {
            let map = self.maps().get_opt(&bundle_name(name)).await?;
            let text = map.and_then(|map| map.data?.remove(BUNDLE_KEY));
            let opened = text.map(|text| bundle::open(text.as_bytes(), &self.keys.trust(), None));
            managed.present = match opened {
                Some(Ok(bundle)) if bundle.policy == *name => Some(Arc::new(bundle)),
                Some(Err(why)) => {
                    tracing::error!(policy = %name, %why, "the bundle that is there is not one of ours");
                    None
                }
                _ => None,
            };
        }
        Ok(managed.present.clone())
    }

    /// A bundle of ours that is later than anything that is kept of its policy.
    pub(super) async fn later_bundle(
        &self,
        name: &PolicyName,
        kept: u64,
        managed: &mut Managed,
    ) -> Result<Option<Arc<Bundle>>, ReconcileError> {
        let claims_more = self.caches.bundles.one(&bundle_name(name)).is_some_and(|seen| seen.generation > kept);
        if !claims_more {
            return Ok(None);
        }
        Ok(self.present(name, managed).await?.filter(|bundle| bundle.generation > kept))
    }

    /// Takes note of what the watch shows of the bundle: what somebody else did to it makes acknowledgements void.
    pub(super) async fn look_at_bundle(&self, name: &PolicyName, managed: &mut Managed) -> Result<(), ReconcileError> {
        let Some(written) = &mut managed.written else { return Ok(()) };
        let cached = self.caches.bundles.one(&bundle_name(name)).map(|seen| seen.version);
        let shown = match shown(Some(written.since.version), written.confirmed, cached) {
            // Not yet seen by the watch, or deleted before anybody looked.
            Shown::Lags if cached.is_none() => {
                let found = self.maps().get_metadata_opt(&bundle_name(name)).await?;
                match shown(Some(written.since.version), true, found.map(|found| version_of(&found.metadata))) {
                    Shown::AsWritten => Shown::Lags,
                    shown => shown,
                }
            }
            shown => shown,
        };
        match shown {
            Shown::Lags => {}
            Shown::AsWritten => written.confirmed = true,
            Shown::WentBack => return Err(self.went_back(name).await),
            Shown::Later | Shown::Gone => {
                tracing::warn!(policy = %name, "somebody else changed the bundle; who holds its keys is asked anew");
                managed.bundle_changed();
            }
        }
        Ok(())
    }

    /// The bundle as it is now, as far as is known: what was written last, unless the watch shows something later.
    fn seen(&self, name: &PolicyName, managed: &Managed) -> Option<Written> {
        managed.written.or_else(|| {
            let cached = self.caches.bundles.one(&bundle_name(name))?;
            let since = Since { version: cached.version, generation: 0 };
            Some(Written { since, sha256: cached.sha256, confirmed: true })
        })
    }

    /// Whether the bundle that is there is this one, byte for byte, and marked as it ought to be.
    pub(super) fn is_written(&self, draft: &Draft, managed: &mut Managed) -> Result<bool, ReconcileError> {
        let name = &draft.bundle.policy;
        let Some(seen) = self.seen(name, managed) else { return Ok(false) };
        if managed.rewrite_bundle || managed.bundle_unsure || !self.secrets_are_right(draft, managed) {
            return Ok(false);
        }
        if let Some(cached) = self.caches.bundles.one(&bundle_name(name))
            && cached.version >= seen.since.version
            && (cached.owner.as_deref() != Some(draft.bundle.uid.as_str())
                || cached.policy.as_deref() != Some(name.as_str()))
        {
            return Ok(false);
        }
        let sealed = self.keys.seal_bundle(&draft.bundle)?;
        if sha256(sealed.as_bytes()) != seen.sha256 {
            return Ok(false);
        }
        let generation = draft.bundle.generation;
        let written = Written { since: Since { generation, ..seen.since }, ..seen };
        managed.written = Some(written);
        managed.unwritten = None;
        note_keys(managed, &draft.bundle, written.since);
        Ok(true)
    }

    fn secrets_are_right(&self, draft: &Draft, managed: &mut Managed) -> bool {
        let cached = self.caches.verify_secrets.one(&bundle_name(&draft.bundle.policy));
        if draft.keeps_secrets {
            return true;
        }
        match (&draft.secrets, &mut managed.secrets, cached) {
            (None, _, cached) => cached.is_none(),
            // Ours, and nobody has touched them; the watch may not have come to them yet.
            (Some(_), Some((ours, shown)), Some(cached)) => {
                *shown |= cached.version == *ours;
                cached.version <= *ours
            }
            (Some(_), Some((_, shown)), None) => !*shown,
            (Some(_), None, _) => false,
        }
    }

    /// Has a look at verify-secrets that an earlier leader wrote, so that they needn't be written anew.
    pub(super) async fn recognise_secrets(&self, draft: &Draft, managed: &mut Managed) -> Result<(), ReconcileError> {
        let name = bundle_name(&draft.bundle.policy);
        let (Some(secrets), None, Some(_)) = (&draft.secrets, managed.secrets, self.caches.verify_secrets.one(&name))
        else {
            return Ok(());
        };
        let Some(found) = self.secrets().get_opt(&name).await? else { return Ok(()) };
        let held = found.data.as_ref().and_then(|data| data.get(VERIFY_SECRETS_KEY));
        if held.is_some_and(|held| held.0 == secrets.to_json().as_bytes()) {
            managed.secrets = Some((version_of(&found.metadata), true));
        }
        Ok(())
    }

    /// Whether the bundle is still the one that acknowledgements were counted for; asked of the API server itself, before a key
    /// signs because of them. If not, they count no more.
    pub(super) async fn is_as_acknowledged(
        &self,
        name: &PolicyName,
        managed: &mut Managed,
    ) -> Result<bool, ReconcileError> {
        let Some(written) = managed.written else { return Ok(true) };
        let found = self.maps().get_metadata_opt(&bundle_name(name)).await?.map(|found| version_of(&found.metadata));
        self.not_before(name, Some(written.since.version), found).await?;
        let same = found == Some(written.since.version);
        if !same {
            managed.bundle_changed();
            managed.bundle_unsure = true;
        }
        Ok(same)
    }

    /// The versions that a write is decided on. To be asked before the rings are stored, so that nothing that another leader
    /// writes after that is overwritten.
    pub(super) async fn decided_on(&self, name: &PolicyName, managed: &mut Managed) -> Result<DecidedOn, ReconcileError> {
        let object = bundle_name(name);
        if managed.bundle_unsure {
            let bundle = self.maps().get_metadata_opt(&object).await?.map(|found| version_of(&found.metadata));
            let secrets = self.secrets().get_metadata_opt(&object).await?.map(|found| version_of(&found.metadata));
            self.not_before(name, managed.written.map(|written| written.since.version), bundle).await?;
            managed.since.clear();
            return Ok(DecidedOn { bundle, secrets });
        }
        let secrets = managed.secrets.map(|(version, _)| version);
        Ok(DecidedOn {
            bundle: self.seen(name, managed).map(|seen| seen.since.version),
            secrets: secrets.max(self.caches.verify_secrets.one(&object).map(|seen| seen.version)),
        })
    }

    /// Writes the bundle and, before it, the secrets that it names.
    pub(super) async fn write(
        &self,
        draft: &Draft,
        decided_on: DecidedOn,
        managed: &mut Managed,
    ) -> Result<(), ReconcileError> {
        // Whatever fails below, what is there then isn't known.
        managed.bundle_unsure = true;
        let written = self.write_both(draft, decided_on, managed).await;
        managed.bundle_unsure = written.is_err();
        if let Err(error) = &written
            && !matches!(error, ReconcileError::Conflict)
        {
            managed.unwritten = Some(error.to_string());
        }
        written
    }

    async fn write_both(&self, draft: &Draft, decided_on: DecidedOn, managed: &mut Managed) -> Result<(), ReconcileError> {
        let bundle = &draft.bundle;
        let name = bundle_name(&bundle.policy);
        if let Some(secrets) = &draft.secrets {
            let secret = Secret {
                metadata: metadata(bundle, VERIFY_SECRETS_LABEL),
                data: Some(BTreeMap::from([(
                    VERIFY_SECRETS_KEY.to_owned(),
                    ByteString(secrets.to_json().as_bytes().to_vec()),
                )])),
                ..Secret::default()
            };
            let written = put(&self.secrets(), &name, secret, decided_on.secrets).await?;
            let version = version_of(&written.metadata);
            self.context.versions.note(version);
            managed.secrets = Some((version, false));
        }
        let sealed = self.keys.seal_bundle(bundle)?;
        let sha256 = sha256(sealed.as_bytes());
        let map = ConfigMap {
            metadata: metadata(bundle, BUNDLE_LABEL),
            data: Some(BTreeMap::from([(BUNDLE_KEY.to_owned(), sealed)])),
            ..ConfigMap::default()
        };
        let written = put(&self.maps(), &name, map, decided_on.bundle).await?;
        let since = Since { version: version_of(&written.metadata), generation: bundle.generation };
        self.context.versions.note(since.version);
        managed.written = Some(Written { since, sha256, confirmed: false });
        managed.rewrite_bundle = false;
        (managed.reserved, managed.unwritten) = (None, None);
        note_keys(managed, bundle, since);
        if draft.secrets.is_none() && !draft.keeps_secrets {
            managed.secrets = None;
            self.erase_secrets(&name).await?;
        }
        tracing::debug!(policy = %bundle.policy, generation = bundle.generation, version = since.version, "bundle written");
        Ok(())
    }

    async fn erase_secrets(&self, object: &str) -> Result<(), ReconcileError> {
        let Some(seen) = self.caches.verify_secrets.one(object) else { return Ok(()) };
        gone(self.secrets().delete(object, &only(seen.version, seen.uid)).await)
    }

    /// Deletes the bundle for good, if it still is the one that is known.
    pub(super) async fn erase_bundle(&self, name: &PolicyName, managed: &mut Managed) -> Result<(), ReconcileError> {
        let object = bundle_name(name);
        self.erase_secrets(&object).await?;
        if let Some(seen) = self.caches.bundles.one(&object) {
            gone(self.maps().delete(&object, &only(seen.version, seen.uid)).await)?;
        }
        managed.bundle_changed();
        Ok(())
    }
}

/// Creates an object, or applies it if it still is at the version that this was decided on.
pub(super) async fn put<K>(api: &Api<K>, name: &str, mut object: K, decided_on: Option<u64>) -> Result<K, kube::Error>
where
    K: Resource + Serialize + DeserializeOwned + Clone + Debug,
{
    let Some(version) = decided_on else { return api.create(&params(), &object).await };
    object.meta_mut().resource_version = Some(version.to_string());
    api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&object)).await
}

/// Only this very object, as it was seen.
pub(super) fn only(version: u64, uid: Option<String>) -> DeleteParams {
    let only_this = Preconditions { resource_version: Some(version.to_string()), uid };
    DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() }
}

/// From which write on each key of a bundle has been there.
fn note_keys(managed: &mut Managed, bundle: &Bundle, since: Since) {
    let keys = bundle.verify.iter().flat_map(|verify| &verify.keys);
    let kids: Vec<&String> = keys.filter_map(|key| key.jwk.kid.as_ref()).collect();
    managed.since.retain(|kid, _| kids.contains(&kid));
    for kid in kids {
        managed.since.entry(kid.clone()).or_insert(since);
    }
}

/// A deletion that found nothing did what it should.
pub(super) fn gone<T>(deleted: Result<T, kube::Error>) -> Result<(), ReconcileError> {
    match deleted {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn metadata(bundle: &Bundle, label: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(bundle_name(&bundle.policy)),
        labels: Some(BTreeMap::from([
            (label.to_owned(), FORMAT.to_owned()),
            (OWNER_UID_LABEL.to_owned(), bundle.uid.clone()),
        ])),
        annotations: Some(BTreeMap::from([(POLICY_ANNOTATION.to_owned(), bundle.policy.to_string())])),
        ..ObjectMeta::default()
    }
}
