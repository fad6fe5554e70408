//! The feed within one process, by the same rules: its start is the run, the writer's store is its live set.

use std::{
    collections::{HashMap, VecDeque, hash_map},
    sync::Arc,
    time::Duration,
};

use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Position},
    time::UnixMillis,
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{
    activity::{MAX_WAITING_SESSIONS, SeenSession},
    clock::{Clock, SteadyClock},
    lease::Lease,
    outbox::OutboxError,
    random::random_bytes,
    server::{
        BoxFuture, EpochRecord, FeedError, FeedServer, LeaseWrite, Page, PublishRow, Published, Removal, ServerState,
        TailItem,
    },
    uses::{MAX_WAITING_USES, ReportedUse, WaitingUse},
};

const TAIL_LENGTH: usize = 10_000;
/// The most that one read of the tail gives.
const TAIL_PAGE: usize = 1000;

/// The live set of a [`MemoryFeed`]: the writer's own store.
pub trait LiveStore: Send + Sync + std::fmt::Debug {
    /// Up to `limit` published entries after `after`, in order.
    fn live_after(&self, after: Position, limit: usize) -> BoxFuture<'_, Result<Vec<(Position, Entry)>, OutboxError>>;

    /// Records where entries stand, before anyone is told. One that has become stricter since stays work for the next
    /// sweep, and is served from here on as it is.
    fn record<'a>(&'a self, epoch: u64, entries: &'a [(Entry, Position)]) -> BoxFuture<'a, Result<(), OutboxError>>;
}

/// A feed server in this process.
#[derive(Debug)]
pub struct MemoryFeed {
    live: Arc<dyn LiveStore>,
    run_id: String,
    inner: Mutex<Inner>,
    /// One publication at a time, so that positions are recorded in their order.
    publishing: tokio::sync::Mutex<()>,
    moved: Notify,
    clock: Mutex<SteadyClock>,
}

#[derive(Debug, Default)]
struct Inner {
    record: Option<EpochRecord>,
    tail: VecDeque<TailItem>,
    leases: HashMap<String, (Instant, Lease)>,
    writer_seen: Option<Instant>,
    uses: VecDeque<WaitingUse>,
    /// Uses taken so far: their places.
    uses_taken: u64,
    /// When sessions were seen.
    seen: HashMap<(PolicyName, String), UnixMillis>,
}

impl MemoryFeed {
    /// A server over `live`. Its run is new: writers open an epoch on it first.
    pub fn new(live: Arc<dyn LiveStore>) -> Self {
        Self {
            live,
            run_id: format!("{:032x}", u128::from_le_bytes(random_bytes())),
            inner: Mutex::default(),
            publishing: tokio::sync::Mutex::default(),
            moved: Notify::new(),
            clock: Mutex::new(SteadyClock::start(Clock::wall(), Clock::boot_millis())),
        }
    }

    fn now_micros(&self) -> i64 {
        self.clock.lock().read(Clock::wall(), Clock::boot_millis()).0.saturating_mul(1000)
    }

    fn state_of(&self, inner: &Inner) -> ServerState {
        ServerState {
            run_id: self.run_id.clone(),
            now_micros: self.now_micros(),
            record: inner.record.clone(),
            writer_seen_ms: inner.writer_seen.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
        }
    }

