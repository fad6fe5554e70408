//! Rings, revocations, and the store as the feed sees it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use countersign_api::bundle::RingName;
use countersign_core::{
    revocation::{ACCESS_RING_ONLY, Entry, Kind, LIFTED, Position, Revocable},
    ring::Ring,
    time::UnixMillis,
};
use countersign_feed::{
    FeedState, Follower, FollowerConfig, Mark, MemoryFeed, Outbox, Publication, Publisher, PublisherConfig,
};
use countersign_store::{HistoryFilter, NewRevocation, Store, StoreError, transact};

use crate::rig::{Database, shop};

conformance! {
    a_ring_is_written_only_over_the_version_that_was_read,
    a_row_counts_as_published_only_in_the_epoch_that_its_mark_names,
    where_readers_hold_positions_of_another_history_rows_forget_theirs,
    a_row_that_a_cut_off_stands_in_for_takes_no_position_of_the_cut_off,
    revocations_survive_restarts_and_are_fresh_again_at_once,
    past_the_bound_one_cut_off_of_the_access_ring_stands_for_all_that_is_said_of_access_tokens,
    history_is_asked_by_subject_and_kind_and_read_page_by_page,
    rows_leave_only_when_both_clocks_call_them_long_expired_and_keys_never,
    after_the_clock_went_back_the_later_word_on_an_address_still_counts,
    a_merged_cut_off_is_no_earlier_than_a_token_that_may_have_been_issued,
    what_has_expired_takes_no_room_and_no_revocation_counts_all_of_them,
}

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn session(id: &str) -> NewRevocation {
    let entry = Entry {
        policy: shop(),
        kind: Kind::Session,
        issuer: Some("https://own".into()),
        id: id.into(),
        cutoff: UnixMillis::FOREVER,
        expires: UnixMillis(4_000_000_000_000),
        version: 0,
        reason: "left".into(),
        source: "test".into(),
    };
    NewRevocation { entry, subject: Some("alice".into()), access_only: true }
}

fn of_kind(kind: Kind, id: &str) -> NewRevocation {
    let new = session(id);
    NewRevocation { entry: Entry { kind, ..new.entry }, access_only: false, ..new }
}

pub(crate) async fn revoke(store: &Store, new: &[NewRevocation], max: usize) -> countersign_store::Appended {
    store.revoke(new, UnixMillis(1000), |_| max).await.unwrap()
}

fn is_revoked(state: &FeedState, id: &str, issued: i64) -> bool {
    let ids = state.revocations().hasher().ids_of(&Revocable {
        policy: &shop(),
        issuer: Some("https://own"),
        own: true,
        access_ring: true,
        token_kind: Kind::Token,
        token_id: None,
        session_id: Some(id),
        subject: None,
        kid: None,
    });
    state.revocations().lookup(&ids, Some(UnixMillis(issued))).is_some()
}

/// `dev`'s feed over the store: publisher and follower in one process.
struct Dev {
    store: Store,
    publisher: Publisher,
    follower: Follower,
}

impl Dev {
    async fn start(db: &Database) -> Self {
        let store = db.open().await;
        let server = Arc::new(MemoryFeed::new(Arc::new(store.clone())));
        let config = PublisherConfig { sweep_interval: Duration::from_millis(20), ..PublisherConfig::new("dev") };
        let publisher = Publisher::spawn(Arc::clone(&server) as _, Arc::new(store.clone()), config);
        let config = FollowerConfig { heartbeat: Duration::from_millis(20), ..FollowerConfig::new("dev") };
        let follower = Follower::spawn(server, config).unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !follower.state().view().fresh {
            assert!(Instant::now() < deadline, "not fresh: {:?}", follower.state().stats());
            tokio::task::yield_now().await;
        }
        Self { store, publisher, follower }
    }

    async fn publish(&self, ids: Vec<i64>) -> Position {
        match self.publisher.publish(ids, PATIENCE).await {
            Publication::Published(position) => position,
            Publication::Pending => panic!("not published"),
        }
    }
}

