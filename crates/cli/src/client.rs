//! Calls to an admin API or a verifier, over a socket or HTTP.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;

use crate::{
    cluster::Cluster,
    failure::{Failure, chain},
};

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// A Unix socket.
    Socket(PathBuf),
    /// `http://` or `https://`, without a trailing slash.
    Url(String),
    /// The issuer of a cluster, through the API server; the cluster in words.
    Cluster(String),
}

/// Why a text names no server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} names no server: write unix:PATH, for example unix:.countersign/admin.sock, or a URL such as http://127.0.0.1:7492"
)]
pub(crate) struct InvalidAddress(String);

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("unix:")) {
            return if path.is_empty() { Err(InvalidAddress(text.into())) } else { Ok(Self::Socket(path.into())) };
        }
        let known = text.starts_with("http://") || text.starts_with("https://");
        match reqwest::Url::parse(text) {
            Ok(url) if known && url.has_host() && url.query().is_none() && url.fragment().is_none() => {
                Ok(Self::Url(text.trim_end_matches('/').to_owned()))
            }
            _ => Err(InvalidAddress(text.into())),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "unix:{}", path.display()),
            Self::Url(url) => f.write_str(url),
            Self::Cluster(cluster) => f.write_str(cluster),
        }
    }
}

/// A server that can be called.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    address: Address,
    base: String,
    http: reqwest::Client,
    bearer: Option<String>,
    timeout: Duration,
    /// Through whose API server calls go, where they do.
    cluster: Option<Arc<Cluster>>,
}

/// What a server answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The body, null when it isn't JSON.
    pub(crate) body: Value,
}

impl Client {
    /// A client of the server at `address`; no call is made yet.
    pub(crate) fn new(address: Address, bearer: Option<String>, timeout: Duration) -> Result<Self, Failure> {
        let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        let (builder, base) = match &address {
            Address::Socket(path) => (builder.unix_socket(path.as_path()), "http://localhost".to_owned()),
            Address::Url(url) => (builder, url.clone()),
            Address::Cluster(_) => (builder, String::new()),
        };
        let http = builder.build().map_err(|e| Failure::unable(format!("can't set up HTTP: {}", chain(&e))))?;
        Ok(Self { address, base, http, bearer, timeout, cluster: None })
    }

    /// A client of the issuer of a cluster, asked in the caller's name.
    pub(crate) fn of_issuer(cluster: &Arc<Cluster>, timeout: Duration) -> Result<Self, Failure> {
        let client = Self::new(Address::Cluster(cluster.to_string()), None, timeout)?;
        Ok(Self { cluster: Some(cluster.clone()), ..client })
    }

    /// Where it is.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// The same server, called with another Bearer token.
    pub(crate) fn bearing(&self, token: &str) -> Self {
        Self { bearer: Some(token.to_owned()), ..self.clone() }
    }

    /// `GET path`.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.call(reqwest::Method::GET, path, None, Duration::ZERO).await
    }

    /// `GET path`, of what isn't JSON.
    pub(crate) async fn text(&self, path: &str) -> Result<String, Failure> {
        let asked = self.http.get(format!("{}{path}", self.base)).timeout(self.timeout).send().await;
        let answer = asked.and_then(reqwest::Response::error_for_status).map_err(|e| self.unreachable(&e))?;
        answer.text().await.map_err(|e| self.unreachable(&e))
    }

    /// `GET path`, where the server was asked to wait that much longer.
    pub(crate) async fn get_longer(&self, path: &str, longer: Duration) -> Result<Answer, Failure> {
        self.call(reqwest::Method::GET, path, None, longer).await
    }

    /// `POST path` with a JSON body. `longer` is how long the server was asked to wait.
    pub(crate) async fn post(&self, path: &str, body: &Value, longer: Duration) -> Result<Answer, Failure> {
        self.call(reqwest::Method::POST, path, Some(body), longer).await
    }

    /// `PATCH path` with a JSON body.
    pub(crate) async fn patch(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        self.call(reqwest::Method::PATCH, path, Some(body), Duration::ZERO).await
    }

    /// `DELETE path`.
    pub(crate) async fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.call(reqwest::Method::DELETE, path, None, Duration::ZERO).await
    }

    /// `DELETE path` with a JSON body.
    pub(crate) async fn delete_saying(&self, path: &str, body: &Value) -> Result<Answer, Failure> {
        self.call(reqwest::Method::DELETE, path, Some(body), Duration::ZERO).await
    }

    async fn call(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&Value>,
        longer: Duration,
    ) -> Result<Answer, Failure> {
        if let Some(cluster) = &self.cluster {
            return cluster.issuer(method, path, body, self.timeout + longer).await;
        }
        let mut request = self.http.request(method, format!("{}{path}", self.base)).timeout(self.timeout + longer);
        if let Some(bearer) = &self.bearer {
            request = request.bearer_auth(bearer);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let response = request.send().await.map_err(|e| self.unreachable(&e))?;
        let status = response.status().as_u16();
        let bytes = response.bytes().await.map_err(|e| self.unreachable(&e))?;
        Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null) })
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        if error.is_timeout() {
            return Failure::unable(format!("{} did not answer in time", self.address))
                .fix("give it longer with --timeout");
        }
        let failure = Failure::unable(format!("can't reach {}: {}", self.address, root_cause(error)));
        match &self.address {
            Address::Socket(path) if !path.exists() => {
                failure.fix("start it with `countersign dev`, or name another with --server")
            }
            _ => failure.fix("is it running there? --server names another"),
        }
    }
}

/// The innermost cause alone: the address is said already.
fn root_cause(error: &reqwest::Error) -> String {
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

impl Answer {
    /// Whether the status is of the 200s.
    pub(crate) fn ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body of a success; otherwise the failure that the server described.
    pub(crate) fn success(self) -> Result<Value, Failure> {
        if self.ok() { Ok(self.body) } else { Err(self.failure()) }
    }

    /// What the server said is wrong.
    pub(crate) fn failure(&self) -> Failure {
        let text = |name: &str| self.body.get(name).and_then(Value::as_str);
        let said = text("detail").or_else(|| text("title")).or_else(|| text("error"));
        let message = match said {
            Some(said) => said.to_owned(),
            None => format!("the server answered {}", self.status),
        };
        let failure = match self.status {
            400 | 422 => Failure::usage(message),
            _ => Failure::unable(message),
        };
        match (text("fix"), self.status) {
            (Some(fix), _) => failure.fix(fix),
            (None, 401) => failure.fix(
                "name a file with a token of permission countersign:admin by --bearer-token-file, or use the admin socket",
            ),
            (None, _) => failure,
        }
    }
}

/// Whether a process listens on this socket.
pub(crate) fn listens(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_socket_or_a_url() {
        assert_eq!("unix:/run/a.sock".parse(), Ok(Address::Socket("/run/a.sock".into())));
        assert_eq!("unix:///run/a.sock".parse(), Ok(Address::Socket("/run/a.sock".into())));
        assert_eq!("http://127.0.0.1:7492/".parse(), Ok(Address::Url("http://127.0.0.1:7492".into())));
        for bad in ["", "unix:", "127.0.0.1:7492", "ftp://a", "http://", "http://a?b", "localhost:7492"] {
            assert_eq!(bad.parse::<Address>(), Err(InvalidAddress(bad.into())), "{bad}");
        }
    }
}
