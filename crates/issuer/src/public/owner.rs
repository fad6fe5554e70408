//! What routes about accounts have in common: the word of an account's owner, new passwords, tokens that are mailed, and the
//! limits on what strangers may cause.

use std::collections::HashSet;

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use countersign_api::policy::EffectiveRateLimit;
use countersign_core::time::UnixMillis;
use countersign_store::{
    Folded, NewOneTimeToken, Password, PasswordHash, SecretHash, Session, StoreError, Tx, User, transact,
};
use serde_json::{Value, json};

use super::login::check_password;
use crate::{
    audit::EventKind,
    call::Call,
    limits::{Standing, Window, address_key, rate_limit_headers},
    lockout::{self, Counter},
    mail::Notice,
    names::{self, InvalidName},
    opening::{device_hash, random},
    passwords::{Match, Violation},
    problem::{Failed, Problem},
};

/// What a mailed token is good for, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To show that one receives mail at an address.
    Verify,
    /// To set a new password.
    Reset,
    /// To set the first one, of an account that an administrator made.
    Invitation,
}

const HOUR_MS: i64 = 3_600_000;

impl Purpose {
    /// As it is kept. An invitation is a reset that waits longer.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Verify => "verify-email",
            Self::Reset | Self::Invitation => "reset-password",
        }
    }

    pub(super) const fn life_ms(self) -> i64 {
        match self {
            Self::Verify => 24 * HOUR_MS,
            Self::Reset => HOUR_MS,
            Self::Invitation => 7 * 24 * HOUR_MS,
        }
    }
}

/// Makes a token that is mailed to `address`, and is good only as long as that is the account's. 256 bits; only its hash is
/// kept.
pub(super) async fn mailed_token(
    tx: &mut Tx,
    call: &Call,
    user: &str,
    purpose: Purpose,
    address: &Folded,
    now: UnixMillis,
) -> Result<String, Failed> {
    let bytes: [u8; 32] = random()?;
    tx.insert_one_time_token(&NewOneTimeToken {
        policy: &call.policy.name,
        hash: SecretHash::of(&bytes),
        purpose: purpose.word(),
        user,
        content: &address.folded,
        created: now,
        expires: now.plus(purpose.life_ms()),
    })
    .await?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Takes from an account what somebody who had got hold of it may have left to come back by: another address that waits for its
/// link, with every link to it, and the devices that are known, but for one that is shown. The account is yet to be saved.
pub(crate) async fn shut_out(tx: &mut Tx, user: &mut User, but: Option<&SecretHash>) -> Result<(), StoreError> {
    user.pending_email = None;
    let present = user.email.as_ref().map_or("", |email| email.folded.as_str());
    tx.withdraw_other_one_time_tokens(&user.policy, &user.id, Purpose::Verify.word(), present).await?;
    tx.forget_devices(&user.policy, &user.id, but).await?;
    Ok(())
}

/// The hash of a mailed token; 401 when it can't be one.
pub(super) fn mailed_hash(text: &str) -> Result<SecretHash, Problem> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
    bytes.map(|bytes| SecretHash::of(&bytes)).ok_or_else(bad_link)
}

/// 401: a mailed token that is no good, whatever the reason.
pub(super) fn bad_link() -> Problem {
    Problem::invalid_token("the link is not good: it was used, is too old, or is not complete")
}

/// Puts a mail into the queue.
pub(super) fn post(call: &Call, to: &Folded, notice: Notice) -> Result<(), Problem> {
    call.issuer.parts.mailer.send(&call.login()?.sending, &to.written, notice);
    Ok(())
}

/// The issuer, in whose name links are.
pub(super) fn issuer_of(call: &Call) -> &str {
    call.policy.own.as_ref().map_or("", |own| own.issuer.as_str())
}

/// An e-mail address as it is kept.
pub(super) fn address(text: &str) -> Result<Folded, Problem> {
    let written = names::composed(text);
    let written = names::email(&written).map_err(|error| wrong("email", error))?;
    Ok(Folded { written: written.to_owned(), folded: names::folded(written) })
}

/// A user name as it is kept.
pub(super) fn username(text: &str) -> Result<Folded, Problem> {
    let written = names::username(text).map_err(|error| wrong("username", error))?;
    Ok(Folded { written: written.to_owned(), folded: names::folded(written) })
}

