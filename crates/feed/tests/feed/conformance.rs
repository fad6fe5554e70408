//! What every server does.

use std::{sync::Arc, time::Duration};

use countersign_core::{
    revocation::{Entry, Position},
    time::UnixMillis,
};
use countersign_feed::{
    Ack, ActivityKeeper, BoxFuture, Clock, CollectError, FeedError, Follower, FollowerConfig, Lease, LeaseWrite,
    MAX_WAITING_SESSIONS, MAX_WAITING_USES, OutboxError, Publication, PublishRow, ReportedUse, SeenSession, WaitingUse,
    collect_waiting_activity,
};

use crate::{
    gate::Gate,
    scene::{Scene, fresh, fresh_again, in_epoch, is_revoked, is_revoked_at, not_fresh, quick, session, subject, until},
};

macro_rules! on_both_servers {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Scene::in_memory()).await; })*
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() { super::$test(super::Scene::on_redis()).await; })*
        }
    };
}

on_both_servers!(
    a_reader_is_never_fresh_before_a_writer_opened_the_server,
    a_published_entry_reaches_every_reader_and_its_position_is_waited_for,
    an_entry_moves_to_a_new_position_only_when_it_becomes_stricter,
    a_live_set_of_many_pages_is_read_whole_while_it_changes,
    a_reader_starts_from_what_it_saved_and_is_not_fresh_until_the_server_says_so,
    a_new_epoch_keeps_recorded_positions_and_is_fresh_only_once_seeded,
    writes_of_another_epoch_or_past_the_tail_are_refused,
    leases_carry_acknowledgements_and_end,
    a_reader_that_stops_takes_its_lease_away_and_no_other_s,
    a_reader_that_holds_more_than_the_server_makes_the_writer_open_an_epoch,
    what_was_committed_but_not_published_is_published_by_the_next_start,
    a_writer_cut_off_answers_pending_and_readers_stay_fresh,
    two_writers_agree_on_one_epoch,
    only_what_both_clocks_call_long_expired_is_purged,
    no_call_that_asked_for_a_position_misses_what_it_names,
    uses_of_emergency_tokens_wait_in_order_until_they_are_taken_out,
    the_latest_moment_of_each_session_waits_until_it_is_taken_once,
    what_a_keeper_can_t_write_down_waits_on,
);

async fn a_reader_is_never_fresh_before_a_writer_opened_the_server(scene: Scene) {
    let follower = scene.follower("reader");
    let state = follower.state();
    until("a word on why", || async { state.stats().problem.is_some() }).await;
    let view = state.view();
    assert_eq!((view.fresh, view.age_ms, view.position), (false, None, None));
    let _publisher = scene.publisher();
    fresh(&follower).await;
    assert_eq!(state.position(), Position::new(1, 0));
    assert_eq!(state.stats().problem, None);
    until("the writer is seen", || async { state.stats().writer_seen_ms.is_some() }).await;
    let difference = state.stats().clock_difference_ms.unwrap();
    assert!(difference.abs() < 1000, "{difference} ms between two clocks that are one");
}

async fn a_published_entry_reaches_every_reader_and_its_position_is_waited_for(scene: Scene) {
    let publisher = scene.publisher();
    let followers = [scene.follower("a"), scene.follower("b")];
    let (lags, seen) = std::sync::mpsc::channel();
    followers[0].state().observe_lag(move |lag| lags.send(lag).unwrap());
    for follower in &followers {
        fresh(follower).await;
    }
    let position = scene.revoke(&publisher, session("s1")).await;
    assert_eq!(Some(position), Position::new(1, 1));
    for follower in &followers {
        assert!(follower.state().wait_for(position, Duration::from_secs(5)).await);
        assert!(is_revoked(follower.state(), "s1"));
        assert!(!is_revoked(follower.state(), "s2"));
    }
    assert!(seen.recv_timeout(Duration::from_secs(5)).unwrap() < Duration::from_secs(5));
    let never = Position::new(1, 1000).unwrap();
    assert!(!followers[0].state().wait_for(never, Duration::from_millis(20)).await);
}

