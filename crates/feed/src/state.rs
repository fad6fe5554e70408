//! What a process knows of the feed: read on every verdict, so every read is an atomic.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use countersign_core::{
    names::PolicyName,
    revocation::{IdHasher, Position, RevocationSet},
    time::UnixMillis,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{clock::Clock, random::random_bytes};

/// How many calls may wait for a position at once.
pub const MAX_WAITERS: usize = 1000;

/// "Never", where a moment is kept as a number.
const NEVER: i64 = i64::MIN;

/// The revocations a process holds, and how true they are. Shared; cheap to read.
pub struct FeedState {
    revocations: Arc<RevocationSet>,
    followed: bool,
    /// [`Position`] as a score; 0 none.
    reached: AtomicU64,
    /// When the set was last known to be complete, by [`Clock::boot_micros`].
    complete_at: AtomicI64,
    /// False as soon as anything is wrong, whatever the age.
    healthy: AtomicBool,
    /// How long after the last confirmation this still counts as fresh, microseconds.
    fresh_for: AtomicI64,
    /// The server's clock less [`Clock::boot_micros`]; `NEVER` when no server was ever known.
    server_offset: AtomicI64,
    /// The latest wall-clock time of the server known from an earlier run, milliseconds.
    saved_server_time: AtomicI64,
    writer_seen_at: AtomicI64,
    epoch: AtomicU64,
    resyncs: AtomicU64,
    waiters: AtomicUsize,
    moved: Notify,
    problem: Mutex<Option<Arc<str>>>,
    lag: OnceLock<LagObserver>,
}

type LagObserver = Box<dyn Fn(Duration) + Send + Sync>;

/// Where the feed stands, at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeedView {
    /// Every revocation up to here is held.
    pub position: Option<Position>,
    /// How long ago the set was last known to be complete, milliseconds. `None`: never since this process started.
    pub age_ms: Option<u64>,
    /// Whether it is known to be complete now.
    pub fresh: bool,
}

/// What is told of the feed beside verdicts.
#[derive(Clone, Debug)]
pub struct FeedStats {
    /// The epoch of the last state seen; 0 none.
    pub epoch: u64,
    /// How often the live set was read again from the held position on.
    pub resyncs: u64,
    /// How long ago a writer was last seen on the server, milliseconds.
    pub writer_seen_ms: Option<u64>,
    /// Entries held.
    pub entries: usize,
    /// This machine's clock less the server's, milliseconds.
    pub clock_difference_ms: Option<i64>,
    /// Why the set isn't fresh, in words.
    pub problem: Option<Arc<str>>,
}

impl fmt::Debug for FeedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeedState")
            .field("view", &self.view())
            .field("revocations", &self.revocations)
            .finish_non_exhaustive()
    }
}

impl FeedState {
    /// An empty state with a hasher of its own: never fresh until a follower makes it so.
    pub fn empty() -> Self {
        Self::over(RevocationSet::new(random_hasher()), true)
    }

    /// For a process without a feed: never fresh, for ever.
    pub fn without_feed() -> Arc<Self> {
        let state = Self::over(RevocationSet::new(random_hasher()), false);
        state.set_problem(Some("this process runs without a feed"));
        Arc::new(state)
    }

    pub(crate) fn over(revocations: RevocationSet, followed: bool) -> Self {
        Self {
            revocations: Arc::new(revocations),
            followed,
            reached: AtomicU64::new(0),
            complete_at: AtomicI64::new(NEVER),
            healthy: AtomicBool::new(false),
            fresh_for: AtomicI64::new(0),
            server_offset: AtomicI64::new(NEVER),
            saved_server_time: AtomicI64::new(NEVER),
            writer_seen_at: AtomicI64::new(NEVER),
            epoch: AtomicU64::new(0),
            resyncs: AtomicU64::new(0),
            waiters: AtomicUsize::new(0),
            moved: Notify::new(),
            problem: Mutex::new(None),
            lag: OnceLock::new(),
        }
    }