/// A first or last name; none when it is empty.
pub(crate) fn person(member: &str, text: Option<String>) -> Result<Option<String>, Problem> {
    let Some(text) = text else { return Ok(None) };
    let name = names::person(&text).map_err(|error| wrong(member, error))?;
    Ok(Some(name.to_owned()).filter(|name| !name.is_empty()))
}

fn wrong(member: &str, error: InvalidName) -> Problem {
    Problem::validation(format!("{member}: {error}"))
}

/// Roles as an account has them: in the order in which they were given, each once.
pub(crate) fn each_once(mut roles: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    roles.retain(|role| seen.insert(role.clone()));
    roles
}

/// 422 with every rule that a new password breaks.
pub(super) fn weak_password(violations: &[Violation]) -> Problem {
    let messages: Vec<String> = violations.iter().map(ToString::to_string).collect();
    let told: Vec<Value> =
        violations.iter().zip(&messages).map(|(one, message)| json!({"rule": one.rule(), "message": message})).collect();
    let detail = format!("the password is not good enough: {}", messages.join("; "));
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "weak_password", detail).with("violations", told)
}

/// Judges a new password by the rules that need no history. Costs nothing worth mentioning, and says the same of everybody's.
pub(super) fn judge_password(call: &Call, password: &str) -> Result<(), Problem> {
    let violations = call.login()?.rules.violations(password);
    if violations.is_empty() { Ok(()) } else { Err(weak_password(&violations)) }
}

/// Refuses a password that its account has, or had before within the policy's history.
pub(super) async fn judge_history(call: &Call, user: &User, held: Option<&Password>, password: &str) -> Result<(), Failed> {
    let history = call.login()?.settings.passwords.history;
    let Some(before) = history.checked_sub(1) else { return Ok(()) };
    let old = call.store().old_passwords(&call.policy.name, &user.id, before).await?;
    for hash in held.map(|held| &held.hash).into_iter().chain(&old) {
        let one = Password { hash: hash.clone(), changed: UnixMillis(0) };
        if check_password(call, Some(&one), password).await? != Match::No {
            let kept = usize::try_from(history).unwrap_or(usize::MAX);
            return Err(weak_password(&[Violation::UsedBefore(kept)]).into());
        }
    }
    Ok(())
}

/// Hashes a new password.
pub(super) async fn hashed(call: &Call, password: &str) -> Result<PasswordHash, Failed> {
    match call.issuer.parts.passwords.hash(password, call.login()?.cost).await {
        Ok(Ok(hash)) => Ok(PasswordHash::new(hash)),
        Ok(Err(error)) => Err(Problem::internal(&error).into()),
        Err(_) => Err(Problem::overloaded().into()),
    }
}

/// What to say when a password was set on one that had changed by then, or was rehashed: nothing was done, a link is still
/// good.
pub(super) fn changed_meanwhile(failed: Failed) -> Failed {
    match failed {
        Failed::Store(StoreError::Conflict(_)) => {
            Problem::unavailable("the password was changed at the same time; try again").into()
        }
        failed => failed,
    }
}

/// The password that an account's owner has shown, and what its failures are counted on.
pub(super) struct Shown {
    pub(super) password: Password,
    pub(super) counter: Counter,
}

/// Lets an account's owner show the password again. A wrong one counts as at a login: whoever holds a token must not find
/// the password by trying.
pub(super) async fn show_password(
    call: &Call,
    user: &User,
    session: &Session,
    password: &str,
    device_token: Option<&str>,
) -> Result<Shown, Failed> {
    // Each try costs hashing, a right one that is then refused for its history even more.
    let per_subject = call.login()?.settings.rate_limits.api.per_subject.as_ref();
    call.count([of_account("password-tries", &user.id, per_subject)]).await?;
    let (policy, store) = (&call.policy.name, call.store());
    let device = device_token.and_then(device_hash);
    let counter = Counter::of_login(call, Some(user), "", device.as_ref()).await?;
    let now = call.now().await?;
    if let Some(until) = counter.locked(store, policy, now).await? {
        return Err(lockout::locked(until, now).into());
    }
    let held = store.password(policy, &user.id).await?;
    let matched = check_password(call, held.as_ref(), password).await?;
    if let (Some(password), true) = (held, matched != Match::No) {
        return Ok(Shown { password, counter });
    }
    let settings = &call.login()?.settings.lockout;
    transact!(store, |tx| {
        tx.lock_subject(policy, &user.id).await?;
        let now = tx.database_now().await?;
        let event = call.event(EventKind::LoginFailed).subject(&user.id).session(&session.id);
        event.detail("reason", "current_password").write(tx, now).await?;
        counter.failed(tx, call, settings, now).await
    })?;
    Err(Problem::new(StatusCode::UNAUTHORIZED, "invalid_credentials", "the current password is wrong").into())
}

