//! Setting second factors up, and taking them away.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_api::policy::MfaMode;
use countersign_core::time::UnixMillis;
use countersign_store::{NewOneTimeToken, SecretHash, Session, StoreError, Tx, User, transact};

use super::{Code, codes, failed, in_use, not_locked, phone, resealing, sending, still_live};
use crate::{
    audit::EventKind,
    call::Call,
    lockout::Counter,
    mail::Notice,
    opening::{admitted, random},
    problem::{Failed, Problem},
    totp::{Provisioning, TotpError, TotpSecret},
};

/// How long ago the login of a session may be that sets a factor up, and how long setting up may take, milliseconds.
pub(crate) const FRESH_MS: i64 = 10 * 60_000;
/// What a set-up token begins with, so that scanners of source code find one that was committed.
const SETUP_PREFIX: &str = "cst_";
/// The purpose of set-up tokens among one-time tokens.
const SETUP: &str = "second factor set-up";

/// Whether a Bearer credential is meant as a set-up token.
pub(crate) fn is_setup_token(text: &str) -> bool {
    text.starts_with(SETUP_PREFIX)
}

/// What is kept of a set-up token: of one of exactly its length, or none.
pub(crate) fn setup_token_hash(text: &str) -> Option<SecretHash> {
    let bytes: [u8; 32] = URL_SAFE_NO_PAD.decode(text.strip_prefix(SETUP_PREFIX)?).ok()?.try_into().ok()?;
    Some(SecretHash::of(&bytes))
}

/// A token that is good for setting up an authenticator, and for nothing else, in the place of earlier ones. It is void once
/// the password is another one.
pub(super) async fn new_setup_token(
    tx: &mut Tx,
    call: &Call,
    user: &User,
    password_changed: UnixMillis,
    now: UnixMillis,
) -> Result<String, Failed> {
    let bytes: [u8; 32] = random()?;
    tx.withdraw_one_time_tokens(&user.policy, &user.id, SETUP).await?;
    tx.insert_one_time_token(&NewOneTimeToken {
        policy: &user.policy,
        hash: SecretHash::of(&bytes),
        purpose: SETUP,
        user: &user.id,
        content: &password_changed.0.to_string(),
        created: now,
        expires: now.plus(FRESH_MS),
    })
    .await?;
    call.event(EventKind::MfaChallenged).subject(&user.id).detail("set_up", true).write(tx, now).await?;
    Ok(format!("{SETUP_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// The account of a set-up token that is good.
pub(crate) async fn user_of_setup_token(call: &Call, hash: &SecretHash) -> Result<Option<User>, Failed> {
    let (policy, store, now) = (&call.policy.name, call.store(), call.now().await?);
    let Some(held) = store.one_time_token(policy, SETUP, hash, now).await? else { return Ok(None) };
    let password = store.password(policy, &held.user).await?;
    if password.is_none_or(|password| password.changed.0.to_string() != held.content) {
        return Ok(None);
    }
    let user = store.user(policy, &held.user).await?;
    Ok(user.and_then(|user| admitted(user, now)))
}

fn off() -> Failed {
    Problem::forbidden("this policy has no second factors (spec.login.mfa.mode is Disabled)")
        .with("mfa_mode", "Disabled")
        .into()
}

fn is_set_up() -> Failed {
    Problem::forbidden("a second factor is set up already").fix("DELETE /auth/2fa/totp first").into()
}

/// By what a person may set up a second factor.
pub(crate) enum By {
    /// A login's session.
    Session(Box<Session>),
    /// A set-up token, by its hash.
    SetUpToken(SecretHash),
}

impl By {
    /// Refuses when the session has ended meanwhile. Under the account's lock.
    async fn holds(&self, tx: &mut Tx, now: UnixMillis) -> Result<(), Failed> {
        match self {
            Self::Session(session) => still_live(tx, session, now).await,
            Self::SetUpToken(_) => Ok(()),
        }
    }

    /// Uses a set-up token up. Refuses when it is none any more, or the password is another one.
    async fn used_up(&self, tx: &mut Tx, user: &User, now: UnixMillis) -> Result<(), Failed> {
        let Self::SetUpToken(hash) = self else { return Ok(()) };
        let taken = tx.take_one_time_token(&user.policy, SETUP, hash, now).await?;
        let password = tx.password(&user.policy, &user.id).await?;
        match taken.zip(password) {
            Some((taken, password)) if taken.content == password.changed.0.to_string() => Ok(()),
            _ => Err(Problem::invalid_token("the set-up token is not good any more").into()),
        }
    }
}

/// Begins to set up an authenticator: the secret takes the place of one that was never confirmed.
pub(crate) async fn begin_setup(call: &Call, user: &User, by: &By) -> Result<Provisioning, Failed> {
    let (login, secrets) = (call.login()?, &call.issuer.parts.secrets);
    if login.settings.mfa.mode == MfaMode::Disabled {
        return Err(off());
    }
    let secret = TotpSecret::generate().map_err(|error| Problem::internal(&error))?;
    let name = user.email.as_ref().or(user.username.as_ref()).map_or(user.id.as_str(), |name| name.written.as_str());
    let shown = match secret.provisioning(&login.totp, name) {
        // An account is found in the app by its id at least.
        Err(TotpError::TooLong) => secret.provisioning(&login.totp, &user.id),
        shown => shown,
    };
    let shown = shown.map_err(|error| Problem::internal(&error))?;
    let sealed = resealing::sealed(secrets, &user.policy, &user.id, &secret);
    let (sealed, key_id) = sealed.map_err(|error| Problem::internal(&error))?;
    transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&user.policy, &user.id).await?;
        let now = tx.database_now().await?;
        by.holds(tx, now).await?;
        match tx.begin_totp(&user.policy, &user.id, &sealed, &key_id, now).await {
            Err(StoreError::Conflict(_)) => Err(is_set_up()),
            begun => Ok(begun?),
        }
    })?;
    Ok(shown)
}

