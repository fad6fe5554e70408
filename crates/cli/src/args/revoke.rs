//! `revoke`.

use clap::{Args, Subcommand, ValueEnum};

use crate::span::{Moment, Span};

pub(super) const EXAMPLES: &str = "Examples:\n  \
    countersign revoke token --policy shop/shop 01985c2e-…        # by its jti\n  \
    countersign revoke token \"$TOKEN\"                             # by itself; the policy is found\n  \
    countersign revoke session 01985c2e-… --reason \"lost laptop\"\n  \
    countersign revoke subject alice --before 2026-03-01T00:00:00Z\n  \
    leaked-ids | countersign revoke token --policy shop/shop -\n  \
    countersign revoke ip 203.0.113.0/24 --policy shop/shop\n  \
    countersign revoke all --policy shop/shop                     # asks first\n  \
    countersign revoke list --subject alice                       # what was revoked, and when\n\n\
    Exit status: 0 in force on every verifier (or, with --no-wait, in the feed); 3 not yet, with the laggards named.";

/// `countersign revoke`
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct RevokeArgs {
    #[command(subcommand)]
    pub(crate) look: Option<RevokeLook>,
    /// What the IDs are
    #[arg(value_enum, value_name = "KIND", required = true)]
    pub(crate) kind: Option<RevokeKind>,
    /// IDs: jti, session, subject, API key id, kid, address or network. `-` reads them from standard input, one a line;
    /// lines that begin with `#` say nothing.
    /// `token` and `api-key` also take the credential itself; `all` takes none
    #[arg(value_name = "ID|-")]
    pub(crate) ids: Vec<String>,
    /// End only what was issued up to this time: RFC 3339, or a duration ago such as 2h. For `subject` and `all` [default: now]
    #[arg(long, value_name = "TIME")]
    pub(crate) before: Option<Moment>,
    /// Why, for the history. Never a secret
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// The issuer whose credentials are meant [default: any that the policy trusts; for `key`: the policy itself]
    #[arg(long, value_name = "ISSUER")]
    pub(crate) issuer: Option<String>,
    /// How long to wait until every verifier enforces it
    #[arg(long, value_name = "DURATION", default_value = "30s", require_equals = true, num_args = 0..=1, default_missing_value = "30s", conflicts_with = "no_wait")]
    pub(crate) wait: Span,
    /// Don't wait for the verifiers
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Looking at what was revoked.
#[derive(Debug, Subcommand)]
pub(crate) enum RevokeLook {
    /// List what was revoked, latest first
    List(RevokeList),
}

/// `countersign revoke list`
#[derive(Debug, Args)]
pub(crate) struct RevokeList {
    /// Only what concerns this subject
    #[arg(long, value_name = "ID")]
    pub(crate) subject: Option<String>,
    /// Only this kind
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) kind: Option<RevokeKind>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) limit: usize,
}

/// What is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RevokeKind {
    /// One token.
    Token,
    /// One session with all its tokens.
    Session,
    /// All tokens of a subject.
    Subject,
    /// One API key.
    ApiKey,
    /// A signing key, for ever.
    Key,
    /// A client address or network: its calls are denied.
    Ip,
    /// Every token of the policy.
    All,
}
