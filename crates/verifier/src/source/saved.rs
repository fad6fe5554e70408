//! The last good state on disk, to start from when the source is away or has turned bad.

use std::{
    fs, io,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use countersign_api::bundle;

use super::directory::read_bounded;

/// A directory of last good bundles and key sets. Holds no private key, and no symmetric one.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    bundles: PathBuf,
    key_sets: PathBuf,
}

/// A saved bundle.
pub(crate) struct SavedBundle {
    pub(crate) name: String,
    pub(crate) envelope: Arc<[u8]>,
    pub(crate) secrets: Option<Arc<[u8]>>,
}

impl Saved {
    /// Opens `data_dir`, and makes it where it is missing.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let saved = Self { bundles: data_dir.join("bundles"), key_sets: data_dir.join("jwks") };
        for directory in [data_dir, &saved.bundles, &saved.key_sets] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        Ok(saved)
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

    /// Keeps a bundle. Its secrets first: a bundle that is there can then be used.
    pub(crate) fn keep_bundle(&self, name: &str, envelope: &[u8], secrets: Option<&[u8]>) -> io::Result<()> {
        let beside = self.bundles.join(secrets_name(name));
        match secrets {
            Some(secrets) => write_whole(&beside, secrets)?,
            None => remove(&beside)?,
        }
        write_whole(&self.bundles.join(name), envelope)
    }

    /// The key set kept under `name`.
    pub(crate) fn key_set(&self, name: &str) -> Option<Arc<[u8]>> {
        read_bounded(&self.key_sets.join(name)).ok()
    }

    /// Keeps a key set.
    pub(crate) fn keep_key_set(&self, name: &str, set: &[u8]) -> io::Result<()> {
        write_whole(&self.key_sets.join(name), set)
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
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_data()?;
    fs::rename(&temporary, path)
}
