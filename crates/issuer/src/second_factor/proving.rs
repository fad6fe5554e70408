//! A login between its password and its session: a code is asked for, shown, or has to be set up first.

use countersign_core::time::UnixMillis;
use countersign_store::{Appended, Candidate, Challenge, RefreshToken, Retry, StoreError, Tx, User, transact};

use super::{Code, Pending, are_on, challenge, codes, enrolment, failed, step_up};
use crate::{
    audit::EventKind,
    call::Call,
    lockout::{self, Counter},
    opening::{self, Opened, Proven, random, token_of},
    problem::{Failed, Problem},
};

/// What came of a step, all of which is committed.
pub(crate) enum Step {
    /// The login is complete.
    Opened {
        /// Its session.
        opened: Box<Opened>,
        /// Whether the account has a second factor.
        second_factor: bool,
    },
    /// A code is asked for.
    Challenged {
        /// Where it is to be shown.
        challenge: String,
    },
    /// There must be a second factor, and is none.
    SetUp {
        /// What lets its owner set one up.
        token: String,
    },
    /// The code was wrong.
    Wrong {
        /// How many more the challenge takes.
        left: Option<u32>,
    },
}

impl Step {
    fn opened(opened: Opened) -> Self {
        Self::Opened { opened: Box::new(opened), second_factor: true }
    }
}

/// A login whose password was right.
pub(crate) async fn at_login(tx: &mut Tx, call: &Call, proven: &Proven<'_>, code: Option<&Code>) -> Result<Step, Failed> {
    let (user, held) = opening::still(tx, call, proven).await?;
    let proven = &Proven { user: &user, ..proven.clone() };
    let now = tx.database_now().await?;
    // Of many guesses at once none counts beyond the one that locked.
    if let Some(until) = lockout::until(held.counter, now) {
        return Err(lockout::locked(until, now).into());
    }
    let enrolled = are_on(call)? && held.second_factor;
    match code {
        _ if !enrolled && call.login()?.demands_second_factor(&user.roles) => {
            let token = enrolment::new_setup_token(tx, call, &user, proven.password.changed, now).await?;
            Ok(Step::SetUp { token })
        }
        _ if !enrolled => {
            let opened = Box::new(opening::open(tx, call, proven, &held).await?);
            Ok(Step::Opened { opened, second_factor: false })
        }
        None => {
            let wishes = proven.wishes.clone();
            let pending = Pending { wishes, password_changed: Some(proven.password.changed.0), step_up: None };
            Ok(Step::Challenged { challenge: challenge::begin(tx, call, &user.id, &pending, now).await? })
        }
        Some(code) => with_code(tx, call, (proven, &held), &user, code, now).await,
    }
}

