//! Requests to addresses that a policy's author named: https, to public addresses, without redirects, within a time.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use reqwest::{
    Certificate, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::HeaderMap,
    redirect,
};

use super::address::{is_metadata, is_public};

/// How long one request may take in all.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where requests may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FetchRules {
    /// Private and loopback addresses too, and plain http. Link-local ones never: there clouds hand out their credentials.
    pub allow_private: bool,
    /// Certificates of authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

/// Why nothing can be asked at all.
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

/// Why a request wasn't made, or not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutboundError {
    /// Plain http, or no URL at all.
    #[error("not an https URL")]
    NotHttps,
    /// The host is none of the public Internet.
    #[error("the host's address is private or loopback")]
    PrivateAddress,
    /// The host is where clouds hand out credentials to whoever asks.
    #[error("the host's address is link-local, or another at which clouds serve metadata: that is never asked")]
    MetadataAddress,
    /// No connection, or none that lasted.
    #[error("{0}")]
    Transport(String),
}

/// Makes requests under rules that keep a policy's author from using us against others.
#[derive(Clone, Debug)]
pub struct Outbound {
    http: reqwest::Client,
    allow_private: bool,
}

impl Outbound {
    /// A client under these rules.
    pub fn new(rules: &FetchRules) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .https_only(!rules.allow_private)
            .pool_max_idle_per_host(0)
            .dns_resolver(Addresses { allow_private: rules.allow_private })
            .user_agent(concat!("countersign/", env!("CARGO_PKG_VERSION")));
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

    /// POSTs `body`; the status of the answer, whose body is not read. A redirect is an answer like any other.
    pub async fn post(&self, url: &str, headers: HeaderMap, body: Vec<u8>) -> Result<u16, OutboundError> {
        let request = self.http.post(self.checked(url)?).headers(headers).body(body);
        let answer = request.send().await.map_err(|e| transport(&e))?;
        Ok(answer.status().as_u16())
    }

    pub(super) async fn get(&self, url: &str, accept: &'static str) -> Result<Response, OutboundError> {
        self.http.get(self.checked(url)?).header("accept", accept).send().await.map_err(|e| transport(&e))
    }

    /// Names are checked where they are resolved, and only what passed is connected to; an address in the URL itself never
    /// goes there.
    fn checked(&self, url: &str) -> Result<Url, OutboundError> {
        let url: Url = url.parse().map_err(|_| OutboundError::NotHttps)?;
        match url.scheme() {
            "https" => {}
            "http" if self.allow_private => {}
            _ => return Err(OutboundError::NotHttps),
        }
        let host = url.host_str().ok_or(OutboundError::NotHttps)?;
        match host.trim_matches(['[', ']']).parse::<IpAddr>().ok().and_then(|ip| forbidden(ip, self.allow_private)) {
            Some(forbidden) => Err(forbidden.into()),
            None => Ok(url),
        }
    }
}

/// Why an address isn't connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Forbidden {
    #[error("no public address")]
    Private,
    #[error("an address of metadata")]
    Metadata,
}

impl From<Forbidden> for OutboundError {
    fn from(forbidden: Forbidden) -> Self {
        match forbidden {
            Forbidden::Private => Self::PrivateAddress,
            Forbidden::Metadata => Self::MetadataAddress,
        }
    }
}

fn forbidden(ip: IpAddr, allow_private: bool) -> Option<Forbidden> {
    if is_metadata(ip) {
        Some(Forbidden::Metadata)
    } else {
        (!allow_private && !is_public(ip)).then_some(Forbidden::Private)
    }
}

pub(super) fn transport(error: &reqwest::Error) -> OutboundError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut deepest = String::new();
    while let Some(e) = source {
        if let Some(forbidden) = e.downcast_ref::<Forbidden>() {
            return (*forbidden).into();
        }
        deepest = e.to_string();
        source = e.source();
    }
    OutboundError::Transport(if error.is_timeout() { "timed out".into() } else { deepest })
}

/// Resolves names to addresses that may be connected to only. What it returns is what is connected to: a name that resolves
/// differently a moment later changes nothing.
#[derive(Debug)]
struct Addresses {
    allow_private: bool,
}

impl Resolve for Addresses {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> =
                found.iter().filter(|a| forbidden(a.ip(), allow_private).is_none()).copied().collect();
            if allowed.is_empty() {
                let why = found.iter().find_map(|a| forbidden(a.ip(), allow_private)).unwrap_or(Forbidden::Private);
                return Err(why.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}
