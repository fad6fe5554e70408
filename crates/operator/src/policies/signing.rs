//! The keys that bundles and rings are signed with: made at first start, public halves in the ConfigMap that verifiers mount.
//!
//! One of them signs; a newer one is published first, and signs once every verifier that is waited for trusts it; an older one
//! goes when nothing is signed with it any more ([`rotating`]).

mod rotating;

use std::{collections::BTreeMap, sync::Arc};

use countersign_api::{
    bundle::{self, Bundle, Signature, Trust},
    cluster::{BUNDLE_SIGNING, BUNDLE_TRUST, BUNDLE_TRUST_KEY, FIELD_MANAGER, FORMAT, KEY_RING_LABEL},
    issue::IssueSection,
};
use countersign_core::{
    jose::{Algorithm, JwkSet},
    keys::{SigningKey, SigningKeyError, VerifyingKey},
    ring::PrivateKey,
    time::UnixMillis,
};
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Secret},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub(super) use self::rotating::keep;
use crate::{run::Context, versions::version_of};

/// The Secret's key: the private keys, oldest first.
const KEYS: &str = "keys.json";
/// The Secret's key: which of them signs, and which rotation was the last.
const ROTATION: &str = "rotation.json";

/// Why there is nothing to sign with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SigningError {
    /// The API server.
    #[error("{0}")]
    Kube(#[from] kube::Error),
    /// A key.
    #[error(transparent)]
    Key(#[from] SigningKeyError),
    /// The Secret's content.
    #[error("the Secret {BUNDLE_SIGNING} can't be read; delete it only if every key ring may be lost")]
    Corrupt,
    /// Another key would seal nothing that verifiers and rings are sealed with.
    #[error(
        "the Secret {BUNDLE_SIGNING} is gone, and key rings that it sealed are there: restore it from a backup; without one, \
         every ring is lost: delete them (label {KEY_RING_LABEL}), and each policy begins with fresh keys"
    )]
    Lost,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    created: UnixMillis,
    pkcs8: PrivateKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredRotation {
    /// The kid of the key that signs.
    signer: String,
    /// The value of the annotation that the last rotation answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    handled: Option<String>,
}

struct HeldKey {
    signing: SigningKey,
    verifying: VerifyingKey,
    created: UnixMillis,
}

/// The keys at one moment.
#[derive(Clone)]
struct Held {
    /// Oldest first; never empty.
    keys: Vec<Arc<HeldKey>>,
    /// Which of them signs.
    signer: Arc<HeldKey>,
    handled: Option<String>,
}

/// The keys.
pub(crate) struct BundleKeys(RwLock<Arc<Held>>);

impl HeldKey {
    fn new(signing: SigningKey, created: UnixMillis) -> Result<Self, SigningError> {
        let verifying =
            VerifyingKey::from_jwk(signing.public_jwk(), &[Algorithm::EdDSA]).map_err(|_| SigningError::Corrupt)?;
        Ok(Self { signing, verifying, created })
    }
}

impl Held {
    fn of(secret: &Secret) -> Result<Self, SigningError> {
        let data = secret.data.as_ref().ok_or(SigningError::Corrupt)?;
        let bytes = data.get(KEYS).ok_or(SigningError::Corrupt)?;
        let stored: Vec<StoredKey> = serde_json::from_slice(&bytes.0).map_err(|_| SigningError::Corrupt)?;
        let held = |stored: StoredKey| {
            let signing = SigningKey::from_pkcs8(Algorithm::EdDSA, None, stored.pkcs8.expose())?;
            Ok::<_, SigningError>(Arc::new(HeldKey::new(signing, stored.created)?))
        };
        let keys: Vec<Arc<HeldKey>> = stored.into_iter().map(held).collect::<Result<_, _>>()?;
        let rotation = data.get(ROTATION).map(|bytes| serde_json::from_slice::<StoredRotation>(&bytes.0)).transpose();
        let rotation = rotation.map_err(|_| SigningError::Corrupt)?;
        let signer = match &rotation {
            Some(rotation) => keys.iter().find(|key| key.signing.kid() == rotation.signer),
            None => keys.last(),
        };
        let signer = signer.cloned().ok_or(SigningError::Corrupt)?;
        Ok(Self { keys, signer, handled: rotation.and_then(|rotation| rotation.handled) })
    }

