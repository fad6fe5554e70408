//! Flags and environment, and what they mean: two types, so that nothing raw gets any further.

mod error;
mod flags;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub use countersign_core::proxies::TrustedProxies;
use countersign_feed::{ISSUER_PREFIX, RedisUrl, is_lease_name};
use countersign_process::ServingTls;
pub use countersign_process::TlsFiles;

pub use self::{
    error::ConfigError,
    flags::{DEFAULT_SOCKET, Flags},
};
use crate::emergency::AuditLog;
pub use crate::source::jwks::FetchRules;

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
    use countersign_api::cluster::BUNDLES_NAMESPACE;

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
