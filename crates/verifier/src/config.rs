//! Flags and environment, and what they mean: two types, so that nothing raw gets any further.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use countersign_api::cluster::BUNDLES_NAMESPACE;
use countersign_core::proxies::InvalidProxy;
pub use countersign_core::proxies::TrustedProxies;
use countersign_feed::{ISSUER_PREFIX, InvalidRedisUrl, MAX_LEASE_NAME, RedisUrl, is_lease_name};
pub use countersign_process::TlsFiles;
use countersign_process::{HalfTls, ServingTls, TellingFlags, TlsError, TlsFlags};

use crate::emergency::AuditLog;
pub use crate::source::jwks::FetchRules;

/// Where the socket is unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/countersign/verifier.sock";

/// The flags of `countersign-verifier`. Each is also an environment variable, `COUNTERSIGN_` and its name.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "countersign-verifier",
    version,
    about = "Answers whether tokens are good, now, from memory",
    mut_arg("tls_cert", |cert| {
        cert.help(
            "Certificate chain (PEM) for the TCP listeners; reloaded when it changes. The health listener then takes both",
        )
    })
)]
pub struct Flags {
    /// Directory of policy bundles to serve and follow (`countersign dev` writes them to DATA_DIR/bundles)
    #[arg(long, value_name = "DIR", env = "COUNTERSIGN_BUNDLES")]
    pub bundles: Option<PathBuf>,
    /// Follow the cluster of this kubeconfig instead of a directory; within a cluster, that cluster is followed without it
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the cluster that holds bundles
    #[arg(long, value_name = "NAMESPACE", default_value = BUNDLES_NAMESPACE, env = "COUNTERSIGN_BUNDLES_NAMESPACE")]
    pub bundles_namespace: String,
    /// Public keys (a JWKS) that the cluster's bundles are signed with: a file, or the directory that the ConfigMap
    /// `bundle-trust` is mounted as; read again when it changes
    #[arg(long, value_name = "FILE|DIR", env = "COUNTERSIGN_BUNDLE_TRUST")]
    pub bundle_trust: Option<PathBuf>,
    /// Set by the kubelet: this process runs in a cluster
    #[arg(long, hide = true, env = "KUBERNETES_SERVICE_HOST")]
    pub kubernetes_service_host: Option<String>,
    /// The pod's name, under which the operator waits for this verifier
    #[arg(long, hide = true, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Redis that carries revocations: redis://[USER:PASSWORD@]HOST[:PORT] or rediss://… (also from REDIS_URL)
    #[arg(long, value_name = "URL", env = "COUNTERSIGN_REDIS", hide_env_values = true)]
    pub redis: Option<String>,
    /// Run without a feed: only policies with `onStale: Allow` are served, marked stale
    #[arg(long, env = "COUNTERSIGN_WITHOUT_FEED")]
    pub without_feed: bool,
    /// Certificates (PEM) of authorities to trust for a rediss:// URL, in place of the system's
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_REDIS_CA_FILE")]
    pub redis_ca_file: Option<PathBuf>,
    /// Directory for what a restart needs (last good policies, revocations); without it nothing is kept
    #[arg(long, value_name = "DIR", env = "COUNTERSIGN_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// This verifier's name in the fleet; default: the pod's (POD_NAME), one kept in the data directory, else made of host name
    /// and process id
    #[arg(long, env = "COUNTERSIGN_NAME")]
    pub name: Option<String>,
    /// Unix socket to serve on, or `off`
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, env = "COUNTERSIGN_SOCKET")]
    pub socket: String,
    /// Address to serve on, or `off`; port 0 picks a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:7480", env = "COUNTERSIGN_LISTEN")]
    pub listen: String,
    /// Address for /healthz, /readyz and /metrics, or `off`
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:7481", env = "COUNTERSIGN_HEALTH_LISTEN")]
    pub health_listen: String,
    /// Certificate of the TCP listeners
    #[command(flatten)]
    pub tls: TlsFlags,
    /// Whose X-Forwarded-… headers are believed: networks, `loopback`, `socket`, separated by commas
    #[arg(long, value_name = "LIST", default_value = "loopback,socket", env = "COUNTERSIGN_TRUSTED_PROXIES")]
    pub trusted_proxies: String,
    /// Verifications per second and caller that the cache can't answer, or `off`
    #[arg(long, value_name = "N", default_value = "5000", env = "COUNTERSIGN_UNCACHED_BUDGET")]
    pub uncached_budget: String,
    /// Memory for proven tokens, MiB per policy; 0 turns the cache off
    #[arg(long, value_name = "MIB", default_value_t = 64, env = "COUNTERSIGN_CACHE_MIB")]
    pub cache_mib: u32,
    /// Connections open at once; further ones get 503
    #[arg(long, value_name = "N", default_value_t = 16_384, env = "COUNTERSIGN_MAX_CONNECTIONS")]
    pub max_connections: u32,
    /// Answer 404 to GET /v1/policies
    #[arg(long, env = "COUNTERSIGN_RESTRICT_LISTING")]
    pub restrict_listing: bool,
    /// Whether metrics carry the label `policy`
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set, env = "COUNTERSIGN_METRICS_POLICY_LABEL")]
    pub metrics_policy_label: bool,
    /// Fetch trusted issuers' keys from private, loopback and link-local addresses too, and by plain http
    #[arg(long, visible_alias = "allow-private-issuers", env = "COUNTERSIGN_JWKS_ALLOW_PRIVATE")]
    pub jwks_allow_private: bool,
    /// Certificates (PEM) of authorities to trust for fetching keys, beside the system's
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_JWKS_CA_FILE")]
    pub jwks_ca_file: Option<PathBuf>,
    /// Log and traces
    #[command(flatten)]
    pub telling: TellingFlags,
}

