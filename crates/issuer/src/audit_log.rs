//! The audit log: sealed events as lines of JSON, on standard output or in a file, for log shippers.
//!
//! Each line is an event as `countersign audit list --jsonl` shows it, and each policy's come in the order of its chain. Of
//! several issuers on one database one writes at a time; it notes in the database how far it has come, after the lines are
//! written (and a file's are on disk). So whoever is killed in between has some written again, and none is left out.
//!
//! It works beside everything else: a target that takes nothing holds up neither the sealer nor anybody's login. What it
//! doesn't take waits in the database, whatever the retention.

mod target;

use std::{
    io,
    path::PathBuf,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use countersign_store::{Logged, Store, StoreError, Unlogged};
use tokio::{sync::watch, time::sleep};
use tokio_util::sync::CancellationToken;

use self::target::{Thread, Written};
use crate::public::audit::shown;

/// Events that are written at a time.
const BATCH: usize = 500;
/// How long a process that writes keeps others from it, unless it goes on writing, milliseconds.
const HOLD_MS: i64 = 10_000;
/// How often is looked for what other issuers sealed, or left.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After so long a write that hasn't ended is told of, and counted as one that failed.
const STUCK: Duration = Duration::from_secs(10);
/// The first wait after a failure, and the longest.
const BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// How long the end of the process waits for what was sealed last.
const LAST_WORD: Duration = Duration::from_secs(3);

/// Where the audit log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditLog {
    /// The process's standard output.
    Stdout,
    /// The end of a file, which is made when it isn't there, and opened anew when it was renamed or removed.
    File(PathBuf),
}

/// Why a text doesn't say where the audit log goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit log goes to stdout, or to a file: name one, not a directory")]
pub struct InvalidAuditLog;

impl FromStr for AuditLog {
    type Err = InvalidAuditLog;

    fn from_str(text: &str) -> Result<Self, InvalidAuditLog> {
        match text {
            "stdout" => Ok(Self::Stdout),
            "" => Err(InvalidAuditLog),
            path if path.ends_with('/') => Err(InvalidAuditLog),
            path => Ok(Self::File(path.into())),
        }
    }
}

/// What came of writing it, since the process began.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    written: AtomicU64,
    failures: AtomicU64,
}

impl Counts {
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }
}

/// Why what is sealed is not in the log yet.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the target: {0}")]
    Target(#[source] io::Error),
}

/// Writes what is sealed until the sealer is gone, which shows `sealed` whenever it has sealed something; and at `stop` not for
/// much longer.
pub(crate) async fn keep(
    log: AuditLog,
    store: Arc<Store>,
    counts: Arc<Counts>,
    mut sealed: watch::Receiver<()>,
    stop: CancellationToken,
) {
    let holder = uuid::Uuid::now_v7().to_string();
    let mut writer = Writer { thread: Thread::of(log), store: store.clone(), counts, holder: holder.clone() };
    let last_word = async {
        stop.cancelled().await;
        sleep(LAST_WORD).await;
    };
    tokio::select! {
        () = writer.follow(&mut sealed) => {}
        () = last_word => tracing::warn!("the audit log did not take all in time; the rest is written later"),
    }
    if let Err(error) = store.release_audit_log(&holder).await {
        tracing::debug!(%error, "others write the audit log only after a while");
    }
}

/// Lines of events, and where each ends.
#[derive(Default)]
struct Batch {
    text: String,
    steps: Vec<Step>,
}

/// A part of a batch that, once the text is written up to `end`, brings the log of a policy further.
struct Step {
    reached: Logged,
    end: usize,
    events: u64,
}

struct Writer {
    thread: Thread,
    store: Arc<Store>,
    counts: Arc<Counts>,
    holder: String,
}

impl Writer {
    async fn follow(&mut self, sealed: &mut watch::Receiver<()>) {
        let mut failures: u32 = 0;
        let mut over = false;
        while !over {
            over = tokio::select! {
                () = next(sealed, failures == 0) => sealed.has_changed().is_err(),
                () = sleep(pause(failures)) => false,
            };
            match self.write_all().await {
                Ok(()) if failures > 0 => {
                    tracing::info!("the audit log is written again");
                    failures = 0;
                }
                Ok(()) => {}
                Err(error) => {
                    self.counts.failures.fetch_add(1, Relaxed);
                    if failures == 0 {
                        tracing::warn!(log = %self.thread, %error, "the audit log can't be written; events wait, and it is tried again");
                    }
                    failures = failures.saturating_add(1);
                    // Another issuer's target may be better.
                    if let Err(error) = self.store.release_audit_log(&self.holder).await {
                        tracing::debug!(%error, "others write the audit log only after a while");
                    }
                }
            }
        }
    }

