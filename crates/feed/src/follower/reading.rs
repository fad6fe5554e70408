//! The follower's task: what it is doing, and what each answer makes of that.

use std::{future::pending, sync::Arc, time::Duration};

use countersign_core::revocation::Position;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;

use super::FollowerConfig;
use crate::{
    clock::Clock,
    lease::Ack,
    random::random_fraction,
    server::{BoxFuture, FeedError, FeedServer, LeaseWrite, Page, ServerState, TailItem},
    state::FeedState,
};

const TAIL_WAIT: Duration = Duration::from_secs(5);
const PURGE_INTERVAL: Duration = Duration::from_mins(1);
/// How long an end waits for the server to take our lease away.
const GOODBYE: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// What is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing, until a lease's answer says what.
    Idle,
    /// The live set, upward from a position.
    Paging(Cursor),
    /// The tail, from a position.
    Tailing(Cursor),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    epoch: u64,
    /// Read up to here.
    at: Position,
    /// Whether the epoch was seeded when this reading began: only then does what is read move our position. Otherwise
    /// entries are taken in early, and read again once everything is there.
    seeded: bool,
}

/// What a lease's answer says of the server.
enum Standing {
    Seeded {
        epoch: u64,
        tail: Position,
    },
    Unseeded {
        epoch: u64,
    },
    Unusable(String),
    /// It gave out fewer positions than we hold: they are of another history, and mean nothing in this one.
    Lost(String),
}

enum Step {
    Page(Result<Page, FeedError>),
    Tail(Result<Vec<TailItem>, FeedError>),
}

struct LeaseAnswer {
    sent_at: i64,
    answered_at: i64,
    reached_at_send: Option<Position>,
    answer: Result<ServerState, FeedError>,
}

pub(super) struct Reading {
    server: Arc<dyn FeedServer>,
    config: FollowerConfig,
    state: Arc<FeedState>,
    acks: watch::Receiver<Option<Ack>>,
    phase: Phase,
    step: Option<BoxFuture<'static, Step>>,
    lease: Option<BoxFuture<'static, LeaseAnswer>>,
    next_lease: Instant,
    /// What the latest lease said.
    written: Option<LeaseWrite>,
    /// A tail that a lease's answer named and we have still to reach, with the moment that lease was sent.
    unconfirmed: Option<(Position, i64)>,
    /// Where a reading of the live set stood when it was broken off. Only its end moves our position: an entry that became
    /// stricter meanwhile stands further on than where it was when its position was given out.
    broken_off: Option<Cursor>,
    /// Whether this reading of the live set met entries that can't be read: then its end moves nothing.
    unreadable: bool,
    /// A tail that we were behind of, by where we stood and since when.
    behind: Option<(Position, Instant)>,
    has_read: bool,
    failures: u32,
}

impl Reading {
    pub(super) fn new(
        server: Arc<dyn FeedServer>,
        config: FollowerConfig,
        state: Arc<FeedState>,
        acks: watch::Receiver<Option<Ack>>,
    ) -> Self {
        let now = Instant::now();
        Self {
            server,
            config,
            state,
            acks,
            phase: Phase::Idle,
            step: None,
            lease: None,
            next_lease: now,
            written: None,
            unconfirmed: None,
            broken_off: None,
            unreadable: false,
            behind: None,
            has_read: false,
            failures: 0,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut purge = tokio::time::interval_at(Instant::now() + PURGE_INTERVAL, PURGE_INTERVAL);
        purge.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut acks = self.acks.clone();
        loop {
            if self.lease.is_none() && Instant::now() >= self.next_lease {
                self.lease = Some(self.write_lease());
            }
            if self.step.is_none() {
                self.step = self.next_step();
            }
            tokio::select! {
                () = stop.cancelled() => break,
                answer = or_pending(self.lease.as_mut()) => {
                    self.lease = None;
                    self.on_lease(answer);
                }
                done = or_pending(self.step.as_mut()) => {
                    self.step = None;
                    self.on_step(done);
                }
                () = tokio::time::sleep_until(self.next_lease), if self.lease.is_none() => {}
                Ok(()) = acks.changed() => {
                    if self.failures == 0 {
                        self.next_lease = Instant::now();
                    }
                }
                _ = purge.tick() => {
                    if let Some(server_now) = self.state.server_now() {
                        self.state.revocations().purge(server_now, Clock::wall());
                    }
                }
            }
        }
        // Nobody need wait for one who says that it goes; whoever can't be told finds out when the lease ends.
        let _ = tokio::time::timeout(GOODBYE, self.release()).await;
    }

    /// Takes our lease away, after what is on its way has arrived.
    async fn release(&mut self) {
        if let Some(lease) = &mut self.lease {
            lease.await;
            self.lease = None;
        }
        if let Some(written) = self.written.take()
            && let Err(error) = self.server.release_lease(&written).await
        {
            tracing::debug!(server = %self.server.describe(), %error, "the lease was not taken away; it ends by itself");
        }
    }

    fn write_lease(&mut self) -> BoxFuture<'static, LeaseAnswer> {
        let reached_at_send = self.state.position();
        let lease = LeaseWrite {
            name: self.config.name.clone(),
            ttl: self.config.lease_ttl,
            position: reached_at_send,
            ack: self.acks.borrow_and_update().clone(),
        };
        self.written = Some(lease.clone());
        let server = Arc::clone(&self.server);
        Box::pin(async move {
            let sent_at = Clock::boot_micros();
            let answer = server.write_lease(&lease).await;
            LeaseAnswer { sent_at, answered_at: Clock::boot_micros(), reached_at_send, answer }
        })
    }

