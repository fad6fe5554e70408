//! Flags and environment, and what they mean: two types, so that nothing raw gets any further.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use countersign_api::cluster::{self, ports};
use countersign_core::{
    names::{InvalidPolicyName, PolicyName},
    proxies::{InvalidProxy, TrustedProxies},
};
use countersign_feed::{InvalidRedisUrl, RedisUrl};
use countersign_issuer::{AuditLog, AuditRetention, InvalidSmtp, SmtpSettings};
use countersign_process::{HalfTls, TellingFlags, TlsFiles, TlsFlags};
use countersign_store::{InvalidLocation, Location};
use zeroize::Zeroizing;

/// Names that other deployments use and that mean nothing here: verifiers follow the same policy, and know only what its
/// AuthPolicy says. Each with the field to set there.
const SET_IN_THE_POLICY: [(&str, &str); 13] = [
    ("JWT_SECRET_KEY", "spec.trustedIssuers[].secretKeyRef"),
    ("ACCESS_TOKEN_EXPIRE_MINUTES", "spec.tokens.accessTTL"),
    ("JWT_ACCESS_TOKEN_EXPIRE_MINUTES", "spec.tokens.accessTTL"),
    ("JWT_EXPIRATION_SECONDS", "spec.tokens.accessTTL"),
    ("REFRESH_TOKEN_EXPIRE_DAYS", "spec.tokens.refreshTTL"),
    ("JWT_REFRESH_TOKEN_EXPIRE_DAYS", "spec.tokens.refreshTTL"),
    ("MAX_CONCURRENT_SESSIONS", "spec.login.sessions.maxConcurrent"),
    ("SESSION_TIMEOUT_MINUTES", "spec.login.sessions.idleTimeout"),
    ("MFA_ISSUER_NAME", "spec.login.mfa.totp.issuerName"),
    ("MAX_LOGIN_ATTEMPTS", "spec.login.lockout.maxFailures"),
    ("ACCOUNT_LOCKOUT_DURATION_MINUTES", "spec.login.lockout.duration"),
    ("PASSWORD_MIN_LENGTH", "spec.login.passwords.minLength"),
    ("EMERGENCY_AUTH_MODE", "spec.emergency"),
];

