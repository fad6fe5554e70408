//! An operator from start to end: wait for the Lease, lead, hand over.
//!
//! Every part of a leader is a task here. When one of them ends before the process is told to, because the Lease or a watch is
//! lost, the process ends too: what is left would work on a state that it doesn't know.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use countersign_api::cluster;
use countersign_process::{ServingTls, Tls, TlsError, find_cluster};
use kube::Client;
use tokio::{sync::Notify, task::JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    api_server::ApiServer,
    config::Config,
    events::Events,
    feed::{self, Cutoffs},
    fleet, forwarding,
    health::Health,
    history::{self, History},
    jwks,
    lease::{Elector, Leading, LeaseError},
    mint, policies,
    registry::{Ending, Registry, Request},
    sessions, startup,
    versions::Versions,
};

/// How long parts may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// What every part of a leading operator is given.
#[derive(Clone)]
pub struct Context {
    /// The API server. Through it nothing is written once this process leads no more.
    pub client: Client,
    /// The settings.
    pub config: Arc<Config>,
    /// Where parts meet.
    pub registry: Arc<Registry>,
    /// Where events go.
    pub events: Events,
    /// The versions of the API server.
    pub versions: Arc<Versions>,
    /// Whether this process leads; nothing is signed when it doesn't.
    pub leading: Leading,
    /// Cancelled when the process is to end: a part then finishes what it is at and returns.
    pub stop: CancellationToken,
}

/// Why a part of the operator ended before its time.
pub type PartError = Box<dyn std::error::Error + Send + Sync>;

