//! Rotation without a failed verification, whatever happens to operators and verifiers meanwhile.

use std::{
    hash::{BuildHasher as _, RandomState},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;

use super::{
    traffic::Traffic,
    world::{LONG, World, active_key, policy},
};
use crate::rig::{Cable, PATIENCE, eventually, object_path, report};

/// The verifier that is cut off from the API server at times.
const CUT_OFF: usize = 4;

/// How many rotations `cargo xtask cluster soak` asks for; a test run makes few.
const ROTATIONS: &str = "COUNTERSIGN_SOAK_ROTATIONS";

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn rotations_under_load_fail_no_verification_though_leaders_are_killed_and_verifiers_restart() {
    let rotations: usize = std::env::var(ROTATIONS).map_or(5, |number| number.parse().unwrap());
    let mut world = World::start(5, 2);
    let cable = Cable::to(world.installation.cluster.server());
    world.verifiers[CUT_OFF].kill();
    world.verifiers[CUT_OFF] = world.installation.launch_verifier_by(CUT_OFF, &cable);
    world.verifiers[CUT_OFF].wait_until_ready();
    let policy = world.enforced(&policy("rotated", "shop"));
    let path = object_path(&policy);
    let traffic = Traffic::begin(&world, &policy);
    let (mut kills, mut restarts, mut slow, mut cuts, mut longest) = (0, 0, 0, 0, Duration::ZERO);
    let began = Instant::now();
    let mut key = active_key(&policy).unwrap();
    for rotation in 1..=rotations {
        let asked = Instant::now();
        if rotation % 5 == 4 {
            cable.cut();
        }
        world.api().merge(&path, &json!({"metadata": {"annotations": {"countersign.dev/rotate": format!("{rotation}")}}}));
        // Somewhere between the first write and the last.
        std::thread::park_timeout(Duration::from_millis(random(250)));
        match rotation % 5 {
            1 => {
                kill_the_leader(&mut world, kills % 2 == 0);
                kills += 1;
            }
            2 => {
                world.verifiers[1].restart();
                restarts += 1;
            }
            3 => {
                world.verifiers[2].process().signal(Signal::STOP);
                std::thread::park_timeout(Duration::from_millis(500));
                world.verifiers[2].process().signal(Signal::CONT);
                slow += 1;
            }
            4 => {
                // Its apps still ask it; so no key signs that it doesn't hold.
                std::thread::park_timeout(Duration::from_millis(500));
                let waiting = world.api().object(&path).unwrap();
                assert_eq!(active_key(&waiting).as_ref(), Some(&key), "{waiting}");
                cable.mend();
                cuts += 1;
            }
            _ => {}
        }
        let rotated = world
            .api()
            .wait(&path, "another key signs", LONG, |policy| active_key(policy).is_some_and(|active| active != key));
        key = active_key(&rotated).unwrap();
        longest = longest.max(asked.elapsed());
        traffic.wait_for_key(&key);
    }
    world.api().wait_condition(&path, "Enforced", "True", PATIENCE);
    let counts = traffic.end();
    report(&format!(
        "{rotations} rotations in {:?} (the longest {longest:?}) under 5 verifiers: {kills} leaders killed, {restarts} verifiers restarted, \
         {slow} stopped for a while, {cuts} cut off from the API server; {} failed verifications; {counts}",
        began.elapsed(),
        counts.failed.values().sum::<u64>()
    ));
    assert!(counts.failed.is_empty(), "{counts}");
    assert_eq!(counts.keys, rotations + 1, "tokens were made meanwhile: {counts}");
    assert!(counts.valid > 100, "{counts}");
}

/// `kill -9`. Either the pod is slow to come back, and the other operator takes over once the Lease has run out; or a process
/// takes its place at once and goes on under the same name.
fn kill_the_leader(world: &mut World, slow_to_return: bool) {
    let number = world.leader();
    world.operators[number].kill();
    if slow_to_return {
        eventually("the other operator leads", LONG, || (world.leader() != number).then_some(()));
    }
    world.operators[number] = world.installation.operator(number);
}

/// Below a bound; the standard library's hash keys are random.
fn random(below: u64) -> u64 {
    RandomState::new().hash_one(0) % below
}
