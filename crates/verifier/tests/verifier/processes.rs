//! The program itself: real processes that take over from one another.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::{
    kubernetes::Cluster,
    rig::{eventually, section, token},
    wire::{Connection, request},
};

/// A verifier's process; killed if the test ends before it does.
struct Process(Child);

impl Process {
    fn start(cluster: &Cluster, socket: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign-verifier"));
        command.env_clear().args(["--without-feed", "--listen", "off", "--health-listen", "127.0.0.1:0"]);
        command.arg("--kubeconfig").arg(cluster.kubeconfig()).arg("--bundle-trust").arg(cluster.trust_directory());
        command.arg("--data-dir").arg(cluster.data.path()).arg("--socket").arg(socket);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    async fn end(mut self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        let mut status = None;
        eventually("the process ends", async || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        })
        .await;
        assert!(status.unwrap().success(), "{status:?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn inode(socket: &Path) -> Option<u64> {
    std::fs::metadata(socket).ok().map(|m| m.ino())
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_replace_one_another_under_load_and_no_request_fails() {
    let cluster = Cluster::new().await;
    let sockets = tempfile::tempdir().unwrap();
    let socket: PathBuf = sockets.path().join("verifier.sock");
    let mut current = Process::start(&cluster, &socket);
    eventually("it serves", async || tokio::net::UnixStream::connect(&socket).await.is_ok()).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let callers: Vec<_> = (0..8)
        .map(|caller| {
            let (path, stopped) = (socket.clone(), stopped.clone());
            tokio::spawn(async move {
                let body = json!({"token": token()}).to_string();
                let bytes = request("POST", "/v1/policies/shop/shop/verify", &[], body.as_bytes());
                let mut answers = 0_u32;
                while !*stopped.borrow() {
                    let mut connection = Connection::unix(&path).await;
                    // Some keep their connection, some take a new one each time.
                    for _ in 0..if caller % 2 == 0 { 1 } else { 1000 } {
                        connection.send(&bytes).await;
                        let answer = connection.answer().await.expect("a request was dropped");
                        assert_eq!(answer.status, 200);
                        answers += 1;
                        if answer.header("connection") == Some("close") || *stopped.borrow() {
                            break;
                        }
                    }
                }
                answers
            })
        })
        .collect();
    for generation in 6..11 {
        let held = inode(&socket);
        let next = Process::start(&cluster, &socket);
        eventually("the socket is taken over", async || inode(&socket) != held).await;
        cluster.put("shop/shop", generation, section());
        std::mem::replace(&mut current, next).end().await;
        assert!(inode(&socket).is_some(), "the old process left the new one's socket alone");
    }
    stop.send(true).unwrap();
    for caller in callers {
        assert!(caller.await.unwrap() > 0);
    }
    current.end().await;
    assert_eq!(inode(&socket), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_trust_says_what_to_do_and_one_that_waits_for_the_api_server_ends_when_told() {
    let cluster = Cluster::new().await;
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().join("verifier.sock");
    cluster.api.fail(|faults| faults.away = true);
    let waiting = Process::start(&cluster, &socket);
    eventually("it locks its directory", async || cluster.data.path().join("lock").exists()).await;
    assert_eq!(inode(&socket), None, "nothing is bound before there is something to say");
    waiting.end().await;
    cluster.forget_trust();
    let mut untrusting = Process::start(&cluster, &socket);
    let status = tokio::task::spawn_blocking(move || untrusting.0.wait().unwrap().code()).await.unwrap();
    assert_eq!(status, Some(3));
}

#[test]
fn a_wrong_value_of_the_environment_is_told_by_its_variable_before_anything_binds() {
    let directory = tempfile::tempdir().unwrap();
    for (variable, value, status, said) in [
        ("LOG_LEVEL", "bogus", 2, "is no level"),
        ("COUNTERSIGN_LOG_LEVEL", "bogus", 2, "is no level"),
        ("COUNTERSIGN_LISTEN", "7480", 2, "is no ADDR:PORT"),
        ("COUNTERSIGN_TRUSTED_PROXIES", "10.0.0.0/33", 2, "is no network"),
        ("COUNTERSIGN_TLS_CERT", "/nonexistent/c.pem", 2, "--tls-key is missing"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_countersign-verifier"));
        command.env_clear().args(["--without-feed", "--socket", "off", "--health-listen", "off", "--bundles"]);
        let output = command.arg(directory.path()).env(variable, value).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{variable}: {text}");
        assert!(text.contains(said), "{variable}: {text}");
        assert!(variable == "COUNTERSIGN_TLS_CERT" || text.contains(variable), "{variable}: {text}");
    }
}

#[test]
fn a_message_tells_its_cause_once_and_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("ca.pem");
    let mut command = Command::new(env!("CARGO_BIN_EXE_countersign-verifier"));
    command.env_clear().args(["--redis", "rediss://127.0.0.1:1", "--socket", "off", "--health-listen", "off", "--bundles"]);
    let output = command.arg(directory.path()).arg("--redis-ca-file").arg(&missing).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("--redis-ca-file") && text.contains("ca.pem"), "{text}");
    assert_eq!(text.matches("No such file").count(), 1, "{text}");
}
