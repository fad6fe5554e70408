//! PostgreSQL.

use std::{
    fs::{self, File},
    io,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::processes;

/// A PostgreSQL server. Whoever may open its socket is its superuser.
#[derive(Debug)]
pub struct Postgres {
    home: Home,
    settings: Vec<String>,
    /// Absent while it is killed, and where another process has started it.
    running: Mutex<Option<Child>>,
}

#[derive(Debug)]
enum Home {
    Own(TempDir),
    /// Another process started it, and ends it.
    Another(PathBuf),
}

impl Postgres {
    /// The one that this process' tests share, for as long as any of them uses it. It forgets nothing that was committed when its
    /// processes are killed, and everything when the machine is.
    pub fn shared() -> io::Result<Arc<Self>> {
        static RUNNING: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = running.upgrade() {
            return Ok(server);
        }
        let server = Arc::new(Self::start(&["fsync=off"])?);
        *running = Arc::downgrade(&server);
        Ok(server)
    }

    /// Starts one with these settings beside those of an installation that was just made, and waits until it answers.
    pub fn start(settings: &[&str]) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        if rustix::process::geteuid().is_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY))?;
        }
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let server = Self { home: Home::Own(dir), settings, running: Mutex::default() };
        let mut initdb = program("initdb")?;
        initdb.args(["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "-D"]).arg(server.data());
        run(&mut initdb)?;
        server.launch()?;
        Ok(server)
    }

    /// One that another process started, by its [directory](Self::directory).
    pub fn of_another(directory: PathBuf) -> Self {
        Self { home: Home::Another(directory), settings: Vec::new(), running: Mutex::default() }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        match &self.home {
            Home::Own(dir) => dir.path(),
            Home::Another(path) => path,
        }
    }

    /// Makes an empty database, or a copy of another that nobody is connected to.
    pub fn create(&self, database: &str, copy_of: Option<&str>) -> io::Result<()> {
        let of = copy_of.map_or_else(String::new, |other| format!(" TEMPLATE \"{other}\""));
        self.run("postgres", &format!("CREATE DATABASE \"{database}\"{of}"))
    }

    /// Runs SQL in a database.
    pub fn run(&self, database: &str, sql: &str) -> io::Result<()> {
        let mut psql = program("psql")?;
        psql.args(["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--command", sql]).arg(self.url(database));
        run(&mut psql)
    }

    /// Writes a database to a file, which the server's user must be able to make.
    pub fn dump(&self, database: &str, file: &Path) -> io::Result<()> {
        run(program("pg_dump")?.args(["--format=custom", "--file"]).arg(file).arg(self.url(database)))
    }

    /// Puts what was dumped in the place of what a database holds.
    pub fn put_back(&self, database: &str, file: &Path) -> io::Result<()> {
        let mut restore = program("pg_restore")?;
        restore.args(["--clean", "--if-exists", "--exit-on-error", "--dbname"]).arg(self.url(database)).arg(file);
        run(&mut restore)
    }

    /// Where a database of it is.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@localhost/{database}?host={}", self.directory().display())
    }

    /// `kill -9` for all of its processes; they are gone when this returns.
    pub fn kill(&self) -> io::Result<()> {
        let mut running = self.running();
        let Some(server) = running.as_mut() else { return Ok(()) };
        // Stopped, it starts no more processes while they are counted.
        processes::stop(server.id())?;
        let children = processes::children(server.id())?;
        server.kill()?;
        server.wait()?;
        *running = None;
        for pid in &children {
            processes::kill(*pid)?;
        }
        processes::wait_until_gone(&children)
    }

    /// Starts it again on what is on disk, and waits until it answers.
    pub fn restart(&self) -> io::Result<()> {
        self.kill()?;
        self.launch()
    }

    /// Its processes now: the one that was started, and all that it has started.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        match self.running().as_ref() {
            Some(server) => Ok(processes::children(server.id())?.into_iter().chain([server.id()]).collect()),
            None => Ok(Vec::new()),
        }
    }

    fn running(&self) -> MutexGuard<'_, Option<Child>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data(&self) -> PathBuf {
        self.directory().join("data")
    }

    fn launch(&self) -> io::Result<()> {
        let log = self.directory().join("log");
        let mut postgres = program("postgres")?;
        postgres.arg("-D").arg(self.data()).arg("-k").arg(self.directory());
        for setting in ["listen_addresses=", "max_connections=300", "deadlock_timeout=100ms"] {
            postgres.args(["-c", setting]);
        }
        for setting in &self.settings {
            postgres.args(["-c", setting]);
        }
        let mut server = postgres.stderr(File::options().create(true).append(true).open(&log)?).spawn()?;
        let deadline = Instant::now() + PATIENCE;
        let up = loop {
            if program("pg_isready")?.arg("-h").arg(self.directory()).status()?.success() {
                break true;
            }
            if server.try_wait()?.is_some() || Instant::now() > deadline {
                break false;
            }
            std::thread::park_timeout(Duration::from_millis(10));
        };
        *self.running() = Some(server);
        if up {
            return Ok(());
        }
        let log = fs::read_to_string(&log).unwrap_or_default();
        let last: Vec<&str> = log.lines().rev().take(10).collect();
        Err(io::Error::other(format!(
            "PostgreSQL does not start: {}",
            last.into_iter().rev().collect::<Vec<_>>().join("\n")
        )))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Nothing is left to tell of a failure: whoever measured or tested with it is done.
        let _ = self.kill();
    }
}

/// How long a server may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// The user of no rights that every system has: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;

fn program(name: &str) -> io::Result<Command> {
    let mut command = Command::new(installed(name)?);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(command)
}

/// Debian keeps servers' programs off the path, by version.
fn installed(name: &str) -> io::Result<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&on_path).chain(versions.map(|version| version.path().join("bin")));
    let found = directories.map(|directory| directory.join(name)).find(|path| Path::is_file(path));
    found.ok_or_else(|| io::Error::other(format!("{name} is not installed; `cargo xtask test` installs it")))
}

fn run(command: &mut Command) -> io::Result<()> {
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("{command:?}: {status}"))) }
}
