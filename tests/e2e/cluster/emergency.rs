//! A key has leaked: how soon every verifier refuses it, and another signs.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    figures::{Figures, asked, percentile, publish},
    world::{World, key_of, policy},
};
use crate::{
    http::{Connection, Request},
    rig::{PATIENCE, eventually, eventually_every, object_path},
};

/// How many keys are revoked, one after the other.
const ROUNDS: &str = "COUNTERSIGN_EMERGENCY_ROUNDS";
/// By how many verifiers.
const VERIFIERS: &str = "COUNTERSIGN_EMERGENCY_VERIFIERS";
/// What the design wants of a new key.
const SOON: Duration = Duration::from_secs(2);

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_revoked_key_is_refused_by_the_last_verifier_and_another_signs() {
    let (rounds, verifiers) = (asked(ROUNDS, 5), asked(VERIFIERS, 0));
    let own = (verifiers > 0).then(|| std::sync::Arc::new(World::start(verifiers, 1)));
    let world = own.unwrap_or_else(World::shared);
    let mut policy = world.enforced(&policy("leaked", "shop"));
    let path = object_path(&policy);
    let mut revoked = Vec::new();
    let (mut each, mut last, mut signing) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let token = world.minter.mint(&policy, "ann");
        world.eventually(&policy, &token, (200, "valid"));
        revoked.push(json!({"kid": key_of(&token), "reason": "leaked"}));
        let request = || Request::post("/v1/policies/leaked/shop/verify", &json!({"token": token}));
        let mut connections: Vec<Connection> =
            world.verifiers.iter().map(|verifier| Connection::open(&verifier.socket()).unwrap()).collect();
        world.api().merge(&path, &json!({"spec": {"keys": {"revoked": revoked}}}));
        let began = Instant::now();
        let mut round: Vec<Duration> = std::thread::scope(|scope| {
            let watches: Vec<_> = connections
                .iter_mut()
                .map(|connection| {
                    scope.spawn(|| {
                        eventually_every(Duration::from_millis(1), "the revoked key is refused", PATIENCE, || {
                            let answer = request().send_on(connection).expect("the connection stays");
                            (answer.status == 401).then(|| began.elapsed())
                        })
                    })
                })
                .collect();
            watches.into_iter().map(|watch| watch.join().unwrap()).collect()
        });
        let next = eventually("another key signs", PATIENCE, || {
            world.minter.try_mint(&policy, "ann").filter(|next| key_of(next) != key_of(&token))
        });
        signing.push(began.elapsed());
        round.sort();
        last.push(round[round.len() - 1]);
        each.extend(round);
        world.eventually(&policy, &next, (200, "valid"));
        world.eventually(&policy, &token, (401, "revoked"));
        policy = world.api().wait_condition(&path, "Enforced", "True", PATIENCE);
    }
    for times in [&mut each, &mut last, &mut signing] {
        times.sort();
    }
    let mut figures = Figures::default();
    figures.add("verifiers", world.verifiers.len());
    figures.add("rounds", rounds);
    figures.add_time("refused_by_one_median_s", percentile(&each, 50));
    figures.add_time("refused_by_the_last_median_s", percentile(&last, 50));
    figures.add_time("refused_by_the_last_p99_s", percentile(&last, 99));
    figures.add_time("new_key_signs_median_s", percentile(&signing, 50));
    figures.add_time("new_key_signs_longest_s", percentile(&signing, 100));
    figures.add("new_key_signed_after_over_2_s_in_rounds", signing.iter().filter(|time| **time > SOON).count());
    publish("a key revoked in the spec, from the patch's answer on", &[figures]);

    // Un-revoking is no door back.
    world.api().merge(&path, &json!({"spec": {"keys": {"revoked": []}}}));
    let policy = world.api().wait_condition(&path, "Enforced", "True", PATIENCE);
    let kid = revoked[0]["kid"].as_str().unwrap();
    let states = policy["status"]["keys"].as_array().cloned().unwrap_or_default();
    let state = states.iter().find(|key| key["kid"] == kid).map(|key| key["state"].clone());
    assert_eq!(state, Some(json!("Revoked")), "{policy}");
}
