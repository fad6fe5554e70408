//! When people's sessions were last seen: noted on the path of every verdict, told to whoever keeps sessions off it.
//!
//! A session is told at most once a minute, or four times in the life of a token that lives shorter, at a moment of the minute that
//! is its own, so that not all come at once: sessions that may be idle for a short time alone have tokens that live shorter. What was
//! told is remembered in a table of fixed size without locks; where many sessions meet in a place of it, some are told more
//! often, and the teller takes the latest. Nothing here waits: what finds no room is dropped and counted.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use countersign_core::{
    check::{Authenticated, CredentialKind},
    names::PolicyName,
    revocation::RevocationIds,
    time::UnixMillis,
    verdict::RevokedBy,
};
use countersign_feed::{FeedServer, MAX_SESSION_ID, SeenSession};
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// How often a session is told, unless its tokens live shorter.
const EACH_MS: u64 = 60_000;
/// How often it is told in a token's life then, and how often at most.
const IN_A_LIFE: u64 = 4;
const EACH_AT_LEAST_MS: u64 = 1000;
/// Bits of what is remembered that say in which minute.
const MINUTE_BITS: u32 = 24;
/// Places of the table, a power of two, and sessions in each: half a MiB in all.
const PLACES: usize = 1 << 14;
const IN_A_PLACE: usize = 4;
/// How many may wait for the teller, and how many it holds while the feed server takes none.
const MAX_WAITING: usize = 4096;
const MAX_HELD: usize = 65_536;
/// How often the teller tells, and how many sessions in one call.
const TELL_EVERY: Duration = Duration::from_secs(5);
const PAGE: usize = 1000;
/// How long an end waits for the last to be told.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What of sessions was noted. Without a feed there is nobody to tell, and nothing is.
pub(crate) struct Activity(Option<Noting>);

struct Noting {
    told: Box<[[AtomicU64; IN_A_PLACE]]>,
    waiting: mpsc::Sender<SeenSession>,
    metrics: Arc<Metrics>,
}

/// Sessions on their way to a feed server.
pub(crate) struct Telling {
    server: Arc<dyn FeedServer>,
    waiting: mpsc::Receiver<SeenSession>,
    metrics: Arc<Metrics>,
    held: HashMap<(PolicyName, String), UnixMillis>,
}

impl Activity {
    /// That of a verifier that follows no feed.
    pub(crate) const fn unheard() -> Self {
        Self(None)
    }

    /// That of a verifier that follows `server`, and what tells it.
    pub(crate) fn told(server: Arc<dyn FeedServer>, metrics: Arc<Metrics>) -> (Self, Telling) {
        let (sender, waiting) = mpsc::channel(MAX_WAITING);
        let told = (0..PLACES).map(|_| Default::default()).collect();
        let noting = Noting { told, waiting: sender, metrics: metrics.clone() };
        (Self(Some(noting)), Telling { server, waiting, metrics, held: HashMap::new() })
    }

    /// Notes that an accepted credential was used: where it is an access token of a session, that was seen.
    pub(crate) fn note(&self, policy: &PolicyName, credential: &Authenticated, now: UnixMillis) {
        let Some(noting) = &self.0 else { return };
        if credential.kind() != CredentialKind::Access {
            return;
        }
        let (Some(session), Some(id)) = (credential.session_id(), id_of(credential.revocation_ids())) else { return };
        if session.len() > MAX_SESSION_ID || !is_new(&noting.told, id, now, each_ms(credential)) {
            return;
        }
        let seen = SeenSession { policy: policy.clone(), session: session.to_owned(), at: now };
        if noting.waiting.try_send(seen).is_err() {
            noting.metrics.activity_dropped.fetch_add(1, Relaxed);
        }
    }
}

/// The session's name as it is hashed for revocations: under a key of this process, so nobody can prepare collisions.
fn id_of(ids: &RevocationIds) -> Option<u128> {
    ids.iter().find(|(by, _)| *by == RevokedBy::Session).map(|(_, id)| id)
}

/// How often the session of a token is told, milliseconds.
fn each_ms(credential: &Authenticated) -> u64 {
    let life = credential.issued_at().zip(credential.expires_at()).map(|(issued, expires)| expires.since(issued));
    let life = life.and_then(|life| u64::try_from(life).ok()).unwrap_or(u64::MAX);
    (life / IN_A_LIFE).clamp(EACH_AT_LEAST_MS, EACH_MS)
}

