//! Rotation without a failed verification, whatever happens to operators and verifiers meanwhile.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{
    figures::{Figures, asked, publish},
    traffic::Traffic,
    world::{LONG, World, active_key, policy},
};
use crate::rig::{Cable, PATIENCE, eventually, object_path, report};

/// The verifier that is killed at times, and comes back with the disk of long ago.
const RESTARTING: usize = 1;
/// The verifier that gets a third of the time that it would like.
const SLOW: usize = 2;
/// The verifier that is cut off from the API server at times.
const CUT_OFF: usize = 4;
/// The longest that anything waits for its random moment, milliseconds.
const MOMENT: u64 = 600;

/// How many rotations `cargo xtask cluster soak` asks for; a test run makes few.
const ROTATIONS: &str = "COUNTERSIGN_SOAK_ROTATIONS";

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn rotations_under_load_fail_no_verification_though_leaders_are_killed_and_verifiers_restart() {
    let rotations = asked(ROTATIONS, 5);
    let mut world = World::start(5, 2);
    let cable = Cable::to(world.installation.cluster.server());
    world.verifiers[CUT_OFF].kill();
    world.verifiers[CUT_OFF] = world.installation.launch_verifier_by(CUT_OFF, &cable);
    world.verifiers[CUT_OFF].wait_until_ready();
    let policy = world.enforced(&policy("rotated", "shop"));
    let path = object_path(&policy);
    // It holds the policy's first key and no other; what it held since is gone with each restart.
    let disks = tempfile::tempdir().unwrap();
    let old_disk = disks.path().join("old");
    world.verifiers[RESTARTING].save_disk(&old_disk);
    let slowed = Slowed::begin(world.verifiers[SLOW].process().pid());
    let traffic = Traffic::begin(&world, &policy);
    let (mut kills, mut restarts, mut cuts) = (0, 0, 0);
    let mut times = Vec::new();
    let began = Instant::now();
    let mut key = active_key(&policy).unwrap();
    for rotation in 1..=rotations {
        let asked = Instant::now();
        if rotation % 5 == 4 {
            cable.cut();
        }
        world.api().merge(&path, &json!({"metadata": {"annotations": {"countersign.dev/rotate": format!("{rotation}")}}}));
        // Somewhere between the first write and the last.
        std::thread::park_timeout(Duration::from_millis(random(MOMENT)));
        match rotation % 5 {
            1 | 3 => {
                kill_the_leader(&mut world, kills % 3 == 0);
                kills += 1;
            }
            2 | 0 => {
                world.verifiers[RESTARTING].relaunch_on(&old_disk);
                restarts += 1;
            }
            _ => {
                // Its apps still ask it; so no key signs that it doesn't hold.
                std::thread::park_timeout(Duration::from_millis(500));
                let waiting = world.api().object(&path).unwrap();
                assert_eq!(active_key(&waiting).as_ref(), Some(&key), "{waiting}");
                cable.mend();
                cuts += 1;
            }
        }
        let rotated = world
            .api()
            .wait(&path, "another key signs", LONG, |policy| active_key(policy).is_some_and(|active| active != key));
        key = active_key(&rotated).unwrap();
        times.push(asked.elapsed());
        traffic.wait_for_key(&key);
        if rotation % 10 == 0 {
            report(&format!("  {rotation} rotations after {:?}; {} failed", began.elapsed(), traffic.failed()));
        }
    }
    world.verifiers[RESTARTING].wait_until_ready();
    world.api().wait_condition(&path, "Enforced", "True", PATIENCE);
    let took = began.elapsed();
    drop(slowed);
    let counts = traffic.end();
    times.sort();
    let failed = counts.failed.values().sum::<u64>();
    let mut figures = Figures::default();
    figures.add("rotations", rotations);
    figures.add("verifiers", world.verifiers.len());
    figures.add("verifications", counts.valid + failed);
    figures.add("failed_verifications", failed);
    figures.add("answers_not_ready_503", counts.not_ready);
    figures.add("requests_while_no_process", counts.unanswered);
    figures.add("tokens_minted", counts.minted);
    figures.add("keys_that_signed", counts.keys);
    figures.add("leaders_killed", kills);
    figures.add("verifiers_restarted_on_an_old_disk", restarts);
    figures.add("verifiers_cut_off_from_the_api_server", cuts);
    figures.add_time("rotation_median_s", times[times.len() / 2]);
    figures.add_time("rotation_longest_s", times[times.len() - 1]);
    figures.add_time("took_s", took);
    publish("rotations under load", &[figures]);
    assert!(counts.failed.is_empty(), "{counts}");
    assert_eq!(counts.keys, rotations + 1, "tokens were made meanwhile: {counts}");
    assert!(counts.valid > 100, "{counts}");
}

/// A process that is stopped most of the time, a tenth of a second at once.
struct Slowed {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Slowed {
    fn begin(pid: u32) -> Self {
        let pid = Pid::from_raw(pid.cast_signed()).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for (signal, milliseconds) in [(Signal::STOP, 100), (Signal::CONT, 50)] {
                    kill_process(pid, signal).unwrap();
                    std::thread::park_timeout(Duration::from_millis(milliseconds));
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Slowed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It ends with the process running.
            let _ = thread.join();
        }
    }
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
