//! The feed between processes, on a Redis.
//!
//! Every step is one script, checked against the epoch record and the server's own run within itself; see the `.lua` files
//! beside this one. Two connections: one for the blocking read of the tail, one for everything else. All keys share the hash
//! tag `{cs}`, so a cluster keeps them together.

mod connector;
mod counters;
mod url;
mod wire;

use std::{sync::LazyLock, time::Duration};

use countersign_core::{
    revocation::{PURGE_AFTER_MS, Position},
    time::UnixMillis,
};
use parking_lot::Mutex;
use redis::{
    RedisError, Script, Value,
    aio::MultiplexedConnection,
    streams::{StreamId, StreamRangeReply, StreamReadReply},
};
use tokio::time::Instant;

use self::connector::Connector;
pub use self::{
    counters::{Count, Counted, CounterWindow, RedisCounters},
    url::{InvalidRedisUrl, RedisUrl},
};
use crate::{
    activity::{KEPT_FOR, MAX_WAITING_SESSIONS, SeenSession},
    lease::{ISSUER_PREFIX, Lease},
    server::{
        BoxFuture, FeedError, FeedServer, HeldBack, LeaseWrite, Page, PublishRow, Published, Removal, ServerState, TailItem,
    },
    uses::{MAX_WAITING_USES, ReportedUse, WaitingUse},
};

const KEYS: [&str; 8] =
    ["{cs}:epoch", "{cs}:live", "{cs}:entries", "{cs}:expiry", "{cs}:tail", "{cs}:leases", "{cs}:writers", "{cs}:ahead"];
const LEASE: &str = "{cs}:lease:";
/// Where issuers' leases are: no verifier may write there.
const ISSUER_LEASE: &str = "{cs}:issuer-lease:";

fn lease_key(name: &str) -> String {
    match name.strip_prefix(ISSUER_PREFIX) {
        Some(pod) => format!("{ISSUER_LEASE}{pod}"),
        None => format!("{LEASE}{name}"),
    }
}

const USES: &str = "{cs}:uses";
const SEEN: &str = "{cs}:seen";
const TAIL_PAGE: usize = 1000;
const PURGE_PAGE: usize = 1000;
/// How often a server in use is asked for its eviction policy again.
const RECHECK: Duration = Duration::from_secs(10);

macro_rules! script {
    ($file:literal) => {
        LazyLock::new(|| {
            Script::new(concat!(include_str!("redis/prelude.lua"), "\n", include_str!(concat!("redis/", $file))))
        })
    };
}

static STATE: LazyLock<Script> = script!("state.lua");
static WRITE_LEASE: LazyLock<Script> = script!("lease.lua");
static RELEASE_LEASE: LazyLock<Script> = script!("release.lua");
static WRITER: LazyLock<Script> = script!("writer.lua");
static PAGE: LazyLock<Script> = script!("page.lua");
static OPEN: LazyLock<Script> = script!("open.lua");
static SEAL: LazyLock<Script> = script!("seal.lua");
static PUBLISH: LazyLock<Script> = script!("publish.lua");
static REMOVE: LazyLock<Script> = script!("remove.lua");
static PURGE: LazyLock<Script> = script!("purge.lua");
/// Needs no epoch: what it leaves says nothing about revocations.
static REPORT_USES: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis/uses.lua")));
static REPORT_SEEN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis/seen.lua")));
static TAKE_SEEN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redis/take_seen.lua")));

/// How a Redis is spoken to.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// Certificates (PEM) of the authorities that may have signed the server's; absent: the system's.
    pub ca_pem: Option<Vec<u8>>,
    /// How long a connection or an answer may take.
    pub timeout: Duration,
    /// About how many entries the tail keeps.
    pub tail_length: usize,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self { ca_pem: None, timeout: Duration::from_secs(1), tail_length: 10_000 }
    }
}

/// A feed on a Redis.
#[derive(Debug)]
pub struct RedisFeed {
    connector: Connector,
    options: RedisOptions,
    commands: Slot,
    blocking: Slot,
    checked: Mutex<Option<Instant>>,
}

