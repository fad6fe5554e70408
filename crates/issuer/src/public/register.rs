//! `POST /auth/register`.

use axum::{http::StatusCode, response::Response};
use countersign_api::policy::{EmailVerification, RegistrationMode};
use countersign_core::time::UnixMillis;
use countersign_store::{Folded, PasswordHash, StoreError, User, UserStatus, transact};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::owner::{self, Purpose, address, hashed, issuer_of, judge_password, mailed_token, person, post, told, username};
use crate::{
    actor::Actor,
    audit::EventKind,
    bearer::Permitted,
    body::{Content, body_of},
    call::Call,
    mail::{Notice, reset_link, verification_link},
    minter::new_id,
    openapi::shapes,
    opening::user_json,
    problem::{Failed, Problem},
};

/// What lets somebody make accounts for others.
const ADMIN: &str = "countersign:admin";
/// What mails to an address that is taken are counted under.
const REPEATED: &str = "registration-mail";

#[derive(Deserialize, ToSchema)]
#[schema(as = RegisterRequest)]
pub(super) struct Body {
    #[schema(format = Email, example = "ada@shop.example")]
    email: String,
    /// By the rules of `login.passwords`.
    password: Option<String>,
    username: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
    /// Taken from administrators alone; from anybody else not even looked at.
    #[schema(ignore)]
    roles: Option<Value>,
    #[schema(ignore)]
    email_verified: Option<Value>,
}

/// What a registration came to.
enum Made {
    /// An account.
    Account,
    /// Nothing: another has the address. Who, unless they were quicker by a moment.
    AddressTaken(Option<Box<User>>),
    /// Nothing: another has the name.
    NameTaken,
}

#[utoipa::path(
    post,
    path = "/auth/register",
    tag = "accounts",
    summary = "Register",
    description = "Where addresses are verified first, one that is taken gets the same 201, and its owner a mail. With \
        a token that has `countersign:admin`: an account for somebody else, with `roles` and `email_verified`, and \
        without a password if they are to choose one.",
    request_body = Body,
    security((), ("bearer" = [])),
    responses(
        (status = 201, description = "The account", body = shapes::people::User),
        (status = 401, description = "`roles` or `email_verified` with a token that is no good any more"),
        (status = 403, description = "Accounts are made by invitation only, or by nobody; `csrf_failed`"),
        (status = 409, description = "`already_registered`: the name, or where addresses aren't verified the address"),
        (status = 429, description = "Too many tries"),
    )
)]
pub(super) async fn register(
    call: Call,
    caller: Result<Permitted, Failed>,
    Content(bytes): Content,
) -> Result<Response, Failed> {
    let admin = match caller {
        Ok(permitted) => Some(permitted).filter(|permitted| permitted.caller.require(ADMIN).is_ok()),
        // Who shows no token, or one that is no good any more, registers as anybody does.
        Err(Failed::Problem(problem)) if problem.status() == StatusCode::UNAUTHORIZED => {
            if !problem.is_of_nobody() && says_more(&bytes)? {
                return Err(Failed::Problem(problem));
            }
            None
        }
        // What can't be judged now may be an administrator's.
        Err(failed) => return Err(failed),
    };
    let actor = admin.map(|permitted| Actor::of(&permitted.caller.credential));
    create(Call { actor, ..call }, &bytes).await
}

/// Whether a body says what is taken from administrators alone. With a token that is no good any more, the account would be made
/// without it.
fn says_more(bytes: &axum::body::Bytes) -> Result<bool, Problem> {
    let body: Body = body_of(bytes)?;
    Ok(body.roles.is_some() || body.email_verified.is_some())
}