async fn an_entry_moves_to_a_new_position_only_when_it_becomes_stricter(scene: Scene) {
    let publisher = scene.publisher();
    let follower = scene.follower("reader");
    let first = scene.revoke(&publisher, subject("u", 100)).await;
    let other = scene.revoke(&publisher, session("s")).await;
    assert_eq!(scene.revoke(&publisher, subject("u", 100)).await, first);
    assert_eq!(scene.revoke(&publisher, subject("u", 50)).await, first);
    let stricter = scene.revoke(&publisher, subject("u", 200)).await;
    assert!(stricter > other && other > first);
    assert!(follower.state().wait_for(stricter, Duration::from_secs(5)).await);
    assert!(is_revoked_at(follower.state(), "u", 200));
    assert!(!is_revoked_at(follower.state(), "u", 201));
    let page = scene.server.page(Position::ZERO, 10).await.unwrap();
    let positions: Vec<Position> = page.entries.iter().map(|(position, _)| *position).collect();
    assert_eq!(positions, [other, stricter]);
}

async fn a_live_set_of_many_pages_is_read_whole_while_it_changes(scene: Scene) {
    let publisher = scene.publisher();
    let ids: Vec<i64> = (0..1500).map(|n| scene.truth.commit(subject(&format!("u{n}"), 1))).collect();
    assert_ne!(publisher.publish(ids, Duration::from_secs(20)).await, Publication::Pending);
    let follower = scene.follower("reader");
    let mut last = Position::ZERO;
    for n in 0..200 {
        last = scene.revoke(&publisher, subject(&format!("u{}", n * 7), 2)).await;
    }
    assert!(follower.state().wait_for(last, Duration::from_secs(20)).await);
    fresh(&follower).await;
    for n in 0..1500 {
        let expected = if n % 7 == 0 && n / 7 < 200 { 2 } else { 1 };
        assert!(is_revoked_at(follower.state(), &format!("u{n}"), expected), "u{n}");
    }
    assert_eq!(follower.state().stats().entries, 1500);
}

async fn a_reader_starts_from_what_it_saved_and_is_not_fresh_until_the_server_says_so(scene: Scene) {
    let dir = tempfile::tempdir().unwrap();
    let publisher = scene.publisher();
    let follower = scene.saving_follower("reader", dir.path());
    let position = scene.revoke(&publisher, session("s1")).await;
    assert!(follower.state().wait_for(position, Duration::from_secs(5)).await);
    follower.shutdown().await;
    // A server that no writer has opened vouches for nothing.
    let elsewhere = Scene::in_memory();
    let restarted = elsewhere.saving_follower("reader", dir.path());
    assert!(is_revoked(restarted.state(), "s1"));
    let view = restarted.state().view();
    assert_eq!((view.position, view.age_ms, view.fresh), (Some(position), None, false));
    assert!(restarted.state().now(0) >= Clock::wall().minus(60_000));
    drop(restarted);
    let again = scene.saving_follower("reader", dir.path());
    fresh(&again).await;
    let next = scene.revoke(&publisher, session("s2")).await;
    assert!(again.state().wait_for(next, Duration::from_secs(5)).await);
    assert!(is_revoked(again.state(), "s1") && is_revoked(again.state(), "s2"));
}

