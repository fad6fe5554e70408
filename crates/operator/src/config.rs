//! Flags and environment, and what they mean: two types, so that nothing raw gets any further.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use countersign_api::{cluster, values};
use countersign_feed::{InvalidRedisUrl, RedisUrl};
use countersign_process::{HalfTls, TellingFlags, TlsFiles, TlsFlags};

/// The flags of `countersign-operator`. Each is also an environment variable, `COUNTERSIGN_` and its name.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "countersign-operator",
    version,
    about = "Turns AuthPolicies into key rings and bundles",
    mut_arg("tls_cert", |cert| {
        cert.help(
            "Certificate chain (PEM) for the API for the command line, which else makes one of its own, and for health, which \
             then takes TLS and plain HTTP; reloaded when it changes",
        )
    })
)]
pub struct Flags {
    /// Namespace of the operator's own objects: key rings, its Lease
    #[arg(long, value_name = "NAME", default_value = cluster::SYSTEM_NAMESPACE, env = "COUNTERSIGN_SYSTEM_NAMESPACE")]
    pub system_namespace: String,
    /// Namespace of bundles: what verifiers may read, and nothing else
    #[arg(long, value_name = "NAME", default_value = cluster::BUNDLES_NAMESPACE, env = "COUNTERSIGN_BUNDLES_NAMESPACE")]
    pub bundles_namespace: String,
    /// Redis that carries revocations and acknowledgements: redis://[USER:PASSWORD@]HOST[:PORT] or rediss://… (also from
    /// REDIS_URL)
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_REDIS", hide_env_values = true)]
    pub redis: Option<String>,
    /// Certificates (PEM) of authorities to trust for a rediss:// URL, in place of the system's
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_REDIS_CA_FILE")]
    pub redis_ca_file: Option<PathBuf>,
    /// No issuer is installed: the operator itself writes the bundles' revocations to the feed
    #[arg(long, env = "COUNTERSIGN_NO_ISSUER")]
    pub no_issuer: bool,
    /// Address of the API for the command line (TLS), or `off`
    #[arg(long, value_name = "ADDR:PORT", default_value_t = format!("0.0.0.0:{}", cluster::ports::OPERATOR), env = "COUNTERSIGN_LISTEN")]
    pub listen: String,
    /// Address for /healthz, /readyz and /metrics, or `off`
    #[arg(long, value_name = "ADDR:PORT", default_value_t = format!("0.0.0.0:{}", cluster::ports::OPERATOR_HEALTH), env = "COUNTERSIGN_HEALTH_LISTEN")]
    pub health_listen: String,
    /// Certificate of the listeners
    #[command(flatten)]
    pub tls: TlsFlags,
    /// This process's name among operators; default: POD_NAME, else made of host name and process id
    #[arg(long, env = "COUNTERSIGN_IDENTITY")]
    pub identity: Option<String>,
    /// How long the Lease of the leading operator is good for without renewal: after that another takes over, and its holder
    /// stops at two thirds of it. At least 3s
    #[arg(long, value_name = "DURATION", default_value_t = values::Duration::secs(15), env = "COUNTERSIGN_LEASE_DURATION")]
    pub lease_duration: values::Duration,
    /// Which cluster to work in; default: the one that this pod is in, else KUBECONFIG
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Fetch trusted issuers' keys from private and loopback addresses too, and by plain http
    #[arg(long, env = "COUNTERSIGN_JWKS_ALLOW_PRIVATE")]
    pub jwks_allow_private: bool,
    /// Certificates (PEM) of authorities to trust for fetching keys, beside the system's
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_JWKS_CA_FILE")]
    pub jwks_ca_file: Option<PathBuf>,
    /// Take the taint countersign.dev/not-ready off a node once its verifier is ready
    #[arg(long, env = "COUNTERSIGN_STARTUP_TAINT")]
    pub startup_taint: bool,
    /// Whether metrics carry the label `policy`
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, env = "COUNTERSIGN_METRICS_POLICY_LABEL")]
    pub metrics_policy_label: bool,
    /// Log and traces
    #[command(flatten)]
    pub telling: TellingFlags,
}

/// Settings that hold together.
#[derive(Clone, Debug)]
pub struct Config {
    /// The namespace of key rings and the Lease.
    pub system_namespace: String,
    /// The namespace of bundles.
    pub bundles_namespace: String,
    /// The feed's server.
    pub redis: Redis,
    /// Nobody else writes to the feed.
    pub no_issuer: bool,
    /// The command line's API.
    pub listen: Option<SocketAddr>,
    /// Health and metrics.
    pub health_listen: Option<SocketAddr>,
    /// Certificate and key of both.
    pub tls: Option<TlsFiles>,
    /// This process's name among operators.
    pub identity: String,
    /// How long a Lease is good for without renewal.
    pub lease_duration: Duration,
    /// Which cluster; absent: where this runs, else the environment's.
    pub kubeconfig: Option<PathBuf>,
    /// Trusted issuers' keys may come from anywhere.
    pub jwks_allow_private: bool,
    /// More authorities for fetching them.
    pub jwks_ca_file: Option<PathBuf>,
    /// Nodes lose the startup taint once their verifier is ready.
    pub startup_taint: bool,
    /// Metrics carry the label `policy`.
    pub metrics_policy_label: bool,
}

/// The feed's server.
#[derive(Clone)]
pub struct Redis {
    /// Where it is.
    pub url: Box<RedisUrl>,
    /// Authorities to trust in place of the system's (PEM).
    pub ca_pem: Option<Vec<u8>>,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("url", &self.url).field("own_authorities", &self.ca_pem.is_some()).finish()
    }
}

