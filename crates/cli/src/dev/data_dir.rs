//! Where `dev` keeps everything: one directory, for its owner alone, used by one process at a time.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use countersign_issuer::Secrets;
use zeroize::Zeroizing;

use crate::{
    failure::Failure,
    target::{ADMIN_SOCKET, VERIFIER_SOCKET},
};

/// What the verifier saves.
const VERIFIER: &str = "verifier";

/// The longest path of a Unix socket (`sun_path` less its NUL).
const MAX_SOCKET_PATH: usize = 107;

/// The file that holds the secret from which keys are derived.
pub(crate) const SECRET: &str = "secret.key";

/// The database.
pub(crate) const DATABASE: &str = "countersign.db";

/// What takes the place of the present content, while it is put together, and once it is complete.
const STAGING: &str = "restore.new";
const ADOPTING: &str = "restore.pending";

/// What a restored directory takes over.
const ADOPTED: [&str; 2] = [DATABASE, SECRET];

/// The file whose lock says that the directory is in use.
const LOCK: &str = "dev.lock";

/// The file whose lock says that a backup copies the directory's content, or that a restore replaces it.
const BACKUP_LOCK: &str = "backup.lock";

/// Says that nobody else copies or replaces a data directory's content for as long as this lives. `dev` may run meanwhile.
#[derive(Debug)]
pub(crate) struct ContentLock {
    /// Held open, as the directory's own lock is.
    _lock: File,
}

impl ContentLock {
    /// Takes the lock of a data directory that is there.
    pub(crate) fn take(path: &Path) -> Result<Self, Failure> {
        use rustix::fs::{FlockOperation, flock};

        let failed =
            |error: &dyn std::fmt::Display| Failure::unable(format!("{}: can't be locked: {error}", path.display()));
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path.join(BACKUP_LOCK));
        let file = file.map_err(|error| failed(&error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _lock: file }),
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                let said = format!("{}: another `countersign backup` or `restore` is at work there", path.display());
                Err(Failure::unable(said).fix("try again once it has ended"))
            }
            Err(error) => Err(failed(&error)),
        }
    }

    /// The same for who copies: refused where a restore was stopped halfway, because what is there is of two times.
    pub(crate) fn take_to_copy(path: &Path) -> Result<Self, Failure> {
        let taken = Self::take(path)?;
        if path.join(ADOPTING).exists() {
            return Err(Failure::unable(format!("{}: a restore was stopped halfway there", path.display()))
                .fix("start `countersign dev` with that directory: it finishes it"));
        }
        Ok(taken)
    }
}

/// The lock of the data directory that a database lies in, if it lies in one.
pub(crate) fn lock_around(database: &Path) -> Result<Option<File>, Failure> {
    match database.parent() {
        Some(directory) if directory.join(LOCK).is_file() => lock(directory).map(Some),
        _ => Ok(None),
    }
}

