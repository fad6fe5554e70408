//! `docs/reference/chart.md`: every value, with its default and its meaning.
//!
//! Meanings come from the chart's schema, defaults from its values, as Helm reads them. A value that one of the two lacks is a
//! mistake.

use std::{fmt::Write as _, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::run;

/// Helm's own, which no chart has a default for.
const HELM_S: &str = "global";

pub(super) fn page(helm: &Path, chart: &Path) -> Result<String> {
    let schema = std::fs::read_to_string(chart.join("values.schema.json")).context("values.schema.json")?;
    let schema: Value = serde_json::from_str(&schema).context("values.schema.json")?;
    let defaults = defaults(helm, chart)?;
    let mut page = String::from(
        "# The chart's values\n\nGenerated from `charts/countersign/values.schema.json`; Helm refuses values that aren't here. How to \
         install: [guides/install.md](../guides/install.md).\n\n| value | default | meaning |\n|---|---|---|\n",
    );
    describe(&mut page, "", &schema, &defaults)?;
    Ok(page)
}

fn describe(page: &mut String, path: &str, schema: &Value, default: &Value) -> Result<()> {
    let (Some(properties), Some(defaults)) = (schema["properties"].as_object(), default.as_object()) else {
        bail!("values.schema.json: {path} is no group in both the schema and values.yaml");
    };
    if schema["additionalProperties"] != Value::Bool(false) {
        bail!("values.schema.json: {path} takes values that it doesn't describe");
    }
    if let Some(name) = defaults.keys().find(|name| !properties.contains_key(*name)) {
        bail!("values.schema.json: {path}{name} is missing");
    }
    for (name, field) in properties.iter().filter(|(name, _)| *name != HELM_S) {
        let whole = format!("{path}{name}");
        let Some(default) = defaults.get(name) else { bail!("values.yaml: {whole} is missing") };
        let meaning = field["description"].as_str().unwrap_or_default();
        if meaning.is_empty() {
            bail!("values.schema.json: {whole} has no description");
        }
        if field.get("properties").is_some() {
            let _ = writeln!(page, "| **`{whole}`** | | {meaning} |");
            describe(page, &format!("{whole}."), field, default)?;
        } else {
            let shown = if default.as_str() == Some("") { "empty".to_owned() } else { format!("`{default}`") };
            let _ = writeln!(page, "| `{whole}` | {} | {} |", shown.replace('|', "\\|"), meaning.replace('|', "\\|"));
        }
    }
    Ok(())
}

/// The chart's values as Helm reads them: rendered by a chart that consists of nothing else.
fn defaults(helm: &Path, chart: &Path) -> Result<Value> {
    let scratch = run::cache()?.join(format!("chart-values-{}", std::process::id()));
    std::fs::create_dir_all(scratch.join("templates")).with_context(|| scratch.display().to_string())?;
    let made = (|| {
        std::fs::copy(chart.join("values.yaml"), scratch.join("values.yaml")).context("values.yaml")?;
        std::fs::write(scratch.join("Chart.yaml"), "apiVersion: v2\nname: values\nversion: 0.0.0\n")?;
        std::fs::write(scratch.join("templates/values.yaml"), "values: {{ .Values | toJson }}\n")?;
        run::output(Command::new(helm).args(["template", "values"]).arg(&scratch))
    })();
    std::fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let made = made?;
    let json = made.lines().find_map(|line| line.strip_prefix("values: ")).context("helm rendered no values")?;
    serde_json::from_str(json).context("what helm rendered")
}
