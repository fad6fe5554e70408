//! What is counted, and how it is told (Prometheus text format 0.0.4).
//!
//! Counters of the hot path are kept once per thread group, so that cores don't pass a cache line back and forth.

use std::{
    cell::Cell,
    collections::BTreeMap,
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
use countersign_telemetry::{Exposition, Family, families};
use parking_lot::Mutex;

families! {
    pub METRICS;
    VERDICTS = Counter "countersign_verify_total" ["policy", "verdict"] "Verdicts.";
    CACHE_HITS = Counter "countersign_verify_cache_hits_total" [] "Verdicts on credentials whose proof was remembered.";
    VERIFY_DURATION = Histogram "countersign_verify_duration_seconds" []
        "Time to a verdict, network aside; cached ones sampled.";
    REVOCATION_LAG = Histogram "countersign_revocation_lag_seconds" []
        "From the feed server's taking a revocation to its being in force here.";
    EMERGENCY_USES = Counter "countersign_emergency_uses_total" ["policy"]
        "Verdicts `valid` on emergency tokens, each of them recorded.";
    SESSION_ACTIVITY = Counter "countersign_session_activity_total" ["result"]
        "Sessions that were seen, once a minute each, or more often where tokens live shorter: `reported` to whoever keeps them; `dropped`, for want of room.";
    FEED_AGE = Gauge "countersign_feed_age_seconds" []
        "How long ago all revocations were known to be held; never: +Inf.";
    FEED_FRESH = Gauge "countersign_feed_fresh" [] "Whether all revocations are known to be held.";
    FEED_RESYNCS = Counter "countersign_feed_resyncs_total" [] "Times the live set was read again.";
    WRITER_SEEN = Gauge "countersign_feed_writer_seen_seconds" [] "How long ago a writer was seen; absent: never.";
    CLOCK_DIFFERENCE = Gauge "countersign_clock_difference_seconds" []
        "This machine's clock less the feed server's; absent: not known.";
    CONNECTIONS = Gauge "countersign_connections" [] "Open connections.";
    CONNECTIONS_REFUSED = Counter "countersign_connections_refused_total" [] "Connections refused at the limit.";
    POLICIES = Gauge "countersign_policies" [] "Policies served.";
    BUILD_INFO = Gauge "countersign_build_info" ["version"] "The version that runs.";
    REVOCATION_ENTRIES = Gauge "countersign_revocation_entries" ["policy"] "Revocations held.";
    BUNDLE_GENERATION = Gauge "countersign_bundle_generation" ["policy"] "The generation of the bundle that is served.";
    BUNDLE_REFUSED = Counter "countersign_bundle_refused_total" ["reason"] "Bundles that were not put in place.";
    JWKS_FETCHES = Counter "countersign_jwks_fetches_total" ["result"] "Fetches of trusted issuers' key sets.";
    OVER_BUDGET = Counter "countersign_verify_over_budget_total" [] "Uncached verifications beyond a caller's budget.";
    HEADERS_IGNORED = Counter "countersign_forwarded_headers_ignored_total" []
        "Requests with proxies' headers from peers that are not trusted proxies.";
    BAD_REQUESTS = Counter "countersign_bad_requests_total" [] "Requests that were themselves wrong.";
    pub(crate) SOURCE_CONFIRMED_AGE = Gauge "countersign_source_confirmed_age_seconds" []
        "Since policies were last known to be what the source says; absent: never.";
    pub(crate) KEY_SETS_NOT_FETCHED = Gauge "countersign_key_sets_not_fetched" ["state"]
        "Trusted issuers' key sets that the last attempt did not bring; `kept`: an earlier one is used.";
    pub(crate) SOURCE_POSITION_AGE = Gauge "countersign_source_position_age_seconds" []
        "In a cluster: since the API server last said up to where policies are applied; absent: never.";
    pub(crate) SOURCE_LISTS = Counter "countersign_source_lists_total" [] "In a cluster: times that all bundles were listed.";
    pub(crate) SOURCE_WATCH_RESTARTS = Counter "countersign_source_watch_restarts_total" ["reason"]
        "In a cluster: watches that ended; `ended` is ordinary.";
}

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

    fn write(&self, out: &mut Exposition, family: &Family) {
        let column = |i: usize| self.0.iter().map(|row| row.0[i].load(Relaxed)).sum::<u64>();
        let mut below = 0;
        let at_most: Vec<(String, u64)> = BOUNDS_US
            .iter()
            .enumerate()
            .map(|(i, bound)| {
                below += column(i);
                (seconds(*bound * 1000), below)
            })
            .collect();
        let all = below + column(BOUNDS_US.len());
        out.family(family).add_histogram(at_most, seconds(column(Self::SUM_NANOS)), all);
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
    /// Sessions that were seen and told, and those that were not.
    pub(crate) activity_reported: AtomicU64,
    pub(crate) activity_dropped: AtomicU64,
    bundle_refusals: Mutex<BTreeMap<&'static str, u64>>,
    jwks_fetches: Mutex<BTreeMap<&'static str, u64>>,
    emergency_uses: Mutex<BTreeMap<PolicyName, u64>>,
}

impl Metrics {
    /// The counters of a policy, made at its first appearance.
    pub(crate) fn of(&self, policy: &PolicyName) -> Arc<VerdictCounters> {
        self.policies.lock().entry(policy.clone()).or_default().clone()
    }

    /// A policy is gone.
    pub(crate) fn forget(&self, policy: &PolicyName) {
        self.policies.lock().remove(policy);
        self.emergency_uses.lock().remove(policy);
    }

    /// The use of an emergency token was recorded.
    pub(crate) fn emergency_used(&self, policy: &PolicyName) {
        *self.emergency_uses.lock().entry(policy.clone()).or_default() += 1;
    }

    /// A bundle was refused, for a reason of a fixed set.
    pub(crate) fn bundle_refused(&self, reason: &'static str) {
        *self.bundle_refusals.lock().entry(reason).or_default() += 1;
    }

    /// A foreign key set was fetched; `result` is of a fixed set.
    pub(crate) fn jwks_fetched(&self, result: &'static str) {
        *self.jwks_fetches.lock().entry(result).or_default() += 1;
    }

    /// What `/metrics` says of verdicts, of the feed and of connections.
    pub(crate) fn render(&self, view: &Gauges, by_policy: bool) -> Exposition {
        let mut out = Exposition::with_capacity(8192);
        self.write_verdicts(&mut out, by_policy);
        self.durations.write(&mut out, &VERIFY_DURATION);
        self.revocation_lag.write(&mut out, &REVOCATION_LAG);
        view.write(&mut out, by_policy);
        for (family, label, counts) in
            [(BUNDLE_REFUSED, "reason", &self.bundle_refusals), (JWKS_FETCHES, "result", &self.jwks_fetches)]
        {
            let counts = counts.lock().clone();
            let mut samples = out.family(&family);
            for (value, n) in counts {
                samples.add(&[(label, value)], n);
            }
        }
        let uses = self.emergency_uses.lock().clone();
        let mut samples = out.family(&EMERGENCY_USES);
        if by_policy {
            for (policy, n) in &uses {
                samples.add(&[("policy", policy.as_str())], n);
            }
        } else {
            samples.add(&[], uses.values().sum::<u64>());
        }
        let mut activity = out.family(&SESSION_ACTIVITY);
        for (result, n) in [("reported", &self.activity_reported), ("dropped", &self.activity_dropped)] {
            activity.add(&[("result", result)], n.load(Relaxed));
        }
        for (family, n) in
            [(OVER_BUDGET, &self.over_budget), (HEADERS_IGNORED, &self.ignored_headers), (BAD_REQUESTS, &self.bad_requests)]
        {
            out.single(&family, n.load(Relaxed));
        }
        out
    }

    fn write_verdicts(&self, out: &mut Exposition, by_policy: bool) {
        let policies: Vec<_> = self.policies.lock().iter().map(|(name, c)| (name.clone(), c.clone())).collect();
        let mut verdicts = out.family(&VERDICTS);
        if by_policy {
            for (policy, counters) in &policies {
                for (column, word) in WORDS.iter().enumerate() {
                    let n = counters.sum(column);
                    if n > 0 || column == 0 {
                        verdicts.add(&[("policy", policy.as_str()), ("verdict", word)], n);
                    }
                }
            }
        } else {
            for (column, word) in WORDS.iter().enumerate() {
                let n: u64 = policies.iter().map(|(_, c)| c.sum(column)).sum();
                verdicts.add(&[("verdict", word)], n);
            }
        }
        let hits: u64 = policies.iter().map(|(_, c)| c.sum(HITS)).sum();
        out.single(&CACHE_HITS, hits);
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
    fn write(&self, out: &mut Exposition, by_policy: bool) {
        // Never reached: an age beyond every bound, so that no alert on it can sleep.
        let age = self.feed_age_ms.map_or_else(|| "+Inf".to_owned(), |ms| seconds(ms.saturating_mul(1_000_000)));
        out.single(&FEED_AGE, age);
        out.single(&FEED_FRESH, u8::from(self.feed_fresh));
        out.single(&FEED_RESYNCS, self.feed_resyncs);
        if let Some(ms) = self.writer_seen_ms {
            out.single(&WRITER_SEEN, seconds(ms.saturating_mul(1_000_000)));
        }
        if let Some(ms) = self.clock_difference_ms {
            let sign = if ms < 0 { "-" } else { "" };
            let value = format!("{sign}{}", seconds(ms.unsigned_abs().saturating_mul(1_000_000)));
            out.single(&CLOCK_DIFFERENCE, value);
        }
        out.single(&CONNECTIONS, self.connections);
        out.single(&CONNECTIONS_REFUSED, self.connections_refused);
        out.single(&POLICIES, self.generations.len());
        out.family(&BUILD_INFO).add(&[("version", env!("CARGO_PKG_VERSION"))], 1);
        let mut entries = out.family(&REVOCATION_ENTRIES);
        if by_policy {
            for (policy, n) in &self.entries {
                entries.add(&[("policy", policy.as_str())], n);
            }
            let mut generations = out.family(&BUNDLE_GENERATION);
            for (policy, generation) in &self.generations {
                generations.add(&[("policy", policy.as_str())], generation);
            }
        } else {
            entries.add(&[], self.entries.iter().map(|(_, n)| n).sum::<usize>());
        }
    }
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
        let text = metrics.render(&Gauges::default(), true).into_text();
        assert!(text.contains("countersign_verify_total{policy=\"a/b\",verdict=\"expired\"} 1\n"), "{text}");
        assert!(text.contains("countersign_verify_cache_hits_total 2\n"));
        assert!(text.contains("countersign_verify_duration_seconds_bucket{le=\"0.000002\"} 0\n"));
        assert!(text.contains("countersign_verify_duration_seconds_bucket{le=\"0.000005\"} 16\n"));
        assert!(text.contains("countersign_feed_age_seconds +Inf\n"));
        let together = metrics.render(&Gauges::default(), false).into_text();
        assert!(together.contains("countersign_verify_total{verdict=\"expired\"} 2\n"));
        assert!(!together.contains("policy="));
        metrics.forget(&"a/a".parse().unwrap());
        assert!(!metrics.render(&Gauges::default(), true).into_text().contains("a/a"));
    }

    #[test]
    fn the_reference_says_what_there_is() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/metrics.md");
        let page = std::fs::read_to_string(&path).unwrap();
        let wanted = countersign_telemetry::reference::rewritten(&page, "verifier", METRICS).unwrap();
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        } else {
            assert!(page == wanted, "docs/reference/metrics.md is out of date; run: cargo xtask drift --write");
        }
    }
}
