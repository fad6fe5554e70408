//! The bundles' directory: what verifiers read, this process's own and separate ones.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use countersign_api::bundle::{self, Bundle, Trust, VerifySecrets};
use countersign_core::{
    jose::{Algorithm, JwkSet},
    keys::{SigningKey, SigningKeyError},
    names::PolicyName,
};
use countersign_store::{Store, StoreError};
use serde_json::json;

use super::data_dir::write_atomically;

/// Names of the store's values.
const SIGNING_KEY: &str = "bundle-signing-key";
const HISTORY: &str = "bundle-history";
const REVISION: &str = "bundle-revision";

/// Which keys' signatures verifiers shall believe.
const TRUST_FILE: &str = "bundle-trust.json";
/// Which state of which history the directory is in.
const REVISION_FILE: &str = ".revision";

/// Why a bundle was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BundlesError {
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The signing key.
    #[error("the bundles' signing key: {0}")]
    Key(#[from] SigningKeyError),
    /// What the store holds.
    #[error("the bundles' signing key in the database can't be read")]
    Corrupt,
}

/// Writes bundles, signed.
#[derive(Debug)]
pub(crate) struct Bundles {
    dir: PathBuf,
    store: Arc<Store>,
    key: SigningKey,
    history: String,
    revision: u64,
    /// Whether anything was written since the revision was.
    changed: bool,
    /// What lies in the directory, by policy.
    written: BTreeMap<PolicyName, Bundle>,
}

impl Bundles {
    /// Takes over the directory: the signing key is made at first start, and what lies there is read back.
    pub(crate) async fn open(dir: &Path, store: Arc<Store>) -> Result<Self, BundlesError> {
        let key = signing_key(&store).await?;
        let history = store.meta_or_insert(HISTORY, &fresh_id()).await?;
        let revision = store.meta(REVISION).await?.and_then(|r| r.parse().ok()).unwrap_or(0);
        let mut bundles =
            Self { dir: dir.to_owned(), store, key, history, revision, changed: false, written: BTreeMap::new() };
        let trust = JwkSet { keys: vec![bundles.key.public_jwk().clone()] };
        let trust_json = serde_json::to_vec(&trust).map_err(|_| BundlesError::Corrupt)?;
        write(&dir.join(TRUST_FILE), &trust_json)?;
        bundles.read_back(&Trust::from_jwks(&trust))?;
        Ok(bundles)
    }

    fn read_back(&mut self, trust: &Trust) -> Result<(), BundlesError> {
        let failed = |source| BundlesError::File { path: self.dir.clone(), source };
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if !entry.file_name().to_str().is_some_and(bundle::is_bundle_file) {
                continue;
            }
            let opened = fs::read(entry.path()).ok().and_then(|bytes| bundle::open(&bytes, trust, None).ok());
            match opened {
                Some(bundle) => {
                    self.written.insert(bundle.policy.clone(), bundle);
                }
                None => {
                    tracing::warn!(file = %entry.path().display(), "not one of our bundles; it is written anew if its policy is still there");
                }
            }
        }
        Ok(())
    }

    /// The bundle that lies there for a policy.
    pub(crate) fn present(&self, policy: &PolicyName) -> Option<&Bundle> {
        self.written.get(policy)
    }

    /// Writes a bundle under the next generation, unless the one that lies there says the same. Says which generation holds
    /// it now, and whether it was written.
    pub(crate) async fn publish(
        &mut self,
        mut bundle: Bundle,
        secrets: Option<&VerifySecrets>,
    ) -> Result<(u64, bool), BundlesError> {
        let secrets_file = self.dir.join(bundle::secrets_file_name(&bundle.policy));
        if let Some(present) = self.written.get(&bundle.policy) {
            bundle.generation = present.generation;
            if *present == bundle && secrets.is_none_or(|s| is_same(&secrets_file, s)) {
                return Ok((present.generation, false));
            }
        }
        bundle.generation = self.store.next_generation(&bundle.policy, countersign_feed::Clock::wall()).await?;
        // The secrets first: the bundle names their digest, and waits for them where it is read in between.
        if let Some(secrets) = secrets {
            write(&secrets_file, secrets.to_json().as_bytes())?;
        }
        let sealed = bundle::seal(&bundle, &self.key)?;
        write(&self.dir.join(bundle::file_name(&bundle.policy)), sealed.as_bytes())?;
        if secrets.is_none() {
            remove(&secrets_file)?;
        }
        self.changed = true;
        let generation = bundle.generation;
        self.written.insert(bundle.policy.clone(), bundle);
        Ok((generation, true))
    }

    /// Removes a policy's files for good.
    pub(crate) fn erase(&mut self, policy: &PolicyName) -> Result<(), BundlesError> {
        remove(&self.dir.join(bundle::file_name(policy)))?;
        remove(&self.dir.join(bundle::secrets_file_name(policy)))?;
        self.written.remove(policy);
        self.changed = true;
        Ok(())
    }

    /// Says that the directory is in a new state, if it is: once for all that was written since.
    pub(crate) async fn commit(&mut self) -> Result<(), BundlesError> {
        if !self.changed {
            return Ok(());
        }
        self.revision += 1;
        self.store.set_meta(REVISION, &self.revision.to_string()).await?;
        let revision = json!({"history": self.history, "revision": self.revision.to_string()});
        write(&self.dir.join(REVISION_FILE), revision.to_string().as_bytes())?;
        self.changed = false;
        Ok(())
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), BundlesError> {
    write_atomically(path, content).map_err(|source| BundlesError::File { path: path.to_owned(), source })
}

fn is_same(path: &Path, secrets: &VerifySecrets) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes == secrets.to_json().as_bytes())
}

fn remove(path: &Path) -> Result<(), BundlesError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(BundlesError::File { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// The key that signs bundles: made at first start, kept in the database.
async fn signing_key(store: &Store) -> Result<SigningKey, BundlesError> {
    use countersign_core::jose::base64url;

    let kept = if let Some(kept) = store.meta(SIGNING_KEY).await? {
        kept
    } else {
        let fresh = SigningKey::generate(Algorithm::EdDSA)?;
        store.meta_or_insert(SIGNING_KEY, &base64url::encode(fresh.to_pkcs8()?.as_slice())).await?
    };
    let pkcs8 = base64url::decode(kept.as_bytes()).map_err(|_| BundlesError::Corrupt)?;
    Ok(SigningKey::from_pkcs8(Algorithm::EdDSA, None, &pkcs8)?)
}

/// An id that nobody has had before.
pub(crate) fn fresh_id() -> String {
    uuid::Uuid::now_v7().to_string()
}
