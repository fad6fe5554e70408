//! What is so of a file alone: whose it is, what earlier releases wrote, and that its writer may be killed.

use std::{
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use countersign_core::time::UnixMillis;
use countersign_feed::Clock;
use countersign_store::{HistoryFilter, Store};

use crate::{
    revocations::{revoke, session},
    rig::shop,
};

#[tokio::test]
async fn the_file_is_its_owners_alone_and_keeps_what_it_was_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let store = Store::open(&path).await.unwrap();
    for file in ["store.db", "store.db-wal"] {
        let mode = std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    store.set_meta("a", "1").await.unwrap();
    store.set_meta("a", "2").await.unwrap();
    assert_eq!(store.meta_or_insert("a", "3").await.unwrap(), "2");
    assert_eq!(store.meta_or_insert("b", "3").await.unwrap(), "3");
    assert_eq!(store.next_generation(&shop(), UnixMillis(5000)).await.unwrap(), 5000);
    assert_eq!(store.next_generation(&shop(), UnixMillis(4000)).await.unwrap(), 5001, "a clock that goes back");
    store.close().await;
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.meta("a").await.unwrap().as_deref(), Some("2"));
    assert_eq!(store.generation(&shop()).await.unwrap(), 5001);
}

#[tokio::test]
async fn a_path_is_taken_letter_by_letter() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["with space.db", "100%25.db", "what?.db", "hash#.db", "größe.db"] {
        Store::open(&dir.path().join(name)).await.unwrap().set_meta("name", name).await.unwrap();
        assert!(dir.path().join(name).is_file());
        assert_eq!(Store::open(&dir.path().join(name)).await.unwrap().meta("name").await.unwrap().as_deref(), Some(name));
    }
}

#[tokio::test]
async fn what_an_earlier_release_wrote_is_there_in_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let all = sqlx::migrate::Migrator::new(Path::new("migrations/sqlite")).await.unwrap();
    let earlier = all.iter().take(2).cloned().collect();
    sqlx::any::install_default_drivers();
    let raw = sqlx::AnyPool::connect(&format!("sqlite://{}?mode=rwc", path.display())).await.unwrap();
    sqlx::migrate::Migrator::with_migrations(earlier).run(&raw).await.unwrap();
    let insert =
        "INSERT INTO meta (name, value) VALUES ('a', '1'); INSERT INTO issued (policy, until) VALUES ('shop/shop', 7)";
    sqlx::raw_sql(insert).execute(&raw).await.unwrap();
    raw.close().await;
    let store = Store::open(&path).await.unwrap();
    assert_eq!(store.meta("a").await.unwrap().as_deref(), Some("1"));
    assert_eq!(store.issued_until(&shop()).await.unwrap(), Some(UnixMillis(7)));
}

const CHILD_STORE: &str = "COUNTERSIGN_TEST_STORE";

/// Not a test: the process that the next one kills.
#[tokio::test]
#[ignore = "run by killed_at_any_moment_nothing_that_was_answered_is_lost"]
async fn commits_until_it_is_killed() {
    let Ok(path) = std::env::var(CHILD_STORE) else { return };
    let store = Store::open(Path::new(&path)).await.unwrap();
    let start = Clock::boot_micros();
    for n in 0.. {
        let id = format!("{start}-{n}");
        revoke(&store, &[session(&id)], 100_000).await;
        println!("committed {id}");
    }
}

#[tokio::test]
async fn killed_at_any_moment_nothing_that_was_answered_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store.db");
    let mut answered = Vec::new();
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "file::commits_until_it_is_killed", "--ignored", "--nocapture"])
            .env(CHILD_STORE, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let committed = |line: String| line.split_once("committed ").map(|(_, id)| id.to_owned());
        answered.extend(lines.by_ref().map_while(Result::ok).filter_map(committed).take(7 * round));
        child.kill().unwrap();
        answered.extend(lines.map_while(Result::ok).filter_map(committed));
        child.wait().unwrap();
    }
    let store = Store::open(&path).await.unwrap();
    let mut held = std::collections::BTreeSet::new();
    let mut filter = HistoryFilter::default();
    loop {
        let page = store.history(&shop(), &filter).await.unwrap();
        let Some(last) = page.last() else { break };
        filter.before = Some(last.id);
        held.extend(page.into_iter().map(|r| r.entry.id));
    }
    assert!(answered.len() >= 7 + 14 + 21 + 28 + 35);
    for id in &answered {
        assert!(held.contains(id), "{id} was answered and is gone");
    }
}
