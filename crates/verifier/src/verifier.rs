//! A running verifier, from its settings to its end.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use countersign_feed::{FeedState, Follower};
use countersign_process::{ServingTls, Tls, TlsError};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    activity::Activity,
    app::{App, Settings},
    config::{Config, Source},
    emergency::Uses,
    http::{health::Health, service::Api},
    metrics::Metrics,
    net::{BindError, Bound, Patience, Server, ServerLimits, raise_open_files},
    slot::RefusedBundle,
    source::{
        keeper::{Keeper, Post, SourceError},
        status::KeySetProblem,
    },
};

/// Descriptors that are not connections: listeners, files, the feed, fetches.
const OTHER_FILES: usize = 128;

/// How long a pod that ends takes connections which a Service still sends it.
const FAREWELL: Duration = Duration::from_secs(3);

/// How long an end waits for what is being saved.
const LAST_SAVE: Duration = Duration::from_secs(5);

/// The file in the data directory that names what was bound.
const ADDRESSES_FILE: &str = "addresses.json";

/// Where a verifier's revocations come from.
pub enum Feed {
    /// A follower. What the verifier has applied is acknowledged through it; it is stopped with the verifier.
    Followed(Follower),
    /// Nowhere: only policies that allow staleness are answered, marked stale.
    Without,
}

/// Why a verifier did not start. Nothing is left bound.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The source of policies.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A listener.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Certificate or key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file that names the addresses.
    #[error("{}: {source}", path.display())]
    Addresses {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What was bound.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// The API on TCP.
    pub verifier: Option<SocketAddr>,
    /// Health and metrics.
    pub verifier_health: Option<SocketAddr>,
    /// The API on the Unix socket.
    pub socket: Option<PathBuf>,
}

/// Starts verifiers.
pub struct Verifier;

/// A verifier that serves. Dropping it ends it at once; [`shutdown`](Self::shutdown) lets it finish.
pub struct RunningVerifier {
    app: Arc<App>,
    addresses: Addresses,
    api: Server<Api>,
    health: Option<Server<Health>>,
    keeper: AbortOnDropHandle<()>,
    /// Reads the certificate again when it changes.
    _renewing: Option<AbortOnDropHandle<()>>,
    /// Hands on uses of emergency tokens.
    reporting: Option<AbortOnDropHandle<()>>,
    /// Tells when sessions were seen.
    telling: Option<AbortOnDropHandle<()>>,
    stop: CancellationToken,
    follower: Option<Arc<Follower>>,
}

impl Verifier {
    /// Loads what there is, then binds, then serves. Must be called within a Tokio runtime with timers and I/O.
    pub async fn start(config: Config, feed: Feed) -> Result<RunningVerifier, StartError> {
        let files = raise_open_files();
        let tls = match &config.tls {
            Some(files) => Some(ServingTls::load(&files.cert, &files.key)?),
            None => None,
        };
        let acceptor = tls.as_ref().map(ServingTls::acceptor);
        let (follower, state) = match feed {
            Feed::Followed(follower) => {
                let state = follower.state().clone();
                (Some(Arc::new(follower)), state)
            }
            Feed::Without => (None, FeedState::without_feed()),
        };
        let metrics = Arc::new(Metrics::default());
        let lag = metrics.clone();
        state.observe_lag(move |took| lag.revocation_lag.observe(took, 1));
        let (unknown_keys, unknown) = mpsc::channel(64);
        let (uses, reporting) = match &follower {
            None => (
                Uses::logged(
                    rustix::system::uname().nodename().to_string_lossy().into_owned(),
                    config.audit_log.clone(),
                    metrics.clone(),
                ),
                None,
            ),
            Some(follower) => {
                let (name, server) = (follower.name().to_owned(), follower.server().clone());
                let (uses, reporting) = Uses::reported(name, config.audit_log.clone(), metrics.clone(), server);
                (uses, Some(reporting))
            }
        };
        let (activity, telling) = match &follower {
            None => (Activity::unheard(), None),
            Some(follower) => {
                let (activity, telling) = Activity::told(follower.server().clone(), metrics.clone());
                (activity, Some(telling))
            }
        };
        let app = Arc::new(App::new(state, metrics, Settings::from(&config), unknown_keys, uses, activity));
        let post = Post { app: app.clone(), follower: follower.clone(), unknown_keys: unknown };
        let keeper = Keeper::start(&config, post).await?;

        let mut addresses = Addresses::default();
        let mut listeners = Vec::new();
        if let Some(address) = config.listen {
            let bound = Bound::tcp(address)?;
            addresses.verifier = bound.address();
            listeners.push((bound, acceptor.clone().map_or(Tls::Off, Tls::Required)));
        }
        let health = match config.health_listen {
            Some(address) => {
                let bound = Bound::tcp(address)?;
                addresses.verifier_health = bound.address();
                Some((bound, acceptor.map_or(Tls::Off, Tls::Taken)))
            }
            None => None,
        };
        // Last: from here on clients of an older process come to this one.
        if let Some(path) = &config.socket {
            listeners.push((Bound::unix(path)?, Tls::Off));
            addresses.socket = Some(path.clone());
        }
        if let Some(data_dir) = &config.data_dir {
            write_addresses(data_dir, &addresses)?;
        }
        let patience = Patience::default();
        let farewell = if matches!(config.source, Source::Kubernetes(_)) { FAREWELL } else { Duration::ZERO };
        let connections = config.max_connections.min(files.saturating_sub(OTHER_FILES).max(1));
        let api = Server::start(
            listeners,
            Arc::new(Api::new(app.clone())),
            ServerLimits { connections, patience, idle_make_room: false, farewell },
        );
        let health = health.map(|listener| {
            let service = Health { app: app.clone(), connections: api.connections() };
            // Whoever holds connections open mustn't keep probes from being answered.
            let limits = ServerLimits { connections: 64, patience, idle_make_room: true, farewell: Duration::ZERO };
            Server::start(vec![listener], Arc::new(service), limits)
        });
        tracing::info!(
            tcp = ?addresses.verifier, socket = ?addresses.socket, health = ?addresses.verifier_health, connections,
            "serving"
        );
        let stop = CancellationToken::new();
        let keeper = AbortOnDropHandle::new(tokio::spawn(keeper.run(stop.clone())));
        let reporting = reporting.map(|reporting| AbortOnDropHandle::new(tokio::spawn(reporting.run(stop.clone()))));
        let telling = telling.map(|telling| AbortOnDropHandle::new(tokio::spawn(telling.run(stop.clone()))));
        let renewing = tls.map(|tls| AbortOnDropHandle::new(tokio::spawn(async move { tls.follow().await })));
        Ok(RunningVerifier { app, addresses, api, health, keeper, _renewing: renewing, reporting, telling, stop, follower })
    }
}

