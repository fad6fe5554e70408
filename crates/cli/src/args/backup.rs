//! `backup` and `restore`.

use std::path::PathBuf;

use clap::Args;

pub(super) const BACKUP_EXAMPLES: &str = "Examples:\n  \
    head -c 32 /dev/urandom > backup.key && countersign backup --to shop.backup --key-file backup.key\n  \
    pass show backup | countersign backup --to shop.backup --passphrase-file -";

pub(super) const RESTORE_EXAMPLES: &str = "Examples:\n  \
    countersign restore --from shop.backup --key-file backup.key --dry-run       # can it be read, and what is in it?\n  \
    countersign restore --from shop.backup --key-file backup.key                 # over what is here: it knows what was revoked since\n  \
    countersign restore --from shop.backup --key-file backup.key --redis redis://127.0.0.1:6379\n  \
    countersign restore --from shop.backup --key-file backup.key --without-feed  # everything issued before is cut off\n  \
    countersign restore --database postgresql://issuer:PASSWORD@db.example/shop --redis rediss://redis.example:6379  # after pg_restore";

/// `countersign backup`
#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// The file to write, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub(crate) to: PathBuf,
    /// The data directory
    #[arg(long, value_name = "DIR", default_value = ".countersign", env = "COUNTERSIGN_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// What it is encrypted under.
    #[command(flatten)]
    pub(crate) secret: SecretArgs,
}

/// `countersign restore`
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The file to read
    #[arg(long, value_name = "FILE", required_unless_present = "database", conflicts_with = "database")]
    pub(crate) from: Option<PathBuf>,
    /// A database that was put back by other means (`pg_restore`, a snapshot), to be made safe where it is: postgresql://… or
    /// sqlite:PATH. Nothing may use it meanwhile
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_DATABASE", hide_env_values = true)]
    pub(crate) database: Option<String>,
    /// The data directory; no `dev` may run on it
    #[arg(long, value_name = "DIR", default_value = ".countersign", env = "COUNTERSIGN_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// What it is encrypted under.
    #[command(flatten)]
    pub(crate) secret: SecretArgs,
    /// The Redis that `dev`, or the issuers, publish to, which knows what was revoked since [default: REDIS_URL]
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_REDIS", hide_env_values = true)]
    pub(crate) redis: Option<String>,
    /// Nothing knows any more what was revoked since: cut off everything that was issued before
    #[arg(long, conflicts_with = "redis")]
    pub(crate) without_feed: bool,
}

/// What a backup is encrypted under.
#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct SecretArgs {
    /// File with a passphrase of 12 characters or more, or - for standard input; a line's end after it doesn't count
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_PASSPHRASE_FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// File of 32 random bytes or more
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_KEY_FILE")]
    pub(crate) key_file: Option<PathBuf>,
}
