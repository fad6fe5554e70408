//! Connections to where a policy's author says: to public addresses alone; requests besides by https, without redirects,
//! within a time.

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

/// Why nothing was asked, or answered.
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
    reach: Reach,
}

impl Outbound {
    /// A client under these rules.
    pub fn new(rules: &FetchRules) -> Result<Self, ClientError> {
        let reach = Reach { allow_private: rules.allow_private };
        let mut builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(TIMEOUT)
            .https_only(!rules.allow_private)
            .pool_max_idle_per_host(0)
            .dns_resolver(reach)
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
        Ok(Self { http: builder.build().map_err(ClientError::Client)?, reach })
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
            "http" if self.reach.allow_private => {}
            _ => return Err(OutboundError::NotHttps),
        }
        let host = url.host_str().ok_or(OutboundError::NotHttps)?;
        if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
            self.reach.permits(ip)?;
        }
        Ok(url)
    }
}

/// To which addresses is connected that a policy's author named, or that a name of theirs leads to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Private and loopback ones too. Link-local ones never: there clouds hand out their credentials.
    pub allow_private: bool,
}

impl Reach {
    /// The addresses of `host`, a name or an address however written, that may be connected to: at least one. Whoever connects
    /// takes these, and asks no name server again, whose next answer may be another.
    pub async fn addresses(self, host: &str, port: u16) -> Result<Vec<SocketAddr>, OutboundError> {
        let found = tokio::net::lookup_host((host, port)).await.map_err(|e| OutboundError::Transport(e.to_string()))?;
        let (mut permitted, mut refusal) = (Vec::new(), None);
        for address in found {
            match self.permits(address.ip()) {
                Ok(()) => permitted.push(address),
                Err(refused) => refusal = refusal.or(Some(refused)),
            }
        }
        if permitted.is_empty() { Err(refusal.unwrap_or(OutboundError::PrivateAddress)) } else { Ok(permitted) }
    }

    fn permits(self, ip: IpAddr) -> Result<(), OutboundError> {
        if is_metadata(ip) {
            Err(OutboundError::MetadataAddress)
        } else if self.allow_private || is_public(ip) {
            Ok(())
        } else {
            Err(OutboundError::PrivateAddress)
        }
    }
}

pub(super) fn transport(error: &reqwest::Error) -> OutboundError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut deepest = String::new();
    while let Some(e) = source {
        if let Some(known) = e.downcast_ref::<OutboundError>() {
            return known.clone();
        }
        deepest = e.to_string();
        source = e.source();
    }
    OutboundError::Transport(if error.is_timeout() { "timed out".into() } else { deepest })
}

/// What it returns is what is connected to: a name that resolves differently a moment later changes nothing.
impl Resolve for Reach {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = *self;
        Box::pin(async move {
            let addresses = reach.addresses(name.as_str(), 0).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}
