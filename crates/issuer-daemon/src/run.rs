//! From settings to the end of the process.

use std::{future::Future, io, net::SocketAddr, path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use aws_lc_rs::rand;
use countersign_api::{bundle::RingName, cluster::ISSUER_SERVICE};
use countersign_core::names::PolicyName;
use countersign_feed::{
    FeedServer, Follower, FollowerConfig, FollowerError, ISSUER_PREFIX, Publisher, PublisherConfig, RedisCounters,
    RedisFeed, RedisOptions,
};
use countersign_issuer::{
    AdminSocket, Confirmation, Delivery, Fleet, Issuer, IssuerConfig, KeyOperator, Listeners, Mailer, Policies, Reach,
    RingChoice, RotateError, Secrets, ServeError, SmsSender, StatusSource, Vouched, passwords::Pool,
};
use countersign_process::{ServingTls, TlsError, TrustError, TrustFile, Trusted, find_cluster};
use countersign_reviews::{CertificateError, Reviewer, self_signed};
use countersign_store::{Store, StoreError};
use kube::Client;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    holding::{Holder, Told},
    people::{ApiServer, Eraser},
    trust,
    users::Users,
    watching,
};

/// How often it is tried to reach a database that isn't there yet.
const DATABASE_AGAIN: Duration = Duration::from_secs(2);

/// Why the process can't go on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nobody is trusted.
    #[error("--bundle-trust {}: {source}", path.display())]
    Trust {
        /// What the flag says.
        path: PathBuf,
        /// Why.
        source: TrustError,
    },
    /// There is no cluster to work in.
    #[error("there is no cluster to work in")]
    Cluster(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The database refuses.
    #[error("the database")]
    Store(#[from] StoreError),
    /// Redis can't be used.
    #[error("--redis (REDIS_URL)")]
    Feed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Following the feed can't begin.
    #[error(transparent)]
    Follower(#[from] FollowerError),
    /// Keys can't be derived.
    #[error("TOKEN_ENCRYPTION_KEY: {0}")]
    Secrets(String),
    /// Nothing can have SMS sent.
    #[error("SMS webhooks can't be called: {0}")]
    Sms(String),
    /// A listener.
    #[error("{flag} {address}: {source}")]
    Listen {
        /// Which.
        flag: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate can't be used.
    #[error("--tls-cert, --tls-key: {0}")]
    Tls(#[from] TlsError),
    /// A certificate of one's own can't be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The admin socket.
    #[error("--admin-socket: {0}")]
    Socket(#[from] ServeError),
    /// What keeps the policies true has ended.
    #[error("what follows the API server ended: {0}")]
    Part(String),
    /// The system gave no randomness.
    #[error("the system gives no randomness")]
    NoRandomness,
}

/// Serves until `stop`.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), RunError> {
    let path = &config.bundle_trust;
    let trusted = Trusted::read(path).map_err(|source| RunError::Trust { path: path.clone(), source })?;
    let trust_file = TrustFile::new(path.clone());
    let (tell_trusted, trusted) = watch::channel(Arc::new(trusted));
    let client = client(&config).await.map_err(RunError::Cluster)?;
    let tls = config.tls.as_ref().map(|files| ServingTls::load(&files.cert, &files.key)).transpose()?;
    let listeners = bind(&config, &client, tls.as_ref()).await?;
    let Some(store) = open_store(&config, &stop).await? else { return Ok(()) };
    let options = RedisOptions { ca_pem: config.redis.ca_pem.clone(), ..RedisOptions::default() };
    let server = RedisFeed::new(config.redis.url.clone(), options).map_err(|error| RunError::Feed(error.into()))?;
    let server: Arc<dyn FeedServer> = Arc::new(server);
    let counters = RedisCounters::new(config.redis.url.clone(), config.redis.ca_pem.as_deref())
        .map_err(|error| RunError::Feed(error.into()))?;

    let parts_stop = CancellationToken::new();
    let publisher =
        Arc::new(Publisher::spawn(server.clone(), store.clone(), PublisherConfig::new(config.identity.clone())));
    let following = FollowerConfig::new(format!("{ISSUER_PREFIX}{}", config.identity));
    let follower = Arc::new(Follower::spawn(server.clone(), following)?);
    let fleet = Fleet::new(server.clone(), None);
    let policies = Policies::default();
    let told = Arc::new(Told::default());
    let mut watches = watching::begin(&client, &config.system_namespace, &config.bundles_namespace, &parts_stop);
    let holder = Holder {
        store: store.clone(),
        publisher: publisher.clone(),
        follower: follower.clone(),
        fleet: fleet.clone(),
        policies: policies.clone(),
        default: config.default_policy.clone(),
        trusted: trusted.clone(),
        start_id: fresh_id()?,
        told: told.clone(),
        confirmed: Confirmation::default(),
        within_ms: watches.within_ms,
    };
    watches.tasks.spawn(holder.run(watches.changes, parts_stop.clone()));
    watches.tasks.spawn(trust::follow(trust_file, tell_trusted, parts_stop.clone()));
    let api = ApiServer::new(&client, &config.system_namespace, &config.bundles_namespace);
    let eraser = Eraser { store: store.clone(), api, trusted: trusted.clone() };
    watches.tasks.spawn(eraser.run(parts_stop.clone()));
    let mut parts = watches.tasks;
    if let Some(tls) = tls {
        let until = parts_stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = tls.follow() => {}
            }
        });
    }

    let derived = Secrets::derive(config.secrets.0.iter().map(|text| text.as_bytes()));
    let issuer = Issuer::new(IssuerConfig {
        store: store.clone(),
        publisher: publisher.clone(),
        feed: follower.state().clone(),
        fleet,
        policies: policies.clone(),
        keys: Arc::new(Elsewhere { policies, revoked: Arc::default() }),
        status: Arc::new(InCluster(told.clone())),
        secrets: Arc::new(derived.map_err(|error| RunError::Secrets(error.to_string()))?),
        passwords: Pool::of_this_machine(),
        mailer: Mailer::new(
            config.smtp.clone().map_or(Delivery::Disabled, Delivery::Smtp),
            Reach { allow_private: config.smtp_allow_private },
        ),
        sms: SmsSender::try_new(false).map_err(|error| RunError::Sms(error.to_string()))?,
        counters: Some(counters),
        trusted_proxies: config.trusted_proxies.clone(),
        trusted_hosts: config.trusted_hosts.clone(),
        environment: config.environment.clone(),
        audit_retention: config.audit_retention,
        audit_log: config.audit_log.clone(),
    });
    // Until the policies are read nobody could be answered: the Service sends nobody here before that.
    let serving = async {
        tokio::select! {
            () = told.settled() => tracing::info!("the policies are read"),
            () = stop.cancelled() => return,
        }
        issuer.serve(listeners, stop.clone()).await;
    };
    let ended = tokio::select! {
        () = serving => None,
        // What follows the API server has gone: to go on would be to sign by what was true once.
        Some(ended) = parts.join_next() => Some(ended.err().map_or_else(|| "it had nothing left to do".to_owned(), |e| e.to_string())),
    };
    issuer.health().drain();
    parts_stop.cancel();
    while parts.join_next().await.is_some() {}
    drop(issuer);
    // What was committed and not published is swept by the other replicas, or at the next start.
    if let Ok(publisher) = Arc::try_unwrap(publisher) {
        publisher.shutdown().await;
    }
    if let Ok(follower) = Arc::try_unwrap(follower) {
        follower.shutdown().await;
    }
    store.close().await;
    ended.map_or(Ok(()), |why| Err(RunError::Part(why)))
}

async fn client(config: &Config) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Client::try_from(find_cluster(config.kubeconfig.as_deref()).await?)?)
}

