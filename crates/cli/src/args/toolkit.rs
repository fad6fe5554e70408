//! `test-flow`, `diagnose` and `report`: what one reaches for when something is wrong.

use std::path::PathBuf;

use clap::Args;

pub(super) const TEST_FLOW_EXAMPLES: &str = "Examples:\n  \
    countersign test-flow --email probe@shop.example                 # the `dev` that runs here\n  \
    countersign test-flow --server https://auth.shop.example --email probe@shop.example\n  \
    countersign test-flow --server https://auth.shop.example --policy shop/shop --verifier http://10.0.0.7:7480 \\\n    \
    --email probe@shop.example -o json\n\n\
    The account is made for this and erased again, by the administrator's socket where there is one, else by itself; also when a \
    step fails, and on Ctrl-C. Where addresses must be verified that takes `dev`'s outbox or the administrator's socket.\n\n\
    Exit status: 0 every step held; 1 one did not; 3 a server could not be reached.";

/// `countersign test-flow`
#[derive(Debug, Args)]
pub(crate) struct TestFlow {
    /// The address of the account that is made, and erased at the end. One that no account has
    #[arg(long, value_name = "EMAIL")]
    pub(crate) email: String,
    /// The issuer, as clients call it [default: the one beside the admin socket; else --server is it]
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_ISSUER")]
    pub(crate) issuer: Option<String>,
    /// The verifier that judges the tokens [default: the one beside the admin socket; else the issuer judges]
    #[arg(long, value_name = "URL|unix:PATH", env = "COUNTERSIGN_VERIFIER")]
    pub(crate) verifier: Option<String>,
}

pub(super) const DIAGNOSE_EXAMPLES: &str = "Examples:\n  \
    countersign diagnose --user-id alice@shop.example\n  \
    countersign diagnose --token - < token.txt\n  \
    countersign diagnose --token \"$TOKEN\" --user-id alice --ip 203.0.113.7 -o json\n\n\
    Exit status: 0 every gate is open; 1 one is shut; 3 the issuer could not be reached.";

/// `countersign diagnose`
#[derive(Debug, Args)]
pub(crate) struct Diagnose {
    /// The token; `-` reads standard input
    #[arg(long, value_name = "TOKEN", required_unless_present_any = ["user_id", "ip"])]
    pub(crate) token: Option<String>,
    /// The account: its id, name or e-mail address
    #[arg(long, value_name = "USER")]
    pub(crate) user_id: Option<String>,
    /// The address that the calls come from
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<std::net::IpAddr>,
}

pub(super) const REPORT_EXAMPLES: &str = "Examples:\n  \
    countersign report                                    # countersign-report-….json in this directory\n  \
    countersign report --to - | less\n  \
    countersign report --include-sensitive --to case-4711.json\n\n\
    Passwords, tokens, codes and private keys are never in it. Names, addresses of people and of machines are masked, each always \
    alike, unless --include-sensitive.";

/// `countersign report`
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Leave people's names, e-mail and network addresses and their programs' names as they are
    #[arg(long)]
    pub(crate) include_sensitive: bool,
    /// The file, which must not be there yet, or `-` for standard output [default: countersign-report-TIME.json]
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,
    /// At most so many of the latest events of each policy
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub(crate) events: u32,
}
