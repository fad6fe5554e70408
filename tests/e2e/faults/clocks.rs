//! Clocks that step, both ways. The verifier's wall clock is moved under it by libfaketime; everybody else's stays.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::json;

use super::World;
use crate::{
    forge,
    rig::{PATIENCE, Verifier, VerifierOptions, eventually},
};

/// A verifier of a world, and the file that moves its clock.
struct Stepped {
    verifier: Verifier,
    clock: PathBuf,
    _directory: tempfile::TempDir,
}

impl Stepped {
    fn start(world: &World) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = directory.path().join("clock");
        set(&clock, 0);
        let environment = [
            ("LD_PRELOAD", library().display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", clock.display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        let mut verifier = Verifier::with(
            &world.dev.bundles(),
            VerifierOptions {
                redis: Some(world.redis.url()),
                environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec(),
                ..Default::default()
            },
        );
        verifier.wait_until_fresh();
        Self { verifier, clock, _directory: directory }
    }

    fn step(&self, seconds: i64) {
        set(&self.clock, seconds);
    }

    fn says(&self, token: &str, wanted: (u16, &str)) {
        eventually(&format!("the verifier says {wanted:?}"), PATIENCE, || {
            let said = self.verifier.verify("strict", token);
            ((said.0, said.1.as_str()) == wanted).then_some(())
        });
    }

    /// The verdict stays what it is for a while: long enough for a lease and a sweep.
    fn goes_on_saying(&self, token: &str, wanted: (u16, &str)) {
        let until = std::time::Instant::now() + Duration::from_secs(3);
        while std::time::Instant::now() < until {
            let said = self.verifier.verify("strict", token);
            assert_eq!((said.0, said.1.as_str()), wanted);
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }
}

fn set(file: &Path, seconds: i64) {
    let temporary = file.with_extension("new");
    fs::write(&temporary, format!("{seconds:+}\n")).unwrap();
    fs::rename(temporary, file).unwrap();
}

fn library() -> PathBuf {
    let directories = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    directories
        .map(|directory| directory.join("faketime/libfaketimeMT.so.1"))
        .find(|path| path.is_file())
        .expect("libfaketime is installed (cargo xtask test installs it)")
}

#[test]
fn a_clock_set_back_revives_no_token() {
    let world = World::start();
    let stepped = Stepped::start(&world);
    let now = forge::now();
    let partner = &world.policies.partner;
    let expired = partner.token_of("EdDSA", &partner.claims_with(json!({"iat": now - 600, "exp": now - 120})));
    stepped.says(&expired, (401, "expired"));
    stepped.says(&world.live, (200, "valid"));
    stepped.step(-3600);
    stepped.goes_on_saying(&expired, (401, "expired"));
    stepped.says(&world.live, (200, "valid"));
    stepped.says(&world.dead, (401, "revoked"));
}

#[test]
fn a_clock_set_back_at_a_start_without_redis_revives_no_token() {
    let mut world = World::start();
    let mut stepped = Stepped::start(&world);
    let now = forge::now();
    let partner = &world.policies.partner;
    let expired = partner.token_of("EdDSA", &partner.claims_with(json!({"iat": now - 600, "exp": now - 120})));
    stepped.says(&expired, (401, "expired"));
    stepped.verifier.process().signal(rustix::process::Signal::TERM);
    assert!(stepped.verifier.process().wait(PATIENCE).success());
    world.redis.kill();
    stepped.step(-3600);
    stepped.verifier.restart();
    assert_eq!(stepped.verifier.verify("strict", &expired), (401, "expired".to_owned()), "the feed's time is on disk");
    assert_eq!(stepped.verifier.verify("strict", &world.dead), (401, "revoked".to_owned()));
}

#[test]
fn a_clock_set_forward_forgets_no_revocation_and_is_itself_forgotten() {
    let world = World::start();
    let stepped = Stepped::start(&world);
    stepped.says(&world.live, (200, "valid"));
    // Far past everything's expiry, and the hour beyond it: nothing may be purged on this clock's word alone.
    stepped.step(5 * 3600);
    stepped.says(&world.live, (401, "expired"));
    stepped.goes_on_saying(&world.dead, (401, "expired"));
    stepped.step(0);
    stepped.says(&world.live, (200, "valid"));
    stepped.says(&world.dead, (401, "revoked"));
}
