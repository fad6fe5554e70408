//! When to save: often enough to start well, not so often that a large set is written all the time.

use std::{sync::Arc, time::Duration};

use countersign_core::{revocation::Position, time::UnixMillis};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::saved::SavedState;
use crate::state::FeedState;

pub(super) struct Saver {
    files: SavedState,
    state: Arc<FeedState>,
    interval: Duration,
    saved: (u64, Option<Position>),
    next: Instant,
    next_time: Instant,
    time: Option<UnixMillis>,
    failing: bool,
}

impl Saver {
    const TIME_INTERVAL: Duration = Duration::from_secs(10);

    pub(super) fn new(files: SavedState, state: Arc<FeedState>, interval: Duration) -> Self {
        let now = Instant::now();
        Self {
            interval,
            saved: (state.revocations().version(), state.position()),
            next: now + interval,
            next_time: now,
            time: None,
            failing: false,
            files,
            state,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.tick().await;
        }
        self.save_now().await;
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        if now >= self.next && self.saved != (self.state.revocations().version(), self.state.position()) {
            self.save_now().await;
        }
        if now >= self.next_time
            && let Some(time) = self.state.server_now()
        {
            self.next_time = now + Self::TIME_INTERVAL;
            if self.time.is_none_or(|written| time.since(written).abs() >= 1000) {
                let result = self.files.write_time(time);
                self.report(&result);
                self.time = result.is_ok().then_some(time);
            }
        }
    }

    async fn save_now(&mut self) {
        let (version, position) = (self.state.revocations().version(), self.state.position());
        if self.saved == (version, position) {
            return;
        }
        let started = Instant::now();
        let (files, shared) = (self.files.clone(), Arc::clone(&self.state));
        let result = tokio::task::spawn_blocking(move || files.write(&shared)).await;
        let result = result.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        if result.is_ok() {
            self.saved = (version, position);
        }
        self.report(&result);
        // At most a twentieth of the time goes into saving.
        self.next = Instant::now() + self.interval.max(started.elapsed() * 20);
    }

    fn report(&mut self, result: &std::io::Result<()>) {
        match result {
            Err(error) if !self.failing => {
                tracing::warn!(%error, "revocations can't be saved; a start without the feed will know less");
            }
            Ok(()) if self.failing => tracing::info!("revocations are saved again"),
            _ => {}
        }
        self.failing = result.is_err();
    }
}
