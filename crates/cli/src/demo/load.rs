//! Calls from several tasks at once, with every answer looked at.

use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::verdict;
use crate::client::Client;

/// Tasks that call.
const CALLERS: usize = 4;

/// Verifications without pause, until told to stop.
pub(super) struct Load {
    stop: CancellationToken,
    callers: Vec<JoinHandle<(usize, Vec<String>)>>,
}

impl Load {
    /// Begins to verify `token`, which must stay valid.
    pub(super) fn start(verifier: &Arc<Client>, token: &str) -> Self {
        let stop = CancellationToken::new();
        let callers = (0..CALLERS).map(|_| tokio::spawn(call(verifier.clone(), token.to_owned(), stop.clone()))).collect();
        Self { stop, callers }
    }

    /// How many calls there were, and what failed.
    pub(super) async fn stop(self) -> (usize, Vec<String>) {
        self.stop.cancel();
        let (mut calls, mut errors) = (0, Vec::new());
        for caller in self.callers {
            match caller.await {
                Ok((made, failed)) => {
                    calls += made;
                    errors.extend(failed);
                }
                Err(error) => errors.push(error.to_string()),
            }
        }
        (calls, errors)
    }
}

async fn call(verifier: Arc<Client>, token: String, stop: CancellationToken) -> (usize, Vec<String>) {
    let (mut calls, mut errors) = (0, Vec::new());
    while !stop.is_cancelled() {
        calls += 1;
        match verdict(&verifier, &token).await {
            Ok(said) if said == "valid" => {}
            Ok(said) => errors.push(said),
            Err(failure) => errors.push(failure.message),
        }
    }
    (calls, errors)
}

/// The smallest duration that `percent` of them don't exceed.
pub(super) fn percentile(durations: &mut [Duration], percent: usize) -> Duration {
    durations.sort_unstable();
    let rank = (durations.len() * percent).div_ceil(100).max(1);
    durations.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_measured_values() {
        let mut durations: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut durations, 50), Duration::from_millis(50));
        assert_eq!(percentile(&mut durations, 99), Duration::from_millis(99));
        assert_eq!(percentile(&mut durations, 100), Duration::from_millis(100));
        assert_eq!(percentile(&mut durations[..1], 99), Duration::from_millis(1));
    }
}
