//! `policy`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `countersign policy …`
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Check files: every error with file, line and field
    #[command(
        after_long_help = "Examples:\n  countersign policy check policies/*.yaml\n  countersign policy check policies/ -o json"
    )]
    Check(PolicyCheck),
    /// Show a policy, from files or from the server
    #[command(
        after_long_help = "Examples:\n  countersign policy show --effective shop.yaml\n  countersign policy show --effective --policy shop/shop"
    )]
    Show(PolicyShow),
    /// Try a policy's rules on a token and a request. The signature isn't checked
    #[command(
        after_long_help = "Examples:\n  countersign policy test shop.yaml --token \"$TOKEN\" --method POST --path /orders"
    )]
    Test(PolicyTest),
}

/// `countersign policy check`
#[derive(Debug, Args)]
pub(crate) struct PolicyCheck {
    /// Files, or directories whose .yaml, .yml and .json files are meant; `-` reads standard input
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
}

/// `countersign policy show`
#[derive(Debug, Args)]
pub(crate) struct PolicyShow {
    /// Files, or directories [default: what the server has]
    #[arg(value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// With every default filled in
    #[arg(long)]
    pub(crate) effective: bool,
}

/// `countersign policy test`
#[derive(Debug, Args)]
pub(crate) struct PolicyTest {
    /// The policy's file
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The token; `-` reads standard input [default: COUNTERSIGN_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// The request's method
    #[arg(long, value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// The request's path
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// The request's host
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// The request's query
    #[arg(long, value_name = "QUERY")]
    pub(crate) query: Option<String>,
    /// The client's address
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<std::net::IpAddr>,
    /// The client's User-Agent
    #[arg(long, value_name = "TEXT")]
    pub(crate) user_agent: Option<String>,
    /// The client's device
    #[arg(long, value_name = "ID")]
    pub(crate) device_id: Option<String>,
}
