//! Backups of what `dev` keeps, and what a restored one lets live.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    first_login::post,
    rig::{Dev, Said, countersign, eventually, run_with},
};

const PASSWORD: &str = "Correct-horse-7-battery";

/// A directory beside those of `dev`, with a key file.
struct Shelf(tempfile::TempDir);

impl Shelf {
    fn new() -> Self {
        let shelf = Self(tempfile::tempdir().unwrap());
        fs::write(shelf.path("backup.key"), [7; 32]).unwrap();
        shelf
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn back_up(&self, dev: &Dev, name: &str) -> Said {
        dev.run(&["backup", "--to", &self.text(name), "--key-file", &self.text("backup.key")])
    }

    fn restore(&self, dev: &Dev, name: &str, more: &[&str]) -> Said {
        let (from, key) = (self.text(name), self.text("backup.key"));
        let mut arguments = vec!["restore", "--from", &from, "--key-file", &key];
        arguments.extend(more);
        dev.run(&arguments)
    }
}

pub(crate) fn verdict(dev: &Dev, token: &str) -> String {
    dev.verdict(token, &[]).1
}

pub(crate) fn account(dev: &Dev, name: &str) {
    let email = format!("{name}@shop.example");
    let arguments = ["users", "create", "--email", &email, "--username", name, "--password-stdin", "--verified"];
    assert_eq!(dev.run_with(&arguments, &format!("{PASSWORD}\n")).status, 0);
}

pub(crate) fn login(dev: &Dev, name: &str) -> Value {
    let (status, body) = post(dev, "/auth/login", &json!({"username": name, "password": PASSWORD}));
    assert_eq!(status, 200, "{body}");
    body
}

fn accounts(dev: &Dev) -> String {
    dev.run(&["users", "list", "-o", "json"]).out
}

#[test]
fn with_the_database_at_hand_earlier_tokens_verify_and_what_was_revoked_since_stays_dead() {
    let mut dev = Dev::start();
    let shelf = Shelf::new();
    account(&dev, "alice");
    let session = login(&dev, "alice");
    let (kept, revoked) = (dev.mint(&["--subject", "bob"]), dev.mint(&["--subject", "carol"]));
    let scope = dev.run(&["users", "get", "alice", "-o", "json"]).json()["permissions"][0].as_str().unwrap().to_owned();
    let key = |name: &str| dev.run(&["api-keys", "create", "alice", "--name", name, "--scope", &scope]).line().to_owned();
    let (kept_key, revoked_key) = (key("kept"), key("revoked"));
    let made = shelf.back_up(&dev, "shop.backup");
    assert_eq!(made.status, 0, "{made:?}");
    assert_eq!(shelf.back_up(&dev, "shop.backup").status, 3, "no file is overwritten");

    account(&dev, "mallory");
    let refreshed = post(&dev, "/auth/refresh", &json!({"refresh_token": session["refresh_token"]}));
    assert_eq!(refreshed.0, 200, "{}", refreshed.1);
    assert_eq!(dev.run(&["revoke", "subject", "carol"]).status, 0);
    assert_eq!(dev.run(&["revoke", "api-key", &revoked_key]).status, 0);
    let running = shelf.restore(&dev, "shop.backup", &["--yes"]);
    assert!(running.status == 3 && running.err.contains("another `countersign dev`"), "{running:?}");
    dev.kill();

    let dry = shelf.restore(&dev, "shop.backup", &["--dry-run"]);
    assert!(dry.status == 0 && dry.out.contains("is whole"), "{dry:?}");
    let asked = shelf.restore(&dev, "shop.backup", &[]);
    assert_eq!(asked.status, 2, "there is nobody to ask: {asked:?}");
    let done = shelf.restore(&dev, "shop.backup", &["--yes", "-o", "json"]);
    assert_eq!(done.status, 0, "{done:?}");
    assert_eq!((&done.json()["revocations_taken_over"], &done.json()["cut_off"]), (&json!(2), &json!(false)));
    dev.restart();

    assert!(!accounts(&dev).contains("mallory"), "what was made since is gone");
    for (credential, expected) in [(&kept, "valid"), (&kept_key, "valid"), (&revoked, "revoked"), (&revoked_key, "revoked")]
    {
        assert_eq!(verdict(&dev, credential), expected);
    }
    assert_eq!(verdict(&dev, session["access_token"].as_str().unwrap()), "valid");
    for used in [&session["refresh_token"], &refreshed.1["refresh_token"]] {
        let (status, body) = post(&dev, "/auth/refresh", &json!({"refresh_token": used}));
        assert_eq!((status, &body["error"]), (401, &json!("invalid_refresh_token")), "{body}");
    }
    login(&dev, "alice");
    assert_eq!(verdict(&dev, &dev.mint(&["--subject", "carol"])), "valid", "what is issued anew is good");
    assert!(dev.run(&["audit", "list"]).out.contains("ADMIN_ACTION"));
}

#[test]
fn a_key_that_was_revoked_since_stays_dead() {
    let mut dev = Dev::start();
    let shelf = Shelf::new();
    let before = dev.mint(&["--subject", "bob"]);
    let inspected = dev.run_with(&["token", "inspect", "-", "-o", "json"], &before).json();
    let kid = inspected["header"]["kid"].as_str().unwrap().to_owned();
    shelf.back_up(&dev, "shop.backup").line();
    assert_eq!(dev.run(&["keys", "revoke", &kid, "--yes"]).status, 0);
    dev.kill();
    assert_eq!(shelf.restore(&dev, "shop.backup", &["--yes"]).status, 0);
    dev.restart();
    assert_ne!(verdict(&dev, &before), "valid");
    let fresh = eventually("a fresh key signs", || {
        Some(dev.run(&["token", "mint", "--subject", "bob"])).filter(|said| said.status == 0)
    });
    assert_eq!(verdict(&dev, fresh.line()), "valid");
}

#[test]
fn without_the_feed_everything_issued_before_is_cut_off_and_said() {
    let mut dev = Dev::start();
    let shelf = Shelf::new();
    account(&dev, "alice");
    let token = dev.mint(&["--subject", "bob"]);
    let session = login(&dev, "alice");
    shelf.back_up(&dev, "shop.backup").line();
    let since = dev.mint(&["--subject", "carol"]);
    assert_eq!(dev.run(&["revoke", "subject", "bob"]).status, 0);
    dev.kill();
    // The disk is lost.
    fs::remove_dir_all(dev.data()).unwrap();
    let unsure = shelf.restore(&dev, "shop.backup", &[]);
    assert!(unsure.status == 2 && unsure.err.contains("--without-feed"), "{unsure:?}");
    assert!(!dev.data().join("countersign.db").exists());
    let done = shelf.restore(&dev, "shop.backup", &["--without-feed"]);
    assert!(done.status == 0 && done.out.contains("cut off, under default/dev"), "{done:?}");
    dev.restart();
    for dead in [&token, &since, session["access_token"].as_str().unwrap()] {
        assert_ne!(verdict(&dev, dead), "valid");
    }
    let (status, _) = post(&dev, "/auth/refresh", &json!({"refresh_token": session["refresh_token"]}));
    assert_eq!(status, 401);
    let again = login(&dev, "alice");
    assert_eq!(verdict(&dev, again["access_token"].as_str().unwrap()), "valid", "accounts are back");
    assert!(dev.run(&["sessions", "list", "alice"]).out.lines().count() < 4, "sessions of before have ended");
}

/// A `redis-server` of a test's own, for as long as this lives.
pub(crate) struct Redis {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        eventually("redis-server is up", || {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let dir = tempfile::tempdir().unwrap();
            let mut child = Command::new("redis-server")
                .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"])
                .arg(dir.path())
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server can't be run; `cargo xtask test` installs it");
            let up = eventually("redis-server listens, or the port was somebody else's", || {
                let ended = child.try_wait().unwrap().is_some();
                (ended || TcpStream::connect(("127.0.0.1", port)).is_ok()).then_some(!ended)
            });
            up.then_some(Self { child, port, _dir: dir })
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn empty(&self) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(b"FLUSHALL\r\n").unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "needs redis-server; `cargo xtask test` installs it"]
fn where_the_disk_is_lost_the_redis_says_what_was_revoked_since() {
    let redis = Redis::start();
    let url = redis.url();
    let mut dev = Dev::with(&["--redis", &url], &[]);
    let shelf = Shelf::new();
    account(&dev, "alice");
    let (kept, revoked) = (dev.mint(&["--subject", "bob"]), dev.mint(&["--subject", "carol"]));
    shelf.back_up(&dev, "shop.backup").line();
    assert_eq!(dev.run(&["revoke", "subject", "carol"]).status, 0);
    dev.kill();
    fs::remove_dir_all(dev.data()).unwrap();
    let done = shelf.restore(&dev, "shop.backup", &["--redis", &url, "-o", "json"]);
    assert_eq!((done.status, &done.json()["revocations_taken_over"]), (0, &json!(1)), "{done:?}");
    // It is in the database now: not even the loss of the Redis brings it back.
    redis.empty();
    dev.restart();
    assert_eq!(verdict(&dev, &kept), "valid");
    assert_eq!(verdict(&dev, &revoked), "revoked");
    login(&dev, "alice");

    dev.kill();
    fs::remove_dir_all(dev.data()).unwrap();
    redis.empty();
    let refused = shelf.restore(&dev, "shop.backup", &["--redis", &url]);
    assert!(refused.status == 3 && refused.err.contains("no whole feed"), "{refused:?}");
    assert!(!dev.data().join("countersign.db").exists());
}

#[test]
fn a_wrong_secret_or_a_file_that_was_changed_is_refused_and_nothing_is_lost() {
    let mut dev = Dev::start();
    let shelf = Shelf::new();
    account(&dev, "alice");
    let passphrase = "correct horse battery\n";
    let words = dev.run_with(&["backup", "--to", &shelf.text("words.backup"), "--passphrase-file", "-"], passphrase);
    assert_eq!(words.status, 0, "{words:?}");
    shelf.back_up(&dev, "shop.backup").line();
    dev.kill();
    let content = fs::read(shelf.path("shop.backup")).unwrap();
    assert!(!content.windows(5).any(|part| part == b"alice"), "nothing is readable in it");
    let mut changed = content.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fs::write(shelf.path("changed.backup"), changed).unwrap();
    fs::write(shelf.path("short.backup"), &content[..content.len() - 1]).unwrap();
    fs::write(shelf.path("other.backup"), b"PK\x03\x04").unwrap();
    fs::write(shelf.path("other.key"), [8; 32]).unwrap();
    fs::write(shelf.path("short.key"), [8; 8]).unwrap();
    let before = fs::read(dev.data().join("countersign.db")).unwrap();
    for (file, key, status, said) in [
        ("shop.backup", "other.key", 3, "the passphrase or key is another one"),
        ("words.backup", "backup.key", 3, "it was made with a passphrase"),
        ("changed.backup", "backup.key", 3, "was changed or is cut off"),
        ("short.backup", "backup.key", 3, "was changed or is cut off"),
        ("other.backup", "backup.key", 3, "is no backup"),
        ("shop.backup", "short.key", 2, "at least 32"),
        ("nowhere.backup", "backup.key", 2, "there is no such file"),
    ] {
        let (from, key) = (shelf.text(file), shelf.text(key));
        let refused = dev.run(&["restore", "--from", &from, "--key-file", &key, "--yes"]);
        assert_eq!(refused.status, status, "{file}: {refused:?}");
        assert!(refused.err.contains(said), "{file}: {}", refused.err);
    }
    let wrong =
        dev.run_with(&["restore", "--from", &shelf.text("words.backup"), "--passphrase-file", "-"], "another passphrase\n");
    assert!(wrong.status == 3 && wrong.err.contains("the passphrase or key is another one"), "{wrong:?}");
    assert!(fs::read(dev.data().join("countersign.db")).unwrap() == before);
    assert!(!dev.data().join("restore.new").exists(), "no remains");
    dev.restart();
    login(&dev, "alice");
}

#[test]
fn a_restore_that_is_killed_anywhere_leaves_the_old_or_the_new_and_no_mixture() {
    let mut dev = Dev::start();
    let shelf = Shelf::new();
    account(&dev, "old");
    shelf.back_up(&dev, "shop.backup").line();
    account(&dev, "new");
    dev.kill();
    let (mut gave_old, mut gave_new) = (0, 0);
    // Killed as soon as each of these is there; the last one is that it ended by itself.
    for stage in ["restore.new", "restore.new/countersign.db", "restore.new/secret.key", "restore.pending", "nowhere"] {
        let kept = copy(&dev.data());
        let mut child = countersign()
            .args(["restore", "--from", &shelf.text("shop.backup"), "--key-file", &shelf.text("backup.key"), "--yes"])
            .current_dir(dev.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        eventually("the restore has come so far, or ended", || {
            (dev.data().join(stage).exists() || child.try_wait().unwrap().is_some()).then_some(())
        });
        let _ = child.kill();
        child.wait().unwrap();
        dev.restart();
        let found = accounts(&dev);
        assert!(found.contains("old@shop.example"), "{stage}: {found}");
        login(&dev, "old");
        if found.contains("new@shop.example") {
            gave_old += 1;
            login(&dev, "new");
        } else {
            gave_new += 1;
        }
        assert!(!dev.data().join("restore.pending").exists(), "{stage}");
        dev.kill();
        fs::remove_dir_all(dev.data()).unwrap();
        fs::rename(kept.path().join("data"), dev.data()).unwrap();
    }
    assert!(gave_old + gave_new == 5 && gave_new >= 1, "{gave_old} {gave_new}");
}

/// A copy of a directory's files.
fn copy(from: &Path) -> tempfile::TempDir {
    let parent = tempfile::tempdir_in(from.parent().unwrap()).unwrap();
    let status = Command::new("cp").arg("-a").arg(from).arg(parent.path().join("data")).status().unwrap();
    assert!(status.success());
    parent
}

#[test]
fn a_restore_that_was_committed_is_finished_by_whoever_opens_the_directory_next() {
    let mut dev = Dev::start();
    let shelf = Shelf::new();
    account(&dev, "old");
    shelf.back_up(&dev, "shop.backup").line();
    account(&dev, "new");
    dev.kill();
    // As a restore leaves it that dies right after its commit: all that is new in one directory, all that is old in place.
    let old = copy(&dev.data());
    assert_eq!(shelf.restore(&dev, "shop.backup", &["--yes"]).status, 0);
    let pending = old.path().join("data/restore.pending");
    fs::create_dir(&pending).unwrap();
    for name in ["countersign.db", "secret.key"] {
        fs::rename(dev.data().join(name), pending.join(name)).unwrap();
    }
    fs::remove_dir_all(dev.data()).unwrap();
    fs::rename(old.path().join("data"), dev.data()).unwrap();
    dev.restart();
    let found = accounts(&dev);
    assert!(found.contains("old@shop.example") && !found.contains("new@shop.example"), "{found}");
    assert!(!dev.data().join("restore.pending").exists());
}

#[test]
fn a_database_on_a_server_is_backed_up_by_its_own_tool() {
    let shelf = Shelf::new();
    let mut command = countersign();
    command.args(["backup", "--to", &shelf.text("x.backup"), "--key-file", &shelf.text("backup.key")]);
    command.env("DATABASE_URL", "postgresql://shop:hunter2@db.example/shop").current_dir(shelf.0.path());
    let refused = run_with(command, "");
    assert!(refused.status == 2 && refused.err.contains("pg_dump") && !refused.err.contains("hunter2"), "{refused:?}");
}
