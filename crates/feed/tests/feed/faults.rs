//! What can happen to a Redis. In each case no reader forgets what it held, none is fresh while it can't know, and all recover
//! by themselves.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use countersign_core::revocation::Position;
use countersign_feed::{FeedServer, Follower, Publication, Publisher, RedisFeed, RedisOptions};
use rustix::process::Signal;

use crate::{
    gate::Gate,
    proxy::Proxy,
    redis_server::{RedisServer, feed_at},
    scene::{Scene, fresh, fresh_again, in_epoch, is_revoked, not_fresh, quick, session, until},
};

/// A Redis with a writer, a reader, and one revocation in force.
async fn begin() -> (RedisServer, Scene, Publisher, Follower, Position) {
    begin_on(RedisServer::start()).await
}

async fn begin_on(redis: RedisServer) -> (RedisServer, Scene, Publisher, Follower, Position) {
    let scene = Scene::over(Arc::new(redis.feed()));
    let publisher = scene.publisher();
    let follower = scene.follower("reader");
    let position = scene.revoke(&publisher, session("s1")).await;
    assert!(follower.state().wait_for(position, Duration::from_secs(5)).await);
    fresh(&follower).await;
    (redis, scene, publisher, follower, position)
}

/// Everything ever revoked is dead for this reader and for one that comes now.
async fn all_in_force(scene: &Scene, follower: &Follower) {
    let late = scene.follower("late");
    fresh(&late).await;
    fresh_again(follower).await;
    for entry in scene.truth.entries() {
        for state in [follower.state(), late.state()] {
            assert!(is_revoked(state, &entry.id), "{} passes", entry.id);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_and_back_empty() {
    let (mut redis, scene, publisher, follower, _) = begin().await;
    redis.kill();
    not_fresh(&follower).await;
    let id = scene.truth.commit(session("s2"));
    assert_eq!(publisher.publish(vec![id], Duration::from_millis(200)).await, Publication::Pending);
    assert!(is_revoked(follower.state(), "s1"));
    assert!(follower.state().stats().problem.is_some());
    redis.launch();
    let back = Instant::now();
    in_epoch(&follower, 2).await;
    println!("fresh {} ms after Redis was back", back.elapsed().as_millis());
    all_in_force(&scene, &follower).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paused_and_continued() {
    let (redis, scene, publisher, follower, _) = begin().await;
    redis.signal(Signal::STOP);
    let stopped = Instant::now();
    not_fresh(&follower).await;
    println!("noticed after {} ms", stopped.elapsed().as_millis());
    let id = scene.truth.commit(session("s2"));
    assert_eq!(publisher.publish(vec![id], Duration::from_millis(200)).await, Publication::Pending);
    redis.signal(Signal::CONT);
    until("published after all", || async { is_revoked(follower.state(), "s2") }).await;
    all_in_force(&scene, &follower).await;
    assert_eq!(scene.truth.epoch_now(), 1, "nothing was lost, so nothing is seeded again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wiped() {
    let (redis, scene, publisher, follower, position) = begin().await;
    redis.run("FLUSHALL");
    in_epoch(&follower, 2).await;
    assert!(follower.state().holds(position), "a position of before is met");
    let page = scene.server.page(Position::ZERO, 10).await.unwrap();
    assert_eq!(page.entries.iter().map(|(p, _)| *p).collect::<Vec<_>>(), [position], "it keeps its position");
    scene.revoke(&publisher, session("s2")).await;
    all_in_force(&scene, &follower).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_can_t_be_read_hides_no_other_and_lets_nobody_call_itself_fresh() {
    let (redis, scene, publisher, follower, _) = begin().await;
    let present = scene.server.state().await.unwrap().record.unwrap();
    let place = present.tail().score() + 1;
    // As a later release might write it, in one step: both keys and their size agree, the value is of another make.
    let script = format!(
        "redis.call('ZADD','{{cs}}:live',{place},'later-release');\
         redis.call('HSET','{{cs}}:entries','later-release','something-new');\
         redis.call('HINCRBY','{{cs}}:epoch','size',1);redis.call('HINCRBY','{{cs}}:epoch','place',1)"
    );
    redis.run(&format!("EVAL {script} 0"));
    scene.revoke(&publisher, session("s2")).await;
    let late = scene.follower("late");
    for state in [follower.state(), late.state()] {
        until("what can be read is in force", || async { is_revoked(state, "s1") && is_revoked(state, "s2") }).await;
    }
    not_fresh(&follower).await;
    let problem = || late.state().stats().problem;
    until("a word on why", || async { problem().is_some_and(|problem| problem.contains("can't read")) }).await;
    assert!(!late.state().view().fresh);
    let page = scene.server.page(Position::ZERO, 10).await.unwrap();
    assert_eq!((page.entries.len(), page.unreadable.len()), (2, 1));

    redis.run("ZADD {cs}:leases +inf \u{7}bell");
    let names = || async { scene.server.leases().await.unwrap().into_iter().map(|lease| lease.name).collect::<Vec<_>>() };
    until("the readers are listed, and nobody else", || async { names().await == ["late", "reader"] }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wiped_while_no_writer_lives() {
    let (redis, scene, publisher, follower, _) = begin().await;
    publisher.shutdown().await;
    redis.run("FLUSHALL");
    not_fresh(&follower).await;
    assert!(is_revoked(follower.state(), "s1"));
    let newcomer = scene.follower("newcomer");
    until("a word on why", || async { newcomer.state().stats().problem.is_some() }).await;
    assert!(!newcomer.state().view().fresh);
    let _publisher = scene.publisher();
    in_epoch(&follower, 2).await;
    all_in_force(&scene, &follower).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restored_from_an_old_dump() {
    let (mut redis, scene, publisher, follower, _) = begin().await;
    redis.run("SAVE");
    let later = scene.revoke(&publisher, session("s2")).await;
    assert!(follower.state().wait_for(later, Duration::from_secs(5)).await);
    publisher.shutdown().await;
    redis.kill();
    redis.launch();
    // Another run of the server, and behind: whatever it answers proves nothing until it is seeded again.
    not_fresh(&follower).await;
    let newcomer = scene.follower("newcomer");
    until("a word on why", || async { newcomer.state().stats().problem.is_some() }).await;
    assert!(!newcomer.state().view().fresh && !follower.state().view().fresh);
    let _publisher = scene.publisher();
    in_epoch(&follower, 2).await;
    in_epoch(&newcomer, 2).await;
    assert!(is_revoked(newcomer.state(), "s2"));
    all_in_force(&scene, &follower).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolled_back_within_one_run() {
    let redis = RedisServer::start_with(&["--enable-debug-command", "local"]);
    let (redis, scene, publisher, follower, _) = begin_on(redis).await;
    redis.run("SAVE");
    let later = scene.revoke(&publisher, session("s2")).await;
    assert!(follower.state().wait_for(later, Duration::from_secs(5)).await);
    // The same run_id and a record that names it, but behind what readers hold.
    redis.run("DEBUG RELOAD NOSAVE");
    in_epoch(&follower, 2).await;
    scene.revoke(&publisher, session("s3")).await;
    all_in_force(&scene, &follower).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failed_over_to_a_replica_that_lacks_the_last_entries() {
    let master = RedisServer::start();
    let replica = RedisServer::start_with(&["--replicaof", &format!("127.0.0.1 {}", master.port())]);
    let proxy = Proxy::to(master.port()).await;
    let scene = Scene::over(Arc::new(feed_at(&proxy.url())));
    let publisher = scene.publisher();
    let follower = scene.follower("reader");
    scene.revoke(&publisher, session("s1")).await;
    fresh(&follower).await;
    let copied = replica.feed();
    until("replicated", || async {
        copied.page(Position::ZERO, 10).await.is_ok_and(|page| page.entries.len() == 1 && page.state.record.is_some())
    })
    .await;
    replica.run("REPLICAOF NO ONE");
    let lost = scene.revoke(&publisher, session("s2")).await;
    assert!(follower.state().wait_for(lost, Duration::from_secs(5)).await);
    proxy.fail_over_to(replica.port());
    in_epoch(&follower, 2).await;
    assert!(follower.state().holds(lost));
    all_in_force(&scene, &follower).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_a_replica_or_short_of_replicas() {
    let dead = "127.0.0.1 1";
    for (break_it, mend_it) in [
        (format!("REPLICAOF {dead}"), "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 1".into(), "CONFIG SET min-replicas-to-write 0"),
    ] {
        let (redis, scene, publisher, follower, _) = begin().await;
        redis.run(&break_it);
        not_fresh(&follower).await;
        let id = scene.truth.commit(session("s2"));
        assert_eq!(publisher.publish(vec![id], Duration::from_millis(200)).await, Publication::Pending);
        let problem = follower.state().stats().problem.unwrap();
        assert!(problem.contains("takes no writes"), "{problem}");
        redis.run(mend_it);
        until("published after all", || async { is_revoked(follower.state(), "s2") }).await;
        all_in_force(&scene, &follower).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tail_trimmed_past_a_reader() {
    let redis = RedisServer::start();
    let options = RedisOptions { tail_length: 10, ..RedisOptions::default() };
    let server: Arc<dyn FeedServer> = Arc::new(RedisFeed::new(redis.url().parse().unwrap(), options).unwrap());
    let scene = Scene::over(Arc::clone(&server));
    let gate = Gate::new(server);
    let follower = Follower::spawn(Arc::clone(&gate) as _, quick("slow")).unwrap();
    let publisher = scene.publisher();
    scene.revoke(&publisher, session("s0")).await;
    fresh(&follower).await;
    let resyncs = follower.state().stats().resyncs;
    gate.tail_held.store(true, Ordering::SeqCst);
    let mut last = Position::ZERO;
    for n in 1..500 {
        last = scene.revoke(&publisher, session(&format!("s{n}"))).await;
    }
    redis.run("XTRIM {cs}:tail MAXLEN 5");
    gate.tail_held.store(false, Ordering::SeqCst);
    assert!(follower.state().wait_for(last, Duration::from_secs(10)).await);
    assert!(follower.state().stats().resyncs > resyncs);
    all_in_force(&scene, &follower).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_database_is_behind_the_feed() {
    let (_redis, scene, publisher, follower, _) = begin().await;
    publisher.shutdown().await;
    scene.truth.set_epoch(0);
    let publisher = scene.publisher();
    in_epoch(&follower, 2).await;
    scene.revoke(&publisher, session("s2")).await;
    all_in_force(&scene, &follower).await;
}
