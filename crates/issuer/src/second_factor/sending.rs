//! Codes that are sent.

use countersign_store::{Folded, User, transact};

use super::{codes, in_use, proving::invalid_challenge};
use crate::{
    audit::EventKind,
    call::Call,
    limits::Window,
    lockout::{self, Counter},
    mail::Notice,
    opening::admitted,
    problem::{Failed, Problem},
    second_factor::Pending,
};

/// So many codes are sent for one account ...
const MAX_SENT: u32 = 5;
/// ... within so long a time, milliseconds: whoever knows a password can't flood its owner's mailbox.
const SENT_WINDOW_MS: i64 = 15 * 60_000;

/// Where an account's codes are mailed; absent when its address isn't verified, or no mail gets out.
pub(super) fn address<'u>(call: &Call, user: &'u User) -> Result<Option<&'u Folded>, Problem> {
    let works = call.issuer.parts.mailer.can_send(&call.login()?.sending);
    Ok(user.email.as_ref().filter(|_| works && user.email_verified))
}

/// Mails a code for a challenge, in the place of an earlier one. It shares the challenge's life and attempts.
pub(crate) async fn send(call: &Call, id: &str) -> Result<(), Failed> {
    let (policy, store) = (&call.policy.name, call.store());
    let challenge = store.challenge(policy, id).await?.ok_or_else(invalid_challenge)?;
    let pending = Pending::of(&challenge)?;
    let user = store.user(policy, &challenge.user).await?.ok_or_else(invalid_challenge)?;
    let to = address(call, &user)?.ok_or_else(|| Problem::validation("codes of this account can't be sent by e-mail"))?;
    let counter = Counter::of_login(call, Some(&user), "", pending.wishes.device_hash().as_ref()).await?;
    let now = call.now().await?;
    if challenge.expires <= now || challenge.completed.is_some() {
        return Err(invalid_challenge().into());
    }
    let window = Window { what: "second-factor-mail", key: user.id.clone(), limit: MAX_SENT, window_ms: SENT_WINDOW_MS };
    if let Some(standing) = call.issuer.parts.limits.hit(policy, &[window], now).await?
        && !standing.allowed
    {
        return Err(Problem::rate_limited(standing).into());
    }
    let (code, kept) = codes::code_to_send(call, id)?;
    let left_ms = transact!(store, Failed, |tx| {
        tx.lock_subject(policy, &user.id).await?;
        let now = tx.database_now().await?;
        if let Some(until) = counter.locked_in(tx, policy, now).await? {
            return Err(lockout::locked(until, now).into());
        }
        let held = tx.user(policy, &user.id).await?;
        // The address is the one that a code is mailed to, still.
        let same = held.and_then(|held| admitted(held, now)).is_some_and(|held| held.email == user.email);
        if !same || in_use(call, tx.totp(policy, &user.id).await?)?.is_none() || challenge.expires <= now {
            return Err(invalid_challenge().into());
        }
        tx.put_sent_code(policy, id, "email", &kept, challenge.expires).await?;
        call.event(EventKind::MfaChallenged).subject(&user.id).detail("channel", "email").write(tx, now).await?;
        Ok(challenge.expires.since(now))
    })?;
    let notice = Notice::SecondFactorCode { code, valid_for_ms: left_ms };
    call.issuer.parts.mailer.send(&call.login()?.sending, &to.written, notice);
    Ok(())
}