    /// The revocations themselves.
    pub const fn revocations(&self) -> &Arc<RevocationSet> {
        &self.revocations
    }

    /// Whether a feed is followed at all.
    pub const fn has_feed(&self) -> bool {
        self.followed
    }

    /// Position, age and freshness. Three atomic reads and one of the clock.
    pub fn view(&self) -> FeedView {
        self.view_and_boot_micros().0
    }

    /// The time that verdicts go by, as [`now`](Self::now) tells it, and the [`view`](Self::view), with one clock less to read.
    pub fn now_and_view(&self, skew_ms: i64) -> (UnixMillis, FeedView) {
        let own = Clock::wall();
        let (view, boot_micros) = self.view_and_boot_micros();
        (self.never_behind_server(own, boot_micros, skew_ms), view)
    }

    fn view_and_boot_micros(&self) -> (FeedView, i64) {
        // Read before the clock, so that no age is too small.
        let complete_at = self.complete_at.load(Ordering::Acquire);
        let position = self.position();
        let now = Clock::boot_micros();
        (self.view_at(complete_at, position, now), now)
    }

    fn view_at(&self, complete_at: i64, position: Option<Position>, boot_micros: i64) -> FeedView {
        if complete_at == NEVER {
            return FeedView { position, age_ms: None, fresh: false };
        }
        let age = boot_micros.saturating_sub(complete_at).max(0);
        let fresh = self.healthy.load(Ordering::Acquire) && age <= self.fresh_for.load(Ordering::Relaxed);
        FeedView { position, age_ms: Some(age.unsigned_abs() / 1000), fresh }
    }

    /// Up to where every revocation is held.
    pub fn position(&self) -> Option<Position> {
        Position::from_score(self.reached.load(Ordering::Acquire)).filter(|position| *position != Position::ZERO)
    }

    /// The time that verdicts go by: this machine's clock, but never behind the server's last known time less `skew_ms`.
    pub fn now(&self, skew_ms: i64) -> UnixMillis {
        let own = Clock::wall();
        self.never_behind_server(own, Clock::boot_micros(), skew_ms)
    }

    fn never_behind_server(&self, own: UnixMillis, boot_micros: i64, skew_ms: i64) -> UnixMillis {
        match self.server_micros_at(boot_micros) {
            Some(server) => own.max(UnixMillis(server.div_euclid(1000)).minus(skew_ms)),
            None => own.max(UnixMillis(self.saved_server_time.load(Ordering::Relaxed)).minus(skew_ms)),
        }
    }

    /// The server's clock, carried on since it was last read in this run. `None` before the first contact.
    pub fn server_now(&self) -> Option<UnixMillis> {
        self.server_now_micros().map(|micros| UnixMillis(micros.div_euclid(1000)))
    }

    /// The latest server time known, from this run or an earlier one: what is worth saving.
    pub(crate) fn latest_server_time(&self) -> Option<UnixMillis> {
        self.server_now().or_else(|| match self.saved_server_time.load(Ordering::Relaxed) {
            NEVER => None,
            saved => Some(UnixMillis(saved)),
        })
    }

    /// Waits until everything up to `position` is held. False when that takes longer than `timeout`, or when
    /// [`MAX_WAITERS`] are waiting already.
    pub async fn wait_for(&self, position: Position, timeout: Duration) -> bool {
        if self.holds(position) {
            return true;
        }
        if !self.followed || self.waiters.fetch_add(1, Ordering::AcqRel) >= MAX_WAITERS {
            if self.followed {
                self.waiters.fetch_sub(1, Ordering::AcqRel);
            }
            return false;
        }
        let _waiting = Waiting(&self.waiters);
        let moved = async {
            loop {
                let mut notified = std::pin::pin!(self.moved.notified());
                notified.as_mut().enable();
                if self.holds(position) {
                    return;
                }
                notified.await;
            }
        };
        tokio::time::timeout(timeout, moved).await.is_ok()
    }

