//! Codes that are sent.

use countersign_core::time::UnixMillis;
use countersign_store::{Folded, User, transact};

use super::{codes, in_use, not_locked, phone, proving::invalid_challenge};
use crate::{
    audit::EventKind,
    call::Call,
    limits::{Window, address_key},
    lockout::{self, Counter},
    mail::Notice,
    opening::admitted,
    problem::{Failed, Problem},
    second_factor::Pending,
    sms,
};

/// So many codes are sent for one account, or to one number ...
const MAX_SENT: u32 = 5;
/// ... within so long a time, milliseconds: whoever knows a password can't flood its owner's mailbox.
const SENT_WINDOW_MS: i64 = 15 * 60_000;
/// So many codes to log in with are sent to one number in a day.
const MAX_SMS_TO_NUMBER: u32 = 20;
/// So many messages go to one number, and are asked for by one account, that shall be confirmed: whoever doesn't own a number
/// can't bother its owner, nor keep them from the codes that they need. In a day, milliseconds.
const MAX_TO_UNCONFIRMED: u32 = 5;
const MAX_SETUPS: u32 = 20;
const DAY_MS: i64 = 24 * 3_600_000;
/// So many messages by SMS are caused from one address, whatever the accounts, in so long a time: each costs money.
const MAX_SMS_BY_ADDRESS: u32 = 20;
const SMS_ADDRESS_WINDOW_MS: i64 = 3_600_000;
/// So many messages by SMS one policy sends in a day, whoever causes them.
const MAX_SMS_BY_POLICY: u32 = 1_000;

/// By what a code is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// By mail, to the account's verified address.
    Email,
    /// By SMS, to the account's confirmed number.
    Sms,
}

impl Channel {
    /// The contract's word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
        }
    }

    /// The channel of a word.
    pub(crate) fn of(word: &str) -> Option<Self> {
        [Self::Email, Self::Sms].into_iter().find(|channel| channel.word() == word)
    }
}

/// Where an account's codes are mailed; absent when its address isn't verified, or no mail gets out.
pub(super) fn address<'u>(call: &Call, user: &'u User) -> Result<Option<&'u Folded>, Problem> {
    let works = call.issuer.parts.mailer.can_send(&call.login()?.sending);
    Ok(user.email.as_ref().filter(|_| works && user.email_verified))
}

/// Mails an account's owner what became of its second factor, where codes would be mailed.
pub(super) fn tell(call: &Call, user: &User, notice: Notice) -> Result<(), Problem> {
    if let Some(address) = address(call, user)? {
        call.issuer.parts.mailer.send(&call.login()?.sending, &address.written, notice);
    }
    Ok(())
}

/// Where a code goes.
enum Goal {
    Email(String),
    Sms(String),
}

async fn goal(call: &Call, user: &User, channel: Channel) -> Result<Goal, Failed> {
    let found = match channel {
        Channel::Email => address(call, user)?.map(|to| Goal::Email(to.written.clone())),
        Channel::Sms => phone::number(call, user).await?.map(Goal::Sms),
    };
    let none = || Problem::validation(format!("codes of this account can't be sent by {}", channel.word()));
    Ok(found.ok_or_else(none)?)
}