/// Why the process ends.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no cluster to work in.
    #[error("there is no cluster to work in")]
    Cluster(#[source] PartError),
    /// The certificate can't be used.
    #[error("--tls-cert, --tls-key")]
    Tls(#[from] TlsError),
    /// A listener.
    #[error("--health-listen")]
    Health(#[source] std::io::Error),
    /// What a leader writes first could not be written.
    #[error("the history of bundles could not be begun")]
    History(#[source] PartError),
    /// Leading ended.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A part ended.
    #[error("{part} ended")]
    Part {
        /// Which.
        part: &'static str,
        /// Why.
        source: PartError,
    },
}

/// Works until `stop`, or until it may not lead any more.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let config = Arc::new(config);
    let tls = config.tls.as_ref().map(|files| ServingTls::load(&files.cert, &files.key)).transpose()?;
    let acceptor = tls.as_ref().map(ServingTls::acceptor);
    let _renewing = tls.map(|tls| AbortOnDropHandle::new(tokio::spawn(async move { tls.follow().await })));
    let api_server = api_server(&config).await.map_err(RunError::Cluster)?;
    let client = api_server.candidate();
    let begins_with = acceptor.clone().map_or(Tls::Off, Tls::Taken);
    let health = Health::bind(config.health_listen, begins_with, config.metrics_policy_label, api_server.writes());
    let health = health.await.map_err(RunError::Health)?;
    let versions = Arc::new(Versions::default());
    let mut elector = Elector::new(
        client.clone(),
        &config.system_namespace,
        cluster::LEASE,
        config.identity.clone(),
        config.lease_duration,
        versions.clone(),
    );
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = elector.acquire() => {}
        // Ends with the wait; then the leader listens there.
        never = forwarding::run(client, config.clone()) => match never {},
    }
    tracing::info!(identity = %config.identity, "leading");
    let leader = api_server.leader(elector.leading());
    let led = lead(leader, config, acceptor, versions, &mut elector, &health, &stop).await;
    health.end();
    // A Lease that is still ours is given up when all parts have ended, whyever they did.
    if !matches!(led, Err(RunError::Lease(_))) {
        elector.release().await;
    }
    led
}

/// Leads until `stop`; the Lease is still held when this returns `Ok`.
async fn lead(
    client: Client,
    config: Arc<Config>,
    certificate: Option<TlsAcceptor>,
    versions: Arc<Versions>,
    elector: &mut Elector,
    health: &Health,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    let (registry, inbox) = Registry::new();
    let parts_stop = CancellationToken::new();
    let events = Events::new(client.clone(), &config.identity, registry.clone());
    let leading = elector.leading();
    let context =
        Context { client, config, registry: registry.clone(), events, versions, leading, stop: parts_stop.clone() };
    // The Lease is renewed from the first moment on, whatever else takes its time.
    let (went_back, begun) = (Arc::new(Notify::new()), OnceLock::<Arc<History>>::new());
    let lease_stop = CancellationToken::new();
    let keeping = elector.keep(&lease_stop, || {
        if let Some(history) = begun.get() {
            history.lost();
        }
        went_back.notify_one();
    });
    tokio::pin!(keeping);
    let history = tokio::select! {
        kept = &mut keeping => return kept.map_err(RunError::Lease),
        () = stop.cancelled() => return Ok(()),
        history = history::begin(&context) => history.map_err(|error| RunError::History(error.into()))?,
    };
    let history = begun.get_or_init(|| history).clone();
    // One line per part: `async fn run(Context) -> Result<(), impl Into<PartError>>`, which returns `Ok` after `context.stop`.
    let mut parts = Parts::default();
    parts.spawn("the fleet's watch", fleet::watching::run(context.clone(), history.clone()));
    parts.spawn("the policies' reconciler", policies::run(context.clone(), inbox, history.clone()));
    let cutoffs = Arc::new(Cutoffs::new());
    parts.spawn("the feed", feed::run(context.clone(), cutoffs.clone()));
    parts.spawn("the sessions' reconciler", sessions::run(context.clone(), cutoffs.clone()));
    parts.spawn("fetching trusted issuers' keys", jwks::run(context.clone()));
    parts.spawn("taking off startup taints", startup::run(context.clone()));
    parts.spawn("telling of restores", tell_of_restores(context.clone(), went_back.clone()));
    parts.spawn("the command line's API", mint::run(context.clone(), cutoffs, certificate));
    health.leads(registry.clone());

    let led = tokio::select! {
        kept = &mut keeping => return kept.map_err(RunError::Lease),
        ended = parts.ended() => Err(ended),
        () = stop.cancelled() => Ok(()),
    };
    // Whoever leads next begins when all of ours have ended.
    parts_stop.cancel();
    tokio::select! {
        kept = &mut keeping => return kept.map_err(RunError::Lease),
        () = parts.drain() => {}
    }
    led
}

/// Passes on that the API server went back, until the process ends.
async fn tell_of_restores(context: Context, went_back: Arc<Notify>) -> Result<(), Ending> {
    loop {
        tokio::select! {
            () = context.stop.cancelled() => return Ok(()),
            () = went_back.notified() => context.registry.ask(Request::WentBack).await?,
        }
    }
}

/// The tasks of a leader.
#[derive(Default)]
struct Parts(JoinSet<(&'static str, Result<(), PartError>)>);

impl Parts {
    fn spawn<E: Into<PartError>>(
        &mut self,
        name: &'static str,
        part: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.0.spawn(async move { (name, part.await.map_err(Into::into)) });
    }

    /// Waits for one to end, and says that it did.
    async fn ended(&mut self) -> RunError {
        match self.0.join_next().await {
            Some(Ok((part, Err(source)))) => RunError::Part { part, source },
            Some(Ok((part, Ok(())))) => RunError::Part { part, source: "it had nothing left to do".into() },
            Some(Err(error)) => RunError::Part { part: "a part", source: error.into() },
            None => std::future::pending().await,
        }
    }

    async fn drain(&mut self) {
        let all = async { while self.0.join_next().await.is_some() {} };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::warn!("parts of the operator did not end in time");
            self.0.abort_all();
        }
    }
}

async fn api_server(config: &Config) -> Result<ApiServer, PartError> {
    Ok(ApiServer::new(&find_cluster(config.kubeconfig.as_deref()).await?)?)
}
