//! `users`: accounts, as administrators see and change them.

use axum::{Json, extract::Path, http::StatusCode, response::Response};
use countersign_core::time::UnixMillis;
use countersign_store::{Appended, Folded, Standing, Tx, User, UserFilter, UserStatus, transact};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{Content, OfQuery, administered::Administered, blocks::lift, body_of};
use crate::{
    addresses::{block_of, network_of},
    audit::EventKind,
    call::Call,
    closing::close,
    names,
    openapi::shapes,
    opening::user_json,
    problem::{Failed, Problem},
    public, second_factor,
};

/// Accounts of a page, unless asked otherwise, and at most.
const PAGE: u32 = 100;
const MAX_PAGE: u32 = 1000;
/// The longest reason, bytes.
const MAX_REASON: usize = 256;

/// The policy and the account that a path names.
#[derive(Deserialize)]
pub(super) struct OfUser {
    id: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    email: Option<String>,
    username: Option<String>,
    #[param(inline, value_type = Option<shapes::people::Status>)]
    status: Option<String>,
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// What the page before gave as `next_cursor`.
    cursor: Option<String>,
}

#[utoipa::path(
    get,
    path = "/users",
    tag = "administration",
    summary = "List accounts",
    params(Asked),
    security(("bearer" = [])),
    responses((status = 200, description = "A page", body = shapes::administration::Users))
)]
pub(super) async fn list(asking: Administered, OfQuery(asked): OfQuery<Asked>) -> Result<Json<Value>, Failed> {
    let call = asking.0;
    let (store, policy) = (call.store(), &call.policy.name);
    let status = asked.status.as_deref().map(status_of).transpose()?;
    let limit = asked.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::validation(format!("limit is 1 to {MAX_PAGE}")).into());
    }
    let is = |held: &Option<Folded>, asked: &Option<String>| {
        asked.as_ref().is_none_or(|asked| held.as_ref().is_some_and(|held| held.folded == *asked))
    };
    let folded = |asked: &Option<String>| asked.as_ref().map(|asked| names::folded(asked.trim()));
    let (email, name) = (folded(&asked.email), folded(&asked.username));
    let named = match (&email, &name) {
        (Some(email), _) => Some(store.user_by_email(policy, email).await?),
        (None, Some(name)) => Some(store.user_by_name(policy, name).await?),
        (None, None) => None,
    };
    let (users, next) = if let Some(found) = named {
        let fits = |user: &User| status.is_none_or(|s| s == user.status) && is(&user.username, &name);
        (found.into_iter().filter(fits).collect(), None)
    } else {
        let users = store.users(policy, &UserFilter { status, after: asked.cursor, limit }).await?;
        let next = users.last().filter(|_| users.len() >= limit as usize).map(|user: &User| user.id.clone());
        (users, next)
    };
    let ids: Vec<String> = users.iter().map(|user| user.id.clone()).collect();
    let standings = store.standings(policy, &ids).await?;
    let now = call.now().await?;
    let shown: Vec<Value> = users
        .iter()
        .map(|user| shown_whole(&call, user, &standings.get(&user.id).cloned().unwrap_or_default(), now))
        .collect::<Result<_, Problem>>()?;
    Ok(Json(json!({"users": shown, "next_cursor": next})))
}

fn status_of(word: &str) -> Result<UserStatus, Problem> {
    let known = UserStatus::ALL.into_iter().find(|status| status.word() == word);
    known.ok_or_else(|| Problem::validation("status is active, pending, disabled or locked"))
}

/// An account as administrators see it: with what its owner isn't shown.
async fn whole(call: &Call, user: &User) -> Result<Value, Failed> {
    let standings = call.store().standings(&call.policy.name, std::slice::from_ref(&user.id)).await?;
    let standing = standings.get(&user.id).cloned().unwrap_or_default();
    Ok(shown_whole(call, user, &standing, call.now().await?)?)
}