    /// Whether everything up to `position` is held. A position of an older epoch is, once the seeded present one has been read
    /// to its end.
    pub fn holds(&self, position: Position) -> bool {
        self.position().is_some_and(|reached| reached >= position) || position == Position::ZERO
    }

    /// For status and metrics.
    pub fn stats(&self) -> FeedStats {
        let writer_seen_at = self.writer_seen_at.load(Ordering::Relaxed);
        FeedStats {
            epoch: self.epoch.load(Ordering::Relaxed),
            resyncs: self.resyncs.load(Ordering::Relaxed),
            writer_seen_ms: (writer_seen_at != NEVER)
                .then(|| Clock::boot_micros().saturating_sub(writer_seen_at).max(0).unsigned_abs() / 1000),
            entries: self.revocations.len(),
            clock_difference_ms: self.server_now().map(|server| Clock::wall().since(server)),
            problem: self.problem.lock().clone(),
        }
    }

    /// Entries held of each policy.
    pub fn entries_by_policy(&self) -> Vec<(PolicyName, usize)> {
        self.revocations.counts()
    }

    /// Calls `observe` with the time from the server's taking an entry to its being in force here, for each that arrives
    /// through the tail. The first observer stays.
    pub fn observe_lag(&self, observe: impl Fn(Duration) + Send + Sync + 'static) {
        let _ = self.lag.set(Box::new(observe));
    }
}

/// What the follower writes.
impl FeedState {
    pub(crate) fn server_now_micros(&self) -> Option<i64> {
        self.server_micros_at(Clock::boot_micros())
    }

    fn server_micros_at(&self, boot_micros: i64) -> Option<i64> {
        let offset = self.server_offset.load(Ordering::Relaxed);
        (offset != NEVER).then(|| boot_micros.saturating_add(offset))
    }

    pub(crate) fn restore(&self, position: Option<Position>, server_time: Option<UnixMillis>) {
        self.reached.store(position.map_or(0, Position::score), Ordering::Release);
        if let Some(time) = server_time {
            self.saved_server_time.store(time.0, Ordering::Relaxed);
        }
    }

