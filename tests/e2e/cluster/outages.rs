//! The API server, Redis or the operator are away.

use std::time::{Duration, Instant};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::world::{World, active_key, key_of, policy};
use crate::rig::{Operator, PATIENCE, Setup, condition, eventually, object_path, report};

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn verifiers_answer_and_start_without_the_api_server_and_go_on_when_it_is_back() {
    let mut world = World::start(2, 1);
    let mut wanted = policy("outage", "shop");
    wanted["spec"]["keys"] = json!({"absentAfter": "4s", "ackTimeout": "2s"});
    let policy = world.enforced(&wanted);
    let path = object_path(&policy);
    let token = world.minter.mint(&policy, "ann");
    world.eventually(&policy, &token, (200, "valid"));
    let of_another_key = with_kid(&token, "another");
    world.eventually(&policy, &of_another_key, (401, "unknown_key"));

    world.installation.cluster.kill_api_server();
    // By then a key may sign that these verifiers weren't waited for.
    eventually("what they can't know they leave open", PATIENCE, || {
        assert_eq!(world.verdicts(&policy, &token), [(200, "valid".to_owned())].into());
        world.verdicts(&policy, &of_another_key).iter().all(|(status, _)| *status == 503).then_some(())
    });
    world.verifiers[0].restart();
    world.verifiers[1].process().kill();
    world.verifiers[1].restart();
    // The feed is there, and each has to reach its tail first.
    world.eventually(&policy, &token, (200, "valid"));
    for _ in 0..50 {
        assert_eq!(world.verdicts(&policy, &token), [(200, "valid".to_owned())].into());
    }
    // Of what nobody can tell without the API server, no wrong answer is given.
    for verifier in &world.verifiers {
        assert_eq!(verifier.verify_of("outage", "unheard-of", &token).0, 503);
    }

    world.installation.cluster.revive_api_server();
    world.restart_ended_operators();
    let key = active_key(&policy).unwrap();
    world.api().merge(&path, &json!({"metadata": {"annotations": {"countersign.dev/rotate": "after the outage"}}}));
    let rotated = world.api().wait(&path, "another key signs", super::world::LONG, |policy| {
        active_key(policy).is_some_and(|active| active != key)
    });
    let next = world.minter.mint(&rotated, "ann");
    world.eventually(&policy, &next, (200, "valid"));
    world.eventually(&policy, &token, (200, "valid"));
    eventually("a policy that isn't there is not found", PATIENCE, || {
        (world.verifiers[0].verify_of("outage", "unheard-of", &token).0 == 404).then_some(())
    });
    world.eventually(&policy, &of_another_key, (401, "unknown_key"));
}