/// Settings that hold together. Made of [`Flags`], or by a program that has a verifier within.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where policies come from.
    pub source: Source,
    /// Where the last good state is kept.
    pub data_dir: Option<PathBuf>,
    /// The Unix socket.
    pub socket: Option<PathBuf>,
    /// The API on TCP.
    pub listen: Option<SocketAddr>,
    /// Health and metrics.
    pub health_listen: Option<SocketAddr>,
    /// Certificate and key of the TCP listeners.
    pub tls: Option<TlsFiles>,
    /// Whose word about other requests is taken.
    pub trusted_proxies: TrustedProxies,
    /// Uncached verifications per second and caller; `None`: no bound.
    pub uncached_budget: Option<u32>,
    /// Bytes of proven tokens per policy; 0: no cache.
    pub cache_bytes: u64,
    /// Connections open at once.
    pub max_connections: usize,
    /// `GET /v1/policies` is off.
    pub restrict_listing: bool,
    /// Metrics carry the label `policy`.
    pub metrics_policy_label: bool,
    /// What trusted issuers' key sets may be fetched from.
    pub fetch_rules: FetchRules,
    /// Where uses of emergency tokens are written.
    pub audit_log: AuditLog,
}

/// Where policies come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A directory of bundles.
    Directory(PathBuf),
    /// A cluster's bundles.
    Kubernetes(KubernetesSource),
}

/// A cluster's bundles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesSource {
    /// How to reach the cluster; absent: as a pod within it.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of bundles.
    pub namespace: String,
    /// The file, or the directory, that names the keys of bundles.
    pub trust: PathBuf,
    /// The longest random wait before all bundles are listed again after a gap, so that a fleet doesn't come at once.
    pub relist_jitter: Duration,
    /// A watch that could not be resumed for longer than this may have been resumed in another history.
    pub doubtful_after: Duration,
}

impl KubernetesSource {
    /// The longest random wait before another list, unless told otherwise.
    pub const RELIST_JITTER: Duration = Duration::from_secs(5);
    /// How long without a watch a restored backup goes unnoticed at most, unless told otherwise.
    pub const DOUBTFUL_AFTER: Duration = Duration::from_secs(2);
}

/// Where revocations come from.
#[derive(Clone, Debug)]
pub enum FeedConfig {
    /// A Redis.
    Redis {
        /// Where.
        url: Box<RedisUrl>,
        /// Authorities for its certificate (PEM).
        ca_pem: Option<Vec<u8>>,
    },
    /// Nowhere.
    Without,
}

