//! `users`, `sessions`, `api-keys`, `blocks` and `audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::span::{Moment, Span};

/// `countersign users …`
#[derive(Debug, Subcommand)]
pub(crate) enum Users {
    /// List accounts
    #[command(after_long_help = "Examples:\n  countersign users list\n  countersign users list --status locked -o name")]
    List(UsersList),
    /// Show an account
    #[command(after_long_help = "Examples:\n  countersign users get alice@shop.example")]
    Get(OfUser),
    /// Make an account. Without a password its owner gets a mail with a link to set one
    #[command(
        after_long_help = "Examples:\n  countersign users create --email root@shop.example --role admin   # the first administrator\n  \
            pass show root | countersign users create --email root@shop.example --password-stdin --verified"
    )]
    Create(UserCreate),
    /// Lock an account: its sessions end on every verifier, and it can't log in
    #[command(after_long_help = "Examples:\n  countersign users lock alice --reason \"laptop stolen\"")]
    Lock(UserLock),
    /// Let an account in again: clears lockout, lock and rate limit, and says what held it
    #[command(after_long_help = "Examples:\n  countersign users unlock alice --also-address 203.0.113.7")]
    Unlock(UserUnlock),
    /// Disable an account: its sessions, API keys and tokens end on every verifier
    #[command(after_long_help = "Examples:\n  countersign users disable alice --reason \"left the company\"")]
    Disable(UserReason),
    /// Enable a disabled account; what had ended stays ended
    #[command(after_long_help = "Examples:\n  countersign users enable alice")]
    Enable(UserReason),
    /// Remove an account's second factor, so that it can log in without
    #[command(after_long_help = "Examples:\n  countersign users reset-mfa alice")]
    ResetMfa(OfUser),
    /// Erase an account; asks first
    #[command(after_long_help = "Examples:\n  countersign users delete alice --yes")]
    Delete(OfUser),
}

/// `countersign users list`
#[derive(Debug, Args)]
pub(crate) struct UsersList {
    /// Only the one of this address
    #[arg(long, value_name = "EMAIL")]
    pub(crate) email: Option<String>,
    /// Only the one of this name
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// Only those of this status
    #[arg(long, value_enum, value_name = "STATUS")]
    pub(crate) status: Option<Status>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub(crate) limit: u32,
}

/// What an account may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Status {
    /// Log in.
    Active,
    /// Nothing before its address is verified.
    Pending,
    /// Nothing.
    Disabled,
    /// Nothing for a while.
    Locked,
}

/// An account.
#[derive(Debug, Args)]
pub(crate) struct OfUser {
    /// Its id, name or e-mail address
    #[arg(value_name = "USER")]
    pub(crate) user: String,
}

/// `countersign users create`
#[derive(Debug, Args)]
pub(crate) struct UserCreate {
    /// Its e-mail address
    #[arg(long, value_name = "EMAIL")]
    pub(crate) email: String,
    /// Its name
    #[arg(long, value_name = "NAME")]
    pub(crate) username: Option<String>,
    /// A role; may be given several times [default: the policy's defaultRoles]
    #[arg(long = "role", value_name = "ROLE")]
    pub(crate) roles: Vec<String>,
    /// First name
    #[arg(long, value_name = "NAME")]
    pub(crate) first_name: Option<String>,
    /// Last name
    #[arg(long, value_name = "NAME")]
    pub(crate) last_name: Option<String>,
    /// Read its password from standard input
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// Take the address for verified
    #[arg(long)]
    pub(crate) verified: bool,
}

/// `countersign users lock`
#[derive(Debug, Args)]
pub(crate) struct UserLock {
    /// Its id, name or e-mail address
    #[arg(value_name = "USER")]
    pub(crate) user: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: String,
    /// For how long [default: until it is unlocked]
    #[arg(long = "for", value_name = "DURATION")]
    pub(crate) lasts: Option<Span>,
}

/// `countersign users unlock`
#[derive(Debug, Args)]
pub(crate) struct UserUnlock {
    /// Its id, name or e-mail address
    #[arg(value_name = "USER")]
    pub(crate) user: String,
    /// Lift this address' block and rate limits, too
    #[arg(long, value_name = "IP")]
    pub(crate) also_address: Option<String>,
}

