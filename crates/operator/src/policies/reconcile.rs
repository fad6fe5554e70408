//! One look at one policy: what is declared and kept decides what it is, and that decides what is done.

use std::time::Duration;

use countersign_core::{names::PolicyName, ring, time::UnixMillis};
use countersign_feed::Clock;

use super::{
    Reconciler,
    caches::Declared,
    keeping::Found,
    memory::{Managed, Next},
    record::RingSeen,
    signing::SigningError,
    standing::{Held, Standing, Wanted, standing},
};

/// How long a policy is left alone when nothing happens: what no watch tells is found then.
pub(super) const AT_MOST: Duration = Duration::from_hours(1);
/// How often one that waits for verifiers is looked at, whatever they say.
pub(super) const WHILE_WAITING: Duration = Duration::from_secs(5);

/// Why a policy could not be brought forward now. It is tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReconcileError {
    /// What was decided on isn't there any more; look again.
    #[error("somebody else wrote at the same time")]
    Conflict,
    /// The API server.
    #[error(transparent)]
    Kube(kube::Error),
    /// A seal or a key.
    #[error(transparent)]
    Signing(#[from] SigningError),
    /// A ring.
    #[error(transparent)]
    Ring(#[from] ring::ApplyError),
    /// The namespace of a policy isn't known yet.
    #[error("the namespace isn't known yet")]
    Namespace,
    /// More than the API server takes.
    #[error("{what} has {} KiB, more than an object of the API server holds", .length >> 10)]
    TooLarge {
        /// Which object.
        what: &'static str,
        /// Bytes.
        length: usize,
    },
    /// A task of ours.
    #[error("keys could not be made: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl From<kube::Error> for ReconcileError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) if matches!(status.code, 404 | 409) && !is_forbidden_namespace(&status.message) => {
                Self::Conflict
            }
            error => Self::Kube(error),
        }
    }
}

/// A write into a namespace that isn't there is no conflict that goes away by looking again.
fn is_forbidden_namespace(message: &str) -> bool {
    message.starts_with("namespaces ")
}

/// The words of [`ReconcileError::word`].
pub(crate) const ERRORS: [&str; 7] = ["conflict", "api_server", "signing", "ring", "namespace", "too_large", "task"];

impl ReconcileError {
    /// The label's value in `countersign_operator_reconcile_errors_total`.
    pub(crate) const fn word(&self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Kube(_) => "api_server",
            Self::Signing(_) => "signing",
            Self::Ring(_) => "ring",
            Self::Namespace => "namespace",
            Self::TooLarge { .. } => "too_large",
            Self::Task(_) => "task",
        }
    }

    /// How long to wait after so many failures in a row, before jitter.
    pub(crate) fn back_off(&self, failures: u32) -> Duration {
        let (first, longest) = match self {
            Self::Conflict | Self::Namespace => (Duration::from_millis(50), Duration::from_secs(5)),
            // It takes a person to mend.
            Self::TooLarge { .. } => (Duration::from_secs(5), Duration::from_mins(5)),
            Self::Kube(kube::Error::Api(status)) if matches!(status.code, 401 | 403 | 422) => {
                (Duration::from_secs(5), Duration::from_mins(5))
            }
            _ => (Duration::from_millis(500), Duration::from_mins(1)),
        };
        first.saturating_mul(1 << failures.min(16)).min(longest)
    }
}