async fn bind(config: &Config, client: &Client, tls: Option<&ServingTls>) -> Result<Listeners, RunError> {
    let tcp = async |flag: &'static str, address: SocketAddr| {
        TcpListener::bind(address).await.map_err(|source| RunError::Listen { flag, address, source })
    };
    let vouched = match config.cluster_admin_listen {
        None => None,
        Some(address) => Some(Vouched {
            listener: tcp("--cluster-admin-listen", address).await?,
            // Users come through the API server, which takes any certificate.
            tls: match tls {
                Some(tls) => tls.acceptor(),
                None => self_signed(ISSUER_SERVICE, &config.system_namespace)?,
            },
            authority: Arc::new(Users(Reviewer::new(client.clone()))),
        }),
    };
    Ok(Listeners {
        public: tcp("--listen", config.listen).await?,
        health: tcp("--health-listen", config.health_listen).await?,
        admin: tcp("--admin-listen", config.admin_listen).await?,
        admin_socket: AdminSocket::bind(&config.admin_socket)?,
        vouched,
        tls: tls.map(ServingTls::acceptor),
    })
}

/// The database, which may come up later than this process. `None`: it was to end before that.
async fn open_store(config: &Config, stop: &CancellationToken) -> Result<Option<Arc<Store>>, RunError> {
    loop {
        match Store::connect(&config.database).await {
            Ok(store) => return Ok(Some(Arc::new(store))),
            Err(error) if error.is_away() => {
                tracing::warn!(%error, database = %config.database, "the database can't be reached; trying again");
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(DATABASE_AGAIN) => {}
        }
    }
}

fn fresh_id() -> Result<String, RunError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| RunError::NoRandomness)?;
    Ok(hex::encode(bytes))
}

/// Keys are the operator's business.
struct Elsewhere {
    policies: Policies,
    revoked: Arc<Notify>,
}

impl KeyOperator for Elsewhere {
    fn rotate<'a>(
        &'a self,
        policy: &'a PolicyName,
        ring: RingChoice,
    ) -> Pin<Box<dyn Future<Output = Result<(), RotateError>> + Send + 'a>> {
        let known = self.policies.one(policy).is_some();
        let ring = match ring {
            RingChoice::Access => RingName::Access.word(),
            RingChoice::ApiKey => "api-key",
            RingChoice::All => "all",
        };
        let command = format!("countersign keys rotate --policy {policy} --ring {ring}");
        Box::pin(async move { Err(if known { RotateError::Elsewhere { command } } else { RotateError::NoRings }) })
    }

    fn key_revoked(&self) -> Arc<Notify> {
        self.revoked.clone()
    }
}

/// What only the process as a whole knows.
struct InCluster(Arc<Told>);

impl StatusSource for InCluster {
    fn status(&self) -> Value {
        self.0.status()
    }

    fn effective(&self, policy: &PolicyName) -> Option<Value> {
        self.0.effective(policy)
    }
}
