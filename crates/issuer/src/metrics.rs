//! What the issuer counts of people's calls.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use countersign_store::Severity;
use countersign_telemetry::Exposition;

use crate::{
    health::{
        ACTIVE_SESSIONS, AUDIT_EVENTS, AUDIT_LOG_EVENTS, AUDIT_LOG_FAILURES, AUDIT_LOG_WAITING, CHALLENGES,
        LIMITS_FALLBACKS, LIMITS_REDIS_AWAY, LOGIN_ATTEMPTS, LOGIN_FAILURES, MAILS, REFRESH_DURATION, SMS,
    },
    serving::Parts,
};

/// Upper bounds of the histogram, in microseconds and as they are told.
const BOUNDS: [(u64, &str); 8] = [
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (100_000, "0.1"),
    (500_000, "0.5"),
    (2_500_000, "2.5"),
];

/// How a login went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Login {
    /// There is a session.
    Success,
    /// Something that was shown was wrong.
    Failure,
    /// It wasn't let try, or the account is closed.
    Refused,
}

/// Counts since the process began.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    succeeded: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    challenges: AtomicU64,
    warnings: AtomicU64,
    criticals: AtomicU64,
    refresh_at_most: [AtomicU64; BOUNDS.len()],
    refreshes: AtomicU64,
    refresh_us: AtomicU64,
}

impl Metrics {
    /// A login came to an end.
    pub(crate) fn login(&self, login: Login) {
        let counter = match login {
            Login::Success => &self.succeeded,
            Login::Failure => &self.failed,
            Login::Refused => &self.refused,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// A login was asked for a code.
    pub(crate) fn challenged(&self) {
        self.challenges.fetch_add(1, Relaxed);
    }

    /// An audit event was written; those that tell of nothing wrong are not counted.
    pub(crate) fn audited(&self, severity: Severity) {
        match severity {
            Severity::Info => {}
            Severity::Warning => drop(self.warnings.fetch_add(1, Relaxed)),
            Severity::Critical => drop(self.criticals.fetch_add(1, Relaxed)),
        }
    }

    /// A refresh took so long.
    pub(crate) fn refreshed(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        for ((bound, _), counter) in BOUNDS.iter().zip(&self.refresh_at_most) {
            if us <= *bound {
                counter.fetch_add(1, Relaxed);
            }
        }
        self.refresh_us.fetch_add(us, Relaxed);
        self.refreshes.fetch_add(1, Relaxed);
    }
}

/// Tells them all.
pub(crate) async fn tell(parts: &Parts, text: &mut Exposition) {
    let Metrics { succeeded, failed, refused, challenges, warnings, criticals, refresh_at_most, refreshes, refresh_us } =
        &parts.metrics;
    let read = |counter: &AtomicU64| counter.load(Relaxed);
    let mut attempts = text.family(&LOGIN_ATTEMPTS);
    for (result, counter) in [("success", succeeded), ("failure", failed), ("refused", refused)] {
        attempts.add(&[("result", result)], read(counter));
    }
    text.single(&LOGIN_FAILURES, read(failed));
    text.single(&CHALLENGES, read(challenges));
    let mut audited = text.family(&AUDIT_EVENTS);
    for (severity, counter) in [("warning", warnings), ("critical", criticals)] {
        audited.add(&[("severity", severity)], read(counter));
    }
    active_sessions(parts, text).await;
    // The count is read first: a bucket never holds more than there were.
    let count = read(refreshes);
    let at_most = BOUNDS.iter().zip(refresh_at_most).map(|((_, shown), counter)| (*shown, read(counter).min(count)));
    let sum = Duration::from_micros(read(refresh_us)).as_secs_f64();
    text.family(&REFRESH_DURATION).add_histogram(at_most, sum, count);
    let mails = parts.mailer.counts();
    let mut told = text.family(&MAILS);
    for (result, number) in [("sent", mails.sent), ("failed", mails.failed), ("dropped", mails.dropped)] {
        told.add(&[("result", result)], number);
    }
    let messages = parts.sms.counts();
    let mut told = text.family(&SMS);
    for (result, number) in [("sent", messages.sent), ("failed", messages.failed), ("dropped", messages.dropped)] {
        told.add(&[("result", result)], number);
    }
    text.single(&LIMITS_FALLBACKS, parts.limits.fallbacks());
    text.single(&LIMITS_REDIS_AWAY, u8::from(parts.limits.redis_away()));
    if parts.audit_log.is_some() {
        text.single(&AUDIT_LOG_EVENTS, parts.audit_log_counts.written());
        text.single(&AUDIT_LOG_FAILURES, parts.audit_log_counts.failures());
        // Nothing is told while the store is out of reach: a zero would look like all's being written.
        if let Ok(waiting) = parts.store.unlogged_events().await {
            text.single(&AUDIT_LOG_WAITING, waiting);
        }
    }
}

/// Nothing is told while the store is out of reach: a zero would look like everybody's having left.
async fn active_sessions(parts: &Parts, text: &mut Exposition) {
    let policies = parts.policies.load();
    let Ok(now) = parts.store.database_now().await else { return };
    let mut told = text.family(&ACTIVE_SESSIONS);
    for policy in policies.by_name.values().filter(|policy| policy.login.is_some()) {
        if let Ok(live) = parts.store.live_sessions(&policy.name, now).await {
            told.add(&[("policy", policy.name.as_str())], live);
        }
    }
}