async fn a_ring_is_written_only_over_the_version_that_was_read(db: Database) {
    let store = db.open().await;
    let ring = |version| Ring { version, ..Ring::default() };
    let conflicts = |result| assert!(matches!(result, Err(StoreError::Conflict(_))), "{result:?}");
    store.save_ring(&shop(), RingName::Access, &ring(1), None).await.unwrap();
    conflicts(store.save_ring(&shop(), RingName::Access, &ring(1), None).await);
    store.save_ring(&shop(), RingName::Access, &ring(2), Some(1)).await.unwrap();
    conflicts(store.save_ring(&shop(), RingName::Access, &ring(2), Some(1)).await);
    conflicts(store.save_ring(&shop(), RingName::ApiKey, &ring(2), Some(1)).await);
    assert_eq!(store.ring(&shop(), RingName::Access).await.unwrap(), Some(ring(2)));
    assert_eq!(store.ring(&shop(), RingName::ApiKey).await.unwrap(), None);
    assert_eq!(store.rings().await.unwrap(), [(shop(), RingName::Access, ring(2))]);
    store.delete_rings(&shop()).await.unwrap();
    assert_eq!(store.rings().await.unwrap(), []);
}

async fn a_row_counts_as_published_only_in_the_epoch_that_its_mark_names(db: Database) {
    let store = db.open().await;
    let ids = revoke(&store, &[session("s1"), session("s2")], 100).await.ids;
    assert!(store.advance_epoch(0, 1, true).await.unwrap());
    assert!(!store.advance_epoch(0, 2, true).await.unwrap(), "someone else was first");
    let rows = store.unpublished(1, 10).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.id).collect::<Vec<_>>(), ids);
    let mark =
        |n: usize, place| Mark { id: rows[n].id, revision: rows[n].revision, position: Position::new(1, place).unwrap() };
    store.mark(1, &[mark(0, 1)]).await.unwrap();
    // The row became stricter between publishing and marking: it stays work.
    let stricter = NewRevocation { entry: Entry { expires: UnixMillis::FOREVER, ..session("s2").entry }, ..session("s2") };
    assert_eq!(revoke(&store, &[stricter], 100).await.ids, [ids[1]]);
    store.mark(1, &[mark(1, 2)]).await.unwrap();
    assert_eq!(store.pending(1).await.unwrap(), 1);
    // The same again says nothing new.
    assert_eq!(revoke(&store, &[session("s1")], 100).await.ids, [ids[0]]);
    assert_eq!(store.pending(1).await.unwrap(), 1);
    // The next epoch makes every row work, with the position of what stands; late marks of the old one are void.
    assert!(store.advance_epoch(1, 2, true).await.unwrap());
    store.mark(1, &[mark(0, 9)]).await.unwrap();
    let rows = store.unpublished(2, 10).await.unwrap();
    let recorded: Vec<_> = rows.iter().map(|row| (row.id, row.recorded)).collect();
    assert!(recorded.contains(&(ids[0], Position::new(1, 1))) && recorded.contains(&(ids[1], None)), "{recorded:?}");
    assert_eq!(Some(store.highest_position().await.unwrap()), Position::new(1, 1));
}

async fn where_readers_hold_positions_of_another_history_rows_forget_theirs(db: Database) {
    let store = db.open().await;
    revoke(&store, &[session("s1")], 100).await;
    store.advance_epoch(0, 1, true).await.unwrap();
    let row = store.unpublished(1, 10).await.unwrap().remove(0);
    let at = Position::new(1, 1).unwrap();
    store.mark(1, &[Mark { id: row.id, revision: row.revision, position: at }]).await.unwrap();
    assert!(!store.advance_epoch(0, 2, false).await.unwrap());
    assert_eq!(store.rows(1, &[row.id]).await.unwrap()[0].recorded, Some(at), "who comes too late changes nothing");
    assert!(store.advance_epoch(1, 9, false).await.unwrap());
    assert_eq!(store.unpublished(9, 10).await.unwrap()[0].recorded, None);
    assert_eq!(store.highest_position().await.unwrap(), at);
}

async fn a_row_that_a_cut_off_stands_in_for_takes_no_position_of_the_cut_off(db: Database) {
    let store = db.open().await;
    store.advance_epoch(0, 1, true).await.unwrap();
    let asked = revoke(&store, &[session("s1")], 1).await.ids;
    revoke(&store, &[session("s2")], 1).await;
    // What a caller waits for was merged before it could be published: the cut-off is what is put in for it.
    let rows = store.rows(1, &asked).await.unwrap();
    assert_eq!((rows[0].id, rows[0].entry.id.as_str()), (asked[0], ACCESS_RING_ONLY));
    let position = Position::new(1, 1).unwrap();
    store.mark(1, &[Mark { id: asked[0], revision: rows[0].revision, position }]).await.unwrap();
    let standing = store.history(&shop(), &HistoryFilter::default()).await.unwrap();
    assert!(standing.iter().all(|row| row.position.is_none()), "{standing:?}");
}

