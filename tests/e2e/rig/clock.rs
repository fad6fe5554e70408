//! A wall clock that a test sets, for processes that are started under it. libfaketime moves it under them; their monotonic
//! clocks, and everybody else's, stay.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

/// How far the clock of some processes is from the machine's.
pub(crate) struct Clock {
    file: PathBuf,
    _directory: TempDir,
}

impl Clock {
    /// One that is right.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Self { file: directory.path().join("clock"), _directory: directory };
        clock.set(0);
        clock
    }

    /// What puts a process under it.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let variables = [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }

    /// Sets it so many seconds ahead of the machine's, or behind.
    pub(crate) fn set(&self, seconds: i64) {
        let temporary = self.file.with_extension("new");
        fs::write(&temporary, format!("{seconds:+}\n")).unwrap();
        fs::rename(temporary, &self.file).unwrap();
    }
}

fn library() -> PathBuf {
    let directories = fs::read_dir(Path::new("/usr/lib")).unwrap().map(|entry| entry.unwrap().path());
    directories
        .map(|directory| directory.join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.is_file())
        .expect("libfaketime is installed (cargo xtask test installs it)")
}
