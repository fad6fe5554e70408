//! How often things may be tried: one count over all issuers.
//!
//! Windows begin with the first try and are counted on Redis, where there is one, in one step for all limits of a call. While
//! it is away they are counted in the store, so that its loss opens no door: at most as many tries again as a window has. What
//! a limit refuses is no try: it uses up no other limit, and lengthens no window. Whom a limit is about stands nowhere in
//! the clear: names and addresses are hashed under a key of the installation.

mod attack;
mod headers;
mod reserving;

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use aws_lc_rs::hmac;
use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_feed::{Count, Counted, CounterWindow, FeedError, RedisCounters};
use countersign_store::{Store, StoreError};

pub(crate) use self::{
    attack::{Pressure, halved_under_attack},
    headers::{CountedBy, rate_limit_headers},
    reserving::Reserved,
};

/// Bytes of a hash that are kept: enough that nobody finds two names with one.
const HASH_BYTES: usize = 16;
/// A limit that refuses nothing: what is only counted.
const NO_LIMIT: u32 = u32::MAX;
/// What failed logins are counted under, by the minute.
const FAILED_LOGINS: &str = "failed-logins";
/// How long a minute's failures are remembered: through the next one.
const TWO_MINUTES_MS: i64 = 2 * attack::MINUTE_MS;

/// One limit of a call.
#[derive(Clone, Debug)]
#[expect(clippy::struct_field_names, reason = "the window of a limit, as policies call it")]
pub(crate) struct Window {
    /// What is tried: a fixed word.
    pub(crate) what: &'static str,
    /// By whom: a name, an address ([`address_key`]), an id, or several joined by [`joined_key`].
    pub(crate) key: String,
    /// How often.
    pub(crate) limit: u32,
    /// In how long a time from the first try, milliseconds.
    pub(crate) window_ms: i64,
}

/// How a limit stands after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Whether the try may be made.
    pub(crate) allowed: bool,
    /// How many the window has.
    pub(crate) limit: u32,
    /// How many are left in it.
    pub(crate) remaining: u32,
    /// When it ends, milliseconds from now.
    pub(crate) reset_ms: i64,
}

/// Counts tries.
pub(crate) struct Limits {
    store: Arc<Store>,
    redis: Option<RedisCounters>,
    key: hmac::Key,
    redis_away: AtomicBool,
    fallbacks: AtomicU64,
    turns: reserving::Turns,
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("redis", &self.redis).finish_non_exhaustive()
    }
}

