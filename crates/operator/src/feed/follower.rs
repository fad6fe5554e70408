//! Follows the feed: leases and clock for the fleet, entries for what they end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use countersign_core::{
    names::PolicyName,
    revocation::{Entry, Kind, Position},
};
use countersign_feed::{Clock, EpochRecord, FeedError, FeedServer, Lease, ServerState};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    cutoffs::Cutoffs,
    writer::{Changed, changed},
};
use crate::registry::{Ending, FeedPresent, Registry};

/// How often leases are read while something waits for verifiers, at most.
const WHILE_WAITING: Duration = Duration::from_millis(100);
/// How often otherwise.
const IDLE: Duration = Duration::from_secs(1);
/// Reading leases takes at most this part of the time, however large the fleet.
const SHARE: u32 = 5;
/// How long one read of the tail waits.
const TAIL_WAIT: Duration = Duration::from_secs(2);
/// Entries of one page.
const PAGE: usize = 10_000;
/// The wait after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// How often what expired long ago is forgotten.
const PURGE: Duration = Duration::from_mins(1);

/// What follows the feed.
#[derive(Debug)]
pub struct FeedFollower {
    server: Arc<dyn FeedServer>,
    registry: Arc<Registry>,
    cutoffs: Arc<Cutoffs>,
    keys: Mutex<RevokedKeys>,
    following: Mutex<Following>,
    followed: Notify,
}

/// How following the entries goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Following {
    caught_up: bool,
    problem: Option<String>,
    /// Entries that were passed over because this release can't read them.
    unreadable: u64,
}

impl Following {
    /// What is wrong, for people.
    fn said(&self) -> Option<String> {
        let passed_over = (self.unreadable > 0)
            .then(|| format!("{} entries of the feed can't be read by this release and are passed over", self.unreadable));
        self.problem.clone().or(passed_over)
    }
}

/// Which history of which server is read, and whether all of it was there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reading {
    run_id: String,
    epoch: u64,
    seeded: bool,
}

impl Reading {
    fn of(state: &ServerState) -> Option<Self> {
        let record = state.present()?;
        Some(Self { run_id: state.run_id.clone(), epoch: record.epoch, seeded: record.seeded })
    }
}

impl FeedFollower {
    /// A follower of `server` that tells `registry` and `cutoffs`.
    pub fn new(server: Arc<dyn FeedServer>, registry: Arc<Registry>, cutoffs: Arc<Cutoffs>) -> Self {
        Self { server, registry, cutoffs, keys: Mutex::default(), following: Mutex::default(), followed: Notify::new() }
    }

