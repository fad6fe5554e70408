//! `dev`: verifier and issuer in one process, which plays the operator too.
//!
//! ```text
//!  policy files ─▶ watch ─▶ Declaration ─▶ operator ─▶ bundles/ ─▶ verifier ─▶ apps
//!                                             │ rings                 ▲
//!                                             ▼                       │ feed (in-process, or Redis)
//!                                  SQLite ◀─ issuer ──────────────────┘
//! ```
//! Everything is parsed before anything binds; everything that must survive `kill -9` is in SQLite before it is used.

mod banner;
mod builtin;
mod bundles;
pub(crate) mod data_dir;
mod declared;
mod demo_user;
mod environment;
mod legacy;
mod operator;
mod policies;
mod running;
mod settings;
mod status;
mod watching;

use std::io::IsTerminal as _;

use clap::CommandFactory as _;
use countersign_issuer::AuditLog;
use countersign_process::{known_variables, unknown_variables};
use countersign_verifier::Flags;

pub(crate) use self::{
    running::{Running, VERIFIER_NAME},
    settings::Settings,
    status::FROM_ENVIRONMENT,
};
use crate::{
    Session,
    args::{Cli, Dev, PolicyCheck},
    commands::{now, policy::check},
    failure::{Exit, Failure},
    stop::Stop,
};

/// `countersign dev`
pub(crate) async fn run(session: &Session, args: &Dev) -> Result<Exit, Failure> {
    let lookup = |name: &str| std::env::var(name).ok();
    let settings = Settings::new(args, &lookup, now())?;
    log_to_stderr(&settings.log_level)?;
    // Before anything else: an early signal must not kill a process that is about to clean up.
    let mut stop = Stop::new()?;
    for warning in settings.warnings.iter().chain(&misspelt_variables()) {
        session.printer.warn(warning);
    }
    if session.common.dry_run {
        return dry_run(session, &settings);
    }
    let printer = if settings.audit_log == Some(AuditLog::Stdout) { session.printer.aside() } else { session.printer };
    let running = tokio::select! {
        running = Running::start(settings) => running?,
        () = stop.asked() => return Ok(Exit::Done),
    };
    let demo = demo_user::demo_user(&running).await.unwrap_or_else(|failure| {
        session.printer.warn(&format!("there is no demo user: {failure}"));
        None
    });
    banner::print(printer, &running, demo.as_ref())?;
    stop.asked().await;
    session.printer.remark("stopping");
    tokio::select! {
        () = running.shutdown() => {}
        // Asked twice: at once. What must survive is on disk already.
        () = stop.asked() => session.printer.remark("stopping at once"),
    }
    Ok(Exit::Done)
}

/// The settings are in order; so must the policies be.
fn dry_run(session: &Session, settings: &Settings) -> Result<Exit, Failure> {
    if let Some(directory) = &settings.policies {
        let checked = check(session, &PolicyCheck { files: vec![directory.clone()] })?;
        if checked != Exit::Done {
            return Ok(checked);
        }
        session.printer.remark("dry run: would start");
        return Ok(Exit::Done);
    }
    session.printer.dry_run(&format!("start on {}", settings.data_dir.display()))
}

/// Names of ours in the environment that neither this command line knows nor the separate verifier's.
fn misspelt_variables() -> Vec<String> {
    let mut known = known_variables(&Cli::command());
    known.extend(known_variables(&Flags::command()));
    unknown_variables(&known, std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()))
}

fn log_to_stderr(level: &str) -> Result<(), Failure> {
    let filter = level.parse::<tracing_subscriber::EnvFilter>().map_err(|e| Failure::usage(format!("LOG_LEVEL: {e}")))?;
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(ansi).init();
    Ok(())
}