async fn revocations_survive_restarts_and_are_fresh_again_at_once(db: Database) {
    let dev = Dev::start(&db).await;
    let first = dev.publish(revoke(&dev.store, &[session("s1")], 100).await.ids).await;
    assert!(dev.follower.state().wait_for(first, PATIENCE).await);
    // Committed, and killed before it was published.
    revoke(&dev.store, &[session("s2")], 100).await;
    let Dev { store, publisher, follower } = dev;
    drop((publisher, follower));
    store.close().await;
    let dev = Dev::start(&db).await;
    assert!(dev.follower.state().holds(first), "a position of the run before is met");
    assert!(is_revoked(dev.follower.state(), "s1", 0) && is_revoked(dev.follower.state(), "s2", 0));
    let next = dev.publish(revoke(&dev.store, &[session("s3")], 100).await.ids).await;
    assert!(next > first);
}

async fn past_the_bound_one_cut_off_of_the_access_ring_stands_for_all_that_is_said_of_access_tokens(db: Database) {
    let dev = Dev::start(&db).await;
    let kept = [
        of_kind(Kind::ApiKey, "a"),
        of_kind(Kind::Subject, "u"),
        of_kind(Kind::Key, "k"),
        of_kind(Kind::Token, "foreign"),
        of_kind(Kind::Ip, "203.0.113.0/24"),
    ];
    let mut ids = revoke(&dev.store, &kept, 20).await.ids;
    for n in 0..20 {
        let appended = dev.store.revoke(&[session(&format!("s{n}"))], UnixMillis(2000 + n), |_| 20).await.unwrap();
        assert_eq!(appended.merged, []);
        ids.extend(appended.ids);
    }
    let position = dev.publish(ids).await;
    assert!(dev.follower.state().wait_for(position, PATIENCE).await);
    assert_eq!(dev.follower.state().stats().entries, 25);
    // One more, and a clock that has gone back: the cut-off reaches the last of their times all the same.
    let appended = dev.store.revoke(&[session("s20")], UnixMillis(1500), |_| 20).await.unwrap();
    assert_eq!((appended.ids.len(), appended.merged), (1, vec![shop()]));
    let position = dev.publish(appended.ids).await;
    let state = dev.follower.state();
    assert!(state.wait_for(position, PATIENCE).await);
    assert_eq!(state.stats().entries, kept.len() + 1);
    assert!(is_revoked(state, "s20", 2019) && is_revoked(state, "anyone", 2019) && !is_revoked(state, "s3", 2020));
    assert_eq!(dev.store.unmergeable_entries(&shop()).await.unwrap(), 3);
    let deadline = Instant::now() + PATIENCE;
    while !dev.store.merged(1).await.unwrap().is_empty() {
        assert!(Instant::now() < deadline);
        tokio::task::yield_now().await;
    }
    drop(dev);
    let dev = Dev::start(&db).await;
    assert_eq!(dev.follower.state().stats().entries, kept.len() + 1, "they don't come back");
    let history = dev.store.history(&shop(), &HistoryFilter { kind: Some(Kind::Policy), ..HistoryFilter::default() }).await;
    assert_eq!(history.unwrap()[0].entry.id, ACCESS_RING_ONLY);
}

async fn history_is_asked_by_subject_and_kind_and_read_page_by_page(db: Database) {
    let store = db.open().await;
    let bob = NewRevocation { subject: Some("bob".into()), ..session("b") };
    revoke(&store, &[session("s1"), of_kind(Kind::Key, "k"), bob, session("s2")], 100).await;
    let ask = |filter| {
        let store = store.clone();
        async move {
            let found = store.history(&shop(), &filter).await.unwrap();
            found.into_iter().map(|r| (r.id, r.entry.id)).collect::<Vec<_>>()
        }
    };
    let alice = HistoryFilter { subject: Some("alice".into()), limit: Some(2), ..HistoryFilter::default() };
    let page = ask(alice.clone()).await;
    assert_eq!(page.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>(), ["s2", "k"]);
    let rest = ask(HistoryFilter { before: Some(page[1].0), ..alice }).await;
    assert_eq!(rest.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>(), ["s1"]);
    assert_eq!(store.revoked_keys(&shop()).await.unwrap()[0].entry.id, "k");
    assert_eq!(store.history(&"shop/other".parse().unwrap(), &HistoryFilter::default()).await.unwrap(), []);
}

