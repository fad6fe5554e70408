//! The issuer's listeners and what stands behind them.

mod connections;
mod patience;

use std::{
    future::Future,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use countersign_core::{names::PolicyName, proxies::TrustedProxies};
use countersign_feed::{FeedState, Publisher, RedisCounters, collect_activity, collect_uses};
use countersign_process::Tls;
use countersign_store::Store;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Notify, watch},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub(crate) use self::patience::TooSlow;
use self::{
    connections::{Bounds, Door},
    patience::Patience,
};
use crate::{
    AuditLog, AuditRetention, Authority, Fleet, Health, Mailer, Minter, Policies, Revoker, SessionActivity, UseAudit,
    admin, audit_log, health,
    housekeeping::{self, Trail},
    issued::Issued,
    limits::Limits,
    metrics::Metrics,
    notices::{self, Bell},
    passwords::Pool,
    public,
    recent::Recent,
    rotations,
    secrets::Secrets,
    sms::SmsSender,
};

/// How long calls under way may take to end after the stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Connections of people's clients at once.
const MAX_CONNECTIONS: usize = 4096;
/// Connections at once of each of the other listeners.
const MAX_OTHER_CONNECTIONS: usize = 256;

/// Which ring is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingChoice {
    /// Access tokens' keys.
    Access,
    /// API keys' keys.
    ApiKey,
    /// Both.
    All,
}

impl RingChoice {
    /// As the audit trail says it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::ApiKey => "api_key",
            Self::All => "all",
        }
    }
}

/// Why a rotation was not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RotateError {
    /// Rotating is somebody else's business; this is how to ask for it.
    #[error("keys are rotated by the operator here")]
    Elsewhere {
        /// The command to use.
        command: String,
    },
    /// The policy has no rings.
    #[error("the policy only verifies other issuers' tokens: it has no keys to rotate")]
    NoRings,
    /// It could not be written down.
    #[error("the request could not be stored: {0}")]
    Store(String),
}

/// Whoever keeps the rings, as the admin API asks it.
pub trait KeyOperator: Send + Sync + 'static {
    /// Begins a rotation now.
    fn rotate<'a>(
        &'a self,
        policy: &'a PolicyName,
        ring: RingChoice,
    ) -> Pin<Box<dyn Future<Output = Result<(), RotateError>> + Send + 'a>>;

    /// Rung when a key was revoked.
    fn key_revoked(&self) -> Arc<Notify>;
}

/// Whoever knows what only the process as a whole knows: problems with policies' files, the parts' health.
pub trait StatusSource: Send + Sync + 'static {
    /// Merged into the answer of `GET /admin/v1/status`.
    fn status(&self) -> serde_json::Value;

    /// A policy with every default filled in.
    fn effective(&self, policy: &PolicyName) -> Option<serde_json::Value>;
}

/// What an issuer is made of.
#[derive(Clone)]
pub struct IssuerConfig {
    /// The durable truth.
    pub store: Arc<Store>,
    /// What publishes it.
    pub publisher: Arc<Publisher>,
    /// What this process knows of the feed.
    pub feed: Arc<FeedState>,
    /// Who follows it.
    pub fleet: Fleet,
    /// The policies, kept up to date by the caller.
    pub policies: Policies,
    /// The keeper of rings.
    pub keys: Arc<dyn KeyOperator>,
    /// What else there is to say.
    pub status: Arc<dyn StatusSource>,
    /// What secrets at rest are sealed with.
    pub secrets: Arc<Secrets>,
    /// What hashes passwords.
    pub passwords: Pool,
    /// What sends mails.
    pub mailer: Mailer,
    /// What has SMS sent.
    pub sms: SmsSender,
    /// Where limits are counted for all issuers; absent: in the store.
    pub counters: Option<RedisCounters>,
    /// Whose word about a client's address is taken.
    pub trusted_proxies: TrustedProxies,
    /// The names by which it answers: hosts, each with a port or without, and `*.shop.example` for all below one. None: any.
    pub trusted_hosts: Vec<String>,
    /// What kind of installation this is, as `development`: shown by health.
    pub environment: String,
    /// How long events of the audit trail are kept.
    pub audit_retention: AuditRetention,
    /// Where sealed events are written for log shippers, if anywhere.
    pub audit_log: Option<AuditLog>,
}

/// An issuer: its parts, and routes over them.
#[derive(Clone)]
pub struct Issuer {
    pub(crate) parts: Arc<Parts>,
}

pub(crate) struct Parts {
    pub(crate) store: Arc<Store>,
    pub(crate) minter: Minter,
    pub(crate) revoker: Revoker,
    pub(crate) issued: Issued,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) passwords: Pool,
    pub(crate) mailer: Mailer,
    pub(crate) sms: SmsSender,
    pub(crate) limits: Limits,
    pub(crate) metrics: Metrics,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) trusted_hosts: Vec<String>,
    pub(crate) environment: String,
    audit_retention: AuditRetention,
    pub(crate) audit_log: Option<AuditLog>,
    pub(crate) audit_log_counts: Arc<audit_log::Counts>,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) feed: Arc<FeedState>,
    pub(crate) fleet: Fleet,
    pub(crate) policies: Policies,
    pub(crate) keys: Arc<dyn KeyOperator>,
    pub(crate) status: Arc<dyn StatusSource>,
    pub(crate) health: Health,
    pub(crate) notices: Bell,
    pub(crate) recent: Recent,
}