/// The flags of `countersign-issuer`. Each is also an environment variable, `COUNTERSIGN_` and its name.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "countersign-issuer",
    version,
    about = "Gives people and programs their tokens, by the policies of a cluster",
    mut_arg("tls_cert", |cert| {
        cert.help(
            "Certificate chain (PEM) for every TCP listener; reloaded when it changes. The one for health then takes TLS and plain \
             HTTP",
        )
    }),
    after_help = "Secrets come from the environment alone: TOKEN_ENCRYPTION_KEY (16 characters or more, the same for every \
                  replica; TOKEN_ENCRYPTION_KEY_PREVIOUS while it is being changed), DATABASE_URL, REDIS_URL, SMTP_HOST, \
                  SMTP_PORT, SMTP_USER, SMTP_PASSWORD, SMTP_TLS, SMTP_FROM_EMAIL."
)]
pub struct Flags {
    /// Namespace of key rings and of what issuers are told
    #[arg(long, value_name = "NAME", default_value = cluster::SYSTEM_NAMESPACE, env = "COUNTERSIGN_SYSTEM_NAMESPACE")]
    pub system_namespace: String,
    /// Namespace of bundles
    #[arg(long, value_name = "NAME", default_value = cluster::BUNDLES_NAMESPACE, env = "COUNTERSIGN_BUNDLES_NAMESPACE")]
    pub bundles_namespace: String,
    /// Public keys (a JWKS) that rings and bundles are signed with: a file, or the directory that the ConfigMap `bundle-trust`
    /// is mounted as; read again when it changes
    #[arg(long, value_name = "FILE|DIR", env = "COUNTERSIGN_BUNDLE_TRUST")]
    pub bundle_trust: PathBuf,
    /// Which cluster to work in; default: the one that this pod is in, else KUBECONFIG
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Database: postgresql://USER:PASSWORD@HOST/NAME, or sqlite:PATH for a single replica (also from DATABASE_URL)
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    /// Redis that carries revocations and limits: redis://[USER:PASSWORD@]HOST[:PORT] or rediss://… (also from REDIS_URL)
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_REDIS", hide_env_values = true)]
    pub redis: Option<String>,
    /// Certificates (PEM) of authorities to trust for a rediss:// URL, in place of the system's
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_REDIS_CA_FILE")]
    pub redis_ca_file: Option<PathBuf>,
    /// The policy that answers where none is named, NAMESPACE/NAME; without it every path or host names one
    #[arg(long, value_name = "NS/NAME", env = "COUNTERSIGN_DEFAULT_POLICY")]
    pub default_policy: Option<String>,
    /// Address of the issuer's routes [default: 0.0.0.0:7490, and the port of PORT where that is set]
    #[arg(long, value_name = "ADDR:PORT", env = "COUNTERSIGN_LISTEN")]
    pub listen: Option<String>,
    /// Address for /healthz, /readyz and /metrics
    #[arg(long, value_name = "ADDR:PORT", default_value_t = format!("0.0.0.0:{}", ports::ISSUER_HEALTH), env = "COUNTERSIGN_HEALTH_LISTEN")]
    pub health_listen: String,
    /// Address of the admin API; without TLS on loopback only
    #[arg(long, value_name = "ADDR:PORT", default_value_t = format!("127.0.0.1:{}", ports::ISSUER_ADMIN), env = "COUNTERSIGN_ADMIN_LISTEN")]
    pub admin_listen: String,
    /// Address of the admin API for users of the cluster, through the API server's service proxy (TLS), or `off`
    #[arg(long, value_name = "ADDR:PORT", default_value_t = format!("0.0.0.0:{}", ports::ISSUER_CLUSTER_ADMIN), env = "COUNTERSIGN_CLUSTER_ADMIN_LISTEN")]
    pub cluster_admin_listen: String,
    /// Unix socket of the admin API; whoever can open it is an administrator
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/countersign-issuer/admin.sock",
        env = "COUNTERSIGN_ADMIN_SOCKET"
    )]
    pub admin_socket: PathBuf,
    /// Certificate of the listeners
    #[command(flatten)]
    pub tls: TlsFlags,
    /// Whose X-Forwarded-… headers are believed: networks, `loopback`, separated by commas; none unless said
    #[arg(long, value_name = "LIST", env = "COUNTERSIGN_TRUSTED_PROXIES")]
    pub trusted_proxies: Option<String>,
    /// Names by which the issuer answers, each with a port or without; `*.shop.example` for all below one. None: any
    #[arg(long, value_name = "HOST", value_delimiter = ',', env = "COUNTERSIGN_TRUSTED_HOSTS")]
    pub trusted_hosts: Vec<String>,
    /// Let policies' own mail servers (spec.login.mail.smtpSecretRef) be at private and loopback addresses. The one of
    /// SMTP_HOST may be anywhere
    #[arg(long, env = "COUNTERSIGN_SMTP_ALLOW_PRIVATE")]
    pub smtp_allow_private: bool,
    /// How long events of the audit trail are kept, at least 24h, or `off` for ever
    #[arg(long, value_name = "DURATION", default_value = AuditRetention::DEFAULT, env = "COUNTERSIGN_AUDIT_RETENTION")]
    pub audit_retention: AuditRetention,
    /// Where sealed events of the audit trail are written as lines of JSON, for log shippers: `stdout`, or a file, which is
    /// gone on with, and opened anew when it was renamed; without it nowhere
    #[arg(long, value_name = "stdout|FILE", env = "COUNTERSIGN_AUDIT_LOG")]
    pub audit_log: Option<AuditLog>,
    /// What kind of installation this is, as health shows it
    #[arg(long, value_name = "NAME", default_value = "production", env = "COUNTERSIGN_ENVIRONMENT")]
    pub environment: String,
    /// This issuer's name: the pod's, by which the operator waits for it
    #[arg(long, value_name = "NAME", env = "COUNTERSIGN_IDENTITY")]
    pub identity: Option<String>,
    /// Log and traces
    #[command(flatten)]
    pub telling: TellingFlags,
}

