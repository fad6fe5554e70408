//! Uses of emergency tokens: each is recorded before it is answered, or there is none.
//!
//! The record is a line in the log stream, of one form whatever form and level the log has, and with a feed also a place in a
//! bounded queue, from which uses go to whoever keeps the audit. Where the line can't be written or the queue is full, the
//! answer is a refusal. Nothing here waits: a verdict asks nobody anything.

use std::{
    fmt,
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use countersign_core::check::{EmergencyUse, NoRoom, Witness};
use countersign_feed::{EMERGENCY_USED, FeedServer, ReportedUse};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How many uses may wait for the feed server: beyond that no emergency token is accepted.
const MAX_WAITING: usize = 4096;

/// How many go to the server at a time.
const PAGE: usize = 100;

/// The first wait after a failure, and the longest.
const BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// How long an end waits for the last of them to be taken.
const LAST_WORD: Duration = Duration::from_secs(2);

/// The target of the lines, by which log shippers find them.
const TARGET: &str = "countersign::audit";

type Write = dyn Fn(&str) -> io::Result<()> + Send + Sync;

/// Where a line of the audit is written: the process's standard error, unless a program says otherwise.
#[derive(Clone)]
pub struct AuditLog(Arc<Write>);

impl AuditLog {
    /// One that hands each line, without its end, to `write`, which says whether it was written.
    pub fn new(write: impl Fn(&str) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(write))
    }
}

impl Default for AuditLog {
    fn default() -> Self {
        Self::new(|line| io::stderr().lock().write_all(format!("{line}\n").as_bytes()))
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditLog")
    }
}

/// The witness of a verifier.
#[derive(Debug)]
pub(crate) struct Uses {
    verifier: String,
    log: AuditLog,
    metrics: Arc<Metrics>,
    /// Absent without a feed: then the log is all there is.
    waiting: Option<mpsc::Sender<ReportedUse>>,
}

/// Uses on their way to a feed server.
pub(crate) struct Reporting {
    server: Arc<dyn FeedServer>,
    waiting: mpsc::Receiver<ReportedUse>,
}

impl Uses {
    /// The witness of a verifier that follows no feed.
    pub(crate) fn logged(verifier: String, log: AuditLog, metrics: Arc<Metrics>) -> Self {
        Self { verifier, log, metrics, waiting: None }
    }

    /// The witness of a verifier that follows `server`, and what hands on what it records.
    pub(crate) fn reported(
        verifier: String,
        log: AuditLog,
        metrics: Arc<Metrics>,
        server: Arc<dyn FeedServer>,
    ) -> (Self, Reporting) {
        let (sender, waiting) = mpsc::channel(MAX_WAITING);
        (Self { verifier, log, metrics, waiting: Some(sender) }, Reporting { server, waiting })
    }
}

impl Witness for Uses {
    fn record(&self, used: &EmergencyUse<'_>) -> Result<(), NoRoom> {
        let place = match &self.waiting {
            Some(waiting) => Some(waiting.try_reserve().map_err(|_| NoRoom)?),
            None => None,
        };
        let mut random = [0; 16];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| NoRoom)?;
        let used = ReportedUse::new(format!("{:032x}", u128::from_be_bytes(random)), &self.verifier, used);
        let line = Line {
            timestamp: used.at.to_string(),
            level: "WARN",
            target: TARGET,
            event_type: EMERGENCY_USED,
            severity: "CRITICAL",
            used: &used,
        };
        let line = serde_json::to_string(&line).map_err(|_| NoRoom)?;
        (self.log.0)(&line).map_err(|_| NoRoom)?;
        self.metrics.emergency_used(&used.policy);
        if let Some(place) = place {
            place.send(used);
        }
        Ok(())
    }
}

#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'static str,
    target: &'static str,
    event_type: &'static str,
    severity: &'static str,
    #[serde(flatten)]
    used: &'a ReportedUse,
}

impl Reporting {
    /// Hands on what is recorded until `stop`, and then what is left.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::new();
        let mut failures: u32 = 0;
        loop {
            if batch.is_empty() {
                let received = tokio::select! {
                    received = self.waiting.recv_many(&mut batch, PAGE) => received,
                    () = stop.cancelled() => break,
                };
                if received == 0 {
                    return;
                }
            }
            match self.server.report_uses(&batch).await {
                Ok(()) => {
                    batch.clear();
                    failures = 0;
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(
                            %error, most = MAX_WAITING,
                            "uses of emergency tokens wait to be told to the audit; with too many no such token is accepted"
                        );
                    }
                    let backoff = BACKOFF.saturating_mul(1 << failures.min(6)).min(MAX_BACKOFF);
                    failures = failures.saturating_add(1);
                    tokio::select! {
                        () = tokio::time::sleep(backoff) => {}
                        () = stop.cancelled() => break,
                    }
                }
            }
        }
        while let Ok(used) = self.waiting.try_recv() {
            batch.push(used);
        }
        if batch.is_empty() {
            return;
        }
        let told = tokio::time::timeout(LAST_WORD, self.server.report_uses(&batch)).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::warn!(
                uses = batch.len(),
                "uses of emergency tokens are in this log alone: the feed server did not take them"
            );
        }
    }
}
