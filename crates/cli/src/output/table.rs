//! Aligned columns.

/// Rows under headers.
#[derive(Debug, Default)]
pub(crate) struct Table {
    columns: Vec<(&'static str, bool)>,
    rows: Vec<Vec<Cell>>,
}

/// What stands in a column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    tone: Tone,
}

/// How a text is meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it is.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
    /// Of less weight.
    Faint,
}

impl Tone {
    /// The text in this tone, where colours are on. Control characters never reach the terminal: much of what is shown
    /// comes from tokens.
    pub(super) fn paint(self, text: &str, color: bool) -> String {
        let text = printable(text);
        let code = match self {
            _ if !color => return text,
            Self::Plain => return text,
            Self::Good => "32",
            Self::Warn => "33",
            Self::Bad => "31",
            Self::Faint => "2",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// The text with control and direction-changing characters written out.
pub(crate) fn printable(text: &str) -> String {
    let hidden = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if text.chars().any(hidden) {
        text.chars().map(|c| if hidden(c) { c.escape_unicode().to_string() } else { c.to_string() }).collect()
    } else {
        text.to_owned()
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: text.into(), tone: Tone::Plain }
    }
}

impl Cell {
    /// A text in a tone.
    pub(crate) fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { text: text.into(), tone }
    }
}

impl Table {
    /// A table with these headers.
    pub(crate) fn new(columns: &[&'static str]) -> Self {
        Self { columns: columns.iter().map(|c| (*c, false)).collect(), rows: Vec::new() }
    }

    /// Adds headers that `-o wide` alone shows.
    #[must_use]
    pub(crate) fn wide(mut self, columns: &[&'static str]) -> Self {
        self.columns.extend(columns.iter().map(|c| (*c, true)));
        self
    }

    /// Adds a row; missing cells are empty.
    pub(crate) fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub(super) fn render(&self, wide: bool, color: bool) -> String {
        let shown: Vec<usize> = (0..self.columns.len()).filter(|i| wide || !self.columns[*i].1).collect();
        let empty = Cell::default();
        let width_of = |i: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(i)).map(|cell| printable(&cell.text).chars().count());
            cells.chain([self.columns[i].0.chars().count()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = shown.iter().map(|i| width_of(*i)).collect();
        let mut text = String::new();
        let mut line = |cells: Vec<(&str, Tone)>| {
            let last = cells.len().saturating_sub(1);
            for (n, (cell, tone)) in cells.into_iter().enumerate() {
                text.push_str(&tone.paint(cell, color));
                if n < last {
                    let gap = widths[n].saturating_sub(printable(cell).chars().count()) + 2;
                    text.extend(std::iter::repeat_n(' ', gap));
                }
            }
            text.truncate(text.trim_end_matches(' ').len());
            text.push('\n');
        };
        if self.columns.iter().any(|(name, _)| !name.is_empty()) {
            line(shown.iter().map(|i| (self.columns[*i].0, Tone::Plain)).collect());
        }
        for row in &self.rows {
            line(shown.iter().map(|i| row.get(*i).unwrap_or(&empty)).map(|c| (c.text.as_str(), c.tone)).collect());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_wide_ones_appear_only_when_asked_for() {
        let mut table = Table::new(&["KID", "STATE"]).wide(&["ALG"]);
        table.row(vec!["a".into(), Cell::toned("Active", Tone::Good), "EdDSA".into()]);
        table.row(vec!["longer".into(), "Pending".into()]);
        assert_eq!(table.render(false, false), "KID     STATE\na       Active\nlonger  Pending\n");
        assert_eq!(table.render(true, false), "KID     STATE    ALG\na       Active   EdDSA\nlonger  Pending\n");
        assert!(table.render(false, true).contains("\u{1b}[32mActive\u{1b}[0m"));
    }

    #[test]
    fn what_a_token_says_can_t_drive_the_terminal() {
        assert_eq!(Tone::Plain.paint("a\u{1b}[2Jb\u{202e}", false), "a\\u{1b}[2Jb\\u{202e}");
    }
}
