//! `test-flow`: a person's whole way through a running system, each step timed. The account is made for this, and nothing of it
//! is left behind, however the way ends.

mod authenticator;
mod cleanup;
mod mailed;
mod parties;
mod steps;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::{parties::Parties, steps::Person};
use crate::{
    Session,
    args::TestFlow,
    failure::{Exit, Failure},
    output::{Block, Cell, Report, Table, Tone, printable},
    stop::Stop,
};

/// `countersign test-flow`
pub(crate) async fn test_flow(session: &Session, args: &TestFlow) -> Result<Exit, Failure> {
    // Before anything is made: an early signal must not kill a process that is to clean up.
    let mut signals = Stop::new()?;
    let parties = Parties::find(session, args).await?;
    session.printer.remark(&parties.describe());
    if session.common.dry_run {
        let shown = printable(&args.email);
        return session.printer.dry_run(&format!("make the account {shown}, log it in and out, and erase it"));
    }
    let stop = CancellationToken::new();
    let mut way = Way::new(stop.clone());
    let mut person = Person::new(&args.email)?;
    let failed = {
        let went = steps::walk(&parties, &mut person, &mut way);
        tokio::pin!(went);
        tokio::select! {
            ended = &mut went => ended.err(),
            () = signals.asked() => {
                session.printer.remark("stopping after this step, and cleaning up");
                // A call that has begun is heard out: what it made must be known to be taken away.
                stop.cancel();
                went.await.err()
            }
        }
    };
    let left = tokio::select! {
        left = cleanup::clean_up(&parties, &mut person, &mut way) => left,
        () = signals.asked() => Some(person.left_behind(&parties, "asked to stop twice")),
    };
    way.report(session, &parties, &person, left.as_ref())?;
    match failed.or(left) {
        None => Ok(Exit::Done),
        Some(failure) => Err(failure),
    }
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Held,
    Skipped,
    Failed,
}

/// What a step tells when it didn't fail.
#[derive(Debug)]
enum Told {
    /// It was done.
    Did(String),
    /// There was nothing to do.
    Skipped(String),
}

#[derive(Debug)]
struct Step {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
    detail: String,
}

/// The steps so far.
struct Way {
    steps: Vec<Step>,
    began: Instant,
    stop: CancellationToken,
}

impl Way {
    fn new(stop: CancellationToken) -> Self {
        Self { steps: Vec::new(), began: Instant::now(), stop }
    }

    /// Takes a step and writes down how it went. Its failure names it.
    async fn step(
        &mut self,
        name: &'static str,
        doing: impl Future<Output = Result<Told, Failure>>,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let ended = doing.await;
        let took = began.elapsed();
        let (outcome, detail) = match &ended {
            Ok(Told::Did(detail)) => (Outcome::Held, detail.clone()),
            Ok(Told::Skipped(why)) => (Outcome::Skipped, why.clone()),
            Err(failure) => (Outcome::Failed, failure.message.clone()),
        };
        self.steps.push(Step { name, outcome, took, detail });
        ended.map_err(|failure| Failure { message: format!("step \"{name}\" failed: {}", failure.message), ..failure })?;
        Ok(())
    }

    /// Whether to go on: not once a signal came.
    fn go_on(&self) -> Result<(), Failure> {
        if self.stop.is_cancelled() { Err(Failure::no("stopped by a signal")) } else { Ok(()) }
    }

    fn report(&self, session: &Session, parties: &Parties, person: &Person, left: Option<&Failure>) -> Result<(), Failure> {
        let mut table = Table::new(&["STEP", "RESULT", "MS", "DETAIL"]);
        for step in &self.steps {
            let (word, tone) = step.outcome.shown();
            let took = if step.outcome == Outcome::Skipped { String::new() } else { format!("{:.1}", ms(step.took)) };
            let cells = [Cell::toned(word, tone), took.into(), printable(&step.detail).into()];
            table.row(std::iter::once(step.name.into()).chain(cells).collect());
        }
        let failed = self.steps.iter().find(|step| step.outcome == Outcome::Failed).map(|step| step.name);
        let ok = failed.is_none() && !self.stop.is_cancelled() && left.is_none();
        let steps: Vec<Value> = self.steps.iter().map(Step::json).collect();
        let document = json!({
            "ok": ok,
            "email": person.email,
            "policy": parties.policy,
            "took_ms": ms(self.began.elapsed()),
            "steps": steps,
            "failed": failed,
            "left_behind": left.map(|left| &left.message),
        });
        let names = self.steps.iter().map(|step| step.name.to_owned()).collect();
        session.printer.report(&Report { document, human: vec![Block::Table(table)], names })
    }
}

impl Outcome {
    const fn shown(self) -> (&'static str, Tone) {
        match self {
            Self::Held => ("ok", Tone::Good),
            Self::Skipped => ("skipped", Tone::Faint),
            Self::Failed => ("FAILED", Tone::Bad),
        }
    }
}

impl Step {
    fn json(&self) -> Value {
        let result = match self.outcome {
            Outcome::Held => "ok",
            Outcome::Skipped => "skipped",
            Outcome::Failed => "failed",
        };
        json!({"step": self.name, "result": result, "took_ms": ms(self.took), "detail": self.detail})
    }
}

/// Milliseconds with three digits.
fn ms(took: Duration) -> f64 {
    (took.as_secs_f64() * 1_000_000.0).round() / 1000.0
}
