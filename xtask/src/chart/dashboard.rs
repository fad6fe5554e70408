//! The dashboard's queries, as Prometheus reads them.

use std::{path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::run;

/// What stands for Grafana's variables.
const VARIABLES: [(&str, &str); 2] = [("$__rate_interval", "5m"), ("$policy", ".*")];

/// Has promtool parse every query, which it does of rules: each becomes one.
pub(super) fn check(chart: &Path) -> Result<()> {
    let text = std::fs::read_to_string(chart.join("files/dashboard.json")).context("files/dashboard.json")?;
    let dashboard: Value = serde_json::from_str(&text).context("files/dashboard.json")?;
    let mut rules = Vec::new();
    for panel in dashboard["panels"].as_array().into_iter().flatten() {
        let title = panel["title"].as_str().unwrap_or_default();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let Some(query) = target["expr"].as_str() else { bail!("files/dashboard.json: {title:?} has no query") };
            let query = VARIABLES.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value));
            rules.push(
                json!({"record": format!("dashboard:query:{}", rules.len()), "expr": query, "labels": {"panel": title}}),
            );
        }
    }
    if rules.is_empty() {
        bail!("files/dashboard.json has no queries");
    }
    // YAML takes JSON.
    let groups = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let file = std::env::temp_dir().join(format!("countersign-dashboard-{}.yaml", std::process::id()));
    std::fs::write(&file, groups.to_string()).with_context(|| file.display().to_string())?;
    let checked = run::run(Command::new("promtool").args(["check", "rules"]).arg(&file));
    std::fs::remove_file(&file).with_context(|| file.display().to_string())?;
    checked.context("charts/countersign/files/dashboard.json")
}