    fn next_step(&mut self) -> Option<BoxFuture<'static, Step>> {
        let server = Arc::clone(&self.server);
        match self.phase {
            Phase::Idle => None,
            Phase::Paging(cursor) => {
                let limit = self.config.page_size;
                Some(Box::pin(async move { Step::Page(server.page(cursor.at, limit).await) }))
            }
            Phase::Tailing(cursor) => Some(Box::pin(async move { Step::Tail(server.tail(cursor.at, TAIL_WAIT).await) })),
        }
    }

    fn on_lease(&mut self, lease: LeaseAnswer) {
        let state = match lease.answer {
            Ok(state) => state,
            Err(error) => return self.on_failure(&error),
        };
        self.failures = 0;
        let acks_changed = self.acks.has_changed().unwrap_or(false);
        self.next_lease = Instant::now() + if acks_changed { Duration::ZERO } else { self.config.heartbeat };
        self.state.set_server_time(state.now_micros, i64::midpoint(lease.sent_at, lease.answered_at));
        self.state.set_writer_seen(state.writer_seen_ms);
        self.state.set_epoch(state.record.as_ref().map_or(0, |record| record.epoch));
        match standing(&state, lease.reached_at_send) {
            Standing::Seeded { epoch, tail } => {
                let reading = matches!(self.phase, Phase::Paging(c) | Phase::Tailing(c) if c.seeded && c.epoch == epoch);
                if !reading || self.tail_is_silent(tail) {
                    self.read_again(self.begin_at(epoch, tail));
                }
                self.unconfirmed.get_or_insert((tail, lease.sent_at));
                self.confirm_if_reached();
            }
            Standing::Unseeded { epoch } => {
                self.doubt("the feed is being seeded again after its server lost data or was replaced");
                self.next_lease = Instant::now() + self.config.heartbeat / 4;
                if !matches!(self.phase, Phase::Paging(c) | Phase::Tailing(c) if c.epoch == epoch) {
                    let at = Position::new(epoch, 0).unwrap_or(Position::ZERO);
                    self.step = None;
                    self.unreadable = false;
                    self.phase = Phase::Paging(Cursor { epoch, at, seeded: false });
                }
            }
            Standing::Lost(problem) => {
                self.state.forget_position();
                self.broken_off = None;
                self.give_up(&problem);
            }
            Standing::Unusable(problem) => self.give_up(&problem),
        }
    }

    fn give_up(&mut self, problem: &str) {
        self.doubt(problem);
        self.idle();
        self.next_lease = Instant::now() + self.config.heartbeat / 2;
    }

    fn on_step(&mut self, step: Step) {
        match (step, self.phase) {
            (Step::Page(Ok(page)), Phase::Paging(cursor)) => self.on_page(&page, cursor),
            (Step::Tail(Ok(items)), Phase::Tailing(cursor)) => self.on_tail(&items, cursor),
            (Step::Page(Err(error)) | Step::Tail(Err(error)), _) => self.on_failure(&error),
            // An answer to a question that is no longer asked.
            _ => {}
        }
        self.confirm_if_reached();
    }

    fn on_page(&mut self, page: &Page, mut cursor: Cursor) {
        let Some(record) = page.state.present().filter(|record| record.epoch == cursor.epoch && record.whole) else {
            return self.ask_at_once();
        };
        let end = record.tail();
        for (_, entry) in &page.entries {
            self.state.revocations().apply(entry);
        }
        // What came in after the state was read is applied, and met again.
        cursor.at = cursor.at.max(page.last().map_or(cursor.at, |last| last.min(end)));
        self.unreadable |= !page.unreadable.is_empty();
        if page.more {
            self.broken_off = (cursor.seeded && !self.unreadable).then_some(cursor);
            self.phase = Phase::Paging(cursor);
        } else if std::mem::take(&mut self.unreadable) {
            // All that can be read is in force; what can't may be any revocation.
            self.broken_off = None;
            self.on_failure(&unreadable());
        } else {
            cursor.at = cursor.at.max(end);
            self.broken_off = None;
            self.moved(cursor);
            self.phase = Phase::Tailing(cursor);
        }
    }

    fn on_tail(&mut self, items: &[TailItem], mut cursor: Cursor) {
        for item in items {
            if item.position.epoch() != cursor.epoch {
                self.moved(cursor);
                return self.ask_at_once();
            }
            if item.position.place() != cursor.at.place() + 1 {
                // Trimmed past us.
                self.moved(cursor);
                return self.read_again(cursor);
            }
            let Some(entry) = &item.entry else {
                self.moved(cursor);
                return self.on_failure(&unreadable());
            };
            self.state.revocations().apply(entry);
            cursor.at = item.position;
        }
        self.moved(cursor);
        for item in items {
            self.state.observed(item.at_micros);
        }
        self.phase = Phase::Tailing(cursor);
    }

    fn moved(&self, cursor: Cursor) {
        if cursor.seeded {
            self.state.reach(cursor.at);
        }
    }

    fn confirm_if_reached(&mut self) {
        let reading = matches!(self.phase, Phase::Paging(c) | Phase::Tailing(c) if c.seeded);
        if let Some((tail, sent_at)) = self.unconfirmed
            && reading
            && self.state.position().is_some_and(|reached| reached >= tail)
        {
            self.unconfirmed = None;
            self.state.confirm(sent_at);
        }
    }

    /// Where to begin to read the live set of a seeded epoch: at our position, or where that was broken off in this epoch.
    fn begin_at(&self, epoch: u64, tail: Position) -> Cursor {
        let held = self.state.position().unwrap_or(Position::ZERO);
        let resumed = self.broken_off.filter(|cursor| cursor.epoch == epoch && cursor.at <= tail);
        Cursor { epoch, at: resumed.map_or(held, |cursor| cursor.at.max(held)), seeded: true }
    }

    /// Whether we have been waiting for the tail for as long as a lease is good, and it says nothing: it was lost, or the
    /// connection that it is read on leads elsewhere.
    fn tail_is_silent(&mut self, tail: Position) -> bool {
        let Phase::Tailing(cursor) = self.phase else {
            self.behind = None;
            return false;
        };
        match self.behind {
            _ if cursor.at >= tail => self.behind = None,
            Some((at, since)) if at == cursor.at => return since.elapsed() >= self.config.lease_ttl,
            _ => self.behind = Some((cursor.at, Instant::now())),
        }
        false
    }

    /// Reads the live set from a position on: at first, and after any gap.
    fn read_again(&mut self, cursor: Cursor) {
        let again = std::mem::replace(&mut self.has_read, true);
        self.behind = None;
        self.unreadable = false;
        self.phase = Phase::Paging(cursor);
        self.step = None;
        if again {
            self.state.count_resync();
            let (server, limit) = (Arc::clone(&self.server), self.config.page_size);
            let wait = self.config.resync_jitter.mul_f64(random_fraction());
            self.step = Some(Box::pin(async move {
                tokio::time::sleep(wait).await;
                Step::Page(server.page(cursor.at, limit).await)
            }));
        }
    }

    fn on_failure(&mut self, error: &FeedError) {
        self.doubt(&error.to_string());
        if matches!(error, FeedError::ReadOnly(_)) && !matches!(self.phase, Phase::Idle) {
            // What a server that takes no writes still tells may be taken in; it just isn't proof of anything.
            self.next_lease = Instant::now() + self.config.heartbeat;
            return;
        }
        self.idle();
        let backoff = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(10)).min(self.config.max_backoff);
        self.failures = self.failures.saturating_add(1);
        self.next_lease = Instant::now() + backoff.mul_f64(random_fraction().mul_add(0.5, 0.5));
    }

    fn ask_at_once(&mut self) {
        self.idle();
        self.next_lease = Instant::now();
    }

    fn idle(&mut self) {
        self.phase = Phase::Idle;
        self.step = None;
        self.unconfirmed = None;
    }

    fn doubt(&mut self, problem: &str) {
        self.unconfirmed = None;
        if self.state.doubt(problem) {
            tracing::warn!(server = %self.server.describe(), problem, "revocations are not known to be complete");
        }
    }
}

