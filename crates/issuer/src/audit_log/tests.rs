//! What is sealed and what is then in the log, whatever becomes of targets and writers.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_store::{AuditEvent, Severity, transact};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::*;

/// Far more than anything here takes, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    directory: TempDir,
    store: Arc<Store>,
}

/// A process that writes.
struct Working {
    counts: Arc<Counts>,
    sealed: watch::Sender<()>,
    task: JoinHandle<()>,
}

fn policy(name: &str) -> PolicyName {
    format!("shop/{name}").parse().unwrap()
}

impl Rig {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&directory.path().join("store.db")).await.unwrap());
        Self { directory, store }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn writes(&self, path: &Path) -> Working {
        let (counts, (sealed, sealing)) = (Arc::<Counts>::default(), watch::channel(()));
        let log = AuditLog::File(path.to_owned());
        let task = tokio::spawn(keep(log, self.store.clone(), counts.clone(), sealing, CancellationToken::new()));
        Working { counts, sealed, task }
    }

    /// Events of a policy, sealed as the sealer does it.
    async fn seal(&self, name: &str, events: usize) {
        let policy = policy(name);
        transact!(&*self.store, |tx| {
            for number in 0..events {
                tx.append_audit(&AuditEvent {
                    policy: policy.clone(),
                    time: UnixMillis(1_800_000_000_000),
                    kind: "LOGIN_SUCCEEDED".into(),
                    severity: Severity::Info,
                    subject: Some("alice".into()),
                    session: None,
                    ip: None,
                    user_agent: Some("line\nbreak".into()),
                    request: None,
                    details: format!("{{\"number\":{number}}}"),
                })
                .await?;
            }
            Ok::<_, StoreError>(())
        })
        .unwrap();
        while self.store.seal_audit(&policy, 1000).await.unwrap().is_some() {}
    }

    async fn all_is_written(&self) {
        eventually("all is written", async || self.store.unlogged_events().await.unwrap() == 0).await;
    }
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, holds).await.is_ok(), "not in time: {what}");
}

impl Working {
    /// The sealer goes, and the writer after it.
    async fn end(self) {
        drop(self.sealed);
        assert!(tokio::time::timeout(PATIENCE, self.task).await.is_ok_and(|ended| ended.is_ok()));
    }
}

/// The places of each policy's chain, as they stand in a log.
fn places(text: &str) -> BTreeMap<String, Vec<i64>> {
    let mut places: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let of_policy = places.entry(event["policy"].as_str().unwrap().to_owned()).or_default();
        of_policy.push(event["place"].as_i64().unwrap());
    }
    places
}

fn up_to(last: i64) -> Vec<i64> {
    (1..=last).collect()
}

#[tokio::test]
async fn every_sealed_event_is_one_line_in_the_order_of_its_chain_as_lists_show_it() {
    let rig = Rig::new().await;
    let path = rig.path("audit.jsonl");
    rig.seal("shop", 1200).await;
    let working = rig.writes(&path);
    rig.seal("other", 3).await;
    rig.seal("shop", 5).await;
    working.sealed.send_replace(());
    rig.all_is_written().await;
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(places(&text), BTreeMap::from([("shop/other".into(), up_to(3)), ("shop/shop".into(), up_to(1205))]));
    let kept = rig.store.sealed_audit(&policy("other"), 2, 1).await.unwrap();
    let expected = shown(&kept[0]).to_string();
    assert!(text.lines().any(|line| line == expected));
    eventually("all is counted", async || working.counts.written() == 1208).await;
    assert_eq!(working.counts.failures(), 0);
    working.end().await;
}

#[tokio::test]
async fn what_is_sealed_at_the_end_is_written_and_the_next_process_goes_on_behind_it() {
    let rig = Rig::new().await;
    let path = rig.path("audit.jsonl");
    for last in [3, 6] {
        let working = rig.writes(&path);
        rig.seal("shop", 3).await;
        working.end().await;
        assert_eq!(places(&fs::read_to_string(&path).unwrap())["shop/shop"], up_to(last));
    }
}

#[tokio::test]
async fn a_target_that_can_t_be_written_is_tried_again_and_counted_and_loses_nothing() {
    let rig = Rig::new().await;
    let directory = rig.path("not-there-yet");
    let working = rig.writes(&directory.join("audit.jsonl"));
    rig.seal("shop", 2).await;
    eventually("a failure is counted", async || working.counts.failures() > 0).await;
    assert_eq!((rig.store.unlogged_events().await.unwrap(), working.counts.written()), (2, 0));
    fs::create_dir(&directory).unwrap();
    rig.all_is_written().await;
    assert_eq!(places(&fs::read_to_string(directory.join("audit.jsonl")).unwrap())["shop/shop"], up_to(2));
    working.end().await;
}

#[tokio::test]
async fn a_target_that_takes_nothing_holds_up_no_sealing_and_gets_all_once_it_does() {
    let rig = Rig::new().await;
    let path = rig.path("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
    let working = rig.writes(&path);
    // Nobody reads: opening it to write waits for ever.
    for _ in 0..5 {
        rig.seal("shop", 400).await;
    }
    assert_eq!((rig.store.unlogged_events().await.unwrap(), working.counts.written()), (2000, 0));
    let reading = std::thread::spawn(move || {
        let (mut pipe, mut text) = (fs::File::open(path).unwrap(), String::new());
        pipe.read_to_string(&mut text).unwrap();
        text
    });
    rig.all_is_written().await;
    working.end().await;
    let text = tokio::task::spawn_blocking(|| reading.join().unwrap()).await.unwrap();
    assert_eq!(places(&text)["shop/shop"], up_to(2000));
}

#[tokio::test]
async fn of_several_issuers_one_writes_and_another_goes_on_when_it_ends() {
    let rig = Rig::new().await;
    let files = [rig.path("one.jsonl"), rig.path("two.jsonl")];
    let first = rig.writes(&files[0]);
    rig.seal("shop", 5).await;
    rig.all_is_written().await;
    let second = rig.writes(&files[1]);
    rig.seal("shop", 5).await;
    rig.all_is_written().await;
    first.end().await;
    rig.seal("shop", 5).await;
    rig.all_is_written().await;
    second.end().await;
    let text = files.map(|file| fs::read_to_string(file).unwrap());
    assert_eq!(
        (places(&text[0])["shop/shop"].clone(), places(&text[1])["shop/shop"].clone()),
        (up_to(10), (11..=15).collect())
    );
}

#[test]
fn the_audit_log_goes_to_standard_output_or_to_a_file() {
    assert_eq!("stdout".parse(), Ok(AuditLog::Stdout));
    assert_eq!("./stdout".parse(), Ok(AuditLog::File("./stdout".into())));
    assert_eq!("/var/log/audit.jsonl".parse(), Ok(AuditLog::File("/var/log/audit.jsonl".into())));
    for wrong in ["", "/var/log/"] {
        assert_eq!(wrong.parse::<AuditLog>(), Err(InvalidAuditLog), "{wrong}");
    }
}
