//! Histories in which a revoked credential could pass while its reader calls itself fresh.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use countersign_core::{
    revocation::{ACCESS_RING_ONLY, Entry, Kind, Position},
    time::UnixMillis,
};
use countersign_feed::{Follower, LeaseWrite, Publication, PublishRow, Publisher, PublisherConfig};

use crate::{
    gate::Gate,
    redis_server::{RedisServer, feed_at, free_port},
    scene::{Scene, fresh, fresh_again, in_epoch, is_revoked, is_revoked_at, quick, session, subject, until},
};

/// Waits until so many more leases were written, so that what they say has been thought over.
async fn leases(gate: &Gate, more: usize) {
    let then = gate.leases.load(Ordering::SeqCst) + more;
    until("more leases", || async { gate.leases.load(Ordering::SeqCst) >= then }).await;
}

/// An entry that becomes stricter while the live set is read moves from a page still to come to one further on. Until that has
/// been read the set is not complete, and its first position not held, however far the pages have come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_moves_ahead_of_a_reader_between_two_pages() {
    for scene in [Scene::in_memory(), Scene::on_redis()] {
        let publisher = scene.publisher();
        let mut stood = Position::ZERO;
        for n in 0..150 {
            let position = scene.revoke(&publisher, subject(&format!("u{n}"), 1)).await;
            if n == 120 {
                stood = position;
            }
        }
        until("seeded", || async { publisher.status().seeded }).await;
        let gate = Gate::of_pages(Arc::clone(&scene.server), 1);
        let follower = Follower::spawn(Arc::clone(&gate) as _, quick("reader")).unwrap();
        let state = follower.state();
        until("the first page", || async { is_revoked_at(state, "u99", 1) }).await;
        for n in 150..300 {
            scene.revoke(&publisher, subject(&format!("u{n}"), 1)).await;
        }
        scene.revoke(&publisher, subject("u120", 2)).await;
        gate.pages.add_permits(1);
        until("the second page", || async { is_revoked_at(state, "u149", 1) }).await;
        leases(&gate, 3).await;
        assert!(!is_revoked_at(state, "u120", 1), "it moved on");
        assert!(!state.view().fresh, "fresh without u120, which was revoked before the reader began");
        assert!(!state.holds(stood), "u120's position held, and u120 isn't");
        gate.pages.add_permits(1_000_000);
        fresh(&follower).await;
        assert!(state.holds(stood) && is_revoked_at(state, "u120", 1));
    }
}

/// A key of the live set that was evicted under a passing `allkeys-*`, or deleted by hand, while the record stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_of_the_live_set_is_gone_and_the_record_is_not() {
    for broken in ["DEL {cs}:live", "DEL {cs}:entries", "DEL {cs}:live {cs}:entries", "ZREMRANGEBYRANK {cs}:live 0 0"] {
        let redis = RedisServer::start();
        let scene = Scene::over(Arc::new(redis.feed()));
        let publisher = scene.publisher();
        let follower = scene.follower("reader");
        for id in ["s1", "s2", "s3"] {
            scene.revoke(&publisher, session(id)).await;
        }
        fresh(&follower).await;
        publisher.shutdown().await;
        redis.run(broken);
        // While no writer lives, nobody is taken in.
        let late = scene.follower("late");
        until("a word on why", || async { late.state().stats().problem.is_some() }).await;
        assert!(!late.state().view().fresh, "{broken}");
        let publisher = scene.publisher();
        for reader in [&late, &follower] {
            in_epoch(reader, 2).await;
            for id in ["s1", "s2", "s3"] {
                assert!(is_revoked(reader.state(), id), "{broken}: {id} passes");
            }
        }
        scene.revoke(&publisher, session("s4")).await;
        let later = scene.follower("later");
        fresh(&later).await;
        assert_eq!(later.state().stats().entries, 4, "{broken}");
    }
}

/// The tail alone is gone, or holds less than the record says: what it lacked is read from the live set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tail_is_gone_before_a_reader_took_it_in() {
    let redis = RedisServer::start();
    let scene = Scene::over(Arc::new(redis.feed()));
    let gate = Gate::new(Arc::clone(&scene.server));
    let follower = Follower::spawn(Arc::clone(&gate) as _, quick("slow")).unwrap();
    let publisher = scene.publisher();
    fresh(&follower).await;
    gate.tail_held.store(true, Ordering::SeqCst);
    leases(&gate, 1).await;
    let last = scene.revoke(&publisher, session("s1")).await;
    redis.run("DEL {cs}:tail");
    gate.tail_held.store(false, Ordering::SeqCst);
    assert!(follower.state().wait_for(last, Duration::from_secs(10)).await || is_revoked(follower.state(), "s1"));
    fresh_again(&follower).await;
    assert!(is_revoked(follower.state(), "s1"));
}

/// Database and server are both set back, and epochs are counted anew from the backup's. A reader that was away holds a
/// position of the history that was lost, beyond those of the new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_a_lost_history_meets_the_restored_one() {
    let redis = RedisServer::start();
    let scene = Scene::over(Arc::new(redis.feed()));
    let dir = tempfile::tempdir().unwrap();
    let follower = scene.saving_follower("reader", dir.path());
    let publisher = scene.publisher();
    scene.revoke(&publisher, session("s1")).await;
    let backup = scene.truth.backup();
    for epoch in 2..4 {
        redis.run("FLUSHALL");
        in_epoch(&follower, epoch).await;
        scene.revoke(&publisher, session(&format!("lost {epoch}"))).await;
    }
    fresh_again(&follower).await;
    follower.shutdown().await;
    publisher.shutdown().await;
    redis.run("FLUSHALL");
    scene.truth.restore(backup);
    let publisher = scene.publisher();
    let position = scene.revoke(&publisher, session("s2")).await;
    assert_eq!(position.epoch(), 2);
    publisher.shutdown().await;
    let gate = Gate::new(Arc::clone(&scene.server));
    let follower = Follower::spawn(Arc::clone(&gate) as _, quick("reader").saved_in(dir.path())).unwrap();
    leases(&gate, 2).await;
    assert!(!follower.state().view().fresh);
    assert!(!follower.state().holds(position), "{position} held, by a number that meant something else");
    assert!(is_revoked(follower.state(), "lost 3"), "what was held is in force");
    let _publisher = scene.publisher();
    in_epoch(&follower, 4).await;
    assert!(is_revoked(follower.state(), "s2"), "s2 passes");
}

