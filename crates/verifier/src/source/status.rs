//! How it stands with the source of policies, for whoever looks: no verdict depends on it.

use std::collections::BTreeMap;

use countersign_feed::Clock;
use countersign_telemetry::Exposition;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};

use super::jwks::Target;
use crate::metrics;

/// What `/readyz` and `/metrics` tell of the source.
#[derive(Debug, Default)]
pub(crate) struct SourceStatus(Mutex<Status>);

/// A trusted issuer's key set that was not fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeySetProblem {
    /// The policy.
    pub policy: String,
    /// The name of its entry.
    pub issuer: String,
    /// Where the set should come from.
    pub from: String,
    /// Whether an earlier set is used. Without one, nothing of this issuer can be verified: `not_ready`.
    pub last_good_kept: bool,
    /// Why it was not fetched.
    pub problem: String,
}

#[derive(Debug, Default)]
struct Status {
    key_sets: BTreeMap<Target, Vec<KeySetProblem>>,
    kind: Option<&'static str>,
    problem: Option<String>,
    trust_problem: Option<String>,
    watch: Option<Watch>,
    restarts: BTreeMap<&'static str, u64>,
    lists: u64,
}

/// Where an ordered watch stands.
#[derive(Debug)]
struct Watch {
    history: String,
    version: u64,
    /// When the source last said where it stands, by [`Clock::boot_millis`].
    told_at: i64,
}

impl SourceStatus {
    pub(crate) fn is_directory(&self) {
        self.0.lock().kind = Some("directory");
    }

    pub(crate) fn is_kubernetes(&self) {
        self.0.lock().kind = Some("kubernetes");
    }

    /// The source can't be read. True when that, or what is wrong, is new.
    pub(crate) fn troubled(&self, problem: &str) -> bool {
        let mut status = self.0.lock();
        let new = status.problem.as_deref() != Some(problem);
        status.problem = Some(problem.to_owned());
        new
    }

    /// The source can be read. True when that is new.
    pub(crate) fn mended(&self) -> bool {
        self.0.lock().problem.take().is_some()
    }

    pub(crate) fn trust(&self, problem: Option<&str>) {
        self.0.lock().trust_problem = problem.map(str::to_owned);
    }

    /// Everything up to here is in force.
    pub(crate) fn reached(&self, history: &str, version: u64) {
        self.0.lock().watch = Some(Watch { history: history.to_owned(), version, told_at: Clock::boot_millis() });
    }

    /// A watch ended, for a reason of a fixed set.
    pub(crate) fn watch_ended(&self, reason: &'static str) {
        *self.0.lock().restarts.entry(reason).or_default() += 1;
    }

    /// A key set was not fetched, to the cost of these.
    pub(crate) fn key_set_failed(&self, target: Target, problems: Vec<KeySetProblem>) {
        self.0.lock().key_sets.insert(target, problems);
    }

    /// A key set was fetched.
    pub(crate) fn key_set_fetched(&self, target: &Target) {
        self.0.lock().key_sets.remove(target);
    }

    /// Only these are still wanted.
    pub(crate) fn key_sets_wanted(&self, wanted: impl Fn(&Target) -> bool) {
        self.0.lock().key_sets.retain(|target, _| wanted(target));
    }

    /// The key sets that are not there, or not the present ones.
    pub(crate) fn key_set_problems(&self) -> Vec<KeySetProblem> {
        self.0.lock().key_sets.values().flatten().cloned().collect()
    }

    /// Everything was listed.
    pub(crate) fn listed(&self) {
        self.0.lock().lists += 1;
    }

    /// The member `source` of `/readyz`.
    pub(crate) fn describe(&self) -> Value {
        let status = self.0.lock();
        let key_sets: Vec<&KeySetProblem> = status.key_sets.values().flatten().collect();
        let mut all = json!({ "kind": status.kind, "problem": status.problem, "key_set_problems": key_sets });
        if status.kind == Some("kubernetes") {
            let watch = status.watch.as_ref();
            all["trust_problem"] = json!(status.trust_problem);
            all["history"] = json!(watch.map(|w| &w.history));
            all["resource_version"] = json!(watch.map(|w| w.version.to_string()));
            all["told_ms"] = json!(watch.map(Watch::told_ms));
        }
        all
    }

    /// Adds to the text of `/metrics`.
    pub(crate) fn write_metrics(&self, out: &mut Exposition, confirmed_ms: Option<i64>) {
        let mut confirmed = out.family(&metrics::SOURCE_CONFIRMED_AGE);
        if let Some(ms) = confirmed_ms {
            confirmed.add(&[], seconds(ms));
        }
        let status = self.0.lock();
        let mut not_fetched = out.family(&metrics::KEY_SETS_NOT_FETCHED);
        for (state, kept) in [("kept", true), ("missing", false)] {
            let number = status.key_sets.values().flatten().filter(|problem| problem.last_good_kept == kept).count();
            not_fetched.add(&[("state", state)], number);
        }
        if status.kind != Some("kubernetes") {
            return;
        }
        let mut position = out.family(&metrics::SOURCE_POSITION_AGE);
        if let Some(watch) = &status.watch {
            position.add(&[], seconds(watch.told_ms()));
        }
        out.single(&metrics::SOURCE_LISTS, status.lists);
        let mut restarts = out.family(&metrics::SOURCE_WATCH_RESTARTS);
        for (reason, n) in &status.restarts {
            restarts.add(&[("reason", reason)], n);
        }
    }
}

impl Watch {
    fn told_ms(&self) -> i64 {
        Clock::boot_millis().saturating_sub(self.told_at)
    }
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms / 1000, (ms % 1000).abs())
}
