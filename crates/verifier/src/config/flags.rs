//! The flags as they are given.

use std::path::PathBuf;

use countersign_api::cluster::BUNDLES_NAMESPACE;
use countersign_process::{TellingFlags, TlsFlags};

use super::{ConfigError, FeedConfig, read};

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