impl Limits {
    /// Counts on `redis` if given, else in `store`. `key` must be the same in every issuer of an installation.
    pub(crate) fn new(store: Arc<Store>, redis: Option<RedisCounters>, key: &[u8]) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        Self {
            store,
            redis,
            key,
            redis_away: AtomicBool::new(false),
            fallbacks: AtomicU64::new(0),
            turns: reserving::Turns::default(),
        }
    }

    /// Tries: counted by every limit, or by none when one of them refuses. The tightest answers. Without any limit nothing is
    /// refused, and there is nothing to tell.
    pub(crate) async fn hit(
        &self,
        policy: &PolicyName,
        windows: &[Window],
        now: UnixMillis,
    ) -> Result<Option<Standing>, StoreError> {
        Ok(self.reserve(policy, windows, now).await?.standing)
    }

    /// How the limits stand, without a try: `allowed` says whether the next one may be made.
    pub(crate) async fn peek(
        &self,
        policy: &PolicyName,
        windows: &[Window],
        now: UnixMillis,
    ) -> Result<Option<Standing>, StoreError> {
        if windows.is_empty() {
            return Ok(None);
        }
        let counts = self.counts(policy, windows, now).await?;
        let standing = |(window, count): (&Window, &Count)| standing(window, count, count.hits < window.limit);
        Ok(windows.iter().zip(&counts).map(standing).reduce(tightest))
    }

    /// Forgets what one has tried, wherever it was counted. Whether there was anything.
    pub(crate) async fn clear(&self, policy: &PolicyName, what: &'static str, key: &str) -> Result<bool, StoreError> {
        let name = self.name(policy, what, key);
        let on_redis = self.on_redis(async |redis| redis.clear(&name).await).await.unwrap_or(false);
        Ok(self.store.clear_rate_window(policy, &name).await? || on_redis)
    }

    /// Counts a failed login of anybody, for [`Self::pressure`].
    pub(crate) async fn note_failed_login(&self, policy: &PolicyName, now: UnixMillis) -> Result<(), StoreError> {
        self.hit(policy, &[minute(now)], now).await.map(|_| ())
    }

    /// How many logins fail.
    pub(crate) async fn pressure(&self, policy: &PolicyName, now: UnixMillis) -> Result<Pressure, StoreError> {
        let windows = [minute(now.minus(attack::MINUTE_MS)), minute(now)];
        let counts = self.counts(policy, &windows, now).await?;
        let hits = |at: usize| counts.get(at).map_or(0, |count| count.hits);
        Ok(Pressure { last_minute: hits(0), this_minute: hits(1), into_minute_ms: now.0.rem_euclid(attack::MINUTE_MS) })
    }

    /// Whether there is a Redis to count on.
    pub(crate) const fn has_redis(&self) -> bool {
        self.redis.is_some()
    }

    /// Whether counts are kept in the store because Redis is away. Always false where there is none.
    pub(crate) fn redis_away(&self) -> bool {
        self.redis_away.load(Relaxed)
    }

    /// How many counts were kept in the store because Redis was away.
    pub(crate) fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Relaxed)
    }

    async fn counts(&self, policy: &PolicyName, windows: &[Window], now: UnixMillis) -> Result<Vec<Count>, StoreError> {
        let names: Vec<String> = windows.iter().map(|w| self.name(policy, w.what, &w.key)).collect();
        if let Some(counts) = self.on_redis(async |redis| redis.peek(&asked(windows, &names)).await).await {
            return Ok(counts);
        }
        let mut counts = Vec::with_capacity(windows.len());
        for (window, name) in windows.iter().zip(&names) {
            let held = self.store.rate_window(policy, name, now).await?;
            counts.push(held.map_or(Count { hits: 0, ends_in_ms: window.window_ms }, |held| Count {
                hits: held.hits,
                ends_in_ms: held.ends.since(now),
            }));
        }
        Ok(counts)
    }

    /// Looks first, so that what one limit refuses isn't counted by another. Of two at once at most as many as the limit are let
    /// through; what the other has counted it takes back.
    async fn hit_in_store(
        &self,
        policy: &PolicyName,
        windows: &[Window],
        names: &[String],
        now: UnixMillis,
    ) -> Result<Counted, StoreError> {
        let mut found = Vec::with_capacity(windows.len());
        for (window, name) in windows.iter().zip(names) {
            let held = self.store.rate_window(policy, name, now).await?;
            found.push(held.map_or(Count { hits: 0, ends_in_ms: window.window_ms }, |held| Count {
                hits: held.hits,
                ends_in_ms: held.ends.since(now),
            }));
        }
        if windows.iter().zip(&found).any(|(window, count)| count.hits >= window.limit) {
            return Ok(Counted { counted: false, windows: found });
        }
        found.clear();
        for (window, name) in windows.iter().zip(names) {
            let held = self.store.count_hit(policy, name, window.window_ms, now).await?;
            found.push(Count { hits: held.hits, ends_in_ms: held.ends.since(now) });
        }
        let counted = windows.iter().zip(&found).all(|(window, count)| count.hits <= window.limit);
        if !counted {
            // Another one was quicker: what is refused is no try.
            for name in names {
                self.store.take_back_hit(policy, name).await?;
            }
        }
        Ok(Counted { counted, windows: found })
    }

    /// What Redis says, if there is one and it answers.
    async fn on_redis<T>(&self, ask: impl AsyncFnOnce(&RedisCounters) -> Result<T, FeedError>) -> Option<T> {
        let redis = self.redis.as_ref()?;
        match ask(redis).await {
            Ok(answer) => {
                if self.redis_away.swap(false, Relaxed) {
                    tracing::info!("rate limits are counted on Redis again");
                }
                Some(answer)
            }
            Err(error) => {
                self.fallbacks.fetch_add(1, Relaxed);
                if !self.redis_away.swap(true, Relaxed) {
                    tracing::warn!(%error, "rate limits are counted in the store while Redis is away");
                }
                None
            }
        }
    }

    /// A window's name wherever it is counted. Lengths keep parts apart.
    fn name(&self, policy: &PolicyName, what: &str, key: &str) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        for part in [policy.as_str(), what, key] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let tag = context.sign();
        let shown = tag.as_ref().get(..HASH_BYTES).unwrap_or_default();
        format!("{what}:{}", hex::encode(shown))
    }
}

fn asked<'a>(windows: &[Window], names: &'a [String]) -> Vec<CounterWindow<'a>> {
    let asked = |(window, name): (&Window, &'a String)| CounterWindow {
        key: name,
        limit: window.limit,
        length_ms: window.window_ms,
    };
    windows.iter().zip(names).map(asked).collect()
}

fn minute(at: UnixMillis) -> Window {
    let key = at.0.div_euclid(attack::MINUTE_MS).to_string();
    Window { what: FAILED_LOGINS, key, limit: NO_LIMIT, window_ms: TWO_MINUTES_MS }
}

fn standing(window: &Window, count: &Count, allowed: bool) -> Standing {
    let remaining = if allowed { window.limit.saturating_sub(count.hits) } else { 0 };
    Standing { allowed, limit: window.limit, remaining, reset_ms: count.ends_in_ms.max(0) }
}

/// Of two standings the one that a caller must heed: a refusal before none, of refusals the longer, else the one with less
/// left.
fn tightest(one: Standing, other: Standing) -> Standing {
    let heed = |s: &Standing| (s.allowed, if s.allowed { i64::from(s.remaining) } else { -s.reset_ms });
    if heed(&other) < heed(&one) { other } else { one }
}

/// Whose limit an address counts towards: an IPv6 one's is its /64's, because a single customer has at least that.
pub(crate) fn address_key(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => {
            let network = std::net::Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64));
            format!("{network}/64")
        }
    }
}

/// Several keys as one. No two lists make the same.
pub(crate) fn joined_key(parts: &[&str]) -> String {
    parts.iter().fold(String::new(), |mut key, part| {
        let _ = write!(key, "{}:{part}", part.len());
        key
    })
}

#[cfg(test)]
mod tests;
