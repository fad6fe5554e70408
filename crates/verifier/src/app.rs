//! From a question to its verdict: where a token is looked up, proven, judged and counted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use countersign_api::bundle;
use countersign_core::{
    check::{self, Allowed, Ask, Authenticated, World},
    jose::{MAX_TOKEN_BYTES, compact},
    mint::API_KEY_PREFIX,
    names::PolicyName,
    policy::{Policy, RateLimit},
    ratelimit::RateLimiter,
    revocation::Position,
    time::UnixMillis,
    verdict::Refusal,
};
use countersign_feed::{Clock, FeedState, FeedView};
use countersign_telemetry::traces::TARGET;
use tokio::sync::mpsc;
use tracing::field::Empty;

use crate::{
    activity::Activity,
    cache::{Proven, TokenHasher},
    emergency::Uses,
    http::forwarded::TrustedProxies,
    metrics::{Metrics, sampled},
    net::Peer,
    slot::{PolicySlot, RefusedBundle, Snapshot},
    source::status::SourceStatus,
};

/// How long a verify waits for the position that it names.
pub(crate) const MIN_POSITION_WAIT: Duration = Duration::from_millis(200);

/// How long the state may stay unconfirmed where no policy says.
const UNCONFIRMED_AFTER_MS: i64 = 300_000;

/// What holds for the whole process.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) trusted_proxies: TrustedProxies,
    /// Uncached verifications per caller and second; `None`: as many as come.
    pub(crate) uncached_budget: Option<u32>,
    pub(crate) restrict_listing: bool,
    pub(crate) policy_label: bool,
    pub(crate) cache_bytes: u64,
}

/// A token named a key that this entry's issuer isn't known to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UnknownKey {
    pub(crate) policy: PolicyName,
    /// The entry's name.
    pub(crate) trusted_issuer: String,
}

/// The verifier's state.
pub(crate) struct App {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) feed: Arc<FeedState>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: Settings,
    pub(crate) draining: AtomicBool,
    /// Told of tokens that name a key which a foreign issuer isn't known to have.
    unknown_keys: mpsc::Sender<UnknownKey>,
    /// When the source was last known to say what the snapshot says, by [`Clock::boot_millis`].
    confirmed_at: AtomicI64,
    loaded: AtomicBool,
    /// How it stands with the source of policies.
    pub(crate) source: SourceStatus,
    /// What whoever writes the source couldn't put into it.
    pub(crate) unwritten: ArcSwap<Vec<RefusedBundle>>,
    token_hasher: TokenHasher,
    callers: RateLimiter,
    subjects: RateLimiter,
    uses: Uses,
    activity: Activity,
}

/// The present moment, read once per question (or batch): never after the revocations that are looked up under it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) now: UnixMillis,
    pub(crate) feed: FeedView,
}

/// What a caller wants to know.
#[derive(Debug)]
pub(crate) struct Question<'a> {
    pub(crate) token: &'a str,
    pub(crate) ask: Ask<'a>,
    pub(crate) caller: Peer,
    /// A position that the caller named isn't reached.
    pub(crate) behind: bool,
}

/// An accepted credential and what its answer is made of.
pub(crate) struct Granted<'a> {
    pub(crate) allowed: Allowed<'a>,
    pub(crate) proven: &'a Proven,
    pub(crate) position: Option<Position>,
}

impl App {
    pub(crate) fn new(
        feed: Arc<FeedState>,
        metrics: Arc<Metrics>,
        settings: Settings,
        unknown_keys: mpsc::Sender<UnknownKey>,
        uses: Uses,
        activity: Activity,
    ) -> Self {
        Self {
            snapshot: ArcSwap::default(),
            feed,
            metrics,
            settings,
            draining: AtomicBool::new(false),
            unknown_keys,
            confirmed_at: AtomicI64::new(i64::MIN),
            loaded: AtomicBool::new(false),
            source: SourceStatus::default(),
            unwritten: ArcSwap::default(),
            token_hasher: TokenHasher::new(),
            callers: RateLimiter::with_capacity(16_384),
            subjects: RateLimiter::new(),
            uses,
            activity,
        }
    }