    fn present(&self, epoch: u64) -> Result<EpochRecord, FeedError> {
        let inner = self.inner.lock();
        inner.record.clone().filter(|record| record.epoch == epoch).ok_or(FeedError::EpochChanged)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as map_err's function")]
fn store_failed(error: OutboxError) -> FeedError {
    FeedError::Unreachable(error.to_string())
}

impl FeedServer for MemoryFeed {
    fn describe(&self) -> String {
        "this process".into()
    }

    fn state(&self) -> BoxFuture<'_, Result<ServerState, FeedError>> {
        let state = self.state_of(&self.inner.lock());
        Box::pin(async { Ok(state) })
    }

    fn write_lease<'a>(&'a self, lease: &'a LeaseWrite) -> BoxFuture<'a, Result<ServerState, FeedError>> {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        inner.leases.retain(|_, (until, _)| *until > now);
        inner.leases.insert(
            lease.name.clone(),
            (now + lease.ttl, Lease { name: lease.name.clone(), position: lease.position, ack: lease.ack.clone() }),
        );
        if let (Some(record), Some(held)) = (inner.record.as_mut(), lease.position)
            && held > record.tail()
        {
            record.ahead = record.ahead.max(Some(held));
        }
        let state = self.state_of(&inner);
        Box::pin(async { Ok(state) })
    }

    fn release_lease<'a>(&'a self, lease: &'a LeaseWrite) -> BoxFuture<'a, Result<(), FeedError>> {
        let mut inner = self.inner.lock();
        let same = |held: &Lease| held.position == lease.position && held.ack == lease.ack;
        if inner.leases.get(&lease.name).is_some_and(|(_, held)| same(held)) {
            inner.leases.remove(&lease.name);
        }
        Box::pin(async { Ok(()) })
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<Lease>, FeedError>> {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        inner.leases.retain(|_, (until, _)| *until > now);
        let mut leases: Vec<Lease> = inner.leases.values().map(|(_, lease)| lease.clone()).collect();
        leases.sort_by(|a, b| a.name.cmp(&b.name));
        Box::pin(async { Ok(leases) })
    }

    fn write_writer_lease<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<ServerState, FeedError>> {
        let mut inner = self.inner.lock();
        inner.writer_seen = Some(Instant::now());
        let state = self.state_of(&inner);
        Box::pin(async { Ok(state) })
    }

    fn page(&self, after: Position, limit: usize) -> BoxFuture<'_, Result<Page, FeedError>> {
        Box::pin(async move {
            // The state first: what is published while the store is read may be among the entries, what was before is.
            let state = self.state_of(&self.inner.lock());
            let mut entries = self.live.live_after(after, limit + 1).await.map_err(store_failed)?;
            let more = entries.len() > limit;
            entries.truncate(limit);
            Ok(Page { entries, unreadable: Vec::new(), more, state })
        })
    }

    fn tail(&self, after: Position, wait: Duration) -> BoxFuture<'_, Result<Vec<TailItem>, FeedError>> {
        let items = move |inner: &Inner| -> Vec<TailItem> {
            let from = inner.tail.partition_point(|item| item.position <= after);
            inner.tail.range(from..).take(TAIL_PAGE).cloned().collect()
        };
        Box::pin(async move {
            let found = async {
                loop {
                    let mut moved = std::pin::pin!(self.moved.notified());
                    moved.as_mut().enable();
                    let found = items(&self.inner.lock());
                    if !found.is_empty() {
                        return found;
                    }
                    moved.await;
                }
            };
            Ok(tokio::time::timeout(wait, found).await.unwrap_or_default())
        })
    }