/// Whether a session was not told in this minute of its own, which lasts `each_ms`; from here on it was.
fn is_new(told: &[[AtomicU64; IN_A_PLACE]], id: u128, now: UnixMillis, each_ms: u64) -> bool {
    #[expect(clippy::cast_possible_truncation, reason = "two halves of the hash")]
    let (low, high) = (id as u64, (id >> 64) as u64);
    let minute_mask = (1 << MINUTE_BITS) - 1;
    let minute = ((now.0.unsigned_abs() + high % each_ms) / each_ms) & minute_mask;
    let mark = (high & !minute_mask) | minute;
    let place = &told[usize::try_from(low).unwrap_or(usize::MAX) & (PLACES - 1)];
    // Its own mark of another minute, else a place of an earlier minute, else any.
    let mut victim = usize::try_from(low >> 32).unwrap_or(0) % IN_A_PLACE;
    for (n, held) in place.iter().map(|held| held.load(Relaxed)).enumerate() {
        if held == mark {
            return false;
        }
        if held & !minute_mask == mark & !minute_mask {
            victim = n;
            break;
        }
        if minute.wrapping_sub(held & minute_mask) & minute_mask > 1 {
            victim = n;
        }
    }
    place[victim].store(mark, Relaxed);
    true
}

impl Telling {
    /// Tells what is noted until `stop`, and then what is left.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TELL_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_failing = false;
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let told = self.tell().await;
                    if let Err(error) = &told && !is_failing {
                        tracing::warn!(%error, most = MAX_HELD, "when sessions were seen can't be told; it is tried again");
                    }
                    is_failing = told.is_err();
                }
                received = self.waiting.recv_many(&mut batch, PAGE) => {
                    if received == 0 {
                        break;
                    }
                    batch.drain(..).for_each(|seen| self.hold(seen));
                }
                () = stop.cancelled() => break,
            }
        }
        while let Ok(seen) = self.waiting.try_recv() {
            self.hold(seen);
        }
        let last = tokio::time::timeout(LAST_WORD, self.tell()).await;
        if !matches!(last, Ok(Ok(()))) {
            tracing::warn!(
                sessions = self.held.len(),
                "when sessions were last seen was not told: the feed server took it not"
            );
        }
    }

    fn hold(&mut self, SeenSession { policy, session, at }: SeenSession) {
        let key = (policy, session);
        if self.held.len() >= MAX_HELD && !self.held.contains_key(&key) {
            self.metrics.activity_dropped.fetch_add(1, Relaxed);
            return;
        }
        let held = self.held.entry(key).or_insert(at);
        *held = at.max(*held);
    }

    /// Tells all that is held, page by page; what isn't taken stays.
    async fn tell(&mut self) -> Result<(), countersign_feed::FeedError> {
        while !self.held.is_empty() {
            let page = self.held.iter().take(PAGE);
            let seen = |((policy, session), at): (&(PolicyName, String), &UnixMillis)| SeenSession {
                policy: policy.clone(),
                session: session.clone(),
                at: *at,
            };
            let page: Vec<SeenSession> = page.map(seen).collect();
            let dropped = self.server.report_activity(&page).await?;
            let told = u64::try_from(page.len()).unwrap_or(u64::MAX).saturating_sub(dropped);
            self.metrics.activity_dropped.fetch_add(dropped, Relaxed);
            self.metrics.activity_reported.fetch_add(told, Relaxed);
            for SeenSession { policy, session, .. } in page {
                self.held.remove(&(policy, session));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Vec<[AtomicU64; IN_A_PLACE]> {
        (0..PLACES).map(|_| Default::default()).collect()
    }

    /// A hash that falls on a place.
    fn id(place: u64, session: u64) -> u128 {
        (u128::from(session << 40) << 64) | u128::from(place)
    }

    #[test]
    fn a_session_is_told_once_in_each_minute_of_its_own() {
        let told = table();
        let at = |ms: i64| UnixMillis(1_800_000_000_000 + ms);
        for (session, each_ms) in [(99, EACH_MS), (98, 2500)] {
            let each = i64::try_from(each_ms).unwrap();
            let mut moments = Vec::new();
            for ms in (0..3 * each).step_by(500) {
                if is_new(&told, id(7, session), at(ms), each_ms) {
                    moments.push(ms);
                }
            }
            assert!((3..=4).contains(&moments.len()), "{moments:?}");
            assert!(moments.windows(2).skip(1).all(|pair| pair[1] - pair[0] == each), "{moments:?}");
        }
        assert!(is_new(&told, id(7, 100), at(0), EACH_MS), "another session of the same place");
        assert!(is_new(&told, id(8, 99), at(179_500), EACH_MS), "another place");
    }

    #[test]
    fn as_many_sessions_as_a_place_has_room_for_don_t_push_each_other_out() {
        let told = table();
        let at = UnixMillis(1_800_000_000_000);
        let sessions: Vec<u128> = (1..=IN_A_PLACE as u64).map(|session| id(3, session)).collect();
        assert!(sessions.iter().all(|session| is_new(&told, *session, at, EACH_MS)));
        assert!(!sessions.iter().any(|session| is_new(&told, *session, at, EACH_MS)));
        let later = at.plus(120_000);
        assert!(is_new(&told, id(3, 50), later, EACH_MS), "one of long ago makes room");
        assert!(!is_new(&told, id(3, 50), later, EACH_MS));
    }
}
