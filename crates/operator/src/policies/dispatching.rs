//! Which policy is looked at when.
//!
//! A policy is looked at when anything about it changes, when it is asked for, when verifiers have come to what it waits for,
//! and when time alone may give it something to do. Never twice at once, at most [`AT_ONCE`] side by side; one that fails is
//! tried again after a while and keeps no other waiting. What the fleet says touches only the policies that wait for it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use countersign_api::cluster::bundle_name;
use countersign_core::names::PolicyName;
use countersign_telemetry::traces::TARGET;
use futures_util::StreamExt as _;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tokio_util::time::{DelayQueue, delay_queue::Key};
use tracing::{Instrument as _, Span, field::Empty};

use super::{
    Objects, Reconciler, claimed,
    memory::{End, Managed, Next, Reserve, Waits},
    reconcile::ReconcileError,
    told,
};
use crate::{history::History, jitter::jittered, registry::Request, run::PartError};

/// How many policies are looked at side by side.
const AT_ONCE: usize = 32;
/// How often it is looked for verifiers that lack what was in force.
const LAGGARDS: Duration = Duration::from_secs(10);
/// How long writing everything anew may take after the API server went back.
const RESTORES_WITHIN: Duration = Duration::from_mins(2);
/// How long a new history may take to be written before it is tried again.
const HISTORY_RETRY: Duration = Duration::from_secs(1);

/// The API server was restored from a backup. What this process knew to be later is written anew; now every watch has to
/// begin anew too, and the surest way to that is a new process.
#[derive(Debug, thiserror::Error)]
#[error("the API server went back to an earlier state; what was kept is written anew, and the operator starts over")]
struct Restored;

/// What a look at a policy ended with.
type Looked = (PolicyName, Box<Managed>, Result<Next, ReconcileError>);

/// Returns then; never, if that isn't known.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

/// Decides which policy is looked at when.
pub(super) struct Dispatcher {
    reconciler: Arc<Reconciler>,
    history: Arc<History>,
    objects: Arc<Objects>,
    queue: DelayQueue<PolicyName>,
    queued: HashMap<PolicyName, (Key, Instant)>,
    /// What is remembered of policies that nobody is looking at.
    idle: HashMap<PolicyName, Box<Managed>>,
    running: JoinSet<Looked>,
    at_work: HashSet<PolicyName>,
    /// Those that have to be looked at again when the present look ends.
    again: HashSet<PolicyName>,
    ends: HashMap<PolicyName, Vec<End>>,
    reserves: HashMap<PolicyName, Vec<Reserve>>,
    /// Those that were listed at the start and that nobody has looked at yet; `None` before, and after.
    first: Option<HashSet<PolicyName>>,
    /// Those of them that somebody was looking at already.
    first_looks_begin: HashSet<PolicyName>,
    /// Those that wait for verifiers.
    waiting: BTreeMap<PolicyName, Waits>,
    /// Those that wait for issuers to apply the key rings up to a version.
    waiting_for_issuers: BTreeMap<PolicyName, u64>,
    /// What verifiers refused at the last look at the fleet.
    refused: HashMap<String, Vec<(String, Option<u64>)>>,
    /// Whether the feed was reached, and whether there was no verifier, at the last look at the fleet.
    fleet_stands: (bool, bool),
    /// When a new history has to be written, because the API server went back.
    history_at: Option<Instant>,
    went_back_at_work: HashSet<PolicyName>,
    /// Those that have still to be written anew since, and when that has taken too long.
    restoring: Option<(HashSet<PolicyName>, Instant)>,
}

impl Dispatcher {
    pub(super) fn new(reconciler: Arc<Reconciler>, history: Arc<History>, objects: Arc<Objects>) -> Self {
        Self {
            reconciler,
            history,
            objects,
            queue: DelayQueue::new(),
            queued: HashMap::new(),
            idle: HashMap::new(),
            running: JoinSet::new(),
            at_work: HashSet::new(),
            again: HashSet::new(),
            ends: HashMap::new(),
            reserves: HashMap::new(),
            first: None,
            first_looks_begin: HashSet::new(),
            waiting: BTreeMap::new(),
            waiting_for_issuers: BTreeMap::new(),
            refused: HashMap::new(),
            fleet_stands: (false, false),
            history_at: None,
            went_back_at_work: HashSet::new(),
            restoring: None,
        }
    }