/// Backup codes, for the one time that they are shown.
pub(crate) struct Shown(pub(crate) Vec<String>);

/// Puts an authenticator in use by its first code; absent when that is wrong. A set-up token is used up by it.
pub(crate) async fn confirm(call: &Call, user: &User, by: &By, code: &Code) -> Result<Option<Shown>, Failed> {
    if call.login()?.settings.mfa.mode == MfaMode::Disabled {
        return Err(off());
    }
    transact!(call.store(), Failed, |tx| { confirmed(tx, call, user, by, code).await })
}

async fn confirmed(tx: &mut Tx, call: &Call, user: &User, by: &By, code: &Code) -> Result<Option<Shown>, Failed> {
    let (policy, counter) = (&user.policy, Counter::Account(user.id.clone()));
    tx.lock_subject(policy, &user.id).await?;
    let now = tx.database_now().await?;
    not_locked(tx, policy, &counter, now).await?;
    by.holds(tx, now).await?;
    let held = tx.totp(policy, &user.id).await?;
    let held = held.filter(|held| held.confirmed.is_some() || held.created.plus(FRESH_MS) > now);
    let held = held.ok_or_else(|| {
        Problem::forbidden("nothing is being set up, or it has taken too long").fix("POST /auth/2fa/setup/totp first")
    })?;
    if held.confirmed.is_some() {
        return Err(is_set_up());
    }
    let secret = resealing::opened(&call.issuer.parts.secrets, policy, &user.id, &held);
    let secret = secret.map_err(|error| Problem::internal(&error))?;
    let Some(step) = code.step(call, &secret, now)? else {
        failed(tx, call, &user.id, &counter, "set-up", now).await?;
        return Ok(None);
    };
    by.used_up(tx, user, now).await?;
    if !tx.confirm_totp(policy, &user.id, &held.secret, step, now).await? {
        return Err(is_set_up());
    }
    tx.withdraw_one_time_tokens(policy, &user.id, SETUP).await?;
    // Of before there was a second factor: nobody showed one to set it up.
    phone::forget(tx, call, &user.id, now).await?;
    let shown = replaced(tx, call, &user.id).await?;
    call.event(EventKind::MfaEnabled).subject(&user.id).detail("method", "totp").write(tx, now).await?;
    Ok(Some(shown))
}