fn shown_whole(call: &Call, user: &User, standing: &Standing, now: UnixMillis) -> Result<Value, Problem> {
    let lockout = &standing.lockout;
    let mut shown = user_json(call, user, second_factor::are_on(call)? && standing.second_factor);
    shown["status_reason"] = json!(user.status_reason);
    shown["status_until"] = json!(user.status_until.map(UnixMillis::as_secs));
    shown["locked_until"] = json!(lockout.locked_until.filter(|until| *until > now).map(UnixMillis::as_secs));
    shown["failures"] = json!(lockout.failures);
    shown["import_batch"] = json!(user.import_batch);
    Ok(shown)
}

/// The account of an id, a name or an e-mail address.
pub(super) async fn found(call: &Call, id: &str) -> Result<User, Failed> {
    let user = match call.store().user(&call.policy.name, id).await? {
        Some(user) => Some(user),
        None => public::account(call, &names::folded(id.trim())).await?,
    };
    user.ok_or_else(|| Problem::not_found("there is no such account (by id, name or e-mail address)").into())
}

#[utoipa::path(
    get,
    path = "/users/{id}",
    tag = "administration",
    summary = "Show an account",
    security(("bearer" = [])),
    responses((status = 200, description = "The account", body = shapes::administration::WholeUser))
)]
pub(super) async fn get(asking: Administered, Path(of): Path<OfUser>) -> Result<Json<Value>, Failed> {
    let user = found(&asking.0, &of.id).await?;
    Ok(Json(whole(&asking.0, &user).await?))
}

#[utoipa::path(
    post,
    path = "/users",
    tag = "administration",
    summary = "Make an account",
    description = "Without a password, a mail invites the person to choose one.",
    request_body = shapes::administration::NewAccount,
    security(("bearer" = [])),
    responses(
        (status = 201, description = "The account", body = shapes::people::User),
        (status = 409, description = "`already_registered`"),
    )
)]
pub(super) async fn create(asking: Administered, Content(bytes): Content) -> Result<Response, Failed> {
    public::create_account(asking.0, &bytes).await
}

#[derive(Deserialize, ToSchema)]
#[schema(as = AccountChanges)]
struct Changes {
    status: Option<String>,
    roles: Option<Vec<String>>,
    first_name: Option<String>,
    last_name: Option<String>,
    email_verified: Option<bool>,
    reason: Option<String>,
}

#[utoipa::path(
    patch,
    path = "/users/{id}",
    tag = "administration",
    summary = "Change an account",
    description = "Disabling it, or taking a role away, ends its sessions, its API keys and every token issued up to \
        then.",
    request_body = Changes,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "The account as it is now", body = shapes::administration::ChangedUser),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::administration::ChangedUser),
    )
)]
pub(super) async fn change(
    asking: Administered,
    Path(of): Path<OfUser>,
    Content(bytes): Content,
) -> Result<Response, Failed> {
    let changes: Changes = body_of(&bytes)?;
    let call = &asking.0;
    let status = match changes.status.as_deref() {
        None => None,
        Some("active") => Some(UserStatus::Active),
        Some("disabled") => Some(UserStatus::Disabled),
        Some(_) => {
            return Err(Problem::validation("status is active or disabled; lock and unlock are calls of their own").into());
        }
    };
    if let Some(unknown) = changes.roles.iter().flatten().find(|role| !call.policy.roles.contains(role)) {
        let shown: String = unknown.chars().filter(|c| !c.is_control()).take(64).collect();
        return Err(Problem::validation(format!("roles: the policy has no role {shown}")).into());
    }
    let reason = reason(changes.reason)?;
    let first_name = public::person("first_name", changes.first_name.clone())?;
    let last_name = public::person("last_name", changes.last_name.clone())?;
    let id = found(call, &of.id).await?.id;
    let (user, ended) = transact!(call.store(), Failed, |tx| {
        let (mut user, now) = held(tx, call, &id).await?;
        let before = user.clone();
        if let Some(status) = status {
            (user.status, user.status_until) = (status, None);
            user.status_reason.clone_from(&reason);
        }
        if let Some(roles) = &changes.roles {
            user.roles = public::each_once(roles.clone());
        }
        if changes.first_name.is_some() {
            user.first_name.clone_from(&first_name);
        }
        if changes.last_name.is_some() {
            user.last_name.clone_from(&last_name);
        }
        user.email_verified = changes.email_verified.unwrap_or(user.email_verified);
        let closed = user.status == UserStatus::Disabled && before.status != UserStatus::Disabled;
        if closed {
            public::shut_out(tx, &mut user, None).await?;
        }
        tx.save_user(&user).await?;
        // What was issued says more than the account may any more: roles stand in tokens and API keys.
        let fewer = before.roles.iter().any(|role| !user.roles.contains(role));
        let ended = if closed || fewer {
            let why = if closed { "account disabled" } else { "roles taken away" };
            Some(close(tx, call, &id, why).await?)
        } else {
            None
        };
        let event = call.event(EventKind::UserUpdated).subject(&id).detail("by", "administrator");
        let event = event.detail("status", user.status.word()).detail("roles", json!(user.roles));
        event.detail("reason", reason.clone()).write(tx, now).await?;
        Ok((user, ended))
    })?;
    told(call, &user, ended).await
}

