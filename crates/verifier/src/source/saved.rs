//! The last good state on disk, to start from when the source is away or has turned bad.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use countersign_api::bundle;
use countersign_feed::RefusedPolicy;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::held::{Content, Unreadable};

/// The file that says up to where the source is applied.
const POSITION_FILE: &str = "source.json";
/// Locked by the process that writes.
const LOCK_FILE: &str = "lock";
/// No file of ours is larger.
const MAX_FILE: u64 = 8 << 20;
/// Past this many files, one flush of the file system is cheaper than one of each.
const FLUSH_EACH: usize = 8;

/// A directory of last good bundles and key sets. Holds no private key, and no symmetric one.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    root: PathBuf,
    bundles: PathBuf,
    key_sets: PathBuf,
    /// Held open as long as this process alone may write here.
    lock: Arc<Mutex<Option<fs::File>>>,
    /// That another process holds it was said.
    told: Arc<AtomicBool>,
}

/// A saved bundle.
pub(crate) struct SavedBundle {
    pub(crate) name: String,
    pub(crate) envelope: Arc<[u8]>,
    pub(crate) secrets: Option<Arc<[u8]>>,
}

/// A bundle to save.
pub(crate) struct ToSave<'a> {
    pub(crate) name: &'a str,
    pub(crate) envelope: &'a [u8],
    pub(crate) secrets: Option<&'a [u8]>,
}

/// Up to where an ordered source is applied and saved, and what of it isn't in force. Never ahead of the bundles beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SavedPosition {
    pub(crate) history: String,
    pub(crate) version: u64,
    #[serde(default)]
    pub(crate) refused: Vec<RefusedPolicy>,
}

impl Saved {
    /// Opens `data_dir`, and makes it where it is missing.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let saved = Self {
            root: data_dir.to_owned(),
            bundles: data_dir.join("bundles"),
            key_sets: data_dir.join("jwks"),
            lock: Arc::default(),
            told: Arc::default(),
        };
        for directory in [data_dir, &saved.bundles, &saved.key_sets] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        Ok(saved)
    }

    /// Whether this process alone writes here. A new process starts beside the old one, and must not write before that has ended:
    /// what either acknowledged would be the other's to undo.
    pub(crate) fn own(&self) -> io::Result<bool> {
        let mut lock = self.lock.lock();
        if lock.is_none() {
            let file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(self.root.join(LOCK_FILE))?;
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => *lock = Some(file),
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    if !self.told.swap(true, Relaxed) {
                        tracing::warn!(
                            directory = %self.root.display(),
                            "another process uses the data directory: nothing is saved or acknowledged here until it has ended"
                        );
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(lock.is_some())
    }

    /// Everything saved, in no particular order. What can't be read is left out: the source has it anew.
    pub(crate) fn bundles(&self) -> Vec<SavedBundle> {
        let Ok(entries) = fs::read_dir(&self.bundles) else { return Vec::new() };
        entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok().filter(|n| bundle::is_bundle_file(n))?;
                let envelope = read_bounded(&self.bundles.join(&name)).ok()?;
                let secrets = read_bounded(&self.bundles.join(secrets_name(&name))).ok();
                Some(SavedBundle { name, envelope, secrets })
            })
            .collect()
    }

    /// Keeps bundles, each whole or not at all, and on the disk when this returns. A bundle's secrets come first: a bundle that
    /// is there can then be used.
    pub(crate) fn keep_bundles(&self, bundles: &[ToSave<'_>]) -> Vec<io::Result<()>> {
        let each = bundles.len() <= FLUSH_EACH;
        let written = |kept: &ToSave<'_>| {
            if let Some(secrets) = kept.secrets {
                write_beside(&self.bundles.join(secrets_name(kept.name)), secrets, each)?;
            }
            write_beside(&self.bundles.join(kept.name), kept.envelope, each)
        };
        let mut results: Vec<io::Result<()>> = bundles.iter().map(written).collect();
        if !each && let Err(error) = self.flush_all() {
            fail(&mut results, &error);
        }
        for (kept, result) in bundles.iter().zip(&mut results).filter(|(_, result)| result.is_ok()) {
            let beside = self.bundles.join(secrets_name(kept.name));
            let secrets = if kept.secrets.is_some() { take_place(&beside) } else { remove(&beside) };
            *result = secrets.and_then(|()| take_place(&self.bundles.join(kept.name)));
        }
        if !bundles.is_empty()
            && let Err(error) = flush(&self.bundles)
        {
            fail(&mut results, &error);
        }
        results
    }

    /// Removes a bundle that must not come back.
    pub(crate) fn forget_bundle(&self, name: &str) -> io::Result<()> {
        remove(&self.bundles.join(name))?;
        remove(&self.bundles.join(secrets_name(name)))?;
        flush(&self.bundles)
    }

    /// Up to where the source was applied when that was last kept.
    pub(crate) fn position(&self) -> Option<SavedPosition> {
        serde_json::from_slice(&read_bounded(&self.root.join(POSITION_FILE)).ok()?).ok()
    }

    /// Keeps a position. The bundles that it speaks of are saved already.
    pub(crate) fn keep_position(&self, position: &SavedPosition) -> io::Result<()> {
        let path = self.root.join(POSITION_FILE);
        // Not flushed: an older one, or none, is true as well.
        write_beside(&path, &serde_json::to_vec(position)?, false)?;
        take_place(&path)
    }

    /// The key set kept under `name`.
    pub(crate) fn key_set(&self, name: &str) -> Option<Arc<[u8]>> {
        read_bounded(&self.key_sets.join(name)).ok()
    }

    /// Keeps a key set.
    pub(crate) fn keep_key_set(&self, name: &str, set: &[u8]) -> io::Result<()> {
        write_whole(&self.key_sets.join(name), set)
    }

    fn flush_all(&self) -> io::Result<()> {
        Ok(rustix::fs::syncfs(fs::File::open(&self.bundles)?)?)
    }
}

