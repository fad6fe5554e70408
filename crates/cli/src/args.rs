//! The command line as it is written: raw flags and their help. What they mean is settled elsewhere.

mod backup;
mod dev;
mod hyphen;
mod keys;
mod migrate;
mod people;
mod policy;
mod revoke;
mod token;
mod toolkit;
mod wait;

use std::path::PathBuf;

use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::{BoolishValueParser, Styles, styling::AnsiColor},
};

pub(crate) use backup::{Backup, Restore, SecretArgs};
pub(crate) use dev::{Demo, Dev};
pub(crate) use hyphen::kids_as_values;
pub(crate) use keys::{KeyRevoke, Keys, RingChoice, Rotate};
pub(crate) use migrate::{KeysArgs, Migrate, Reading, Rollback, Schema};
pub(crate) use people::{ApiKeys, Audit, AuditList, Blocks, Sessions, Status, UserCreate, Users, UsersList};
pub(crate) use policy::{PolicyCheck, PolicyCommand, PolicyShow, PolicyTest};
pub(crate) use revoke::{RevokeArgs, RevokeKind, RevokeList, RevokeLook};
pub(crate) use token::{Demands, ExplainArgs, TokenCommand, TokenInspect, TokenMint, VerifyArgs};
pub(crate) use toolkit::{Diagnose, ReportArgs, TestFlow};
pub(crate) use wait::separated_wait;

use crate::{cluster::account::AccountName, span::Span};

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "countersign",
    version,
    about = "Tokens that are verified from local memory and refused within milliseconds of their revocation",
    long_about = "Tokens that are verified from local memory and refused within milliseconds of their revocation.\n\n\
        Results go to standard output, everything else to standard error. Exit status: 0 done; 1 the answer is no (an \
        invalid token, a failed check); 2 usage; 3 could not reach or do it, or not yet in force.",
    after_help = "Examples:\n  \
        countersign dev                                  # everything in one process\n  \
        countersign token mint --subject alice --role user\n  \
        countersign verify --explain \"$TOKEN\"\n  \
        countersign revoke subject alice\n  \
        countersign keys rotate --context prod-eu -n shop --policy shop   # on a cluster\n  \
        kubectl countersign status                       # likewise, installed as kubectl-countersign\n  \
        countersign demo                                 # the story in a minute",
    styles = STYLES,
    propagate_version = false,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// Flags that every command takes.
    #[command(flatten)]
    pub(crate) common: Common,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Common options")]
pub(crate) struct Common {
    /// Whom to talk to: an admin API's URL, or unix:PATH of its socket; for `verify` also a verifier's. Without it: the
    /// cluster of --context or --kubeconfig, of `kubectl countersign`, or of this pod; else ./.countersign/admin.sock if a
    /// process listens there; else the kubeconfig's current context, and a change asks first
    #[arg(long, global = true, value_name = "URL|unix:PATH", env = "COUNTERSIGN_SERVER")]
    pub(crate) server: Option<String>,

    /// File with the token that authorises calls to an admin API's URL (permission countersign:admin of that policy);
    /// a socket needs none
    #[arg(long, global = true, value_name = "FILE", env = "COUNTERSIGN_BEARER_TOKEN_FILE")]
    pub(crate) bearer_token_file: Option<PathBuf>,

    /// The kubeconfig's context whose cluster is meant [default with --kubeconfig or as kubectl plugin: the current one]
    #[arg(long, global = true, value_name = "NAME", env = "COUNTERSIGN_CONTEXT")]
    pub(crate) context: Option<String>,

    /// The kubeconfig that names the cluster [default with --context or as kubectl plugin: KUBECONFIG, else ~/.kube/config]
    #[arg(long, global = true, value_name = "FILE", env = "COUNTERSIGN_KUBECONFIG")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// The service account as which a cluster's operator is asked, with a token of ten minutes made for it alone [default:
    /// the caller's own token]
    #[arg(long, global = true, value_name = "NS/NAME", env = "COUNTERSIGN_AS_SERVICE_ACCOUNT")]
    pub(crate) as_service_account: Option<AccountName>,

    /// Namespace of a cluster's operator [default: countersign-system]
    #[arg(long, global = true, value_name = "NS", env = "COUNTERSIGN_SYSTEM_NAMESPACE")]
    pub(crate) system_namespace: Option<String>,

    /// Namespace of the policy [default: on a cluster the context's, else "default"]
    #[arg(short, long, global = true, value_name = "NS", env = "COUNTERSIGN_NAMESPACE")]
    pub(crate) namespace: Option<String>,

    /// The policy, NAME or NS/NAME. May be left out where the server has only one
    #[arg(long, global = true, value_name = "POLICY", env = "COUNTERSIGN_POLICY")]
    pub(crate) policy: Option<String>,

    /// How results are written
    #[arg(short, long, global = true, value_enum, default_value_t, env = "COUNTERSIGN_OUTPUT")]
    pub(crate) output: Format,

    /// Say nothing but results and errors
    #[arg(short, long, global = true, env = "COUNTERSIGN_QUIET", value_parser = BoolishValueParser::new())]
    pub(crate) quiet: bool,

    /// Answer yes to every question
    #[arg(short, long, global = true, env = "COUNTERSIGN_YES", value_parser = BoolishValueParser::new())]
    pub(crate) yes: bool,

