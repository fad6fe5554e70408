//! The binaries under test.

use std::{path::PathBuf, process::Command, sync::OnceLock};

const PACKAGES: &[&str] = &[
    "countersign",
    "countersign-issuer-daemon",
    "countersign-operator",
    "countersign-simulated-fleet",
    "countersign-verifier",
];

/// The path of a workspace binary, built if need be (once a run).
pub(crate) fn path(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(build).join(name)
}

/// The directory in `COUNTERSIGN_TEST_BINARIES`, else what this builds, in the profile of this test.
fn build() -> PathBuf {
    if let Some(directory) = std::env::var_os("COUNTERSIGN_TEST_BINARIES") {
        return directory.into();
    }
    let test = std::env::current_exe().unwrap();
    // target/PROFILE/deps/e2e-HASH
    let directory = test.parent().and_then(|deps| deps.parent()).expect("tests lie in target/PROFILE/deps").to_owned();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into()));
    cargo.args(["build", "--quiet", "--bins"]);
    cargo.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    if directory.ends_with("release") {
        cargo.arg("--release");
    }
    let status = cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).status().unwrap();
    assert!(status.success(), "the binaries under test do not build");
    directory
}
