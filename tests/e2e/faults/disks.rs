//! A full disk. As root it is a small tmpfs; otherwise a limit on the size of files stands in for it.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use super::World;
use crate::rig::{PATIENCE, Verifier, VerifierOptions, eventually};

/// A directory on a file system of two mebibytes.
struct SmallDisk {
    directory: tempfile::TempDir,
}

impl SmallDisk {
    /// `None` where one may not mount.
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs"]).arg(directory.path());
        mount.output().is_ok_and(|output| output.status.success()).then_some(Self { directory })
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        let mut file = File::create(self.filler()).unwrap();
        for size in [65_536, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still has a file open keeps it.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).output();
    }
}

#[test]
fn a_verifier_with_a_full_disk_still_enforces_what_it_hears() {
    let world = World::start();
    let disk = SmallDisk::mount();
    let options = match &disk {
        Some(disk) => {
            VerifierOptions { redis: Some(world.redis.url()), data: Some(disk.path().join("state")), ..Default::default() }
        }
        // Files end at 32 KiB; the signal that would end the process too is ignored.
        None => VerifierOptions {
            redis: Some(world.redis.url()),
            under: ["sh", "-c", "trap '' XFSZ; exec prlimit --fsize=32768 \"$@\"", "sh"].map(str::to_owned).to_vec(),
            ..Default::default()
        },
    };
    let mut verifier = Verifier::with(&world.dev.bundles(), options);
    verifier.wait_until_fresh();
    if let Some(disk) = &disk {
        disk.fill();
    } else {
        eprintln!("may not mount: a limit on file sizes stands in for a full disk");
    }
    let tokens: Vec<String> = (0..300).map(|n| world.dev.token("strict", &format!("full-{n}"))).collect();
    for n in 0..300 {
        world.revoke(&format!("full-{n}"));
    }
    for token in &tokens {
        eventually("it is refused", PATIENCE, || (verifier.verify("strict", token).1 == "revoked").then_some(()));
    }
    assert_eq!(verifier.verify("strict", &world.live), (200, "valid".to_owned()));
    verifier.process().assert_running();
    if let Some(disk) = &disk {
        disk.free();
        world.revoke("full-again");
        verifier.restart();
        verifier.wait_until_fresh();
        assert_eq!(verifier.verify("strict", &tokens[0]).1, "revoked");
    }
}

#[test]
fn a_writer_with_a_full_disk_promises_nothing_and_recovers() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("SKIPPED: the writer's full disk needs the right to mount a tmpfs");
        return;
    };
    let world = World::start();
    // SQLite's files lie on the small disk only in a dev of its own.
    let mut dev = crate::rig::Dev::start_in(&world.policies, None, disk.path().join("data"));
    let token = dev.token("strict", "alice");
    disk.fill();
    let refused = (0..50).find_map(|n| {
        let (status, body) =
            dev.revoke("strict", &json!({"kind": "subject", "id": format!("u-{n}"), "reason": "x".repeat(200)}));
        (status != 200).then_some((status, body))
    });
    let (status, body) = refused.expect("a full disk takes no more rows");
    assert!(status == 503 || status == 500, "{status}: {body}");
    dev.process().assert_running();
    let verify = |dev: &crate::rig::Dev| {
        crate::http::Request::post("/v1/policies/shop/strict/verify", &json!({"token": token})).send(&dev.socket()).word()
    };
    assert_eq!(verify(&dev), "valid", "verifying needs no disk");
    disk.free();
    eventually("it can revoke again", PATIENCE, || {
        let (status, _) = dev.revoke("strict", &json!({"kind": "subject", "id": "alice", "reason": "left"}));
        (status == 200).then_some(())
    });
    assert_eq!(verify(&dev), "revoked");
}