    fn open_epoch(&self, epoch: u64) -> BoxFuture<'_, Result<ServerState, FeedError>> {
        Box::pin(async move {
            let _alone = self.publishing.lock().await;
            let mut inner = self.inner.lock();
            if inner.record.as_ref().is_none_or(|record| record.epoch < epoch) {
                let run_id = self.run_id.clone();
                inner.record = Some(EpochRecord { epoch, run_id, seeded: false, place: 0, ahead: None, whole: true });
                inner.tail.clear();
            }
            Ok(self.state_of(&inner))
        })
    }

    fn seal(&self, epoch: u64) -> BoxFuture<'_, Result<(), FeedError>> {
        let mut inner = self.inner.lock();
        let sealed = match inner.record.as_mut().filter(|record| record.epoch == epoch) {
            Some(record) => {
                record.seeded = true;
                Ok(())
            }
            None => Err(FeedError::EpochChanged),
        };
        Box::pin(async { sealed })
    }

    fn publish<'a>(
        &'a self,
        epoch: u64,
        floor: Position,
        rows: &'a [PublishRow],
    ) -> BoxFuture<'a, Result<Vec<Published>, FeedError>> {
        Box::pin(async move {
            let _alone = self.publishing.lock().await;
            let record = self.present(epoch)?;
            if floor > record.tail() {
                return Err(FeedError::RolledBack);
            }
            let mut place = record.place;
            let mut placed = Vec::with_capacity(rows.len());
            let mut fresh = Vec::new();
            for row in rows {
                let kept = row.recorded.filter(|held| held.epoch() == epoch || !record.seeded);
                let position = if let Some(kept) = kept {
                    kept
                } else {
                    place += 1;
                    let position = Position::new(epoch, place).ok_or(FeedError::Full)?;
                    fresh.push((position, row.entry.clone()));
                    position
                };
                placed.push((row.entry.clone(), position));
            }
            self.live.record(epoch, &placed).await.map_err(store_failed)?;
            let mut inner = self.inner.lock();
            let inner = &mut *inner;
            // An epoch is opened under the same lock, so the record is the one that was read.
            if let Some(record) = inner.record.as_mut() {
                record.place = place;
            }
            let at_micros = self.now_micros();
            inner.tail.extend(fresh.into_iter().map(|(position, entry)| TailItem {
                position,
                at_micros,
                entry: Some(entry),
            }));
            let surplus = inner.tail.len().saturating_sub(TAIL_LENGTH);
            inner.tail.drain(..surplus);
            self.moved.notify_waiters();
            Ok(placed.into_iter().map(|(_, position)| Published { position }).collect())
        })
    }

    fn remove<'a>(&'a self, epoch: u64, _entries: &'a [Removal]) -> BoxFuture<'a, Result<(), FeedError>> {
        // The store, which is the live set, has them out already.
        let result = self.present(epoch).map(|_| ());
        Box::pin(async { result })
    }

    fn report_uses<'a>(&'a self, uses: &'a [ReportedUse]) -> BoxFuture<'a, Result<(), FeedError>> {
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let taken = if inner.uses.len() + uses.len() > MAX_WAITING_USES { Err(FeedError::Crowded) } else { Ok(()) };
        if taken.is_ok() {
            inner.uses.extend(
                (inner.uses_taken..)
                    .zip(uses)
                    .map(|(place, used)| WaitingUse { place: place.to_string(), used: Some(used.clone()) }),
            );
            inner.uses_taken += uses.len() as u64;
        }
        Box::pin(async { taken })
    }

    fn waiting_uses(&self, limit: usize) -> BoxFuture<'_, Result<Vec<WaitingUse>, FeedError>> {
        let waiting = self.inner.lock().uses.iter().take(limit).cloned().collect();
        Box::pin(async { Ok(waiting) })
    }

    fn take_out_uses<'a>(&'a self, places: &'a [String]) -> BoxFuture<'a, Result<(), FeedError>> {
        self.inner.lock().uses.retain(|waiting| !places.contains(&waiting.place));
        Box::pin(async { Ok(()) })
    }

    fn report_activity<'a>(&'a self, seen: &'a [SeenSession]) -> BoxFuture<'a, Result<u64, FeedError>> {
        let held = &mut self.inner.lock().seen;
        let mut dropped = 0;
        for SeenSession { policy, session, at } in seen {
            let has_room = held.len() < MAX_WAITING_SESSIONS;
            match held.entry((policy.clone(), session.clone())) {
                hash_map::Entry::Occupied(mut known) => {
                    let latest = (*known.get()).max(*at);
                    known.insert(latest);
                }
                hash_map::Entry::Vacant(new) if has_room => {
                    new.insert(*at);
                }
                hash_map::Entry::Vacant(_) => dropped += 1,
            }
        }
        Box::pin(async move { Ok(dropped) })
    }

    fn take_activity(&self, limit: usize) -> BoxFuture<'_, Result<Vec<SeenSession>, FeedError>> {
        let taken = |((policy, session), at)| SeenSession { policy, session, at };
        let seen = self.inner.lock().seen.extract_if(|_, _| true).take(limit).map(taken).collect();
        Box::pin(async { Ok(seen) })
    }

    fn purge(&self, epoch: u64, _own_now: UnixMillis) -> BoxFuture<'_, Result<u64, FeedError>> {
        let result = self.present(epoch).map(|_| 0);
        Box::pin(async { result })
    }
}