/// A connection, made when it is first needed and again after it failed.
#[derive(Default)]
struct Slot(tokio::sync::Mutex<Option<MultiplexedConnection>>);

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl RedisFeed {
    /// A feed on the Redis at `url`. Connects when first used.
    pub fn new(url: RedisUrl, options: RedisOptions) -> Result<Self, InvalidRedisUrl> {
        let connector = Connector::new(url, options.ca_pem.as_deref(), options.timeout)?;
        Ok(Self { connector, options, commands: Slot::default(), blocking: Slot::default(), checked: Mutex::new(None) })
    }

    async fn connection(&self, slot: &Slot) -> Result<MultiplexedConnection, FeedError> {
        let mut held = slot.0.lock().await;
        if let Some(connection) = &*held {
            return Ok(connection.clone());
        }
        let connection = self.connector.connect(self.options.timeout).await?;
        *held = Some(connection.clone());
        Ok(connection)
    }

    /// Forgets a connection after what may have been its failure.
    async fn after<T>(&self, slot: &Slot, result: Result<T, RedisError>) -> Result<T, FeedError> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                if error.is_io_error()
                    || error.is_timeout()
                    || error.is_connection_dropped()
                    || error.is_unrecoverable_error()
                {
                    *slot.0.lock().await = None;
                    *self.checked.lock() = None;
                }
                Err(self.connector.failure(&error))
            }
        }
    }

    async fn run(&self, script: &Script, lease: Option<&str>, args: &[Vec<u8>]) -> Result<Value, FeedError> {
        let mut connection = self.connection(&self.commands).await?;
        self.check_eviction(&mut connection).await?;
        let mut call = script.prepare_invoke();
        for key in KEYS {
            call.key(key);
        }
        if let Some(lease) = lease {
            call.key(lease_key(lease));
        }
        for arg in args {
            call.arg(arg.as_slice());
        }
        let result = call.invoke_async::<Value>(&mut connection).await;
        self.after(&self.commands, result).await
    }

    /// Refuses a server that would evict revocations. Asked at each connection and every few seconds: settings change.
    async fn check_eviction(&self, connection: &mut MultiplexedConnection) -> Result<(), FeedError> {
        if self.checked.lock().is_some_and(|at| at.elapsed() < RECHECK) {
            return Ok(());
        }
        let asked: Result<Vec<String>, RedisError> =
            redis::cmd("CONFIG").arg("GET").arg("maxmemory-policy").query_async(connection).await;
        let configured = match asked {
            Ok(answer) => answer.into_iter().nth(1),
            Err(error) if matches!(error.kind(), redis::ErrorKind::Server(_) | redis::ErrorKind::Extension) => None,
            Err(error) => return self.after(&self.commands, Err(error)).await,
        };
        let policy = if let Some(policy) = configured {
            policy
        } else {
            let info = redis::cmd("INFO").arg("memory").query_async::<String>(connection).await;
            let info = self.after(&self.commands, info).await?;
            let field = info.lines().find_map(|line| line.strip_prefix("maxmemory_policy:"));
            field.ok_or(HeldBack::NoEvictionPolicy)?.trim().to_owned()
        };
        if policy.starts_with("allkeys-") {
            return Err(HeldBack::Evicts(policy).into());
        }
        *self.checked.lock() = Some(Instant::now());
        Ok(())
    }

    async fn state_by(&self, script: &Script, lease: Option<&str>, args: &[Vec<u8>]) -> Result<ServerState, FeedError> {
        let state = wire::state(&self.run(script, lease, args).await?)?;
        if state.run_id.is_empty() { Err(HeldBack::NoRunId.into()) } else { Ok(state) }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "numbers are passed as they come")]
fn bytes(n: impl ToString) -> Vec<u8> {
    n.to_string().into_bytes()
}

impl FeedServer for RedisFeed {
    fn describe(&self) -> String {
        self.connector.url().to_string()
    }

