//! What mailed links do: `POST /auth/verify-email` and its `/resend`, `/auth/forgot-password`, `/auth/reset-password`.
//!
//! Who asks for a mail is told the same whether or not the address is an account's, after the same work: a row is written
//! either way, and mails leave later, from a queue.

use axum::{http::StatusCode, response::Response};
use countersign_core::{names::PolicyName, time::UnixMillis};
use countersign_store::{Folded, SecretHash, StoreError, TakenToken, Tx, User, UserStatus, transact};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{
    door, ended,
    login::account,
    owner::{
        self, Purpose, address, bad_link, changed_meanwhile, hashed, issuer_of, judge_history, judge_password, mailed_hash,
        mailed_token, post, shut_out, told,
    },
};
use crate::{
    audit::EventKind,
    body::{Content, body_of},
    call::Call,
    lockout,
    mail::{self, Notice, reset_link, verification_link},
    openapi::shapes,
    problem::{Failed, Problem},
};

#[derive(Deserialize, ToSchema)]
#[schema(as = MailedToken)]
struct Token {
    token: String,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = MailRequest)]
struct Address {
    #[schema(format = Email, example = "ada@shop.example")]
    email: String,
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ResetRequest)]
struct Reset {
    token: String,
    /// By the rules of `login.passwords`.
    new_password: String,
}

#[utoipa::path(
    get,
    path = "/auth/verify-email",
    tag = "accounts",
    summary = "The page behind a mailed link to verify an address",
    description = "Plain HTML with a button, so that scanners which follow links use nothing up.",
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
pub(super) async fn verification_page() -> Response {
    mail::verification_page()
}

#[utoipa::path(
    get,
    path = "/auth/reset-password",
    tag = "accounts",
    summary = "The page behind a mailed link to choose a new password",
    description = "Plain HTML with a form.",
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
pub(super) async fn reset_page() -> Response {
    mail::reset_page()
}

/// `POST /auth/verify-email`: the address that the token was mailed to is its owner's.
#[utoipa::path(
    post,
    path = "/auth/verify-email",
    tag = "accounts",
    summary = "Verify an e-mail address",
    description = "By the token that was mailed there. Not while an administrator keeps the account out.",
    request_body = Token,
    responses(
        (status = 200, description = "It is its owner's", body = shapes::people::EmailVerified),
        (status = 401, description = "`invalid_token`: not a good link, or not any more"),
        (status = 409, description = "`already_registered`: another account has it meanwhile"),
        (status = 429, description = "Too many links that were not good"),
    )
)]
pub(super) async fn verify(call: Call, Content(bytes): Content) -> Result<Response, Failed> {
    let login = call.login()?;
    let body: Token = body_of(&bytes)?;
    let hash = mailed_hash(&body.token)?;
    let (policy, word) = (&call.policy.name, Purpose::Verify.word());
    // Looked for first: what is no token writes nothing, and may be shown so often from one address.
    if call.store().one_time_token(policy, word, &hash, call.now().await?).await?.is_none() {
        let per_address = login.settings.rate_limits.password_reset.per_address.as_ref();
        call.count([owner::of_address(&call, "bad-link", per_address)]).await?;
        return Err(bad_link().into());
    }
    let before = transact!(call.store(), Failed, |tx| {
        let (taken, now) = used_up(tx, policy, word, &hash).await?;
        let user = tx.user(policy, &taken.user).await?;
        let user = user.filter(|user| lockout::closed(user, now).is_ok());
        let mut user = user.ok_or_else(bad_link)?;
        let is = |held: &Option<Folded>| held.as_ref().is_some_and(|held| held.folded == taken.content);
        let before = if is(&user.pending_email) {
            let pending = user.pending_email.take();
            std::mem::replace(&mut user.email, pending)
        } else if is(&user.email) {
            None
        } else {
            return Err(bad_link().into());
        };
        received_there(&mut user);
        tx.save_user(&user).await?;
        call.event(EventKind::EmailVerified).subject(&user.id).write(tx, now).await?;
        Ok(before)
    });
    let before = match before {
        // Whoever receives mail there has shown so: they may know whose it is.
        Err(Failed::Store(StoreError::Taken(_))) => return Err(Problem::already_registered("the e-mail address").into()),
        before => before?,
    };
    if let Some(before) = before {
        post(&call, &before, Notice::AddressChanged)?;
    }
    Ok(told(StatusCode::OK, json!({"email_verified": true}), None))
}

