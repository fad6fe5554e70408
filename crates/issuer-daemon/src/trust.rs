//! Whose signatures count: a mounted ConfigMap that is looked at again and again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use countersign_api::{bundle::Trust, cluster::BUNDLE_TRUST_KEY};
use countersign_core::jose::JwkSet;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the file is looked at: a mounted ConfigMap changes by a swap of symbolic links, which no watch on a file sees.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The largest file.
const MAX_BYTES: u64 = 1 << 20;

/// Why a file says of nobody that he is trusted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// It can't be read.
    #[error("--bundle-trust {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// It holds no key that bundles could be signed with.
    #[error("--bundle-trust {}: {what}", path.display())]
    NoKeys { path: PathBuf, what: String },
}

/// The keys that are trusted.
#[derive(Debug)]
pub(crate) struct Trusted {
    pub(crate) trust: Trust,
    pub(crate) kids: Vec<String>,
    bytes: Vec<u8>,
}

/// Reads a trust file, or the directory that a ConfigMap is mounted as.
pub(crate) fn read(path: &Path) -> Result<Trusted, TrustError> {
    use std::io::Read as _;
    let file = if path.is_dir() { path.join(BUNDLE_TRUST_KEY) } else { path.to_owned() };
    let unreadable = |source| TrustError::Unreadable { path: file.clone(), source };
    let mut bytes = Vec::new();
    std::fs::File::open(&file).map_err(unreadable)?.take(MAX_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    let no_keys = |what: String| TrustError::NoKeys { path: file.clone(), what };
    let set = JwkSet::parse(&bytes).map_err(|error| no_keys(format!("it is no JWKS: {error}")))?;
    let trust = Trust::from_jwks(&set);
    let kids: Vec<String> = match &trust {
        Trust::Keys(keys) => keys.iter().filter_map(|key| key.kid().map(str::to_owned)).collect(),
        Trust::FileSystem => Vec::new(),
    };
    if kids.is_empty() {
        return Err(no_keys("it holds no Ed25519 key with a kid".to_owned()));
    }
    Ok(Trusted { trust, kids, bytes })
}

/// Follows the file until `stop`. One that can't be read or understood changes nothing: whom to trust was said last by what
/// could.
pub(crate) async fn follow(path: PathBuf, trusted: watch::Sender<Arc<Trusted>>, stop: CancellationToken) {
    let mut told = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        match read(&path) {
            Ok(found) => {
                told = None;
                if found.bytes != trusted.borrow().bytes {
                    tracing::info!(kids = ?found.kids, "other keys are trusted to sign rings and bundles");
                    trusted.send_replace(Arc::new(found));
                }
            }
            Err(error) => {
                let error = error.to_string();
                if told.as_ref() != Some(&error) {
                    tracing::error!(error, "the keys that were named last stay trusted");
                    told = Some(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::{jose::Algorithm, keys::SigningKey};
    use serde_json::json;

    use super::*;

    #[test]
    fn a_file_and_a_mounted_directory_say_the_same_and_one_without_a_key_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(BUNDLE_TRUST_KEY);
        let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
        std::fs::write(&file, json!({"keys": [key.public_jwk()]}).to_string()).unwrap();
        assert_eq!(read(&file).unwrap().kids, [key.kid()]);
        assert_eq!(read(dir.path()).unwrap().kids, [key.kid()]);
        std::fs::write(&file, r#"{"keys": []}"#).unwrap();
        assert!(matches!(read(&file), Err(TrustError::NoKeys { .. })));
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(read(&file), Err(TrustError::Unreadable { .. })));
    }
}
