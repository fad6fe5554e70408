//! What became of an import's rows, as it is told.

use std::{collections::BTreeMap, io::IsTerminal as _, time::Instant};

use serde_json::{Map, Value, json};

use super::reading::Person;
use crate::{
    commands::{text, texts},
    output::{Block, Cell, Printer, Report, Table, Tone, printable},
};

/// What is read of between two words of progress, rows, where there is no terminal.
const PLAIN_EVERY: u64 = 10_000;
/// How often a terminal is told, milliseconds.
const TERMINAL_EVERY_MS: u128 = 200;

/// Who is told what becomes of rows.
pub(super) trait Answered {
    /// A row that was not even sent.
    fn reject(&mut self, person: &Person, reason: &str);

    /// What the issuer answered of a row.
    fn settle(&mut self, person: &Person, answer: &Value);
}

/// Why a row is not simply as it should be, as the issuer answered; empty where it is.
pub(super) fn why(answer: &Value) -> String {
    match text(answer, "outcome") {
        "rejected" => text(answer, "reason").to_owned(),
        "changed" => format!("used or changed here since: {}", texts(answer, "fields").join(", ")),
        "differs" => format!("not as in the source: {}", texts(answer, "fields").join(", ")),
        "missing" => "was not brought".to_owned(),
        "erased" => "was brought, and erased here since".to_owned(),
        _ => String::new(),
    }
}

/// Counts, and every row of which there is more to say.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) rows: u64,
    pub(super) without_password: u64,
    pub(super) api_keys: u64,
    outcomes: BTreeMap<String, u64>,
    told: Vec<Told>,
}

struct Told {
    row: u64,
    key: String,
    outcome: String,
    why: String,
}

impl Answered for Tally {
    fn reject(&mut self, person: &Person, reason: &str) {
        self.note(person, "rejected", reason.to_owned());
    }

    fn settle(&mut self, person: &Person, answer: &Value) {
        let outcome = text(answer, "outcome");
        if let Ok(mapped) = &person.mapped
            && matches!(outcome, "new" | "imported")
        {
            self.without_password += u64::from(mapped.without_password);
            self.api_keys += mapped.api_keys;
        }
        self.note(person, outcome, why(answer));
    }
}

impl Tally {
    pub(super) fn count(&self, outcome: &str) -> u64 {
        self.outcomes.get(outcome).copied().unwrap_or(0)
    }

    fn note(&mut self, person: &Person, outcome: &str, why: String) {
        *self.outcomes.entry(outcome.to_owned()).or_default() += 1;
        if !why.is_empty() {
            let (key, outcome) = (person.key.clone(), outcome.to_owned());
            self.told.push(Told { row: person.row, key, outcome, why });
        }
    }

    /// The report of a command that did `what`.
    pub(super) fn report(mut self, what: &str, around: Map<String, Value>) -> Report {
        self.told.sort_by_key(|told| told.row);
        let mut document = around;
        document.insert("rows".into(), json!(self.rows));
        document.insert("without_password".into(), json!(self.without_password));
        document.insert("api_keys".into(), json!(self.api_keys));
        document.insert("outcomes".into(), json!(self.outcomes));
        let details = self
            .told
            .iter()
            .map(|told| json!({"row": told.row, "key": told.key, "outcome": told.outcome, "reason": told.why}));
        document.insert("details".into(), details.collect());
        let counts: Vec<String> = self.outcomes.iter().map(|(outcome, count)| format!("{count} {outcome}")).collect();
        let counts = if counts.is_empty() { "nothing in them".to_owned() } else { counts.join(", ") };
        let mut human = vec![Block::Text(format!("{what}: {} rows: {counts}", self.rows))];
        if self.without_password > 0 {
            let text = "without a password: their owners set one by \"forgot password\", and no password is right before";
            human.push(Block::Text(format!("{} {text}", self.without_password)));
        }
        if self.api_keys > 0 {
            let text = "API keys: tell verifiers of them by what `countersign migrate keys` prints";
            human.push(Block::Text(format!("{} {text}", self.api_keys)));
        }
        if !self.told.is_empty() {
            let mut table = Table::new(&["ROW", "KEY", "OUTCOME", "REASON"]);
            for told in &self.told {
                let tone = if told.outcome == "changed" { Tone::Warn } else { Tone::Bad };
                table.row(vec![
                    told.row.to_string().into(),
                    printable(&told.key).into(),
                    Cell::toned(told.outcome.clone(), tone),
                    printable(&told.why).into(),
                ]);
            }
            human.push(Block::Table(table));
        }
        let names = self.told.into_iter().map(|told| told.key).collect();
        Report { document: Value::Object(document), human, names }
    }
}

/// Says how far a long run is: on a terminal in one line, elsewhere in a line now and then.
pub(super) struct Progress {
    printer: Printer,
    terminal: bool,
    said: Option<Instant>,
    next: u64,
}

impl Progress {
    pub(super) fn new(printer: Printer) -> Self {
        Self { printer, terminal: std::io::stderr().is_terminal(), said: None, next: PLAIN_EVERY }
    }

    pub(super) fn at(&mut self, rows: u64) {
        if self.terminal {
            if self.said.is_none_or(|said| said.elapsed().as_millis() >= TERMINAL_EVERY_MS) {
                self.printer.status_line(&format!("{rows} rows"));
                self.said = Some(Instant::now());
            }
        } else if rows >= self.next {
            self.printer.remark(&format!("{rows} rows"));
            self.next = rows + PLAIN_EVERY;
        }
    }

    pub(super) fn done(self) {
        if self.said.is_some() {
            self.printer.status_line("");
        }
    }
}
