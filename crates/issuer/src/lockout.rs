//! Who may try: one counter over all factors of an account, which survives restarts and turns away new logins only.
//!
//! A device that the account knows has its own counter, so that strangers who guess can't lock its owner out; names that no
//! account has lock the same way.

use axum::http::StatusCode;
use countersign_api::policy::{EffectiveLockout, Switch};
use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_store::{Candidate, Counting, Lockout, LockoutKey, SecretHash, Store, StoreError, Tx, User, UserStatus};
use serde_json::Value;

use crate::{audit::EventKind, call::Call, notices, problem::Problem};

/// The most counters of unknown names that a policy keeps.
pub(crate) const MAX_UNKNOWN_NAMES: u32 = 100_000;
/// How long a counter is remembered after its last failure, at least, milliseconds: so that growing locks grow.
const REMEMBERED_MS: i64 = 24 * 3_600_000;

/// What failures are counted on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Counter {
    /// An account, by its id.
    Account(String),
    /// A name that no account has, by its hash.
    Unknown(SecretHash),
    /// A known device, by its secret's hash.
    Device {
        /// Its secret's hash.
        secret: SecretHash,
        /// The account that knows it.
        user: String,
    },
}

impl Counter {
    /// The counter of a login: of the account's known device when one shows its secret, else of the account, else of the name.
    pub(crate) async fn of_login(
        call: &Call,
        user: Option<&User>,
        folded: &str,
        device: Option<&SecretHash>,
    ) -> Result<Self, StoreError> {
        // Looked up whether or not there is an account, so that time doesn't tell.
        let known = match device {
            Some(secret) => call.store().device(&call.policy.name, secret).await?,
            None => None,
        };
        let Some(user) = user else {
            return Ok(Self::Unknown(Self::of_unknown(call, folded)));
        };
        match (device, known) {
            (Some(secret), Some(known)) if known.user == user.id => Ok(Self::Device { secret: *secret, user: known.user }),
            _ => Ok(Self::Account(user.id.clone())),
        }
    }

    /// The counter of a login of whoever was found: see [`Candidate::counter`].
    pub(crate) fn of_candidate(found: &Candidate, unknown: SecretHash, device: Option<SecretHash>) -> Self {
        match (&found.user, device) {
            (None, _) => Self::Unknown(unknown),
            (Some(user), Some(secret)) if found.knows_device => Self::Device { secret, user: user.id.clone() },
            (Some(user), _) => Self::Account(user.id.clone()),
        }
    }

    /// The hash of a name that no account has.
    pub(crate) fn of_unknown(call: &Call, folded: &str) -> SecretHash {
        call.issuer.parts.secrets.hash("name", &format!("{}\0{folded}", call.policy.name))
    }

    /// Where the store keeps it.
    pub(crate) fn key(&self) -> LockoutKey<'_> {
        match self {
            Self::Account(id) => LockoutKey::Account(id),
            Self::Unknown(hash) => LockoutKey::UnknownName(hash),
            Self::Device { secret, .. } => LockoutKey::Device(secret),
        }
    }

    /// Until when it locks, if it does.
    pub(crate) async fn locked(
        &self,
        store: &Store,
        policy: &PolicyName,
        now: UnixMillis,
    ) -> Result<Option<UnixMillis>, StoreError> {
        Ok(until(Some(store.lockout(policy, self.key()).await?), now))
    }

    /// The same within a transaction.
    pub(crate) async fn locked_in(
        &self,
        tx: &mut Tx,
        policy: &PolicyName,
        now: UnixMillis,
    ) -> Result<Option<UnixMillis>, StoreError> {
        Ok(until(Some(tx.lockout(policy, self.key()).await?), now))
    }

    /// Counts a failure; locks when it is one too many, and tells of it: an account's owner by mail.
    pub(crate) async fn failed(
        &self,
        tx: &mut Tx,
        call: &Call,
        settings: &EffectiveLockout,
        now: UnixMillis,
    ) -> Result<(), StoreError> {
        if settings.mode == Switch::Disabled {
            return Ok(());
        }
        let policy = &call.policy.name;
        let remembered = settings.window.as_millis().max(settings.max_duration.as_millis()).max(REMEMBERED_MS);
        let counting = Counting { window_ms: settings.window.as_millis(), expires: now.plus(remembered) };
        let standing = tx.count_failure(policy, self.key(), counting, now).await?;
        if standing.failures < settings.max_failures {
            return Ok(());
        }
        let until = now.plus(lock_ms(settings, &standing));
        if tx.lock_out(policy, self.key(), until, until.plus(remembered), now).await? {
            let event = call
                .event(EventKind::AccountLocked)
                .detail("until", until.as_secs())
                .detail("failures", settings.max_failures);
            let event = match self {
                Self::Account(id) => event.subject(id),
                Self::Unknown(_) => event.detail("unknown_name", true),
                Self::Device { .. } => event.detail("device", true),
            };
            event.write(tx, now).await?;
            match self {
                // A device, too, may be in a stranger's hands.
                Self::Account(user) | Self::Device { user, .. } => {
                    notices::locked(tx, call, Some(user), until, now).await?;
                }
                Self::Unknown(_) => notices::locked(tx, call, None, until, now).await?,
            }
        }
        Ok(())
    }

    /// Forgets its failures: its owner has logged in.
    pub(crate) async fn clear(&self, tx: &mut Tx, policy: &PolicyName, now: UnixMillis) -> Result<(), StoreError> {
        tx.clear_lockout(policy, self.key(), now).await.map(|_| ())
    }
}

