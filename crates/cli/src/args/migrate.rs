//! `migrate`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::span::Span;

const PLAN_EXAMPLES: &str = "Examples:\n  countersign migrate plan --from sqlite:old.db --mapping old-shop.yaml\n  \
    countersign migrate plan --from postgresql+asyncpg://shop@db.example/shop --mapping old-shop.yaml -o json";
const RUN_EXAMPLES: &str = "Examples:\n  countersign migrate run --from sqlite:old.db --mapping old-shop.yaml\n  \
    COUNTERSIGN_FROM=postgresql://shop:PASSWORD@db.example/shop countersign migrate run --mapping old-shop.yaml \\\n    \
    --server https://admin.auth.example:7492 --bearer-token-file admin.token";
const ROLLBACK_EXAMPLES: &str = "Examples:\n  countersign migrate rollback --mapping old-shop.yaml --dry-run\n  \
    countersign migrate rollback --mapping old-shop.yaml";
const KEYS_EXAMPLES: &str = "Examples:\n  countersign migrate keys --from sqlite:old.db --mapping old-shop.yaml > \
    policies/secrets/old-api-keys/keys.json\n  \
    countersign migrate keys --from sqlite:old.db --mapping old-shop.yaml --secret old-api-keys -n shop | kubectl apply -f -";

/// `countersign migrate …`
#[derive(Debug, Subcommand)]
pub(crate) enum Migrate {
    /// Say what a run would bring, and every row that it can't, with the reason. Writes nothing
    #[command(after_long_help = PLAN_EXAMPLES)]
    Plan(Reading),
    /// Bring the accounts. May be stopped, killed and run again: it goes on where it was, and no row is brought twice
    #[command(after_long_help = RUN_EXAMPLES)]
    Run(Reading),
    /// Compare every row with the account that it became; exit status 1 when one is missing, or differs though nobody touched
    /// its account
    #[command(after_long_help = "Examples:\n  countersign migrate verify --from sqlite:old.db --mapping old-shop.yaml")]
    Verify(Reading),
    /// Take back what a run brought: the accounts that nobody has logged in to or changed since; asks first
    #[command(after_long_help = ROLLBACK_EXAMPLES)]
    Rollback(Rollback),
    /// Print the API keys of the mapping as the file, or the Secrets, that a policy's `opaqueKeys` names: those of owners that a
    /// run has brought, and that are active at the issuer still
    #[command(after_long_help = KEYS_EXAMPLES)]
    Keys(KeysArgs),
    /// Print a mapping to begin with
    #[command(after_long_help = "Examples:\n  countersign migrate example django > old-shop.yaml")]
    Example {
        /// The schema
        #[arg(value_enum, value_name = "SCHEMA")]
        schema: Schema,
    },
}

/// Where to read, and how.
#[derive(Debug, Args)]
pub(crate) struct Reading {
    /// The database to read, which is never written to: sqlite:PATH or postgresql://…; a +driver part is ignored. In the
    /// environment its password is hidden from other processes
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_FROM", hide_env_values = true)]
    pub(crate) from: String,
    /// The file that says which column is what
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_MAPPING")]
    pub(crate) mapping: PathBuf,
    /// How long a PostgreSQL may take to find the next rows before the query is given up; 0s: as long as it likes
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    pub(crate) query_timeout: Span,
}

/// `countersign migrate rollback`
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// The database that was read. Nothing of it is needed; taken so that the other commands' flags fit
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_FROM", hide_env_values = true)]
    pub(crate) from: Option<String>,
    /// The file that names the import
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_MAPPING")]
    pub(crate) mapping: PathBuf,
    /// Take back accounts that were used or changed as well: their sessions, API keys and tokens end on every verifier
    #[arg(long)]
    pub(crate) force: bool,
}

/// `countersign migrate keys`
#[derive(Debug, Args)]
pub(crate) struct KeysArgs {
    /// Where to read, and how.
    #[command(flatten)]
    pub(crate) reading: Reading,
    /// Print Secrets of this name (NAME, NAME-2, NAME-3: each holds 4,000 keys) in the namespace of -n
    #[arg(long, value_name = "NAME")]
    pub(crate) secret: Option<String>,
}

/// A schema that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Schema {
    /// FastAPI Users on `SQLAlchemy`.
    FastapiUsers,
    /// Supabase Auth, on its PostgreSQL.
    Supabase,
    /// Django's own accounts.
    Django,
    /// A table of one's own, with roles, second factors and API keys.
    HomeGrown,
}
