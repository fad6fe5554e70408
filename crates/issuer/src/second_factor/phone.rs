//! An account's telephone number: set up by its owner soon after a login and by a code of the second factor, and good for codes
//! once one was shown that went to it. It is one more way to show a second factor for accounts that have an authenticator, and
//! none by itself.

use countersign_core::time::UnixMillis;
use countersign_store::{NumberProof, Session, StoreError, Tx, User, transact};

use super::{Code, are_on, codes, enrolment::shown, failed, is_on_in, not_locked, sending, still_live};
use crate::{
    audit::EventKind,
    call::Call,
    lockout::Counter,
    mail::Notice,
    problem::{Failed, Problem},
    sms,
};

/// How long a code for a number is good, milliseconds.
pub(crate) const LIFE_MS: i64 = 10 * 60_000;
/// How many codes are tried for one that was sent.
const MAX_ATTEMPTS: u32 = 5;

/// The number that an account's codes go to; absent where none was confirmed, or the policy sends none.
pub(crate) async fn number(call: &Call, user: &User) -> Result<Option<String>, Failed> {
    if !sms::works(call)? {
        return Ok(None);
    }
    Ok(call.store().phone(&user.policy, &user.id).await?)
}

/// A number as it is shown: its last two digits.
pub(crate) fn masked(number: &str) -> String {
    format!("\u{2026}{}", &number[number.len().saturating_sub(2)..])
}

/// Sends a code to a number that the account shall have, for a code of the second factor that is on. Whether that was right.
pub(crate) async fn begin(
    call: &Call,
    user: &User,
    session: &Session,
    number: &str,
    shown_code: &Code,
) -> Result<bool, Failed> {
    if !are_on(call)? || !sms::works(call)? {
        return Err(Problem::forbidden("this policy sends no codes by SMS").into());
    }
    if !sms::is_number(number) {
        return Err(Problem::validation("phone is a telephone number in the form +4915112345678").into());
    }
    // Its owner is told there when the number changes.
    if !user.email_verified || user.email.is_none() {
        return Err(Problem::forbidden("a telephone number needs an e-mail address that is verified").into());
    }
    let right = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&user.policy, &user.id).await?;
        let now = tx.database_now().await?;
        still_live(tx, session, now).await?;
        let counter = Counter::Account(user.id.clone());
        shown(tx, call, (&user.id, &counter), shown_code, "a number", now).await
    })?;
    if !right {
        return Ok(false);
    }
    sending::may_set_up(call, &user.id, number).await?;
    let (code, kept) = codes::code_for_number(call, &user.id)?;
    let now = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&user.policy, &user.id).await?;
        let now = tx.database_now().await?;
        still_live(tx, session, now).await?;
        tx.begin_phone(&user.policy, &user.id, number, &kept, now.plus(LIFE_MS)).await?;
        call.event(EventKind::MfaChallenged).subject(&user.id).detail("channel", "sms").write(tx, now).await?;
        Ok(now)
    })?;
    sending::text(call, number, None, (&code, LIFE_MS), now)?;
    Ok(true)
}

/// What came of a code for a number.
pub(crate) enum Proof {
    /// The number is the account's.
    Confirmed(String),
    /// It was wrong; so many more are taken.
    Wrong(u32),
}

/// Holds a code against the one that was sent. A wrong one is counted like a wrong password.
pub(crate) async fn confirm(call: &Call, user: &User, session: &Session, code: &Code) -> Result<Proof, Failed> {
    let (policy, counter) = (&user.policy, Counter::Account(user.id.clone()));
    let hashes = codes::number_hashes(call, &user.id, code);
    let proof = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(policy, &user.id).await?;
        let now = tx.database_now().await?;
        not_locked(tx, policy, &counter, now).await?;
        still_live(tx, session, now).await?;
        match tx.prove_phone(policy, &user.id, &hashes, MAX_ATTEMPTS, now).await? {
            NumberProof::Confirmed(number) => {
                let event = call.event(EventKind::PhoneChanged).subject(&user.id).session(&session.id);
                event.detail("phone", masked(&number)).write(tx, now).await?;
                Ok(Proof::Confirmed(number))
            }
            NumberProof::Wrong(left) => {
                failed(tx, call, &user.id, &counter, "phone", now).await?;
                Ok(Proof::Wrong(left))
            }
            NumberProof::Nothing => {
                let problem = Problem::forbidden("no number waits for a code, or not any more");
                Err(problem.fix("POST /auth/2fa/setup/sms").into())
            }
        }
    })?;
    if matches!(proof, Proof::Confirmed(_)) {
        sending::tell(call, user, Notice::PhoneChanged)?;
    }
    Ok(proof)
}

/// Takes an account's number away in a transaction that holds its owner, who has shown the password; with a code where a
/// second factor is on. Whether that was right.
pub(crate) async fn remove(
    tx: &mut Tx,
    call: &Call,
    user: &User,
    counter: &Counter,
    code: Option<&Code>,
    now: UnixMillis,
) -> Result<bool, Failed> {
    if is_on_in(tx, call, user).await? {
        let code = code.ok_or_else(|| Problem::validation("code is missing"))?;
        if !shown(tx, call, (&user.id, counter), code, "removal of a number", now).await? {
            return Ok(false);
        }
    }
    forget(tx, call, &user.id, now).await?;
    Ok(true)
}

/// Removes an account's number, and tells of it; who calls answers for the right to.
pub(super) async fn forget(tx: &mut Tx, call: &Call, user: &str, now: UnixMillis) -> Result<(), StoreError> {
    if tx.remove_phone(&call.policy.name, user).await? {
        call.event(EventKind::PhoneChanged).subject(user).detail("removed", true).write(tx, now).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_number_two_digits_are_shown() {
        for (number, expected) in [("+4915112345678", "\u{2026}78"), ("+1", "\u{2026}+1"), ("", "\u{2026}")] {
            assert_eq!(masked(number), expected);
        }
    }
}
