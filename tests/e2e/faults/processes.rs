use serde_json::json;

use super::World;
use crate::rig::{PATIENCE, Verifier, eventually};

#[test]
fn verifiers_stay_fresh_without_their_writer() {
    let mut world = World::start();
    world.dev.kill();
    let started = std::time::Instant::now();
    // Well past the policy's maxStaleness of a second.
    eventually("three seconds pass", PATIENCE, || {
        assert_eq!(world.verdict(&world.live), (200, "valid".to_owned()));
        assert_eq!(world.verdict(&world.dead), (401, "revoked".to_owned()));
        (started.elapsed().as_secs() >= 3).then_some(())
    });
    world.dev.restart();
    let token = world.dev.token("strict", "after");
    world.eventually(&token, (200, "valid"));
    world.revoke("after");
    world.eventually(&token, (401, "revoked"));
}

#[test]
fn a_revocation_committed_but_not_published_survives_the_writer_s_death() {
    let mut world = World::start();
    let token = world.dev.token("strict", "between");
    world.eventually(&token, (200, "valid"));
    world.redis.pause();
    let (status, body) = world.dev.revoke("strict", &json!({"kind": "subject", "id": "between", "reason": "test"}));
    assert_eq!(status, 202, "{body}");
    world.dev.kill();
    world.redis.resume();
    world.eventually(&world.live, (200, "valid"));
    world.dev.restart();
    let took = world.eventually(&token, (401, "revoked"));
    eprintln!("in force {took:?} after the writer's return");
}

#[test]
fn a_verifier_started_without_redis_knows_what_was_revoked_and_vouches_for_nothing() {
    let mut world = World::start();
    // Ended in order, it has saved all that it knew.
    world.verifier.process().signal(rustix::process::Signal::TERM);
    assert!(world.verifier.process().wait(PATIENCE).success());
    world.redis.kill();
    world.verifier.restart();
    assert_eq!(world.verdict(&world.dead), (401, "revoked".to_owned()));
    assert_eq!(world.verdict(&world.live), (503, "stale".to_owned()), "after such a start freshness is never");
    assert_eq!(world.verifier.feed()["fresh"], false);
    world.redis.restart_empty();
    world.eventually(&world.live, (200, "valid"));
}

#[test]
fn a_killed_verifier_started_without_redis_accepts_nothing_that_was_revoked_a_moment_before() {
    let mut world = World::start();
    let late = world.dev.token("strict", "late");
    world.eventually(&late, (200, "valid"));
    let position = world.revoke("late");
    let answer = world.verifier.verify_request("strict", &json!({"token": late, "min_position": position}));
    assert_eq!(answer.word(), "revoked");
    // What it heard last may not be on disk yet: then it must not vouch for anything.
    world.verifier.kill();
    world.redis.kill();
    world.verifier.restart();
    let said = world.verdict(&late);
    assert!(matches!(said.1.as_str(), "revoked" | "stale"), "{said:?}");
    assert_eq!(world.verdict(&world.live), (503, "stale".to_owned()));
    world.redis.restart_empty();
    world.eventually(&world.live, (200, "valid"));
    world.eventually(&late, (401, "revoked"));
}

#[test]
fn a_verifier_without_a_feed_serves_only_those_who_accept_that() {
    let world = World::start();
    let verifier = Verifier::with(&world.dev.bundles(), crate::rig::VerifierOptions::default());
    let lenient = world.policies.partner.token("EdDSA");
    let answer = verifier.verify_request("lenient", &json!({"token": lenient}));
    assert_eq!((answer.status, &answer.json()["stale"]), (200, &json!(true)));
    assert_eq!(verifier.verify("strict", &world.live), (503, "stale".to_owned()));
}

#[test]
fn a_terminated_verifier_answers_what_it_has_begun_and_removes_its_socket() {
    let mut world = World::start();
    let socket = world.verifier.socket();
    let mut open = crate::http::Connection::open(&socket).unwrap();
    let request = crate::http::Request::post("/v1/policies/shop/strict/verify", &json!({"token": world.live})).bytes();
    let (front, back) = request.split_at(request.len() / 2);
    open.send(front).unwrap();
    // Another call on another connection proves that the first half has been taken in order.
    assert_eq!(world.verdict(&world.live).0, 200);
    world.verifier.process().signal(rustix::process::Signal::TERM);
    open.send(back).unwrap();
    assert_eq!(open.answer().map(|answer| answer.status), Some(200));
    let status = world.verifier.process().wait(PATIENCE);
    assert!(status.success(), "{status}");
    let crate::http::Target::Unix(path) = socket else { panic!("a socket") };
    assert!(!path.exists(), "its socket is left behind");
}

#[test]
fn a_second_verifier_takes_the_socket_over_without_a_failed_call() {
    let mut world = World::start();
    let live = world.live.clone();
    let socket = world.verifier.socket();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let caller = std::thread::spawn({
        let (stop, socket) = (stop.clone(), socket.clone());
        move || {
            let mut failures = Vec::new();
            let mut calls = 0;
            let request = crate::http::Request::post("/v1/policies/shop/strict/verify", &json!({"token": live}));
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                calls += 1;
                let answer = crate::http::Connection::open(&socket)
                    .map_err(|error| error.to_string())
                    .and_then(|mut connection| request.send_on(&mut connection).ok_or_else(|| "closed".to_owned()));
                match answer {
                    Ok(answer) if answer.status == 200 => {}
                    Ok(answer) => failures.push(format!("{} {}", answer.status, answer.word())),
                    Err(error) => failures.push(error),
                }
            }
            (calls, failures)
        }
    });
    let crate::http::Target::Unix(path) = &socket else { panic!("a socket") };
    let mut second = Verifier::with(
        &world.dev.bundles(),
        crate::rig::VerifierOptions { redis: Some(world.redis.url()), socket: Some(path.clone()), ..Default::default() },
    );
    second.process().assert_running();
    world.verifier.process().signal(rustix::process::Signal::TERM);
    assert!(world.verifier.process().wait(PATIENCE).success());
    assert!(path.exists(), "the old one removed the new one's socket");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (calls, failures) = caller.join().unwrap();
    assert!(failures.is_empty(), "{} of {calls} calls failed: {:?}", failures.len(), &failures[..failures.len().min(5)]);
}