/// What of the environment settings depend on.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `REDIS_URL`.
    pub redis_url: Option<String>,
    /// `POD_NAME`.
    pub pod_name: Option<String>,
    /// The host's name and the process's id, in one.
    pub process: String,
}

/// The shortest life of a Lease: one call to the API server may take that long.
const MIN_LEASE_DURATION: values::Duration = values::Duration::secs(3);

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no feed.
    #[error(
        "--redis (REDIS_URL) is missing: without it nobody knows which verifiers hold a key, and none could be rotated"
    )]
    NoRedis,
    /// It can't be one.
    #[error("--redis (REDIS_URL): {0}")]
    Redis(#[source] InvalidRedisUrl),
    /// Not an address.
    #[error("{flag}: {value:?} is not ADDR:PORT or `off`")]
    Address {
        /// Where it was given.
        flag: &'static str,
        /// What was.
        value: String,
    },
    /// A file can't be read.
    #[error("{flag}: {}: {source}", path.display())]
    File {
        /// Where it was given.
        flag: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Two namespaces that have to differ don't.
    #[error(
        "--bundles-namespace is the system namespace {0:?}: verifiers may read everything there, and key rings are in it"
    )]
    OneNamespace(String),
    /// A certificate without its key, or the other way round.
    #[error(transparent)]
    HalfTls(#[from] HalfTls),
    /// Nothing identifies the process.
    #[error("--identity is empty")]
    NoIdentity,
    /// A Lease would end between two renewals.
    #[error("--lease-duration is {0}: it is at least {MIN_LEASE_DURATION}")]
    LeaseDuration(values::Duration),
}

impl Config {
    /// The settings that flags and environment make.
    pub fn try_new(flags: &Flags, environment: Environment) -> Result<Self, ConfigError> {
        if flags.bundles_namespace == flags.system_namespace {
            return Err(ConfigError::OneNamespace(flags.system_namespace.clone()));
        }
        let given = flags.redis.clone().or(environment.redis_url).filter(|url| !url.is_empty());
        let url: RedisUrl = given.ok_or(ConfigError::NoRedis)?.parse().map_err(ConfigError::Redis)?;
        let read = |path: &PathBuf| {
            let failed = |source| ConfigError::File { flag: "--redis-ca-file", path: path.clone(), source };
            std::fs::read(path).map_err(failed)
        };
        let ca_pem = flags.redis_ca_file.as_ref().map(read).transpose()?;
        let identity = flags.identity.clone().or(environment.pod_name).unwrap_or(environment.process);
        if identity.is_empty() {
            return Err(ConfigError::NoIdentity);
        }
        if flags.lease_duration < MIN_LEASE_DURATION {
            return Err(ConfigError::LeaseDuration(flags.lease_duration));
        }
        Ok(Self {
            system_namespace: flags.system_namespace.clone(),
            bundles_namespace: flags.bundles_namespace.clone(),
            redis: Redis { url: Box::new(url), ca_pem },
            no_issuer: flags.no_issuer,
            listen: address("--listen", &flags.listen)?,
            health_listen: address("--health-listen", &flags.health_listen)?,
            tls: flags.tls.files()?,
            identity,
            lease_duration: Duration::from_millis(flags.lease_duration.as_millis().unsigned_abs()),
            kubeconfig: flags.kubeconfig.clone(),
            jwks_allow_private: flags.jwks_allow_private,
            jwks_ca_file: flags.jwks_ca_file.clone(),
            startup_taint: flags.startup_taint,
            metrics_policy_label: flags.metrics_policy_label,
        })
    }
}

fn address(flag: &'static str, value: &str) -> Result<Option<SocketAddr>, ConfigError> {
    if value == "off" {
        return Ok(None);
    }
    value.parse().map(Some).map_err(|_| ConfigError::Address { flag, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn config(arguments: &[&str], redis_url: Option<&str>) -> Result<Config, ConfigError> {
        let flags = Flags::try_parse_from(["countersign-operator"].iter().chain(arguments)).unwrap();
        let process = "host-1".to_owned();
        Config::try_new(&flags, Environment { redis_url: redis_url.map(str::to_owned), pod_name: None, process })
    }

    #[test]
    fn a_mistake_in_a_flag_is_told_by_its_name() {
        let redis = "redis://127.0.0.1";
        for (arguments, named) in [
            (&["--listen", "nonsense"][..], "--listen"),
            (&["--health-listen", "1"], "--health-listen"),
            (&["--redis", "nonsense"], "--redis"),
            (&["--redis-ca-file", "/nonexistent"], "/nonexistent"),
            (&["--identity", ""], "--identity"),
            (&["--tls-cert", "/c"], "--tls-key is missing"),
            (&["--lease-duration", "2999ms"], "--lease-duration"),
            (&["--bundles-namespace", "countersign-system"], "--bundles-namespace"),
        ] {
            let said = config(arguments, Some(redis)).unwrap_err().to_string();
            assert!(said.contains(named), "{arguments:?}: {said}");
        }
        assert!(matches!(config(&[], None), Err(ConfigError::NoRedis)));
    }

    #[test]
    fn what_is_not_said_has_the_contract_s_values() {
        let config = config(&[], Some("redis://127.0.0.1")).unwrap();
        assert_eq!(config.listen.unwrap().port(), 7470);
        assert_eq!(config.health_listen.unwrap().port(), 7471);
        assert_eq!(
            (config.system_namespace.as_str(), config.bundles_namespace.as_str()),
            ("countersign-system", "countersign-bundles")
        );
        assert_eq!(config.identity, "host-1");
        assert_eq!(config.lease_duration, Duration::from_secs(15));
        assert!(!config.no_issuer);
    }
}
