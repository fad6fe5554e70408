//! `/users/me`, and `POST /auth/change-password`.

use axum::{
    Json,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use countersign_api::policy::EmailVerification;
use countersign_core::time::UnixMillis;
use countersign_store::{Folded, StoreError, Tx, User, transact};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    browser, ended,
    mailed::history,
    owner::{
        self, Purpose, Shown, address, changed_meanwhile, hashed, issuer_of, judge_history, judge_password, mailed_token,
        person, post, show_password, shut_out, told, username,
    },
};
use crate::{
    audit::EventKind,
    bearer::{Permitted, Person},
    body::{Content, body_of},
    call::Call,
    closing,
    cookies::Cookie,
    mail::{Notice, verification_link},
    openapi::shapes,
    opening::{device_hash, user_json},
    problem::{Failed, Problem},
    second_factor,
};

/// The account that a token speaks for: a person's, or the owner's of an API key.
#[utoipa::path(
    get,
    path = "/users/me",
    tag = "accounts",
    summary = "One's own account",
    description = "Of an API key: its owner's.",
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "The account", body = shapes::people::User))
)]
pub(super) async fn me(permitted: Permitted) -> Result<Json<Value>, Failed> {
    let Permitted { call, caller } = permitted;
    call.login()?;
    let user = caller.user(&call).await?;
    let mfa_enabled = second_factor::is_on(&call, &user).await?;
    Ok(Json(user_json(&call, &user, mfa_enabled)))
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ProfileChanges)]
struct Changes {
    username: Option<String>,
    #[schema(format = Email)]
    email: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
}

/// What a changed address leads to.
enum Moved {
    /// Nothing: it isn't changed.
    Not,
    /// A mail to the new one, whose link makes it the account's.
    Pending(String),
    /// It is the account's at once; the old one is told.
    AtOnce(Option<Folded>),
}

#[utoipa::path(
    get,
    path = "/auth/me",
    tag = "accounts",
    summary = "One's own account, where many an existing client asks for it",
    description = "The same as `GET /users/me`.",
    security(("bearer" = []), ("api_key" = [])),
    responses((status = 200, description = "The account", body = shapes::people::User))
)]
pub(super) async fn me_for_clients(permitted: Permitted) -> Result<Json<Value>, Failed> {
    me(permitted).await
}

/// `PATCH /users/me`. What isn't named here can't be changed by its owner.
#[utoipa::path(
    patch,
    path = "/users/me",
    tag = "accounts",
    summary = "Change one's own account",
    description = "A changed address is pending until the link that was mailed there is used; the present one is told at once.",
    request_body = Changes,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "The account as it is now", body = shapes::people::User),
        (status = 409, description = "`already_registered`"),
    )
)]
pub(super) async fn change(Person { call, user, .. }: Person, Content(bytes): Content) -> Result<Response, Failed> {
    let body: Changes = body_of(&bytes)?;
    let name = body.username.as_deref().map(username).transpose()?;
    let email = body.email.as_deref().map(address).transpose()?;
    let (renamed, surnamed) = (body.first_name.is_some(), body.last_name.is_some());
    let first_name = person("first_name", body.first_name)?;
    let last_name = person("last_name", body.last_name)?;
    let policy = &call.policy.name;
    let elsewhere = email.as_ref().is_some_and(|new| user.email.as_ref().is_none_or(|held| held.folded != new.folded));
    let mut owner_of_new = None;
    if let (Some(new), true) = (&email, elsewhere) {
        let limits = &call.login()?.settings.rate_limits.password_reset;
        call.count([owner::of_account("address-change", &user.id, limits.per_account.as_ref())]).await?;
        owner_of_new = call.store().user_by_email(policy, &new.folded).await?.filter(|owner| owner.id != user.id);
    }
    let changed = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(policy, &user.id).await?;
        let now = tx.database_now().await?;
        let held = tx.user(policy, &user.id).await?;
        let mut user = held.ok_or_else(|| Problem::invalid_token("the account is gone"))?;
        let mut fields = Vec::new();
        if let Some(name) = &name {
            fields.push("username");
            user.username = Some(name.clone());
        }
        if renamed {
            fields.push("first_name");
            user.first_name.clone_from(&first_name);
        }
        if surnamed {
            fields.push("last_name");
            user.last_name.clone_from(&last_name);
        }
        let mut moved = Moved::Not;
        if let Some(new) = &email {
            fields.push("email");
            moved = move_to(tx, &call, &mut user, new, now).await?;
        }
        tx.save_user(&user).await?;
        call.event(EventKind::UserUpdated).subject(&user.id).detail("fields", fields).write(tx, now).await?;
        Ok((user, moved))
    });
    let (user, moved) = match changed {
        Err(Failed::Store(StoreError::Taken("the name"))) => {
            return Err(Problem::already_registered("the user name").into());
        }
        Err(Failed::Store(StoreError::Taken(_))) => return Err(Problem::already_registered("the e-mail address").into()),
        changed => changed?,
    };
    announce(&call, &user, email.as_ref(), owner_of_new, moved)?;
    let mfa_enabled = second_factor::is_on(&call, &user).await?;
    Ok(told(StatusCode::OK, user_json(&call, &user, mfa_enabled), None))
}

/// Another address: pending until its link is used, or the account's at once where nobody verifies any.
async fn move_to(tx: &mut Tx, call: &Call, user: &mut User, new: &Folded, now: UnixMillis) -> Result<Moved, Failed> {
    if user.email.as_ref().is_some_and(|held| held.folded == new.folded) {
        // Back to the present one: the other link is good for nothing any more.
        user.pending_email = None;
        return Ok(Moved::Not);
    }
    if call.login()?.settings.registration.email_verification == EmailVerification::Disabled {
        user.pending_email = None;
        user.email_verified = false;
        return Ok(Moved::AtOnce(user.email.replace(new.clone())));
    }
    // Whether it is another's shows in no answer: only its link can find out, and only its owner gets that.
    user.pending_email = Some(new.clone());
    let token = mailed_token(tx, call, &user.id, Purpose::Verify, new, now).await?;
    Ok(Moved::Pending(token))
}