fn unreadable() -> FeedError {
    FeedError::Protocol("it holds entries that this release can't read".into())
}

/// Compares with what was held when the lease was sent: what came in since is no sign of loss.
fn standing(state: &ServerState, reached_at_send: Option<Position>) -> Standing {
    let Some(record) = &state.record else {
        return Standing::Unusable("the feed server is empty: no writer has opened it, or it was wiped".into());
    };
    if record.run_id != state.run_id {
        return Standing::Unusable(
            "the feed server was restarted or replaced, and no writer has opened it again yet".into(),
        );
    }
    if let Some(held) = reached_at_send.filter(|held| *held > record.tail()) {
        return Standing::Lost(format!(
            "the feed server lost data: its tail {} is behind {held}, which this reader holds",
            record.tail()
        ));
    }
    if let Some(ahead) = record.ahead {
        return Standing::Unusable(format!("the feed server lost data: a reader holds {ahead}, which this server lacked"));
    }
    if !record.whole {
        return Standing::Unusable("the feed server lost a part of its entries: a key was evicted or deleted".into());
    }
    if record.seeded {
        Standing::Seeded { epoch: record.epoch, tail: record.tail() }
    } else {
        Standing::Unseeded { epoch: record.epoch }
    }
}

async fn or_pending<T>(future: Option<&mut BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => pending().await,
    }
}