async fn a_new_epoch_keeps_recorded_positions_and_is_fresh_only_once_seeded(scene: Scene) {
    let publisher = scene.publisher();
    let follower = scene.follower("reader");
    let old = scene.revoke(&publisher, session("s1")).await;
    fresh(&follower).await;
    publisher.shutdown().await;
    // Someone opens an epoch and dies.
    let epoch = scene.truth.epoch_now() + 1;
    scene.truth.set_epoch(epoch);
    scene.server.open_epoch(epoch).await.unwrap();
    not_fresh(&follower).await;
    let aged = follower.state().view();
    assert!(aged.age_ms.is_some(), "its age goes on from the last confirmation");
    assert!(follower.state().holds(old));
    let rows = [PublishRow { entry: session("early"), recorded: None }];
    let early = if scene.server.describe() == "this process" {
        None
    } else {
        // Taken in before the epoch is seeded, though it moves no position yet.
        let taken = scene.server.publish(epoch, Position::ZERO, &rows).await.unwrap();
        until("taken in early", || async { is_revoked(follower.state(), "early") }).await;
        assert_eq!(follower.state().position(), Some(old));
        Some(taken[0].position)
    };
    let publisher = scene.publisher();
    in_epoch(&follower, epoch).await;
    assert!(follower.state().holds(early.unwrap_or(old)));
    let page = scene.server.page(Position::ZERO, 10).await.unwrap();
    assert!(page.entries.iter().any(|(position, entry)| *position == old && entry.id == "s1"), "{page:?}");
    let new = scene.revoke(&publisher, session("s2")).await;
    assert_eq!(new.epoch(), epoch);
    let late = scene.follower("late");
    fresh(&late).await;
    assert!(is_revoked(late.state(), "s1") && is_revoked(late.state(), "s2"));
}

async fn writes_of_another_epoch_or_past_the_tail_are_refused(scene: Scene) {
    let publisher = scene.publisher();
    let position = scene.revoke(&publisher, session("s1")).await;
    until("seeded", || async { publisher.status().seeded }).await;
    let rows = [PublishRow { entry: session("s2"), recorded: None }];
    let epoch = position.epoch();
    for wrong in [epoch - 1, epoch + 1] {
        let refused = scene.server.publish(wrong, Position::ZERO, &rows).await;
        assert_eq!(refused, Err(FeedError::EpochChanged));
        assert_eq!(scene.server.seal(wrong).await, Err(FeedError::EpochChanged));
        assert_eq!(scene.server.remove(wrong, &[]).await, Err(FeedError::EpochChanged));
        assert_eq!(scene.server.purge(wrong, Clock::wall()).await, Err(FeedError::EpochChanged));
    }
    let floor = Position::new(epoch, position.place() + 1).unwrap();
    assert_eq!(scene.server.publish(epoch, floor, &rows).await, Err(FeedError::RolledBack));
    let unchanged = scene.server.open_epoch(epoch).await.unwrap();
    assert_eq!(unchanged.present().map(|record| (record.seeded, record.tail())), Some((true, position)));
}

fn ack(start_id: &str) -> Ack {
    Ack {
        start_id: start_id.into(),
        history: "h".into(),
        revision: "7".into(),
        generations: [("shop/shop".to_owned(), 3)].into(),
        schemas: vec![1],
        trusted_bundle_keys: Vec::new(),
        highest_held: 3,
        ..Ack::default()
    }
}

async fn leases_carry_acknowledgements_and_end(scene: Scene) {
    let _publisher = scene.publisher();
    let follower = scene.follower("reader");
    fresh(&follower).await;
    let held = Lease { name: "reader".into(), position: Position::new(1, 0), ack: None };
    until("a lease", || async { scene.server.leases().await.unwrap() == [held.clone()] }).await;
    follower.set_ack(Some(ack("run 1")));
    let acked = Lease { ack: Some(ack("run 1")), ..held };
    until("an acknowledgement", || async { scene.server.leases().await.unwrap() == [acked.clone()] }).await;
    drop(follower);
    // The next run withdraws it first thing.
    let restarted = scene.follower("reader");
    until("withdrawn", || async { scene.server.leases().await.unwrap().iter().all(|lease| lease.ack.is_none()) }).await;
    drop(restarted);
    until("the lease's end", || async { scene.server.leases().await.unwrap().is_empty() }).await;
}

