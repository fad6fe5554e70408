//! What a policy refers to: Secrets and ConfigMaps of its own namespace.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// How large a referenced value may be: what a Secret or ConfigMap can hold.
pub const MAX_VALUE_BYTES: u64 = 1 << 20;

/// The two kinds of object that a policy refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceKind {
    /// Holds something secret.
    Secret,
    /// Holds something public.
    ConfigMap,
}

/// Why a reference gives nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// There is no such object or key.
    #[error("there is no {place}")]
    NotFound {
        /// Where it was looked for.
        place: String,
    },
    /// Not a name that Kubernetes would take.
    #[error("{0:?} is not a name: use letters, digits, '-', '_' and '.'")]
    InvalidName(String),
    /// Over [`MAX_VALUE_BYTES`].
    #[error("{place} is over 1 MiB")]
    TooLarge {
        /// Where it is.
        place: String,
    },
    /// It is there and can't be read.
    #[error("{place} can't be read: {source}")]
    Unreadable {
        /// Where it is.
        place: String,
        /// Why.
        source: io::Error,
    },
}

/// Where referenced objects are found.
pub trait References {
    /// The value under `key` of the object `name`, byte for byte.
    fn value(&self, kind: ReferenceKind, name: &str, key: &str) -> Result<Zeroizing<Vec<u8>>, ReferenceError>;
}

/// References of `countersign dev`: `DIR/secrets/NAME/KEY` and `DIR/configmaps/NAME/KEY`.
#[derive(Clone, Debug)]
pub struct DirectoryReferences {
    directory: PathBuf,
}

impl DirectoryReferences {
    /// References below `directory`.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }
}

impl References for DirectoryReferences {
    fn value(&self, kind: ReferenceKind, name: &str, key: &str) -> Result<Zeroizing<Vec<u8>>, ReferenceError> {
        for part in [name, key] {
            if !is_file_name(part) {
                return Err(ReferenceError::InvalidName(part.to_owned()));
            }
        }
        let folder = match kind {
            ReferenceKind::Secret => "secrets",
            ReferenceKind::ConfigMap => "configmaps",
        };
        let path = self.directory.join(folder).join(name).join(key);
        let place = path.display().to_string();
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ReferenceError::NotFound { place: place.clone() },
            _ => ReferenceError::Unreadable { place: place.clone(), source },
        };
        let file = fs::File::open(&path).map_err(unreadable)?;
        // Not a FIFO or device: reading one could block for ever.
        if !file.metadata().map_err(unreadable)?.is_file() {
            return Err(ReferenceError::NotFound { place });
        }
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(MAX_VALUE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_VALUE_BYTES { Err(ReferenceError::TooLarge { place }) } else { Ok(bytes) }
    }
}

/// The characters of Kubernetes' object names and keys, none of which leads out of a directory.
fn is_file_name(part: &str) -> bool {
    !part.is_empty()
        && part.len() <= 253
        && !part.starts_with("..")
        && part != "."
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_reads_its_file_byte_for_byte_and_never_leaves_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("secrets/legacy-jwt")).unwrap();
        fs::write(dir.path().join("secrets/legacy-jwt/secret"), b"s3cret\n").unwrap();
        fs::write(dir.path().join("outside"), b"no").unwrap();
        let references = DirectoryReferences::new(dir.path());
        let read = |name: &str, key: &str| references.value(ReferenceKind::Secret, name, key);
        assert_eq!(read("legacy-jwt", "secret").unwrap().as_slice(), b"s3cret\n");
        assert!(matches!(read("legacy-jwt", "other"), Err(ReferenceError::NotFound { .. })));
        assert!(matches!(read("nobody", "secret"), Err(ReferenceError::NotFound { .. })));
        for (name, key) in [("..", "outside"), (".", "outside"), ("legacy-jwt", "../../outside"), ("", "x"), ("a/b", "c")] {
            assert!(matches!(read(name, key), Err(ReferenceError::InvalidName(_))), "{name} {key}");
        }
    }
}
