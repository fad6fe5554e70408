//! What is counted, and how it is told (Prometheus text format 0.0.4).
//!
//! Counters of the hot path are kept once per thread group, so that cores don't pass a cache line back and forth.

use std::{
    cell::Cell,
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use countersign_core::{
    names::PolicyName,
    verdict::{Refusal, WORDS},
};
use parking_lot::Mutex;

/// Groups of threads; more threads than this share.
const SHARDS: usize = 8;

/// One in this many cached verdicts is timed, and counts for as many.
const SAMPLE: u64 = 16;

/// Upper bounds of the duration histograms, microseconds.
const BOUNDS_US: [u64; 18] =
    [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000, 2_000_000];

fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Relaxed) % SHARDS;
    }
    MINE.with(|mine| *mine)
}

/// True for one call in [`SAMPLE`].
pub(crate) fn sampled() -> bool {
    thread_local! {
        static CALLS: Cell<u64> = const { Cell::new(0) };
    }
    CALLS.with(|calls| {
        let n = calls.get().wrapping_add(1);
        calls.set(n);
        n % SAMPLE == 0
    })
}

/// A 64-byte-aligned row per thread group.
#[derive(Debug)]
#[repr(align(64))]
struct Row<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Row<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

/// Verdicts of one policy. Survives its edits.
#[derive(Debug, Default)]
pub(crate) struct VerdictCounters([Row<16>; SHARDS]);

/// Where cache hits stand in a row, after the verdicts.
const HITS: usize = WORDS.len();

impl VerdictCounters {
    pub(crate) fn verdict(&self, refusal: Option<&Refusal>, hit: bool) {
        let row = &self.0[shard()].0;
        row[refusal.map_or(0, Refusal::index)].fetch_add(1, Relaxed);
        if hit {
            row[HITS].fetch_add(1, Relaxed);
        }
    }

    fn sum(&self, column: usize) -> u64 {
        self.0.iter().map(|row| row.0[column].load(Relaxed)).sum()
    }
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub(crate) struct Durations([Row<20>; SHARDS]);

impl Durations {
    const SUM_NANOS: usize = BOUNDS_US.len() + 1;

    pub(crate) fn observe(&self, took: Duration, times: u64) {
        let row = &self.0[shard()].0;
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| bound * 1000 < nanos);
        row[bucket].fetch_add(times, Relaxed);
        row[Self::SUM_NANOS].fetch_add(nanos.saturating_mul(times), Relaxed);
    }

    /// A sampled observation stands for all that were not.
    pub(crate) fn observe_sampled(&self, took: Duration) {
        self.observe(took, SAMPLE);
    }

    fn write(&self, out: &mut String, name: &str) {
        let column = |i: usize| self.0.iter().map(|row| row.0[i].load(Relaxed)).sum::<u64>();
        let mut below = 0;
        for (i, bound) in BOUNDS_US.iter().enumerate() {
            below += column(i);
            let _ = writeln!(out, "{name}_bucket{{le=\"{}\"}} {below}", seconds(*bound * 1000));
        }
        below += column(BOUNDS_US.len());
        let _ = writeln!(out, "{name}_bucket{{le=\"+Inf\"}} {below}");
        let _ = writeln!(out, "{name}_sum {}", seconds(column(Self::SUM_NANOS)));
        let _ = writeln!(out, "{name}_count {below}");
    }
}

/// Nanoseconds as seconds, exactly.
fn seconds(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Everything that one verifier counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    policies: Mutex<BTreeMap<PolicyName, Arc<VerdictCounters>>>,
    pub(crate) durations: Durations,
    pub(crate) revocation_lag: Durations,
    /// Uncached verifications beyond a caller's budget.
    pub(crate) over_budget: AtomicU64,
    /// Requests with proxies' headers from peers whose word isn't taken.
    pub(crate) ignored_headers: AtomicU64,
    /// Requests that were themselves wrong.
    pub(crate) bad_requests: AtomicU64,
    bundle_refusals: Mutex<BTreeMap<&'static str, u64>>,
    jwks_fetches: Mutex<BTreeMap<&'static str, u64>>,
}