async fn a_reader_that_stops_takes_its_lease_away_and_no_other_s(scene: Scene) {
    let _publisher = scene.publisher();
    let long = |name: &str| FollowerConfig { lease_ttl: Duration::from_mins(5), ..quick(name) };
    let names = || async { scene.server.leases().await.unwrap().into_iter().map(|lease| lease.name).collect::<Vec<_>>() };
    let [leaves, stays] = ["leaves", "stays"].map(|name| Follower::spawn(Arc::clone(&scene.server), long(name)).unwrap());
    leaves.set_ack(Some(ack("run 1")));
    until("both", || async { names().await == ["leaves", "stays"] }).await;
    leaves.shutdown().await;
    assert_eq!(names().await, ["stays"], "at once, not when the lease would end");
    // A run that ends while the next one of its name is there already.
    let before = LeaseWrite { name: "stays".into(), ttl: Duration::from_secs(5), position: None, ack: Some(ack("run 0")) };
    scene.server.release_lease(&before).await.unwrap();
    assert_eq!(names().await, ["stays"]);
    stays.shutdown().await;
    assert!(names().await.is_empty());
}

async fn a_reader_that_holds_more_than_the_server_makes_the_writer_open_an_epoch(scene: Scene) {
    let _publisher = scene.publisher();
    let follower = scene.follower("reader");
    fresh(&follower).await;
    let held = Position::new(9, 3).unwrap();
    let lease = LeaseWrite { name: "old".into(), ttl: Duration::from_secs(5), position: Some(held), ack: None };
    scene.server.write_lease(&lease).await.unwrap();
    in_epoch(&follower, 10).await;
    assert_eq!(scene.truth.epoch_now(), 10);
}

async fn what_was_committed_but_not_published_is_published_by_the_next_start(scene: Scene) {
    scene.truth.commit(session("s1"));
    let follower = scene.follower("reader");
    let publisher = scene.publisher();
    fresh(&follower).await;
    assert!(is_revoked(follower.state(), "s1"));
    publisher.shutdown().await;
    scene.truth.commit(session("s2"));
    let publisher = scene.publisher();
    until("swept", || async { is_revoked(follower.state(), "s2") }).await;
    until("nothing pending", || async { publisher.status().pending == 0 && publisher.status().seeded }).await;
}

async fn a_writer_cut_off_answers_pending_and_readers_stay_fresh(scene: Scene) {
    let gate = Gate::new(Arc::clone(&scene.server));
    let publisher = scene.publisher_over(Arc::clone(&gate) as _);
    let follower = scene.follower("reader");
    scene.revoke(&publisher, session("s1")).await;
    fresh(&follower).await;
    gate.writer_cut_off.store(true, std::sync::atomic::Ordering::SeqCst);
    let id = scene.truth.commit(session("s2"));
    assert_eq!(publisher.publish(vec![id], Duration::from_millis(100)).await, Publication::Pending);
    fresh_again(&follower).await;
    until("the cause is told", || async { publisher.status().problem.is_some() }).await;
    gate.writer_cut_off.store(false, std::sync::atomic::Ordering::SeqCst);
    until("published after all", || async { is_revoked(follower.state(), "s2") }).await;
}

async fn two_writers_agree_on_one_epoch(scene: Scene) {
    let publishers = [scene.publisher(), scene.publisher(), scene.publisher()];
    let follower = scene.follower("reader");
    for (n, publisher) in publishers.iter().cycle().take(30).enumerate() {
        let position = scene.revoke(publisher, session(&format!("s{n}"))).await;
        assert!(follower.state().wait_for(position, Duration::from_secs(5)).await);
    }
    fresh(&follower).await;
    let epoch = scene.truth.epoch_now();
    assert!(epoch <= 6, "{epoch}");
    assert!(publishers.iter().all(|publisher| publisher.status().epoch <= epoch));
    assert_eq!(follower.state().stats().entries, 30);
}

