//! Commands that ask nobody anything.

use clap::CommandFactory as _;
use serde_json::json;

use crate::{
    Session,
    args::Cli,
    failure::{Exit, Failure},
    output::{Block, Report},
};

/// `countersign crds`
pub(crate) fn crds(session: &Session) -> Result<Exit, Failure> {
    session.printer.raw(&countersign_api::crds())?;
    Ok(Exit::Done)
}

/// `countersign completions`
pub(crate) fn completions(session: &Session, shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "countersign", &mut script);
    session.printer.raw(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// `countersign version`
pub(crate) fn version(session: &Session) -> Result<Exit, Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let schema = countersign_api::bundle::SCHEMA;
    session.printer.report(&Report {
        document: json!({"version": version, "bundle_schema": schema}),
        human: vec![Block::Text(format!("countersign {version} (bundle schema {schema})"))],
        names: vec![version.to_owned()],
    })?;
    Ok(Exit::Done)
}
