//! A whole run: which parts, how long, and how it is shown.

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::{
    freshness, instructions, memory, people,
    report::{Machine, Report},
    speed,
};

#[derive(Args)]
pub(crate) struct Options {
    /// Leave out all parts but these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Shorter and coarser: to see that it works.
    #[arg(long)]
    quick: bool,
    /// How to print the result.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Speed,
    Instructions,
    Memory,
    Freshness,
    People,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// How long things are measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// One measurement of speed, milliseconds.
    pub(crate) millis: u64,
    /// How often each is repeated, taking turns with what it is compared with; the median counts.
    pub(crate) rounds: usize,
    /// Tokens of each kind that are verified once.
    pub(crate) uncached: usize,
    /// Live revocations.
    pub(crate) revocations: usize,
    /// Policies.
    pub(crate) policies: usize,
    /// Readers of the feed.
    pub(crate) readers: usize,
    /// Revocations one after another, and in a burst.
    pub(crate) singles: usize,
    pub(crate) burst: usize,
    /// Sessions that are stored, beside those that are alive.
    pub(crate) sessions: usize,
}

impl Effort {
    const FULL: Self = Self {
        millis: 1500,
        rounds: 3,
        uncached: 20_000,
        revocations: 1_000_000,
        policies: 1_000,
        readers: 200,
        singles: 1_000,
        burst: 10_000,
        sessions: 1_000_000,
    };
    const QUICK: Self = Self {
        millis: 300,
        rounds: 1,
        uncached: 2_000,
        revocations: 20_000,
        policies: 20,
        readers: 20,
        singles: 50,
        burst: 200,
        sessions: 20_000,
    };
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let effort = if options.quick { Effort::QUICK } else { Effort::FULL };
    let wanted = |part| options.only.is_empty() || options.only.contains(&part);
    let mut report = Report { machine: Machine::this(), figures: Vec::new() };
    if wanted(Part::Speed) {
        speed::measure(&effort, &mut report.figures)?;
    }
    if wanted(Part::Instructions) {
        instructions::measure(&effort, &mut report.figures)?;
    }
    if wanted(Part::Memory) {
        memory::measure(&effort, &mut report.figures)?;
    }
    if wanted(Part::Freshness) {
        freshness::measure(&effort, &mut report.figures)?;
    }
    if wanted(Part::People) {
        people::measure(&effort, &mut report.figures)?;
    }
    match options.output {
        Output::Table => println!("{}", report.table()),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}
