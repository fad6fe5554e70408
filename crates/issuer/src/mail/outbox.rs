//! Mails as files, where no server is set up: `countersign dev`.

use std::{
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use uuid::Uuid;

/// A mail that was kept.
#[derive(Clone, Copy)]
pub struct Kept<'a> {
    /// To whom.
    pub to: &'a str,
    /// What about.
    pub subject: &'a str,
    /// The link in it.
    pub link: Option<&'a str>,
    /// The file.
    pub path: &'a Path,
}

/// A directory of mails, which only its owner can read.
#[derive(Clone)]
pub struct Outbox {
    directory: PathBuf,
    tell: Arc<dyn Fn(&Kept<'_>) + Send + Sync>,
}

impl Outbox {
    /// Mails go to `directory` as `*.eml`, and `tell` hears of each. It is told the link, which is as good as a password: it
    /// may be printed for the person at the terminal, never logged.
    pub fn new(directory: PathBuf, tell: impl Fn(&Kept<'_>) + Send + Sync + 'static) -> Self {
        Self { directory, tell: Arc::new(tell) }
    }

    pub(super) fn tell(&self, kept: &Kept<'_>) {
        (self.tell)(kept);
    }

    /// Writes a mail under a name that no reader of `*.eml` knows, then gives it its own. Names sort by time.
    pub(super) async fn keep(&self, message: Vec<u8>) -> io::Result<PathBuf> {
        let directory = self.directory.clone();
        let written = tokio::task::spawn_blocking(move || write(&directory, &message)).await;
        written.unwrap_or_else(|error| Err(io::Error::other(error)))
    }
}

fn write(directory: &Path, message: &[u8]) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let name = Uuid::now_v7();
    let (hidden, path) = (directory.join(format!(".{name}.tmp")), directory.join(format!("{name}.eml")));
    let written = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&hidden).and_then(|mut file| {
        file.write_all(message)?;
        file.sync_all()?;
        fs::rename(&hidden, &path)
    });
    if written.is_err() {
        let _ = fs::remove_file(&hidden);
    }
    written.map(|()| path)
}

impl fmt::Debug for Outbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Outbox").field(&self.directory).finish()
    }
}