/// What is wrong with the flags. Each message names the flag and the way out.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No source.
    #[error(
        "say where policies come from: --bundles DIR, a directory of bundles, or --kubeconfig FILE, a cluster (within a cluster \
         it is that one)"
    )]
    NoSource,
    /// Both.
    #[error("--bundles and {other} exclude each other: a directory of bundles, or a cluster")]
    TwoSources {
        /// The flag of the other.
        other: &'static str,
    },
    /// A cluster, and nobody to trust.
    #[error(
        "--bundle-trust FILE|DIR is missing: only signed bundles are taken from a cluster; mount the ConfigMap bundle-trust of \
         the operator's namespace, and name the mount (COUNTERSIGN_BUNDLE_TRUST)"
    )]
    NoTrust,
    /// A pod whose name the operator could not wait for.
    #[error(
        "POD_NAME is missing: in a cluster a verifier goes by its pod's name; set it in the container's env from the field \
         metadata.name, or give --name"
    )]
    NoName,
    /// A name that the operator could not read, or would take for an issuer's.
    #[error(
        "--name: a verifier's name has 1 to {MAX_LEASE_NAME} bytes, no control characters, and doesn't begin with {ISSUER_PREFIX}"
    )]
    Name,
    /// Not a namespace.
    #[error("--bundles-namespace: {0:?} is no name of a namespace")]
    Namespace(String),
    /// Neither.
    #[error("say where revocations come from: --redis URL, or --without-feed to serve policies with onStale: Allow only")]
    NoFeed,
    /// Both.
    #[error("--redis and --without-feed exclude each other: give one of them")]
    TwoFeeds,
    /// Not a URL of a Redis.
    #[error("--redis: {0}")]
    Redis(#[from] InvalidRedisUrl),
    /// A file that can't be read.
    #[error("{flag} {}: {source}", path.display())]
    File {
        /// Which flag names it.
        flag: &'static str,
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not an address.
    #[error("{flag}: {value:?} is no ADDR:PORT (as 127.0.0.1:7480 or [::]:7480) and not `off`")]
    Address {
        /// Which flag.
        flag: &'static str,
        /// What it says.
        value: String,
    },
    /// A certificate without its key, or the other way round.
    #[error(transparent)]
    HalfTls(#[from] HalfTls),
    /// TLS can't be served with these.
    #[error("--tls-cert, --tls-key: {0}")]
    Tls(#[from] TlsError),
    /// Not a network.
    #[error("--trusted-proxies: {0}")]
    Proxy(#[from] InvalidProxy),
    /// Not a number.
    #[error("--uncached-budget: {0:?} is no number of verifications per second above 0, and not `off`")]
    Budget(String),
    /// Nobody could connect.
    #[error("--max-connections must be above 0")]
    NoConnections,
    /// Nothing to serve on.
    #[error("--socket and --listen are both off: the verifier would serve nobody")]
    NoListener,
}

impl ConfigError {
    /// The flag that it is about, where it is about one.
    pub fn flag(&self) -> Option<&'static str> {
        match self {
            Self::Name => Some("name"),
            Self::Namespace(_) => Some("bundles-namespace"),
            Self::Redis(_) => Some("redis"),
            Self::File { flag, .. } | Self::Address { flag, .. } => Some(flag.trim_start_matches('-')),
            Self::Tls(_) => Some("tls-cert"),
            Self::Proxy(_) => Some("trusted-proxies"),
            Self::Budget(_) => Some("uncached-budget"),
            Self::NoConnections => Some("max-connections"),
            Self::NoSource
            | Self::TwoSources { .. }
            | Self::NoTrust
            | Self::NoName
            | Self::NoFeed
            | Self::TwoFeeds
            | Self::HalfTls(_)
            | Self::NoListener => None,
        }
    }
}

impl Flags {
    /// The name in the fleet that flags or environment give, if any.
    pub fn given_name(&self) -> Option<&str> {
        [&self.name, &self.pod_name].into_iter().flatten().map(String::as_str).find(|name| !name.is_empty())
    }

    /// Where revocations come from. `redis_url` is the environment's `REDIS_URL`, which counts where no flag says anything.
    pub fn feed(&self, redis_url: Option<String>) -> Result<FeedConfig, ConfigError> {
        let url = match (&self.redis, self.without_feed) {
            (Some(_), true) => return Err(ConfigError::TwoFeeds),
            (None, true) => return Ok(FeedConfig::Without),
            (Some(url), false) => url.clone(),
            (None, false) => redis_url.filter(|url| !url.is_empty()).ok_or(ConfigError::NoFeed)?,
        };
        let ca_pem = self.redis_ca_file.as_deref().map(|path| read("--redis-ca-file", path)).transpose()?;
        Ok(FeedConfig::Redis { url: Box::new(url.parse()?), ca_pem })
    }
}

impl TryFrom<&Flags> for Config {
    type Error = ConfigError;

    fn try_from(flags: &Flags) -> Result<Self, ConfigError> {
        let tls = flags.tls.files()?;
        if let Some(files) = &tls {
            ServingTls::load(&files.cert, &files.key)?;
        }
        if flags.given_name().is_some_and(|name| !is_lease_name(name) || name.starts_with(ISSUER_PREFIX)) {
            return Err(ConfigError::Name);
        }
        let socket = Some(&flags.socket).filter(|s| *s != "off").map(PathBuf::from);
        let listen = listener("--listen", &flags.listen)?;
        if socket.is_none() && listen.is_none() {
            return Err(ConfigError::NoListener);
        }
        if flags.max_connections == 0 {
            return Err(ConfigError::NoConnections);
        }
        Ok(Self {
            source: source(flags)?,
            data_dir: flags.data_dir.clone(),
            socket,
            listen,
            health_listen: listener("--health-listen", &flags.health_listen)?,
            tls,
            trusted_proxies: flags.trusted_proxies.parse()?,
            uncached_budget: uncached_budget(&flags.uncached_budget)?,
            cache_bytes: u64::from(flags.cache_mib) << 20,
            max_connections: usize::try_from(flags.max_connections).unwrap_or(usize::MAX),
            restrict_listing: flags.restrict_listing,
            metrics_policy_label: flags.metrics_policy_label,
            fetch_rules: FetchRules { allow_private: flags.jwks_allow_private, ca_file: flags.jwks_ca_file.clone() },
            audit_log: AuditLog::default(),
        })
    }
}

impl Config {
    /// The settings of a verifier within another program: nothing bound, defaults elsewhere.
    pub fn embedded(bundles: PathBuf) -> Self {
        Self {
            source: Source::Directory(bundles),
            data_dir: None,
            socket: None,
            listen: None,
            health_listen: None,
            tls: None,
            trusted_proxies: TrustedProxies::default(),
            uncached_budget: Some(5000),
            cache_bytes: 64 << 20,
            max_connections: 16_384,
            restrict_listing: false,
            metrics_policy_label: true,
            fetch_rules: FetchRules::default(),
            audit_log: AuditLog::default(),
        }
    }
}

fn source(flags: &Flags) -> Result<Source, ConfigError> {
    if let Some(bundles) = &flags.bundles {
        let others = [("--kubeconfig", flags.kubeconfig.is_some()), ("--bundle-trust", flags.bundle_trust.is_some())];
        return match others.into_iter().find(|(_, given)| *given) {
            Some((other, _)) => Err(ConfigError::TwoSources { other }),
            None => Ok(Source::Directory(bundles.clone())),
        };
    }
    let in_cluster = flags.kubernetes_service_host.as_ref().is_some_and(|host| !host.is_empty());
    if flags.kubeconfig.is_none() && !in_cluster {
        return Err(ConfigError::NoSource);
    }
    if flags.kubeconfig.is_none() && flags.given_name().is_none() {
        return Err(ConfigError::NoName);
    }
    let namespace = flags.bundles_namespace.clone();
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if namespace.is_empty() || namespace.len() > 63 || !namespace.bytes().all(legal) {
        return Err(ConfigError::Namespace(namespace));
    }
    Ok(Source::Kubernetes(KubernetesSource {
        kubeconfig: flags.kubeconfig.clone(),
        namespace,
        trust: flags.bundle_trust.clone().ok_or(ConfigError::NoTrust)?,
        relist_jitter: KubernetesSource::RELIST_JITTER,
        doubtful_after: KubernetesSource::DOUBTFUL_AFTER,
    }))
}

fn listener(flag: &'static str, value: &str) -> Result<Option<SocketAddr>, ConfigError> {
    if value == "off" {
        return Ok(None);
    }
    let wrong = || ConfigError::Address { flag, value: value.to_owned() };
    // `:7480` is every address.
    let whole = if value.starts_with(':') { format!("0.0.0.0{value}") } else { value.to_owned() };
    whole.parse().map(Some).map_err(|_| wrong())
}

/// Verifications per second and caller that the cache can't answer; `off`: no bound.
pub fn uncached_budget(value: &str) -> Result<Option<u32>, ConfigError> {
    match value {
        "off" => Ok(None),
        number => match number.parse() {
            Ok(n) if n > 0 => Ok(Some(n)),
            _ => Err(ConfigError::Budget(value.to_owned())),
        },
    }
}

fn read(flag: &'static str, path: &Path) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(path).map_err(|source| ConfigError::File { flag, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let base = ["countersign-verifier", "--bundles", "/b"];
        let flags = Flags::try_parse_from(base.iter().chain(arguments)).map_err(|e| e.to_string())?;
        Config::try_from(&flags).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_the_contract_s() {
        let config = config(&[]).unwrap();
        assert_eq!(config.listen, Some("127.0.0.1:7480".parse().unwrap()));
        assert_eq!(config.health_listen, Some("0.0.0.0:7481".parse().unwrap()));
        assert_eq!(config.socket, Some(DEFAULT_SOCKET.into()));
        assert_eq!(config.trusted_proxies, TrustedProxies::default());
        assert_eq!(config.uncached_budget, Some(5000));
    }

    #[test]
    fn each_mistake_names_its_flag() {
        for (arguments, named) in [
            (&["--listen", "7480"][..], "--listen"),
            (&["--health-listen", "localhost:1"], "--health-listen"),
            (&["--trusted-proxies", "10.0.0.0/33"], "--trusted-proxies"),
            (&["--uncached-budget", "0"], "--uncached-budget"),
            (&["--uncached-budget=-1"], "--uncached-budget"),
            (&["--tls-cert", "/c"], "--tls-key is missing"),
            (&["--tls-key", "/c"], "--tls-cert is missing"),
            (&["--tls-key", "/nonexistent/k", "--tls-cert", "/nonexistent/c"], "/nonexistent/c"),
            (&["--max-connections", "0"], "--max-connections"),
            (&["--socket", "off", "--listen", "off"], "--socket and --listen"),
            (&["--cache-mib", "x"], "--cache-mib"),
        ] {
            let said = config(arguments).unwrap_err();
            assert!(said.contains(named), "{arguments:?}: {said}");
        }
    }

    #[test]
    fn there_is_exactly_one_answer_to_where_policies_come_from() {
        let source = |arguments: &[&str]| {
            let flags = Flags::try_parse_from(["countersign-verifier"].iter().chain(arguments)).unwrap();
            Config::try_from(&flags).map(|config| config.source).map_err(|error| error.to_string())
        };
        let pod = ["--kubernetes-service-host", "10.0.0.1", "--bundle-trust", "/t"];
        let with = |more: &[&'static str]| [&pod[..], more].concat();
        let Ok(Source::Kubernetes(found)) = source(&with(&["--pod-name", "v-1"])) else {
            panic!("a pod follows its cluster")
        };
        assert_eq!((found.kubeconfig, &*found.namespace), (None, BUNDLES_NAMESPACE));
        let outside = source(&["--kubeconfig", "/k", "--bundle-trust", "/t", "--bundles-namespace", "b"]);
        assert!(matches!(outside, Ok(Source::Kubernetes(found)) if found.kubeconfig.is_some() && found.namespace == "b"));
        let directory = ["--bundles", "/b", "--kubernetes-service-host", "10.0.0.1"];
        assert_eq!(source(&directory), Ok(Source::Directory("/b".into())), "a pod may be given a directory");
        for (arguments, named) in [
            (vec![], "--bundles DIR"),
            (with(&[]), "POD_NAME"),
            (with(&["--pod-name", ""]), "POD_NAME"),
            (vec!["--kubeconfig", "/k"], "--bundle-trust FILE|DIR"),
            (vec!["--bundles", "/b", "--kubeconfig", "/k"], "--bundles and --kubeconfig"),
            (vec!["--bundles", "/b", "--bundle-trust", "/t"], "--bundles and --bundle-trust"),
            (with(&["--name", "v\n1"]), "--name"),
            (with(&["--name", "issuer:v"]), "--name"),
            (with(&["--name", "v", "--bundles-namespace", "A/b"]), "--bundles-namespace"),
        ] {
            let said = source(&arguments).unwrap_err();
            assert!(said.contains(named), "{arguments:?}: {said}");
        }
    }

    #[test]
    fn there_is_exactly_one_answer_to_where_revocations_come_from() {
        let feed = |arguments: &[&str], env: Option<&str>| {
            let flags = Flags::try_parse_from(["countersign-verifier"].iter().chain(arguments)).unwrap();
            flags.feed(env.map(str::to_owned))
        };
        assert!(matches!(feed(&["--without-feed"], Some("redis://x")), Ok(FeedConfig::Without)));
        assert!(matches!(feed(&["--redis", "redis://127.0.0.1"], None), Ok(FeedConfig::Redis { .. })));
        assert!(matches!(feed(&[], Some("redis://127.0.0.1")), Ok(FeedConfig::Redis { .. })));
        assert!(matches!(feed(&[], None), Err(ConfigError::NoFeed)));
        assert!(matches!(feed(&["--redis", "redis://x", "--without-feed"], None), Err(ConfigError::TwoFeeds)));
        assert!(matches!(feed(&["--redis", "nonsense"], None), Err(ConfigError::Redis(_))));
    }
}