    /// Writes all that is sealed, unless somebody else does.
    async fn write_all(&mut self) -> Result<(), WriteError> {
        if self.store.unlogged_audit().await?.is_empty() || !self.store.hold_audit_log(&self.holder, HOLD_MS).await? {
            return Ok(());
        }
        loop {
            // Read by whoever holds it: what is read before may have been written by somebody else since.
            let batch = self.batch(&self.store.unlogged_audit().await?).await?;
            if batch.steps.is_empty() || !self.write(batch).await? {
                return Ok(());
            }
        }
    }

    /// The next events of each policy that has any.
    async fn batch(&self, unlogged: &[Unlogged]) -> Result<Batch, WriteError> {
        let mut batch = Batch::default();
        let mut left = BATCH;
        for Unlogged { policy, logged, sealed } in unlogged {
            if left == 0 {
                break;
            }
            let events = self.store.sealed_audit(policy, *logged, u32::try_from(left).unwrap_or(u32::MAX)).await?;
            left -= events.len().min(left);
            let mut after = *logged;
            for kept in &events {
                let Some(link) = kept.link else { continue };
                gap(policy, after, link.place - 1);
                batch.text.push_str(&shown(kept).to_string());
                batch.text.push('\n');
                batch.reached(Logged { policy: policy.clone(), after, to: link.place }, 1);
                after = link.place;
            }
            if events.is_empty() {
                gap(policy, after, *sealed);
                batch.reached(Logged { policy: policy.clone(), after, to: *sealed }, 0);
            }
        }
        Ok(batch)
    }

    /// Writes a batch, and notes as much of it as was written. False: somebody else holds the log by now.
    async fn write(&mut self, batch: Batch) -> Result<bool, WriteError> {
        let Batch { text, steps } = batch;
        let writing = self.thread.write(text);
        tokio::pin!(writing);
        let Written { bytes, failed } = loop {
            tokio::select! {
                written = &mut writing => break written,
                () = sleep(STUCK) => {
                    self.counts.failures.fetch_add(1, Relaxed);
                    tracing::warn!("the audit log's target has taken nothing for {} seconds; events wait", STUCK.as_secs());
                }
            }
        };
        let written: Vec<Step> = steps.into_iter().take_while(|step| step.end <= bytes).collect();
        let held = written.is_empty() || self.store.audit_logged(&self.holder, &merged(&written), HOLD_MS).await?;
        self.counts.written.fetch_add(written.iter().map(|step| step.events).sum(), Relaxed);
        match failed {
            Some(error) => Err(WriteError::Target(error)),
            None => Ok(held),
        }
    }
}

impl Batch {
    fn reached(&mut self, reached: Logged, events: u64) {
        self.steps.push(Step { reached, end: self.text.len(), events });
    }
}

/// Returns when something was sealed, if that is waited for, and when nothing will be any more.
async fn next(sealed: &mut watch::Receiver<()>, awaited: bool) {
    while sealed.changed().await.is_ok() && !awaited {}
}

fn pause(failures: u32) -> Duration {
    match failures {
        0 => LOOK_EVERY,
        _ => BACKOFF.saturating_mul(1 << (failures - 1).min(5)).min(MAX_BACKOFF),
    }
}

/// Events may have left before they were written, where there was no log at that time.
fn gap(policy: &countersign_core::names::PolicyName, after: i64, before: i64) {
    if before > after {
        tracing::warn!(%policy, first = after + 1, last = before, "events left the audit trail before they were in the audit log");
    }
}

/// One for each policy: a batch has its events together.
fn merged(steps: &[Step]) -> Vec<Logged> {
    let mut merged: Vec<Logged> = Vec::new();
    for Step { reached, .. } in steps {
        match merged.last_mut().filter(|last| last.policy == reached.policy) {
            Some(last) => last.to = reached.to,
            None => merged.push(reached.clone()),
        }
    }
    merged
}

#[cfg(test)]
mod tests;
