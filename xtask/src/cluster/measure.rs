//! The tests that are small in every run, as large as somebody wants, with release builds: `cargo xtask cluster scale` and so on.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use super::PROGRAMS;
use crate::run;

/// How figures are given out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    #[default]
    Table,
    /// For programs: `{"what": …, "runs": [{NAME: VALUE}]}`.
    Json,
}

/// What all of them take.
#[derive(Args)]
struct Output {
    /// How figures are printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
    /// Use development builds: sooner there, slower, and larger.
    #[arg(long)]
    dev: bool,
}

#[derive(Args)]
pub(crate) struct Soak {
    /// How many rotations.
    #[arg(long, default_value_t = 100)]
    rotations: u32,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Scale {
    /// How many policies; several numbers with commas between them.
    #[arg(long, value_delimiter = ',', default_value = "1000")]
    policies: Vec<u32>,
    /// How many simulated verifiers; with several, each number of policies is tried with each.
    #[arg(long, value_delimiter = ',', default_value = "50")]
    verifiers: Vec<u32>,
    /// For how many seconds nothing is done, while writes are counted.
    #[arg(long, default_value_t = 60)]
    idle: u32,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Churn {
    /// How many sessions.
    #[arg(long, default_value_t = 500)]
    sessions: u32,
    /// For how many seconds they are watched.
    #[arg(long, default_value_t = 600)]
    seconds: u32,
    #[command(flatten)]
    output: Output,
}

#[derive(Args)]
pub(crate) struct Emergency {
    /// How many keys are revoked, one after the other.
    #[arg(long, default_value_t = 20)]
    rounds: u32,
    /// How many verifiers.
    #[arg(long, default_value_t = 5)]
    verifiers: u32,
    #[command(flatten)]
    output: Output,
}

impl Soak {
    pub(crate) fn run(&self, programs: &Path) -> Result<()> {
        let rotations = self.rotations.to_string();
        self.output.test(programs, "cluster::rotation::", &[("COUNTERSIGN_SOAK_ROTATIONS", &rotations)])
    }
}

impl Scale {
    pub(crate) fn run(&self, programs: &Path) -> Result<()> {
        let sizes: Vec<String> = self
            .verifiers
            .iter()
            .flat_map(|verifiers| self.policies.iter().map(move |policies| format!("{policies}x{verifiers}")))
            .collect();
        let settings = [("COUNTERSIGN_SCALE", sizes.join(",")), ("COUNTERSIGN_SCALE_IDLE", self.idle.to_string())];
        self.output.test(programs, "cluster::scale::", &settings.each_ref().map(|(name, value)| (*name, value.as_str())))
    }
}

impl Churn {
    pub(crate) fn run(&self, programs: &Path) -> Result<()> {
        let settings = [
            ("COUNTERSIGN_CHURN_SESSIONS", self.sessions.to_string()),
            ("COUNTERSIGN_CHURN_SECONDS", self.seconds.to_string()),
        ];
        self.output.test(programs, "cluster::churn::", &settings.each_ref().map(|(name, value)| (*name, value.as_str())))
    }
}

impl Emergency {
    pub(crate) fn run(&self, programs: &Path) -> Result<()> {
        let settings = [
            ("COUNTERSIGN_EMERGENCY_ROUNDS", self.rounds.to_string()),
            ("COUNTERSIGN_EMERGENCY_VERIFIERS", self.verifiers.to_string()),
        ];
        self.output.test(
            programs,
            "cluster::emergency::",
            &settings.each_ref().map(|(name, value)| (*name, value.as_str())),
        )
    }
}

impl Output {
    /// Runs one end-to-end test with these settings. It shows its figures on standard error, and writes them to a file.
    fn test(&self, programs: &Path, filter: &str, settings: &[(&str, &str)]) -> Result<()> {
        let report = Report::new();
        let mut command = run::cargo();
        command.args(["test", "--quiet", "--package", "countersign-e2e"]);
        if !self.dev {
            command.arg("--release");
        }
        command
            .args(["--", "--ignored", "--nocapture", filter])
            .env(PROGRAMS, programs)
            .env("COUNTERSIGN_REPORT", &report.file)
            .envs(settings.iter().copied());
        if self.output == Form::Json {
            command.stdout(Stdio::from(std::io::stderr()));
        }
        run::run(&mut command)?;
        if self.output == Form::Json {
            let figures = std::fs::read_to_string(&report.file)
                .with_context(|| format!("the test left no figures in {}", report.file.display()))?;
            println!("{figures}");
        }
        Ok(())
    }
}

/// The file that a test writes its figures to.
struct Report {
    file: PathBuf,
}

impl Report {
    fn new() -> Self {
        Self { file: std::env::temp_dir().join(format!("countersign-figures-{}.json", std::process::id())) }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        // A test that failed wrote none.
        let _ = std::fs::remove_file(&self.file);
    }
}
