//! The ring Secret: what it holds as far as is known, and its one writer.

use countersign_api::{
    cluster::{FIELD_MANAGER, ring_name},
    key_ring::{Kept, Untrusted},
};
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
    record::{RingSecret, RingSeen, Storing as _},
    signing::params,
};
use crate::{
    registry::Request,
    versions::{Shown, shown, version_of},
};

/// The largest content of an object, bytes: the API server takes a mebibyte, and something is around it.
pub(super) const MAX_SECRET: usize = (1 << 20) - (8 << 10);

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
    pub(super) fn system_secrets(&self) -> Api<Secret> {
        Api::namespaced(self.context.client.clone(), &self.context.config.system_namespace)
    }

    /// Finds out what is kept. What this process knows to have written stands over anything older or unsealed: a Secret that
    /// was edited, rolled back or deleted by hand is then written anew. One that the watch once showed later than it does now
    /// shows that the API server was restored.
    pub(super) async fn find(&self, name: &PolicyName, managed: &mut Managed) -> Result<Found, ReconcileError> {
        let object = ring_name(name);
        let cached = self.caches.rings.one(&object);
        let Some(stored) = &mut managed.stored else {
            let is_there = cached.is_some();
            let whole = cached.and_then(RingSeen::whole).filter(|_| !managed.unsure);
            let ask = whole.is_none() && (is_there || managed.unsure || !managed.asked);
            let found = if ask { self.read_ring(&object).await? } else { whole };
            (managed.unsure, managed.asked) = (false, true);
            let Some(secret) = found else { return Ok(Found::Nothing) };
            managed.vouched = secret.adopt.is_some();
            return Ok(match secret.open(name, &self.keys, false) {
                Ok(kept) => {
                    managed.rewrite |= !secret.is_marked(name, &kept.record.uid) || !secret.is_sealed_by(&self.keys);
                    managed.stored = Some(Stored { version: Some(secret.version), kept, confirmed: false });
                    self.caches.rings.change(&object, |seen| seen.remember(secret.version));
                    Found::Stored
                }
                Err(why) => {
                    managed.untrusted = Some(secret.clone());
                    Found::Untrusted(why, secret)
                }
            });
        };
        let shown = shown(stored.version, stored.confirmed, cached.as_ref().map(RingSeen::version));
        let found = match (shown, cached) {
            _ if managed.unsure => self.read_ring(&object).await?,
            (Shown::AsWritten, cached) => {
                stored.confirmed = true;
                // With a key that is to go.
                managed.rewrite |= cached.is_some_and(|seen| !seen.is_sealed_by(&self.keys));
                if let Some(version) = stored.version {
                    self.caches.rings.change(&object, |seen| seen.remember(version));
                }
                return Ok(Found::Stored);
            }
            (Shown::Lags, Some(_)) => return Ok(Found::Stored),
            (Shown::WentBack, _) => return Err(self.went_back(name).await),
            (Shown::Later, Some(RingSeen::Whole(secret))) => Some(secret),
            // Deleted, without its label, or not yet seen by the watch.
            (Shown::Later | Shown::Lags | Shown::Gone, _) => self.read_ring(&object).await?,
        };
        let before = stored.version;
        self.not_before(name, before, found.as_ref().map(|secret| secret.version)).await?;
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
                stored.confirmed = false;
                managed.vouched = secret.adopt.is_some();
                match secret.open(name, &self.keys, false) {
                    Ok(kept) if !kept.is_older_than(&stored.kept) => {
                        // Only its metadata changed, or another leader was here.
                        stored.kept = kept;
                        managed.rewrite |= !secret.is_marked(name, &stored.kept.record.uid);
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

    /// Holds what the API server itself says of an object's version against the one that this process knew it at. No watch need
    /// say so: one that asks from a version that is yet to come again is shown nothing.
    pub(super) async fn not_before(
        &self,
        name: &PolicyName,
        known: Option<u64>,
        found: Option<u64>,
    ) -> Result<(), ReconcileError> {
        if found.is_some_and(|found| known.is_some_and(|known| found < known)) {
            return Err(self.went_back(name).await);
        }
        Ok(())
    }

    /// The API server was restored from a backup: everything begins anew.
    pub(super) async fn went_back(&self, name: &PolicyName) -> ReconcileError {
        tracing::error!(policy = %name, "an object's version is lower than it was: the API server was restored");
        // A dispatcher that has ended ends the process by itself.
        let _ = self.context.registry.ask(Request::WentBack).await;
        ReconcileError::Conflict
    }

    pub(super) async fn read_ring(&self, object: &str) -> Result<Option<RingSecret>, ReconcileError> {
        Ok(self.system_secrets().get_opt(object).await?.map(RingSecret::of))
    }

    /// Whether the Secret still is as it was when it was last read or written: nobody else leads who has decided on it.
    pub(super) async fn is_still_stored(&self, managed: &Managed) -> Result<bool, ReconcileError> {
        let Some(Stored { version: Some(version), kept, .. }) = &managed.stored else { return Ok(false) };
        let found = self.system_secrets().get_metadata_opt(&ring_name(&kept.record.policy)).await?;
        Ok(found.is_some_and(|found| version_of(&found.metadata) == *version))
    }

    /// Writes what is to be kept, if the Secret still is as it was when that was decided.
    pub(super) async fn store(
        &self,
        managed: &mut Managed,
        kept: Kept,
        version: Option<u64>,
    ) -> Result<(), ReconcileError> {
        let secret = kept.to_secret(&self.keys, version)?;
        let length = secret.data.iter().flatten().map(|(_, value)| value.0.len()).sum::<usize>();
        if length > MAX_SECRET {
            return Err(ReconcileError::TooLarge { what: "the key ring's Secret", length });
        }
        let object = ring_name(&kept.record.policy);
        let written = match version {
            None => self.system_secrets().create(&params(), &secret).await,
            // Applying would leave an administrator's word where it is.
            Some(_) if managed.vouched => self.system_secrets().replace(&object, &params(), &secret).await,
            Some(_) => {
                self.system_secrets()
                    .patch(&object, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&secret))
                    .await
            }
        };
        match written {
            Ok(written) => {
                let version = version_of(&written.metadata);
                self.context.versions.note(version);
                managed.stored = Some(Stored { version: Some(version), kept, confirmed: false });
                (managed.rewrite, managed.vouched) = (false, false);
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
        match self.system_secrets().delete(&ring_name(name), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => {
                managed.unsure = true;
                return Err(error.into());
            }
        }
        managed.stored = None;
        managed.asked = false;
        Ok(())
    }
}
