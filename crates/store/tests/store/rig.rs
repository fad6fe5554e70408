//! Databases of a test's own.

use std::{
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_store::{Location, Store};
use sqlx::{AnyPool, Row as _};
use tempfile::TempDir;
use tokio::sync::Mutex;

pub(crate) fn shop() -> PolicyName {
    "shop/shop".parse().unwrap()
}

pub(crate) const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// An empty database.
pub(crate) enum Database {
    File(TempDir),
    Server(Arc<Server>, u32),
}

impl Database {
    pub(crate) fn file() -> Self {
        Self::File(tempfile::tempdir().unwrap())
    }

    pub(crate) async fn server() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = Server::shared().await;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        server.run("postgres", &format!("CREATE DATABASE test{number}")).await;
        Self::Server(server, number)
    }

    pub(crate) fn location(&self) -> Location {
        match self {
            Self::File(dir) => Location::File(dir.path().join("store.db")),
            Self::Server(server, number) => server.url(&format!("test{number}")).parse().unwrap(),
        }
    }

    pub(crate) async fn open(&self) -> Store {
        Store::connect(&self.location()).await.unwrap()
    }

    /// A connection past the store, for what only a test does.
    pub(crate) async fn raw(&self) -> AnyPool {
        sqlx::any::install_default_drivers();
        let url = match self {
            Self::File(dir) => format!("sqlite://{}", dir.path().join("store.db").display()),
            Self::Server(server, number) => server.url(&format!("test{number}")),
        };
        AnyPool::connect(&url).await.unwrap()
    }

    /// How a statement would be run, in the database's words.
    pub(crate) async fn plan(&self, raw: &AnyPool, sql: &str) -> String {
        let (explain, column) = match self {
            Self::File(_) => ("EXPLAIN QUERY PLAN", "detail"),
            Self::Server(..) => ("EXPLAIN", "QUERY PLAN"),
        };
        let rows = sqlx::raw_sql(sqlx::AssertSqlSafe(format!("{explain} {sql}"))).fetch_all(raw).await.unwrap();
        rows.iter().map(|row| row.get::<String, _>(column)).collect::<Vec<_>>().join("\n")
    }
}

/// A PostgreSQL on a socket in a directory of its own, for as long as a test uses it.
pub(crate) struct Server {
    dir: TempDir,
}

impl Server {
    async fn shared() -> Arc<Self> {
        static RUNNING: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());
        let mut running = RUNNING.lock().await;
        if let Some(server) = running.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start());
        *running = Arc::downgrade(&server);
        server
    }

    fn start() -> Self {
        let server = Self { dir: tempfile::tempdir().unwrap() };
        if rustix::process::geteuid().is_root() {
            chown(server.dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let data = server.dir.path().join("data");
        run(program("initdb")
            .args(["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8"])
            .arg("-D")
            .arg(&data));
        let settings = format!(
            "-k {} -c listen_addresses= -c fsync=off -c max_connections=300 -c deadlock_timeout=100ms",
            server.dir.path().display()
        );
        run(server.control("start").arg("-o").arg(settings).arg("-l").arg(server.dir.path().join("log")));
        server
    }

    fn control(&self, action: &str) -> Command {
        let mut command = program("pg_ctl");
        command.arg(action).args(["-w", "-t", "60", "-D"]).arg(self.dir.path().join("data"));
        command
    }

    fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@localhost/{database}?host={}", self.dir.path().display())
    }

    async fn run(&self, database: &str, sql: &str) {
        sqlx::any::install_default_drivers();
        let pool = AnyPool::connect(&self.url(database)).await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&pool).await.unwrap();
        pool.close().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        run(self.control("stop").args(["-m", "immediate"]));
    }
}

/// The user of no rights that every system has: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;

fn program(name: &str) -> Command {
    let mut command = Command::new(installed(name));
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Debian keeps servers' programs off the path, by version.
fn installed(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let on_path = std::env::var_os("PATH").unwrap();
    let directories = std::env::split_paths(&on_path).chain(versions.map(|version| version.path().join("bin")));
    let found = directories.map(|directory| directory.join(name)).find(|path: &PathBuf| Path::is_file(path));
    found.unwrap_or_else(|| panic!("{name} is not installed; `cargo xtask test` installs it"))
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