async fn replaced(tx: &mut Tx, call: &Call, user: &str) -> Result<Shown, Failed> {
    let codes = codes::backup_codes(call, user, call.login()?.settings.mfa.backup_codes)?;
    let (shown, kept): (Vec<String>, Vec<SecretHash>) = codes.into_iter().unzip();
    tx.replace_backup_codes(&call.policy.name, user, &kept).await?;
    Ok(Shown(shown))
}

/// What an account without a second factor is told where it needs one.
fn none() -> Failed {
    Problem::forbidden("no second factor is set up").fix("POST /auth/2fa/setup/totp").into()
}

/// Takes a code of a person who is logged in, who may be anyone with their token: counted, and not while that locks. Whether
/// it was right.
pub(super) async fn shown(
    tx: &mut Tx,
    call: &Call,
    (user, counter): (&str, &Counter),
    code: &Code,
    step: &'static str,
    now: UnixMillis,
) -> Result<bool, Failed> {
    let policy = &call.policy.name;
    not_locked(tx, policy, counter, now).await?;
    if in_use(call, tx.totp(policy, user).await?)?.is_none() {
        return Err(none());
    }
    if codes::take(tx, call, user, None, code, now).await?.is_some() {
        return Ok(true);
    }
    failed(tx, call, user, counter, step, now).await?;
    Ok(false)
}

/// New backup codes in the place of the old ones; absent when the code is wrong.
pub(crate) async fn new_backup_codes(call: &Call, user: &User, code: &Code) -> Result<Option<Shown>, Failed> {
    transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&user.policy, &user.id).await?;
        let now = tx.database_now().await?;
        let counter = Counter::Account(user.id.clone());
        if !shown(tx, call, (&user.id, &counter), code, "backup codes", now).await? {
            return Ok(None);
        }
        let codes = replaced(tx, call, &user.id).await?;
        call.event(EventKind::UserUpdated).subject(&user.id).detail("changed", "backup codes").write(tx, now).await?;
        Ok(Some(codes))
    })
}

/// Turns the second factor off in a transaction that holds its owner, who has shown the password. Whether the code was right.
pub(crate) async fn turn_off(
    tx: &mut Tx,
    call: &Call,
    user: &User,
    counter: &Counter,
    code: &Code,
    now: UnixMillis,
) -> Result<bool, Failed> {
    if !shown(tx, call, (&user.id, counter), code, "removal", now).await? {
        return Ok(false);
    }
    remove(tx, call, &user.id, "by its owner", now).await?;
    Ok(true)
}

/// Tells an account's owner by mail that it has no second factor any more.
pub(crate) fn tell_removed(call: &Call, user: &User) -> Result<(), Problem> {
    sending::tell(call, user, Notice::SecondFactorRemoved)
}

/// Removes an account's second factor, its backup codes and what was begun to set one up; who calls answers for the right to.
/// Sessions stay. Whether there was one.
pub(crate) async fn remove(
    tx: &mut Tx,
    call: &Call,
    user: &str,
    reason: &str,
    now: UnixMillis,
) -> Result<bool, StoreError> {
    let policy = &call.policy.name;
    tx.lock_subject(policy, user).await?;
    let removed = tx.totp(policy, user).await?.is_some_and(|held| held.confirmed.is_some());
    tx.withdraw_one_time_tokens(policy, user, SETUP).await?;
    tx.remove_factors(policy, user).await?;
    // Whoever has lost a telephone has lost what it receives.
    phone::forget(tx, call, user, now).await?;
    if removed {
        call.event(EventKind::MfaDisabled).subject(user).detail("reason", reason).write(tx, now).await?;
    }
    Ok(removed)
}
