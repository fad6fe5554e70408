//! Bundles that must never replace a good one.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::{World, spec};
use crate::rig::{PATIENCE, Verifier, eventually};

/// A directory of bundles of our own, with a verifier on it.
struct Held {
    world: World,
    directory: tempfile::TempDir,
    verifier: Verifier,
}

impl Held {
    fn start() -> Self {
        let world = World::start();
        let directory = tempfile::tempdir().unwrap();
        copy(&world.dev.bundles(), directory.path());
        let mut verifier = Verifier::start(directory.path(), &world.redis.url());
        verifier.wait_until_fresh();
        Self { world, directory, verifier }
    }

    /// The file of a policy's bundle.
    fn file(&self, policy: &str) -> PathBuf {
        let wanted = format!("shop/{policy}");
        let files = fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().path());
        files
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .find(|path| {
                serde_json::from_slice::<Value>(&fs::read(path).unwrap()).is_ok_and(|bundle| bundle["policy"] == wanted)
            })
            .unwrap_or_else(|| panic!("no bundle of {wanted}"))
    }

    fn put(&self, file: &std::path::Path, content: &[u8]) {
        let temporary = self.directory.path().join(".new");
        fs::write(&temporary, content).unwrap();
        fs::rename(temporary, file).unwrap();
    }

    fn refused(&self) -> f64 {
        let metrics = self.verifier.health("/metrics").unwrap().body;
        let text = String::from_utf8(metrics).unwrap();
        text.lines()
            .filter(|line| line.starts_with("countersign_bundle_refused_total{"))
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
            .sum()
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        // A file that was being written is renamed in between: the next copy takes it.
        let Ok(content) = fs::read(entry.path()) else { continue };
        let temporary = to.join(".copy");
        fs::write(&temporary, content).unwrap();
        fs::rename(temporary, to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_bundle_that_is_no_good_never_replaces_one_that_is_not_even_after_a_restart() {
    let mut held = Held::start();
    let file = held.file("strict");
    let good = fs::read(&file).unwrap();
    let live = held.world.live.clone();
    let envelope: Value = serde_json::from_slice(&good).unwrap();
    let with = |name: &str, value: Value| {
        let mut changed = envelope.clone();
        changed[name] = value;
        changed.to_string().into_bytes()
    };
    let generation = envelope["generation"].as_u64().unwrap();
    for (what, bad) in [
        ("empty", Vec::new()),
        ("cut short", good[..good.len() / 2].to_vec()),
        ("no JSON", b"\xff\xfe nonsense".to_vec()),
        ("of another kind", b"{}".to_vec()),
        ("of a newer schema", with("schema", json!(99))),
        ("of a lower generation", with("generation", json!(generation - 1))),
        ("of another content", with("content", json!("{}"))),
        ("of another uid", with("uid", json!("another"))),
        ("of another policy", with("policy", json!("shop/shop"))),
        ("without its signature", with("signature", json!(null))),
        ("signed by nobody we know", with("signature", json!({"key": "unknown", "value": "AAAA"}))),
    ] {
        let before = held.refused();
        held.put(&file, &bad);
        eventually(&format!("a bundle {what} is refused"), PATIENCE, || (held.refused() > before).then_some(()));
        assert_eq!(held.verifier.verify("strict", &live), (200, "valid".to_owned()), "{what}");
        // Counted when it is judged, and named when all that was read with it is.
        let ready = eventually(&format!("a bundle {what} is named"), PATIENCE, || {
            held.verifier.health("/readyz").filter(|ready| String::from_utf8_lossy(&ready.body).contains("shop/strict"))
        });
        assert_eq!(ready.status, 200, "{what}");
        held.verifier.restart();
        held.verifier.wait_until_fresh();
        assert_eq!(held.verifier.verify("strict", &live), (200, "valid".to_owned()), "{what}, after a restart");
        held.put(&file, &good);
        eventually("the good one is no longer reported", PATIENCE, || {
            let body = held.verifier.health("/readyz")?.body;
            (!String::from_utf8_lossy(&body).contains("shop/strict")).then_some(())
        });
    }
}

#[test]
fn an_edit_reaches_a_separate_verifier_and_an_older_bundle_put_back_does_not() {
    let held = Held::start();
    let file = held.file("strict");
    let old = fs::read(&file).unwrap();
    let foreign = held.world.policies.partner.token("EdDSA");
    assert_eq!(held.verifier.verify("strict", &foreign).0, 200);
    let mut edited = spec(&held.world.policies, "strict");
    edited["trustedIssuers"][0]["audiences"] = json!(["another-api"]);
    held.world.policies.write("strict", &edited);
    eventually("the edit is in force", PATIENCE, || {
        copy(&held.world.dev.bundles(), held.directory.path());
        (held.verifier.verify("strict", &foreign).1 == "wrong_audience").then_some(())
    });
    let before = held.refused();
    held.put(&file, &old);
    eventually("the older one is refused", PATIENCE, || (held.refused() > before).then_some(()));
    assert_eq!(held.verifier.verify("strict", &foreign).1, "wrong_audience");
}