async fn rows_leave_only_when_both_clocks_call_them_long_expired_and_keys_never(db: Database) {
    let store = db.open().await;
    let expiring = |new: NewRevocation| NewRevocation { entry: Entry { expires: UnixMillis(1000), ..new.entry }, ..new };
    revoke(&store, &[expiring(session("s")), expiring(of_kind(Kind::Key, "k"))], 100).await;
    let past = UnixMillis(1000 + 3_600_001);
    assert_eq!(store.purge(past, UnixMillis(2000)).await.unwrap(), 0);
    assert_eq!(store.purge(UnixMillis(2000), past).await.unwrap(), 0);
    assert_eq!(store.purge(past, past).await.unwrap(), 1);
    assert_eq!(store.revoked_keys(&shop()).await.unwrap().len(), 1);
}

async fn after_the_clock_went_back_the_later_word_on_an_address_still_counts(db: Database) {
    let store = db.open().await;
    let block = |version, cutoff| {
        let new = of_kind(Kind::Ip, "203.0.113.7/32");
        NewRevocation { entry: Entry { version, cutoff, ..new.entry }, ..new }
    };
    revoke(&store, &[block(2_000, UnixMillis::FOREVER)], 10).await;
    revoke(&store, &[block(1_000, LIFTED)], 10).await;
    let held = store.history(&shop(), &HistoryFilter::default()).await.unwrap().remove(0).entry;
    assert_eq!((held.version, held.cutoff), (2_001, LIFTED));
    let blocks = async |name| transact!(&store, |tx| { tx.other_blocks(&shop(), name, UnixMillis(1_000)).await }).unwrap();
    assert_eq!(blocks("").await, 0, "a lifted block blocks nothing");
    revoke(&store, &[block(1_000, UnixMillis::FOREVER)], 10).await;
    assert_eq!((blocks("").await, blocks("203.0.113.7/32").await), (1, 0));
}

async fn what_has_expired_takes_no_room_and_no_revocation_counts_all_of_them(db: Database) {
    let store = db.open().await;
    let raw = db.raw().await;
    let revoke = async |id: &str, expires: i64, at: i64, bound: usize| {
        let new = session(id);
        let new = NewRevocation { entry: Entry { expires: UnixMillis(expires), ..new.entry }, ..new };
        store.revoke(&[new], UnixMillis(at), |_| bound).await.unwrap().merged.len()
    };
    let room = async || {
        let room = sqlx::query_scalar::<_, i64>("SELECT room FROM revocation_room WHERE policy = 'shop/shop'");
        room.fetch_one(&raw).await.unwrap()
    };
    for n in 0..10 {
        assert_eq!(revoke(&format!("old{n}"), 2000, 1000 + n, 10).await, 0);
    }
    assert_eq!(room().await, 0, "counted once, then only taken from");
    // Nothing has removed them yet, and they end nothing any more.
    for n in 0..10 {
        assert_eq!(revoke(&format!("new{n}"), 9000, 3000 + n, 10).await, 0, "{n}");
    }
    assert_eq!(revoke("newest", 9000, 3100, 10).await, 1);
    assert_eq!(room().await, 10);
    assert_eq!(revoke("after", 9000, 3200, 10).await, 0);
    assert_eq!(room().await, 9);
    // A bound that was lowered holds at once.
    assert_eq!([revoke("one", 9000, 3300, 1).await, revoke("two", 9000, 3400, 1).await], [1, 0]);
    // Near the bound they are counted after every 64th part of it.
    let many: Vec<_> = (0..128).map(|n| session(&format!("many{n}"))).collect();
    assert_eq!(store.revoke(&many, UnixMillis(3500), |_| 129).await.unwrap().merged, []);
    assert_eq!(room().await, 2);
}

async fn a_merged_cut_off_is_no_earlier_than_a_token_that_may_have_been_issued(db: Database) {
    let store = db.open().await;
    store.issue_until(&shop(), UnixMillis(5_000)).await.unwrap();
    store.issue_until(&shop(), UnixMillis(4_000)).await.unwrap();
    assert_eq!(store.issued_until(&shop()).await.unwrap(), Some(UnixMillis(5_000)));
    // By a clock that has gone back since.
    let merged = revoke(&store, &[session("a"), session("b")], 1).await.merged;
    assert_eq!(merged, [shop()]);
    let history = store.history(&shop(), &HistoryFilter::default()).await.unwrap();
    let cutoff = history.iter().find(|row| row.entry.kind == Kind::Policy).unwrap();
    assert_eq!(cutoff.entry.cutoff, UnixMillis(5_000));
}
