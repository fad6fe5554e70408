//! One task per key set: fetch, wait, fetch again.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use countersign_core::jose::JwkSet;
use tokio::{
    sync::{Notify, mpsc},
    task::AbortHandle,
};

use super::{Client, FetchError, Target};

/// The usual time between two fetches, give or take a tenth.
const EVERY: Duration = Duration::from_mins(5);

/// The shortest time between two fetches, whoever asks.
const AT_LEAST: Duration = Duration::from_secs(5);

/// The longest time between two tries while there is nothing to go by.
const RETRY_WITHIN: Duration = Duration::from_mins(1);

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
    running: BTreeMap<Target, (AbortHandle, Arc<Notify>)>,
}

impl Followers {
    /// Follows nothing yet; what is fetched comes out of the receiver.
    pub fn new(client: Client) -> (Self, mpsc::Receiver<Fetched>) {
        let (results, received) = mpsc::channel(64);
        (Self { client: Arc::new(client), results, running: BTreeMap::new() }, received)
    }

    /// Follows exactly these from now on.
    pub fn follow<'t>(&mut self, targets: impl IntoIterator<Item = &'t Target>) {
        let mut before = std::mem::take(&mut self.running);
        for target in targets {
            let task = before.remove(target).unwrap_or_else(|| self.start(target.clone()));
            self.running.insert(target.clone(), task);
        }
        for (task, _) in before.into_values() {
            task.abort();
        }
    }

    /// Somebody saw a key that isn't in the set. Asking often changes nothing.
    pub fn look_again(&self, target: &Target) {
        if let Some((_, asked)) = self.running.get(target) {
            asked.notify_one();
        }
    }

    fn start(&self, target: Target) -> (AbortHandle, Arc<Notify>) {
        let (client, results, asked) = (self.client.clone(), self.results.clone(), Arc::new(Notify::new()));
        let wake = asked.clone();
        let task = tokio::spawn(async move {
            let mut failures = 0;
            loop {
                let begun = Instant::now();
                let result = client.fetch(&target).await.map(Arc::new);
                failures = if result.is_ok() { 0 } else { failures + 1 };
                if results.send(Fetched { target: target.clone(), result }).await.is_err() {
                    return;
                }
                let wait = wait_after(failures, jitter());
                let _ = tokio::time::timeout(wait.saturating_sub(begun.elapsed()), wake.notified()).await;
                tokio::time::sleep(AT_LEAST.saturating_sub(begun.elapsed())).await;
            }
        });
        (task.abort_handle(), asked)
    }
}

impl Drop for Followers {
    fn drop(&mut self) {
        for (task, _) in self.running.values() {
            task.abort();
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
}