    /// Follows until `stop`, or until the registry's owner has ended.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow_presence() => {}
            () = self.follow_entries() => {}
            () = self.follow_bundles() => {}
        }
    }

    /// Leases and the server's clock: often while somebody waits for an acknowledgement, else each second.
    async fn follow_presence(&self) {
        let mut waiting = self.registry.waiting();
        let mut reported = None;
        let mut purge_at = Instant::now() + PURGE;
        loop {
            let begun = Instant::now();
            let present = self.present().await;
            if present.problem != reported {
                match &present.problem {
                    Some(problem) => {
                        tracing::warn!(server = %self.server.describe(), problem, "the feed can't be followed");
                    }
                    None if reported.is_some() => {
                        tracing::info!(server = %self.server.describe(), "the feed is followed again");
                    }
                    None => {}
                }
                reported.clone_from(&present.problem);
            }
            if begun >= purge_at
                && let Some(server_now) = present.server_now()
            {
                self.cutoffs.purge(server_now, Clock::wall());
                purge_at = begun + PURGE;
            }
            self.registry.set_feed(present);
            let next = begun + WHILE_WAITING.max(begun.elapsed() * SHARE);
            tokio::time::sleep_until(next).await;
            let idle = tokio::time::sleep_until(begun + IDLE);
            tokio::select! {
                somebody = waiting.wait_for(|waiting| *waiting > 0) => if somebody.is_err() { return },
                () = self.followed.notified() => {}
                () = idle => {}
            }
        }
    }

    async fn present(&self) -> FeedPresent {
        let read = async {
            let state = self.server.state().await?;
            let boot = Clock::boot_millis();
            Ok::<_, FeedError>((state, boot, self.server.leases().await?))
        };
        let read = read.await;
        let (caught_up, problem, unreadable) = {
            let following = self.following.lock();
            (following.caught_up, following.said(), following.unreadable)
        };
        match read {
            Ok((state, boot, leases)) => {
                let record = state.present();
                let (issuers, leases): (Vec<Lease>, Vec<Lease>) = leases.into_iter().partition(|l| l.issuer().is_some());
                let said = |lease: Lease| Some((lease.issuer()?.to_owned(), lease.ack));
                FeedPresent {
                    fresh: true,
                    server_time: Some((state.now(), boot)),
                    epoch: record.map(|record| record.epoch),
                    seeded: record.is_some_and(|record| record.seeded),
                    tail: record.map(EpochRecord::tail),
                    leases,
                    issuers: issuers.into_iter().filter_map(said).collect(),
                    caught_up,
                    unreadable,
                    problem,
                }
            }
            Err(error) => {
                let before = self.registry.feed().borrow().clone();
                FeedPresent {
                    fresh: false,
                    leases: Vec::new(),
                    issuers: BTreeMap::new(),
                    caught_up,
                    unreadable,
                    problem: Some(error.to_string()),
                    ..FeedPresent::clone(&before)
                }
            }
        }
    }

    /// What the bundles call revoked ends tokens as what the feed does.
    async fn follow_bundles(&self) {
        let mut changes = self.registry.changes();
        let apply = |revoked: &[Entry]| revoked.iter().for_each(|entry| self.cutoffs.apply(entry));
        self.registry.policies().iter().for_each(|view| apply(&view.revoked));
        while let Some(changed) = changed(&mut changes).await {
            match changed {
                Changed::These(names) => {
                    names.iter().filter_map(|name| self.registry.policy(name)).for_each(|view| apply(&view.revoked));
                }
                Changed::Any => self.registry.policies().iter().for_each(|view| apply(&view.revoked)),
            }
            if self.settle_keys().await.is_err() {
                return;
            }
        }
    }

    async fn follow_entries(&self) {
        let mut held: Option<(Reading, Position)> = None;
        loop {
            if let Err(problem) = self.read_on(&mut held).await {
                self.follows(|following| (following.caught_up, following.problem) = (false, Some(problem)));
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    /// Says how following goes; whoever tells of the feed tells of it at once.
    fn follows(&self, change: impl FnOnce(&mut Following)) {
        let mut held = self.following.lock();
        let before = held.clone();
        change(&mut held);
        if *held != before {
            self.followed.notify_one();
        }
    }

    /// Reads the live set from where it was left, or all of it when that means nothing any more; then the tail, until that
    /// no longer goes on from there.
    async fn read_on(&self, held: &mut Option<(Reading, Position)>) -> Result<(), String> {
        let say = |error: FeedError| error.to_string();
        let state = self.server.state().await.map_err(say)?;
        let reading = Reading::of(&state).ok_or("no epoch is open on the feed server")?;
        let mut at = match held.take() {
            Some((before, at)) if before == reading => at,
            _ => Position::ZERO,
        };
        let mut unreadable = if at == Position::ZERO { 0 } else { self.following.lock().unreadable };
        loop {
            let page = self.server.page(at, PAGE).await.map_err(say)?;
            if Reading::of(&page.state).as_ref() != Some(&reading) {
                return Err("the feed's epoch has changed".into());
            }
            at = page.last().unwrap_or(at);
            unreadable += page.unreadable.len() as u64;
            let end = page.state.present().map_or(at, EpochRecord::tail);
            self.take(page.entries.into_iter().map(|(_, entry)| entry)).await?;
            if !page.more {
                // Of what was given out up to here, all that is still live was on the page.
                at = at.max(end);
                break;
            }
        }
        *held = Some((reading.clone(), at));
        self.follows(|following| *following = Following { caught_up: true, problem: None, unreadable });
        loop {
            let items = self.server.tail(at, TAIL_WAIT).await.map_err(say)?;
            let goes_on = items.first().is_none_or(|first| Some(first.position) == after(at));
            if !goes_on {
                return Ok(());
            }
            if let Some(last) = items.last() {
                at = last.position;
                let unreadable = items.iter().filter(|item| item.entry.is_none()).count() as u64;
                self.follows(|following| following.unreadable += unreadable);
                self.take(items.into_iter().filter_map(|item| item.entry)).await?;
                *held = Some((reading.clone(), at));
                continue;
            }
            let state = self.server.state().await.map_err(say)?;
            let behind = state.present().is_some_and(|record| record.tail() > at);
            if behind || Reading::of(&state).as_ref() != Some(&reading) {
                return Ok(());
            }
        }
    }

    async fn take(&self, entries: impl Iterator<Item = Entry>) -> Result<(), String> {
        for entry in entries {
            self.cutoffs.apply(&entry);
            if entry.kind == Kind::Key {
                self.keys.lock().note(entry);
            }
        }
        self.settle_keys().await.map_err(|ending| ending.to_string())
    }

    async fn settle_keys(&self) -> Result<(), Ending> {
        let own = |policy: &PolicyName| Some(self.registry.policy(policy)?.own.as_ref()?.issuer.clone());
        let settled = self.keys.lock().settle(own);
        for (policy, kids) in settled {
            self.registry.keys_revoked(&policy, kids).await?;
        }
        Ok(())
    }
}

/// The next place of the same epoch.
fn after(at: Position) -> Option<Position> {
    Position::new(at.epoch(), at.place() + 1)
}

/// Keys that the feed calls revoked, and whose they are: an entry may name an issuer, and it is a policy's own only when that
/// policy is known.
#[derive(Debug, Default)]
pub(super) struct RevokedKeys {
    own: BTreeMap<PolicyName, BTreeSet<String>>,
    of_issuers: BTreeSet<(PolicyName, String, String)>,
}

impl RevokedKeys {
    pub(super) fn note(&mut self, entry: Entry) {
        match entry.issuer {
            None => drop(self.own.entry(entry.policy).or_default().insert(entry.id)),
            Some(issuer) => drop(self.of_issuers.insert((entry.policy, issuer, entry.id))),
        }
    }

    /// The keys of policies' own rings that were not given out before. `own_issuer` is asked for a policy's `iss`.
    pub(super) fn settle(
        &mut self,
        own_issuer: impl Fn(&PolicyName) -> Option<String>,
    ) -> BTreeMap<PolicyName, BTreeSet<String>> {
        let mut settled = std::mem::take(&mut self.own);
        self.of_issuers.retain(|(policy, issuer, kid)| match own_issuer(policy) {
            None => true,
            Some(own) if own == *issuer => {
                settled.entry(policy.clone()).or_default().insert(kid.clone());
                false
            }
            Some(_) => false,
        });
        settled
    }
}
