//! One task per key set: fetch, wait, fetch again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use countersign_core::jose::JwkSet;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    task::AbortHandle,
};

use super::{Client, FetchError, Target};

/// The usual time between two fetches, give or take a tenth.
const EVERY: Duration = Duration::from_mins(5);

/// The shortest time between two fetches, whoever asks.
const AT_LEAST: Duration = Duration::from_secs(5);

/// The longest time between two tries while there is nothing to go by.
const RETRY_WITHIN: Duration = Duration::from_mins(1);

/// How many sets are fetched at once.
const AT_ONCE: usize = 32;

/// How many of them for one group: whose servers hang holds up its own.
const AT_ONCE_IN_GROUP: usize = 4;

/// What a fetch brought.
#[derive(Debug)]
pub struct Fetched {
    /// What was fetched.
    pub target: Target,
    /// The set, or why there is none.
    pub result: Result<Arc<JwkSet>, FetchError>,
}

/// The tasks that follow key sets. Dropping it ends them.
#[derive(Debug)]
pub struct Followers {
    client: Arc<Client>,
    results: mpsc::Sender<Fetched>,
    running: BTreeMap<Target, Running>,
    all: Arc<Semaphore>,
    groups: BTreeMap<String, Arc<Semaphore>>,
}

#[derive(Debug)]
struct Running {
    task: AbortHandle,
    asked: Arc<Notify>,
    group: Option<String>,
}

/// Whose turn it is: first within the group, so that no group queues up before all others.
#[derive(Debug)]
struct Turns {
    group: Option<Arc<Semaphore>>,
    all: Arc<Semaphore>,
}

impl Turns {
    /// `None`: nobody fetches any more.
    async fn mine(&self) -> Option<(Option<OwnedSemaphorePermit>, OwnedSemaphorePermit)> {
        let of_group = match &self.group {
            Some(group) => Some(group.clone().acquire_owned().await.ok()?),
            None => None,
        };
        Some((of_group, self.all.clone().acquire_owned().await.ok()?))
    }
}

impl Followers {
    /// Follows nothing yet; what is fetched comes out of the receiver.
    pub fn new(client: Client) -> (Self, mpsc::Receiver<Fetched>) {
        let (results, received) = mpsc::channel(64);
        let followers = Self {
            client: Arc::new(client),
            results,
            running: BTreeMap::new(),
            all: Arc::new(Semaphore::new(AT_ONCE)),
            groups: BTreeMap::new(),
        };
        (followers, received)
    }

    /// Follows exactly these from now on.
    pub fn follow<'t>(&mut self, targets: impl IntoIterator<Item = &'t Target>) {
        self.follow_each(targets.into_iter().map(|target| (target, None)));
    }

    /// Follows exactly these from now on, each for a group of its own: one group's take no others' turns.
    pub fn follow_for<'t>(&mut self, targets: impl IntoIterator<Item = (&'t Target, &'t str)>) {
        self.follow_each(targets.into_iter().map(|(target, group)| (target, Some(group))));
    }

    fn follow_each<'t>(&mut self, targets: impl Iterator<Item = (&'t Target, Option<&'t str>)>) {
        let mut before = std::mem::take(&mut self.running);
        for (target, group) in targets {
            let running = before.remove(target).unwrap_or_else(|| self.start(target.clone(), group));
            self.running.insert(target.clone(), running);
        }
        for running in before.into_values() {
            running.task.abort();
        }
        let in_use: BTreeSet<&String> = self.running.values().filter_map(|running| running.group.as_ref()).collect();
        self.groups.retain(|group, _| in_use.contains(group));
    }

    /// Somebody saw a key that isn't in the set. Asking often changes nothing.
    pub fn look_again(&self, target: &Target) {
        if let Some(running) = self.running.get(target) {
            running.asked.notify_one();
        }
    }

    fn start(&mut self, target: Target, group: Option<&str>) -> Running {
        let turns = Turns {
            group: group.map(|group| {
                let of_group = || Arc::new(Semaphore::new(AT_ONCE_IN_GROUP));
                self.groups.entry(group.to_owned()).or_insert_with(of_group).clone()
            }),
            all: self.all.clone(),
        };
        let (client, results, asked) = (self.client.clone(), self.results.clone(), Arc::new(Notify::new()));
        let wake = asked.clone();
        let task = tokio::spawn(async move {
            let mut failures = 0;
            loop {
                let Some(turn) = turns.mine().await else { return };
                let begun = Instant::now();
                let result = client.fetch(&target).await.map(Arc::new);
                drop(turn);
                failures = if result.is_ok() { 0 } else { failures + 1 };
                if results.send(Fetched { target: target.clone(), result }).await.is_err() {
                    return;
                }
                let wait = wait_after(failures, jitter());
                let _ = tokio::time::timeout(wait.saturating_sub(begun.elapsed()), wake.notified()).await;
                tokio::time::sleep(AT_LEAST.saturating_sub(begun.elapsed())).await;
            }
        });
        Running { task: task.abort_handle(), asked, group: group.map(str::to_owned) }
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        for running in self.running.values() {
            running.task.abort();
        }
    }
}

/// The time from one fetch to the next. `jitter` is within 0..1.
fn wait_after(failures: u32, jitter: f64) -> Duration {
    let usual = EVERY.mul_f64(0.9 + 0.2 * jitter);
    match failures {
        0 => usual,
        n => AT_LEAST.saturating_mul(1 << (n - 1).min(8)).min(RETRY_WITHIN).mul_f64(0.9 + 0.2 * jitter),
    }
}

fn jitter() -> f64 {
    let mut byte = [0];
    // Without randomness everybody comes at once: no reason to stop.
    let _ = aws_lc_rs::rand::fill(&mut byte);
    f64::from(byte[0]) / 256.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetches_are_spread_and_failures_back_off() {
        for jitter in [0.0, 0.5, 0.99] {
            let usual = wait_after(0, jitter);
            assert!(usual >= EVERY.mul_f64(0.89) && usual <= EVERY.mul_f64(1.11));
            let waits: Vec<_> = (1..40).map(|n| wait_after(n, jitter)).collect();
            assert!(waits.is_sorted() && waits[0] < AT_LEAST * 2 && waits[38] <= RETRY_WITHIN.mul_f64(1.1));
        }
    }

    #[tokio::test]
    async fn a_group_whose_servers_hang_takes_no_other_group_s_turn() {
        let all = Arc::new(Semaphore::new(AT_ONCE));
        let group = || Some(Arc::new(Semaphore::new(AT_ONCE_IN_GROUP)));
        let hanging = Arc::new(Turns { group: group(), all: all.clone() });
        let mut held = Vec::new();
        for _ in 0..AT_ONCE_IN_GROUP {
            held.push(hanging.mine().await.unwrap());
        }
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let turns = hanging.clone();
                tokio::spawn(async move { turns.mine().await.is_some() })
            })
            .collect();
        tokio::task::yield_now().await;
        let other = Turns { group: group(), all };
        assert!(other.mine().await.is_some());
        drop(held);
        for waited in waiting {
            assert!(waited.await.unwrap());
        }
    }
}
