//! What the API server holds, as far as policies are concerned: kept by watches, read without asking it.

use std::sync::Arc;

use countersign_api::{
    bundle,
    cluster::{
        BUNDLE_KEY, BUNDLE_LABEL, FORMAT, ISSUE_KEY, ISSUE_LABEL, KEY_RING_LABEL, OWNER_UID_LABEL, POLICY_ANNOTATION,
        VERIFY_SECRETS_LABEL,
    },
    issue::signed_by,
    policy::{AuthPolicy, AuthPolicySpec, policy_name},
};
use countersign_core::{digest::sha256, names::PolicyName};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::{
    Api,
    core::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::watcher,
};
use serde_json::Value;
use zeroize::Zeroizing;

use super::record::{RingSecret, RingSeen};
use crate::{
    mirror::{Mirror, WatchLost},
    run::Context,
    versions::version_of,
};

/// A policy as it is declared.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub(crate) policy: AuthPolicy,
    pub(crate) version: u64,
    /// Why its spec can't be read. The one in `policy` then says nothing but the issuer.
    pub(crate) unreadable: Option<String>,
}

impl Declared {
    pub(crate) fn uid(&self) -> &str {
        self.policy.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(crate) fn generation(&self) -> i64 {
        self.policy.metadata.generation.unwrap_or(0)
    }

    pub(crate) fn deleting(&self) -> bool {
        self.policy.metadata.deletion_timestamp.is_some()
    }

    pub(crate) fn annotation(&self, name: &str) -> Option<&str> {
        self.policy.metadata.annotations.as_ref()?.get(name).map(String::as_str)
    }
}

/// A bundle's ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BundleSeen {
    pub(crate) version: u64,
    pub(crate) uid: Option<String>,
    /// SHA-256 of the sealed bundle.
    pub(crate) sha256: [u8; 32],
    /// The generation that it says it has: unproven, until it is opened.
    pub(crate) generation: u64,
    pub(crate) owner: Option<String>,
    pub(crate) policy: Option<String>,
}

/// An object of which only the metadata are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MetaSeen {
    pub(crate) version: u64,
    pub(crate) uid: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) policy: Option<String>,
}

/// What issuers are told of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IssueSeen {
    pub(crate) version: u64,
    pub(crate) uid: Option<String>,
    pub(crate) sha256: [u8; 32],
    /// The kid of the key that it says to be signed with.
    pub(crate) key: Option<String>,
    pub(crate) owner: Option<String>,
    pub(crate) policy: Option<String>,
}

/// A declared policy at one version; two at the same version are the same.
#[derive(Clone, Debug)]
pub(crate) struct AtVersion(pub(crate) Arc<Declared>);

impl PartialEq for AtVersion {
    fn eq(&self, other: &Self) -> bool {
        (self.0.version, self.0.uid()) == (other.0.version, other.0.uid())
    }
}

/// The caches.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    /// By `NAMESPACE/NAME`.
    pub(crate) declared: Mirror<AtVersion>,
    /// Key rings, by the Secret's name. Their content stays where it is once it is remembered.
    pub(crate) rings: Mirror<RingSeen>,
    /// Bundles, by the ConfigMap's name.
    pub(crate) bundles: Mirror<BundleSeen>,
    /// Verify-secrets, by the Secret's name. Their content stays where it is.
    pub(crate) verify_secrets: Mirror<MetaSeen>,
    /// What issuers are told, by the Secret's name. Its content stays where it is.
    pub(crate) issues: Mirror<IssueSeen>,
    /// Namespaces' uids.
    pub(crate) namespaces: Mirror<String>,
}

/// Which cache changed, and under which key.
#[derive(Clone, Debug)]
pub(crate) enum Changed {
    Policy(String),
    Ring(String),
    Bundle(String),
    Issue(String),
    Namespace(String),
}