/// Settings that hold together.
#[derive(Clone, Debug)]
pub struct Config {
    /// The namespace of key rings.
    pub system_namespace: String,
    /// The namespace of bundles.
    pub bundles_namespace: String,
    /// Whose signatures count.
    pub bundle_trust: PathBuf,
    /// Which cluster; absent: where this runs, else the environment's.
    pub kubeconfig: Option<PathBuf>,
    /// The durable truth.
    pub database: Location,
    /// The feed's server.
    pub redis: Redis,
    /// The policy that answers where none is named.
    pub default_policy: Option<PolicyName>,
    /// The issuer's routes.
    pub listen: SocketAddr,
    /// Health and metrics.
    pub health_listen: SocketAddr,
    /// The admin API.
    pub admin_listen: SocketAddr,
    /// The admin API for users of the cluster.
    pub cluster_admin_listen: Option<SocketAddr>,
    /// The admin API's socket.
    pub admin_socket: PathBuf,
    /// Certificate and key of all of these.
    pub tls: Option<TlsFiles>,
    /// Whose word about a client's address is taken.
    pub trusted_proxies: TrustedProxies,
    /// The names by which it answers; none: any.
    pub trusted_hosts: Vec<String>,
    /// What kind of installation this is.
    pub environment: String,
    /// How long events of the audit trail are kept.
    pub audit_retention: AuditRetention,
    /// Where its sealed events are written for log shippers, if anywhere.
    pub audit_log: Option<AuditLog>,
    /// This process's name among issuers.
    pub identity: String,
    /// What is derived from: the present text, then the one before it.
    pub secrets: Keys,
    /// How mails go out; absent: only as policies say themselves.
    pub smtp: Option<Arc<SmtpSettings>>,
    /// Whether those of policies may be at private addresses.
    pub smtp_allow_private: bool,
    /// What is odd about the environment.
    pub warnings: Vec<String>,
}

/// Texts that keys are derived from.
#[derive(Clone)]
pub struct Keys(pub Vec<Zeroizing<String>>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// The feed's server.
#[derive(Clone)]
pub struct Redis {
    /// Where it is.
    pub url: RedisUrl,
    /// Authorities to trust in place of the system's (PEM).
    pub ca_pem: Option<Vec<u8>>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("url", &self.url).field("own_authorities", &self.ca_pem.is_some()).finish()
    }
}

