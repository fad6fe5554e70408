//! Whose signatures on bundles and rings count: the keys of a file, or of a mounted ConfigMap.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use countersign_api::{bundle::Trust, cluster::BUNDLE_TRUST_KEY};
use countersign_core::{digest::sha256, jose::JwkSet};

/// The largest file: more than a ConfigMap may hold.
const MAX_FILE: u64 = 8 << 20;

/// Whose signature counts at present.
#[derive(Debug)]
pub struct Trusted {
    /// Asked of every signature.
    pub trust: Trust,
    /// The trusted keys' ids; empty where the file system is the trust.
    pub kids: Vec<String>,
    /// What the trust file says, in a word: another one makes everything be judged anew.
    pub digest: [u8; 32],
}

/// Why a file says of nobody that he is trusted.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// It isn't there, or can't be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It doesn't parse.
    #[error("it is no JWKS: {0}")]
    NoJwks(String),
    /// It parses, and holds no key that anything could be signed with.
    #[error("it holds no Ed25519 key with a kid")]
    NoKey,
}

impl Trusted {
    /// Trust in whoever can write to the directory.
    pub const fn in_file_system() -> Self {
        Self { trust: Trust::FileSystem, kids: Vec::new(), digest: [0; 32] }
    }

    /// Trust in nobody, by a file of this content.
    pub fn in_nobody(bytes: &[u8]) -> Self {
        Self { trust: Trust::Keys(Vec::new()), kids: Vec::new(), digest: sha256(bytes) }
    }

    /// Trust in the keys of a JWKS.
    pub fn parse(bytes: &[u8]) -> Result<Self, TrustError> {
        let set = JwkSet::parse(bytes).map_err(|error| TrustError::NoJwks(error.to_string()))?;
        let trust = Trust::from_jwks(&set);
        let kids: Vec<String> = match &trust {
            Trust::Keys(keys) => keys.iter().filter_map(|key| key.kid().map(str::to_owned)).collect(),
            Trust::FileSystem => Vec::new(),
        };
        if kids.is_empty() {
            return Err(TrustError::NoKey);
        }
        Ok(Self { trust, kids, digest: sha256(bytes) })
    }

    /// Reads a trust file, or the directory that a ConfigMap is mounted as.
    pub fn read(path: &Path) -> Result<Self, TrustError> {
        let file = if path.is_dir() { path.join(BUNDLE_TRUST_KEY) } else { path.to_owned() };
        let bytes = bounded(&file).map_err(|source| TrustError::Unreadable { path: file, source })?;
        Self::parse(&bytes)
    }
}

/// A file's content, if it isn't too large.
fn bounded(file: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE { Err(io::Error::other("the file is over 8 MiB")) } else { Ok(bytes) }
}

/// A trust file that is looked at again and again: a mounted ConfigMap changes by a swap of symbolic links, which no watch on
/// the file itself sees.
#[derive(Debug)]
pub struct TrustFile {
    path: PathBuf,
    /// What was last said to be wrong with it.
    problem: Option<String>,
}

impl TrustFile {
    /// The file, or directory, at `path`; nothing is read yet.
    pub const fn new(path: PathBuf) -> Self {
        Self { path, problem: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says, when that is another thing than `digest`. One that can't be read or understood changes nothing: whom to
    /// trust was said last by what could.
    pub fn changed(&mut self, digest: [u8; 32]) -> Option<Trusted> {
        match Trusted::read(&self.path) {
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
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use countersign_core::{jose::Algorithm, keys::SigningKey};

    use super::*;

    fn set() -> (String, String) {
        let key = SigningKey::generate(Algorithm::EdDSA).unwrap();
        (serde_json::json!({"keys": [key.public_jwk()]}).to_string(), key.kid().to_owned())
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
        put("..1", &set().0);
        symlink(format!("..data/{BUNDLE_TRUST_KEY}"), mount.path().join(BUNDLE_TRUST_KEY)).unwrap();
        let mut file = TrustFile::new(mount.path().to_owned());
        let first = file.changed([0; 32]).unwrap();
        assert_eq!(first.kids.len(), 1);
        assert!(file.changed(first.digest).is_none());
        put("..2", &set().0);
        let second = file.changed(first.digest).unwrap();
        assert_ne!(second.kids, first.kids);
        for (version, bad) in [("..3", "{"), ("..4", r#"{"keys": []}"#)] {
            put(version, bad);
            assert!(file.changed(second.digest).is_none());
            assert!(file.problem().is_some(), "{bad}");
        }
        std::fs::remove_file(mount.path().join(BUNDLE_TRUST_KEY)).unwrap();
        assert!(matches!(Trusted::read(mount.path()), Err(TrustError::Unreadable { .. })));
    }

    #[test]
    fn a_file_and_a_mounted_directory_say_the_same_and_one_without_a_key_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(BUNDLE_TRUST_KEY);
        let (keys, kid) = set();
        std::fs::write(&file, keys).unwrap();
        assert_eq!(Trusted::read(&file).unwrap().kids, [&*kid]);
        assert_eq!(Trusted::read(directory.path()).unwrap().kids, [&*kid]);
        std::fs::write(&file, r#"{"keys": []}"#).unwrap();
        assert!(matches!(Trusted::read(&file), Err(TrustError::NoKey)));
        std::fs::write(&file, "{").unwrap();
        assert!(matches!(Trusted::read(&file), Err(TrustError::NoJwks(_))));
    }
}
