//! `keys`.

use clap::{Args, Subcommand, ValueEnum};

use crate::span::Span;

/// `countersign keys …`
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// List the rings: states, ages, acknowledgements, next rotation
    #[command(
        after_long_help = "Examples:\n  countersign keys list --policy shop/shop\n  countersign keys list -o json | jq '.rings.access'"
    )]
    List,
    /// Rotate now: a new key is published, and signs as soon as every verifier has acknowledged it
    #[command(
        after_long_help = "Examples:\n  countersign keys rotate --policy shop/shop\n  countersign keys rotate --ring api-key --no-wait"
    )]
    Rotate(Rotate),
    /// Revoke a signing key: everything that it ever signed is refused, for ever
    #[command(
        after_long_help = "Examples:\n  countersign keys revoke 9hK… --policy shop/shop --reason \"leaked in a backup\""
    )]
    Revoke(KeyRevoke),
}

/// `countersign keys rotate`
#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// Which ring
    #[arg(long, value_enum, default_value_t)]
    pub(crate) ring: RingChoice,
    /// How long to wait until the new key signs
    #[arg(long, value_name = "DURATION", default_value = "30s", require_equals = true, num_args = 0..=1, default_missing_value = "30s", conflicts_with = "no_wait")]
    pub(crate) wait: Span,
    /// Don't wait for the new key to sign
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// `countersign keys revoke`
#[derive(Debug, Args)]
pub(crate) struct KeyRevoke {
    /// The key's id, as `keys list` shows it
    #[arg(value_name = "KID")]
    pub(crate) kid: String,
    /// Why, for the history. Never a secret
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// How long to wait until every verifier enforces it
    #[arg(long, value_name = "DURATION", default_value = "30s", require_equals = true, num_args = 0..=1, default_missing_value = "30s", conflicts_with = "no_wait")]
    pub(crate) wait: Span,
    /// Don't wait for the verifiers
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Which ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum RingChoice {
    /// Access tokens' keys.
    #[default]
    Access,
    /// API keys' keys.
    ApiKey,
    /// Both.
    All,
}