/// Makes an account: an administrator's word goes beyond what anybody may ask for.
pub(crate) async fn create(call: Call, bytes: &axum::body::Bytes) -> Result<Response, Failed> {
    let (login, admin) = (call.login()?, call.actor.is_some());
    let registration = &login.settings.registration;
    match registration.mode {
        RegistrationMode::Open => {}
        _ if admin => {}
        RegistrationMode::InviteOnly => return Err(Problem::forbidden("accounts are made by invitation only").into()),
        RegistrationMode::Closed => return Err(Problem::forbidden("registration is closed").into()),
    }
    let body: Body = body_of(bytes)?;
    let (user, password) = asked(&call, body, admin, call.now().await?)?;
    let per_address = login.settings.rate_limits.register.per_address.as_ref().filter(|_| !admin);
    let standing = call.count([owner::of_address(&call, "register", per_address)]).await?;
    // Before anything is looked up, and whatever comes of it: the work is the same.
    let hash = match &password {
        Some(password) => Some(hashed(&call, password).await?),
        None => None,
    };
    let discreet = registration.email_verification == EmailVerification::Required && !admin;
    // Counted for new addresses as well, which have room: what is written is the same.
    let room = if discreet { has_room(&call, &user).await? } else { true };
    match made(&call, &user, hash.as_ref()).await? {
        Made::Account => {}
        Made::NameTaken => return Err(Problem::already_registered("the user name").into()),
        // The caller learns nothing; the account's owner does.
        Made::AddressTaken(owner) if discreet => tell_owner(&call, &user, owner, room).await?,
        Made::AddressTaken(_) => return Err(Problem::already_registered("the e-mail address").into()),
    }
    Ok(told(StatusCode::CREATED, user_json(&call, &user, false), standing.as_ref()))
}

/// The account that is asked for. Its roles are the policy's, its state what the policy makes of new accounts: nothing of
/// either is taken from the caller, unless that is an administrator.
fn asked(call: &Call, body: Body, admin: bool, now: UnixMillis) -> Result<(User, Option<String>), Problem> {
    let registration = &call.login()?.settings.registration;
    let email = address(&body.email)?;
    let username = body.username.as_deref().map(username).transpose()?;
    let first_name = person("first_name", body.first_name)?;
    let last_name = person("last_name", body.last_name)?;
    match &body.password {
        Some(password) => judge_password(call, password)?,
        None if admin => {}
        None => return Err(Problem::validation("password is missing")),
    }
    let mut roles = registration.default_roles.clone();
    let mut verified = false;
    if admin {
        if let Some(given) = body.roles.filter(|given| !given.is_null()) {
            roles = known_roles(call, given)?;
        }
        verified = body.email_verified.as_ref().and_then(Value::as_bool).unwrap_or(false);
    }
    let pending = registration.email_verification == EmailVerification::Required && !verified;
    let user = User {
        policy: call.policy.name.clone(),
        id: new_id(),
        username,
        email: Some(email),
        pending_email: None,
        first_name,
        last_name,
        status: if pending { UserStatus::Pending } else { UserStatus::Active },
        status_reason: None,
        status_until: None,
        roles,
        email_verified: verified,
        created: now,
        last_login: None,
        password_changed: None,
        import_batch: None,
    };
    Ok((user, body.password))
}

fn known_roles(call: &Call, given: Value) -> Result<Vec<String>, Problem> {
    let roles: Vec<String> =
        serde_json::from_value(given).map_err(|_| Problem::validation("roles must be a list of strings"))?;
    match roles.iter().find(|role| !call.policy.roles.contains(role)) {
        Some(_) => Err(Problem::validation(format!("roles: the policy has {}", call.policy.roles.join(", ")))),
        None => Ok(owner::each_once(roles)),
    }
}