    /// The present moment, for this policy's clock skew.
    pub(crate) fn moment(&self, slot: &PolicySlot) -> Moment {
        let (now, feed) = self.feed.now_and_view(slot.policy().clock_skew_ms);
        Moment { now, feed }
    }

    /// Judges a token and hands the outcome to `answer`.
    pub(crate) fn judge<R>(
        &self,
        slot: &PolicySlot,
        question: &Question<'_>,
        moment: Moment,
        answer: impl FnOnce(Result<Granted<'_>, Refusal>) -> R,
    ) -> R {
        self.judge_also(slot, question, moment, |_| None, answer)
    }

    /// The same, where a good credential alone isn't enough: `also` may refuse it last.
    pub(crate) fn judge_also<R>(
        &self,
        slot: &PolicySlot,
        question: &Question<'_>,
        moment: Moment,
        also: impl FnOnce(&Authenticated) -> Option<Refusal>,
        answer: impl FnOnce(Result<Granted<'_>, Refusal>) -> R,
    ) -> R {
        let mut started = sampled().then(Instant::now);
        let (proven, hit) = match self.find_or_prove(slot, question, moment.now, &mut started) {
            Ok(found) => found,
            Err(refusal) => {
                slot.counters.verdict(Some(&refusal), false);
                self.time(started, false);
                return answer(Err(refusal));
            }
        };
        let world = World {
            now: moment.now,
            revocations: self.feed.revocations(),
            feed_age_ms: moment.feed.age_ms,
            behind: question.behind,
            rate_limiter: &self.subjects,
            witness: &self.uses,
        };
        let outcome = check::judge_also(slot.policy(), &proven.credential, &question.ask, &world, also);
        slot.counters.verdict(outcome.as_ref().err(), hit);
        if let Ok(allowed) = &outcome {
            self.activity.note(&slot.policy().name, allowed.credential(), moment.now);
        }
        self.time(started, hit);
        answer(outcome.map(|allowed| Granted { allowed, proven: &proven, position: moment.feed.position }))
    }

    fn find_or_prove(
        &self,
        slot: &PolicySlot,
        question: &Question<'_>,
        now: UnixMillis,
        started: &mut Option<Instant>,
    ) -> Result<(Arc<Proven>, bool), Refusal> {
        let token = question.token;
        let can_be_held = slot.cache.is_on() && token.len() <= MAX_TOKEN_BYTES;
        let hash = can_be_held.then(|| self.token_hasher.hash(token)).flatten();
        if let Some(proven) = hash.as_ref().and_then(|hash| slot.cache.find(hash)) {
            return Ok((proven, true));
        }
        started.get_or_insert_with(Instant::now);
        self.spend(question.caller, now)?;
        let credential = self.prove(slot, token, now)?;
        let cacheable = credential.cacheable();
        let proven = Arc::new(Proven::new(credential));
        if let Some(hash) = hash.filter(|_| cacheable) {
            slot.cache.keep(hash, proven.clone());
        }
        Ok((proven, false))
    }

    /// Proves a token that isn't remembered. Only this has a span: a remembered one costs less than a span would.
    fn prove(&self, slot: &PolicySlot, token: &str, now: UnixMillis) -> Result<Authenticated, Refusal> {
        let span = tracing::info_span!(target: TARGET, "prove", policy = %slot.policy().name, refusal = Empty);
        let _within = span.enter();
        let proven = check::authenticate(slot.policy(), token, now, self.feed.revocations().hasher())
            .map_err(|refusal| self.reconsider(slot, token, refusal));
        if let Err(refusal) = &proven {
            span.record("refusal", refusal.word());
        }
        proven
    }

    /// One uncached verification from `caller`'s budget.
    fn spend(&self, caller: Peer, now: UnixMillis) -> Result<(), Refusal> {
        let Some(limit) = self.settings.uncached_budget else { return Ok(()) };
        let budget = RateLimit { limit, window_ms: 1000 };
        self.callers.try_acquire(caller.budget_key(), budget, now).map_err(|retry_after_s| {
            self.metrics.over_budget.fetch_add(1, Relaxed);
            Refusal::RateLimited { retry_after_s }
        })
    }

    /// A key that isn't known may be one that the source or a foreign issuer has and we don't.
    fn reconsider(&self, slot: &PolicySlot, token: &str, refusal: Refusal) -> Refusal {
        let policy = slot.policy();
        let unfetched = || policy.trusted.iter().any(|t| t.keys.all().is_empty());
        if refusal != Refusal::UnknownKey && !(refusal == Refusal::BadSignature && unfetched()) {
            return refusal;
        }
        let text = token.strip_prefix(API_KEY_PREFIX).unwrap_or(token);
        let Ok(jws) = compact::parse(text) else { return refusal };
        // Unverified, and used for nothing but to choose whom to ask again.
        let issuer = jws.payload.get("iss").and_then(serde_json::Value::as_str);
        if policy.own.as_ref().is_some_and(|own| Some(&*own.issuer) == issuer) {
            let confirmed = refusal != Refusal::UnknownKey || self.is_confirmed(slot.loaded.unconfirmed_after_ms);
            return if confirmed { refusal } else { Refusal::NotReady };
        }
        let Some(entry) = policy.trusted.iter().find(|t| t.issuer.as_deref() == issuer) else { return refusal };
        // Full: somebody asked already.
        let asked = UnknownKey { policy: policy.name.clone(), trusted_issuer: entry.name.clone() };
        let _ = self.unknown_keys.try_send(asked);
        // An issuer whose keys were never read: nothing can be said about its tokens.
        if entry.keys.all().is_empty() { Refusal::NotReady } else { refusal }
    }

    /// Whether the feed has revoked one of the policy's own keys since its bundle was written.
    pub(crate) fn is_key_revoked(&self, policy: &Policy, kid: &str) -> bool {
        let issuer = policy.own.as_ref().map(|own| &*own.issuer);
        self.feed.revocations().is_key_revoked(&policy.name, issuer, kid)
    }

    fn time(&self, started: Option<Instant>, hit: bool) {
        if let Some(started) = started {
            if hit {
                self.metrics.durations.observe_sampled(started.elapsed());
            } else {
                self.metrics.durations.observe(started.elapsed(), 1);
            }
        }
    }

    /// Whether a position that a caller named is out of reach, after waiting for it a little.
    pub(crate) async fn is_behind(&self, min_position: Option<Position>) -> bool {
        match min_position {
            None => false,
            Some(position) => !self.feed.wait_for(position, MIN_POSITION_WAIT).await,
        }
    }

    /// The snapshot says what the source says now.
    pub(crate) fn confirm(&self) {
        self.confirm_as_of(Clock::boot_millis());
    }

    /// The snapshot says what the source said at that moment of [`Clock::boot_millis`], or later.
    pub(crate) fn confirm_as_of(&self, boot_millis: i64) {
        self.confirmed_at.fetch_max(boot_millis, Relaxed);
    }

    /// Whether there is a snapshot at all.
    pub(crate) fn is_loaded(&self) -> bool {
        self.loaded.load(Relaxed)
    }

    /// Puts a snapshot in place.
    pub(crate) fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
        self.loaded.store(true, Relaxed);
    }

    /// How long ago the snapshot was last known to say what the source says, milliseconds; `None`: never.
    pub(crate) fn confirmed_ms(&self) -> Option<i64> {
        let at = self.confirmed_at.load(Relaxed);
        (at != i64::MIN).then(|| Clock::boot_millis().saturating_sub(at))
    }

    fn is_confirmed(&self, within_ms: i64) -> bool {
        self.confirmed_ms().is_some_and(|ago| ago <= within_ms)
    }

    /// Why there is no such policy: it doesn't exist, or that can't be said.
    pub(crate) fn absent(&self, snapshot: &Snapshot, name: &str) -> Absent {
        let file = name.parse().map(|policy| bundle::file_name(&policy));
        let unready = file.is_ok_and(|file| snapshot.unready.contains(&file)) || !self.is_confirmed(UNCONFIRMED_AFTER_MS);
        if unready { Absent::NotReady } else { Absent::Unknown }
    }
}

/// Why a policy can't be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// 404.
    Unknown,
    /// 503.
    NotReady,
}

#[cfg(test)]
mod tests;
