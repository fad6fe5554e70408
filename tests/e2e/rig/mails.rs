//! Mails that went out, as files.

mod server;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

pub(crate) use self::server::MailServer;
use super::{PATIENCE, eventually};

/// A directory of mails, and which of them were looked at.
pub(crate) struct Mails {
    directory: PathBuf,
    read: Mutex<BTreeSet<PathBuf>>,
}

impl Mails {
    /// Those in a directory, in files that end in `.eml`.
    pub(crate) fn of(directory: PathBuf) -> Self {
        Self { directory, read: Mutex::default() }
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The text of the next mail to an address that has a link.
    pub(crate) fn next(&self, to: &str) -> String {
        eventually(&format!("a mail to {to}"), PATIENCE, || {
            let mut read = self.read.lock().unwrap();
            let files = fs::read_dir(&self.directory).ok()?.map(|entry| entry.unwrap().path());
            let mails = files.filter(|path| path.extension().is_some_and(|ext| ext == "eml") && !read.contains(path));
            let mut found = mails.map(|path| (fs::read_to_string(&path).unwrap(), path));
            let (mail, path) = found.find(|(mail, _)| mail.contains(&format!("To: {to}")) && mail.contains("token="))?;
            read.insert(path);
            Some(mail)
        })
    }

    /// The token in its link.
    pub(crate) fn token(&self, to: &str) -> String {
        let mail = self.next(to);
        let (_, token) = mail.split_once("token=").unwrap();
        token.chars().take_while(|c| c.is_ascii_alphanumeric() || "-_".contains(*c)).collect()
    }
}
