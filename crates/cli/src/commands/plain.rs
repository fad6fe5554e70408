//! Commands that ask nobody anything.

use clap::CommandFactory as _;
use serde_json::json;

use crate::{
    Session,
    args::{Cli, Format},
    commands::text,
    failure::{Exit, Failure},
    output::{Block, Report, write_out},
};

/// `countersign crds`
pub(crate) fn crds(session: &Session) -> Result<Exit, Failure> {
    if session.printer.format() != Format::Json && session.printer.format() != Format::Name {
        // As the file of the repository is, comments and all.
        write_out(&countersign_api::crds())?;
        return Ok(Exit::Done);
    }
    let items = countersign_api::crd_objects();
    let names = items.iter().map(|crd| text(&crd["metadata"], "name").to_owned()).collect();
    let document = json!({"apiVersion": "v1", "kind": "List", "items": items});
    session.printer.report(&Report { document, human: Vec::new(), names })?;
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
