//! Leading: one operator at a time works, the one that holds the Lease.
//!
//! A candidate takes a Lease that nobody holds, or one that hasn't changed for as long as its holder said it would last,
//! measured by the candidate's own monotonic clock: no two machines' clocks are compared. Every write carries the version
//! that it was decided on. A holder leads for two thirds of that time after it asked for the last renewal that was granted, by a
//! clock that goes on while a machine sleeps ([`Leading`]): that is before anyone else may begin. From then on it writes and signs
//! nothing, and its process ends. A leader that stopped without knowing is harmless: what it writes next is fenced by the
//! rings' versions.

mod leading;

use std::{sync::Arc, time::Duration};

use countersign_feed::Clock;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use self::leading::Leading;
use crate::{
    jitter::jittered,
    versions::{Versions, version_of},
};

/// How long one call may take, at most.
const CALL: Duration = Duration::from_secs(4);
/// How long at most between two renewals.
const MAX_EVERY: Duration = Duration::from_secs(2);

/// Why leading ended.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// It could not be renewed in time.
    #[error("the Lease could not be renewed in time: {reason}")]
    NotRenewed {
        /// The last failure.
        reason: String,
    },
    /// Somebody else holds it.
    #[error("the Lease is held by {0} now")]
    Taken(String),
}

/// What a candidate does about the Lease.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    /// It is free: take it.
    Take,
    /// It is ours: renew it.
    Renew,
    /// Somebody holds it.
    Wait { holder: String },
}

/// What a candidate has seen of the Lease.
#[derive(Debug, Default)]
struct Seen {
    /// The version that it had, and when it was first seen so.
    version: Option<(u64, Instant)>,
    /// The highest version that it had.
    highest: u64,
}

impl Seen {
    /// Takes in a look at the Lease; says for how long it has been as it is.
    fn unchanged_for(&mut self, version: u64, now: Instant) -> Duration {
        self.highest = self.highest.max(version);
        match self.version {
            Some((seen, since)) if seen == version => now - since,
            _ => {
                self.version = Some((version, now));
                Duration::ZERO
            }
        }
    }
}

