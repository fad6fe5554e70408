//! Counters that several processes share: how often something was done in a window of time.
//!
//! They may be lost at any time, as everything on a Redis; whoever uses them counts elsewhere while it is away. So that nobody
//! waits for a server that doesn't answer, a call has a fixed budget, and after a failure the server is left alone for a
//! moment.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use parking_lot::Mutex;
use redis::{Script, Value, aio::MultiplexedConnection};
use tokio::time::Instant;

use super::{InvalidRedisUrl, RedisUrl, connector::Connector, wire};
use crate::server::FeedError;

/// What every counter's key begins with. The hash tag is the feed's: one node of a cluster holds both, and whoever may use
/// the one may be given the other.
const PREFIX: &str = "{cs}:limit:";
/// How long a call may take, connection and all.
const BUDGET: Duration = Duration::from_millis(50);
/// How long the server is left alone after it failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a connection may take to be made, whoever waits for it.
const CONNECT: Duration = Duration::from_secs(1);

static COUNT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("counters.lua")));
static TAKE_BACK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("counters_back.lua")));

/// A window to count in.
#[derive(Clone, Copy, Debug)]
pub struct CounterWindow<'a> {
    /// Its name. Nothing that identifies a person: it stands in the server in the clear.
    pub key: &'a str,
    /// How often it may be counted.
    pub limit: u32,
    /// How long it lasts from the first that is counted, milliseconds.
    pub length_ms: i64,
}

/// A window as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    /// How much was counted in it.
    pub hits: u32,
    /// When it ends, milliseconds from now.
    pub ends_in_ms: i64,
}

/// What came of counting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Whether it was counted: every window had room.
    pub counted: bool,
    /// The windows, in the order that they were asked for.
    pub windows: Vec<Count>,
}

/// Counters on a Redis. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RedisCounters(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    connector: Connector,
    held: tokio::sync::Mutex<Option<Held>>,
    away_until: Mutex<Option<Instant>>,
}

struct Held(MultiplexedConnection);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Held")
    }
}

impl RedisCounters {
    /// Counters on the Redis at `url`, whose certificate the authorities in `ca_pem` may have signed (absent: the system's).
    /// Connects when first used.
    pub fn new(url: RedisUrl, ca_pem: Option<&[u8]>) -> Result<Self, InvalidRedisUrl> {
        let connector = Connector::new(url, ca_pem, CONNECT)?;
        Ok(Self(Arc::new(Inner { connector, held: tokio::sync::Mutex::default(), away_until: Mutex::default() })))
    }

    /// Counts once in every window, or in none when one is at its limit.
    pub async fn hit(&self, windows: &[CounterWindow<'_>]) -> Result<Counted, FeedError> {
        self.count(windows, true).await
    }

    /// The windows as they stand.
    pub async fn peek(&self, windows: &[CounterWindow<'_>]) -> Result<Vec<Count>, FeedError> {
        self.count(windows, false).await.map(|answer| answer.windows)
    }

    /// Takes back what [`Self::hit`] counted once in each of these windows, as far as they are still there.
    pub async fn take_back(&self, keys: &[String]) -> Result<(), FeedError> {
        let mut call = TAKE_BACK.prepare_invoke();
        for key in keys {
            call.key(format!("{PREFIX}{key}"));
        }
        let ask = async |connection: &mut MultiplexedConnection| call.invoke_async::<Value>(connection).await;
        self.within_budget(ask).await.map(|_| ())
    }

    /// Forgets a window. Whether there was one.
    pub async fn clear(&self, key: &str) -> Result<bool, FeedError> {
        let key = format!("{PREFIX}{key}");
        let forget =
            async |connection: &mut MultiplexedConnection| redis::cmd("DEL").arg(key).query_async::<u64>(connection).await;
        self.within_budget(forget).await.map(|forgotten| forgotten > 0)
    }

    async fn count(&self, windows: &[CounterWindow<'_>], count: bool) -> Result<Counted, FeedError> {
        let mut call = COUNT.prepare_invoke();
        call.arg(i32::from(count));
        for window in windows {
            call.key(format!("{PREFIX}{}", window.key)).arg(window.limit).arg(window.length_ms.max(1));
        }
        let ask = async |connection: &mut MultiplexedConnection| call.invoke_async::<Value>(connection).await;
        let answer: Vec<i64> = wire::typed(&self.within_budget(ask).await?)?;
        let counts = answer.get(1..).unwrap_or_default().chunks_exact(2);
        let read = |pair: &[i64]| Count { hits: u32::try_from(pair[0]).unwrap_or(u32::MAX), ends_in_ms: pair[1].max(0) };
        let found: Vec<Count> = counts.map(read).collect();
        if found.len() == windows.len() {
            Ok(Counted { counted: answer.first() == Some(&1), windows: found })
        } else {
            Err(FeedError::Protocol("not a count for each window".into()))
        }
    }

    async fn within_budget<T>(
        &self,
        ask: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, redis::RedisError>,
    ) -> Result<T, FeedError> {
        let inner = &self.0;
        if inner.away_until.lock().is_some_and(|until| Instant::now() < until) {
            return Err(FeedError::Unreachable(format!("{} failed a moment ago", inner.connector.url())));
        }
        let asked = async {
            let mut connection = self.connection().await?;
            ask(&mut connection).await.map_err(|error| inner.connector.failure(&error))
        };
        let answer = tokio::time::timeout(BUDGET, asked).await;
        let answer = answer.unwrap_or_else(|_| Err(inner.connector.timed_out(BUDGET)));
        if answer.is_err() {
            *inner.away_until.lock() = Some(Instant::now() + PAUSE);
            // One that is being made stays: it will be there when the pause is over.
            if let Ok(mut held) = inner.held.try_lock() {
                *held = None;
            }
        }
        answer
    }

    async fn connection(&self) -> Result<MultiplexedConnection, FeedError> {
        if let Ok(held) = self.0.held.try_lock()
            && let Some(Held(connection)) = &*held
        {
            return Ok(connection.clone());
        }
        // In a task of its own: a caller's budget may be over before the connection is made, which is then the next one's.
        let inner = self.0.clone();
        let made = tokio::spawn(async move {
            let mut held = inner.held.lock().await;
            if let Some(Held(connection)) = &*held {
                return Ok(connection.clone());
            }
            let connection = inner.connector.connect(CONNECT).await?;
            *held = Some(Held(connection.clone()));
            *inner.away_until.lock() = None;
            Ok(connection)
        });
        made.await.unwrap_or_else(|_| Err(FeedError::Unreachable("the runtime is ending".into())))
    }
}