/// A file's content, if it isn't too large.
pub(crate) fn read_bounded(path: &Path) -> Content {
    use io::Read as _;
    let read = || {
        let mut bytes = Vec::new();
        fs::File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 > MAX_FILE => Err(Unreadable("the file is over 8 MiB".into())),
        Ok(bytes) => Ok(bytes.into()),
        Err(error) => Err(Unreadable(error.to_string())),
    }
}

fn fail(results: &mut [io::Result<()>], error: &io::Error) {
    for result in results.iter_mut().filter(|result| result.is_ok()) {
        *result = Err(io::Error::new(error.kind(), error.to_string()));
    }
}

fn secrets_name(bundle: &str) -> String {
    format!("{}.secrets.json", bundle.trim_end_matches(".json"))
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Under another name, then renamed over: whoever reads finds the old or the new, never a part.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_beside(path, bytes, true)?;
    take_place(path)
}

fn write_beside(path: &Path, bytes: &[u8], flushed: bool) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(beside(path))?;
    file.write_all(bytes)?;
    if flushed { file.sync_data() } else { Ok(()) }
}

fn take_place(path: &Path) -> io::Result<()> {
    fs::rename(beside(path), path)
}

fn beside(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn flush(directory: &Path) -> io::Result<()> {
    fs::File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(i: usize) -> String {
        format!("b-{i:032x}.json")
    }

    #[test]
    fn many_bundles_are_kept_as_well_as_few_and_one_that_cannot_be_kept_harms_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let saved = Saved::open(directory.path()).unwrap();
        // A directory in its place can't be renamed over.
        fs::create_dir_all(directory.path().join("bundles").join(name(1)).join("x")).unwrap();
        for count in [3, 40] {
            let names: Vec<String> = (0..count).map(name).collect();
            let bundles: Vec<_> =
                names.iter().map(|name| ToSave { name, envelope: name.as_bytes(), secrets: Some(b"s") }).collect();
            let results = saved.keep_bundles(&bundles);
            assert!(results[1].is_err(), "{count}");
            assert_eq!(results.iter().filter(|r| r.is_ok()).count(), count - 1);
        }
        let kept = saved.bundles();
        assert_eq!(kept.len(), 39);
        assert!(kept.iter().all(|b| *b.envelope == *b.name.as_bytes() && b.secrets.as_deref() == Some(b"s")));
        // Secrets that a bundle no longer has don't stay.
        saved.keep_bundles(&[ToSave { name: &name(2), envelope: b"2", secrets: None }]).remove(0).unwrap();
        let second = saved.bundles().into_iter().find(|b| b.name == name(2)).unwrap();
        assert_eq!((&*second.envelope, second.secrets), (&b"2"[..], None));
        saved.forget_bundle(&name(2)).unwrap();
        assert_eq!(saved.bundles().len(), 38);
    }
}
