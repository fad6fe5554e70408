//! What was measured, for people and for programs.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::rig::report;

/// The file that figures are written to as JSON, where the caller wants them so.
const REPORT: &str = "COUNTERSIGN_REPORT";

/// One column of figures, in the order in which they are shown.
#[derive(Default)]
pub(super) struct Figures(Vec<(&'static str, Value)>);

impl Figures {
    /// Adds a figure. Its name says its unit.
    pub(super) fn add(&mut self, name: &'static str, value: impl Into<Value>) {
        self.0.push((name, value.into()));
    }

    /// Adds a time in seconds.
    pub(super) fn add_time(&mut self, name: &'static str, time: Duration) {
        self.add(name, (time.as_secs_f64() * 10_000.0).round() / 10_000.0);
    }

    /// Adds a quotient, rounded for people.
    #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
    pub(super) fn add_ratio(&mut self, name: &'static str, of: u64, per: usize) {
        self.add(name, (of as f64 / per.max(1) as f64 * 1000.0).round() / 1000.0);
    }
}

/// Shows figures, a line each with a column for each run, and writes them down for programs.
pub(super) fn publish(title: &str, runs: &[Figures]) {
    let mut table = vec![title.to_owned()];
    if let Some(first) = runs.first() {
        for (row, (name, _)) in first.0.iter().enumerate() {
            let cells: Vec<String> = runs.iter().map(|run| format!("{:>14}", text(&run.0[row].1))).collect();
            table.push(format!("  {:<44}{}", name.replace('_', " "), cells.join("")));
        }
    }
    report(&table.join("\n"));
    if let Some(file) = std::env::var_os(REPORT) {
        let objects: Vec<Map<String, Value>> = runs
            .iter()
            .map(|run| run.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
            .collect();
        std::fs::write(file, json!({"what": title, "runs": objects}).to_string()).unwrap();
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A number that the caller asks for, else what a test run has time for.
pub(super) fn asked(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |number| number.parse().unwrap())
}

/// The value that so many of a hundred don't exceed. They are in order.
pub(super) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted[rank - 1]
}