impl Shown {
    /// The account, held from here on, if what was shown still stands: the password is the same, and no failure has locked
    /// the counter meanwhile, so that of many guesses at once none counts beyond the one that locks.
    pub(super) async fn still(&self, tx: &mut Tx, call: &Call, user: &User, now: UnixMillis) -> Result<User, Failed> {
        let policy = &call.policy.name;
        if let Some(until) = self.counter.locked_in(tx, policy, now).await? {
            return Err(lockout::locked(until, now).into());
        }
        let password = tx.password(policy, &user.id).await?;
        let user = tx.user(policy, &user.id).await?;
        match (user, password) {
            (Some(user), Some(held)) if held.changed == self.password.changed => Ok(user),
            _ => Err(Problem::new(StatusCode::UNAUTHORIZED, "invalid_credentials", "the password was changed").into()),
        }
    }
}

/// A limit on one address' tries.
pub(super) fn of_address(call: &Call, what: &'static str, limit: Option<&EffectiveRateLimit>) -> Option<Window> {
    limit.map(|limit| window(what, address_key(call.client.ip), limit))
}

/// A limit on tries that concern one account, or what could be one.
pub(super) fn of_account(what: &'static str, key: &str, limit: Option<&EffectiveRateLimit>) -> Option<Window> {
    limit.map(|limit| window(what, key.to_owned(), limit))
}

fn window(what: &'static str, key: String, limit: &EffectiveRateLimit) -> Window {
    Window { what, key, limit: limit.limit, window_ms: limit.window.as_millis() }
}

/// Counts a try in silence; how the limits stand with it.
pub(super) async fn counted(
    call: &Call,
    windows: impl IntoIterator<Item = Option<Window>>,
) -> Result<Option<Standing>, StoreError> {
    let windows: Vec<Window> = windows.into_iter().flatten().collect();
    let now = call.now().await?;
    call.issuer.parts.limits.hit(&call.policy.name, &windows, now).await
}

/// An answer that nobody keeps, with how the limit stands.
pub(super) fn told(status: StatusCode, body: Value, standing: Option<&Standing>) -> Response {
    let mut answer = (status, [(header::CACHE_CONTROL, "no-store")], axum::Json(body)).into_response();
    if let Some(standing) = standing {
        rate_limit_headers(answer.headers_mut(), standing);
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mailed_page_shows_of_a_weak_password_what_the_answer_tells() {
        let script = include_str!("../mail/pages/page.js");
        let shown: Vec<&str> = script
            .split("told.violations.map((v) => v.")
            .skip(1)
            .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default())
            .collect();
        assert_eq!(shown.len(), 1, "{script}");
        let violations = weak_password(&[Violation::UsedBefore(2)]).into_members().remove("violations").unwrap();
        assert!(violations[0][shown[0]].as_str().is_some_and(|text| text.contains(' ')), "{shown:?} in {violations}");
    }

    #[test]
    fn a_mailed_token_is_read_at_exactly_its_length() {
        let text = URL_SAFE_NO_PAD.encode([7; 32]);
        assert_eq!(mailed_hash(&text), Ok(SecretHash::of(&[7; 32])));
        for wrong in
            [&text[..42], &format!("{text}A"), &format!("{text}="), "", "\0", &format!(" {text}"), &"A".repeat(9000)]
        {
            assert_eq!(mailed_hash(wrong), Err(bad_link()), "{wrong}");
        }
    }
}