/// The mails of a changed address.
fn announce(
    call: &Call,
    user: &User,
    new: Option<&Folded>,
    owner_of_new: Option<User>,
    moved: Moved,
) -> Result<(), Problem> {
    match (moved, new, owner_of_new.and_then(|owner| owner.email)) {
        (Moved::Pending(_), _, Some(taken)) => post(call, &taken, Notice::AlreadyRegistered)?,
        (Moved::Pending(token), Some(new), None) => {
            let link = verification_link(call.login()?.settings.mail.as_ref(), issuer_of(call), &token);
            post(call, new, Notice::ConfirmNewAddress { link, valid_for_ms: Purpose::Verify.life_ms() })?;
        }
        (Moved::AtOnce(Some(old)), ..) => return post(call, &old, Notice::AddressChanged),
        (Moved::AtOnce(None) | Moved::Not | Moved::Pending(_), ..) => return Ok(()),
    }
    // Whether or not another has the new one, which nobody is to learn here.
    user.email.as_ref().map_or(Ok(()), |present| post(call, present, Notice::AddressChangeAsked))
}

#[derive(Deserialize, ToSchema)]
#[schema(as = EraseRequest)]
struct Farewell {
    password: String,
    device_token: Option<String>,
}

/// `DELETE /users/me`: the account and everything that was issued for it.
#[utoipa::path(
    delete,
    path = "/users/me",
    tag = "accounts",
    summary = "Erase one's own account",
    description = "With its sessions, its API keys and everything that was issued for it.",
    request_body = Farewell,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
        (status = 401, description = "`invalid_credentials`, or no good credential"),
        (status = 423, description = "`account_locked`"),
    )
)]
pub(super) async fn erase(Person { call, user, session }: Person, Content(bytes): Content) -> Result<Response, Failed> {
    let body: Farewell = body_of(&bytes)?;
    let shown = show_password(&call, &user, &session, &body.password, body.device_token.as_deref()).await?;
    let policy = &call.policy;
    let over = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&policy.name, &user.id).await?;
        let now = tx.database_now().await?;
        let user = shown.still(tx, &call, &user, now).await?;
        let over = closing::close(tx, &call, &user.id, "account erased").await?;
        tx.clear_lockouts(&policy.name, &user.id, now).await?;
        tx.delete_user(&policy.name, &user.id).await?;
        call.event(EventKind::UserDeleted).subject(&user.id).session(&session.id).write(tx, now).await?;
        Ok(over)
    })?;
    ended(&call, Some(over), 1).await
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ChangePasswordRequest)]
struct PasswordChange {
    current_password: String,
    new_password: String,
    /// The new password again.
    confirm_password: String,
    device_token: Option<String>,
}

/// `POST /auth/change-password`. The owner's other sessions end.
#[utoipa::path(
    post,
    path = "/auth/change-password",
    tag = "accounts",
    summary = "Change one's own password",
    description = "One's other sessions end; an address that waits for its link is withdrawn, and devices are forgotten, but \
        for the one whose `device_token`, or cookie, is shown.",
    request_body = PasswordChange,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
        (status = 401, description = "`invalid_credentials`, or no good credential"),
        (status = 503, description = "It was changed at the same time, or too much is asked for"),
        (status = 423, description = "`account_locked`"),
    )
)]
pub(super) async fn change_password(
    Person { call, user, session }: Person,
    headers: HeaderMap,
    Content(bytes): Content,
) -> Result<Response, Failed> {
    let body: PasswordChange = body_of(&bytes)?;
    if body.confirm_password != body.new_password {
        return Err(Problem::validation("confirm_password is not the same as new_password").into());
    }
    judge_password(&call, &body.new_password)?;
    let of_cookie = || browser::settings(&call).and_then(|cookies| browser::shown(cookies, &headers, Cookie::Device));
    let device_token = body.device_token.as_deref().or_else(of_cookie);
    let device = device_token.and_then(device_hash);
    let shown = show_password(&call, &user, &session, &body.current_password, device_token).await?;
    judge_history(&call, &user, Some(&shown.password), &body.new_password).await?;
    let new = hashed(&call, &body.new_password).await?;
    let (policy, Shown { password: old, counter }) = (&call.policy, &shown);
    let over = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&policy.name, &user.id).await?;
        let now = tx.database_now().await?;
        let mut user = shown.still(tx, &call, &user, now).await?;
        tx.set_password(&policy.name, &user.id, &new, Some(&old.hash), history(&call)?, now).await?;
        counter.clear(tx, &policy.name, now).await?;
        user.password_changed = Some(now);
        shut_out(tx, &mut user, device.as_ref()).await?;
        tx.save_user(&user).await?;
        tx.withdraw_one_time_tokens(&policy.name, &user.id, Purpose::Reset.word()).await?;
        let ending = policy.ending(now, "password changed");
        let over = tx.end_sessions(&policy.name, &user.id, Some(&session.id), &ending).await?;
        call.event(EventKind::PasswordChanged).subject(&user.id).session(&session.id).write(tx, now).await?;
        call.tell_ended(tx, &user.id, &over, Some(("reason", "password changed")), now).await?;
        Ok(over)
    })
    .map_err(changed_meanwhile)?;
    let count = over.sessions.len();
    ended(&call, Some(over.revocations), count).await
}