/// `countersign users disable|enable`
#[derive(Debug, Args)]
pub(crate) struct UserReason {
    /// Its id, name or e-mail address
    #[arg(value_name = "USER")]
    pub(crate) user: String,
    /// Why
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

/// `countersign sessions …`
#[derive(Debug, Subcommand)]
pub(crate) enum Sessions {
    /// List an account's live sessions
    #[command(after_long_help = "Examples:\n  countersign sessions list alice")]
    List(OfUser),
    /// End a session, or with --all every one of an account
    #[command(after_long_help = "Examples:\n  countersign sessions end 01985c2e-…\n  countersign sessions end --all alice")]
    End {
        /// The session's id, or with --all the account
        #[arg(value_name = "ID")]
        id: String,
        /// Every session of that account
        #[arg(long)]
        all: bool,
    },
}

/// `countersign api-keys …`
#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeys {
    /// List API keys, of one account or of all
    #[command(after_long_help = "Examples:\n  countersign api-keys list\n  countersign api-keys list billing@shop.example")]
    List {
        /// Whose: id, name or e-mail address
        #[arg(value_name = "USER")]
        user: Option<String>,
    },
    /// Make an API key of an account; it is shown once
    #[command(
        after_long_help = "Examples:\n  countersign api-keys create ci@shop.example --name deploy --scope orders:read --expires-in 720h"
    )]
    Create {
        /// Whose: id, name or e-mail address
        #[arg(value_name = "USER")]
        user: String,
        /// What it is called
        #[arg(long, value_name = "NAME")]
        name: String,
        /// A permission within its owner's; may be given several times
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<String>,
        /// How long it is good [default: spec.tokens.apiKeyMaxTTL]
        #[arg(long, value_name = "DURATION")]
        expires_in: Option<Span>,
    },
    /// Revoke API keys by their ids, on every verifier
    #[command(after_long_help = "Examples:\n  countersign api-keys revoke 01985c2e-…")]
    Revoke {
        /// Their ids
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
}

/// `countersign blocks …`
#[derive(Debug, Subcommand)]
pub(crate) enum Blocks {
    /// List blocked addresses and networks
    #[command(after_long_help = "Examples:\n  countersign blocks list")]
    List,
    /// Block an address or network: no login from there, and verifiers deny
    #[command(after_long_help = "Examples:\n  countersign blocks add 203.0.113.0/24 --reason \"scraper\" --for 24h")]
    Add {
        /// The address or network
        #[arg(value_name = "NETWORK")]
        network: String,
        /// Why
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// For how long [default: 30 days]
        #[arg(long = "for", value_name = "DURATION")]
        lasts: Option<Span>,
    },
    /// Lift blocks, automatic ones too
    #[command(after_long_help = "Examples:\n  countersign blocks remove 203.0.113.7")]
    Remove {
        /// The addresses or networks
        #[arg(value_name = "NETWORK", required = true)]
        networks: Vec<String>,
    },
}

/// `countersign audit …`
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List events, latest first
    #[command(after_long_help = "Examples:\n  countersign audit list --severity warning --since 24h\n  \
            countersign audit list --subject alice --jsonl          # a line for each event, for log shippers\n  \
            countersign audit list --since 720h --jsonl --to audit.jsonl")]
    List(AuditList),
    /// Follow the hash chain from its beginning; exit status 1 when an event was changed, added or removed
    #[command(
        after_long_help = "Examples:\n  countersign audit verify\n  countersign audit verify --head 1042:9f86d08… # as the issuer's log told it"
    )]
    Verify {
        /// An end of the chain as it was logged, PLACE:HASH; may be given several times
        #[arg(long = "head", value_name = "PLACE:HASH")]
        heads: Vec<String>,
    },
}

/// `countersign audit list`
#[derive(Debug, Args)]
pub(crate) struct AuditList {
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) event_type: Option<String>,
    /// Only those that matter at least so much: info, warning or critical
    #[arg(long, value_name = "SEVERITY")]
    pub(crate) severity: Option<String>,
    /// Only those of this subject, by id
    #[arg(long, value_name = "ID")]
    pub(crate) subject: Option<String>,
    /// Only those from this address
    #[arg(long, value_name = "IP")]
    pub(crate) ip: Option<String>,
    /// Only those since: RFC 3339, or a duration ago such as 2h
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Moment>,
    /// Only those until
    #[arg(long, value_name = "TIME")]
    pub(crate) until: Option<Moment>,
    /// At most so many [default: 100, with --jsonl all]
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<usize>,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) jsonl: bool,
    /// Write the lines to this file, which must not be there yet
    #[arg(long, value_name = "FILE", requires = "jsonl")]
    pub(crate) to: Option<PathBuf>,
}