    fn state(&self) -> BoxFuture<'_, Result<ServerState, FeedError>> {
        Box::pin(self.state_by(&STATE, None, &[]))
    }

    fn write_lease<'a>(&'a self, lease: &'a LeaseWrite) -> BoxFuture<'a, Result<ServerState, FeedError>> {
        Box::pin(async move {
            let json = wire::lease_text(lease);
            let position = lease.position.map_or_else(Vec::new, |position| bytes(position.score()));
            let args = [lease.name.clone().into_bytes(), json, bytes(lease.ttl.as_millis()), position];
            self.state_by(&WRITE_LEASE, Some(&lease.name), &args).await
        })
    }

    fn release_lease<'a>(&'a self, lease: &'a LeaseWrite) -> BoxFuture<'a, Result<(), FeedError>> {
        Box::pin(async move {
            let args = [lease.name.clone().into_bytes(), wire::lease_text(lease)];
            self.run(&RELEASE_LEASE, Some(&lease.name), &args).await?;
            Ok(())
        })
    }

    fn leases(&self) -> BoxFuture<'_, Result<Vec<Lease>, FeedError>> {
        Box::pin(async move {
            let mut connection = self.connection(&self.commands).await?;
            let names = redis::cmd("ZRANGE").arg("{cs}:leases").arg(0).arg(-1).query_async(&mut connection).await;
            // Whoever may write a lease may write any name: what is no name of a reader is nobody's.
            let names: Vec<Vec<u8>> = self.after(&self.commands, names).await?;
            let names: Vec<String> = names.into_iter().filter_map(wire::lease_name).collect();
            let mut leases = Vec::with_capacity(names.len());
            for chunk in names.chunks(500) {
                let mut command = redis::cmd("MGET");
                for name in chunk {
                    command.arg(lease_key(name));
                }
                let values = command.query_async(&mut connection).await;
                let values: Vec<Option<Vec<u8>>> = self.after(&self.commands, values).await?;
                leases.extend(chunk.iter().zip(values).filter_map(|(name, value)| {
                    // One of another release that can't be read is alive all the same.
                    let stored: wire::StoredLease = serde_json::from_slice(&value?).unwrap_or_default();
                    Some(Lease { name: name.clone(), position: stored.position, ack: stored.ack })
                }));
            }
            leases.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(leases)
        })
    }

    fn write_writer_lease<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<ServerState, FeedError>> {
        Box::pin(async move { self.state_by(&WRITER, None, &[name.as_bytes().to_vec()]).await })
    }

    fn page(&self, after: Position, limit: usize) -> BoxFuture<'_, Result<Page, FeedError>> {
        Box::pin(async move {
            let answer = self.run(&PAGE, None, &[bytes(after.score()), bytes(limit)]).await?;
            let (state, more, items): (Value, String, Vec<Value>) = wire::typed(&answer)?;
            drop(answer);
            let mut entries = Vec::with_capacity(items.len() / 2);
            let mut unreadable = Vec::new();
            for (i, pair) in items.chunks_exact(2).enumerate() {
                if let [score, value] = pair {
                    let score: String = wire::typed(score)?;
                    let value: Vec<u8> = wire::typed(value)?;
                    let position = wire::position(&score)?;
                    match wire::decode(&value) {
                        Ok(entry) => entries.push((position, entry)),
                        Err(_) => unreadable.push(position),
                    }
                }
                if i % 500 == 499 {
                    // A page takes milliseconds to read; others are served between.
                    tokio::task::yield_now().await;
                }
            }
            Ok(Page { entries, unreadable, more: more == "1", state: wire::state(&state)? })
        })
    }

    fn tail(&self, after: Position, wait: Duration) -> BoxFuture<'_, Result<Vec<TailItem>, FeedError>> {
        Box::pin(async move {
            // Taken out while it is read from: a read that nobody waits for any more must not hold up the next one.
            let answer_within = wait + self.options.timeout;
            let held = self.blocking.0.lock().await.take();
            let mut connection = match held {
                Some(connection) => connection,
                None => self.connector.connect(answer_within).await?,
            };
            let answer = redis::cmd("XREAD")
                .arg("COUNT")
                .arg(TAIL_PAGE)
                .arg("BLOCK")
                .arg(wait.as_millis().max(1).to_string())
                .arg("STREAMS")
                .arg("{cs}:tail")
                .arg(format!("{}-{}", after.epoch(), after.place()))
                .query_async::<Option<StreamReadReply>>(&mut connection)
                .await;
            let answer = self.after(&self.blocking, answer).await?.unwrap_or_default();
            *self.blocking.0.lock().await = Some(connection);
            let mut items = Vec::new();
            for item in answer.keys.iter().flat_map(|key| &key.ids) {
                wire::tail_items(item, &mut items)?;
                if items.len() > 500 {
                    tokio::task::yield_now().await;
                }
            }
            Ok(items)
        })
    }

    fn open_epoch(&self, epoch: u64) -> BoxFuture<'_, Result<ServerState, FeedError>> {
        Box::pin(async move { self.state_by(&OPEN, None, &[bytes(epoch)]).await })
    }

    fn seal(&self, epoch: u64) -> BoxFuture<'_, Result<(), FeedError>> {
        Box::pin(async move { self.run(&SEAL, None, &[bytes(epoch)]).await.map(|_| ()) })
    }

    fn publish<'a>(
        &'a self,
        epoch: u64,
        floor: Position,
        rows: &'a [PublishRow],
    ) -> BoxFuture<'a, Result<Vec<Published>, FeedError>> {
        Box::pin(async move {
            let mut args = Vec::with_capacity(4 + rows.len() * 8);
            args.extend([bytes(epoch), bytes(floor.score()), bytes(self.options.tail_length), bytes(rows.len())]);
            for row in rows {
                let e = wire::encode(&row.entry);
                let recorded = row.recorded.map_or_else(Vec::new, |position| bytes(position.score()));
                args.extend([e.member, e.cutoff.into(), e.expires.into(), e.version.into()]);
                args.extend([bytes(u8::from(e.by_version)), e.body.into(), recorded, e.expiry.into()]);
            }
            let answer = self.run(&PUBLISH, None, &args).await?;
            let scores: Vec<String> = wire::typed(&answer)?;
            if scores.len() != rows.len() {
                return Err(FeedError::Protocol("not a position for each row".into()));
            }
            scores.iter().map(|score| Ok(Published { position: wire::position(score)? })).collect()
        })
    }

    fn remove<'a>(&'a self, epoch: u64, entries: &'a [Removal]) -> BoxFuture<'a, Result<(), FeedError>> {
        Box::pin(async move {
            let mut args = vec![bytes(epoch)];
            for (key, position) in entries {
                args.extend([wire::member(key), bytes(position.score())]);
            }
            self.run(&REMOVE, None, &args).await.map(|_| ())
        })
    }

    fn report_uses<'a>(&'a self, uses: &'a [ReportedUse]) -> BoxFuture<'a, Result<(), FeedError>> {
        Box::pin(async move {
            let mut connection = self.connection(&self.commands).await?;
            let mut call = REPORT_USES.prepare_invoke();
            call.key(USES).arg(MAX_WAITING_USES);
            for used in uses {
                call.arg(serde_json::to_vec(used).unwrap_or_default());
            }
            let result = call.invoke_async::<Value>(&mut connection).await;
            self.after(&self.commands, result).await.map(|_| ())
        })
    }

    fn waiting_uses(&self, limit: usize) -> BoxFuture<'_, Result<Vec<WaitingUse>, FeedError>> {
        Box::pin(async move {
            let mut connection = self.connection(&self.commands).await?;
            let mut command = redis::cmd("XRANGE");
            let read = command.arg(USES).arg("-").arg("+").arg("COUNT").arg(limit);
            let read = read.query_async::<StreamRangeReply>(&mut connection).await;
            let used = |item: &StreamId| serde_json::from_slice(&item.get::<Vec<u8>>("use")?).ok();
            let ids = self.after(&self.commands, read).await?.ids;
            Ok(ids.into_iter().map(|item| WaitingUse { used: used(&item), place: item.id }).collect())
        })
    }

    fn take_out_uses<'a>(&'a self, places: &'a [String]) -> BoxFuture<'a, Result<(), FeedError>> {
        Box::pin(async move {
            if places.is_empty() {
                return Ok(());
            }
            let mut connection = self.connection(&self.commands).await?;
            let gone = redis::cmd("XDEL").arg(USES).arg(places).query_async::<Value>(&mut connection).await;
            self.after(&self.commands, gone).await.map(|_| ())
        })
    }

    fn report_activity<'a>(&'a self, seen: &'a [SeenSession]) -> BoxFuture<'a, Result<u64, FeedError>> {
        Box::pin(async move {
            if seen.is_empty() {
                return Ok(0);
            }
            let mut connection = self.connection(&self.commands).await?;
            let mut call = REPORT_SEEN.prepare_invoke();
            call.key(SEEN).arg(MAX_WAITING_SESSIONS).arg(bytes(KEPT_FOR.as_millis()));
            for seen in seen {
                call.arg(seen.at.0).arg(wire::seen_member(seen));
            }
            let dropped = call.invoke_async::<u64>(&mut connection).await;
            self.after(&self.commands, dropped).await
        })
    }

    fn take_activity(&self, limit: usize) -> BoxFuture<'_, Result<Vec<SeenSession>, FeedError>> {
        Box::pin(async move {
            let mut connection = self.connection(&self.commands).await?;
            let mut call = TAKE_SEEN.prepare_invoke();
            let taken = call.key(SEEN).arg(limit).invoke_async::<Vec<(Vec<u8>, String)>>(&mut connection).await;
            let taken = self.after(&self.commands, taken).await?;
            // Whoever may report may write anything: what names no session is nobody's.
            Ok(taken.iter().filter_map(|(member, at)| wire::seen(member, at)).collect())
        })
    }

    fn purge(&self, epoch: u64, own_now: UnixMillis) -> BoxFuture<'_, Result<u64, FeedError>> {
        Box::pin(async move {
            let args = [bytes(epoch), bytes(own_now.as_secs()), bytes(PURGE_AFTER_MS / 1000), bytes(PURGE_PAGE)];
            wire::typed(&self.run(&PURGE, None, &args).await?)
        })
    }
}
