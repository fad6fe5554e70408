//! What is printed at the end.

use serde::Serialize;

/// Everything that a run found.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    /// The machine.
    pub(crate) machine: Machine,
    /// Each figure in the order of measuring.
    pub(crate) figures: Vec<Figure>,
}

/// What it ran on.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
}

impl Machine {
    /// The one we are on.
    pub(crate) fn this() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
        Self {
            cpu: cpu.unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// One measured figure, with what it is held against.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// The part of the run.
    pub(crate) part: &'static str,
    /// What was measured.
    pub(crate) name: String,
    /// The value.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// What it is compared with, in the same unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) baseline: Option<f64>,
    /// The comparison: what it says is in `bar`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ratio: Option<f64>,
    /// What it must keep to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) bar: Option<Bar>,
    /// Whether it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kept: Option<bool>,
}

/// A bound on the ratio if there is one, else on the value.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bar {
    AtLeast(f64),
    AtMost(f64),
}

impl Figure {
    pub(crate) fn new(part: &'static str, name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { part, name: name.into(), value, unit, baseline: None, ratio: None, bar: None, kept: None }
    }

    pub(crate) fn against(mut self, baseline: f64, ratio: f64) -> Self {
        self.baseline = Some(baseline);
        self.ratio = Some(ratio);
        self
    }

    pub(crate) fn bar(mut self, bar: Bar) -> Self {
        let judged = self.ratio.unwrap_or(self.value);
        self.kept = Some(match bar {
            Bar::AtLeast(bound) => judged >= bound,
            Bar::AtMost(bound) => judged <= bound,
        });
        self.bar = Some(bar);
        self
    }
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![format!("{}, {} cores, Linux {}", self.machine.cpu, self.machine.cores, self.machine.kernel)];
        let mut part = "";
        for figure in &self.figures {
            if figure.part != part {
                part = figure.part;
                lines.push(format!("\n{part}"));
            }
            let baseline = figure.baseline.map_or_else(String::new, number);
            let ratio = figure.ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let bar = match (figure.bar, figure.kept) {
                (Some(Bar::AtLeast(bound)), Some(kept)) => format!("at least {} {}", number(bound), word(kept)),
                (Some(Bar::AtMost(bound)), Some(kept)) => format!("at most {} {}", number(bound), word(kept)),
                _ => String::new(),
            };
            lines.push(
                format!(
                    "  {:<58} {:>11} {:<13} {baseline:>11} {ratio:>6}  {bar}",
                    figure.name,
                    number(figure.value),
                    figure.unit
                )
                .trim_end()
                .to_owned(),
            );
        }
        lines.join("\n")
    }
}

const fn word(kept: bool) -> &'static str {
    if kept { "(kept)" } else { "(MISSED)" }
}

/// Three digits that matter, thousands apart.
fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |rest| ("-", rest));
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{sign}{grouped}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(number(1_234_567.4), "1,234,567");
        assert_eq!(number(0.924), "0.92");
        assert_eq!(number(208_000.0), "208,000");
    }

    #[test]
    fn a_bar_judges_the_ratio_where_there_is_one() {
        assert_eq!(Figure::new("", "", 10.0, "").against(20.0, 0.5).bar(Bar::AtLeast(0.8)).kept, Some(false));
        assert_eq!(Figure::new("", "", 10.0, "").bar(Bar::AtMost(12.0)).kept, Some(true));
    }
}
