//! From flags to the exit status: what the process tells of itself, the signals that end it, how it says why it ended.

use std::{error::Error, io, process::ExitCode};

use clap::Command;
use countersign_telemetry::{Traces, install};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;

use crate::{Telling, known_variables, telling::OUR_VARIABLES, unknown_variables, variable_behind};

/// Whatever went wrong.
type Cause = Box<dyn Error + Send + Sync>;

/// Why a process ends before its time.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Flags or environment are wrong.
    #[error(transparent)]
    Usage(Cause),
    /// A value of the environment is wrong.
    #[error("{error} (the value is that of {variable} in the environment)")]
    Variable {
        /// Whose value it is.
        variable: String,
        /// What is wrong with it, by the name of its flag.
        error: String,
    },
    /// They are right, and it can't go on.
    #[error(transparent)]
    Run(Cause),
}

impl Failure {
    /// Flags or environment are wrong.
    pub fn usage(error: impl Into<Cause>) -> Self {
        Self::Usage(error.into())
    }

    /// What is wrong with the value of `flag`; where a variable gave it, that is named.
    pub fn of_flag(command: &Command, flag: Option<&str>, error: impl Into<Cause>) -> Self {
        let arguments: Vec<_> = std::env::args_os().collect();
        let error = error.into();
        match flag.and_then(|flag| variable_behind(command, flag, &arguments)) {
            Some(variable) => Self::Variable { variable, error: causes(&*error) },
            None => Self::Usage(error),
        }
    }

    /// It can't go on.
    pub fn run(error: impl Into<Cause>) -> Self {
        Self::Run(error.into())
    }
}

/// The exit status of the process `name`: 2 where somebody has to set something otherwise, 3 where it could not go on. Why
/// stands on standard error.
pub fn exit_code(name: &str, ended: Result<(), Failure>) -> ExitCode {
    let Err(failure) = ended else { return ExitCode::SUCCESS };
    eprintln!("{name}: {}", causes(&failure));
    ExitCode::from(if matches!(failure, Failure::Run(_)) { 3 } else { 2 })
}

/// An error with what caused it. Many say their cause themselves: that isn't said twice.
pub fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        source = cause.source();
    }
    text
}

/// Names of ours in the environment that mean nothing are warned of: neither the command line's flags nor `others` are called so.
pub fn warn_of_unknown_variables(command: &Command, others: &[&str]) {
    let mut known = known_variables(command);
    known.extend(others.iter().chain(OUR_VARIABLES.iter().map(|(_, variable)| variable)).map(|&name| name.to_owned()));
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for warning in unknown_variables(&known, names) {
        tracing::warn!("{warning}");
    }
}

/// A process that logs, and sends spans where there is a collector.
#[derive(Debug)]
pub struct Process {
    runtime: Runtime,
    traces: Option<Traces>,
}

impl Process {
    /// Begins to tell, as the service `name`, what happens on a runtime of this kind.
    pub fn begin(name: &'static str, telling: Telling, mut runtime: Builder) -> Result<Self, Failure> {
        let runtime =
            runtime.enable_all().build().map_err(|e| Failure::Run(format!("the runtime does not start: {e}").into()))?;
        let to = |endpoint| Traces::to(endpoint, name, runtime.handle().clone());
        let traces = telling.collector.as_ref().map(to).transpose();
        install(telling.filter, telling.format, traces.as_ref().ok().and_then(Option::as_ref));
        // What the process is for needs no collector.
        let traces = traces.unwrap_or_else(|error| {
            tracing::error!(error = causes(&error), "no traces are sent");
            None
        });
        if let Some(collector) = telling.collector.filter(|_| traces.is_some()) {
            tracing::info!(%collector, "spans are sent");
        }
        Ok(Self { runtime, traces })
    }

    /// Does what the process is for, and sends the last spans.
    pub fn run<E: Into<Cause>>(self, serving: impl Future<Output = Result<(), E>>) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let served = serving.await;
            if let Some(traces) = self.traces {
                traces.end().await;
            }
            served.map_err(Failure::run)
        })
    }
}

/// SIGTERM and SIGINT. None that comes after this was made is missed, or ends the process by itself.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listens from now on.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next.
    pub async fn told_to_end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Runs what ends by itself, or soon after it was told to: by a signal, which cancels what it is given.
pub async fn until_told<E, R>(run: impl FnOnce(CancellationToken) -> R) -> Result<(), Cause>
where
    E: Into<Cause>,
    R: Future<Output = Result<(), E>>,
{
    let mut signals = Signals::listen()?;
    let stop = CancellationToken::new();
    let running = run(stop.clone());
    tokio::pin!(running);
    tokio::select! {
        ended = &mut running => return ended.map_err(Into::into),
        () = signals.told_to_end() => {}
    }
    tracing::info!("told to end");
    stop.cancel();
    running.await.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the door")]
    struct Door(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("the house: {0}")]
    struct House(#[source] Door);

    #[test]
    fn an_error_tells_each_of_its_causes_once() {
        let error = House(Door(io::Error::other("it is locked")));
        assert_eq!(causes(&error), "the house: the door: it is locked");
        assert_eq!(causes(&Failure::run(error)), "the house: the door: it is locked");
    }

    #[test]
    fn the_exit_status_says_whose_turn_it_is() {
        let code = |failure| format!("{:?}", exit_code("test", Err(failure)));
        assert_eq!(code(Failure::usage("x")), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(Failure::run("x")), format!("{:?}", ExitCode::from(3)));
        assert_eq!(format!("{:?}", exit_code("test", Ok(()))), format!("{:?}", ExitCode::SUCCESS));
    }
}
