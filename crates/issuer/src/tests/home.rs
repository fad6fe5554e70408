//! Where a test's people are kept, and by how many issuers: in a file and by one; or in a PostgreSQL and by two, when
//! [`two_issuers_on_postgresql_give_the_same_results`] runs the test once more.

use std::{
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use countersign_store::Store;
use countersign_test_servers::Postgres;
use tempfile::TempDir;

/// The directory of the PostgreSQL that tests are to use, when they are.
const POSTGRES: &str = "COUNTERSIGN_TEST_POSTGRES";
/// A database of it with the present schema, that tests' own are copies of.
const TEMPLATE: &str = "template";

/// A test's directory and stores: one for each issuer.
pub(crate) struct Home {
    dir: Arc<TempDir>,
    pub(crate) stores: Vec<Arc<Store>>,
}

impl Home {
    pub(crate) async fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let stores = match std::env::var_os(POSTGRES) {
            Some(server) => {
                let url = database_of_its_own(&Postgres::of_another(server.into()));
                vec![connected(&url).await, connected(&url).await]
            }
            None => vec![Arc::new(Store::open(&dir.path().join("store.db")).await.unwrap())],
        };
        Self { dir, stores }
    }

    /// Two issuers on a PostgreSQL of the test's own.
    pub(crate) async fn on(server: &Postgres) -> Self {
        server.create("own", None).unwrap();
        let url = server.url("own");
        let stores = vec![connected(&url).await, connected(&url).await];
        Self { dir: Arc::new(tempfile::tempdir().unwrap()), stores }
    }

    /// The same once more.
    pub(crate) fn beside(&self) -> Self {
        Self { dir: self.dir.clone(), stores: self.stores.clone() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Whether tests' people are kept in a PostgreSQL.
pub(crate) fn is_server() -> bool {
    std::env::var_os(POSTGRES).is_some()
}

fn database_of_its_own(server: &Postgres) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    server.create(&name, Some(TEMPLATE)).unwrap();
    server.url(&name)
}

async fn connected(url: &str) -> Arc<Store> {
    Arc::new(Store::connect(&url.parse().unwrap()).await.unwrap())
}

#[tokio::test]
#[ignore = "needs PostgreSQL's programs; `cargo xtask test` installs them"]
async fn two_issuers_on_postgresql_give_the_same_results() {
    let server = Postgres::start(&["fsync=off"]).unwrap();
    server.create(TEMPLATE, None).unwrap();
    connected(&server.url(TEMPLATE)).await.close().await;
    let this = std::env::current_exe().unwrap();
    let listed = Command::new(&this).args(["--list", "--format=terse"]).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let names = listed.lines().filter_map(|line| line.strip_suffix(": test"));
    let own: Vec<&str> = names.filter(|name| name.starts_with("tests::")).collect();
    assert!(own.len() > 50, "{own:?}");
    let output = Command::new(this).arg("--exact").args(&own).env(POSTGRES, server.directory()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
