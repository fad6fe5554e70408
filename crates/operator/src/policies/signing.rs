//! The keys that bundles and rings are signed with: made at first start, public halves in the ConfigMap that verifiers mount.

use std::collections::BTreeMap;

use countersign_api::{
    bundle::{self, Bundle, Trust},
    cluster::{BUNDLE_SIGNING, BUNDLE_TRUST, BUNDLE_TRUST_KEY, FIELD_MANAGER},
};
use countersign_core::{
    jose::{Algorithm, JwkSet, base64url},
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
    api::{Patch, PatchParams, PostParams},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{run::Context, versions::version_of};

/// The Secret's key: the private keys, oldest first.
const KEYS: &str = "keys.json";

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
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKey {
    created: UnixMillis,
    pkcs8: PrivateKey,
}

struct HeldKey {
    signing: SigningKey,
    verifying: VerifyingKey,
    created: UnixMillis,
}

/// The keys.
pub(crate) struct BundleKeys {
    /// Oldest first; never empty.
    keys: Vec<HeldKey>,
}

impl HeldKey {
    fn new(signing: SigningKey, created: UnixMillis) -> Result<Self, SigningError> {
        let verifying =
            VerifyingKey::from_jwk(signing.public_jwk(), &[Algorithm::EdDSA]).map_err(|_| SigningError::Corrupt)?;
        Ok(Self { signing, verifying, created })
    }
}

impl BundleKeys {
    /// One fresh key.
    pub(crate) fn generate(now: UnixMillis) -> Result<Self, SigningError> {
        Ok(Self { keys: vec![HeldKey::new(SigningKey::generate(Algorithm::EdDSA)?, now)?] })
    }

    /// The keys of this cluster: made if there are none yet. Their public halves are where verifiers look for them.
    pub(crate) async fn load(context: &Context, now: UnixMillis) -> Result<Self, SigningError> {
        let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &context.config.system_namespace);
        let keys = if let Some(secret) = secrets.get_opt(BUNDLE_SIGNING).await? {
            Self::of(&secret)?
        } else {
            let fresh = Self::generate(now)?;
            match secrets.create(&params(), &fresh.to_secret()?).await {
                Ok(_) => {
                    tracing::info!("the key that signs bundles is made");
                    fresh
                }
                // An earlier leader's last act.
                Err(kube::Error::Api(status)) if status.code == 409 => Self::of(&secrets.get(BUNDLE_SIGNING).await?)?,
                Err(error) => return Err(error.into()),
            }
        };
        keys.publish(context).await?;
        Ok(keys)
    }

    fn of(secret: &Secret) -> Result<Self, SigningError> {
        let bytes = secret.data.as_ref().and_then(|data| data.get(KEYS)).ok_or(SigningError::Corrupt)?;
        let stored: Vec<StoredKey> = serde_json::from_slice(&bytes.0).map_err(|_| SigningError::Corrupt)?;
        let held = |stored: StoredKey| {
            HeldKey::new(SigningKey::from_pkcs8(Algorithm::EdDSA, None, stored.pkcs8.expose())?, stored.created)
        };
        let keys: Vec<HeldKey> = stored.into_iter().map(held).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(SigningError::Corrupt) } else { Ok(Self { keys }) }
    }

    fn to_secret(&self) -> Result<Secret, SigningError> {
        let stored = |key: &HeldKey| {
            let pkcs8: Zeroizing<Vec<u8>> = key.signing.to_pkcs8()?;
            Ok(StoredKey { created: key.created, pkcs8: PrivateKey::new(pkcs8) })
        };
        let stored: Vec<StoredKey> = self.keys.iter().map(stored).collect::<Result<_, SigningKeyError>>()?;
        let json = serde_json::to_vec(&stored).map_err(|_| SigningError::Corrupt)?;
        Ok(Secret {
            metadata: ObjectMeta { name: Some(BUNDLE_SIGNING.to_owned()), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([(KEYS.to_owned(), ByteString(json))])),
            ..Secret::default()
        })
    }

    /// Puts the public halves where verifiers look for them.
    async fn publish(&self, context: &Context) -> Result<(), SigningError> {
        let json = serde_json::to_string(&self.jwks()).map_err(|_| SigningError::Corrupt)?;
        let map = ConfigMap {
            metadata: ObjectMeta { name: Some(BUNDLE_TRUST.to_owned()), ..ObjectMeta::default() },
            data: Some(BTreeMap::from([(BUNDLE_TRUST_KEY.to_owned(), json)])),
            ..ConfigMap::default()
        };
        let maps: Api<ConfigMap> = Api::namespaced(context.client.clone(), &context.config.system_namespace);
        let written = maps.patch(BUNDLE_TRUST, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&map)).await?;
        context.versions.note(version_of(&written.metadata));
        Ok(())
    }

    fn jwks(&self) -> JwkSet {
        JwkSet { keys: self.keys.iter().map(|key| key.signing.public_jwk().clone()).collect() }
    }

    /// Whose bundles are believed.
    pub(crate) fn trust(&self) -> Trust {
        Trust::from_jwks(&self.jwks())
    }

    fn signer(&self) -> Result<&SigningKey, SigningError> {
        self.keys.last().map(|key| &key.signing).ok_or(SigningError::Corrupt)
    }

    /// A sealed bundle.
    pub(crate) fn seal_bundle(&self, bundle: &Bundle) -> Result<String, SigningError> {
        Ok(bundle::seal(bundle, self.signer()?)?)
    }

    /// The key and its signature over `bytes`, base64url.
    pub(crate) fn seal(&self, bytes: &[u8]) -> Result<(String, String), SigningError> {
        let signer = self.signer()?;
        Ok((signer.kid().to_owned(), base64url::encode(signer.sign(bytes)?)))
    }

    /// Whether that is a signature of one of these keys.
    pub(crate) fn holds(&self, kid: &str, bytes: &[u8], signature: &str) -> bool {
        let Ok(signature) = base64url::decode(signature.as_bytes()) else { return false };
        let key = self.keys.iter().find(|key| key.signing.kid() == kid);
        key.is_some_and(|key| key.verifying.verify(Algorithm::EdDSA, bytes, &signature))
    }
}

/// Writes of ours bear one name.
pub(crate) fn params() -> PostParams {
    PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() }
}
