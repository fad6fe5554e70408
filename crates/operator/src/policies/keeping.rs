//! The ring Secret: what it holds as far as is known, and its one writer.

use countersign_api::cluster::{FIELD_MANAGER, ring_name};
use countersign_core::names::PolicyName;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};

use super::{
    Reconciler,
    memory::{Managed, Stored},
    reconcile::ReconcileError,
    record::{Kept, RingSecret, Untrusted},
    signing::params,
};
use crate::versions::version_of;

/// What is kept of a policy.
#[derive(Debug)]
pub(super) enum Found {
    Nothing,
    /// It stands in [`Managed::stored`].
    Stored,
    /// Something at this version that isn't trusted.
    Untrusted(Untrusted, RingSecret),
}

impl Reconciler {
    fn ring_secrets(&self) -> Api<Secret> {
        Api::namespaced(self.context.client.clone(), &self.context.config.system_namespace)
    }

    /// Finds out what is kept. What this process knows to have written stands over anything older or unsealed: a Secret that
    /// was edited, rolled back or deleted by hand is then written anew.
    pub(super) async fn find(&self, name: &PolicyName, managed: &mut Managed) -> Result<Found, ReconcileError> {
        let object = ring_name(name);
        let cached = self.caches.rings.one(&object);
        let Some(stored) = &mut managed.stored else {
            let found = if managed.unsure { self.read_ring(&object).await? } else { cached };
            managed.unsure = false;
            let Some(secret) = found else { return Ok(Found::Nothing) };
            return Ok(match secret.open(&self.keys, false) {
                Ok(kept) => {
                    managed.stored = Some(Stored { version: Some(secret.version), kept });
                    Found::Stored
                }
                Err(why) => Found::Untrusted(why, secret),
            });
        };
        let lags = |secret: &RingSecret| stored.version.is_some_and(|version| secret.version <= version);
        let found = match cached {
            Some(secret) if !managed.unsure && lags(&secret) => return Ok(Found::Stored),
            Some(secret) if !managed.unsure => Some(secret),
            // Deleted, without its label, or not yet seen by the watch; or nothing about versions is certain.
            _ => self.read_ring(&object).await?,
        };
        managed.unsure = false;
        match found {
            None => {
                tracing::error!(policy = %name, "the key ring's Secret was deleted; it is written anew");
                stored.version = None;
                managed.rewrite = true;
            }
            Some(secret) if stored.version == Some(secret.version) => {}
            Some(secret) => {
                stored.version = Some(secret.version);
                match secret.open(&self.keys, false) {
                    Ok(kept) if kept.record.generation >= stored.kept.record.generation => {
                        // Only its metadata changed, or another leader was here.
                        stored.kept = kept;
                        managed.rewrite |= secret.owner.as_deref() != Some(stored.kept.record.uid.as_str());
                    }
                    Ok(_) => {
                        tracing::error!(policy = %name, "the key ring's Secret holds an older state; it is written anew");
                        managed.rewrite = true;
                    }
                    Err(why) => {
                        tracing::error!(policy = %name, %why, "what the operator wrote is written anew");
                        managed.rewrite = true;
                    }
                }
            }
        }
        Ok(Found::Stored)
    }

    async fn read_ring(&self, object: &str) -> Result<Option<RingSecret>, ReconcileError> {
        Ok(self.ring_secrets().get_opt(object).await?.and_then(RingSecret::of))
    }

    /// Writes what is to be kept, if the Secret still is as it was when that was decided.
    pub(super) async fn store(
        &self,
        managed: &mut Managed,
        kept: Kept,
        version: Option<u64>,
    ) -> Result<(), ReconcileError> {
        let secret = kept.to_secret(&self.keys, version)?;
        let object = ring_name(&kept.record.policy);
        let written = match version {
            None => self.ring_secrets().create(&params(), &secret).await,
            Some(_) => {
                self.ring_secrets().patch(&object, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&secret)).await
            }
        };
        match written {
            Ok(written) => {
                let version = version_of(&written.metadata);
                self.context.versions.note(version);
                managed.stored = Some(Stored { version: Some(version), kept });
                managed.rewrite = false;
                Ok(())
            }
            Err(error) => {
                // Whether it was written is unknown, unless the API server said no.
                managed.unsure = true;
                Err(error.into())
            }
        }
    }

    /// Deletes what was kept.
    pub(super) async fn erase_ring(&self, name: &PolicyName, managed: &mut Managed) -> Result<(), ReconcileError> {
        let Some(Stored { version: Some(version), .. }) = &managed.stored else { return Ok(()) };
        let only_this = Preconditions { resource_version: Some(version.to_string()), uid: None };
        let params = DeleteParams { preconditions: Some(only_this), ..DeleteParams::default() };
        match self.ring_secrets().delete(&ring_name(name), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                managed.unsure = true;
                return Err(error.into());
            }
        }
        managed.stored = None;
        Ok(())
    }
}
