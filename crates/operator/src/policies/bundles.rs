//! Bundles: what they ought to say, whether they say it, and their one writer.

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{
    bundle::{self, BuildInput, Bundle, BundleIssuerKeys, BundleKey, Resolved, RingName, SCHEMA, VerifySecrets},
    cluster::{
        BUNDLE_KEY, BUNDLE_LABEL, FIELD_MANAGER, FORMAT, OWNER_UID_LABEL, POLICY_ANNOTATION, VERIFY_SECRETS_KEY,
        VERIFY_SECRETS_LABEL, bundle_name,
    },
    policy::EffectivePolicy,
};
use countersign_core::{
    digest::sha256,
    jose::{Jwk, JwkSet},
    names::PolicyName,
    ring::{PublicRingKey, Ring},
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};

use super::{
    Reconciler,
    memory::{Managed, Written},
    reconcile::ReconcileError,
    record::{Kept, Record},
};
use crate::{fleet::Since, versions::version_of};

/// The largest content of a bundle: an object of the API server holds no more, once it is quoted and signed.
const MAX_CONTENT: usize = 900 << 10;

/// What a bundle's `verify` section is made of.
#[derive(Debug)]
pub(super) enum Base {
    /// The policy as it is declared now.
    Declared(Arc<EffectivePolicy>, Resolved),
    /// The last good one, because what is declared now isn't accepted.
    Present(Arc<Bundle>),
    /// None: verifiers answer 404.
    Tombstone,
}

/// A bundle as it ought to be, under the generation of the record.
pub(super) struct Draft {
    pub(super) bundle: Bundle,
    pub(super) secrets: Option<VerifySecrets>,
    /// Whether the verify-secrets that are there are to be left alone.
    pub(super) keeps_secrets: bool,
}

/// The bundle that base, rings and record make. `None` for a base that holds no policy.
pub(super) fn draft(base: &Base, kept: &Kept) -> Option<Draft> {
    let Record { policy, uid, generation, revoked, .. } = &kept.record;
    match base {
        Base::Declared(effective, resolved) => {
            let input = BuildInput {
                name: policy,
                uid,
                generation: *generation,
                policy: effective,
                keys: public_keys(&kept.rings),
                resolved,
                revoked: revoked.clone(),
            };
            let (bundle, secrets) = bundle::build(input);
            Some(Draft { bundle, secrets, keeps_secrets: false })
        }
        Base::Present(present) => {
            let mut verify = present.verify.clone()?;
            if !kept.rings.is_empty() {
                verify.keys = public_keys(&kept.rings);
            }
            let bundle = Bundle {
                schema: SCHEMA,
                policy: policy.clone(),
                uid: uid.clone(),
                generation: *generation,
                verify: Some(verify),
                revoked: revoked.clone(),
            };
            Some(Draft { bundle, secrets: None, keeps_secrets: true })
        }
        Base::Tombstone => {
            let bundle = Bundle {
                schema: SCHEMA,
                policy: policy.clone(),
                uid: uid.clone(),
                generation: *generation,
                verify: None,
                revoked: revoked.clone(),
            };
            Some(Draft { bundle, secrets: None, keeps_secrets: false })
        }
    }
}

/// Public halves, in the order of the JWKS.
fn public_keys(rings: &BTreeMap<RingName, Ring>) -> Vec<BundleKey> {
    let keys = rings.iter().flat_map(|(ring, held)| held.public_keys().into_iter().map(move |key| (*ring, key)));
    let public = |(ring, key): (RingName, PublicRingKey)| {
        let mut jwk: Jwk = key.jwk;
        jwk.kid = Some(key.kid);
        BundleKey { ring, state: key.state, jwk }
    };
    keys.map(public).collect()
}

impl Draft {
    /// Its content's length, if that is too much.
    pub(super) fn too_large(&self) -> Option<usize> {
        let length = serde_json::to_string(&self.bundle).map_or(usize::MAX, |text| text.len());
        (length > MAX_CONTENT).then_some(length)
    }
}

