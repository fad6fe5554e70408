//! Whether the files may have changed since they were read.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// How deep references lie: `secrets/NAME/KEY`.
const DEPTH: usize = 3;

/// Inode, length, and when content, mode or owner last changed.
type State = (u64, u64, [i64; 4]);

/// What tells one state of a directory from another without reading its files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fingerprint(BTreeMap<PathBuf, State>);

impl Fingerprint {
    /// Of the directory now. What can't be looked at isn't in it.
    pub(super) fn of(dir: &Path) -> Self {
        let mut found = BTreeMap::new();
        walk(dir, 0, &mut found);
        Self(found)
    }
}

fn walk(dir: &Path, depth: usize, found: &mut BTreeMap<PathBuf, State>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        // Through links, as they are read: Kubernetes mounts values that way.
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() {
            if depth + 1 < DEPTH {
                walk(&path, depth + 1, found);
            }
        } else {
            // The change of a mode can mend a file as well as one of its content.
            let times = [metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec()];
            found.insert(path, (metadata.ino(), metadata.len(), times));
        }
    }
}