impl Caches {
    /// Keeps the caches, for ever.
    pub(crate) async fn run(&self, context: &Context, changed: impl Fn(Changed) + Send + Sync) -> Result<(), WatchLost> {
        let client = || context.client.clone();
        let (system, bundles) = (&context.config.system_namespace, &context.config.bundles_namespace);
        let policies: Api<DynamicObject> = Api::all_with(client(), &ApiResource::erase::<AuthPolicy>(&()));
        let rings: Api<Secret> = Api::namespaced(client(), system);
        let maps: Api<ConfigMap> = Api::namespaced(client(), bundles);
        let secrets: Api<PartialObjectMeta<Secret>> = Api::namespaced(client(), bundles);
        let issues: Api<Secret> = Api::namespaced(client(), system);
        let namespaces: Api<PartialObjectMeta<Namespace>> = Api::all(client());
        let labelled = |label: &str| watcher::Config::default().labels(&format!("{label}={FORMAT}"));
        let versions = &context.versions;
        tokio::select! {
            lost = self.declared.run("AuthPolicies", watcher(policies, watcher::Config::default()), |policy| {
                versions.note(version_of(&policy.metadata));
                declared(policy)
            }, |key| changed(Changed::Policy(key))) => lost,
            lost = self.rings.run("key rings", watcher(rings, labelled(KEY_RING_LABEL)), |secret| {
                Some((secret.metadata.name.clone()?, RingSeen::Whole(RingSecret::of(secret))))
            }, |key| changed(Changed::Ring(key))) => lost,
            lost = self.bundles.run("bundles", watcher(maps, labelled(BUNDLE_LABEL)), bundle_seen, |key| changed(Changed::Bundle(key))) => lost,
            lost = self.verify_secrets.run("verify-secrets", watcher(secrets, labelled(VERIFY_SECRETS_LABEL)), |secret| {
                Some((secret.metadata.name.clone()?, meta(&secret.metadata)))
            }, |key| changed(Changed::Bundle(key))) => lost,
            lost = self.issues.run("what issuers are told", watcher(issues, labelled(ISSUE_LABEL)), issue_seen, |key| changed(Changed::Issue(key))) => lost,
            lost = self.namespaces.run("namespaces", watcher(namespaces, watcher::Config::default()), |namespace| {
                Some((namespace.metadata.name?, namespace.metadata.uid?))
            }, |key| changed(Changed::Namespace(key))) => lost,
        }
    }

    /// Returns once everything was listed.
    pub(crate) async fn synced(&self) {
        tokio::join!(
            self.declared.synced(),
            self.rings.synced(),
            self.bundles.synced(),
            self.verify_secrets.synced(),
            self.issues.synced(),
            self.namespaces.synced()
        );
    }

    pub(crate) fn policy(&self, name: &PolicyName) -> Option<Arc<Declared>> {
        self.declared.one(name.as_str()).map(|declared| declared.0)
    }
}

/// A policy as a watch shows it. What these types can't read (stored under another version of the definition) is that policy's
/// trouble and nobody else's: a watch of what they read would fail as a whole.
pub(super) fn declared(object: DynamicObject) -> Option<(String, AtVersion)> {
    let DynamicObject { mut metadata, mut data, .. } = object;
    metadata.managed_fields = None;
    let mut taken = |part: &str| data.get_mut(part).map(Value::take).unwrap_or_default();
    let (spec, status) = (taken("spec"), taken("status"));
    let issuer = spec["issuer"].as_str().map(str::to_owned);
    let (spec, unreadable) = match serde_json::from_value::<AuthPolicySpec>(spec) {
        Ok(spec) => (spec, None),
        Err(error) => (AuthPolicySpec { issuer, ..AuthPolicySpec::default() }, Some(error.to_string())),
    };
    // A status that can't be read is written anew.
    let policy = AuthPolicy { metadata, spec, status: serde_json::from_value(status).unwrap_or_default() };
    let name = match policy_name(&policy) {
        Ok(name) => name,
        Err(error) => {
            tracing::warn!(%error, name = policy.metadata.name, "an AuthPolicy's name can't be used");
            return None;
        }
    };
    if let Some(why) = &unreadable {
        tracing::warn!(policy = %name, error = why, "an AuthPolicy's spec can't be read");
    }
    let version = version_of(&policy.metadata);
    Some((name.to_string(), AtVersion(Arc::new(Declared { policy, version, unreadable }))))
}

pub(super) fn bundle_seen(map: ConfigMap) -> Option<(String, BundleSeen)> {
    let MetaSeen { version, uid, owner, policy } = meta(&map.metadata);
    let text = map.data.as_ref().and_then(|data| data.get(BUNDLE_KEY)).map_or("", String::as_str);
    let generation = bundle::claimed_generation(text.as_bytes());
    let seen = BundleSeen { version, uid, sha256: sha256(text.as_bytes()), generation, owner, policy };
    Some((map.metadata.name?, seen))
}

pub(super) fn issue_seen(secret: Secret) -> Option<(String, IssueSeen)> {
    let MetaSeen { version, uid, owner, policy } = meta(&secret.metadata);
    let text = Zeroizing::new(secret.data.and_then(|mut data| data.remove(ISSUE_KEY)).map_or(Vec::new(), |bytes| bytes.0));
    let seen = IssueSeen { version, uid, sha256: sha256(&text), key: signed_by(&text), owner, policy };
    Some((secret.metadata.name?, seen))
}

fn meta(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> MetaSeen {
    MetaSeen {
        version: version_of(metadata),
        uid: metadata.uid.clone(),
        owner: metadata.labels.as_ref().and_then(|labels| labels.get(OWNER_UID_LABEL)).cloned(),
        policy: metadata.annotations.as_ref().and_then(|a| a.get(POLICY_ANNOTATION)).cloned(),
    }
}