/// The key sets that a bundle has of issuers whose keys are fetched.
pub(super) fn foreign_keys(bundle: &Bundle) -> BTreeMap<String, JwkSet> {
    let issuers = bundle.verify.iter().flat_map(|verify| &verify.trusted_issuers);
    let sets = issuers.filter_map(|issuer| match &issuer.keys {
        BundleIssuerKeys::Jwks(set) if !set.keys.is_empty() => Some((issuer.name.clone(), set.clone())),
        _ => None,
    });
    sets.collect()
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

    /// The bundle as it is now, as far as is known: what was written last, unless the watch shows something later.
    fn seen(&self, name: &PolicyName, managed: &mut Managed) -> Option<Written> {
        let cached = self.caches.bundles.one(&bundle_name(name));
        match (&mut managed.written, cached) {
            (Some(written), Some(cached)) if cached.version < written.since.version => Some(*written),
            (Some(written), Some(cached)) if cached.version == written.since.version => {
                written.confirmed = true;
                Some(*written)
            }
            (Some(written), None) => (!written.confirmed).then_some(*written),
            (_, Some(cached)) => {
                let since = Since { version: cached.version, generation: 0 };
                Some(Written { since, sha256: cached.sha256, confirmed: true })
            }
            (None, None) => None,
        }
    }

    /// Whether the bundle that is there is this one, byte for byte, and marked as it ought to be.
    pub(super) fn is_written(&self, draft: &Draft, managed: &mut Managed) -> Result<bool, ReconcileError> {
        let name = &draft.bundle.policy;
        let Some(seen) = self.seen(name, managed) else { return Ok(false) };
        if managed.rewrite_bundle || !self.secrets_are_right(draft, managed) {
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

    /// Writes the bundle and, before it, the secrets that it names.
    pub(super) async fn write(&self, draft: &Draft, managed: &mut Managed) -> Result<(), ReconcileError> {
        let bundle = &draft.bundle;
        let name = bundle_name(&bundle.policy);
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        if let Some(secrets) = &draft.secrets {
            let secret = Secret {
                metadata: metadata(bundle, VERIFY_SECRETS_LABEL),
                data: Some(BTreeMap::from([(
                    VERIFY_SECRETS_KEY.to_owned(),
                    ByteString(secrets.to_json().as_bytes().to_vec()),
                )])),
                ..Secret::default()
            };
            let written = self.secrets().patch(&name, &apply, &Patch::Apply(&secret)).await?;
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
        let written = self.maps().patch(&name, &apply, &Patch::Apply(&map)).await?;
        let since = Since { version: version_of(&written.metadata), generation: bundle.generation };
        self.context.versions.note(since.version);
        managed.written = Some(Written { since, sha256, confirmed: false });
        managed.rewrite_bundle = false;
        note_keys(managed, bundle, since);
        if draft.secrets.is_none() && !draft.keeps_secrets {
            managed.secrets = None;
            if self.caches.verify_secrets.one(&name).is_some() {
                gone(self.secrets().delete(&name, &DeleteParams::default()).await)?;
            }
        }
        tracing::debug!(policy = %bundle.policy, generation = bundle.generation, version = since.version, "bundle written");
        Ok(())
    }

    /// Deletes the bundle for good.
    pub(super) async fn erase_bundle(&self, name: &PolicyName, managed: &mut Managed) -> Result<(), ReconcileError> {
        let object = bundle_name(name);
        if self.caches.verify_secrets.one(&object).is_some() {
            gone(self.secrets().delete(&object, &DeleteParams::default()).await)?;
        }
        gone(self.maps().delete(&object, &DeleteParams::default()).await)?;
        managed.written = None;
        Ok(())
    }
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
fn gone<T>(deleted: Result<T, kube::Error>) -> Result<(), ReconcileError> {
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
