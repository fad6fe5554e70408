//! Bundles in a directory.

mod keeper;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use countersign_api::bundle;
use countersign_core::digest::sha256;
use countersign_process::Trusted;
use notify::Watcher as _;
use serde::Deserialize;
use tokio::sync::mpsc;

pub(crate) use keeper::DirectoryKeeper;

use super::{
    held::{Content, Offer},
    saved::read_bounded,
};

/// How often the directory is looked at, whatever the watch says.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The keys that bundles must be signed with, when the file is there.
const TRUST_FILE: &str = "bundle-trust.json";
/// Which state of which history the directory is in.
const REVISION_FILE: &str = ".revision";

/// What a directory holds at one moment.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) revision: Revision,
    pub(crate) trusted: Trusted,
    pub(crate) bundles: BTreeMap<String, Offer>,
}

/// The state of a directory as its writer names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Revision {
    #[serde(default)]
    pub(crate) history: String,
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) revision: String,
}

fn text_or_number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Ok(text),
        serde_json::Value::Number(n) => Ok(n.to_string()),
        _ => Err(serde::de::Error::custom("revision is neither a string nor a number")),
    }
}

/// What tells one content of a file from another without reading it.
type Stamp = (u64, u64, i64, i64, u64);

/// Reads a directory again and again, and only what changed.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    files: BTreeMap<String, (Stamp, Content)>,
}

impl Directory {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, files: BTreeMap::new() }
    }

    /// Reads what is there now.
    pub(crate) fn read(&mut self) -> io::Result<Listing> {
        // First of all: what is read after it is at least as new as it says.
        let revision = self.file(REVISION_FILE);
        let trust = self.file(TRUST_FILE);
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if is_ours(&name) {
                let Some(stamp) = stamp(&entry.path()) else { continue };
                let kept = self.files.remove(&name).filter(|(before, _)| *before == stamp);
                let content = kept.map_or_else(|| read_bounded(&entry.path()), |(_, content)| content);
                files.insert(name, (stamp, content));
            }
        }
        self.files = files;
        let bundles: BTreeMap<String, Offer> = self
            .files
            .iter()
            .filter(|(name, _)| bundle::is_bundle_file(name))
            .map(|(name, (_, content))| {
                let secrets = self.files.get(&secrets_beside(name)).and_then(|(_, s)| s.as_ref().ok().cloned());
                (name.clone(), Offer { content: content.clone(), secrets, policy: None })
            })
            .collect();
        let trusted = trust.map_or_else(Trusted::in_file_system, |bytes| {
            Trusted::parse(&bytes).unwrap_or_else(|error| {
                tracing::error!(file = TRUST_FILE, %error, "no bundle is trusted until the file is mended");
                Trusted::in_nobody(&bytes)
            })
        });
        let revision = revision
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_else(|| Revision { history: String::new(), revision: digest_of(&bundles) });
        Ok(Listing { revision, trusted, bundles })
    }

    fn file(&self, name: &str) -> Option<Arc<[u8]>> {
        read_bounded(&self.path.join(name)).ok()
    }
}

/// Says whenever something changed in a directory, as far as the system tells; [`LOOK_EVERY`] finds the rest.
fn watch(path: &Path) -> (Option<notify::RecommendedWatcher>, mpsc::Receiver<()>) {
    let (tell, changes) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|e| !e.kind.is_access()) {
            // Full: somebody will look anyway.
            let _ = tell.try_send(());
        }
    });
    let watching = watcher.and_then(|mut watcher| {
        watcher.watch(path, notify::RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    if let Err(error) = &watching {
        tracing::warn!(directory = %path.display(), %error, "the directory can't be watched; it is looked at every 2 s");
    }
    (watching.ok(), changes)
}

fn is_ours(name: &str) -> bool {
    let bundle = name.strip_suffix(".secrets.json").map_or_else(|| name.to_owned(), |stem| format!("{stem}.json"));
    bundle::is_bundle_file(&bundle)
}

fn secrets_beside(bundle: &str) -> String {
    format!("{}.secrets.json", bundle.trim_end_matches(".json"))
}

fn stamp(path: &Path) -> Option<Stamp> {
    let m = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    Some((m.ino(), m.len(), m.mtime(), m.mtime_nsec(), m.dev()))
}

fn digest_of(bundles: &BTreeMap<String, Offer>) -> String {
    let mut all = Vec::new();
    for (name, file) in bundles {
        all.extend_from_slice(name.as_bytes());
        let parts = [file.content.as_deref().ok(), file.secrets.as_deref()];
        for part in parts {
            all.extend_from_slice(&part.map_or([0; 32], sha256));
        }
    }
    hex::encode(&sha256(&all)[..16])
}
