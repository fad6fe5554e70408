//! A writer, a server, readers; and waiting on what should come true.

use std::{
    future::Future,
    path::Path,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use countersign_core::{
    revocation::{Entry, Kind, Position, Revocable},
    time::UnixMillis,
};
use countersign_feed::{
    Clock, FeedServer, FeedState, Follower, FollowerConfig, MemoryFeed, Publication, Publisher, PublisherConfig,
};

use crate::{double::Truth, redis_server::RedisServer};

const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until the answer is yes.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut asks: impl FnMut() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !asks().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) struct Scene {
    pub(crate) server: Arc<dyn FeedServer>,
    pub(crate) truth: Arc<Truth>,
    _redis: Option<RedisServer>,
}

impl Scene {
    pub(crate) fn in_memory() -> Self {
        let truth = Arc::new(Truth::default());
        Self { server: Arc::new(MemoryFeed::new(Arc::clone(&truth) as _)), truth, _redis: None }
    }

    pub(crate) fn on_redis() -> Self {
        let redis = RedisServer::start();
        Self { server: Arc::new(redis.feed()), truth: Arc::default(), _redis: Some(redis) }
    }

    pub(crate) fn over(server: Arc<dyn FeedServer>) -> Self {
        Self { server, truth: Arc::default(), _redis: None }
    }

    pub(crate) fn publisher(&self) -> Publisher {
        self.publisher_over(Arc::clone(&self.server))
    }

    pub(crate) fn publisher_over(&self, server: Arc<dyn FeedServer>) -> Publisher {
        let config = PublisherConfig { sweep_interval: Duration::from_millis(20), ..PublisherConfig::new("writer") };
        Publisher::spawn(server, Arc::clone(&self.truth) as _, config)
    }

    pub(crate) fn follower(&self, name: &str) -> Follower {
        Follower::spawn(Arc::clone(&self.server), quick(name)).unwrap()
    }

    pub(crate) fn saving_follower(&self, name: &str, dir: &Path) -> Follower {
        Follower::spawn(Arc::clone(&self.server), quick(name).saved_in(dir)).unwrap()
    }

    pub(crate) async fn revoke(&self, publisher: &Publisher, entry: Entry) -> Position {
        let id = self.truth.commit(entry);
        match publisher.publish(vec![id], PATIENCE).await {
            Publication::Published(position) => position,
            Publication::Pending => panic!("not published"),
        }
    }
}

/// As in production, but in less time.
pub(crate) fn quick(name: &str) -> FollowerConfig {
    FollowerConfig {
        heartbeat: Duration::from_millis(30),
        lease_ttl: Duration::from_millis(1500),
        resync_jitter: Duration::from_millis(5),
        max_backoff: Duration::from_millis(100),
        save_interval: Duration::from_millis(20),
        page_size: 100,
        ..FollowerConfig::new(name)
    }
}

/// The same for every entry of a run, so that the same entry says the same.
static EXPIRES: LazyLock<UnixMillis> = LazyLock::new(|| Clock::wall().plus(3_600_000));

pub(crate) fn session(id: &str) -> Entry {
    Entry {
        policy: "shop/shop".parse().unwrap(),
        kind: Kind::Session,
        issuer: None,
        id: id.into(),
        cutoff: UnixMillis::FOREVER,
        expires: *EXPIRES,
        version: 0,
        reason: "left".into(),
        source: "test".into(),
    }
}

pub(crate) fn subject(id: &str, cutoff: i64) -> Entry {
    Entry { kind: Kind::Subject, cutoff: UnixMillis(cutoff), ..session(id) }
}

/// Whether a token of that session, or of that subject issued at 0, is dead.
pub(crate) fn is_revoked(state: &FeedState, id: &str) -> bool {
    is_revoked_at(state, id, 0)
}

pub(crate) fn is_revoked_at(state: &FeedState, id: &str, issued: i64) -> bool {
    let set = state.revocations();
    let ids = set.hasher().ids_of(&Revocable {
        policy: &"shop/shop".parse().unwrap(),
        issuer: Some("https://own"),
        own: true,
        access_ring: true,
        token_kind: Kind::Token,
        token_id: None,
        session_id: Some(id),
        subject: Some(id),
        kid: None,
    });
    set.lookup(&ids, Some(UnixMillis(issued))).is_some()
}

pub(crate) async fn fresh(follower: &Follower) {
    let state = follower.state();
    until("fresh", || async { state.view().fresh }).await;
}

/// Fresh by a lease that was sent after this call.
pub(crate) async fn fresh_again(follower: &Follower) {
    let called = Instant::now();
    let state = follower.state();
    until("fresh again", || async {
        let view = state.view();
        view.fresh && view.age_ms.is_some_and(|age| u128::from(age) < called.elapsed().as_millis())
    })
    .await;
}

pub(crate) async fn not_fresh(follower: &Follower) {
    let state = follower.state();
    until("not fresh", || async { !state.view().fresh }).await;
}

pub(crate) async fn in_epoch(follower: &Follower, epoch: u64) {
    let state = follower.state();
    until("the epoch", || async {
        state.view().fresh && state.position().is_some_and(|position| position.epoch() >= epoch)
    })
    .await;
}