/// Takes what was mailed, which is no more, and holds its account. When that was.
async fn used_up(
    tx: &mut Tx,
    policy: &PolicyName,
    purpose: &str,
    hash: &SecretHash,
) -> Result<(TakenToken, UnixMillis), Failed> {
    let taken_at = tx.database_now().await?;
    let taken = tx.take_one_time_token(policy, purpose, hash, taken_at).await?.ok_or_else(bad_link)?;
    tx.lock_subject(policy, &taken.user).await?;
    Ok((taken, tx.database_now().await?))
}

/// Whoever used the link receives what is mailed to the account's address.
fn received_there(user: &mut User) {
    user.email_verified = true;
    if user.status == UserStatus::Pending {
        user.status = UserStatus::Active;
    }
}

/// Which mail is asked for.
#[derive(Clone, Copy)]
enum Asked {
    Verification,
    Reset,
}

/// `POST /auth/verify-email/resend`.
#[utoipa::path(
    post,
    path = "/auth/verify-email/resend",
    tag = "accounts",
    summary = "Have the verification mailed again",
    description = "The same answer whether or not there is such an account.",
    request_body = Address,
    responses(
        (status = 202, description = "On its way, if there is one", body = shapes::people::MailAsked),
        (status = 429, description = "Too many mails"),
    )
)]
pub(super) async fn resend(call: Call, Content(bytes): Content) -> Result<Response, Failed> {
    asked(&call, &bytes, Asked::Verification).await
}

/// `POST /auth/forgot-password`.
#[utoipa::path(
    post,
    path = "/auth/forgot-password",
    tag = "accounts",
    summary = "Have a link mailed to choose a new password",
    description = "The same answer whether or not there is such an account.",
    request_body = Address,
    responses(
        (status = 202, description = "On its way, if there is one", body = shapes::people::MailAsked),
        (status = 429, description = "Too many mails"),
    )
)]
pub(super) async fn forgot(call: Call, Content(bytes): Content) -> Result<Response, Failed> {
    asked(&call, &bytes, Asked::Reset).await
}

async fn asked(call: &Call, bytes: &axum::body::Bytes, asked: Asked) -> Result<Response, Failed> {
    let login = call.login()?;
    let body: Address = body_of(bytes)?;
    let typed = address(&body.email)?;
    let limits = &login.settings.rate_limits.password_reset;
    let (purpose, what, event, detail) = match asked {
        Asked::Verification => (
            Purpose::Verify,
            "verification-mail",
            EventKind::VerificationRequested,
            "if the address is an account's and not verified yet, a mail is on its way",
        ),
        Asked::Reset => (
            Purpose::Reset,
            "password-reset",
            EventKind::PasswordResetRequested,
            "if the address is an account's, a mail is on its way",
        ),
    };
    // By what was typed, so that it is the same whether or not it is an account's.
    let windows = [
        owner::of_account(what, &typed.folded, limits.per_account.as_ref()),
        owner::of_address(call, what, limits.per_address.as_ref()),
    ];
    let standing = call.count(windows).await?;
    let found = account(call, &typed.folded).await?.filter(|user| match asked {
        Asked::Verification => !user.email_verified && user.status != UserStatus::Disabled,
        Asked::Reset => user.status != UserStatus::Disabled,
    });
    let found: Option<(User, Folded)> = found.and_then(|user| user.email.clone().map(|email| (user, email)));
    let token = transact!(call.store(), Failed, |tx| {
        let now = tx.database_now().await?;
        let event = call.event(event);
        let (event, user, email) = match &found {
            Some((user, email)) => (event.subject(&user.id), user.id.as_str(), email),
            // Nobody's token is none, and costs as much.
            None => (event.detail("name", call.issuer.parts.secrets.short_hash("name", &typed.folded)), "", &typed),
        };
        event.write(tx, now).await?;
        mailed_token(tx, call, user, purpose, email, now).await
    })?;
    if let Some((_, to)) = found {
        let (mail, issuer, valid_for_ms) = (login.settings.mail.as_ref(), issuer_of(call), purpose.life_ms());
        let notice = match asked {
            Asked::Verification => Notice::VerifyAddress { link: verification_link(mail, issuer, &token), valid_for_ms },
            Asked::Reset => Notice::ResetPassword { link: reset_link(mail, issuer, &token), valid_for_ms },
        };
        // To the address as the account has it, never as it was typed: two that compare alike may be two mailboxes.
        post(call, &to, notice)?;
    }
    Ok(told(StatusCode::ACCEPTED, json!({"detail": detail}), standing.as_ref()))
}

