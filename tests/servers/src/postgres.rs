//! PostgreSQL.

use std::{
    fs, io,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tempfile::TempDir;

use crate::processes;

/// A PostgreSQL server. Whoever may open its socket is its superuser.
#[derive(Debug)]
pub struct Postgres {
    home: Home,
    settings: Vec<String>,
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
        let server = Self { home: Home::Own(dir), settings };
        let mut initdb = program("initdb")?;
        initdb.args(["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "-D"]).arg(server.data());
        run(&mut initdb)?;
        server.launch()?;
        Ok(server)
    }

    /// One that another process started, by its [directory](Self::directory).
    pub fn of_another(directory: PathBuf) -> Self {
        Self { home: Home::Another(directory), settings: Vec::new() }
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

    /// Where a database of it is.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@localhost/{database}?host={}", self.directory().display())
    }

    /// `kill -9` for all of its processes; they are gone when this returns.
    pub fn kill(&self) -> io::Result<()> {
        let pid = self.pid()?;
        // Stopped, it starts no more processes while they are counted.
        processes::stop(pid)?;
        let all: Vec<u32> = processes::children(pid)?.into_iter().chain([pid]).collect();
        for pid in &all {
            processes::kill(*pid)?;
        }
        processes::wait_until_gone(&all)
    }

    /// Starts it again on what is on disk, and waits until it answers.
    pub fn restart(&self) -> io::Result<()> {
        self.launch()
    }

    /// Its processes now: the one that was started, and all that it has started.
    pub fn processes(&self) -> io::Result<Vec<u32>> {
        let pid = self.pid()?;
        Ok(processes::children(pid)?.into_iter().chain([pid]).collect())
    }

    fn data(&self) -> PathBuf {
        self.directory().join("data")
    }

    /// The first line of the file by which PostgreSQL itself knows.
    fn pid(&self) -> io::Result<u32> {
        let held = fs::read_to_string(self.data().join("postmaster.pid"))?;
        let pid = held.lines().next().and_then(|line| line.trim().parse().ok());
        pid.ok_or_else(|| io::Error::other("PostgreSQL's process id is unknown"))
    }

    fn launch(&self) -> io::Result<()> {
        let mut settings = format!(
            "-k {} -c listen_addresses= -c max_connections=300 -c deadlock_timeout=100ms",
            self.directory().display()
        );
        for setting in &self.settings {
            settings.push_str(" -c ");
            settings.push_str(setting);
        }
        let log = self.directory().join("log");
        let started = run(self.control("start")?.arg("-o").arg(settings).arg("-l").arg(&log));
        started.map_err(|error| {
            let log = fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<&str> = log.lines().rev().take(10).collect();
            io::Error::other(format!("{error}: {}", last.into_iter().rev().collect::<Vec<_>>().join("\n")))
        })
    }

    fn control(&self, action: &str) -> io::Result<Command> {
        let mut command = program("pg_ctl")?;
        command.arg(action).args(["-w", "-t", "60", "-D"]).arg(self.data());
        Ok(command)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if matches!(self.home, Home::Another(_)) {
            return;
        }
        // It may have been killed: then there is nothing left to end.
        let _ = self.control("stop").and_then(|mut stop| run(stop.args(["-m", "immediate"])));
    }
}

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