async fn only_what_both_clocks_call_long_expired_is_purged(scene: Scene) {
    let publisher = scene.publisher();
    let long_expired = |id: &str| Entry { expires: Clock::wall().minus(2 * 3_600_000), ..session(id) };
    let position = scene.revoke(&publisher, long_expired("s1")).await;
    scene.revoke(&publisher, session("s2")).await;
    let epoch = position.epoch();
    let behind = Clock::wall().minus(2 * 3_600_000);
    scene.server.purge(epoch, behind).await.unwrap();
    assert_eq!(scene.server.page(Position::ZERO, 10).await.unwrap().entries.len(), 2);
    if scene.server.describe() != "this process" {
        assert_eq!(scene.server.purge(epoch, Clock::wall()).await, Ok(1));
        assert_eq!(scene.server.page(Position::ZERO, 10).await.unwrap().entries.len(), 1);
    }
}

/// Many revoke and many ask at once; whoever asks for a position never misses what stands there.
async fn no_call_that_asked_for_a_position_misses_what_it_names(scene: Scene) {
    let scene = Arc::new(scene);
    let publisher = Arc::new(scene.publisher());
    let followers: Vec<_> = (0..4).map(|n| scene.follower(&format!("reader {n}"))).collect();
    let mut revokers = tokio::task::JoinSet::new();
    for revoker in 0..8 {
        let (scene, publisher) = (Arc::clone(&scene), Arc::clone(&publisher));
        let states: Vec<_> = followers.iter().map(|follower| Arc::clone(follower.state())).collect();
        revokers.spawn(async move {
            let mut last = Position::ZERO;
            for n in 0..50 {
                let id = format!("s{revoker}-{n}");
                let position = scene.revoke(&publisher, session(&id)).await;
                assert!(position > last, "positions rise");
                last = position;
                for state in &states {
                    assert!(state.wait_for(position, Duration::from_secs(10)).await, "{position} not reached");
                    assert!(is_revoked(state, &id), "{id} at {position} missed");
                }
            }
        });
    }
    while let Some(done) = revokers.join_next().await {
        done.unwrap();
    }
    for follower in &followers {
        assert_eq!(follower.state().stats().entries, 400);
    }
}

async fn uses_of_emergency_tokens_wait_in_order_until_they_are_taken_out(scene: Scene) {
    let used = |id: usize| ReportedUse {
        id: id.to_string(),
        at: UnixMillis(1_800_000_000_123),
        policy: "shop/shop".parse().unwrap(),
        verifier: "node-1".into(),
        subject: "alice".into(),
        token_id: Some("t-1".into()),
        session_id: None,
        roles: vec!["admin".into()],
        expires: None,
        reason: "the pager is \"on fire\"\n".into(),
        ip: Some("192.0.2.1".into()),
        user_agent: None,
        request: Some("GET /orders".into()),
    };
    let server = &scene.server;
    let ids = |waiting: &[WaitingUse]| -> Vec<String> { waiting.iter().map(|w| w.used.clone().unwrap().id).collect() };
    // Neither an epoch nor a writer is needed.
    assert_eq!(server.waiting_uses(10).await.unwrap(), []);
    server.report_uses(&[used(1), used(2)]).await.unwrap();
    server.report_uses(&[used(3)]).await.unwrap();
    let waiting = server.waiting_uses(2).await.unwrap();
    assert_eq!((ids(&waiting), waiting[0].used.as_ref()), (vec!["1".into(), "2".into()], Some(&used(1))));
    let places: Vec<String> = waiting.into_iter().map(|waiting| waiting.place).collect();
    server.take_out_uses(&places).await.unwrap();
    // Two may have read the same.
    server.take_out_uses(&places).await.unwrap();
    server.take_out_uses(&[]).await.unwrap();
    assert_eq!(ids(&server.waiting_uses(10).await.unwrap()), ["3"]);

    let many: Vec<ReportedUse> = (0..MAX_WAITING_USES / 4).map(used).collect();
    for _ in 0..3 {
        server.report_uses(&many).await.unwrap();
    }
    assert_eq!(server.report_uses(&many).await, Err(FeedError::Crowded), "all or none");
    server.report_uses(&many[1..]).await.unwrap();
    assert_eq!(server.report_uses(&[used(4)]).await, Err(FeedError::Crowded));
    server.take_out_uses(&[server.waiting_uses(1).await.unwrap()[0].place.clone()]).await.unwrap();
    server.report_uses(&[used(5)]).await.unwrap();
    let last = server.waiting_uses(usize::MAX >> 1).await.unwrap();
    assert_eq!((last.len(), last.last().unwrap().used.as_ref()), (MAX_WAITING_USES, Some(&used(5))));
}