    /// What the Secret holds.
    fn data(&self) -> Result<BTreeMap<String, ByteString>, SigningError> {
        let stored = |key: &Arc<HeldKey>| {
            let pkcs8: Zeroizing<Vec<u8>> = key.signing.to_pkcs8()?;
            Ok(StoredKey { created: key.created, pkcs8: PrivateKey::new(pkcs8) })
        };
        let stored: Vec<StoredKey> = self.keys.iter().map(stored).collect::<Result<_, SigningKeyError>>()?;
        let rotation = StoredRotation { signer: self.signer.signing.kid().to_owned(), handled: self.handled.clone() };
        Ok(BTreeMap::from([
            (KEYS.to_owned(), ByteString(serde_json::to_vec(&stored).map_err(|_| SigningError::Corrupt)?)),
            (ROTATION.to_owned(), ByteString(serde_json::to_vec(&rotation).map_err(|_| SigningError::Corrupt)?)),
        ]))
    }

    /// The Secret, to be written over the one at `version`, or created.
    fn to_secret(&self, version: Option<String>) -> Result<Secret, SigningError> {
        Ok(Secret {
            metadata: ObjectMeta {
                name: Some(BUNDLE_SIGNING.to_owned()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            data: Some(self.data()?),
            ..Secret::default()
        })
    }

    fn jwks(&self) -> JwkSet {
        JwkSet { keys: self.keys.iter().map(|key| key.signing.public_jwk().clone()).collect() }
    }

    /// What verifiers mount.
    fn published(&self) -> Result<String, SigningError> {
        serde_json::to_string(&self.jwks()).map_err(|_| SigningError::Corrupt)
    }
}

impl BundleKeys {
    fn holding(held: Held) -> Self {
        Self(RwLock::new(Arc::new(held)))
    }

    /// One fresh key.
    pub(crate) fn generate(now: UnixMillis) -> Result<Self, SigningError> {
        let key = Arc::new(HeldKey::new(SigningKey::generate(Algorithm::EdDSA)?, now)?);
        Ok(Self::holding(Held { keys: vec![key.clone()], signer: key, handled: None }))
    }

    /// The keys of this cluster: made if there are none yet. Their public halves are where verifiers look for them.
    pub(crate) async fn load(context: &Context, now: UnixMillis) -> Result<Self, SigningError> {
        let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.config.system_namespace);
        let keys = if let Some(secret) = secrets.get_opt(BUNDLE_SIGNING).await? {
            Self::holding(Held::of(&secret)?)
        } else {
            let rings = ListParams::default().labels(&format!("{KEY_RING_LABEL}={FORMAT}")).limit(1);
            if !secrets.list_metadata(&rings).await?.items.is_empty() {
                return Err(SigningError::Lost);
            }
            let fresh = Self::generate(now)?;
            match secrets.create(&params(), &fresh.held().to_secret(None)?).await {
                Ok(_) => {
                    tracing::info!("the key that signs bundles is made");
                    fresh
                }
                // An earlier leader's last act.
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    Self::holding(Held::of(&secrets.get(BUNDLE_SIGNING).await?)?)
                }
                Err(error) => return Err(error.into()),
            }
        };
        keys.publish(context).await?;
        Ok(keys)
    }

    fn held(&self) -> Arc<Held> {
        self.0.read().clone()
    }

    /// Puts the public halves where verifiers look for them.
    async fn publish(&self, context: &Context) -> Result<(), SigningError> {
        let map = ConfigMap {
            metadata: ObjectMeta { name: Some(BUNDLE_TRUST.to_owned()), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([(BUNDLE_TRUST_KEY.to_owned(), self.held().published()?)])),
            ..ConfigMap::default()
        };
        let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.config.system_namespace);
        let written = maps.patch(BUNDLE_TRUST, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&map)).await?;
        context.versions.note(version_of(&written.metadata));
        Ok(())
    }

    /// Whose bundles are believed.
    pub(crate) fn trust(&self) -> Trust {
        Trust::Keys(self.held().keys.iter().map(|key| key.verifying.clone()).collect())
    }

    /// A sealed bundle.
    pub(crate) fn seal_bundle(&self, bundle: &Bundle) -> Result<String, SigningError> {
        Ok(bundle::seal(bundle, &self.held().signer.signing)?)
    }

    /// What issuers are told, sealed, and the kid of the key that signed it.
    pub(crate) fn seal_issue(&self, section: &IssueSection) -> Result<(String, Zeroizing<String>), SigningError> {
        let signer = self.held().signer.clone();
        Ok((signer.signing.kid().to_owned(), section.seal(&signer.signing)?))
    }

    /// Its signature over `bytes`.
    pub(crate) fn seal(&self, bytes: &[u8]) -> Result<Signature, SigningError> {
        Ok(Signature::of(bytes, &self.held().signer.signing)?)
    }

    /// Whether that is the key that signs now.
    pub(crate) fn signs(&self, kid: &str) -> bool {
        self.held().signer.signing.kid() == kid
    }
}

/// Writes of ours bear one name.
pub(crate) fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}