/// `restored`: the Lease has been seen at a later version. Whom it names led when the backup was taken, and somebody else may
/// since.
fn decide(spec: &LeaseSpec, me: &str, unchanged_for: Duration, restored: bool) -> Move {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    let lasts = Duration::from_secs(spec.lease_duration_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(0));
    if holder == me && !restored {
        Move::Renew
    } else if holder.is_empty() || unchanged_for >= lasts {
        Move::Take
    } else {
        Move::Wait { holder: holder.to_owned() }
    }
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timing {
    /// How long a Lease is good for without renewal.
    duration: Duration,
    /// How long its holder goes on without having renewed it.
    deadline: Duration,
    /// How often it is renewed, or looked at by those who wait. Renewing shows whether the API server was restored, which is
    /// to be known soon, however long the Lease is good for.
    every: Duration,
    /// How long one call may take.
    call: Duration,
}

impl Timing {
    /// Of a Lease that is good for `duration`.
    fn of(duration: Duration) -> Self {
        let deadline = duration * 2 / 3;
        Self { duration, deadline, every: MAX_EVERY.min(duration * 2 / 15), call: CALL.min(deadline * 2 / 5) }
    }
}

/// A candidate, and then the leader.
pub struct Elector {
    api: Api<Lease>,
    name: &'static str,
    me: String,
    versions: Arc<Versions>,
    held: Option<Lease>,
    leading: Leading,
    timing: Timing,
}

/// A renewal that was granted.
#[derive(Debug)]
struct Renewed {
    version: u64,
    /// The Lease was found in an earlier state than it had been written in.
    was_older: bool,
}

impl Elector {
    /// A candidate under the name `me` for the Lease `name` of a namespace, which is then good for `lasts` without renewal.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &'static str,
        me: String,
        lasts: Duration,
        versions: Arc<Versions>,
    ) -> Self {
        let timing = Timing::of(lasts);
        let leading = Leading::default();
        Self { api: Api::namespaced(client, namespace), name, me, versions, held: None, leading, timing }
    }

    /// Until when this process leads.
    pub fn leading(&self) -> Leading {
        self.leading.clone()
    }

    /// Waits until this process leads.
    pub async fn acquire(&mut self) {
        let mut seen = Seen::default();
        let mut told = None;
        loop {
            let asked = Clock::boot_millis();
            match timeout(self.timing.call, self.attempt(&mut seen)).await {
                Ok(Ok(Move::Take | Move::Renew)) => return self.leading.extend(asked, self.timing.deadline),
                Ok(Ok(Move::Wait { holder })) => {
                    if told.as_ref() != Some(&holder) {
                        tracing::info!(%holder, "another operator leads; waiting");
                        told = Some(holder);
                    }
                }
                Ok(Err(error)) => tracing::warn!(%error, "the Lease can't be had now"),
                Err(_) => tracing::warn!("the API server doesn't answer about the Lease"),
            }
            sleep(jittered(self.timing.every)).await;
        }
    }

    async fn attempt(&mut self, seen: &mut Seen) -> Result<Move, kube::Error> {
        let Some(found) = self.api.get_opt(self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return self.keep_if_written(self.api.create(&PostParams::default(), &lease).await);
        };
        let version = version_of(&found.metadata);
        let unchanged_for = seen.unchanged_for(version, Instant::now());
        let spec = found.spec.as_ref();
        let decided = decide(spec.unwrap_or(&LeaseSpec::default()), &self.me, unchanged_for, version < seen.highest);
        if matches!(decided, Move::Wait { .. }) {
            return Ok(decided);
        }
        let lease = Lease { spec: Some(self.spec(found.spec.as_ref())), metadata: found.metadata };
        self.keep_if_written(self.api.replace(self.name, &PostParams::default(), &lease).await)
    }

    fn keep_if_written(&mut self, written: Result<Lease, kube::Error>) -> Result<Move, kube::Error> {
        match written {
            Ok(lease) => {
                self.held = Some(lease);
                Ok(Move::Take)
            }
            // Somebody was quicker.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                Ok(Move::Wait { holder: "another candidate".to_owned() })
            }
            Err(error) => Err(error),
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let mine = before.is_some_and(|spec| spec.holder_identity.as_deref() == Some(self.me.as_str()));
        let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.me.clone()),
            // In whole seconds, and not fewer than the holder reckons with.
            lease_duration_seconds: i32::try_from(self.timing.duration.as_millis().div_ceil(1_000)).ok(),
            acquire_time: if mine { before.and_then(|spec| spec.acquire_time.clone()) } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(if mine || before.is_none() { transitions } else { transitions + 1 }),
            ..LeaseSpec::default()
        }
    }

    /// Renews until `stop`, or until the Lease is lost: at the latest when the time is up, whatever a call is doing. Tells when
    /// the API server's version went back.
    pub async fn keep(&mut self, stop: &CancellationToken, mut went_back: impl FnMut()) -> Result<(), LeaseError> {
        let (leading, timing) = (self.leading.clone(), self.timing);
        let mut reason = "the API server doesn't answer".to_owned();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = leading.over() => return Err(LeaseError::NotRenewed { reason }),
                () = sleep(timing.every) => {}
            }
            let before = self.versions.highest();
            let asked = Clock::boot_millis();
            let answered = tokio::select! {
                answered = timeout(timing.call, self.renew()) => answered,
                () = leading.over() => return Err(LeaseError::NotRenewed { reason }),
            };
            match answered {
                Ok(Ok(Renewed { version, was_older })) => {
                    leading.extend(asked, timing.deadline);
                    if self.versions.went_back(before, version) || was_older {
                        tracing::error!(before, now = version, "the API server's version went back: it was restored");
                        went_back();
                    }
                }
                Ok(Err(RenewError::Taken(holder))) => {
                    leading.end();
                    return Err(LeaseError::Taken(holder));
                }
                Ok(Err(RenewError::Kube(error))) => {
                    tracing::warn!(%error, "the Lease could not be renewed; trying again");
                    reason = error.to_string();
                }
                Err(_) => tracing::warn!("the API server doesn't answer about the Lease"),
            }
        }
    }

    async fn renew(&mut self) -> Result<Renewed, RenewError> {
        let Some(held) = &self.held else { return Err(RenewError::Taken("nobody".to_owned())) };
        let mut lease = held.clone();
        lease.spec = Some(self.spec(held.spec.as_ref()));
        let mut was_older = false;
        let written = match self.api.replace(self.name, &PostParams::default(), &lease).await {
            Ok(written) => written,
            // Touched by somebody (or restored, or deleted): it is still ours if it says so, or if it says nothing.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                let found = self.api.get_opt(self.name).await?;
                // Of a state before ours: the API server was restored, and whom it names led when the backup was taken.
                was_older = found.as_ref().is_some_and(|found| version_of(&found.metadata) < version_of(&held.metadata));
                let holder = found.as_ref().and_then(|lease| lease.spec.as_ref()?.holder_identity.clone());
                if let Some(holder) = holder.filter(|holder| !holder.is_empty() && *holder != self.me && !was_older) {
                    return Err(RenewError::Taken(holder));
                }
                if let Some(found) = found {
                    let lease = Lease { spec: Some(self.spec(found.spec.as_ref())), metadata: found.metadata };
                    self.api.replace(self.name, &PostParams::default(), &lease).await?
                } else {
                    let metadata = ObjectMeta { name: Some(self.name.to_owned()), ..ObjectMeta::default() };
                    let lease = Lease { metadata, spec: Some(self.spec(None)) };
                    self.api.create(&PostParams::default(), &lease).await?
                }
            }
            Err(error) => return Err(error.into()),
        };
        let version = version_of(&written.metadata);
        self.held = Some(written);
        Ok(Renewed { version, was_older })
    }

    /// Gives the Lease up, so that the next needn't wait for it to run out.
    pub async fn release(mut self) {
        let Some(mut lease) = self.held.take() else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(Timestamp::now()));
        }
        match timeout(CALL, self.api.replace(self.name, &PostParams::default(), &lease)).await {
            Ok(Ok(_)) => tracing::info!("the Lease is given up"),
            Ok(Err(error)) => tracing::warn!(%error, "the Lease could not be given up; it runs out"),
            Err(_) => tracing::warn!("the Lease could not be given up in time; it runs out"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("held by {0}")]
    Taken(String),
    #[error(transparent)]
    Kube(#[from] kube::Error),
}

#[cfg(test)]
mod tests;