/// Until when a counter locks, if it does.
pub(crate) fn until(counter: Option<Lockout>, now: UnixMillis) -> Option<UnixMillis> {
    counter?.locked_until.filter(|until| *until > now)
}

/// How long the next lock lasts: each further one so many times as long as the one before, up to a bound.
fn lock_ms(settings: &EffectiveLockout, standing: &Lockout) -> i64 {
    let factor = i64::from(settings.backoff_factor).saturating_pow(standing.locks);
    settings
        .duration
        .as_millis()
        .saturating_mul(factor)
        .min(settings.max_duration.as_millis().max(settings.duration.as_millis()))
}

/// What an administrator keeps an account's owner out by: 423 while their lock stands, 403 when it is disabled.
pub(crate) fn closed(user: &User, now: UnixMillis) -> Result<(), Problem> {
    match user.status {
        UserStatus::Active | UserStatus::Pending => Ok(()),
        UserStatus::Disabled => Err(Problem::new(StatusCode::FORBIDDEN, "account_disabled", "the account is disabled")),
        UserStatus::Locked => match user.status_until {
            Some(until) if until <= now => Ok(()),
            until => {
                let problem = Problem::new(StatusCode::LOCKED, "account_locked", "an administrator has locked the account");
                Err(match until {
                    Some(until) => problem.with("locked_until", until.as_secs()).retry_after(seconds_left(until, now)),
                    None => problem.with("locked_until", Value::Null),
                })
            }
        },
    }
}

fn seconds_left(until: UnixMillis, now: UnixMillis) -> u64 {
    u64::try_from(until.since(now).max(0)).unwrap_or(0).div_ceil(1000).max(1)
}

/// 423, with the time to wait.
pub(crate) fn locked(until: UnixMillis, now: UnixMillis) -> Problem {
    Problem::new(StatusCode::LOCKED, "account_locked", "too many failed attempts: the account is locked for a while")
        .with("locked_until", until.as_secs())
        .retry_after(seconds_left(until, now))
}

#[cfg(test)]
mod tests {
    use countersign_api::{Resolve as _, policy, values::Duration};

    use super::*;

    #[test]
    fn locks_grow_up_to_a_bound_and_never_overflow() {
        let settings = policy::Lockout::default().resolve();
        let after = |locks| lock_ms(&settings, &Lockout { locks, ..Lockout::default() }) / 60_000;
        assert_eq!([after(0), after(1), after(2), after(5), after(6), after(u32::MAX)], [30, 60, 120, 960, 1440, 1440]);
        let long =
            policy::Lockout { duration: Some(Duration::hours(48)), backoff_factor: Some(1), ..policy::Lockout::default() };
        assert_eq!(lock_ms(&long.resolve(), &Lockout::default()), 48 * 3_600_000, "a bound below the first lock is none");
    }
}