/// The data directory, locked for as long as this lives.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Held open: the lock is the file's, and goes with the process however it ends.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it isn't there, and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        refuse_somebody_elses(path)?;
        let failed = |what: &str, e: &io::Error| {
            Failure::unable(format!("--data-dir {}: {what}: {e}", path.display()))
                .fix("name a directory that you may write to")
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| failed("can't be made", &e))?;
        let path = path.canonicalize().map_err(|e| failed("can't be found", &e))?;
        let longest =
            [ADMIN_SOCKET, VERIFIER_SOCKET, "verifier.sock.0123456789"].map(|s| path.join(s).as_os_str().as_bytes().len());
        if longest.into_iter().max().unwrap_or(0) > MAX_SOCKET_PATH {
            return Err(Failure::usage(format!(
                "--data-dir {}: the path is too long for a Unix socket in it",
                path.display()
            ))
            .fix(format!("the socket's whole path may have {MAX_SOCKET_PATH} bytes: name a shorter directory")));
        }
        let lock = lock(&path)?;
        finish_adopting(&path).map_err(|e| failed("an interrupted restore can't be finished", &e))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(|e| failed("can't be made private", &e))?;
        let data_dir = Self { path, _lock: lock };
        data_dir.keep_out_of_git().map_err(|e| failed("can't be written", &e))?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data_dir.bundles())
            .map_err(|e| failed("can't be written", &e))?;
        Ok(data_dir)
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where what is to take the place of the present content is put together: empty, and private.
    pub(crate) fn staging(&self) -> io::Result<PathBuf> {
        let staging = self.path.join(STAGING);
        remove_directory(&staging)?;
        fs::DirBuilder::new().mode(0o700).create(&staging)?;
        Ok(staging)
    }

    /// Puts what is staged in the place of the present content: all of it or nothing, whenever the process or the power fails.
    /// Once the directory has its name, whoever opens the data directory next finishes the work.
    pub(crate) fn adopt_staging(&self) -> io::Result<()> {
        let staging = self.path.join(STAGING);
        for name in ADOPTED {
            let staged = staging.join(name);
            if staged.exists() {
                File::open(staged)?.sync_all()?;
            }
        }
        File::open(&staging)?.sync_all()?;
        fs::rename(&staging, self.path.join(ADOPTING))?;
        File::open(&self.path)?.sync_all()?;
        finish_adopting(&self.path)
    }

    /// Gives up what is staged.
    pub(crate) fn discard_staging(&self) -> io::Result<()> {
        remove_directory(&self.path.join(STAGING))
    }

    /// The database.
    pub(crate) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// Bundles, for this process's verifier and separate ones.
    pub(crate) fn bundles(&self) -> PathBuf {
        self.path.join("bundles")
    }

    /// What the verifier saves.
    pub(crate) fn verifier(&self) -> PathBuf {
        self.path.join(VERIFIER)
    }

    /// The verifier's socket.
    pub(crate) fn verifier_socket(&self) -> PathBuf {
        self.path.join(VERIFIER_SOCKET)
    }

    /// The admin API's socket.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.path.join(ADMIN_SOCKET)
    }

    /// The secret from which this directory's keys are derived: made at the first start, in a file apart from the database.
    pub(crate) fn secret(&self) -> io::Result<Zeroizing<Vec<u8>>> {
        let file = self.path.join(SECRET);
        match fs::read(&file) {
            Ok(secret) => Ok(Zeroizing::new(secret)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let secret = Secrets::fresh().map_err(io::Error::other)?;
                write_atomically(&file, &secret)?;
                Ok(secret)
            }
            Err(error) => Err(error),
        }
    }

    /// Where mails are kept when there is no server to send them.
    pub(crate) fn outbox(&self) -> PathBuf {
        self.path.join("outbox")
    }

    /// Where the addresses are written that were bound.
    pub(crate) fn addresses(&self) -> PathBuf {
        self.path.join("addresses.json")
    }

    fn keep_out_of_git(&self) -> io::Result<()> {
        let file = self.path.join(".gitignore");
        match OpenOptions::new().write(true).create_new(true).open(file) {
            Ok(mut file) => file.write_all(b"*\n"),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// A directory that others can read and that holds other things was not meant: to make it private and hide it from git would
/// take a project, or a whole system's /tmp, away from its users.
fn refuse_somebody_elses(path: &Path) -> Result<(), Failure> {
    let open_to_others = fs::metadata(path).is_ok_and(|m| m.is_dir() && m.permissions().mode() & 0o077 != 0);
    let ours = [LOCK, DATABASE].iter().any(|name| path.join(name).exists());
    let holds_things =
        || fs::read_dir(path).is_ok_and(|mut all| all.any(|e| e.is_ok_and(|e| e.file_name() != "lost+found")));
    if open_to_others && !ours && holds_things() {
        return Err(Failure::usage(format!(
            "--data-dir {}: holds other things already, and would be made private to you and hidden from git",
            path.display()
        ))
        .fix("name a directory of its own, for example one below it"));
    }
    Ok(())
}

/// Moves what is complete into its place, file by file; done again from wherever it stopped. What belonged to the database
/// that goes, goes first: its log, and what the verifier saved of its feed.
fn finish_adopting(path: &Path) -> io::Result<()> {
    let adopting = path.join(ADOPTING);
    if !adopting.exists() {
        return Ok(());
    }
    if adopting.join(DATABASE).exists() {
        for name in ["countersign.db-wal", "countersign.db-shm"] {
            match fs::remove_file(path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        remove_directory(&path.join(VERIFIER))?;
    }
    for name in ADOPTED {
        let staged = adopting.join(name);
        if staged.exists() {
            fs::rename(staged, path.join(name))?;
        }
    }
    File::open(path)?.sync_all()?;
    remove_directory(&adopting)?;
    File::open(path)?.sync_all()
}

fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn lock(path: &Path) -> Result<File, Failure> {
    use rustix::fs::{FlockOperation, flock};

    let name = path.join(LOCK);
    let failed =
        |e: &dyn std::fmt::Display| Failure::unable(format!("--data-dir {}: can't be locked: {e}", path.display()));
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(name)
        .map_err(|e| failed(&e))?;
    // A process that was just killed holds its lock until the kernel has taken it apart.
    let patience = Instant::now() + Duration::from_secs(2);
    let taken = loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(e) if e == rustix::io::Errno::WOULDBLOCK && Instant::now() < patience => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => break other,
        }
    };
    match taken {
        Ok(()) => {}
        Err(e) if e == rustix::io::Errno::WOULDBLOCK => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            let by = holder.trim().parse::<u32>().map_or_else(|_| String::new(), |pid| format!(" (process {pid})"));
            return Err(Failure::unable(format!("--data-dir {}: another `countersign dev` uses it{by}", path.display()))
                .fix("stop that one, or name another directory with --data-dir"));
        }
        Err(e) => return Err(failed(&e)),
    }
    let written = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(format!("{}\n", std::process::id()).as_bytes()));
    written.map_err(|e| failed(&e))?;
    Ok(file)
}

