//! Metrics, declared and told in the Prometheus text format 0.0.4.

use std::fmt::{Display, Write as _};

/// The content type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What kind of number a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows while the process lives.
    Counter,
    /// It is what it is at the moment of asking.
    Gauge,
    /// Observations by size: `_bucket` (with the label `le`), `_sum` and `_count`.
    Histogram,
}

impl Kind {
    /// The format's word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric. Declared with [`families!`](crate::families).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// Its name, unit included.
    pub name: &'static str,
    /// What kind of number it is.
    pub kind: Kind,
    /// The labels that its samples may have. Their values are from a small fixed set, or names of policies.
    pub labels: &'static [&'static str],
    /// What it means, in one sentence.
    pub help: &'static str,
}

/// Declares a process's metrics: a constant for each, and one for all of them in this order.
///
/// ```
/// countersign_telemetry::families! {
///     pub(crate) FAMILIES;
///     pub(crate) CONNECTIONS = Gauge "countersign_connections" [] "Open connections.";
///     pub(crate) LOOKS = Counter "countersign_operator_reconciles_total" ["result"] "Looks at policies, by how they went.";
/// }
/// assert_eq!(FAMILIES, [CONNECTIONS, LOOKS]);
/// ```
#[macro_export]
macro_rules! families {
    ($all:vis $families:ident; $($visible:vis $constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            $visible const $constant: $crate::Family = $crate::Family {
                name: $name,
                kind: $crate::Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )+
        /// Every metric of this process, in the order of the reference.
        $all const $families: &[$crate::Family] = &[$($constant),+];
    };
}

/// The text of `/metrics`, as it is written.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// One that has room for so many bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self(String::with_capacity(bytes))
    }

    /// Begins a metric: its samples follow.
    pub fn family(&mut self, family: &Family) -> Samples<'_> {
        let Family { name, kind, help, .. } = *family;
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {}", kind.word());
        Samples { text: &mut self.0, family: *family }
    }

    /// A metric of one sample without labels.
    pub fn single(&mut self, family: &Family, value: impl Display) {
        self.family(family).add(&[], value);
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// The samples of one metric.
#[derive(Debug)]
pub struct Samples<'a> {
    text: &'a mut String,
    family: Family,
}

impl Samples<'_> {
    /// Adds one. Label values are names that were parsed, or fixed words: nothing in them needs escaping.
    pub fn add(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.write("", labels, &value);
    }

    /// Adds a histogram: for each upper bound, how many were at most as large; then the sum of all, and how many there were.
    pub fn add_histogram<B: Display>(
        &mut self,
        at_most: impl IntoIterator<Item = (B, u64)>,
        sum: impl Display,
        count: u64,
    ) {
        debug_assert_eq!(self.family.kind, Kind::Histogram, "{}", self.family.name);
        for (bound, number) in at_most {
            let _ = writeln!(self.text, "{}_bucket{{le=\"{bound}\"}} {number}", self.family.name);
        }
        let _ = writeln!(self.text, "{}_bucket{{le=\"+Inf\"}} {count}", self.family.name);
        self.write("_sum", &[], &sum);
        self.write("_count", &[], &count);
    }

    fn write(&mut self, suffix: &str, labels: &[(&str, &str)], value: &dyn Display) {
        let Family { name, labels: declared, .. } = self.family;
        debug_assert!(labels.iter().all(|(label, _)| declared.contains(label)), "{name} is declared without {labels:?}");
        let _ = write!(self.text, "{name}{suffix}");
        for (i, (label, is)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{label}=\"{is}\"", if i == 0 { '{' } else { ',' });
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::families! {
        FAMILIES;
        OPEN = Gauge "open" [] "Open ones.";
        LOOKS = Counter "looks_total" ["result", "policy"] "Looks.";
        TOOK = Histogram "took_seconds" [] "How long.";
    }

    #[test]
    fn metrics_are_told_in_the_text_format() {
        assert_eq!(FAMILIES.len(), 3);
        let mut text = Exposition::default();
        text.single(&OPEN, 3);
        let mut looks = text.family(&LOOKS);
        looks.add(&[("result", "ok"), ("policy", "a/b")], 1);
        looks.add(&[("result", "error")], 2.5);
        text.family(&TOOK).add_histogram([("0.1", 1), ("1", 4)], "7.25", 5);
        let expected = "# HELP open Open ones.\n# TYPE open gauge\nopen 3\n\
                        # HELP looks_total Looks.\n# TYPE looks_total counter\n\
                        looks_total{result=\"ok\",policy=\"a/b\"} 1\nlooks_total{result=\"error\"} 2.5\n\
                        # HELP took_seconds How long.\n# TYPE took_seconds histogram\n\
                        took_seconds_bucket{le=\"0.1\"} 1\ntook_seconds_bucket{le=\"1\"} 4\n\
                        took_seconds_bucket{le=\"+Inf\"} 5\ntook_seconds_sum 7.25\ntook_seconds_count 5\n";
        assert_eq!(text.into_text(), expected);
    }

    #[test]
    #[should_panic(expected = "open is declared without")]
    fn a_label_that_is_not_declared_is_noticed() {
        Exposition::default().family(&OPEN).add(&[("policy", "a/b")], 1);
    }
}