/// Makes the account, unless its name or address is another's. Names are looked at first: who asks for a taken one is told so
/// whatever the address.
async fn made(call: &Call, user: &User, hash: Option<&PasswordHash>) -> Result<Made, Failed> {
    let (policy, store) = (&call.policy.name, call.store());
    if let Some(name) = &user.username
        && store.user_by_name(policy, &name.folded).await?.is_some()
    {
        return Ok(Made::NameTaken);
    }
    if let Some(email) = &user.email
        && let Some(owner) = store.user_by_email(policy, &email.folded).await?
    {
        return Ok(Made::AddressTaken(Some(Box::new(owner))));
    }
    let kept = transact!(store, Failed, |tx| {
        let now = tx.database_now().await?;
        tx.insert_user(user).await?;
        if let Some(hash) = hash {
            tx.set_password(policy, &user.id, hash, None, 0, now).await?;
        }
        call.event(EventKind::UserCreated).subject(&user.id).write(tx, now).await?;
        let (Some(email), Some(purpose)) = (&user.email, purpose(call, user, hash)?) else { return Ok(None) };
        Ok(Some((email.clone(), purpose, mailed_token(tx, call, &user.id, purpose, email, now).await?)))
    });
    match kept {
        Ok(None) => Ok(Made::Account),
        Ok(Some((email, purpose, token))) => {
            greet(call, &email, purpose, &token)?;
            Ok(Made::Account)
        }
        // Somebody was quicker.
        Err(Failed::Store(StoreError::Taken("the e-mail address"))) => Ok(Made::AddressTaken(None)),
        Err(Failed::Store(StoreError::Taken("the name"))) => Ok(Made::NameTaken),
        Err(failed) => Err(failed),
    }
}

/// What the first mail to a new account is for, if there is one.
fn purpose(call: &Call, user: &User, hash: Option<&PasswordHash>) -> Result<Option<Purpose>, Problem> {
    let verification = call.login()?.settings.registration.email_verification;
    Ok(match (hash, user.email_verified, verification) {
        (None, ..) => Some(Purpose::Invitation),
        (_, true, _) | (_, _, EmailVerification::Disabled) => None,
        (_, false, EmailVerification::Required | EmailVerification::Optional) => Some(Purpose::Verify),
    })
}

fn greet(call: &Call, to: &Folded, purpose: Purpose, token: &str) -> Result<(), Problem> {
    let (mail, issuer) = (call.login()?.settings.mail.as_ref(), issuer_of(call));
    let valid_for_ms = purpose.life_ms();
    let notice = match purpose {
        Purpose::Verify => Notice::VerifyAddress { link: verification_link(mail, issuer, token), valid_for_ms },
        Purpose::Invitation => Notice::Invitation { link: reset_link(mail, issuer, token), valid_for_ms },
        Purpose::Reset => Notice::ResetPassword { link: reset_link(mail, issuer, token), valid_for_ms },
    };
    post(call, to, notice)
}

/// Whether one more mail may go to whoever has the address, should it be taken.
async fn has_room(call: &Call, user: &User) -> Result<bool, Failed> {
    let Some(email) = &user.email else { return Ok(true) };
    let limits = &call.login()?.settings.rate_limits.password_reset;
    let windows = [owner::of_account(REPEATED, &email.folded, limits.per_account.as_ref())];
    Ok(owner::counted(call, windows).await?.is_none_or(|standing| standing.allowed))
}

/// Tells whoever has the address that somebody else, or they themselves, registered with it: in one transaction, as a new
/// account takes, and to the address as its owner wrote it.
async fn tell_owner(call: &Call, asked: &User, owner: Option<Box<User>>, room: bool) -> Result<(), Failed> {
    let (policy, Some(email)) = (&call.policy.name, &asked.email) else { return Ok(()) };
    let owner = match owner {
        Some(owner) => Some(owner),
        None => call.store().user_by_email(policy, &email.folded).await?.map(Box::new),
    };
    transact!(call.store(), |tx| {
        let now = tx.database_now().await?;
        let event = call.event(EventKind::RegistrationRepeated);
        let event = match &owner {
            Some(owner) => event.subject(&owner.id),
            None => event,
        };
        event.write(tx, now).await
    })?;
    if let (Some(Some(to)), true) = (owner.map(|owner| owner.email), room) {
        post(call, &to, Notice::AlreadyRegistered)?;
    }
    Ok(())
}