/// Writes a file so that a reader sees the old content or the new, whenever the power fails.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = parent.join(format!(".{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_dir_is_private_and_used_by_one_process_at_a_time() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let held = DataDir::open(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(path.join(".gitignore")).unwrap(), "*\n");
        let refused = DataDir::open(&path).unwrap_err();
        assert!(refused.message.contains("another `countersign dev` uses it"), "{refused}");
        drop(held);
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn content_is_copied_or_replaced_by_one_at_a_time_and_never_copied_halfway() {
        let path = tempfile::tempdir().unwrap();
        let path = path.path();
        let copying = ContentLock::take_to_copy(path).unwrap();
        for refused in [ContentLock::take(path), ContentLock::take_to_copy(path)] {
            assert!(refused.unwrap_err().message.contains("is at work there"));
        }
        drop(copying);
        fs::create_dir(path.join(ADOPTING)).unwrap();
        assert!(ContentLock::take_to_copy(path).unwrap_err().message.contains("stopped halfway"));
        ContentLock::take(path).unwrap();
    }

    #[test]
    fn a_directory_that_others_use_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("project");
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(path.join("main.py"), "").unwrap();
        let refused = DataDir::open(&path).unwrap_err();
        assert!(refused.message.contains("holds other things already"), "{refused}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o755);
        assert!(!path.join(".gitignore").exists());
        fs::remove_file(path.join("main.py")).unwrap();
        fs::create_dir(path.join("lost+found")).unwrap();
        drop(DataDir::open(&path).unwrap());
        // Its own it takes again, whoever opened it to others meanwhile.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        DataDir::open(&path).unwrap();
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_before_anything_is_made_of_it() {
        let parent = tempfile::tempdir().unwrap();
        let refused = DataDir::open(&parent.path().join("d".repeat(120))).unwrap_err();
        assert!(refused.message.contains("too long for a Unix socket"), "{refused}");
    }
}