async fn with_code(
    tx: &mut Tx,
    call: &Call,
    (proven, held): (&Proven<'_>, &Candidate),
    user: &User,
    code: &Code,
    now: UnixMillis,
) -> Result<Step, Failed> {
    if let Some(opened) = again(tx, call, (proven, held), user, code, now).await? {
        return Ok(Step::opened(opened));
    }
    let Some(method) = codes::take(tx, call, &user.id, None, code, now).await? else {
        failed(tx, call, &user.id, proven.counter, "login", now).await?;
        return Ok(Step::Wrong { left: None });
    };
    let proven = Proven { amr: method.amr(), ..proven.clone() };
    Ok(Step::opened(opening::open(tx, call, &proven, held).await?))
}

/// Whether a login, its password aside, is the one that this very code has just completed: limits on logins count it once.
pub(crate) async fn is_again(call: &Call, user: &str, code: &Code, now: UnixMillis) -> Result<bool, StoreError> {
    let ip = call.client.ip.to_string();
    for hash in code.retry_hashes(call, user) {
        let retry = Retry { user, code: &hash, ip: Some(&ip), user_agent: call.client.user_agent.as_deref() };
        if call.store().is_retry(&call.policy.name, &retry, now).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The session that this very code has just led to, for a client that ignored what the challenge answered and logs in again:
/// once, and only while nothing of that session was used. What it was answered first is good no more, the access token aside.
async fn again(
    tx: &mut Tx,
    call: &Call,
    (proven, held): (&Proven<'_>, &Candidate),
    user: &User,
    code: &Code,
    now: UnixMillis,
) -> Result<Option<Opened>, Failed> {
    let policy = &call.policy;
    let ip = call.client.ip.to_string();
    let mut found = None;
    for hash in code.retry_hashes(call, &user.id) {
        let retry = Retry { user: &user.id, code: &hash, ip: Some(&ip), user_agent: call.client.user_agent.as_deref() };
        found = tx.take_retry(&policy.name, &retry, now).await?;
        if found.is_some() {
            break;
        }
    }
    let Some(id) = found else { return Ok(None) };
    let session = tx.session(&policy.name, &id).await?.filter(|session| session.is_live(now));
    let Some(session) = session else { return Ok(None) };
    let refresh = RefreshToken(random()?);
    if !tx.replace_first_token(&policy.name, &id, &refresh).await? {
        return Ok(None);
    }
    let grant = call.issuer.parts.minter.grant(tx, policy, &token_of(user, &session), Some(session.ends())).await?;
    let device = opening::device(tx, call, proven.wishes, held.knows_device, &session, now).await?;
    let event = call.event(EventKind::MfaSucceeded).subject(&user.id).session(&id);
    event.detail("for", "the login again").write(tx, now).await?;
    let ended = Appended { ids: Vec::new(), merged: Vec::new() };
    Ok(Some(Opened {
        session,
        user: user.clone(),
        grant,
        refresh,
        device: Some(device.text),
        cookies: proven.wishes.cookies,
        ended,
    }))
}

/// 401: there is no such challenge that could be answered.
pub(super) fn invalid_challenge() -> Problem {
    let detail = "there is no such challenge, or it is over, was answered, or has had its attempts";
    Problem::new(axum::http::StatusCode::UNAUTHORIZED, "invalid_challenge", detail).fix("log in again")
}

/// A code for a challenge: whose it is, and what came of it. `cookies` says whether whoever shows it may be given any.
pub(crate) async fn verify(
    call: &Call,
    id: &str,
    code: &Code,
    cookies: Result<(), Problem>,
) -> Result<(User, Result<Step, Failed>), Failed> {
    let (policy, store) = (&call.policy.name, call.store());
    let challenge = store.challenge(policy, id).await?.ok_or_else(invalid_challenge)?;
    let pending = Pending::of(&challenge)?;
    if pending.wishes.cookies {
        cookies?;
    }
    let user = store.user(policy, &challenge.user).await?.ok_or_else(invalid_challenge)?;
    let counter = Counter::of_login(call, Some(&user), "", pending.wishes.device_hash().as_ref()).await?;
    let step = transact!(store, Failed, |tx| { answered(tx, call, &challenge, &pending, &counter, code).await });
    Ok((user, step))
}

async fn answered(
    tx: &mut Tx,
    call: &Call,
    challenge: &Challenge,
    pending: &Pending,
    counter: &Counter,
    code: &Code,
) -> Result<Step, Failed> {
    let (policy, mfa) = (&call.policy.name, &call.login()?.settings.mfa);
    let held = opening::held(tx, call, &challenge.user, counter, &pending.wishes).await?;
    let now = tx.database_now().await?;
    let unchanged = held.password.as_ref().map(|password| password.changed.0) == pending.password_changed;
    let open = challenge.expires > now && challenge.completed.is_none();
    let (Some(user), true, true) = (held.user.clone(), unchanged, open) else { return Err(invalid_challenge().into()) };
    lockout::closed(&user, now)?;
    let user = opening::admitted(user, now).ok_or_else(invalid_challenge)?;
    if let Some(until) = lockout::until(held.counter, now) {
        return Err(lockout::locked(until, now).into());
    }
    let attempts = tx.count_attempt(policy, &challenge.id, mfa.max_attempts, now).await?;
    let attempts = attempts.ok_or_else(invalid_challenge)?;
    let Some(method) = codes::take(tx, call, &user.id, Some(&challenge.id), code, now).await? else {
        failed(tx, call, &user.id, counter, "challenge", now).await?;
        return Ok(Step::Wrong { left: Some(mfa.max_attempts.saturating_sub(attempts)) });
    };
    let opened = match (&pending.step_up, &held.password) {
        (Some(session), _) => step_up::go_on(tx, call, user, (session, pending.wishes.cookies), now).await?,
        (None, Some(password)) => {
            let wishes = &pending.wishes;
            let proven = Proven { user: &user, password, amr: method.amr(), counter, wishes };
            opening::open(tx, call, &proven, &held).await?
        }
        (None, None) => return Err(invalid_challenge().into()),
    };
    let kept = code.retry_hash(call, &opened.user.id);
    if !tx.complete_challenge(policy, &challenge.id, &opened.session.id, &kept, now).await? {
        return Err(invalid_challenge().into());
    }
    if pending.step_up.is_some() {
        tx.close_retry(policy, &opened.session.id, now).await?;
    }
    Ok(Step::opened(opened))
}