/// Sends a code for a challenge, in the place of an earlier one by that channel. It shares the challenge's life and attempts.
pub(crate) async fn send(call: &Call, id: &str, channel: Channel) -> Result<(), Failed> {
    let (policy, store) = (&call.policy.name, call.store());
    let challenge = store.challenge(policy, id).await?.ok_or_else(invalid_challenge)?;
    let pending = Pending::of(&challenge)?;
    let user = store.user(policy, &challenge.user).await?.ok_or_else(invalid_challenge)?;
    let goal = goal(call, &user, channel).await?;
    let counter = Counter::of_login(call, Some(&user), "", pending.wishes.device_hash().as_ref()).await?;
    let now = call.now().await?;
    if challenge.expires <= now || challenge.completed.is_some() {
        return Err(invalid_challenge().into());
    }
    match &goal {
        Goal::Email(_) => {
            let key = user.id.clone();
            let window = Window { what: "second-factor-mail", key, limit: MAX_SENT, window_ms: SENT_WINDOW_MS };
            call.count([Some(window)]).await?;
        }
        Goal::Sms(number) => {
            let window = Window { what: "sms-code", key: number.clone(), limit: MAX_SENT, window_ms: SENT_WINDOW_MS };
            may_text(call, [window, of_day("sms-code-day", number, MAX_SMS_TO_NUMBER)]).await?;
        }
    }
    let (code, kept) = codes::code_to_send(call, id)?;
    let left_ms = transact!(store, Failed, |tx| {
        tx.lock_subject(policy, &user.id).await?;
        let now = tx.database_now().await?;
        not_locked(tx, policy, &counter, now).await?;
        let held = tx.user(policy, &user.id).await?.ok_or_else(invalid_challenge)?;
        lockout::closed(&held, now)?;
        let held = admitted(held, now);
        // The address, or the number, is the one that a code goes to, still.
        let same = match (&goal, held) {
            (_, None) => false,
            (Goal::Email(_), Some(held)) => held.email == user.email,
            (Goal::Sms(number), Some(_)) => tx.phone(policy, &user.id).await?.as_ref() == Some(number),
        };
        if !same || in_use(call, tx.totp(policy, &user.id).await?)?.is_none() || challenge.expires <= now {
            return Err(invalid_challenge().into());
        }
        tx.put_sent_code(policy, id, channel.word(), &kept, challenge.expires).await?;
        call.event(EventKind::MfaChallenged).subject(&user.id).detail("channel", channel.word()).write(tx, now).await?;
        Ok(challenge.expires.since(now))
    })?;
    match goal {
        Goal::Email(to) => {
            let notice = Notice::SecondFactorCode { code, valid_for_ms: left_ms };
            call.issuer.parts.mailer.send(&call.login()?.sending, &to, notice);
        }
        Goal::Sms(number) => text(call, &number, Some(id), (&code, left_ms), now)?,
    }
    Ok(())
}

/// Counts a message to a number that isn't confirmed, or refuses it with 429.
pub(super) async fn may_set_up(call: &Call, user: &str, number: &str) -> Result<(), Failed> {
    may_text(call, [of_day("sms-unconfirmed", number, MAX_TO_UNCONFIRMED), of_day("sms-setup", user, MAX_SETUPS)]).await
}

fn of_day(what: &'static str, key: &str, limit: u32) -> Window {
    Window { what, key: key.to_owned(), limit, window_ms: DAY_MS }
}

/// Counts a message by SMS, or refuses it with 429: by these limits, by the address' and by the policy's.
async fn may_text(call: &Call, windows: [Window; 2]) -> Result<(), Failed> {
    let of_policy = of_day("sms-policy", "", MAX_SMS_BY_POLICY);
    let all = windows.into_iter().chain([texts_by_address(call), of_policy.clone()]);
    let counted = call.count(all.map(Some)).await;
    if counted.is_err() {
        let (policy, now) = (&call.policy.name, call.now().await?);
        let standing = call.issuer.parts.limits.peek(policy, &[of_policy], now).await?;
        if standing.is_some_and(|standing| !standing.allowed) {
            tracing::warn!(%policy, limit = MAX_SMS_BY_POLICY, "no more codes by SMS today: the policy's bound is reached");
        }
    }
    counted.map(|_| ())
}

fn texts_by_address(call: &Call) -> Window {
    let key = address_key(call.client.ip);
    Window { what: "sms-address", key, limit: MAX_SMS_BY_ADDRESS, window_ms: SMS_ADDRESS_WINDOW_MS }
}

/// Has a code sent to a number. Nothing in it was typed by whoever asked for it.
pub(super) fn text(
    call: &Call,
    number: &str,
    challenge: Option<&str>,
    (code, life_ms): (&str, i64),
    now: UnixMillis,
) -> Result<(), Problem> {
    let minutes = (life_ms / 60_000).max(1);
    let name = &call.login()?.totp.issuer_name;
    let text = format!("{code} is your code for {name}. It works for {minutes} min. Tell it to nobody.");
    sms::send(call, &sms::Message { to: number, text, challenge }, now)
}
