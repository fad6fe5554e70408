//! The writers' side: sweeps the outbox into the server, opens epochs, seeds them.
//!
//! There is one code path. A revocation just committed is swept at once; what an earlier run or another writer left is swept
//! each second; and after a server lost its data, opening the next epoch turns every live row into work for the same sweep.
//! Whoever finds none left marks the epoch seeded.

use std::{sync::Arc, time::Duration};

use countersign_core::{revocation::Position, time::UnixMillis};
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    outbox::{Mark, Outbox, OutboxError, OutboxRow},
    random::random_fraction,
    server::{FeedError, FeedServer, PublishRow, Removal, ServerState},
};

/// Rows published in one step.
const BATCH: usize = 1000;
const PURGE_INTERVAL: Duration = Duration::from_mins(1);
const RETRY: Duration = Duration::from_millis(50);

/// How a publisher works.
#[derive(Clone, Debug)]
pub struct PublisherConfig {
    /// The writer's name.
    pub name: String,
    /// How often everything unpublished is swept.
    pub sweep_interval: Duration,
    /// Whether to take expired rows out of the outbox as well.
    pub purge: bool,
}

impl PublisherConfig {
    /// The ordinary settings.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), sweep_interval: Duration::from_secs(1), purge: true }
    }
}

/// What became of rows that were to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publication {
    /// All are in the feed; the last of them stands here.
    Published(Position),
    /// The feed could not take them in time. They are committed, and will be published as soon as it can.
    Pending,
}

/// How publishing goes.
#[derive(Clone, Debug, Default)]
pub struct PublisherStatus {
    /// Rows that the last sweep left unpublished.
    pub pending: u64,
    /// The epoch published in; 0 none yet.
    pub epoch: u64,
    /// Whether every live row is in it.
    pub seeded: bool,
    /// Why the last sweep failed.
    pub problem: Option<Arc<str>>,
}

/// The task that publishes. Dropping it ends the task; what is unpublished stays in the outbox.
#[derive(Debug)]
pub struct Publisher {
    requests: mpsc::Sender<Request>,
    status: Arc<Mutex<PublisherStatus>>,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Request {
    ids: Vec<i64>,
    done: oneshot::Sender<Position>,
}

impl Publisher {
    /// Begins to publish what `outbox` holds to `server`. Must be called within a Tokio runtime.
    pub fn spawn(server: Arc<dyn FeedServer>, outbox: Arc<dyn Outbox>, config: PublisherConfig) -> Self {
        let (requests, inbox) = mpsc::channel(1024);
        let status = Arc::new(Mutex::new(PublisherStatus::default()));
        let stop = CancellationToken::new();
        let sweeper = Sweeper {
            server,
            outbox,
            config,
            status: Arc::clone(&status),
            epoch: None,
            floor: Position::ZERO,
            waiting: Vec::new(),
            purge_at: Instant::now() + PURGE_INTERVAL,
        };
        let task = tokio::spawn(sweeper.run(inbox, stop.clone()));
        Self { requests, status, stop, task: Some(task) }
    }

    /// Publishes rows that are committed, waiting up to `timeout`.
    pub async fn publish(&self, ids: Vec<i64>, timeout: Duration) -> Publication {
        let publication = async {
            let (done, published) = oneshot::channel();
            self.requests.send(Request { ids, done }).await.ok()?;
            published.await.ok()
        };
        match tokio::time::timeout(timeout, publication).await {
            Ok(Some(position)) => Publication::Published(position),
            _ => Publication::Pending,
        }
    }

    /// How it goes.
    pub fn status(&self) -> PublisherStatus {
        self.status.lock().clone()
    }

