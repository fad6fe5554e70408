//! The writer and the follower over a feed in memory, whose live set is the outbox itself.

mod spoiled;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Kind, Position, Revocable},
    time::UnixMillis,
};
use countersign_feed::{
    Ack, BoxFuture, Clock, FeedServer, Follower, FollowerConfig, LeaseWrite, LiveStore, MemoryFeed, Outbox as _,
    OutboxError, PublishRow,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use self::spoiled::Spoiled;
use super::{follower::RevokedKeys, *};
use crate::registry::{PolicyView, Registry};

/// The number in memory.
#[derive(Debug, Default)]
struct Number(Arc<Mutex<u64>>);

impl Epochs for Number {
    fn present(&self) -> BoxFuture<'_, Result<u64, OutboxError>> {
        let present = *self.0.lock();
        Box::pin(async move { Ok(present) })
    }

    fn advance(&self, from: u64, to: u64) -> BoxFuture<'_, Result<bool, OutboxError>> {
        let mut present = self.0.lock();
        let advances = *present == from && to > from;
        if advances {
            *present = to;
        }
        Box::pin(async move { Ok(advances) })
    }
}

/// A server's own memory: unlike the outbox it keeps what was put in.
#[derive(Debug, Default)]
struct Kept(Mutex<BTreeMap<Position, Entry>>);

impl LiveStore for Kept {
    fn live_after(&self, after: Position, limit: usize) -> BoxFuture<'_, Result<Vec<(Position, Entry)>, OutboxError>> {
        let held = self.0.lock();
        let live = held.iter().filter(|(position, _)| **position > after).take(limit);
        let live = live.map(|(position, entry)| (*position, entry.clone())).collect();
        Box::pin(async { Ok(live) })
    }

    fn record<'a>(&'a self, _epoch: u64, entries: &'a [(Entry, Position)]) -> BoxFuture<'a, Result<(), OutboxError>> {
        let mut held = self.0.lock();
        for (entry, position) in entries {
            held.retain(|_, kept| kept.key() != entry.key());
            held.insert(*position, entry.clone());
        }
        Box::pin(async { Ok(()) })
    }
}

fn name(text: &str) -> PolicyName {
    text.parse().unwrap()
}

fn entry(kind: Kind, id: &str, cutoff: i64) -> Entry {
    Entry {
        policy: name("shop/shop"),
        kind,
        issuer: None,
        id: id.into(),
        cutoff: UnixMillis(cutoff),
        expires: Clock::wall().plus(3_600_000),
        version: 0,
        reason: String::new(),
        source: "operator".into(),
    }
}

fn view(revoked: Vec<Entry>) -> PolicyView {
    PolicyView {
        name: name("shop/shop"),
        uid: "u".into(),
        namespace_uid: "n".into(),
        generation: 1,
        effective: None,
        problem: None,
        withdrawn: false,
        bundle_generation: 1,
        bundle_version: 1,
        own: None,
        revoked: revoked.into(),
    }
}