/// That one reader holds more than the server has is reason to doubt for all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_reader_knows_to_be_lost_no_other_calls_complete() {
    for scene in [Scene::in_memory(), Scene::on_redis()] {
        let publisher = scene.publisher();
        let position = scene.revoke(&publisher, session("s1")).await;
        until("seeded", || async { publisher.status().seeded }).await;
        publisher.shutdown().await;
        let ahead = Position::new(position.epoch(), position.place() + 5);
        let lease = LeaseWrite { name: "old".into(), ttl: Duration::from_secs(5), position: ahead, ack: None };
        scene.server.write_lease(&lease).await.unwrap();
        let newcomer = scene.follower("newcomer");
        until("a word on why", || async { newcomer.state().stats().problem.is_some() }).await;
        assert!(!newcomer.state().view().fresh);
        let _publisher = scene.publisher();
        in_epoch(&newcomer, 2).await;
        assert!(is_revoked(newcomer.state(), "s1"));
    }
}

/// First a session's access tokens were revoked, then all that bears its name. What the cut-off says is then less.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_a_cut_off_may_no_longer_stand_in_for() {
    let scene = Scene::on_redis();
    let publisher = scene.publisher();
    let follower = scene.follower("reader");
    fresh(&follower).await;
    let rows = |entry| [PublishRow { entry, recorded: None }];
    let cutoff = Entry { kind: Kind::Policy, cutoff: UnixMillis(10), ..session(ACCESS_RING_ONLY) };
    for entry in [Entry { version: 5, ..session("s") }, session("s"), cutoff] {
        scene.server.publish(1, Position::ZERO, &rows(entry)).await.unwrap();
    }
    let late = scene.follower("late");
    for reader in [&follower, &late] {
        fresh_again(reader).await;
        assert!(is_revoked_at(reader.state(), "s", 11), "s passes");
    }
    drop(publisher);
}

/// A removal that was held up on its way arrives after the entry was put in again, saying more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_removal_leaves_what_has_moved_on() {
    let scene = Scene::on_redis();
    let publisher = scene.publisher();
    let first = scene.revoke(&publisher, Entry { version: 5, ..subject("u", 1) }).await;
    let entry = subject("u", 2);
    let key = entry.key();
    let second = scene.revoke(&publisher, entry).await;
    assert!(second > first);
    scene.server.remove(1, &[(key.clone(), first)]).await.unwrap();
    let late = scene.follower("late");
    fresh(&late).await;
    assert!(is_revoked_at(late.state(), "u", 2), "u passes");
    scene.server.remove(1, &[(key, second)]).await.unwrap();
    assert!(scene.server.page(Position::ZERO, 10).await.unwrap().entries.is_empty());
}

/// Another writer has moved on, perhaps on another server; what this one's server took is not "in the feed".
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_the_truth_has_left_behind_does_not_answer_published() {
    let scene = Scene::on_redis();
    let config = PublisherConfig { sweep_interval: Duration::from_hours(1), ..PublisherConfig::new("writer") };
    let publisher = Publisher::spawn(Arc::clone(&scene.server), Arc::clone(&scene.truth) as _, config);
    scene.revoke(&publisher, session("s1")).await;
    until("the first sweep", || async { publisher.status().seeded }).await;
    scene.truth.set_epoch(2);
    let id = scene.truth.commit(session("s2"));
    match publisher.publish(vec![id], Duration::from_secs(10)).await {
        Publication::Published(position) => assert!(position.epoch() > 2, "{position}"),
        Publication::Pending => panic!("not published"),
    }
}

/// A saved position that has changed on the disk must not pass for what was read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_saved_position_that_was_altered_is_not_believed() {
    let scene = Scene::in_memory();
    let dir = tempfile::tempdir().unwrap();
    let publisher = scene.publisher();
    let follower = scene.saving_follower("reader", dir.path());
    let position = scene.revoke(&publisher, session("s1")).await;
    assert!(follower.state().wait_for(position, Duration::from_secs(5)).await);
    follower.shutdown().await;
    for id in ["s2", "s3"] {
        scene.revoke(&publisher, session(id)).await;
    }
    let file = dir.path().join("feed.snapshot");
    let saved = std::fs::read(&file).unwrap();
    // The lowest bits of the position, and of the server's time after it.
    for (at, bit) in [(8, 2), (16, 1), (0, 1)] {
        let mut altered = saved.clone();
        altered[at] ^= bit;
        std::fs::write(&file, altered).unwrap();
        let unreached = Arc::new(feed_at(&format!("redis://127.0.0.1:{}", free_port())));
        let follower = Follower::spawn(unreached, quick("reader").saved_in(dir.path())).unwrap();
        assert_eq!(follower.state().position(), None, "byte {at}");
        follower.shutdown().await;
        let follower = scene.saving_follower("reader", dir.path());
        fresh(&follower).await;
        for id in ["s1", "s2", "s3"] {
            assert!(is_revoked(follower.state(), id), "{id} passes");
        }
        follower.shutdown().await;
    }
}
