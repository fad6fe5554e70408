//! Second factors: who has one, what is asked of whom, and that every code counts once, on whichever replica.
//!
//! All is decided in one transaction that holds the account: whether a code is asked for, whether it is right, that it is used
//! up, and the session that it leads to. A wrong code is a failed attempt like a wrong password, on the same counter.

mod bringing;
mod challenge;
mod codes;
mod enrolment;
pub(crate) mod phone;
mod proving;
mod resealing;
mod sending;
mod step_up;

use countersign_api::policy::MfaMode;
use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_store::{Session, Store, StoreError, Totp, Tx, User, transact};

pub(crate) use self::{
    bringing::{bring, is_of},
    challenge::Pending,
    codes::Code,
    enrolment::{
        By, FRESH_MS, Shown, begin_setup, confirm, is_setup_token, new_backup_codes, remove, setup_token_hash,
        tell_removed, turn_off, user_of_setup_token,
    },
    proving::{Step, at_login, is_again, verify},
    resealing::reseal,
    sending::{Channel, send},
    step_up::ask,
};
use crate::{
    audit::EventKind,
    call::Call,
    lockout::{self, Counter},
    problem::{Failed, Problem},
};

/// How a code came to its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// An authenticator app shows it.
    Totp,
    /// It was kept since the factor was set up.
    BackupCode,
    /// It was mailed for one challenge.
    Email,
    /// It was sent by SMS for one challenge.
    Sms,
}

impl Method {
    /// The contract's word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Totp => "totp",
            Self::BackupCode => "backup_code",
            Self::Email => "email",
            Self::Sms => "sms",
        }
    }

    /// How a login with it proved who it is (RFC 8176 section 2).
    const fn amr(self) -> &'static [&'static str] {
        match self {
            Self::Totp | Self::BackupCode | Self::Email => &["pwd", "otp", MFA],
            Self::Sms => &["pwd", "sms", MFA],
        }
    }
}

/// What a session's `amr` says when a second factor was shown.
const MFA: &str = "mfa";

/// A second factor that is in use: its authenticator was confirmed, and the policy has second factors.
fn in_use(call: &Call, held: Option<Totp>) -> Result<Option<Totp>, Failed> {
    let on = are_on(call)?;
    Ok(held.filter(|totp| on && totp.confirmed.is_some()))
}

/// Whether the policy has second factors at all.
pub(crate) fn are_on(call: &Call) -> Result<bool, Problem> {
    Ok(call.login()?.settings.mfa.mode != MfaMode::Disabled)
}

/// Whether an account logs in with a second factor.
pub(crate) async fn is_on(call: &Call, user: &User) -> Result<bool, Failed> {
    let held = call.store().totp(&user.policy, &user.id).await?;
    Ok(in_use(call, held)?.is_some())
}

/// The same within a transaction.
pub(crate) async fn is_on_in(tx: &mut Tx, call: &Call, user: &User) -> Result<bool, Failed> {
    Ok(in_use(call, tx.totp(&user.policy, &user.id).await?)?.is_some())
}

/// How an account that has a second factor can show it.
pub(crate) async fn methods(call: &Call, user: &User) -> Result<Vec<&'static str>, Failed> {
    let left = call.store().backup_codes_left(&user.policy, &user.id).await?;
    let mailed = sending::address(call, user)?;
    let texted = phone::number(call, user).await?;
    let methods = [
        Some(Method::Totp),
        (left > 0).then_some(Method::BackupCode),
        mailed.map(|_| Method::Email),
        texted.map(|_| Method::Sms),
    ];
    Ok(methods.into_iter().flatten().map(Method::word).collect())
}

/// Refuses while failures lock what wrong codes are counted on.
async fn not_locked(tx: &mut Tx, policy: &PolicyName, counter: &Counter, now: UnixMillis) -> Result<(), Failed> {
    match counter.locked_in(tx, policy, now).await? {
        Some(until) => Err(lockout::locked(until, now).into()),
        None => Ok(()),
    }
}

/// Refuses when a session has ended meanwhile: a changed password ends it, for instance.
async fn still_live(tx: &mut Tx, session: &Session, now: UnixMillis) -> Result<(), Failed> {
    match tx.session(&session.policy, &session.id).await? {
        Some(held) if held.is_live(now) => Ok(()),
        _ => Err(Problem::invalid_token("the session has ended").into()),
    }
}

/// Tells of a wrong code, and counts it where wrong passwords are counted.
async fn failed(
    tx: &mut Tx,
    call: &Call,
    user: &str,
    counter: &Counter,
    step: &'static str,
    now: UnixMillis,
) -> Result<(), Failed> {
    call.event(EventKind::MfaFailed).subject(user).detail("at", step).write(tx, now).await?;
    counter.failed(tx, call, &call.login()?.settings.lockout, now).await?;
    Ok(())
}

/// Says that a token of a session was used: nobody gets that session a second time from now on.
pub(crate) async fn used(store: &Store, policy: &PolicyName, session: &Session) -> Result<(), StoreError> {
    if !session.amr.iter().any(|method| method == MFA) || !store.retry_is_open(policy, &session.id).await? {
        return Ok(());
    }
    transact!(store, |tx| {
        tx.lock_subject(policy, &session.subject).await?;
        let now = tx.database_now().await?;
        tx.close_retry(policy, &session.id, now).await
    })
}