impl RunningVerifier {
    /// What was bound.
    pub const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// What is known of revocations.
    pub fn feed(&self) -> &Arc<FeedState> {
        &self.app.feed
    }

    /// What lies in the source and isn't in force: policy (or file), reason, detail.
    pub fn refused(&self) -> Vec<(String, &'static str, String)> {
        let snapshot = self.app.snapshot.load();
        snapshot.refused.iter().map(|r| (r.policy.clone(), r.reason, r.detail.clone())).collect()
    }

    /// Trusted issuers' key sets that were not fetched when that was last tried.
    pub fn key_set_problems(&self) -> Vec<KeySetProblem> {
        self.app.source.key_set_problems()
    }

    /// For a program that writes the bundles itself: policies that it can't write anew, each with a word from a fixed set and
    /// a sentence for people. Replaces what was said before.
    pub fn set_unwritten(&self, problems: Vec<(String, &'static str, String)>) {
        let snapshot = self.app.snapshot.load();
        let generation = |policy: &str| snapshot.find(policy).map(|slot| slot.policy().generation);
        let before = self.app.unwritten.load_full();
        let mut unwritten = Vec::with_capacity(problems.len());
        for (policy, reason, detail) in problems {
            let refused = RefusedBundle { held: generation(&policy), policy, reason, detail };
            if !before.contains(&refused) {
                self.app.metrics.bundle_refused(reason);
            }
            unwritten.push(refused);
        }
        self.app.unwritten.store(Arc::new(unwritten));
    }

    /// Stops being ready, answers what has begun, saves, ends.
    pub async fn shutdown(self) {
        let Self { app, api, health, keeper, reporting, telling, stop, follower, .. } = self;
        app.draining.store(true, Relaxed);
        tracing::info!("draining");
        api.drain().await;
        if let Some(health) = health {
            health.close();
        }
        stop.cancel();
        if tokio::time::timeout(LAST_SAVE, keeper).await.is_err() {
            tracing::warn!("what came into force last may not be saved: the disk is slow");
        }
        for last in [reporting, telling].into_iter().flatten() {
            // It ends by itself, within its own limit.
            let _ = last.await;
        }
        // The keeper's share is gone when its task is.
        let mut follower = follower;
        while let Some(shared) = follower.take() {
            match Arc::try_unwrap(shared) {
                Ok(follower) => follower.shutdown().await,
                Err(shared) => {
                    tokio::task::yield_now().await;
                    follower = Some(shared);
                }
            }
        }
        tracing::info!("stopped");
    }
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            trusted_proxies: config.trusted_proxies.clone(),
            uncached_budget: config.uncached_budget,
            restrict_listing: config.restrict_listing,
            policy_label: config.metrics_policy_label,
            cache_bytes: config.cache_bytes,
        }
    }
}

fn write_addresses(data_dir: &Path, addresses: &Addresses) -> Result<(), StartError> {
    let path = data_dir.join(ADDRESSES_FILE);
    let text = serde_json::to_vec_pretty(addresses).expect("addresses always serialise");
    let temporary = path.with_extension("new");
    fs::write(&temporary, text)
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(|source| StartError::Addresses { path, source })
}