fn seen(session: &str, at: i64) -> SeenSession {
    SeenSession { policy: "shop/shop".parse().unwrap(), session: session.into(), at: UnixMillis(at) }
}

/// In the order of their names.
fn by_name(mut seen: Vec<SeenSession>) -> Vec<SeenSession> {
    seen.sort_by(|a, b| (a.policy.as_str(), &a.session).cmp(&(b.policy.as_str(), &b.session)));
    seen
}

async fn the_latest_moment_of_each_session_waits_until_it_is_taken_once(scene: Scene) {
    const AT: i64 = 1_800_000_000_123;
    let server = &scene.server;
    // Neither an epoch nor a writer is needed.
    assert_eq!(server.take_activity(10).await, Ok(vec![]));
    assert_eq!(server.report_activity(&[]).await, Ok(0));
    server.report_activity(&[seen("s1", AT), seen("s 2", AT + 1)]).await.unwrap();
    let elsewhere = SeenSession { policy: "shop/other".parse().unwrap(), ..seen("s1", AT + 2) };
    server.report_activity(&[seen("s1", AT + 5), seen("s 2", AT), elsewhere.clone()]).await.unwrap();
    let taken = by_name(server.take_activity(10).await.unwrap());
    assert_eq!(taken, [elsewhere, seen("s 2", AT + 1), seen("s1", AT + 5)]);
    assert_eq!(server.take_activity(10).await, Ok(vec![]), "nobody is given it twice");

    let many: Vec<SeenSession> = (0..MAX_WAITING_SESSIONS).map(|n| seen(&format!("s{n}"), AT)).collect();
    for some in many.chunks(5000) {
        assert_eq!(server.report_activity(some).await, Ok(0));
    }
    assert_eq!(server.report_activity(&[seen("late", AT), seen("s0", AT + 9), seen("later", AT)]).await, Ok(2), "no room");
    assert_eq!(server.take_activity(3).await.unwrap().len(), 3);
    assert_eq!(server.report_activity(&[seen("late", AT)]).await, Ok(0), "three were taken");
}

/// One that writes down when it can.
#[derive(Default)]
struct Keeper {
    kept: std::sync::Mutex<Vec<SeenSession>>,
    works: std::sync::atomic::AtomicBool,
}

impl ActivityKeeper for Keeper {
    fn keep<'a>(&'a self, seen: &'a [SeenSession]) -> BoxFuture<'a, Result<(), OutboxError>> {
        Box::pin(async move {
            if !self.works.load(std::sync::atomic::Ordering::SeqCst) {
                return Err(OutboxError("the database is away".into()));
            }
            self.kept.lock().unwrap().extend_from_slice(seen);
            Ok(())
        })
    }
}

async fn what_a_keeper_can_t_write_down_waits_on(scene: Scene) {
    let (server, keeper) = (&*scene.server, Keeper::default());
    let many: Vec<SeenSession> = (0..1200).map(|n| seen(&format!("s{n}"), 1_800_000_000_000 + n)).collect();
    server.report_activity(&many).await.unwrap();
    let refused = collect_waiting_activity(server, &keeper).await;
    assert!(matches!(refused, Err(CollectError::Keeper(_))), "{refused:?}");
    keeper.works.store(true, std::sync::atomic::Ordering::SeqCst);
    collect_waiting_activity(server, &keeper).await.unwrap();
    assert_eq!(by_name(keeper.kept.lock().unwrap().clone()), by_name(many));
}
