//! The `countersign` command: `dev` (everything in one process) and the toolkit around it.
//!
//! Flags are read in [`args`]; [`target`] settles whom they speak of: a server, asked through [`client`], or a [`cluster`].
//! Results leave through [`output`]. This crate decides nothing about tokens: that is core's; nor does it know what a verifier or an issuer does with a call.

mod args;
mod backup;
mod client;
mod cluster;
mod commands;
mod consent;
mod credential;
mod demo;
mod dev;
mod failure;
mod output;
mod reference;
mod span;
mod stop;
mod target;

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory as _, FromArgMatches as _, error::ContextKind};

pub use reference::reference;

use crate::{
    args::{Cli, Command, Common, FleetCommand, Keys, PolicyCommand, TokenCommand},
    failure::{Exit, Failure},
    output::Printer,
};

/// What every command works with.
struct Session {
    common: Common,
    printer: Printer,
    /// Run by kubectl.
    plugin: bool,
}

/// The name under which kubectl finds this command.
const PLUGIN: &str = "kubectl-countersign";

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = args::kids_as_values(std::env::args_os().collect());
    let plugin = arguments.first().is_some_and(|name| Path::new(name).file_stem() == Some(OsStr::new(PLUGIN)));
    let cli = parse(&arguments, plugin);
    let printer = Printer::new(&cli.common, std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()));
    let session = Session { common: cli.common, printer, plugin };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            printer.error(&Failure::unable(format!("can't start: {error}")));
            return Exit::Unable.into();
        }
    };
    let ended = runtime.block_on(run(&session, cli.command));
    // A task that is still blocked in a system call must not hold up the exit.
    runtime.shutdown_background();
    match ended {
        Ok(exit) => exit.into(),
        Err(failure) => {
            printer.error(&failure);
            failure.exit.into()
        }
    }
}

/// The command line; what is wrong with it, or the help that was asked for, ends the process.
fn parse(arguments: &[OsString], plugin: bool) -> Cli {
    let mut command = Cli::command();
    if plugin {
        command = command.bin_name("kubectl countersign");
    }
    if let Some(separated) = args::separated_wait(arguments) {
        command.error(clap::error::ErrorKind::ValueValidation, separated).exit();
    }
    let parsed = command.try_get_matches_from_mut(arguments).and_then(|matches| Cli::from_arg_matches(&matches));
    parsed.unwrap_or_else(|error| {
        let error = error.format(&mut command);
        let named = error.get(ContextKind::InvalidArg).map(ToString::to_string);
        let _ = error.print();
        if let Some(variable) = named.and_then(|flag| value_behind(&command, &flag, arguments)) {
            Printer::complain(&format!("  the value is that of {variable} in the environment"));
        }
        std::process::exit(error.exit_code())
    })
}

/// The variable that gave a flag its value. `flag` is as messages show it: `--listen <ADDR:PORT>`.
fn value_behind(command: &clap::Command, flag: &str, arguments: &[OsString]) -> Option<String> {
    let long = flag.strip_prefix("--").or_else(|| flag.split_once(" --").map(|(_, long)| long))?;
    let long = long.split([' ', '=']).next()?;
    countersign_process::variable_behind(command, long, arguments)
}

async fn run(session: &Session, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Dev(args) => dev::run(session, &args).await,
        Command::Demo(args) => demo::run(session, &args).await,
        Command::Token(TokenCommand::Mint(args)) => commands::token::mint(session, &args).await,
        Command::Token(TokenCommand::Inspect(args)) => commands::token::inspect(session, &args),
        Command::Verify(args) => {
            commands::verify::verify(session, args.token.as_deref(), &args.demands, args.explain).await
        }
        Command::ValidateToken(args) => commands::verify::verify(session, args.token.as_deref(), &args.demands, true).await,
        Command::Revoke(args) => commands::revoke::revoke(session, &args).await,
        Command::Keys(Keys::List) => commands::keys::list(session).await,
        Command::Keys(Keys::Rotate(args)) => commands::keys::rotate(session, &args).await,
        Command::Keys(Keys::Revoke(args)) => commands::keys::revoke(session, &args).await,
        Command::Users(command) => commands::people::users(session, command).await,
        Command::Sessions(command) => commands::people::sessions(session, command).await,
        Command::ApiKeys(command) => commands::people::api_keys(session, command).await,
        Command::Blocks(command) => commands::people::blocks(session, command).await,
        Command::Audit(command) => commands::people::audit(session, command).await,
        Command::Status => commands::status::status(session).await,
        Command::Diagnose(args) => commands::people::diagnose(session, &args).await,
        Command::Report(args) => commands::report::report(session, &args).await,
        Command::TestFlow(args) => commands::test_flow::test_flow(session, &args).await,
        Command::Fleet { command: None } => commands::fleet::list(session).await,
        Command::Fleet { command: Some(FleetCommand::Forget { name }) } => commands::fleet::forget(session, &name).await,
        Command::Migrate(command) => commands::migrate::migrate(session, command).await,
        Command::Backup(args) => backup::backup(session, &args).await,
        Command::Restore(args) => backup::restore(session, &args).await,
        Command::Policy(PolicyCommand::Check(args)) => commands::policy::check(session, &args),
        Command::Policy(PolicyCommand::Show(args)) => commands::policy::show(session, &args).await,
        Command::Policy(PolicyCommand::Test(args)) => commands::policy::test(session, &args),
        Command::Crds => commands::plain::crds(session),
        Command::Completions { shell } => commands::plain::completions(shell),
        Command::Version => commands::plain::version(session),
    }
}
