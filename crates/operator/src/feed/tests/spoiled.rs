//! A feed server that can't always be read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use countersign_core::{revocation::Position, time::UnixMillis};
use countersign_feed::{
    BoxFuture, FeedError, FeedServer, Lease, LeaseWrite, Page, PublishRow, Published, Removal, ReportedUse, SeenSession,
    ServerState, TailItem, WaitingUse,
};

/// Another server, spoiled.
#[derive(Debug)]
pub(super) struct Spoiled {
    server: Arc<dyn FeedServer>,
    /// Whether pages are refused.
    pub(super) fails: AtomicBool,
    /// How many entries of each page from the start can't be read.
    pub(super) unreadable: AtomicU64,
}

impl Spoiled {
    pub(super) fn over(server: Arc<dyn FeedServer>) -> Self {
        Self { server, fails: AtomicBool::new(false), unreadable: AtomicU64::new(0) }
    }
}

impl FeedServer for Spoiled {
    fn describe(&self) -> String {
        "a spoiled server".into()
    }

    fn state(&self) -> BoxFuture<'_, Result<ServerState, FeedError>> {
        self.server.state()
    }

    fn write_lease<'a>(&'a self, lease: &'a LeaseWrite) -> BoxFuture<'a, Result<ServerState, FeedError>> {
        self.server.write_lease(lease)
    }

    fn release_lease<'a>(&'a self, lease: &'a LeaseWrite) -> BoxFuture<'a, Result<(), FeedError>> {
        self.server.release_lease(lease)
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<Lease>, FeedError>> {
        self.server.leases()
    }

    fn write_writer_lease<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ServerState, FeedError>> {
        self.server.write_writer_lease(name)
    }

    fn page(&self, after: Position, limit: usize) -> BoxFuture<'_, Result<Page, FeedError>> {
        Box::pin(async move {
            if self.fails.load(Ordering::SeqCst) {
                return Err(FeedError::Protocol("no page today".into()));
            }
            let mut page = self.server.page(after, limit).await?;
            if after == Position::ZERO {
                let places = 1..=self.unreadable.load(Ordering::SeqCst);
                page.unreadable.extend(places.filter_map(|place| Position::new(1, place)));
            }
            Ok(page)
        })
    }

    fn tail(&self, after: Position, wait: Duration) -> BoxFuture<'_, Result<Vec<TailItem>, FeedError>> {
        self.server.tail(after, wait)
    }

    fn open_epoch(&self, epoch: u64) -> BoxFuture<'_, Result<ServerState, FeedError>> {
        self.server.open_epoch(epoch)
    }

    fn seal(&self, epoch: u64) -> BoxFuture<'_, Result<(), FeedError>> {
        self.server.seal(epoch)
    }

    fn publish<'a>(
        &'a self,
        epoch: u64,
        floor: Position,
        rows: &'a [PublishRow],
    ) -> BoxFuture<'a, Result<Vec<Published>, FeedError>> {
        self.server.publish(epoch, floor, rows)
    }

    fn remove<'a>(&'a self, epoch: u64, entries: &'a [Removal]) -> BoxFuture<'a, Result<(), FeedError>> {
        self.server.remove(epoch, entries)
    }

    fn report_uses<'a>(&'a self, uses: &'a [ReportedUse]) -> BoxFuture<'a, Result<(), FeedError>> {
        self.server.report_uses(uses)
    }

    fn waiting_uses(&self, limit: usize) -> BoxFuture<'_, Result<Vec<WaitingUse>, FeedError>> {
        self.server.waiting_uses(limit)
    }

    fn take_out_uses<'a>(&'a self, places: &'a [String]) -> BoxFuture<'a, Result<(), FeedError>> {
        self.server.take_out_uses(places)
    }

    fn report_activity<'a>(&'a self, seen: &'a [SeenSession]) -> BoxFuture<'a, Result<u64, FeedError>> {
        self.server.report_activity(seen)
    }

    fn take_activity(&self, limit: usize) -> BoxFuture<'_, Result<Vec<SeenSession>, FeedError>> {
        self.server.take_activity(limit)
    }

    fn purge(&self, epoch: u64, own_now: UnixMillis) -> BoxFuture<'_, Result<u64, FeedError>> {
        self.server.purge(epoch, own_now)
    }
}