async fn until(what: &str, asks: impl Fn() -> bool) {
    let waited = async {
        while !asks() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

fn session_of(id: &str) -> Revocable<'_> {
    static POLICY: std::sync::LazyLock<PolicyName> = std::sync::LazyLock::new(|| name("shop/shop"));
    Revocable {
        policy: &POLICY,
        issuer: Some("https://own"),
        own: true,
        access_ring: true,
        token_kind: Kind::Token,
        token_id: None,
        session_id: Some(id),
        subject: Some(id),
        kid: Some(id),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bundle_calls_revoked_is_in_the_feed_at_once_and_again_after_the_server_lost_everything() {
    let (registry, _inbox) = Registry::new();
    registry.publish(view(vec![entry(Kind::Session, "s0", i64::MAX)]));
    let number = Arc::new(Mutex::new(0));
    let server: Arc<dyn FeedServer> = Arc::new(MemoryFeed::new(Arc::new(Kept::default())));
    let outbox = BundleOutbox::new(Number(number.clone()));
    let writer = FeedWriter::spawn(server.clone(), outbox, registry.clone(), "operator");
    let stop = CancellationToken::new();
    let task = tokio::spawn(writer.run(stop.clone()));
    let reader = Follower::spawn(server.clone(), FollowerConfig::new("verifier")).unwrap();
    until("seeded with what was there", || reader.state().view().fresh).await;
    let refused = |reader: &Follower, id: &str| {
        let set = reader.state().revocations();
        set.lookup(&set.hasher().ids_of(&session_of(id)), Some(Clock::wall())).is_some()
    };
    assert!(refused(&reader, "s0"));
    assert!(!refused(&reader, "k1"));
    registry.publish(view(vec![entry(Kind::Session, "s0", i64::MAX), entry(Kind::Key, "k1", i64::MAX)]));
    until("the key is refused", || refused(&reader, "k1")).await;
    stop.cancel();
    task.await.unwrap();
    assert_eq!(*number.lock(), 1);

    // Another server: the next leader opens the next epoch on it.
    let server: Arc<dyn FeedServer> = Arc::new(MemoryFeed::new(Arc::new(Kept::default())));
    let outbox = BundleOutbox::new(Number(number.clone()));
    let _writer = FeedWriter::spawn(server.clone(), outbox, registry.clone(), "operator-2");
    let reader = Follower::spawn(server, FollowerConfig::new("verifier")).unwrap();
    until("seeded again", || reader.state().view().fresh).await;
    assert!(refused(&reader, "s0") && refused(&reader, "k1"));
    assert_eq!(*number.lock(), 2);
}

#[tokio::test]
async fn an_outbox_gives_out_what_says_more_and_drops_what_its_bundle_dropped() {
    let outbox = BundleOutbox::new(Number::default());
    let policy = name("shop/shop");
    let (a, b) = (entry(Kind::Session, "a", i64::MAX), entry(Kind::Subject, "b", 100));
    let ids = outbox.set(&policy, &[a.clone(), b.clone()]);
    assert_eq!(ids.len(), 2);
    assert_eq!(outbox.set(&policy, &[a.clone(), b.clone()]), Vec::<i64>::new(), "nothing new");
    let stricter = Entry { cutoff: UnixMillis(200), ..b.clone() };
    assert_eq!(outbox.set(&policy, &[a.clone(), stricter]), vec![ids[1]]);
    assert_eq!(outbox.set(&policy, &[a.clone(), b]), Vec::<i64>::new(), "nothing is lifted");
    assert_eq!(outbox.set(&policy, &[a]), Vec::<i64>::new());
    assert_eq!(outbox.len(), 1);
    let of_another = Entry { policy: name("other/other"), ..entry(Kind::Session, "x", 1) };
    assert_eq!(outbox.set(&policy, &[of_another]), Vec::<i64>::new(), "a policy speaks for itself alone");
    assert!(outbox.is_empty());
}

#[tokio::test]
async fn marks_count_for_their_epoch_and_revision_only() {
    let number = Arc::new(Mutex::new(1));
    let outbox = BundleOutbox::new(Number(number.clone()));
    let policy = name("shop/shop");
    let ids = outbox.set(&policy, &[entry(Kind::Subject, "b", 100)]);
    let row = outbox.unpublished(1, 10).await.unwrap().remove(0);
    let at = Position::new(1, 1).unwrap();
    let mark = countersign_feed::Mark { id: row.id, revision: row.revision, position: at };
    outbox.set(&policy, &[entry(Kind::Subject, "b", 200)]);
    outbox.mark(1, &[mark]).await.unwrap();
    assert_eq!(outbox.pending(1).await.unwrap(), 1, "it has come to say more meanwhile");
    let row = outbox.rows(1, &ids).await.unwrap().remove(0);
    outbox.mark(1, &[countersign_feed::Mark { revision: row.revision, ..mark }]).await.unwrap();
    assert_eq!((outbox.pending(1).await.unwrap(), outbox.highest_position().await.unwrap()), (0, at));
    assert!(!outbox.advance_epoch(7, 8, true).await.unwrap());
    assert!(outbox.advance_epoch(1, 2, true).await.unwrap());
    let row = outbox.unpublished(2, 10).await.unwrap().remove(0);
    assert_eq!((row.recorded, row.published), (Some(at), false), "an epoch makes every row work, where it stood");
    assert!(outbox.advance_epoch(2, 3, false).await.unwrap());
    assert_eq!(outbox.unpublished(3, 10).await.unwrap()[0].recorded, None);
    outbox.mark(2, &[mark]).await.unwrap();
    assert_eq!(outbox.pending(3).await.unwrap(), 1, "a mark of an epoch that is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_tells_keys_cutoffs_and_who_is_alive() {
    let (registry, inbox) = Registry::new();
    // The policy reconciler, as far as it matters here.
    let drain = tokio::spawn(async move {
        let mut inbox = inbox;
        while inbox.recv().await.is_some() {}
    });
    let server: Arc<dyn FeedServer> = Arc::new(MemoryFeed::new(Arc::new(Kept::default())));
    server.open_epoch(1).await.unwrap();
    let publish = async |entry: Entry| {
        let row = PublishRow { entry, recorded: None };
        server.publish(1, Position::ZERO, &[row]).await.unwrap();
    };
    publish(entry(Kind::Key, "early", i64::MAX)).await;
    let cutoffs = Arc::new(Cutoffs::new());
    let mut heard = cutoffs.changes();
    let stop = CancellationToken::new();
    let task = tokio::spawn(FeedFollower::new(server.clone(), registry.clone(), cutoffs.clone()).run(stop.clone()));
    let kids = || registry.revoked_keys(&name("shop/shop"));
    until("what was there", || kids().contains("early")).await;
    publish(entry(Kind::Key, "late", i64::MAX)).await;
    until("what came", || kids().contains("late")).await;
    publish(entry(Kind::Subject, "svc-a", 100)).await;
    until("a cut-off", || cutoffs.hit(&session_of("svc-a"), UnixMillis(100)).is_some()).await;
    assert!(cutoffs.hit(&session_of("svc-a"), UnixMillis(101)).is_none());
    assert_eq!(cutoffs.latest(&session_of("svc-a")), Some(UnixMillis(100)));
    let mut told = Vec::new();
    while let Ok(ended) = heard.try_recv() {
        told.push(ended.id.clone());
    }
    assert_eq!(told, ["early", "late", "svc-a"]);

    let lease = |name: &str, ack| LeaseWrite { name: name.into(), ttl: Duration::from_mins(1), position: None, ack };
    server.write_lease(&lease("node-1", None)).await.unwrap();
    let said = Ack { history: "h".into(), revision: "7".into(), ..Ack::default() };
    server.write_lease(&lease("issuer:pod-1", Some(said.clone()))).await.unwrap();
    let feed = registry.feed();
    until("the leases", || feed.borrow().leases.iter().any(|lease| lease.name == "node-1")).await;
    until("the issuer's", || feed.borrow().issuers == [("pod-1".to_owned(), Some(said.clone()))].into()).await;
    assert_eq!(feed.borrow().leases.len(), 1, "an issuer is no verifier");
    assert_eq!((feed.borrow().epoch, feed.borrow().seeded), (Some(1), false));
    until("everything was read once", || feed.borrow().caught_up).await;
    server.seal(1).await.unwrap();
    until("seeded", || feed.borrow().seeded).await;
    assert_eq!(server.leases().await.unwrap().len(), 2, "the operator itself is no reader");
    // Another epoch: read from the start, nothing is missed.
    server.open_epoch(2).await.unwrap();
    let row = PublishRow { entry: entry(Kind::Key, "next", i64::MAX), recorded: None };
    server.publish(2, Position::ZERO, &[row]).await.unwrap();
    until("what came in the next epoch", || kids().contains("next")).await;
    stop.cancel();
    task.await.unwrap();
    drain.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_entry_that_can_t_be_read_hides_no_other_and_a_follower_that_can_t_read_says_so() {
    let (registry, inbox) = Registry::new();
    let drain = tokio::spawn(async move {
        let mut inbox = inbox;
        while inbox.recv().await.is_some() {}
    });
    let spoiled = Arc::new(Spoiled::over(Arc::new(MemoryFeed::new(Arc::new(Kept::default())))));
    let server: Arc<dyn FeedServer> = spoiled.clone();
    server.open_epoch(1).await.unwrap();
    spoiled.fails.store(true, Ordering::SeqCst);
    spoiled.unreadable.store(1, Ordering::SeqCst);
    let stop = CancellationToken::new();
    let follower = FeedFollower::new(server.clone(), registry.clone(), Arc::new(Cutoffs::new()));
    let task = tokio::spawn(follower.run(stop.clone()));
    let feed = registry.feed();
    let said = |text: &str| feed.borrow().problem.as_ref().is_some_and(|problem| problem.contains(text));
    until("a word on why", || said("no page")).await;
    assert!(feed.borrow().fresh && !feed.borrow().caught_up, "reached, and yet blind");

    let row = PublishRow { entry: entry(Kind::Key, "k1", i64::MAX), recorded: None };
    server.publish(1, Position::ZERO, &[row]).await.unwrap();
    spoiled.fails.store(false, Ordering::SeqCst);
    until("the key that can be read", || registry.revoked_keys(&name("shop/shop")).contains("k1")).await;
    until("a word on the entry", || said("1 entries")).await;
    assert!(feed.borrow().caught_up);
    assert_eq!(feed.borrow().unreadable, 1);
    stop.cancel();
    task.await.unwrap();
    drain.abort();
}

#[test]
fn a_key_that_names_its_issuer_is_the_policy_s_own_only_if_that_is_its_issuer() {
    let mut keys = RevokedKeys::default();
    let of = |issuer: &str, id: &str| Entry { issuer: Some(issuer.into()), ..entry(Kind::Key, id, i64::MAX) };
    keys.note(entry(Kind::Key, "plain", i64::MAX));
    keys.note(of("https://own", "mine"));
    keys.note(of("https://foreign", "theirs"));
    let kids = |settled: BTreeMap<PolicyName, std::collections::BTreeSet<String>>| -> Vec<String> {
        settled.into_values().flatten().collect()
    };
    assert_eq!(kids(keys.settle(|_| None)), ["plain"], "the policy isn't known yet");
    assert_eq!(kids(keys.settle(|_| Some("https://own".into()))), ["mine"]);
    assert_eq!(kids(keys.settle(|_| Some("https://foreign".into()))), Vec::<String>::new(), "told once");
}