/// `POST /auth/reset-password`: a new password for whoever received the mail. Every session ends, a lock from failures is
/// lifted, and the address is shown to be theirs.
#[utoipa::path(
    post,
    path = "/auth/reset-password",
    tag = "accounts",
    summary = "Choose a new password",
    description = "By the token that was mailed. Every session ends, a lock from failures is lifted, and neither an address that \
        waits for its link nor any known device stays.",
    request_body = Reset,
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
        (status = 401, description = "`invalid_token`: not a good link, or not any more"),
        (status = 429, description = "Too many tries"),
    )
)]
pub(super) async fn reset(call: Call, Content(bytes): Content) -> Result<Response, Failed> {
    let login = call.login()?;
    let body: Reset = body_of(&bytes)?;
    judge_password(&call, &body.new_password)?;
    let per_address = login.settings.rate_limits.password_reset.per_address.as_ref();
    call.count([owner::of_address(&call, "password-reset", per_address)]).await?;
    let (policy, store) = (&call.policy.name, call.store());
    let hash = mailed_hash(&body.token)?;
    let word = Purpose::Reset.word();
    // Looked at first: what is no token costs no hashing, and a password that was used before doesn't use the link up.
    let link = store.one_time_token(policy, word, &hash, call.now().await?).await?.ok_or_else(bad_link)?;
    let user = store.user(policy, &link.user).await?.ok_or_else(bad_link)?;
    let held = store.password(policy, &user.id).await?;
    judge_history(&call, &user, held.as_ref(), &body.new_password).await?;
    let new = hashed(&call, &body.new_password).await?;
    let over = transact!(store, Failed, |tx| {
        let (taken, now) = used_up(tx, policy, word, &hash).await?;
        let mut user = tx.user(policy, &taken.user).await?.ok_or_else(bad_link)?;
        // It went to an address that isn't the account's any more, or the account is closed.
        let theirs = user.email.as_ref().is_some_and(|email| email.folded == taken.content);
        if !theirs || user.status == UserStatus::Disabled {
            return Err(bad_link().into());
        }
        tx.set_password(policy, &user.id, &new, held.as_ref().map(|held| &held.hash), history(&call)?, now).await?;
        user.password_changed = Some(now);
        received_there(&mut user);
        // Those of its devices among them, as long as they are known.
        let unlocked = tx.clear_lockouts(policy, &user.id, now).await?;
        shut_out(tx, &mut user, None).await?;
        tx.save_user(&user).await?;
        tx.withdraw_one_time_tokens(policy, &user.id, word).await?;
        door::forget_tries(tx, &call, &user.id, now).await?;
        let over = tx.end_sessions(policy, &user.id, None, &call.policy.ending(now, "password reset")).await?;
        call.event(EventKind::PasswordReset).subject(&user.id).write(tx, now).await?;
        if unlocked {
            let event = call.event(EventKind::AccountUnlocked).subject(&user.id);
            event.detail("by", "password reset").write(tx, now).await?;
        }
        call.tell_ended(tx, &user.id, &over, Some(("reason", "password reset")), now).await?;
        Ok(over)
    })
    .map_err(changed_meanwhile)?;
    let count = over.sessions.len();
    ended(&call, Some(over.revocations), count).await
}

/// How many passwords are remembered.
pub(super) fn history(call: &Call) -> Result<u32, Problem> {
    Ok(call.login()?.settings.passwords.history)
}
