//! The first command that anyone tries.

use std::process::Command;

use serde_json::Value;

use crate::rig::{self, PATIENCE, Process};

#[test]
fn the_demo_tells_its_story_and_exits_0() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(rig::binary("countersign"));
    command.arg("demo").current_dir(directory.path()).env_remove("REDIS_URL").env("NO_COLOR", "1");
    let mut process = Process::start(&mut command, directory.path().join("log"));
    let status = process.wait(PATIENCE * 3);
    assert!(status.success(), "{status}:\n{}", process.log());
    assert!(!directory.path().join(".countersign").exists(), "the demo leaves nothing behind");
}

#[test]
fn the_demo_s_result_can_be_read_by_programs() {
    let output =
        Command::new(rig::binary("countersign")).args(["demo", "-o", "json"]).env_remove("REDIS_URL").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(result.is_object() || result.is_array(), "{result}");
}