/// A token whose header names another key.
fn with_kid(token: &str, kid: &str) -> String {
    let (_, rest) = token.split_once('.').unwrap();
    let header = json!({"alg": "EdDSA", "typ": "at+jwt", "kid": kid}).to_string();
    format!("{}.{rest}", BASE64_URL_SAFE_NO_PAD.encode(header))
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn without_redis_rotation_waits_and_says_so_and_goes_on_when_it_is_back() {
    let mut world = World::start(1, 1);
    let policy = world.enforced(&policy("no-redis", "shop"));
    let path = object_path(&policy);
    let token = world.minter.mint(&policy, "ann");
    let key = active_key(&policy).unwrap();
    world.installation.redis.kill();
    world.api().merge(&path, &json!({"metadata": {"annotations": {"countersign.dev/rotate": "without Redis"}}}));
    let waiting = world.api().wait(&path, "rotation waits for the feed", super::world::LONG, |policy| {
        ["FeedUnreachable", "RotationWaiting"].iter().any(|reason| condition(policy, "KeysReady")["reason"] == *reason)
    });
    assert_eq!(active_key(&waiting), Some(key.clone()), "{waiting}");
    world.eventually(&policy, &token, (200, "valid"));
    world.installation.redis.restart();
    world.api().wait(&path, "another key signs", super::world::LONG, |policy| {
        active_key(policy).is_some_and(|active| active != key)
    });
    world.eventually(&policy, &token, (200, "valid"));
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn a_restored_backup_of_etcd_revives_no_revoked_key_and_its_tokens_stay_good() {
    // However long a restore takes, the leader outlives it: it is to act on what it remembers. Whoever is started again goes by
    // the same name, and so takes up the Lease at once.
    let operator_arguments = vec!["--lease-duration=120s".to_owned()];
    let mut world = World::with(Setup { nodes: 2, operators: 1, operator_arguments, ..Setup::default() });
    let policy = world.enforced(&policy("restored", "shop"));
    let path = object_path(&policy);
    let leaked = world.minter.mint(&policy, "ann");
    world.back_up("before");

    world.api().merge(&path, &json!({"spec": {"keys": {"revoked": [{"kid": key_of(&leaked)}]}}}));
    world.eventually(&policy, &leaked, (401, "revoked"));
    let good = eventually("another key signs", PATIENCE, || {
        world.minter.try_mint(&policy, "ann").filter(|token| key_of(token) != key_of(&leaked))
    });
    world.eventually(&policy, &good, (200, "valid"));

    world.installation.cluster.load("before");
    assert!(world.api().object(&path).unwrap()["spec"]["keys"].is_null(), "the revocation is not in the backup");
    let fresh = world.eventually_restarting("a key signs that isn't the leaked one", |world| {
        world.minter.try_mint(&policy, "ann").filter(|token| key_of(token) != key_of(&leaked))
    });
    world.eventually_restarting("it is enforced", |world| {
        let enforced = condition(&world.api().object(&path)?, "Enforced");
        (enforced["status"] == "True").then_some(())
    });
    for token in [&fresh, &good] {
        world.eventually(&policy, token, (200, "valid"));
    }
    refused_for_good(&world, &policy, &leaked);

    // Once more, and nobody is left who remembers but the verifiers and the feed.
    world.back_up("again");
    world.api().merge(&path, &json!({"spec": {"keys": {"revoked": [{"kid": key_of(&fresh)}]}}}));
    world.eventually_restarting("the second key is refused", |world| {
        (world.verdicts(&policy, &fresh) == [(401, "revoked".to_owned())].into()).then_some(())
    });
    world.operators[0].kill();
    world.installation.cluster.load("again");
    let last = world.eventually_restarting("a key signs that was never revoked", |world| {
        world.minter.try_mint(&policy, "ann").filter(|token| ![key_of(&leaked), key_of(&fresh)].contains(&key_of(token)))
    });
    world.eventually(&policy, &last, (200, "valid"));
    for revoked in [&leaked, &fresh] {
        refused_for_good(&world, &policy, revoked);
    }
}

/// Whether its key is known to be revoked or not known at all: no verifier takes the token, now or a little later.
fn refused_for_good(world: &World, policy: &Value, token: &str) {
    let is_refused = || world.verdicts(policy, token).iter().all(|(status, _)| *status == 401);
    eventually("every verifier refuses it", PATIENCE, || is_refused().then_some(()));
    let since = Instant::now();
    eventually("some seconds pass", PATIENCE, || {
        assert!(is_refused(), "a revoked key revived");
        (since.elapsed() > Duration::from_secs(2)).then_some(())
    });
}

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn an_operator_that_is_asked_to_end_hands_over_at_once_and_without_any_nothing_degrades() {
    let mut world = World::start(1, 2);
    let policy = world.enforced(&policy("handover", "shop"));
    let path = object_path(&policy);
    eventually("both are ready", PATIENCE, || world.operators.iter().all(Operator::is_ready).then_some(()));
    let leader = world.leader();
    let key = active_key(&policy).unwrap();
    world.operators[leader].stop();
    let began = Instant::now();
    world.api().merge(&path, &json!({"metadata": {"annotations": {"countersign.dev/rotate": "by the other"}}}));
    world.api().wait(&path, "another key signs", super::world::LONG, |policy| {
        active_key(policy).is_some_and(|active| active != key)
    });
    report(&format!("handed over and rotated in {:?}", began.elapsed()));
    assert_ne!(world.leader(), leader);

    let token = world.minter.mint(&policy, "ann");
    world.eventually(&policy, &token, (200, "valid"));
    world.operators[1 - leader].stop();
    world.verifiers[0].restart();
    world.verifiers[0].wait_until_fresh();
    assert_eq!(world.verdicts(&policy, &token), [(200, "valid".to_owned())].into());
    assert_eq!(world.minter.try_mint(&policy, "ann"), None, "nobody makes tokens meanwhile");
    world.restart_ended_operators();
    let next = world.minter.mint(&policy, "ann");
    world.eventually(&policy, &next, (200, "valid"));
}