fn reason(text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if text.len() > MAX_REASON || text.chars().any(char::is_control) => {
            Err(Problem::validation(format!("reason has at most {MAX_REASON} bytes and no control characters")))
        }
        text => Ok(text),
    }
}

async fn held(tx: &mut Tx, call: &Call, id: &str) -> Result<(User, UnixMillis), Failed> {
    tx.lock_subject(&call.policy.name, id).await?;
    let user = tx.user(&call.policy.name, id).await?;
    let user = user.ok_or_else(|| Problem::not_found("there is no such account any more"))?;
    Ok((user, tx.database_now().await?))
}

async fn told(call: &Call, user: &User, ended: Option<Appended>) -> Result<Response, Failed> {
    let ended = ended.unwrap_or(Appended { ids: Vec::new(), merged: Vec::new() });
    Ok(public::told(call, StatusCode::OK, whole(call, user).await?, ended).await)
}

#[derive(Deserialize, ToSchema)]
#[schema(as = LockRequest)]
struct Lock {
    reason: String,
    until: Option<i64>,
}

#[utoipa::path(
    post,
    path = "/users/{id}/lock",
    tag = "administration",
    summary = "Lock an account",
    description = "Its sessions, its API keys and its tokens end.",
    request_body = Lock,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "The account as it is now", body = shapes::administration::ChangedUser),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::administration::ChangedUser),
    )
)]
pub(super) async fn lock(
    asking: Administered,
    Path(of): Path<OfUser>,
    Content(bytes): Content,
) -> Result<Response, Failed> {
    let body: Lock = body_of(&bytes)?;
    let call = &asking.0;
    let reason = reason(Some(body.reason))?;
    let until = body.until.map(UnixMillis::from_secs);
    let id = found(call, &of.id).await?.id;
    let (user, ended) = transact!(call.store(), Failed, |tx| {
        let (mut user, now) = held(tx, call, &id).await?;
        if until.is_some_and(|until| until <= now) {
            return Err(Problem::validation("until is in the past").into());
        }
        // A lock that ends would make it active.
        if matches!(user.status, UserStatus::Disabled | UserStatus::Pending) {
            let detail = format!("the account is {}: it can't log in anyway", user.status.word());
            return Err(Problem::validation(detail).into());
        }
        (user.status, user.status_until) = (UserStatus::Locked, until);
        user.status_reason.clone_from(&reason);
        public::shut_out(tx, &mut user, None).await?;
        tx.save_user(&user).await?;
        let ended = close(tx, call, &id, "account locked").await?;
        let event = call.event(EventKind::AccountLocked).subject(&id).detail("by", "administrator");
        event.detail("reason", reason.clone()).detail("until", until.map(UnixMillis::as_secs)).write(tx, now).await?;
        Ok((user, ended))
    })?;
    told(call, &user, Some(ended)).await
}

#[derive(Default, Deserialize, ToSchema)]
#[schema(as = UnlockRequest)]
struct Unlock {
    also_address: Option<String>,
}