/// Why an issuer can't serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A socket can't be made.
    #[error("can't listen on the socket {}: {source}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Issuer {
    /// An issuer of these parts.
    pub fn new(config: IssuerConfig) -> Self {
        let issued = Issued::default();
        let minter = Minter::new(config.store.clone(), issued.clone());
        let health = Health::default();
        let revoker = Revoker::new(
            config.store.clone(),
            config.publisher.clone(),
            issued.clone(),
            config.fleet.clone(),
            health.clone(),
            config.keys.key_revoked(),
        );
        let limits = Limits::new(config.store.clone(), config.counters, &config.secrets.hash("limits", "").0);
        let parts = Parts {
            store: config.store,
            minter,
            revoker,
            issued,
            secrets: config.secrets,
            passwords: config.passwords,
            mailer: config.mailer,
            sms: config.sms,
            limits,
            metrics: Metrics::default(),
            trusted_proxies: config.trusted_proxies,
            trusted_hosts: config.trusted_hosts,
            environment: config.environment,
            audit_retention: config.audit_retention,
            audit_log: config.audit_log,
            audit_log_counts: Arc::default(),
            publisher: config.publisher,
            feed: config.feed,
            fleet: config.fleet,
            policies: config.policies,
            keys: config.keys,
            status: config.status,
            health,
            notices: Bell::default(),
            recent: Recent::default(),
        };
        Self { parts: Arc::new(parts) }
    }

    /// Whether it takes calls, for `/readyz`.
    pub fn health(&self) -> &Health {
        &self.parts.health
    }

    /// Serves until `stop`, then lets calls under way end, for a while: a client that never ends its request doesn't keep the
    /// process from ending.
    pub async fn serve(&self, listeners: Listeners, stop: CancellationToken) {
        let mut servers = JoinSet::new();
        let over = stop.clone();
        let public = public::routes(self.clone());
        let parts = &self.parts;
        let (store, secrets) = (parts.store.clone(), parts.secrets.clone());
        let (sealed, sealing) = watch::channel(());
        let trail = Trail { retention: parts.audit_retention, has_log: parts.audit_log.is_some(), sealed };
        if let Some(log) = parts.audit_log.clone() {
            let counts = parts.audit_log_counts.clone();
            servers.spawn(audit_log::keep(log, store.clone(), counts, sealing, stop.clone()));
        }
        servers.spawn(housekeeping::keep(store, secrets, self.parts.policies.clone(), trail, stop.clone()));
        servers.spawn(notices::keep(self.clone(), stop.clone()));
        servers.spawn(rotations::keep(self.clone(), stop.clone()));
        let uses = Arc::new(UseAudit::new(self.parts.store.clone()));
        servers.spawn(collect_uses(self.parts.fleet.server().clone(), uses, stop.clone()));
        let sessions = Arc::new(SessionActivity::new(self.parts.store.clone()));
        servers.spawn(collect_activity(self.parts.fleet.server().clone(), sessions, stop.clone()));
        let Listeners { public: public_listener, health: health_listener, admin, admin_socket, vouched, tls } = listeners;
        let people = Bounds { connections: MAX_CONNECTIONS, patience: Patience::default() };
        let few = Bounds { connections: MAX_OTHER_CONNECTIONS, ..people };
        let required = tls.clone().map_or(Tls::Off, Tls::Required);
        let taken = tls.map_or(Tls::Off, Tls::Taken);
        servers.spawn(connections::serve(Door::Tcp(public_listener, required.clone()), public, people, stop.clone()));
        let health_routes = health::routes(self.clone());
        servers.spawn(connections::serve(Door::Tcp(health_listener, taken), health_routes, few, stop.clone()));
        let admin_routes = admin::routes(self.clone(), admin::Door::Bearer);
        servers.spawn(connections::serve(Door::Tcp(admin, required), admin_routes, few, stop.clone()));
        if let Some(Vouched { listener, tls, authority }) = vouched {
            let routes = admin::routes(self.clone(), admin::Door::Authority(authority));
            servers.spawn(connections::serve(Door::Tcp(listener, Tls::Required(tls)), routes, few, stop.clone()));
        }
        let socket_routes = admin::routes(self.clone(), admin::Door::FileMode);
        let AdminSocket { listener, path } = admin_socket;
        servers.spawn(connections::serve(Door::Unix(listener), socket_routes, few, stop));
        let drained = async { while servers.join_next().await.is_some() {} };
        let patience = async {
            over.cancelled().await;
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            () = drained => {}
            () = patience => tracing::warn!("calls that were under way did not end in time"),
        }
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, socket = %path.display(), "the admin socket was gone already");
        }
    }
}

/// Bound listeners: nothing can fail between binding and serving.
pub struct Listeners {
    /// The issuer's own routes.
    pub public: TcpListener,
    /// Health and metrics.
    pub health: TcpListener,
    /// The admin API over HTTP; on a loopback address, unless there is TLS.
    pub admin: TcpListener,
    /// TLS of the three, if any; that of health takes plain HTTP as well, because probes come without.
    pub tls: Option<TlsAcceptor>,
    /// The admin API over a socket.
    pub admin_socket: AdminSocket,
    /// The admin API for those whom somebody else vouches for.
    pub vouched: Option<Vouched>,
}

/// Where those are served whom an authority vouches for.
pub struct Vouched {
    /// Where they come in.
    pub listener: TcpListener,
    /// Always encrypted: they show credentials that are good elsewhere, too.
    pub tls: TlsAcceptor,
    /// Who vouches.
    pub authority: Arc<dyn Authority>,
}

/// The admin socket, which only its owner can open.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Binds `path`, replacing what an earlier process left. The caller makes sure that no living process uses it.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Socket { path: path.to_owned(), source };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        // Bound under a name that nobody knows, given its mode, then its name: at no moment can others connect.
        let hidden = path.with_extension("binding");
        match std::fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&hidden).map_err(failed)?;
        std::fs::set_permissions(&hidden, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        std::fs::rename(&hidden, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

#[cfg(test)]
mod tests;
