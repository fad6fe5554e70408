//! Bundles in a directory.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use countersign_api::bundle::{self, Trust};
use countersign_core::{digest::sha256, jose::JwkSet};
use notify::Watcher as _;
use serde::Deserialize;
use tokio::sync::mpsc;

/// How often the directory is looked at, whatever the watch says.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The keys that bundles must be signed with, when the file is there.
const TRUST_FILE: &str = "bundle-trust.json";
/// Which state of which history the directory is in.
const REVISION_FILE: &str = ".revision";
/// No file of ours is larger.
const MAX_FILE: u64 = 8 << 20;

/// What a directory holds at one moment.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) revision: Revision,
    pub(crate) trust: Trust,
    /// The trusted keys' ids; empty where the file system is the trust.
    pub(crate) trusted_keys: Vec<String>,
    pub(crate) bundles: BTreeMap<String, BundleFile>,
    /// What the trust file says, in a word: another one makes every bundle be judged anew.
    pub(crate) trust_digest: [u8; 32],
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

/// One bundle's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BundleFile {
    pub(crate) content: FileContent,
    pub(crate) secrets: Option<Arc<[u8]>>,
}

/// A file that is there and can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable(pub(crate) String);

/// What tells one content of a file from another without reading it.
type Stamp = (u64, u64, i64, i64, u64);

/// What a file holds.
type FileContent = Result<Arc<[u8]>, Unreadable>;

/// Reads a directory again and again, and only what changed.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    files: BTreeMap<String, (Stamp, FileContent)>,
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
        let bundles: BTreeMap<String, BundleFile> = self
            .files
            .iter()
            .filter(|(name, _)| bundle::is_bundle_file(name))
            .map(|(name, (_, content))| {
                let secrets = self.files.get(&secrets_beside(name)).and_then(|(_, s)| s.as_ref().ok().cloned());
                (name.clone(), BundleFile { content: content.clone(), secrets })
            })
            .collect();
        let (trust, trusted_keys, trust_digest) = read_trust(trust);
        let revision = revision
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_else(|| Revision { history: String::new(), revision: digest_of(&bundles) });
        Ok(Listing { revision, trust, trusted_keys, bundles, trust_digest })
    }

    fn file(&self, name: &str) -> Option<Arc<[u8]>> {
        read_bounded(&self.path.join(name)).ok()
    }

    /// Says whenever something changed, as far as the system tells; [`LOOK_EVERY`] finds the rest.
    pub(crate) fn watch(&self) -> (Option<notify::RecommendedWatcher>, mpsc::Receiver<()>) {
        let (tell, changes) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|e| !e.kind.is_access()) {
                // Full: somebody will look anyway.
                let _ = tell.try_send(());
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&self.path, notify::RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        if let Err(error) = &watching {
            tracing::warn!(directory = %self.path.display(), %error, "the directory can't be watched; it is looked at every 2 s");
        }
        (watching.ok(), changes)
    }
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

pub(crate) fn read_bounded(path: &Path) -> FileContent {
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

/// A trust file that can't be understood trusts nobody.
fn read_trust(file: Option<Arc<[u8]>>) -> (Trust, Vec<String>, [u8; 32]) {
    let Some(bytes) = file else { return (Trust::FileSystem, Vec::new(), [0; 32]) };
    let digest = sha256(&bytes);
    match JwkSet::parse(&bytes) {
        Ok(set) => {
            let kids = set.keys.iter().filter_map(|k| k.kid.clone()).collect();
            (Trust::from_jwks(&set), kids, digest)
        }
        Err(error) => {
            tracing::error!(file = TRUST_FILE, %error, "no bundle is trusted until the file is mended");
            (Trust::Keys(Vec::new()), Vec::new(), digest)
        }
    }
}

fn digest_of(bundles: &BTreeMap<String, BundleFile>) -> String {
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
