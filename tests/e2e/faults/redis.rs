use serde_json::json;

use super::World;
use crate::rig::{Dev, PATIENCE, Policies, Redis, Reply, Verifier, VerifierOptions, eventually};

/// What every outage looks like from the verifier: refused as stale, then by itself valid again.
fn stale_until_recovered(world: &World, recover: impl FnOnce()) {
    world.eventually(&world.live, (503, "stale"));
    assert_eq!(world.verdict(&world.dead).1, "revoked", "revoked comes before stale");
    let lenient = world.dev_independent_lenient();
    assert_eq!((lenient["verdict"].as_str(), lenient["stale"].as_bool()), (Some("valid"), Some(true)), "{lenient}");
    assert_eq!(world.verifier.health("/readyz").unwrap().status, 200, "an outage takes nobody out of service");
    // The feed is called fresh for as long as a lease is good.
    eventually("the feed is no longer fresh", PATIENCE, || (world.verifier.feed()["fresh"] == false).then_some(()));
    recover();
    let took = world.eventually(&world.live, (200, "valid"));
    eprintln!("recovered {took:?} after Redis did");
}

impl World {
    /// The verifier's answer for a partner's token at the policy that answers although stale.
    fn dev_independent_lenient(&self) -> serde_json::Value {
        let token = self.policies.partner.token("EdDSA");
        self.verifier.verify_request("lenient", &json!({"token": token})).json()
    }
}

#[test]
fn a_killed_redis_makes_stale_and_its_return_mends_it() {
    let mut world = World::start();
    let watch = world.watch(&world.dead);
    world.redis.kill();
    // The revocation is safe with the writer, and the caller is told that it isn't in the feed.
    let (status, body) = world.dev.revoke("strict", &json!({"kind": "subject", "id": "later", "reason": "test"}));
    assert_eq!((status, &body["pending"], &body["position"]), (202, &json!(true), &json!(null)), "{body}");
    world.eventually(&world.live, (503, "stale"));
    world.redis.restart_empty();
    let took = world.eventually(&world.live, (200, "valid"));
    eprintln!("recovered {took:?} after Redis did");
    watch.assert_never_accepted();
    world.a_new_verifier_refuses(&[&world.dead]);
}

#[test]
fn a_paused_redis_makes_stale_and_its_resumption_mends_it() {
    let world = World::start();
    let watch = world.watch(&world.dead);
    world.redis.pause();
    stale_until_recovered(&world, || world.redis.resume());
    watch.assert_never_accepted();
}

#[test]
fn a_wiped_redis_is_seeded_anew_from_the_store() {
    let world = World::start();
    let watch = world.watch(&world.dead);
    let epoch = world.verifier.feed()["epoch"].clone();
    assert_eq!(world.redis.command(&["FLUSHALL"]), Reply::Text("OK".into()));
    eventually("a new epoch is seeded and read", PATIENCE, || {
        let feed = world.verifier.feed();
        (feed["fresh"] == true && feed["epoch"].as_u64() > epoch.as_u64()).then_some(())
    });
    world.eventually(&world.live, (200, "valid"));
    watch.assert_never_accepted();
    world.a_new_verifier_refuses(&[&world.dead]);
}

#[test]
fn a_redis_restored_from_an_old_dump_is_not_believed() {
    let mut world = World::start();
    let dump = world.redis.dump();
    let late = world.dev.token("strict", "late");
    world.eventually(&late, (200, "valid"));
    world.revoke("late");
    world.eventually(&late, (401, "revoked"));
    let watch = world.watch(&late);
    world.redis.restore(&dump);
    world.eventually(&world.live, (200, "valid"));
    world.a_new_verifier_refuses(&[&world.dead, &late]);
    watch.assert_never_accepted();
}

#[test]
fn a_replica_that_lacks_the_last_entries_is_not_believed() {
    let mut world = World::start();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &world.redis.port().to_string()]);
    eventually("the replica has caught up", PATIENCE, || {
        let info = replica.command(&["INFO", "replication"]);
        let Reply::Text(info) = info else { return None };
        (info.contains("master_link_status:up") && !replica.keys_of_type("stream").is_empty()).then_some(())
    });
    // Cut off and promoted: what comes now it never hears of.
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    let late = world.dev.token("strict", "late");
    world.revoke("late");
    world.eventually(&late, (401, "revoked"));
    let watch = world.watch(&late);
    world.redis.restore(&replica.dump());
    world.eventually(&world.live, (200, "valid"));
    world.a_new_verifier_refuses(&[&world.dead, &late]);
    watch.assert_never_accepted();
}

#[test]
fn a_tail_trimmed_past_our_position_is_a_gap_that_paging_closes() {
    let mut world = World::start();
    let resyncs = world.verifier.feed()["resyncs"].as_u64().unwrap();
    let subjects: Vec<String> = (0..40).map(|n| format!("gone-{n}")).collect();
    let tokens: Vec<String> = subjects.iter().map(|subject| world.dev.token("strict", subject)).collect();
    world.verifier.process().signal(rustix::process::Signal::STOP);
    for subject in &subjects {
        world.revoke(subject);
    }
    for tail in world.redis.keys_of_type("stream") {
        world.redis.command(&["XTRIM", &tail, "MAXLEN", "1"]);
    }
    world.verifier.process().signal(rustix::process::Signal::CONT);
    for token in &tokens {
        world.eventually(token, (401, "revoked"));
    }
    world.eventually(&world.live, (200, "valid"));
    assert!(world.verifier.feed()["resyncs"].as_u64().unwrap() >= resyncs);
}

#[test]
fn a_read_only_redis_vouches_for_nothing() {
    let world = World::start();
    let watch = world.watch(&world.dead);
    // A replica of nobody: its data stay, writes are refused.
    world.redis.command(&["REPLICAOF", "127.0.0.1", "1"]);
    stale_until_recovered(&world, || {
        let (status, _) = world.dev.revoke("strict", &json!({"kind": "subject", "id": "later", "reason": "test"}));
        assert_eq!(status, 202);
        world.redis.command(&["REPLICAOF", "NO", "ONE"]);
    });
    watch.assert_never_accepted();
}

#[test]
fn a_redis_that_may_evict_the_feed_is_refused_with_the_setting_to_change() {
    let policies = Policies::new();
    let redis = Redis::with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let good = Redis::start();
    let dev = Dev::start(&policies, Some(&good));
    let mut verifier = Verifier::launch(&dev.bundles(), VerifierOptions { redis: Some(redis.url()), ..Default::default() });
    eventually("the setting is named", PATIENCE, || (verifier.process().log().contains("maxmemory-policy")).then_some(()));
    assert_ne!(verifier.feed()["fresh"], true);
    // Mended while it runs, or at its next start.
    redis.command(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]);
    drop(verifier);
    let dev_there = Dev::start(&policies, Some(&redis));
    let mut verifier = Verifier::start(&dev_there.bundles(), &redis.url());
    verifier.wait_until_fresh();
}
