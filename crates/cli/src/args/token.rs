//! `token`, `verify` and `validate-token`.

use clap::{Args, Subcommand};

use crate::span::Span;

pub(super) const VERIFY_EXAMPLES: &str = "Examples:\n  \
    countersign verify --policy shop/shop --permission orders:read \"$TOKEN\"\n  \
    countersign token mint --subject alice | countersign verify -\n  \
    countersign verify --explain -o json - < token.txt\n  \
    countersign verify --server http://127.0.0.1:7480 --policy shop/shop \"$TOKEN\"\n\n\
    Exit status: 0 valid; 1 not valid, or lacking what is asked for; 3 the verifier could not be reached or can't vouch.";

pub(super) const EXPLAIN_EXAMPLES: &str = "Examples:\n  \
    countersign validate-token --policy shop/shop --token \"$TOKEN\"";

const MINT_EXAMPLES: &str = "Examples:\n  \
    countersign token mint --policy shop/shop --subject alice --role user\n  \
    TOKEN=$(countersign token mint -q --subject ci --scope orders:read --ttl 5m)\n  \
    countersign token mint --subject alice -o json | jq -r .session_id\n  \
    countersign token mint --subject alice --role admin --emergency --reason INC-42";

const INSPECT_EXAMPLES: &str = "Examples:\n  \
    countersign token inspect \"$TOKEN\"\n  \
    pbpaste | countersign token inspect - -o json";

/// `countersign token …`
#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Mint an access token and print it
    #[command(after_long_help = MINT_EXAMPLES)]
    Mint(TokenMint),
    /// Show what a token says of itself. Nothing is verified
    #[command(after_long_help = INSPECT_EXAMPLES)]
    Inspect(TokenInspect),
}

/// `countersign token mint`
#[derive(Debug, Args)]
pub(crate) struct TokenMint {
    /// Whom the token speaks for (`sub`)
    #[arg(long, value_name = "SUBJECT")]
    pub(crate) subject: String,
    /// A role; repeatable
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<String>,
    /// A scope; repeatable
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// Whom it is for (`aud`); repeatable [default: the policy's audiences]
    #[arg(long = "audience", value_name = "AUDIENCE")]
    pub(crate) audiences: Vec<String>,
    /// How long it lives, at most the policy's accessTTL (emergency.maxTTL with --emergency), which is also the default
    #[arg(long, value_name = "DURATION")]
    pub(crate) ttl: Option<Span>,
    /// The session that it belongs to [default: a new one]
    #[arg(long, value_name = "ID")]
    pub(crate) session: Option<String>,
    /// Break the glass: a token within the policy's spec.emergency, each use of which is recorded
    #[arg(long, requires = "reason")]
    pub(crate) emergency: bool,
    /// Why an emergency token is needed; it is audited with every use, and no secret
    #[arg(long, value_name = "REASON", requires = "emergency")]
    pub(crate) reason: Option<String>,
}

/// `countersign token inspect`
#[derive(Debug, Args)]
pub(crate) struct TokenInspect {
    /// The token; `-` reads standard input [default: COUNTERSIGN_TOKEN]
    #[arg(value_name = "TOKEN")]
    pub(crate) token: Option<String>,
}

/// What must hold beside the token being good.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Demands {
    /// A permission that it must grant; repeatable
    #[arg(long = "permission", value_name = "PERMISSION")]
    pub(crate) permissions: Vec<String>,
    /// A role that it must carry; repeatable
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<String>,
    /// A scope that it must carry; repeatable
    #[arg(long = "scope", value_name = "SCOPE")]
    pub(crate) scopes: Vec<String>,
    /// An audience that it must name
    #[arg(long, value_name = "AUDIENCE")]
    pub(crate) audience: Option<String>,
    /// The request's method, for policies whose rules look at it
    #[arg(long, value_name = "METHOD")]
    pub(crate) method: Option<String>,
    /// The request's path, likewise
    #[arg(long, value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// The request's host, likewise
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// The client's address, for policies with address lists
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<String>,
    /// A feed position (as `revoke -o json` prints it) that the verdict must include
    #[arg(long, value_name = "POSITION")]
    pub(crate) min_position: Option<String>,
}

/// `countersign verify`
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// The token; `-` reads standard input [default: COUNTERSIGN_TOKEN]
    #[arg(value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Say step by step why
    #[arg(long)]
    pub(crate) explain: bool,
    /// Demands.
    #[command(flatten)]
    pub(crate) demands: Demands,
}

/// `countersign validate-token`
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The token; `-` reads standard input [default: COUNTERSIGN_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    pub(crate) token: Option<String>,
    /// Demands.
    #[command(flatten)]
    pub(crate) demands: Demands,
}