impl Metrics {
    /// The counters of a policy, made at its first appearance.
    pub(crate) fn of(&self, policy: &PolicyName) -> Arc<VerdictCounters> {
        self.policies.lock().entry(policy.clone()).or_default().clone()
    }

    /// A policy is gone.
    pub(crate) fn forget(&self, policy: &PolicyName) {
        self.policies.lock().remove(policy);
    }

    /// A bundle was refused, for a reason of a fixed set.
    pub(crate) fn bundle_refused(&self, reason: &'static str) {
        *self.bundle_refusals.lock().entry(reason).or_default() += 1;
    }

    /// A foreign key set was fetched; `result` is of a fixed set.
    pub(crate) fn jwks_fetched(&self, result: &'static str) {
        *self.jwks_fetches.lock().entry(result).or_default() += 1;
    }

    /// The text of `/metrics`.
    pub(crate) fn render(&self, view: &Gauges, by_policy: bool) -> String {
        let mut out = String::with_capacity(8192);
        self.write_verdicts(&mut out, by_policy);
        head(
            &mut out,
            "countersign_verify_duration_seconds",
            "histogram",
            "Time to a verdict, network aside; cached ones sampled.",
        );
        self.durations.write(&mut out, "countersign_verify_duration_seconds");
        head(
            &mut out,
            "countersign_revocation_lag_seconds",
            "histogram",
            "From the feed server's taking a revocation to its being in force here.",
        );
        self.revocation_lag.write(&mut out, "countersign_revocation_lag_seconds");
        view.write(&mut out, by_policy);
        let labelled = |out: &mut String, name: &str, help: &str, label: &str, counts: &BTreeMap<&'static str, u64>| {
            head(out, name, "counter", help);
            for (value, n) in counts {
                let _ = writeln!(out, "{name}{{{label}=\"{value}\"}} {n}");
            }
        };
        let refusals = self.bundle_refusals.lock().clone();
        labelled(&mut out, "countersign_bundle_refused_total", "Bundles that were not put in place.", "reason", &refusals);
        let fetches = self.jwks_fetches.lock().clone();
        labelled(&mut out, "countersign_jwks_fetches_total", "Fetches of trusted issuers' key sets.", "result", &fetches);
        for (name, help, n) in [
            ("countersign_verify_over_budget_total", "Uncached verifications beyond a caller's budget.", &self.over_budget),
            (
                "countersign_forwarded_headers_ignored_total",
                "Requests with proxies' headers from peers that are not trusted proxies.",
                &self.ignored_headers,
            ),
            ("countersign_bad_requests_total", "Requests that were themselves wrong.", &self.bad_requests),
        ] {
            head(&mut out, name, "counter", help);
            let _ = writeln!(out, "{name} {}", n.load(Relaxed));
        }
        out
    }

    fn write_verdicts(&self, out: &mut String, by_policy: bool) {
        let policies: Vec<_> = self.policies.lock().iter().map(|(name, c)| (name.clone(), c.clone())).collect();
        head(out, "countersign_verify_total", "counter", "Verdicts.");
        if by_policy {
            for (policy, counters) in &policies {
                for (column, word) in WORDS.iter().enumerate() {
                    let n = counters.sum(column);
                    if n > 0 || column == 0 {
                        let _ = writeln!(out, "countersign_verify_total{{policy=\"{policy}\",verdict=\"{word}\"}} {n}");
                    }
                }
            }
        } else {
            for (column, word) in WORDS.iter().enumerate() {
                let n: u64 = policies.iter().map(|(_, c)| c.sum(column)).sum();
                let _ = writeln!(out, "countersign_verify_total{{verdict=\"{word}\"}} {n}");
            }
        }
        let hits: u64 = policies.iter().map(|(_, c)| c.sum(HITS)).sum();
        head(out, "countersign_verify_cache_hits_total", "counter", "Verdicts on credentials whose proof was remembered.");
        let _ = writeln!(out, "countersign_verify_cache_hits_total {hits}");
    }
}

/// What is read at the moment of asking.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    pub(crate) feed_age_ms: Option<u64>,
    pub(crate) feed_fresh: bool,
    pub(crate) feed_resyncs: u64,
    pub(crate) writer_seen_ms: Option<u64>,
    pub(crate) clock_difference_ms: Option<i64>,
    pub(crate) entries: Vec<(PolicyName, usize)>,
    pub(crate) generations: Vec<(PolicyName, u64)>,
    pub(crate) connections: usize,
    pub(crate) connections_refused: u64,
}

