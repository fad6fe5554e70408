//! The `countersign` command: `dev` (everything in one process) and the toolkit around it.
//!
//! Flags are read in [`args`], what is asked of a server goes through [`client`], results leave through [`output`]. This crate
//! decides nothing about tokens: that is core's; nor does it know what a verifier or an issuer does with a call.

mod args;
mod client;
mod commands;
mod credential;
mod demo;
mod dev;
mod failure;
mod output;
mod reference;
mod span;
mod target;

use std::process::ExitCode;

use clap::Parser as _;

pub use reference::reference;

use crate::{
    args::{Cli, Command, Common, Keys, PolicyCommand, TokenCommand},
    failure::{Exit, Failure},
    output::Printer,
};

/// What every command works with.
struct Session {
    common: Common,
    printer: Printer,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let printer = Printer::new(&cli.common, std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()));
    let session = Session { common: cli.common, printer };
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
        Command::Status => commands::status::status(session).await,
        Command::Fleet => commands::status::fleet(session).await,
        Command::Policy(PolicyCommand::Check(args)) => commands::policy::check(session, &args),
        Command::Policy(PolicyCommand::Show(args)) => commands::policy::show(session, &args).await,
        Command::Policy(PolicyCommand::Test(args)) => commands::policy::test(session, &args),
        Command::Crds => commands::plain::crds(),
        Command::Completions { shell } => commands::plain::completions(shell),
        Command::Version => commands::plain::version(session),
    }
}
