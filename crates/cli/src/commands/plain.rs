//! Commands that ask nobody anything.

use clap::CommandFactory as _;
use serde_json::json;

use crate::{
    Session,
    args::Cli,
    failure::{Exit, Failure},
    output::{Block, Report, write_out},
};

/// `countersign crds`
pub(crate) fn crds() -> Result<Exit, Failure> {
    write_out(&countersign_api::crds())?;
    Ok(Exit::Done)
}

/// `countersign completions`
pub(crate) fn completions(shell: clap_complete::Shell) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "countersign", &mut script);
    write_out(&String::from_utf8_lossy(&script))?;
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
