//! A server whose parts can be held back, as a slow or cut-off network would.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use countersign_core::{revocation::Position, time::UnixMillis};
use countersign_feed::{
    BoxFuture, FeedError, FeedServer, Lease, LeaseWrite, Page, PublishRow, Published, Removal, ReportedUse, SeenSession,
    ServerState, TailItem, WaitingUse,
};
use tokio::sync::Semaphore;

#[derive(Debug)]
pub(crate) struct Gate {
    server: Arc<dyn FeedServer>,
    /// Reads of the tail don't return.
    pub(crate) tail_held: AtomicBool,
    /// Nothing can be published.
    pub(crate) writer_cut_off: AtomicBool,
    /// How many pages may still be read.
    pub(crate) pages: Semaphore,
    /// Leases written.
    pub(crate) leases: AtomicUsize,
}

impl Gate {
    pub(crate) fn new(server: Arc<dyn FeedServer>) -> Arc<Self> {
        Self::of_pages(server, Semaphore::MAX_PERMITS)
    }

    /// One of which so many pages can be read, until more are permitted.
    pub(crate) fn of_pages(server: Arc<dyn FeedServer>, pages: usize) -> Arc<Self> {
        Arc::new(Self {
            server,
            tail_held: AtomicBool::new(false),
            writer_cut_off: AtomicBool::new(false),
            pages: Semaphore::new(pages),
            leases: AtomicUsize::new(0),
        })
    }

    fn cut_off(&self) -> Result<(), FeedError> {
        if self.writer_cut_off.load(Ordering::SeqCst) {
            return Err(FeedError::Unreachable("cut off".into()));
        }
        Ok(())
    }
}

impl FeedServer for Gate {
    fn describe(&self) -> String {
        self.server.describe()
    }

    fn state(&self) -> BoxFuture<'_, Result<ServerState, FeedError>> {
        Box::pin(async {
            self.cut_off()?;
            self.server.state().await
        })
    }

    fn write_lease<'a>(&'a self, lease: &'a LeaseWrite) -> BoxFuture<'a, Result<ServerState, FeedError>> {
        Box::pin(async {
            let answer = self.server.write_lease(lease).await;
            self.leases.fetch_add(1, Ordering::SeqCst);
            answer
        })
    }

    fn release_lease<'a>(&'a self, lease: &'a LeaseWrite) -> BoxFuture<'a, Result<(), FeedError>> {
        self.server.release_lease(lease)
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<Lease>, FeedError>> {
        self.server.leases()
    }

    fn write_writer_lease<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ServerState, FeedError>> {
        Box::pin(async move {
            self.cut_off()?;
            self.server.write_writer_lease(name).await
        })
    }

    fn page(&self, after: Position, limit: usize) -> BoxFuture<'_, Result<Page, FeedError>> {
        Box::pin(async move {
            let permit = self.pages.acquire().await.unwrap();
            let page = self.server.page(after, limit).await?;
            permit.forget();
            Ok(page)
        })
    }

    fn tail(&self, after: Position, wait: Duration) -> BoxFuture<'_, Result<Vec<TailItem>, FeedError>> {
        Box::pin(async move {
            while self.tail_held.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            // Short, so that a hold takes effect at the next read.
            let items = self.server.tail(after, wait.min(Duration::from_millis(20))).await;
            while self.tail_held.load(Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            items
        })
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
        Box::pin(async move {
            self.cut_off()?;
            self.server.publish(epoch, floor, rows).await
        })
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