impl Reconciler {
    /// Brings a policy as far as it goes now.
    pub(super) async fn reconcile(&self, name: &PolicyName, managed: &mut Managed) -> Result<Next, ReconcileError> {
        managed.drop_those_who_left();
        let declared = self.caches.policy(name);
        let found = self.find(name, managed).await?;
        self.look_at_bundle(name, managed).await?;
        self.look_at_told(name, managed).await?;
        let namespace_uid = self.caches.namespaces.one(name.namespace());
        let lives = declared.as_ref().is_some_and(|declared| !declared.deleting());
        if lives && namespace_uid.is_none() {
            return Err(ReconcileError::Namespace);
        }
        let namespace_uid = namespace_uid.unwrap_or_default();
        if !self.hearing.is_over() && self.is_remembered(name, &found) {
            return self.keep_still(name, declared.as_ref(), &namespace_uid, managed).await;
        }
        let vouched = declared.as_deref().is_some_and(|declared| self.is_vouched_for(name, declared, &found));
        let wanted = declared.as_deref().map(|declared| Wanted {
            uid: declared.uid(),
            namespace_uid: &namespace_uid,
            issuer: declared.policy.spec.issuer.as_deref(),
            deleting: declared.deleting(),
            vouched,
        });
        let held = match (&found, &managed.stored) {
            (Found::Untrusted(why, _), _) => Held::Untrusted(why),
            (_, Some(stored)) => Held::Record(&stored.kept.record),
            _ => Held::Nothing,
        };
        let decided = standing(wanted.as_ref(), held, Clock::wall(), self.server_now());
        match (decided, declared) {
            (Standing::Live { adopts }, Some(declared)) => {
                self.live(name, &declared, &namespace_uid, adopts, found, managed).await
            }
            (Standing::Refused(why), Some(declared)) => self.refuse(name, &declared, &namespace_uid, &why, managed).await,
            (Standing::Withdraw, declared) => {
                self.withdraw(name, declared.as_deref(), &namespace_uid, found, managed).await
            }
            (Standing::Withdrawn { .. }, declared) => self.stay_withdrawn(name, declared.as_deref(), managed).await,
            // An issuer that hasn't read of it would never know whose people are to be erased.
            (Standing::Erase, None) if self.issuers_lag(name, managed) => self.stay_withdrawn(name, None, managed).await,
            (Standing::Erase, _) => {
                self.erase_bundle(name, managed).await?;
                self.erase_told(name, managed).await?;
                self.erase_ring(name, managed).await?;
                tracing::info!(policy = %name, "the withdrawn policy's keys are erased");
                Ok(self.forget(name, managed))
            }
            // Decided by what is declared, so something is; or there is nothing at all, but for a bundle whose ring is gone.
            (Standing::Gone | Standing::Live { .. } | Standing::Refused(_), declared) => {
                if self.caches.bundles.one(&countersign_api::cluster::bundle_name(name)).is_some() {
                    return self.withdraw(name, declared.as_deref(), &namespace_uid, found, managed).await;
                }
                self.erase_told(name, managed).await?;
                Ok(self.forget(name, managed))
            }
        }
    }

    /// Whether anything is kept of a policy from before.
    fn is_remembered(&self, name: &PolicyName, found: &Found) -> bool {
        let has_bundle = || self.caches.bundles.one(&countersign_api::cluster::bundle_name(name)).is_some();
        !matches!(found, Found::Nothing) || has_bundle()
    }

    /// An administrator's word counts for exactly what is there.
    fn is_vouched_for(&self, name: &PolicyName, declared: &Declared, found: &Found) -> bool {
        match found {
            Found::Untrusted(_, secret) => secret.is_vouched_for(name, declared.uid()),
            Found::Nothing => false,
            Found::Stored => {
                let cached = self.caches.rings.one(&countersign_api::cluster::ring_name(name));
                let vouched =
                    |seen: RingSeen| seen.whole().is_some_and(|secret| secret.is_vouched_for(name, declared.uid()));
                cached.is_some_and(vouched)
            }
        }
    }

    /// Whether an issuer of those that count hasn't read yet what is kept of a policy.
    fn issuers_lag(&self, name: &PolicyName, managed: &Managed) -> bool {
        let (hold, all) = self.context.registry.fleet().issuers_at(name, managed.stored_version());
        let told = managed.stored.as_ref().is_some_and(|stored| self.has_issuer(&stored.kept.record));
        told && hold < all
    }

    pub(super) fn server_now(&self) -> Option<UnixMillis> {
        self.feed.borrow().server_now()
    }

    pub(super) fn forget(&self, name: &PolicyName, managed: &mut Managed) -> Next {
        self.context.registry.forget(name);
        self.in_use.forget(name);
        self.claims.forget(name);
        managed.tell_ended();
        Next { gone: true, ..Next::default() }
    }
}

/// Higher than any before it, and than what any verifier holds, of this policy or of any.
pub(super) fn next_generation(last: u64, held: Option<u64>, highest_held: u64, now: UnixMillis) -> u64 {
    let now = u64::try_from(now.0).unwrap_or(0);
    now.max(last.max(held.unwrap_or(0)).max(highest_held).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_rises_over_restores_and_clocks_that_went_back() {
        let now = UnixMillis(1000);
        assert_eq!(next_generation(0, None, 0, now), 1000);
        assert_eq!(next_generation(1000, None, 0, now), 1001);
        assert_eq!(next_generation(5000, None, 0, now), 5001);
        assert_eq!(next_generation(5, Some(7000), 0, now), 7001);
        assert_eq!(next_generation(5, None, 8000, now), 8001, "what anybody holds of any policy");
        assert_eq!(next_generation(u64::MAX, None, 0, now), u64::MAX);
    }

    #[test]
    fn failures_wait_by_their_kind_and_not_for_ever() {
        let conflict = ReconcileError::Conflict;
        assert_eq!(conflict.back_off(0), Duration::from_millis(50));
        assert_eq!(conflict.back_off(99), Duration::from_secs(5));
        let task = ReconcileError::Kube(kube::Error::LinesCodecMaxLineLengthExceeded);
        assert_eq!(task.back_off(0), Duration::from_millis(500));
        assert_eq!(task.back_off(40), Duration::from_mins(1));
    }
}
