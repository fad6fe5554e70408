//! Results to standard output in the form that was asked for, everything else to standard error.

mod table;

use std::io::{self, IsTerminal as _, Write as _};

use serde_json::{Value, json};

pub(crate) use table::printable;
pub(crate) use table::{Cell, Table, Tone};

use crate::{
    args::{ColorChoice, Common, Format},
    failure::{Exit, Failure},
};

/// A command's result in every form.
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// For programs.
    pub(crate) document: Value,
    /// For people.
    pub(crate) human: Vec<Block>,
    /// Names alone.
    pub(crate) names: Vec<String>,
}

/// A piece of a report for people.
#[derive(Debug)]
pub(crate) enum Block {
    /// Rows and columns.
    Table(Table),
    /// A line, or several.
    Text(String),
}

/// Writes results and remarks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    format: Format,
    quiet: bool,
    color_out: bool,
    color_err: bool,
    /// Standard output is somebody else's.
    aside: bool,
}

impl Printer {
    /// A printer as the common flags say. `no_color` is whether NO_COLOR is set to anything.
    pub(crate) fn new(common: &Common, no_color: bool) -> Self {
        let colored = |terminal: bool| match common.color {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !no_color,
        };
        Self {
            format: common.output,
            quiet: common.quiet,
            color_out: colored(io::stdout().is_terminal()),
            color_err: colored(io::stderr().is_terminal()),
            aside: false,
        }
    }

    /// The same with results on standard error, where standard output is for something else.
    pub(crate) fn aside(self) -> Self {
        Self { aside: true, color_out: self.color_err, ..self }
    }

    /// The form that was asked for.
    pub(crate) fn format(self) -> Format {
        self.format
    }

    /// Whether a program reads the result.
    pub(crate) fn structured(self) -> bool {
        matches!(self.format, Format::Json | Format::Yaml)
    }

    /// Writes a report: to standard output, unless that is for something else.
    pub(crate) fn report(self, report: &Report) -> Result<(), Failure> {
        let mut text = String::new();
        match self.format {
            Format::Json => {
                text = serde_json::to_string_pretty(&report.document).map_err(|e| Failure::unable(e.to_string()))?;
                text.push('\n');
            }
            Format::Yaml => text = countersign_api::crds::to_yaml(&report.document),
            Format::Name => {
                for name in &report.names {
                    text.push_str(name);
                    text.push('\n');
                }
            }
            Format::Table | Format::Wide => {
                for block in &report.human {
                    match block {
                        Block::Text(line) => {
                            text.push_str(line);
                            text.push('\n');
                        }
                        Block::Table(table) => text.push_str(&table.render(self.format == Format::Wide, self.color_out)),
                    }
                }
            }
        }
        if self.aside {
            complain(text.trim_end());
            return Ok(());
        }
        write_out(&text)
    }

    /// The result of a command that would have changed something, had it not been for `--dry-run`.
    pub(crate) fn dry_run(self, would: &str) -> Result<Exit, Failure> {
        self.remark(&format!("dry run: would {would}"));
        let document = json!({"dry_run": true, "would": would});
        self.report(&Report { document, human: Vec::new(), names: Vec::new() })?;
        Ok(Exit::Done)
    }

    /// A remark on standard error, left out with `-q`.
    pub(crate) fn remark(self, text: &str) {
        if !self.quiet {
            complain(text);
        }
    }

    /// A line on a terminal's standard error that the next one takes the place of; left out with `-q`.
    pub(crate) fn status_line(self, text: &str) {
        if !self.quiet {
            let mut err = io::stderr().lock();
            // Nobody is left to be told that it is closed.
            let _ = write!(err, "\r{}\u{1b}[K", printable(text)).and_then(|()| err.flush());
        }
    }

    /// A line on standard error.
    pub(crate) fn complain(text: &str) {
        complain(text);
    }

    /// A warning on standard error, never left out.
    pub(crate) fn warn(self, text: &str) {
        complain(&format!("{} {text}", self.paint_err("warning:", Tone::Warn)));
    }

    /// An error on standard error.
    pub(crate) fn error(self, failure: &Failure) {
        complain(&format!("{} {failure}", self.paint_err("error:", Tone::Bad)));
    }

    /// A word in a tone, for standard output.
    pub(crate) fn paint(self, text: &str, tone: Tone) -> String {
        tone.paint(text, self.color_out)
    }

    fn paint_err(self, text: &str, tone: Tone) -> String {
        tone.paint(text, self.color_err)
    }
}

/// Writes a text to standard output as it is. A closed pipe is a reader that has seen enough, not an error.
pub(crate) fn write_out(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(Failure::unable(format!("can't write the result: {e}"))),
        _ => Ok(()),
    }
}

/// Nobody is left to be told that standard error is closed.
fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