    /// Stops.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let _ = task.await;
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum SweepError {
    #[error(transparent)]
    Feed(#[from] FeedError),
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    #[error("the feed's epoch keeps changing")]
    Unsettled,
}

struct Sweeper {
    server: Arc<dyn FeedServer>,
    outbox: Arc<dyn Outbox>,
    config: PublisherConfig,
    status: Arc<Mutex<PublisherStatus>>,
    /// The epoch that outbox and server were last seen to agree on.
    epoch: Option<u64>,
    /// The latest position known to be recorded.
    floor: Position,
    waiting: Vec<Request>,
    purge_at: Instant,
}

impl Sweeper {
    async fn run(mut self, mut inbox: mpsc::Receiver<Request>, stop: CancellationToken) {
        let mut sweep_at = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                request = inbox.recv() => {
                    let Some(request) = request else { return };
                    self.waiting.push(request);
                    while let Ok(request) = inbox.try_recv() {
                        self.waiting.push(request);
                    }
                }
                () = tokio::time::sleep_until(sweep_at) => {}
            }
            // The flag, not the branch: under load requests never cease, and the sweep must not starve.
            let sweeping = Instant::now() >= sweep_at;
            let result = async {
                self.publish_waiting().await?;
                if sweeping { self.sweep().await } else { Ok(false) }
            }
            .await;
            if sweeping || result.is_err() {
                let more = matches!(result, Ok(true));
                sweep_at = Instant::now() + if more { Duration::ZERO } else { self.config.sweep_interval };
            }
            self.report(result.as_ref().err());
            if result.is_err() {
                self.epoch = None;
                self.waiting.retain(|request| !request.done.is_closed());
                if !self.waiting.is_empty() {
                    sweep_at = Instant::now() + RETRY;
                }
            }
        }
    }

    /// Publishes what callers wait for, all of it together.
    async fn publish_waiting(&mut self) -> Result<(), SweepError> {
        self.waiting.retain(|request| !request.done.is_closed());
        if self.waiting.is_empty() {
            return Ok(());
        }
        let epoch = self.settled().await?;
        let ids: Vec<i64> = self.waiting.iter().flat_map(|request| request.ids.iter().copied()).collect();
        let mut positions = std::collections::HashMap::with_capacity(ids.len());
        for chunk in ids.chunks(BATCH) {
            let rows = self.outbox.rows(epoch, chunk).await?;
            let (done, todo): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| row.published);
            positions.extend(done.iter().filter_map(|row| Some((row.id, row.recorded?))));
            let marks = self.publish(epoch, &todo).await?;
            // Where the truth has moved on meanwhile, readers may follow another server, which lacks what this one took.
            if self.outbox.epoch().await? != epoch {
                return Err(FeedError::EpochChanged.into());
            }
            positions.extend(marks.iter().map(|mark| (mark.id, mark.position)));
            // Callers needn't wait for the mark: without it the next sweep finds the entry already there.
            self.waiting.retain_mut(|request| {
                let Some(last) = request.ids.iter().map(|id| positions.get(id)).collect::<Option<Vec<_>>>() else {
                    return true;
                };
                let last = last.into_iter().max().copied().unwrap_or(Position::ZERO);
                let (answered, _) = oneshot::channel();
                let _ = std::mem::replace(&mut request.done, answered).send(last);
                false
            });
            self.outbox.mark(epoch, &marks).await?;
        }
        // Rows that are gone (expired, or merged meanwhile) have nothing left to publish; a later sweep answers for them.
        self.waiting.retain(|request| request.ids.iter().any(|id| !positions.contains_key(id)));
        Ok(())
    }

    /// What isn't published, whoever wrote it, a batch at a time, so that callers who wait are served between; then what
    /// else is due. True when there is more.
    async fn sweep(&mut self) -> Result<bool, SweepError> {
        self.server.write_writer_lease(&self.config.name).await?;
        let (epoch, state) = self.settle().await?;
        let rows = self.outbox.unpublished(epoch, BATCH).await?;
        if !rows.is_empty() {
            let marks = self.publish(epoch, &rows).await?;
            self.outbox.mark(epoch, &marks).await?;
            let pending = self.outbox.pending(epoch).await?;
            let seeded = state.present().is_some_and(|record| record.seeded);
            *self.status.lock() = PublisherStatus { pending, epoch, seeded, problem: None };
            return Ok(true);
        }
        if !state.present().is_some_and(|record| record.seeded) {
            self.server.seal(epoch).await?;
            tracing::info!(server = %self.server.describe(), epoch, "the feed is seeded");
        }
        loop {
            let merged = self.outbox.merged(BATCH).await?;
            if merged.is_empty() {
                break;
            }
            let (ids, entries): (Vec<i64>, Vec<Removal>) = merged.into_iter().unzip();
            self.server.remove(epoch, &entries).await?;
            self.outbox.forget_merged(&ids).await?;
        }
        if Instant::now() >= self.purge_at {
            self.purge_at = Instant::now() + PURGE_INTERVAL;
            self.purge(epoch, state.now()).await?;
        }
        *self.status.lock() = PublisherStatus { pending: 0, epoch, seeded: true, problem: None };
        Ok(false)
    }