    /// Say what would be done, and change nothing
    #[arg(long, global = true, env = "COUNTERSIGN_DRY_RUN", value_parser = BoolishValueParser::new())]
    pub(crate) dry_run: bool,

    /// How long a call may take, for example 10s
    #[arg(long, global = true, value_name = "DURATION", default_value = "10s", env = "COUNTERSIGN_TIMEOUT")]
    pub(crate) timeout: Span,

    /// Colours; NO_COLOR in the environment switches `auto` off
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t, env = "COUNTERSIGN_COLOR")]
    pub(crate) color: ColorChoice,
}

/// How results are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For people, with more columns.
    Wide,
    /// For programs.
    Json,
    /// For programs that read YAML.
    Yaml,
    /// Names alone, one a line.
    Name,
}

/// When colours are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

const FLEET_EXAMPLES: &str = "Examples:\n  countersign fleet\n  countersign fleet -o wide\n  \
    countersign fleet --context prod-eu";

/// `countersign fleet …`
#[derive(Debug, Subcommand)]
pub(crate) enum FleetCommand {
    /// Stop waiting for a verifier outside pods that has gone for good. One that is alive is remembered again
    #[command(after_long_help = "Examples:\n  countersign fleet forget edge-7 --context prod-eu")]
    Forget {
        /// Its name, as `fleet` shows it
        #[arg(value_name = "NAME")]
        name: String,
    },
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run verifier and issuer in one process on SQLite
    #[command(after_long_help = dev::DEV_EXAMPLES)]
    Dev(Box<Dev>),

    /// Show the whole story in under a minute, then exit
    #[command(after_long_help = dev::DEMO_EXAMPLES)]
    Demo(Demo),

    /// Mint tokens, or read one without trusting it
    #[command(subcommand, arg_required_else_help = true)]
    Token(TokenCommand),

    /// Ask the verifier whether a token is good, now
    #[command(after_long_help = token::VERIFY_EXAMPLES)]
    Verify(VerifyArgs),

    /// Say step by step why a token is or is not accepted: `verify --explain` under another name
    #[command(after_long_help = token::EXPLAIN_EXAMPLES)]
    ValidateToken(ExplainArgs),

    /// End tokens, sessions, subjects, API keys, signing keys, addresses or everything, on every verifier
    #[command(after_long_help = revoke::EXAMPLES)]
    Revoke(RevokeArgs),

    /// Look at a policy's signing keys, rotate or revoke them
    #[command(subcommand, arg_required_else_help = true)]
    Keys(Keys),

    /// Look at accounts, make, lock, disable or erase them
    #[command(subcommand, arg_required_else_help = true)]
    Users(Users),

    /// List and end people's sessions
    #[command(subcommand, arg_required_else_help = true)]
    Sessions(Sessions),

    /// List, make and revoke API keys
    #[command(subcommand, arg_required_else_help = true)]
    ApiKeys(ApiKeys),

    /// List, add and lift blocks of addresses
    #[command(subcommand, arg_required_else_help = true)]
    Blocks(Blocks),

    /// Read the audit trail, export it, or verify its hash chain
    #[command(subcommand, arg_required_else_help = true)]
    Audit(Audit),

    /// Show every part's health in one screen
    #[command(after_long_help = "Examples:\n  countersign status\n  countersign status -o json")]
    Status,

    /// Take a new account through register, login, second factor, refresh and logout, each step timed
    #[command(after_long_help = toolkit::TEST_FLOW_EXAMPLES)]
    TestFlow(TestFlow),

    /// Say what keeps an account, a token or an address out: every gate, its state, and the command that opens it
    #[command(after_long_help = toolkit::DIAGNOSE_EXAMPLES)]
    Diagnose(Diagnose),

    /// Write one file for a support case: versions, effective policies, status, fleet, metrics and the latest events
    #[command(after_long_help = toolkit::REPORT_EXAMPLES)]
    Report(ReportArgs),

    /// Show every verifier: what it holds, how fresh it is, what it refused
    #[command(after_long_help = FLEET_EXAMPLES)]
    Fleet {
        /// What to do instead
        #[command(subcommand)]
        command: Option<FleetCommand>,
    },

    /// Bring accounts from another schema: plan, run, verify, take back
    #[command(subcommand, arg_required_else_help = true)]
    Migrate(Migrate),

    /// Write one encrypted file with all that `dev` keeps: database, key rings, sealing key. Nothing has to stop for it
    #[command(after_long_help = backup::BACKUP_EXAMPLES)]
    Backup(Backup),

    /// Put a backup in the place of what a data directory holds, so that what was revoked since stays dead
    #[command(after_long_help = backup::RESTORE_EXAMPLES)]
    Restore(Restore),

    /// Check policy files, show them with every default filled in, or try their rules on a token
    #[command(subcommand, arg_required_else_help = true)]
    Policy(PolicyCommand),

    /// Print the Kubernetes resource definitions
    #[command(after_long_help = "Examples:\n  countersign crds | kubectl apply -f -")]
    Crds,

    /// Print a shell's completion script
    #[command(after_long_help = "Examples:\n  source <(countersign completions bash)\n  countersign completions fish > \
        ~/.config/fish/completions/countersign.fish")]
    Completions {
        /// The shell
        #[arg(value_enum, value_name = "SHELL")]
        shell: clap_complete::Shell,
    },

    /// Print the version
    Version,
}