    pub(crate) fn set_fresh_for(&self, window: Duration) {
        self.fresh_for.store(i64::try_from(window.as_micros()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// The server's clock, read at `boot_micros`.
    pub(crate) fn set_server_time(&self, server_micros: i64, boot_micros: i64) {
        self.server_offset.store(server_micros.saturating_sub(boot_micros).max(NEVER + 1), Ordering::Relaxed);
    }

    pub(crate) fn set_writer_seen(&self, ago_ms: Option<u64>) {
        let at = ago_ms.map_or(NEVER, |ms| {
            Clock::boot_micros().saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX).saturating_mul(1000))
        });
        self.writer_seen_at.store(at, Ordering::Relaxed);
    }

    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    pub(crate) fn count_resync(&self) {
        self.resyncs.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything up to `position` is in the set.
    pub(crate) fn reach(&self, position: Position) {
        if self.reached.fetch_max(position.score(), Ordering::AcqRel) < position.score() {
            self.moved.notify_waiters();
        }
    }

    /// What was held is held; up to where, in the history that callers mean, is no longer known.
    pub(crate) fn forget_position(&self) {
        self.reached.store(0, Ordering::Release);
    }

    /// The set was complete at `boot_micros`.
    pub(crate) fn confirm(&self, boot_micros: i64) {
        self.complete_at.fetch_max(boot_micros, Ordering::AcqRel);
        if !self.healthy.swap(true, Ordering::AcqRel) {
            self.set_problem(None);
        }
    }

    /// Something is wrong: not fresh, at once. True when that, or what is wrong, is new.
    pub(crate) fn doubt(&self, problem: &str) -> bool {
        let was_healthy = self.healthy.swap(false, Ordering::AcqRel);
        let new = self.problem.lock().as_deref() != Some(problem);
        if new {
            self.set_problem(Some(problem));
        }
        was_healthy || new
    }

    pub(crate) fn observed(&self, at_micros: i64) {
        if let (Some(observe), Some(now)) = (self.lag.get(), self.server_now_micros()) {
            observe(Duration::from_micros(now.saturating_sub(at_micros).max(0).unsigned_abs()));
        }
    }

    fn set_problem(&self, problem: Option<&str>) {
        *self.problem.lock() = problem.map(Arc::from);
    }
}

struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn random_hasher() -> IdHasher {
    IdHasher::new(random_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(place: u64) -> Position {
        Position::new(1, place).unwrap()
    }

    #[test]
    fn without_a_feed_nothing_is_ever_fresh_and_nothing_waits() {
        let state = FeedState::without_feed();
        assert_eq!(state.view(), FeedView { position: None, age_ms: None, fresh: false });
        assert!(!state.has_feed() && !state.holds(at(1)));
        assert!(state.stats().problem.is_some());
    }

    #[test]
    fn freshness_ends_with_any_doubt_or_with_age_and_age_goes_on() {
        let state = FeedState::empty();
        state.set_fresh_for(Duration::from_secs(5));
        state.confirm(Clock::boot_micros() - 2_000_000);
        let view = state.view();
        assert!(view.fresh && view.age_ms.is_some_and(|ms| (2000..3000).contains(&ms)), "{view:?}");
        assert!(state.doubt("why") && !state.doubt("why"), "said once");
        assert!(!state.view().fresh && state.view().age_ms.is_some());
        state.confirm(Clock::boot_micros());
        assert_eq!((state.view().fresh, state.stats().problem), (true, None));
        state.set_fresh_for(Duration::ZERO);
        assert!(!state.view().fresh, "a follower that died confirms nothing");
    }

    #[test]
    fn the_clock_is_our_own_but_never_behind_the_servers_last_known_time_less_the_skew() {
        let state = FeedState::empty();
        let near = |a: UnixMillis, b: UnixMillis| a.since(b).abs() < 1000;
        assert!(near(state.now(0), Clock::wall()));
        let ahead = Clock::wall().plus(3_600_000);
        state.restore(None, Some(ahead));
        assert!(near(state.now(30_000), ahead.minus(30_000)), "from disk, after our clock stepped back");
        state.set_server_time(Clock::wall().minus(3_600_000).0 * 1000, Clock::boot_micros());
        assert!(near(state.now(30_000), Clock::wall()), "a server that is behind doesn't hold us back");
        state.set_server_time(Clock::wall().plus(60_000).0 * 1000, Clock::boot_micros());
        assert!(near(state.now(30_000), Clock::wall().plus(30_000)));
        assert!(state.stats().clock_difference_ms.is_some_and(|ms| (-61_000..=-59_000).contains(&ms)));
    }

    #[tokio::test]
    async fn at_most_a_thousand_calls_wait_for_a_position() {
        let state = Arc::new(FeedState::empty());
        let wait = |timeout| {
            let state = Arc::clone(&state);
            tokio::spawn(async move { state.wait_for(at(1), timeout).await })
        };
        let waiting: Vec<_> = (0..MAX_WAITERS).map(|_| wait(Duration::from_mins(1))).collect();
        while state.waiters.load(Ordering::Acquire) < MAX_WAITERS {
            tokio::task::yield_now().await;
        }
        assert!(!wait(Duration::from_mins(1)).await.unwrap(), "one too many is turned away at once");
        assert_eq!(state.waiters.load(Ordering::Acquire), MAX_WAITERS);
        state.reach(at(1));
        for waiting in waiting {
            assert!(waiting.await.unwrap());
        }
        assert_eq!(state.waiters.load(Ordering::Acquire), 0);
        assert!(state.wait_for(at(1), Duration::ZERO).await);
        assert!(!state.wait_for(at(2), Duration::from_millis(1)).await);
    }
}
