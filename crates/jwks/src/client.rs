//! One fetch, under the rules that keep a policy's author from using us against others.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use countersign_core::{
    jose::{JwkSet, MAX_DEPTH, strict_json},
    keys::load_jwks,
};
use reqwest::{
    Certificate, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect,
};

use super::{Place, Target, address::is_public};

/// The largest document.
const MAX_BYTES: usize = 1 << 20;

/// How long one fetch may take in all.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What may be fetched from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchRules {
    /// Private, loopback and link-local addresses too, and plain http.
    pub allow_private: bool,
    /// Certificates of authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// Why nothing can be fetched at all.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file of authorities can't be read.
    #[error("--jwks-ca-file {}: {reason}", path.display())]
    CaFile {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The HTTP client can't be made.
    #[error("no HTTPS client: {0}")]
    Client(#[source] reqwest::Error),
}

/// Why a fetch brought no key set.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Plain http, or no URL at all.
    #[error("not an https URL")]
    NotHttps,
    /// The host is none of the public Internet.
    #[error("the host's address is private, loopback or link-local (--jwks-allow-private permits that)")]
    PrivateAddress,
    /// No connection, or none that lasted.
    #[error("{0}")]
    Transport(String),
    /// Not 200; redirects are not followed.
    #[error("answered {0}")]
    Status(u16),
    /// Over the bound.
    #[error("the document is over 1 MiB")]
    TooLarge,
    /// Not a JWKS.
    #[error("{0}")]
    NotAKeySet(String),
    /// The discovery document doesn't lead to one.
    #[error("the discovery document {0}")]
    Discovery(&'static str),
    /// A set, with nothing in it to verify with.
    #[error("the set has no usable key for the entry's algorithms")]
    NoUsableKey,
}

impl FetchError {
    /// The label in `countersign_jwks_fetches_total`.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NotHttps | Self::PrivateAddress => "forbidden",
            Self::Transport(_) => "unreachable",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::NotAKeySet(_) | Self::Discovery(_) => "invalid",
            Self::NoUsableKey => "no_usable_key",
        }
    }
}

/// Fetches key sets.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    allow_private: bool,
}

impl Client {
    /// A client under these rules.
    pub fn new(rules: &FetchRules) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .https_only(!rules.allow_private)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")));
        if !rules.allow_private {
            builder = builder.dns_resolver(PublicAddresses);
        }
        if let Some(path) = &rules.ca_file {
            let error = |reason: String| ClientError::CaFile { path: path.clone(), reason };
            let pem = fs::read(path).map_err(|e| error(e.to_string()))?;
            let authorities = Certificate::from_pem_bundle(&pem).map_err(|e| error(e.to_string()))?;
            if authorities.is_empty() {
                return Err(error("holds no PEM certificate".into()));
            }
            builder = builder.tls_certs_merge(authorities);
        }
        Ok(Self { http: builder.build().map_err(ClientError::Client)?, allow_private: rules.allow_private })
    }

    /// The key set of `target`, with at least one key that can be used.
    pub async fn fetch(&self, target: &Target) -> Result<JwkSet, FetchError> {
        let url = match &target.place {
            Place::Url(url) => url.clone(),
            Place::Discovery(issuer) => self.discover(issuer).await?,
        };
        let bytes = self.get(&url).await?;
        let set = JwkSet::parse(&bytes).map_err(|e| FetchError::NotAKeySet(e.to_string()))?;
        if load_jwks(&set, &target.algorithms).keys.is_empty() { Err(FetchError::NoUsableKey) } else { Ok(set) }
    }

    /// The `jwks_uri` of an issuer (OpenID Connect Discovery section 4). A document that speaks for another issuer isn't
    /// believed.
    async fn discover(&self, issuer: &str) -> Result<String, FetchError> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let bytes = self.get(&url).await?;
        let document =
            strict_json::parse(&bytes, MAX_DEPTH).map_err(|_| FetchError::Discovery("is not JSON that means one thing"))?;
        let text = |name: &str| document.get(name).and_then(serde_json::Value::as_str);
        if text("issuer") != Some(issuer) {
            return Err(FetchError::Discovery("names another issuer"));
        }
        text("jwks_uri").map(str::to_owned).ok_or(FetchError::Discovery("has no jwks_uri"))
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let url: Url = url.parse().map_err(|_| FetchError::NotHttps)?;
        self.check(&url)?;
        let request = self.http.get(url).header("accept", "application/json, application/jwk-set+json");
        let mut response = request.send().await.map_err(|e| transport(&e))?;
        let status = response.status().as_u16();
        if status != 200 {
            return Err(FetchError::Status(status));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| transport(&e))? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(FetchError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }

    /// Names are checked where they are resolved, and only what passed is connected to; an address in the URL itself never
    /// goes there.
    fn check(&self, url: &Url) -> Result<(), FetchError> {
        if self.allow_private {
            return if matches!(url.scheme(), "http" | "https") { Ok(()) } else { Err(FetchError::NotHttps) };
        }
        if url.scheme() != "https" {
            return Err(FetchError::NotHttps);
        }
        let host = url.host_str().ok_or(FetchError::NotHttps)?;
        match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(ip) if !is_public(ip) => Err(FetchError::PrivateAddress),
            _ => Ok(()),
        }
    }
}

fn transport(error: &reqwest::Error) -> FetchError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut deepest = String::new();
    while let Some(e) = source {
        if e.is::<NoPublicAddress>() {
            return FetchError::PrivateAddress;
        }
        deepest = e.to_string();
        source = e.source();
    }
    FetchError::Transport(if error.is_timeout() { "timed out".into() } else { deepest })
}

/// Resolves names to public addresses only. What it returns is what is connected to: a name that resolves differently a moment
/// later changes nothing.
#[derive(Debug)]
struct PublicAddresses;

#[derive(Debug, thiserror::Error)]
#[error("no public address")]
struct NoPublicAddress;

impl Resolve for PublicAddresses {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let public: Vec<SocketAddr> = found.into_iter().filter(|a| is_public(a.ip())).collect();
            if public.is_empty() {
                return Err(NoPublicAddress.into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::new(Some(url), None, &[countersign_core::jose::Algorithm::RS256]).unwrap()
    }

    #[tokio::test]
    async fn nothing_but_https_to_public_addresses_is_asked() {
        let client = Client::new(&FetchRules::default()).unwrap();
        for url in ["http://example.com/", "ftp://example.com/", "file:///etc/passwd", "nonsense"] {
            assert!(matches!(client.fetch(&target(url)).await, Err(FetchError::NotHttps)), "{url}");
        }
        for url in [
            "https://127.0.0.1/",
            "https://0x7f.1/",
            "https://[::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://169.254.169.254/",
            "https://localhost/",
            "https://2130706433/",
        ] {
            let error = client.fetch(&target(url)).await.unwrap_err();
            assert!(matches!(error, FetchError::PrivateAddress), "{url}: {error}");
        }
    }
}
