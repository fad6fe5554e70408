//! Whose signatures on bundles count.

use std::path::{Path, PathBuf};

use countersign_api::{bundle::Trust, cluster::BUNDLE_TRUST_KEY};
use countersign_core::{digest::sha256, jose::JwkSet};

use super::{held::Trusted, saved::read_bounded};

/// Why a file says of nobody that he is trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It isn't there, or can't be read.
    #[error("{}: {detail}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// It doesn't parse.
    #[error("it is no JWKS: {0}")]
    NoJwks(String),
    /// It parses, and holds no key that bundles could be signed with.
    #[error("it holds no Ed25519 key with a kid")]
    NoKey,
}

/// Trust in whoever can write to the directory.
pub(super) const fn in_file_system() -> Trusted {
    Trusted { trust: Trust::FileSystem, kids: Vec::new(), digest: [0; 32] }
}

/// Trust in nobody, by a file of this content.
pub(super) fn in_nobody(bytes: &[u8]) -> Trusted {
    Trusted { trust: Trust::Keys(Vec::new()), kids: Vec::new(), digest: sha256(bytes) }
}

/// Trust in the keys of a JWKS.
pub(super) fn parse(bytes: &[u8]) -> Result<Trusted, TrustError> {
    let set = JwkSet::parse(bytes).map_err(|error| TrustError::NoJwks(error.to_string()))?;
    let trust = Trust::from_jwks(&set);
    let kids: Vec<String> = match &trust {
        Trust::Keys(keys) => keys.iter().filter_map(|key| key.kid().map(str::to_owned)).collect(),
        Trust::FileSystem => Vec::new(),
    };
    if kids.is_empty() {
        return Err(TrustError::NoKey);
    }
    Ok(Trusted { trust, kids, digest: sha256(bytes) })
}

/// Reads a trust file, or the directory that a ConfigMap is mounted as.
pub(super) fn read(path: &Path) -> Result<Trusted, TrustError> {
    let file = if path.is_dir() { path.join(BUNDLE_TRUST_KEY) } else { path.to_owned() };
    let bytes = read_bounded(&file).map_err(|error| TrustError::Unreadable { path: file, detail: error.0 })?;
    parse(&bytes)
}

/// A trust file under watch: a mounted ConfigMap changes by a swap of symbolic links, which no watch on the file itself sees.
#[derive(Debug)]
pub(super) struct TrustFile {
    path: PathBuf,
    /// What was last said to be wrong with it.
    problem: Option<String>,
}

impl TrustFile {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, problem: None }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What it says, when that is another thing than `digest`. One that can't be read or understood changes nothing: whom to
    /// trust was said last by what could.
    pub(super) fn changed(&mut self, digest: [u8; 32]) -> Option<Trusted> {
        match read(&self.path) {
            Ok(trusted) => {
                self.problem = None;
                (trusted.digest != digest).then_some(trusted)
            }
            Err(error) => {
                let problem = error.to_string();
                if self.problem.as_ref() != Some(&problem) {
                    tracing::error!(
                        path = %self.path.display(), %error,
                        "--bundle-trust can't be read; the keys that it named last stay trusted"
                    );
                    self.problem = Some(problem);
                }
                None
            }
        }
    }

    /// What is wrong with it.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use countersign_core::{jose::Algorithm, keys::SigningKey};

    use super::*;

    fn set() -> String {
        let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
        serde_json::json!({"keys": [key.public_jwk()]}).to_string()
    }

    #[test]
    fn a_mounted_config_map_that_is_swapped_is_read_anew_and_one_that_turns_bad_changes_nothing() {
        let mount = tempfile::tempdir().unwrap();
        let put = |version: &str, content: &str| {
            let directory = mount.path().join(version);
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join(BUNDLE_TRUST_KEY), content).unwrap();
            symlink(version, mount.path().join("..data_tmp")).unwrap();
            std::fs::rename(mount.path().join("..data_tmp"), mount.path().join("..data")).unwrap();
        };
        put("..1", &set());
        symlink(format!("..data/{BUNDLE_TRUST_KEY}"), mount.path().join(BUNDLE_TRUST_KEY)).unwrap();
        let mut file = TrustFile::new(mount.path().to_owned());
        let first = file.changed([0; 32]).unwrap();
        assert_eq!(first.kids.len(), 1);
        assert!(file.changed(first.digest).is_none());
        put("..2", &set());
        let second = file.changed(first.digest).unwrap();
        assert_ne!(second.kids, first.kids);
        for (version, bad) in [("..3", "{"), ("..4", r#"{"keys": []}"#)] {
            put(version, bad);
            assert!(file.changed(second.digest).is_none());
            assert!(file.problem().is_some(), "{bad}");
        }
        std::fs::remove_file(mount.path().join(BUNDLE_TRUST_KEY)).unwrap();
        assert!(matches!(read(mount.path()), Err(TrustError::Unreadable { .. })));
    }
}