impl Gauges {
    fn write(&self, out: &mut String, by_policy: bool) {
        // Never reached: an age beyond every bound, so that no alert on it can sleep.
        let age = self.feed_age_ms.map_or_else(|| "+Inf".to_owned(), |ms| seconds(ms.saturating_mul(1_000_000)));
        let mut gauge = |name: &str, kind: &str, help: &str, value: &str| {
            head(out, name, kind, help);
            let _ = writeln!(out, "{name} {value}");
        };
        gauge("countersign_feed_age_seconds", "gauge", "How long ago all revocations were known to be held.", &age);
        gauge(
            "countersign_feed_fresh",
            "gauge",
            "Whether all revocations are known to be held.",
            if self.feed_fresh { "1" } else { "0" },
        );
        gauge(
            "countersign_feed_resyncs_total",
            "counter",
            "Times the live set was read again.",
            &self.feed_resyncs.to_string(),
        );
        if let Some(ms) = self.writer_seen_ms {
            gauge(
                "countersign_feed_writer_seen_seconds",
                "gauge",
                "How long ago a writer was seen.",
                &seconds(ms.saturating_mul(1_000_000)),
            );
        }
        if let Some(ms) = self.clock_difference_ms {
            let sign = if ms < 0 { "-" } else { "" };
            let value = format!("{sign}{}", seconds(ms.unsigned_abs().saturating_mul(1_000_000)));
            gauge("countersign_clock_difference_seconds", "gauge", "This machine's clock less the feed server's.", &value);
        }
        gauge("countersign_connections", "gauge", "Open connections.", &self.connections.to_string());
        gauge(
            "countersign_connections_refused_total",
            "counter",
            "Connections refused at the limit.",
            &self.connections_refused.to_string(),
        );
        gauge("countersign_policies", "gauge", "Policies served.", &self.generations.len().to_string());
        head(out, "countersign_build_info", "gauge", "The version that runs.");
        let _ = writeln!(out, "countersign_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"));
        head(out, "countersign_revocation_entries", "gauge", "Revocations held.");
        if by_policy {
            for (policy, n) in &self.entries {
                let _ = writeln!(out, "countersign_revocation_entries{{policy=\"{policy}\"}} {n}");
            }
            head(out, "countersign_bundle_generation", "gauge", "The generation of the bundle that is served.");
            for (policy, generation) in &self.generations {
                let _ = writeln!(out, "countersign_bundle_generation{{policy=\"{policy}\"}} {generation}");
            }
        } else {
            let all: usize = self.entries.iter().map(|(_, n)| n).sum();
            let _ = writeln!(out, "countersign_revocation_entries {all}");
        }
    }
}

pub(crate) fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_told_by_policy_or_together() {
        let metrics = Metrics::default();
        for name in ["a/a", "a/b"] {
            let counters = metrics.of(&name.parse().unwrap());
            counters.verdict(None, true);
            counters.verdict(Some(&Refusal::Expired), false);
        }
        metrics.durations.observe_sampled(Duration::from_micros(3));
        let text = metrics.render(&Gauges::default(), true);
        assert!(text.contains("countersign_verify_total{policy=\"a/b\",verdict=\"expired\"} 1\n"), "{text}");
        assert!(text.contains("countersign_verify_cache_hits_total 2\n"));
        assert!(text.contains("countersign_verify_duration_seconds_bucket{le=\"0.000002\"} 0\n"));
        assert!(text.contains("countersign_verify_duration_seconds_bucket{le=\"0.000005\"} 16\n"));
        assert!(text.contains("countersign_feed_age_seconds +Inf\n"));
        let together = metrics.render(&Gauges::default(), false);
        assert!(together.contains("countersign_verify_total{verdict=\"expired\"} 2\n"));
        assert!(!together.contains("policy="));
        metrics.forget(&"a/a".parse().unwrap());
        assert!(!metrics.render(&Gauges::default(), true).contains("a/a"));
    }
}