/// What is wrong with the settings. Each message names the flag or variable, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no database.
    #[error(
        "DATABASE_URL (--database) is missing: name the PostgreSQL that accounts are kept in, postgresql://USER:PASSWORD@HOST/NAME"
    )]
    NoDatabase,
    /// It can't be one.
    #[error("DATABASE_URL (--database): {0}")]
    Database(#[source] InvalidLocation),
    /// There is no feed.
    #[error("REDIS_URL (--redis) is missing: without it no verifier would learn of a logout")]
    NoRedis,
    /// It can't be one.
    #[error("REDIS_URL (--redis): {0}")]
    Redis(#[source] InvalidRedisUrl),
    /// There is nothing to derive keys from.
    #[error("TOKEN_ENCRYPTION_KEY is missing: give every replica the same 16 characters or more, from a Secret")]
    NoKey,
    /// Too little to derive keys from.
    #[error("{0} has fewer than 16 characters")]
    ShortKey(&'static str),
    /// Not a policy's name.
    #[error("--default-policy: {0}")]
    DefaultPolicy(#[source] InvalidPolicyName),
    /// Not an address.
    #[error("{flag}: {value:?} is not ADDR:PORT")]
    Address {
        /// Where it was given.
        flag: &'static str,
        /// What was.
        value: String,
    },
    /// The admin API would be open to a network without TLS.
    #[error("--admin-listen {0}: without --tls-cert and --tls-key the admin API listens on loopback only")]
    OpenAdmin(SocketAddr),
    /// Not networks.
    #[error("--trusted-proxies: {0}")]
    Proxies(#[from] InvalidProxy),
    /// A file can't be read.
    #[error("--redis-ca-file {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not a mail server.
    #[error(transparent)]
    Smtp(#[from] InvalidSmtp),
    /// A certificate without its key, or the other way round.
    #[error(transparent)]
    HalfTls(#[from] HalfTls),
    /// Nothing identifies the process.
    #[error("--identity (POD_NAME) is missing: the operator waits for issuers by their pods' names")]
    NoIdentity,
}

impl Config {
    /// The settings that flags and environment make.
    pub fn try_new(flags: &Flags, env: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let database = flags.database.clone().filter(|url| !url.is_empty()).or_else(|| set("DATABASE_URL"));
        let database = database.ok_or(ConfigError::NoDatabase)?.parse().map_err(ConfigError::Database)?;
        let redis = flags.redis.clone().filter(|url| !url.is_empty()).or_else(|| set("REDIS_URL"));
        let url = redis.ok_or(ConfigError::NoRedis)?.parse().map_err(ConfigError::Redis)?;
        let read = |path: &PathBuf| std::fs::read(path).map_err(|source| ConfigError::File { path: path.clone(), source });
        let ca_pem = flags.redis_ca_file.as_ref().map(read).transpose()?;
        let listen = match (&flags.listen, set("PORT")) {
            (Some(given), _) => address("--listen", given)?,
            (None, None) => everywhere(ports::ISSUER),
            (None, Some(port)) => match port.parse() {
                Ok(port) => everywhere(port),
                Err(_) => return Err(ConfigError::Address { flag: "PORT", value: port }),
            },
        };
        let tls = flags.tls.files()?;
        let admin_listen = address("--admin-listen", &flags.admin_listen)?;
        if tls.is_none() && !admin_listen.ip().is_loopback() {
            return Err(ConfigError::OpenAdmin(admin_listen));
        }
        let identity = flags.identity.clone().or_else(|| set("POD_NAME")).filter(|name| !name.is_empty());
        Ok(Self {
            system_namespace: flags.system_namespace.clone(),
            bundles_namespace: flags.bundles_namespace.clone(),
            bundle_trust: flags.bundle_trust.clone(),
            kubeconfig: flags.kubeconfig.clone(),
            database,
            redis: Redis { url, ca_pem },
            default_policy: match flags.default_policy.as_deref().filter(|name| !name.is_empty()) {
                Some(name) => Some(name.parse().map_err(ConfigError::DefaultPolicy)?),
                None => None,
            },
            listen,
            health_listen: address("--health-listen", &flags.health_listen)?,
            admin_listen,
            cluster_admin_listen: match flags.cluster_admin_listen.as_str() {
                "off" => None,
                given => Some(address("--cluster-admin-listen", given)?),
            },
            admin_socket: flags.admin_socket.clone(),
            tls,
            trusted_proxies: match flags.trusted_proxies.as_deref().filter(|list| !list.is_empty()) {
                Some(list) => list.parse()?,
                None => TrustedProxies::none(),
            },
            trusted_hosts: flags.trusted_hosts.iter().map(|h| h.trim().to_owned()).filter(|h| !h.is_empty()).collect(),
            environment: flags.environment.clone(),
            audit_retention: flags.audit_retention,
            audit_log: flags.audit_log.clone(),
            identity: identity.ok_or(ConfigError::NoIdentity)?,
            secrets: secrets(&set)?,
            smtp: SmtpSettings::from_variables(set)?.map(Arc::new),
            smtp_allow_private: flags.smtp_allow_private,
            warnings: warnings(&set),
        })
    }
}

fn secrets(set: &dyn Fn(&str) -> Option<String>) -> Result<Keys, ConfigError> {
    let text = |name: &'static str| match set(name) {
        Some(text) if text.len() < 16 => Err(ConfigError::ShortKey(name)),
        text => Ok(text.map(Zeroizing::new)),
    };
    let present = text("TOKEN_ENCRYPTION_KEY")?.ok_or(ConfigError::NoKey)?;
    Ok(Keys([Some(present), text("TOKEN_ENCRYPTION_KEY_PREVIOUS")?].into_iter().flatten().collect()))
}

/// What deployments have, and nothing here needs.
const CSRF_SECRET_KEY: &str = "CSRF_SECRET_KEY";

fn warnings(set: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, field) in SET_IN_THE_POLICY {
        if set(name).is_some() {
            warnings.push(format!(
                "{name} means nothing in a cluster: set {field} of the AuthPolicy, which verifiers follow too"
            ));
        }
    }
    if set(CSRF_SECRET_KEY).is_some() {
        warnings.push(format!(
            "{CSRF_SECRET_KEY} is not needed: CSRF tokens are signed with the policy's own keys, by which verifiers check them"
        ));
    }
    warnings
}

fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

fn address(flag: &'static str, value: &str) -> Result<SocketAddr, ConfigError> {
    value.parse().map_err(|_| ConfigError::Address { flag, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    const SOUND: [(&str, &str); 4] = [
        ("DATABASE_URL", "postgresql+asyncpg://u:p@db/shop"),
        ("REDIS_URL", "redis://127.0.0.1"),
        ("TOKEN_ENCRYPTION_KEY", "0123456789abcdef"),
        ("POD_NAME", "issuer-1"),
    ];

    fn config(arguments: &[&str], change: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let all = ["countersign-issuer", "--bundle-trust", "/trust"].iter().chain(arguments);
        let flags = Flags::try_parse_from(all).unwrap();
        let lookup = |name: &str| {
            let of = |pairs: &[(&str, &str)]| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
            of(change).or_else(|| of(&SOUND))
        };
        Config::try_new(&flags, &lookup)
    }

    #[test]
    fn a_mistake_is_told_by_the_name_of_its_flag_or_variable() {
        for (arguments, change, named) in [
            (&["--listen", "nonsense"][..], &[][..], "--listen"),
            (&["--health-listen", "off"], &[], "--health-listen"),
            (&["--admin-listen", "0.0.0.0:7492"], &[], "--admin-listen"),
            (&["--cluster-admin-listen", "on"], &[], "--cluster-admin-listen"),
            (&["--default-policy", "shop"], &[], "--default-policy"),
            (&["--redis-ca-file", "/nonexistent"], &[], "/nonexistent"),
            (&["--trusted-proxies", "10.0.0.0/99"], &[], "--trusted-proxies"),
            (&["--tls-cert", "/c"], &[], "--tls-key is missing"),
            (&[], &[("DATABASE_URL", "")], "DATABASE_URL"),
            (&[], &[("DATABASE_URL", "mysql://x")], "DATABASE_URL"),
            (&[], &[("REDIS_URL", "")], "REDIS_URL"),
            (&[], &[("TOKEN_ENCRYPTION_KEY", "")], "TOKEN_ENCRYPTION_KEY"),
            (&[], &[("TOKEN_ENCRYPTION_KEY", "short")], "TOKEN_ENCRYPTION_KEY"),
            (&[], &[("TOKEN_ENCRYPTION_KEY_PREVIOUS", "short")], "TOKEN_ENCRYPTION_KEY_PREVIOUS"),
            (&[], &[("PORT", "high")], "PORT"),
            (&[], &[("POD_NAME", "")], "POD_NAME"),
            (&[], &[("SMTP_HOST", "mail"), ("SMTP_PORT", "x")], "SMTP_PORT"),
        ] {
            let said = config(arguments, change).unwrap_err().to_string();
            assert!(said.contains(named), "{named}: {said}");
        }
    }

    #[test]
    fn what_is_not_said_has_the_contract_s_values_and_no_secret_is_shown() {
        let config = config(&[], &[("PORT", "8000")]).unwrap();
        assert_eq!((config.listen.port(), config.health_listen.port(), config.admin_listen.port()), (8000, 7491, 7492));
        assert_eq!(config.secrets.0.len(), 1);
        assert!(!config.smtp_allow_private, "a policy's mail server is nowhere inside unless that is said");
        let shown = format!("{config:?}");
        assert!(!shown.contains("0123456789abcdef") && !shown.contains("u:p@"), "{shown}");
    }

    #[test]
    fn a_flag_that_is_given_counts_more_than_port() {
        for (arguments, change, listens) in [
            (&[][..], &[][..], "0.0.0.0:7490"),
            (&[], &[("PORT", "8000")], "0.0.0.0:8000"),
            (&["--listen", "127.0.0.1:9000"], &[("PORT", "8000")], "127.0.0.1:9000"),
            (&["--listen", "0.0.0.0:7490"], &[("PORT", "8000")], "0.0.0.0:7490"),
        ] {
            assert_eq!(config(arguments, change).unwrap().listen.to_string(), listens, "{arguments:?} {change:?}");
        }
    }

    #[test]
    fn a_name_that_only_the_policy_can_honour_is_named_with_its_field() {
        let config = config(&[], &[("MAX_LOGIN_ATTEMPTS", "3")]).unwrap();
        assert!(config.warnings[0].contains("spec.login.lockout.maxFailures"), "{:?}", config.warnings);
    }

    #[test]
    fn a_secret_that_nothing_needs_is_named_with_what_protects_in_its_place_and_is_not_shown() {
        let config = config(&[], &[("CSRF_SECRET_KEY", "a secret of before")]).unwrap();
        let expected = "CSRF_SECRET_KEY is not needed: CSRF tokens are signed with the policy's own keys, by which verifiers check them";
        assert_eq!(config.warnings, [expected]);
    }
}
