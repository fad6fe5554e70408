//! A running `dev`, from its settings to its end.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use countersign_feed::{
    FeedError, FeedServer, FeedState, Follower, FollowerConfig, MemoryFeed, Publisher, PublisherConfig, RedisCounters,
    RedisFeed, RedisOptions, collect_waiting_uses,
};
use countersign_issuer::{
    AdminSocket, Delivery, Fleet, Issuer, IssuerConfig, Kept, Listeners, Mailer, Outbox, Policies, Reach, Secrets,
    SmsSender, UseAudit, passwords::Pool,
};
use countersign_process::ServingTls;
use countersign_store::{Location, Store};
use countersign_verifier::{Config, Feed, RunningVerifier, Verifier};
use serde::Serialize;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{
    Settings,
    bundles::{Bundles, fresh_id},
    data_dir::{DataDir, write_atomically},
    declared::Declaration,
    operator::{Operator, Shared},
    policies::PolicySource,
    settings::Listen,
    status::{self, DevStatus},
    watching,
};
use crate::{
    failure::{Failure, chain},
    output::Printer,
};

/// How long the start waits for keys that sign and a feed that is fresh, before it says what is missing and goes on.
const SETTLE: Duration = Duration::from_secs(10);

/// The verifier's name in the fleet, kept in the store: made once, it tells installations apart as well.
pub(crate) const VERIFIER_NAME: &str = "verifier-name";

/// The parts of a running `dev`.
pub(crate) struct Running {
    addresses: StartedAddresses,
    declarations: watch::Receiver<Arc<Declaration>>,
    feed: Arc<FeedState>,
    feed_server: String,
    built_in: bool,
    settled: bool,
    tls: bool,
    parts: Parts,
}

struct Parts {
    data_dir: DataDir,
    store: Arc<Store>,
    server: Arc<dyn FeedServer>,
    publisher: Arc<Publisher>,
    verifier: Arc<RunningVerifier>,
    issuer: Issuer,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

/// What was bound: `addresses.json`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StartedAddresses {
    pub(crate) verifier: SocketAddr,
    pub(crate) verifier_health: SocketAddr,
    pub(crate) issuer: SocketAddr,
    pub(crate) issuer_health: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) admin_socket: PathBuf,
}

/// TCP listeners, bound before anything serves.
struct Bound {
    issuer: TcpListener,
    issuer_health: TcpListener,
    admin: TcpListener,
}

