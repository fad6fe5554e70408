//! TLS for the TCP listeners, with certificates that may change on disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How often the files are looked at. Certificates are renewed days ahead.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The flags of a certificate. Which listeners it is for each process says in its own words ([`clap::Command::mut_arg`]).
#[derive(Clone, Debug, clap::Args)]
pub struct TlsFlags {
    /// Certificate chain (PEM); reloaded when it changes
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// Private key (PEM) of --tls-cert
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
}

/// A certificate chain and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// One without the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--tls-cert and --tls-key belong together: {missing} is missing")]
pub struct HalfTls {
    missing: &'static str,
}

impl TlsFlags {
    /// Both, or neither.
    pub fn files(&self) -> Result<Option<TlsFiles>, HalfTls> {
        match (&self.tls_cert, &self.tls_key) {
            (None, None) => Ok(None),
            (Some(cert), Some(key)) => Ok(Some(TlsFiles { cert: cert.clone(), key: key.clone() })),
            (Some(_), None) => Err(HalfTls { missing: "--tls-key" }),
            (None, Some(_)) => Err(HalfTls { missing: "--tls-cert" }),
        }
    }
}

/// What a listener's connections begin with.
#[derive(Clone)]
pub enum Tls {
    /// HTTP.
    Off,
    /// TLS.
    Required(TlsAcceptor),
    /// Either, as on the listeners of health: probes come without, and a TLS record can't be taken for a request.
    Taken(TlsAcceptor),
}

/// A connection that has begun.
#[derive(Debug)]
pub enum Begun {
    /// Without TLS.
    Plain(TcpStream),
    /// With hands shaken.
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl Tls {
    /// Begins a connection. The caller bounds how long that may take.
    pub async fn begin(&self, stream: TcpStream) -> io::Result<Begun> {
        let acceptor = match self {
            Self::Off => None,
            Self::Required(acceptor) => Some(acceptor),
            Self::Taken(acceptor) => begins_with_tls(&stream).await?.then_some(acceptor),
        };
        Ok(match acceptor {
            None => Begun::Plain(stream),
            Some(acceptor) => Begun::Encrypted(Box::new(acceptor.accept(stream).await?)),
        })
    }
}

/// Whether the peer's first byte is that of a TLS handshake (RFC 8446 section 5.1).
async fn begins_with_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    Ok(stream.peek(&mut first).await? == 1 && first[0] == 22)
}

/// Why a certificate and its key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or holds no PEM of its kind.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The two don't go together, or the key is of a kind that TLS doesn't know.
    #[error("the certificate {} and the key {} cannot be used together: {source}", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the TLS library said.
        source: rustls::Error,
    },
}

/// A certificate in use and the files that it came from.
pub struct ServingTls {
    acceptor: TlsAcceptor,
    current: Arc<Current>,
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl ServingTls {
    /// Reads both files and makes sure that they work together.
    pub fn load(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let current = Arc::new(Current(ArcSwap::from_pointee(read_pair(cert, key)?)));
        let pair_error = |source| TlsError::Pair { cert: cert.to_owned(), key: key.to_owned(), source };
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(pair_error)?
            .with_no_client_auth()
            .with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), current, cert: cert.to_owned(), key: key.to_owned() })
    }

    /// What shakes hands, always with the certificate of the moment.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// Follows the files for ever. What can't be used is reported once and never replaces what can.
    pub async fn follow(&self) {
        let mut seen = self.stamps();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = self.stamps();
            if now == seen {
                continue;
            }
            seen = now;
            match read_pair(&self.cert, &self.key) {
                Ok(pair) => {
                    self.current.0.store(Arc::new(pair));
                    tracing::info!(cert = %self.cert.display(), "TLS certificate reloaded");
                }
                Err(error) => tracing::error!(%error, "TLS certificate not reloaded; the last good one is kept"),
            }
        }
    }

    fn stamps(&self) -> [Option<(SystemTime, u64)>; 2] {
        [&self.cert, &self.key].map(|path| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }
}

fn read_pair(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let file = |path: &Path, reason: String| TlsError::File { path: path.to_owned(), reason };
    let read = |path: &Path| fs::read(path).map_err(|e: io::Error| file(path, e.to_string()));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(cert)?)
        .collect::<Result<_, _>>()
        .map_err(|e| file(cert, format!("not a PEM certificate chain: {e}")))?;
    if chain.is_empty() {
        return Err(file(cert, "holds no PEM certificate".into()));
    }
    let private =
        PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|e| file(key, format!("not a PEM private key: {e}")))?;
    let pair_error = |source| TlsError::Pair { cert: cert.to_owned(), key: key.to_owned(), source };
    let signing = aws_lc_rs::sign::any_supported_type(&private).map_err(pair_error)?;
    let pair = CertifiedKey::new(chain, signing);
    match pair.keys_match() {
        // A key whose public half can't be told is for the handshake to judge.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(pair),
        Err(source) => Err(pair_error(source)),
    }
}