    /// Works until the process is to end, or everything has to begin anew.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Request>) -> Result<(), PartError> {
        let stop = self.reconciler.context.stop.clone();
        tokio::select! {
            () = self.reconciler.caches.synced() => {}
            () = stop.cancelled() => return Ok(()),
        }
        let names = self.everything();
        tracing::info!(policies = names.len(), "everything is listed");
        for name in &names {
            self.look_in(name, Duration::ZERO);
        }
        self.note_waiting();
        self.listen();
        let mut laggards = tokio::time::interval(LAGGARDS);
        loop {
            if self.restoring.as_ref().is_some_and(|(left, until)| left.is_empty() || Instant::now() >= *until) {
                return Err(Restored.into());
            }
            let room = self.running.len() < AT_ONCE;
            let reconciler = self.reconciler.clone();
            tokio::select! {
                () = stop.cancelled() => break,
                asked = inbox.recv() => match asked {
                    Some(request) => self.take(request),
                    None => return Ok(()),
                },
                dirty = reconciler.dirty.take() => for name in dirty {
                    self.look_in(&name, Duration::ZERO);
                },
                Some(due) = self.queue.next(), if room => self.begin(due.into_inner()),
                Some(looked) = self.running.join_next() => self.end(looked?),
                _ = laggards.tick() => self.look_for_laggards(),
                () = at(self.history_at), if self.history_at.is_some() => self.begin_history().await,
            }
        }
        // What is under way is brought to its end: the next leader needn't clean up.
        while self.running.join_next().await.is_some() {}
        Ok(())
    }

    /// Every policy that is declared or kept.
    fn everything(&self) -> HashSet<PolicyName> {
        let caches = &self.reconciler.caches;
        let declared = caches.declared.keys().into_iter().filter_map(|key| key.parse().ok());
        let kept = caches.rings.all().into_iter().filter_map(|ring| ring.policy().cloned());
        let published =
            caches.bundles.keys().into_iter().filter_map(|object| claimed(&object, &caches.bundles.one(&object)?));
        let told = caches.issues.keys().into_iter().filter_map(|object| told(&object, &caches.issues.one(&object)?));
        declared.chain(kept).chain(published).chain(told).collect()
    }

    /// Hears what verifiers and the feed remember; once that is all, everything is looked at.
    fn listen(&mut self) {
        let (present, fleet) = (self.reconciler.feed.borrow().clone(), self.reconciler.context.registry.fleet());
        let bundles = &self.reconciler.caches.bundles;
        let highest = || bundles.all().into_iter().map(|bundle| bundle.generation).max().unwrap_or(0);
        if !self.reconciler.hearing.listen(&present, &fleet, Instant::now(), highest) {
            return;
        }
        let names = self.everything();
        tracing::info!(policies = names.len(), "what verifiers and the feed remember is heard");
        for name in &names {
            self.look_in(name, Duration::ZERO);
        }
        // A look that began before this doesn't count.
        self.first_looks_begin = self.at_work.clone();
        self.first = Some(names);
        self.note_waiting();
        self.note_first_looks();
    }

    /// While a leader listens, leases are worth reading often as well.
    fn note_waiting(&self) {
        let listens = usize::from(!self.reconciler.hearing.is_over());
        self.reconciler.context.registry.set_waiting(self.waiting.len().max(listens));
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Look(name) => self.look_in(&name, Duration::ZERO),
            Request::End { policy, entries, done } => {
                self.ends.entry(policy.clone()).or_default().push(End { entries, done });
                self.look_in(&policy, Duration::ZERO);
            }
            Request::Reserve { policy, until, done } => {
                self.reserves.entry(policy.clone()).or_default().push(Reserve { until, done });
                self.look_in(&policy, Duration::ZERO);
            }
            Request::Fleet => {
                self.listen();
                self.hear_the_fleet();
            }
            Request::WentBack => {
                self.history.lost();
                self.history_at = Some(Instant::now());
                for managed in self.idle.values_mut() {
                    managed.went_back();
                }
                self.went_back_at_work.clone_from(&self.at_work);
            }
        }
    }

    async fn begin_history(&mut self) {
        match self.history.renew().await {
            Ok(()) => {
                self.history_at = None;
                let names: HashSet<PolicyName> = self.everything().into_iter().chain(self.idle.keys().cloned()).collect();
                self.restoring = Some((names.clone(), Instant::now() + RESTORES_WITHIN));
                tracing::warn!(policies = names.len(), "a new history is begun; every bundle is written anew");
                for name in names {
                    self.look_in(&name, Duration::ZERO);
                }
            }
            Err(error) => {
                tracing::error!(%error, "a new history can't be begun now; trying again");
                self.history_at = Some(Instant::now() + HISTORY_RETRY);
            }
        }
    }

    /// Tells once everything that was listed has been looked at.
    fn note_first_looks(&mut self) {
        if self.first.as_ref().is_some_and(HashSet::is_empty) {
            self.first = None;
            self.reconciler.context.registry.set_synced();
        }
    }

    /// Whether somebody asked for something meanwhile.
    fn is_asked(&self, name: &PolicyName) -> bool {
        self.ends.contains_key(name) || self.reserves.contains_key(name)
    }

    /// Has a policy looked at after `wait` at the latest.
    fn look_in(&mut self, name: &PolicyName, wait: Duration) {
        if self.at_work.contains(name) {
            if wait.is_zero() {
                self.again.insert(name.clone());
            }
            return;
        }
        let at = Instant::now() + wait;
        match self.queued.get(name) {
            Some((_, queued)) if *queued <= at => {}
            Some((key, _)) => {
                let key = *key;
                self.queue.reset_at(&key, at);
                self.queued.insert(name.clone(), (key, at));
            }
            None => {
                let key = self.queue.insert_at(name.clone(), at);
                self.queued.insert(name.clone(), (key, at));
            }
        }
    }

    fn begin(&mut self, name: PolicyName) {
        self.queued.remove(&name);
        self.reconciler.context.registry.counts().queued(self.queued.len());
        self.objects.lock().insert(bundle_name(&name), name.clone());
        let mut managed = self.idle.remove(&name).unwrap_or_default();
        managed.ends.extend(self.ends.remove(&name).unwrap_or_default());
        managed.reserves.extend(self.reserves.remove(&name).unwrap_or_default());
        self.at_work.insert(name.clone());
        let reconciler = self.reconciler.clone();
        let span = tracing::info_span!(target: TARGET, parent: None, "reconcile", policy = %name, error = Empty);
        let look = async move {
            let began = Instant::now();
            let result = reconciler.reconcile(&name, &mut managed).await;
            let told = result.as_ref().map(drop).map_err(ReconcileError::word);
            if let Err(reason) = told {
                Span::current().record("error", reason);
            }
            reconciler.context.registry.counts().looked(began.elapsed(), told);
            (name, managed, result)
        };
        self.running.spawn(look.instrument(span));
    }

    fn end(&mut self, (name, mut managed, result): Looked) {
        self.at_work.remove(&name);
        let counts = !self.first_looks_begin.remove(&name);
        if let Some(first) = self.first.as_mut().filter(|_| counts) {
            first.remove(&name);
            self.note_first_looks();
        }
        // Whoever waits for what can't be written is told so; what failed now is tried again as long as somebody waits.
        managed.reserves.retain(|reserve| result.is_err() && !reserve.done.is_closed());
        if self.went_back_at_work.remove(&name) {
            managed.went_back();
            self.again.insert(name.clone());
        }
        let mut wait = None;
        match result {
            Ok(next) => {
                managed.failures = 0;
                if let Some((left, _)) = &mut self.restoring
                    && !self.again.contains(&name)
                {
                    left.remove(&name);
                }
                match next.waits_for {
                    Some(waits) => drop(self.waiting.insert(name.clone(), waits)),
                    None => drop(self.waiting.remove(&name)),
                }
                match next.waits_for_issuers {
                    Some(version) => drop(self.waiting_for_issuers.insert(name.clone(), version)),
                    None => drop(self.waiting_for_issuers.remove(&name)),
                }
                managed.holds = next.holds;
                if next.gone {
                    self.objects.lock().remove(&bundle_name(&name));
                    if self.again.remove(&name) || self.is_asked(&name) {
                        self.look_in(&name, Duration::ZERO);
                    }
                    self.note_waiting();
                    return;
                }
                // The longest wait is spread, so that what began together doesn't go on together.
                wait = next.within.map(|within| if within > LAGGARDS { within.min(jittered(within)) } else { within });
            }
            Err(error) => {
                let back_off = jittered(error.back_off(managed.failures));
                managed.failures = managed.failures.saturating_add(1);
                if matches!(error, ReconcileError::Conflict | ReconcileError::Namespace) && managed.failures < 8 {
                    tracing::debug!(policy = %name, %error, "looking again");
                } else {
                    tracing::error!(policy = %name, %error, "the policy stays as it is for now");
                }
                wait = Some(wait.unwrap_or(back_off));
            }
        }
        self.idle.insert(name.clone(), managed);
        if self.again.remove(&name) || self.is_asked(&name) {
            wait = Some(wait.map_or(Duration::ZERO, |_: Duration| Duration::ZERO));
        }
        if let Some(wait) = wait {
            self.look_in(&name, wait);
        }
        self.note_waiting();
    }

    /// Looks at those policies that wait for what verifiers have come to, and at those of which verifiers say something new.
    fn hear_the_fleet(&mut self) {
        let fleet = self.reconciler.context.registry.fleet();
        // Whether there is anyone to wait for at all decides for all of them.
        let stands = (fleet.reached, fleet.known() == 0);
        let changed = std::mem::replace(&mut self.fleet_stands, stands) != stands;
        let served = |waits: &Waits| {
            let quorum = fleet.quorum(waits.absent_after_ms);
            changed || !quorum.required.is_empty() && quorum.floor >= waits.version
        };
        let mut names: Vec<PolicyName> =
            self.waiting.iter().filter(|(_, waits)| served(waits)).map(|(name, _)| name.clone()).collect();
        let told = |name: &PolicyName, version: u64| matches!(fleet.issuers_at(name, version), (hold, all) if hold == all);
        let by_issuers = self.waiting_for_issuers.iter().filter(|(name, version)| told(name, **version));
        names.extend(by_issuers.map(|(name, _)| name.clone()));
        let said = fleet.refused();
        let said: HashMap<String, Vec<(String, Option<u64>)>> = said
            .into_iter()
            .map(|(policy, by)| (policy.to_owned(), by.into_iter().map(|(who, held)| (who.to_owned(), held)).collect()))
            .collect();
        let differs = said.iter().filter(|(policy, by)| self.refused.get(*policy) != Some(*by)).map(|(policy, _)| policy);
        let ceased = self.refused.keys().filter(|policy| !said.contains_key(*policy));
        names.extend(differs.chain(ceased).filter_map(|policy| policy.parse().ok()));
        self.refused = said;
        for name in names {
            self.look_in(&name, Duration::ZERO);
        }
    }

    /// Finds policies that were in force everywhere and have lacked a verifier for too long.
    fn look_for_laggards(&mut self) {
        let fleet = self.reconciler.context.registry.fleet();
        let mut lacking = Vec::new();
        for (name, managed) in &mut self.idle {
            let Some(holds) = managed.holds else { continue };
            let quorum = fleet.quorum(holds.absent_after_ms);
            if !quorum.required.is_empty() && quorum.floor >= holds.version {
                // One that refuses it is told by name.
                if !self.refused.contains_key(name.as_str()) {
                    managed.lagging_since = None;
                }
                continue;
            }
            let since = *managed.lagging_since.get_or_insert_with(Instant::now);
            let patience = Duration::from_millis(u64::try_from(holds.absent_after_ms).unwrap_or(0));
            if since.elapsed() >= patience && !self.waiting.contains_key(name) {
                lacking.push(name.clone());
            }
        }
        for name in lacking {
            self.look_in(&name, Duration::ZERO);
        }
    }
}
