//! `dev` and `demo`.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, builder::BoolishValueParser};
use countersign_issuer::{AuditLog, AuditRetention};

pub(super) const DEV_EXAMPLES: &str = "Examples:\n  \
    countersign dev\n  \
    countersign dev --policies ./policies --data-dir /var/lib/countersign\n  \
    countersign dev --redis redis://127.0.0.1:6379      # so that separate verifiers follow\n  \
    countersign dev --verifier-listen 127.0.0.1:0       # a free port; see DATA_DIR/addresses.json\n\n\
    Environment, beside COUNTERSIGN_* for the flags: REDIS_URL, DATABASE_URL (sqlite:PATH or postgresql://…), LOG_LEVEL, PORT (the issuer's), and \
    for the default policy JWT_SECRET_KEY with JWT_ALGORITHM and LEGACY_TOKENS_NOT_AFTER (tokens from before), \
    ACCESS_TOKEN_EXPIRE_MINUTES or JWT_ACCESS_TOKEN_EXPIRE_MINUTES or JWT_EXPIRATION_SECONDS, REFRESH_TOKEN_EXPIRE_DAYS or \
    JWT_REFRESH_TOKEN_EXPIRE_DAYS, MAX_CONCURRENT_SESSIONS, SESSION_TIMEOUT_MINUTES, MFA_ISSUER_NAME, MAX_LOGIN_ATTEMPTS, \
    ACCOUNT_LOCKOUT_DURATION_MINUTES, PASSWORD_MIN_LENGTH; and SMTP_HOST with SMTP_PORT, SMTP_USER, SMTP_PASSWORD, \
    SMTP_FROM_EMAIL and SMTP_TLS (mails; without it they stay in DATA_DIR/outbox). See docs/dev.md.";

pub(super) const DEMO_EXAMPLES: &str = "Examples:\n  countersign demo\n  countersign demo -o json\n\n\
    Exit status: 0 every step held; 1 a step failed; 3 it could not run.";

/// `countersign dev`
#[derive(Clone, Debug, Args)]
pub(crate) struct Dev {
    /// Directory of policy files, watched: an edit takes effect, a broken one is reported and the last good one stays.
    /// Secrets and config maps are DIR/secrets/NAME/KEY and DIR/configmaps/NAME/KEY [default: one built-in policy,
    /// default/dev]
    #[arg(long, value_name = "DIR", env = "COUNTERSIGN_POLICIES")]
    pub(crate) policies: Option<PathBuf>,
    /// Where everything is kept: database, sockets, bundles, addresses.json
    #[arg(long, value_name = "DIR", default_value = ".countersign", env = "COUNTERSIGN_DATA_DIR")]
    pub(crate) data_dir: PathBuf,
    /// The policy that answers where none is named [default: default/dev if it is there, else the first in name order]
    #[arg(long, value_name = "NS/NAME", env = "COUNTERSIGN_DEFAULT_POLICY")]
    pub(crate) default_policy: Option<String>,
    /// Publish revocations to this Redis, so that separate verifiers follow it [default: REDIS_URL, else in-process]
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_REDIS", hide_env_values = true)]
    pub(crate) redis: Option<String>,
    /// Where the verifier listens; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7480", env = "COUNTERSIGN_VERIFIER_LISTEN")]
    pub(crate) verifier_listen: SocketAddr,
    /// Where the verifier's /healthz, /readyz and /metrics are
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7481", env = "COUNTERSIGN_VERIFIER_HEALTH_LISTEN")]
    pub(crate) verifier_health_listen: SocketAddr,
    /// Where the issuer listens [default: 127.0.0.1:7490, or the port in PORT]
    #[arg(long, value_name = "ADDR:PORT", env = "COUNTERSIGN_ISSUER_LISTEN")]
    pub(crate) issuer_listen: Option<SocketAddr>,
    /// Where the issuer's /healthz, /readyz and /metrics are
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7491", env = "COUNTERSIGN_ISSUER_HEALTH_LISTEN")]
    pub(crate) issuer_health_listen: SocketAddr,
    /// Where the admin API is, beside DATA_DIR/admin.sock; without TLS a loopback address
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7492", env = "COUNTERSIGN_ADMIN_LISTEN")]
    pub(crate) admin_listen: SocketAddr,
    /// Certificate chain (PEM) for the TCP listeners; reloaded when it changes. Health listeners go on taking plain HTTP
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "COUNTERSIGN_TLS_CERT")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key (PEM) of --tls-cert
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "COUNTERSIGN_TLS_KEY")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Take SECRET_KEY for JWT_SECRET_KEY (other frameworks use that name for cookies)
    #[arg(long, env = "COUNTERSIGN_LEGACY_ENV", value_parser = BoolishValueParser::new())]
    pub(crate) legacy_env: bool,
    /// Let policies name http and private addresses for other issuers' keys
    #[arg(long, visible_alias = "jwks-allow-private", env = "COUNTERSIGN_ALLOW_PRIVATE_ISSUERS", value_parser = BoolishValueParser::new())]
    pub(crate) allow_private_issuers: bool,
    /// Whose X-Forwarded-… headers are believed: networks, `loopback`, `socket`, separated by commas [default: the verifier's
    /// loopback,socket; the issuer's none]
    #[arg(long, value_name = "LIST", env = "COUNTERSIGN_TRUSTED_PROXIES")]
    pub(crate) trusted_proxies: Option<String>,
    /// The names by which the issuer answers, separated by commas: hosts, each with a port or without, and `*.shop.example` for
    /// all below one [default: any]
    #[arg(long, value_name = "LIST", value_delimiter = ',', env = "COUNTERSIGN_TRUSTED_HOSTS")]
    pub(crate) trusted_hosts: Vec<String>,
    /// How long events of the audit trail are kept, at least 24h, or `off` for ever
    #[arg(long, value_name = "DURATION", default_value = AuditRetention::DEFAULT, env = "COUNTERSIGN_AUDIT_RETENTION")]
    pub(crate) audit_retention: AuditRetention,
    /// Where sealed events of the audit trail are written as lines of JSON, for log shippers: `stdout` (what is printed at the
    /// start then goes to standard error), or a file, which is gone on with, and opened anew when it was renamed; without it
    /// nowhere
    #[arg(long, value_name = "stdout|FILE", env = "COUNTERSIGN_AUDIT_LOG")]
    pub(crate) audit_log: Option<AuditLog>,
    /// Verifications per second and caller that the verifier's cache can't answer, or `off`
    #[arg(long, value_name = "N", default_value = "5000", env = "COUNTERSIGN_UNCACHED_BUDGET")]
    pub(crate) uncached_budget: String,
    /// The verifier answers 404 to GET /v1/policies
    #[arg(long, env = "COUNTERSIGN_RESTRICT_LISTING", value_parser = BoolishValueParser::new())]
    pub(crate) restrict_listing: bool,
    /// Whether the verifier's metrics carry the label `policy`
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, env = "COUNTERSIGN_METRICS_POLICY_LABEL")]
    pub(crate) metrics_policy_label: bool,
}

/// `countersign demo`
#[derive(Clone, Debug, Args)]
pub(crate) struct Demo {
    /// Where to keep its data [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR", env = "COUNTERSIGN_DEMO_DATA_DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}