impl Running {
    /// Starts everything. Policies are read before anything binds.
    pub(crate) async fn start(settings: Settings) -> Result<Self, Failure> {
        let data_dir = DataDir::open(&settings.data_dir)?;
        // What an earlier run bound says nothing any more.
        let _ = std::fs::remove_file(data_dir.addresses());
        let database = settings.database.clone().unwrap_or_else(|| Location::File(data_dir.database()));
        let store = Arc::new(Store::connect(&database).await.map_err(|e| Failure::unable(chain(&e)))?);
        let mut source = PolicySource::open(&settings, store.clone()).await?;
        let declaration = source.first_reading().await?;
        let server = feed_server(&settings, &store).await?;

        let tls = match &settings.tls {
            Some(files) => Some(ServingTls::load(&files.cert, &files.key).map_err(|e| Failure::usage(chain(&e)))?),
            None => None,
        };
        let bound = Bound::new(settings.listen).await?;
        let stop = CancellationToken::new();
        let publisher = Arc::new(Publisher::spawn(server.clone(), store.clone(), PublisherConfig::new("dev")));
        let name = store
            .meta_or_insert(VERIFIER_NAME, &format!("dev-{}", fresh_id()))
            .await
            .map_err(|e| Failure::unable(chain(&e)))?;
        if settings.redis.is_none() {
            // Nobody else opens the feed of this process: a moment later it is there.
            seeded(&publisher).await;
        }
        let following = FollowerConfig::new(name.clone()).saved_in(data_dir.verifier().join("feed"));
        let follower = Follower::spawn(server.clone(), following).map_err(|e| Failure::unable(chain(&e)))?;
        let feed = follower.state().clone();
        let fleet = Fleet::new(server.clone(), Some((name, feed.clone())));
        let policies = Policies::default();
        let (declare, declarations) = watch::channel(Arc::new(declaration));

        let shared = Arc::new(Shared::open(store.clone(), policies.clone()).await.map_err(|e| Failure::unable(chain(&e)))?);
        let bundles = Bundles::open(&data_dir.bundles(), store.clone()).await.map_err(|e| Failure::unable(chain(&e)))?;
        let (settle, mut settled) = watch::channel(false);
        let operator = Operator::new(
            bundles,
            publisher.clone(),
            feed.clone(),
            fleet.clone(),
            policies.clone(),
            shared.clone(),
            store.clone(),
        );
        let mut tasks = vec![tokio::spawn(operator.run(declarations.clone(), settle, stop.clone()))];

        let verifier = start_verifier(&settings, &data_dir, follower).await?;
        let dev_status = Arc::new(DevStatus::new(declarations.clone(), data_dir.path(), &verifier));
        let issuer = Issuer::new(IssuerConfig {
            store: store.clone(),
            publisher: publisher.clone(),
            feed: feed.clone(),
            fleet,
            policies,
            keys: shared,
            status: dev_status,
            secrets: Arc::new(secrets(&settings, &data_dir)?),
            passwords: Pool::of_this_machine(),
            mailer: Mailer::new(delivery(&settings, &data_dir), Reach { allow_private: true }),
            sms: SmsSender::try_new(true).map_err(|e| Failure::unable(chain(&e)))?,
            counters: counters(&settings)?,
            trusted_proxies: settings.issuer_proxies.clone(),
            trusted_hosts: settings.trusted_hosts.clone(),
            environment: "development".into(),
            audit_retention: settings.audit_retention,
            audit_log: settings.audit_log.clone(),
        });
        let admin_socket = AdminSocket::bind(&data_dir.admin_socket()).map_err(|e| Failure::unable(e.to_string()))?;
        let addresses = addresses(&verifier, &bound, &data_dir)?;
        let serving = issuer.clone();
        let listeners = Listeners {
            public: bound.issuer,
            health: bound.issuer_health,
            admin: bound.admin,
            admin_socket,
            vouched: None,
            tls: tls.as_ref().map(ServingTls::acceptor),
        };
        let serve_until = stop.clone();
        tasks.push(tokio::spawn(async move { serving.serve(listeners, serve_until).await }));
        if let Some(tls) = tls {
            let until = stop.clone();
            tasks.push(tokio::spawn(async move {
                tokio::select! {
                    () = until.cancelled() => {}
                    () = tls.follow() => {}
                }
            }));
        }
        tasks.push(tokio::spawn(watching::follow(source, declare, stop.clone())));
        tasks.push(tokio::spawn(status::report(declarations.clone(), verifier.clone(), stop.clone())));

        let settled = tokio::time::timeout(SETTLE, async {
            let keys = settled.wait_for(|settled| *settled).await.is_ok();
            while keys && !feed.view().fresh {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .is_ok();
        let json = serde_json::to_vec_pretty(&addresses).map_err(|e| Failure::unable(e.to_string()))?;
        write_atomically(&data_dir.addresses(), &json)
            .map_err(|e| Failure::unable(format!("{}: {e}", data_dir.addresses().display())))?;
        let feed_server = server.describe();
        let parts = Parts { data_dir, store, server, publisher, verifier, issuer, stop, tasks };
        Ok(Self {
            addresses,
            declarations,
            feed,
            feed_server,
            built_in: settings.policies.is_none(),
            settled,
            tls: settings.tls.is_some(),
            parts,
        })
    }

    /// What was bound.
    pub(crate) fn addresses(&self) -> &StartedAddresses {
        &self.addresses
    }

    /// Whether the TCP listeners but for health speak TLS alone.
    pub(crate) fn tls(&self) -> bool {
        self.tls
    }

    /// What is declared.
    pub(crate) fn declaration(&self) -> Arc<Declaration> {
        self.declarations.borrow().clone()
    }

    /// The feed server in words.
    pub(crate) fn feed_server(&self) -> &str {
        &self.feed_server
    }

    /// Whether the built-in policy is all there is.
    pub(crate) fn is_built_in(&self) -> bool {
        self.built_in
    }

    /// Whether keys sign and the feed is fresh; otherwise why not, as far as the feed knows.
    pub(crate) fn unsettled(&self) -> Option<String> {
        (!self.settled).then(|| match self.feed.stats().problem {
            Some(problem) => problem.to_string(),
            None => "keys are waiting for verifiers: see `countersign keys list`".into(),
        })
    }

    /// The data directory.
    pub(crate) fn data_dir(&self) -> &std::path::Path {
        self.parts.data_dir.path()
    }

    /// Answers what has begun, saves, ends.
    pub(crate) async fn shutdown(self) {
        let Parts { data_dir, store, server, publisher, verifier, issuer, stop, tasks } = self.parts;
        issuer.health().drain();
        stop.cancel();
        for task in tasks {
            let _ = task.await;
        }
        drop(issuer);
        if let Ok(verifier) = Arc::try_unwrap(verifier) {
            verifier.shutdown().await;
        }
        if let Ok(publisher) = Arc::try_unwrap(publisher) {
            publisher.shutdown().await;
        }
        // What the verifier allowed last.
        if let Err(error) = collect_waiting_uses(&*server, &UseAudit::new(store.clone())).await {
            tracing::warn!(%error, "uses of emergency tokens are in the log alone, not in the audit trail");
        }
        store.close().await;
        let _ = std::fs::remove_file(data_dir.addresses());
    }
}

/// The issuer's keys: derived from TOKEN_ENCRYPTION_KEY when it is set, and from the data directory's own secret, which opens
/// what was sealed before that.
fn secrets(settings: &Settings, data_dir: &DataDir) -> Result<Secrets, Failure> {
    let own = data_dir.secret().map_err(|e| Failure::unable(format!("the data directory's secret: {e}")))?;
    let texts = settings.legacy.encryption_key.iter().map(|key| key.as_bytes()).chain([own.as_slice()]);
    Secrets::derive(texts).map_err(|e| Failure::unable(format!("the data directory's secret: {e}")))
}

/// How mails go out: by the server that the environment names, else not at all. Those that stay are told of on the terminal,
/// with their links.
fn delivery(settings: &Settings, data_dir: &DataDir) -> Delivery {
    match &settings.legacy.smtp {
        Some(smtp) => Delivery::Smtp(smtp.clone()),
        None => Delivery::Outbox(Outbox::new(data_dir.outbox(), told)),
    }
}

fn told(Kept { to, subject, link, path }: &Kept<'_>) {
    let link = link.map(|link| format!("\n  {link}")).unwrap_or_default();
    Printer::complain(&format!("mail to {to}: {subject}{link}\n  kept as {}", path.display()));
}

/// Where limits are counted: on the Redis that the feed is on, if there is one.
fn counters(settings: &Settings) -> Result<Option<RedisCounters>, Failure> {
    let counters = settings.redis.clone().map(|url| RedisCounters::new(url, None)).transpose();
    counters.map_err(|error| Failure::usage(format!("--redis: {error}")))
}

/// Waits until the feed is seeded, or a moment.
async fn seeded(publisher: &Publisher) {
    let seeded = async {
        while !publisher.status().seeded {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(1), seeded).await;
}

async fn feed_server(settings: &Settings, store: &Arc<Store>) -> Result<Arc<dyn FeedServer>, Failure> {
    let Some(url) = &settings.redis else {
        return Ok(Arc::new(MemoryFeed::new(store.clone())));
    };
    let redis =
        RedisFeed::new(url.clone(), RedisOptions::default()).map_err(|e| Failure::usage(format!("--redis: {e}")))?;
    match redis.state().await {
        Err(FeedError::Refused(why)) => Err(Failure::unable(format!("--redis: {why}"))),
        Err(error) => {
            tracing::warn!(%error, "going on without the feed until it is there; verdicts go stale meanwhile");
            Ok(Arc::new(redis))
        }
        Ok(_) => Ok(Arc::new(redis)),
    }
}

async fn start_verifier(
    settings: &Settings,
    data_dir: &DataDir,
    follower: Follower,
) -> Result<Arc<RunningVerifier>, Failure> {
    let mut config = Config::embedded(data_dir.bundles());
    config.data_dir = Some(data_dir.verifier());
    config.socket = Some(data_dir.verifier_socket());
    config.listen = Some(settings.listen.verifier);
    config.health_listen = Some(settings.listen.verifier_health);
    config.tls.clone_from(&settings.tls);
    config.fetch_rules.allow_private = settings.allow_private_issuers;
    config.trusted_proxies.clone_from(&settings.verifier.trusted_proxies);
    config.uncached_budget = settings.verifier.uncached_budget;
    config.restrict_listing = settings.verifier.restrict_listing;
    config.metrics_policy_label = settings.verifier.metrics_policy_label;
    let verifier = Verifier::start(config, Feed::Followed(follower)).await;
    verifier.map(Arc::new).map_err(|e| {
        Failure::unable(chain(&e)).fix("another port: --verifier-listen and --verifier-health-listen; 0 picks a free one")
    })
}

impl Bound {
    async fn new(listen: Listen) -> Result<Self, Failure> {
        Ok(Self {
            issuer: bind("--issuer-listen", listen.issuer).await?,
            issuer_health: bind("--issuer-health-listen", listen.issuer_health).await?,
            admin: bind("--admin-listen", listen.admin).await?,
        })
    }
}

async fn bind(flag: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|e| {
        Failure::unable(format!("{flag} {address}: {e}"))
            .fix(format!("name another address with {flag}; port 0 picks a free one"))
    })
}

fn addresses(verifier: &RunningVerifier, bound: &Bound, data_dir: &DataDir) -> Result<StartedAddresses, Failure> {
    let of = |listener: &TcpListener| listener.local_addr().map_err(|e| Failure::unable(e.to_string()));
    let missing = || Failure::unable("the verifier bound no address");
    let verifier = verifier.addresses();
    Ok(StartedAddresses {
        verifier: verifier.verifier.ok_or_else(missing)?,
        verifier_health: verifier.verifier_health.ok_or_else(missing)?,
        issuer: of(&bound.issuer)?,
        issuer_health: of(&bound.issuer_health)?,
        admin: of(&bound.admin)?,
        socket: data_dir.verifier_socket(),
        admin_socket: data_dir.admin_socket(),
    })
}
