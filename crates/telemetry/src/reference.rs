//! The reference of metrics: a page with one table for each process, between two marks.

use std::fmt::Write as _;

use crate::Family;

/// `page` with the table of `process` as these metrics make it. `None` when the page has no place for it:
///
/// ```
/// # use countersign_telemetry::{Family, Kind, reference::rewritten};
/// let page = "# Metrics\n<!-- verifier: generated -->\nold\n<!-- end -->\n";
/// let family = Family { name: "up", kind: Kind::Gauge, labels: &[], help: "Whether it is up." };
/// let page = rewritten(page, "verifier", &[family]).unwrap();
/// assert!(page.contains("| `up` | gauge | | Whether it is up. |"));
/// assert!(!page.contains("old"));
/// ```
pub fn rewritten(page: &str, process: &str, families: &[Family]) -> Option<String> {
    let mark = format!("<!-- {process}: generated -->\n");
    let (before, rest) = page.split_once(&mark)?;
    let (_, after) = rest.split_once("<!-- end -->")?;
    Some(format!("{before}{mark}{}<!-- end -->{after}", table(families)))
}

fn table(families: &[Family]) -> String {
    let mut table = String::from("| metric | type | labels | meaning |\n|---|---|---|---|\n");
    for Family { name, kind, labels, help } in families {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        let labels = labels.join(", ") + if labels.is_empty() { "" } else { " " };
        let _ = writeln!(table, "| `{name}` | {} | {labels}| {} |", kind.word(), help.replace('|', "\\|"));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    const TWO: [Family; 2] = [
        Family { name: "looks_total", kind: Kind::Counter, labels: &["policy", "result"], help: "Looks." },
        Family { name: "open", kind: Kind::Gauge, labels: &[], help: "Open: this | that." },
    ];

    #[test]
    fn one_process_s_table_is_written_and_the_rest_of_the_page_is_left_alone() {
        let page = "a\n<!-- x: generated -->\nold\n<!-- end -->\nb\n<!-- y: generated -->\nkept\n<!-- end -->\n";
        let expected = "a\n<!-- x: generated -->\n| metric | type | labels | meaning |\n|---|---|---|---|\n\
                        | `looks_total` | counter | `policy`, `result` | Looks. |\n\
                        | `open` | gauge | | Open: this \\| that. |\n<!-- end -->\n\
                        b\n<!-- y: generated -->\nkept\n<!-- end -->\n";
        assert_eq!(rewritten(page, "x", &TWO).as_deref(), Some(expected));
        assert_eq!(rewritten(expected, "x", &TWO).as_deref(), Some(expected));
    }

    #[test]
    fn a_page_without_a_place_for_it_is_none() {
        for page in ["", "<!-- x: generated -->\n", "<!-- y: generated -->\n<!-- end -->\n"] {
            assert_eq!(rewritten(page, "x", &TWO), None, "{page}");
        }
    }
}