/// Clears all that keeps a person out for a while, and says what it was.
#[utoipa::path(
    post,
    path = "/users/{id}/unlock",
    tag = "administration",
    summary = "Unlock an account",
    description = "Clears all that keeps a person out for a while, and says what it was.",
    request_body = Option<Unlock>,
    security(("bearer" = [])),
    responses((status = 200, description = "The account", body = shapes::administration::UnlockedUser))
)]
pub(super) async fn unlock(
    asking: Administered,
    Path(of): Path<OfUser>,
    Content(bytes): Content,
) -> Result<Json<Value>, Failed> {
    let body: Unlock = if bytes.is_empty() { Unlock::default() } else { body_of(&bytes)? };
    let call = &asking.0;
    let address = match &body.also_address {
        None => None,
        Some(text) => Some(text.parse().map_err(|_| Problem::validation("also_address is not an address"))?),
    };
    let user = found(call, &of.id).await?;
    let id = user.id.clone();
    let limited = match address {
        Some(address) => public::forget_address(call, &user, address).await?,
        None => false,
    };
    let (user, held_by, lifted) = transact!(call.store(), Failed, |tx| {
        let (mut user, now) = held(tx, call, &id).await?;
        let mut held_by = Vec::new();
        if tx.clear_lockouts(&call.policy.name, &id, now).await? {
            held_by.push("lockout".to_owned());
        }
        if user.status == UserStatus::Locked {
            held_by
                .push(format!("an administrator's lock: {}", user.status_reason.as_deref().unwrap_or("no reason given")));
            (user.status, user.status_reason, user.status_until) = (UserStatus::Active, None, None);
            tx.save_user(&user).await?;
        }
        let mut lifted = None;
        if let Some(address) = address {
            // The address' own block: one of a network around it keeps out others, too, and is lifted by its name.
            let network = block_of(address);
            lifted = lift(tx, call, &network, now).await?;
            if lifted.is_some() {
                held_by.push(format!("the block of {network}"));
            }
        }
        if limited {
            held_by.push("rate limit".to_owned());
        }
        public::forget_tries(tx, call, &id, now).await?;
        let event = call.event(EventKind::AccountUnlocked).subject(&id).detail("held_by", json!(held_by));
        event.write(tx, now).await?;
        Ok((user, held_by, lifted))
    })?;
    if let Some(lifted) = lifted {
        call.publish(lifted).await;
    }
    let mut shown = whole(call, &user).await?;
    shown["held_by"] = json!(held_by);
    Ok(Json(shown))
}

#[utoipa::path(
    post,
    path = "/users/{id}/reset-mfa",
    tag = "administration",
    summary = "Take an account's second factor away",
    description = "Its owner hears of it by mail.",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "The account as it is now", body = shapes::administration::ChangedUser),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::administration::ChangedUser),
    )
)]
pub(super) async fn reset_mfa(asking: Administered, Path(of): Path<OfUser>) -> Result<Response, Failed> {
    let call = &asking.0;
    let id = found(call, &of.id).await?.id;
    let (user, removed) = transact!(call.store(), Failed, |tx| {
        let (user, now) = held(tx, call, &id).await?;
        let removed = second_factor::remove(tx, call, &id, "reset by an administrator", now).await?;
        asking.action("reset second factor").subject(&id).write(tx, now).await?;
        Ok((user, removed))
    })?;
    if removed {
        second_factor::tell_removed(call, &user)?;
    }
    told(call, &user, None).await
}

#[utoipa::path(
    delete,
    path = "/users/{id}",
    tag = "administration",
    summary = "Erase an account",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "It is gone", body = shapes::administration::DeletedUser),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::administration::DeletedUser),
    )
)]
pub(super) async fn delete(asking: Administered, Path(of): Path<OfUser>) -> Result<Response, Failed> {
    let call = &asking.0;
    let id = found(call, &of.id).await?.id;
    let ended = transact!(call.store(), Failed, |tx| {
        let (_, now) = held(tx, call, &id).await?;
        let ended = close(tx, call, &id, "account deleted").await?;
        tx.delete_user(&call.policy.name, &id).await?;
        call.event(EventKind::UserDeleted).subject(&id).detail("by", "administrator").write(tx, now).await?;
        Ok(ended)
    })?;
    Ok(public::told(call, StatusCode::OK, json!({"deleted": id}), ended).await)
}

/// The network that a text names: an address' own, or one that is written as such.
pub(super) fn network(text: &str) -> Result<String, Problem> {
    network_of(text.trim())
        .map(|network| network.to_string())
        .ok_or_else(|| Problem::validation("an address or a network such as 203.0.113.0/24 is needed"))
}