    async fn purge(&self, epoch: u64, server_now: UnixMillis) -> Result<(), SweepError> {
        let own_now = Clock::wall();
        while self.server.purge(epoch, own_now).await? > 0 {}
        if self.config.purge {
            self.outbox.purge(server_now, own_now).await?;
        }
        Ok(())
    }

    async fn publish(&mut self, epoch: u64, rows: &[OutboxRow]) -> Result<Vec<Mark>, SweepError> {
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let to_publish: Vec<PublishRow> =
            rows.iter().map(|row| PublishRow { entry: row.entry.clone(), recorded: row.recorded }).collect();
        let floor = if self.floor.epoch() == epoch { self.floor } else { Position::ZERO };
        let published = self.server.publish(epoch, floor, &to_publish).await?;
        let marks: Vec<Mark> = rows
            .iter()
            .zip(published)
            .map(|(row, published)| Mark { id: row.id, revision: row.revision, position: published.position })
            .collect();
        let last = marks.iter().map(|mark| mark.position).filter(|position| position.epoch() == epoch).max();
        self.floor = self.floor.max(last.unwrap_or(Position::ZERO));
        Ok(marks)
    }

    /// The epoch that outbox and server agree on; made, where they don't.
    async fn settled(&mut self) -> Result<u64, SweepError> {
        match self.epoch {
            Some(epoch) => Ok(epoch),
            None => Ok(self.settle().await?.0),
        }
    }

    async fn settle(&mut self) -> Result<(u64, ServerState), SweepError> {
        for _ in 0..8 {
            // The outbox first: what another writer records after that is not yet missing from the server's state.
            let held = self.outbox.epoch().await?;
            self.floor = self.floor.max(self.outbox.highest_position().await?);
            let state = self.server.state().await?;
            match next_move(&state, held, self.floor) {
                Move::Use(epoch) => {
                    self.epoch = Some(epoch);
                    return Ok((epoch, state));
                }
                Move::Join(epoch) => {
                    self.outbox.advance_epoch(held, epoch, true).await?;
                }
                Move::Open { epoch, keep_positions } => {
                    if self.outbox.advance_epoch(held, epoch, keep_positions).await? {
                        self.server.open_epoch(epoch).await?;
                        tracing::info!(server = %self.server.describe(), epoch, "opened an epoch of the feed; seeding it");
                    } else {
                        // Another writer is about to open one; what it has still to tell the server is waited for.
                        tokio::time::sleep(RETRY.mul_f64(random_fraction())).await;
                    }
                }
                Move::Exhausted => return Err(FeedError::Full.into()),
            }
        }
        Err(SweepError::Unsettled)
    }

    fn report(&self, error: Option<&SweepError>) {
        let mut status = self.status.lock();
        match error {
            Some(error) => {
                let text = error.to_string();
                if status.problem.as_deref() != Some(text.as_str()) {
                    tracing::warn!(server = %self.server.describe(), error = %text, "revocations can't be published; they stay in the outbox");
                    status.problem = Some(text.into());
                }
            }
            None => status.problem = None,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Move {
    /// Outbox and server agree.
    Use(u64),
    /// Another writer has opened this epoch on this server and it isn't seeded yet.
    Join(u64),
    /// Open this one. Where readers hold positions that this history never gave out, positions of before mean nothing.
    Open { epoch: u64, keep_positions: bool },
    /// There is none left.
    Exhausted,
}

/// What to do about the epoch, given the server's state, the outbox's epoch and the latest position that it recorded.
fn next_move(state: &ServerState, held: u64, floor: Position) -> Move {
    let on_record = state.record.as_ref().map_or(0, |record| record.epoch);
    let ahead = state.record.as_ref().and_then(|record| record.ahead);
    if let Some(record) = state.present() {
        // However far the tail has come since: what a reader held and the server lacked is still lacking.
        let lost = record.ahead.is_some() || !record.whole || floor.epoch() == record.epoch && floor > record.tail();
        if !lost && record.epoch == held {
            return Move::Use(held);
        }
        if !lost && record.epoch > held && !record.seeded {
            return Move::Join(record.epoch);
        }
    }
    let epoch = held.max(on_record).max(ahead.map_or(0, Position::epoch)) + 1;
    if Position::new(epoch, 0).is_some() { Move::Open { epoch, keep_positions: ahead.is_none() } } else { Move::Exhausted }
}

#[cfg(test)]
mod tests;
