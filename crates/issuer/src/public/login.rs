//! `POST /auth/login`.

use std::collections::BTreeMap;

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use countersign_api::policy::{EffectiveLockout, EmailVerification};
use countersign_core::time::UnixMillis;
use countersign_store::{AtDoor, Candidate, FoundAtDoor, LoginName, Password, StoreError, User, UserStatus, transact};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    browser,
    door::{self, Tried},
    place,
};
use crate::{
    addresses::networks_around,
    audit::EventKind,
    body::{Content, body_of},
    call::{Call, Published},
    cookies::Cookie,
    lockout::{self, Counter},
    metrics::Login,
    names,
    openapi::shapes,
    opening::{self, Opened, Proven, Wishes},
    passwords::Match,
    problem::{Failed, Problem},
    second_factor::{self, Code},
};

/// The longest name that is looked up, bytes; no account's is longer.
const MAX_NAME: usize = 512;

/// The members that are read.
const MEMBERS: [&str; 8] =
    ["username", "email", "password", "mfa_code", "remember_me", "device_id", "device_token", "cookies"];

#[derive(Deserialize, ToSchema)]
#[schema(as = LoginRequest)]
pub(super) struct Body {
    /// A name or an e-mail address. This or `email`.
    #[schema(nullable = false, pattern = r"\S", example = "ada")]
    username: Option<String>,
    #[schema(nullable = false, pattern = r"\S", example = "ada@shop.example")]
    email: Option<String>,
    #[schema(example = "a password of hers")]
    password: String,
    /// Of the second factor, where it is known already.
    #[schema(nullable = false, pattern = "[0-9A-Za-z]", max_length = 64)]
    mfa_code: Option<String>,
    /// The longer life of `login.sessions.rememberMe`.
    #[schema(nullable = false)]
    remember_me: Option<bool>,
    /// What the client calls the device.
    #[schema(nullable = false, pattern = "^[ -~]{0,256}$")]
    device_id: Option<String>,
    /// What an earlier login there was given.
    #[schema(nullable = false)]
    device_token: Option<String>,
    /// Tokens as cookies; 422 where the policy has none.
    #[schema(nullable = false)]
    cookies: Option<bool>,
}

#[utoipa::path(
    post,
    path = "/auth/login",
    tag = "sessions",
    summary = "Log in",
    description = "By user name or e-mail address. A wrong name and a wrong password are one answer in the same time. \
        With `mfa_code`, a login with a second factor is one call; else it answers with a challenge.",
    request_body(content((Body = "application/json"), (Body = "application/x-www-form-urlencoded"))),
    responses(
        (status = 200, description = "Tokens, or what else is needed", body = shapes::people::LoginAnswer),
        (status = 202, description = "Tokens; verifiers hear later that another session ended for this one", body = shapes::people::Tokens),
        (status = 401, description = "`invalid_credentials`; with a right password and a wrong `mfa_code`, `invalid_code`"),
        (status = 403, description = "`account_disabled`, `email_unverified`, `not_rolled_out` (after a right password alone), `session_limit`, `address_blocked`; `csrf_failed`: a page of another origin asks for cookies"),
        (status = 423, description = "`account_locked`"),
        (status = 429, description = "Too many tries"),
    )
)]
pub(super) async fn login(call: Call, headers: HeaderMap, content: Content) -> Result<Response, Failed> {
    let answer = attempt(&call, headers, content).await;
    let turned_away = [StatusCode::FORBIDDEN, StatusCode::LOCKED, StatusCode::TOO_MANY_REQUESTS];
    match &answer {
        Err(failed) if failed.is("invalid_credentials") => call.issuer.parts.metrics.login(Login::Failure),
        Err(Failed::Problem(problem)) if turned_away.contains(&problem.status()) => {
            call.issuer.parts.metrics.login(Login::Refused);
        }
        _ => {}
    }
    answer
}

async fn attempt(call: &Call, headers: HeaderMap, Content(bytes): Content) -> Result<Response, Failed> {
    let login = call.login()?;
    let body: Body = form_or_json(&headers, &bytes)?;
    let given = [&body.username, &body.email].into_iter().flatten().map(|name| name.trim()).find(|name| !name.is_empty());
    let name = match given {
        Some(name) => names::folded(name),
        None => return Err(Problem::validation("username (a name or an e-mail address) or email is missing").into()),
    };
    let wants_cookies = body.cookies.unwrap_or(false);
    let cookies = if wants_cookies { Some(browser::may_want(call)?) } else { None };
    if wants_cookies {
        browser::may_be_given(call, &headers)?;
    }
    let of_cookie = cookies.and_then(|cookies| browser::shown(cookies, &headers, Cookie::Device)).map(str::to_owned);
    let wishes = Wishes {
        remember_me: body.remember_me.unwrap_or(false),
        device_id: label(body.device_id)?,
        cookies: wants_cookies,
        ..Wishes::default()
    }
    .shown(body.device_token.or(of_cookie));
    let code = body.mfa_code.filter(|code| !code.trim().is_empty());
    let code = code.as_deref().map(Code::parse).transpose()?;
    let policy = &call.policy.name;

    let (device, unknown) = (wishes.device_hash(), Counter::of_unknown(call, &name));
    let found = call
        .store()
        .at_door(&AtDoor {
            policy,
            name: looked_up_by(&name),
            device: device.as_ref(),
            unknown: &unknown,
            networks: &networks_around(call.client.ip),
        })
        .await?;
    let FoundAtDoor { now, blocked_until, tries_since, candidate } = found;
    door::open_to(blocked_until, now)?;
    let counter = Counter::of_candidate(&candidate, unknown, device);
    if let Some(until) = lockout::until(candidate.counter, now) {
        return Err(lockout::locked(until, now).into());
    }
    let Candidate { user, password, .. } = candidate;
    // The login that comes again with its code is the same login.
    let again = match &code {
        // Without an account nobody's, so that as much is looked up and time tells nothing.
        Some(code) => second_factor::is_again(call, user.as_ref().map_or("", |user| &user.id), code, now).await?,
        None => false,
    };
    let tried = Tried { name, since: tries_since };
    let reserved = if again { None } else { Some(door::may_try(call, &tried, now).await?) };
    let attempt = Attempt {
        name: &tried.name,
        shown: &body.password,
        counter: &counter,
        wishes: &wishes,
        code: code.as_ref(),
        lockout: &login.settings.lockout,
        now,
    };
    match (attempt.at(call, user.zip(password)).await, reserved) {
        // What a lock turns away was no try.
        (Err(Failed::Problem(problem)), Some(reserved)) if problem.status() == StatusCode::LOCKED => {
            call.issuer.parts.limits.take_back(policy, reserved).await?;
            Err(Failed::Problem(problem))
        }
        (answer, reserved) => {
            if let Some(standing) = reserved.and_then(|reserved| reserved.standing) {
                call.counted_by.note(standing);
            }
            answer
        }
    }
}

/// A login that may be tried.
struct Attempt<'a> {
    name: &'a str,
    shown: &'a str,
    counter: &'a Counter,
    wishes: &'a Wishes,
    code: Option<&'a Code>,
    lockout: &'a EffectiveLockout,
    now: UnixMillis,
}

impl Attempt<'_> {
    /// Tries it at an account, if there is one.
    async fn at(&self, call: &Call, found: Option<(User, Password)>) -> Result<Response, Failed> {
        let Self { counter, wishes, .. } = *self;
        let matched = check_password(call, found.as_ref().map(|(_, password)| password), self.shown).await?;
        let (Some((user, password)), true) = (found, matched != Match::No) else {
            return failed(call, counter, self.name, self.lockout).await;
        };
        if matched == Match::YesButOld {
            rehash(call, &user, &password, self.shown).await?;
        }
        may_log_in(call, &user, &password, self.now)?;
        let proven = Proven { user: &user, password: &password, amr: &["pwd"], counter, wishes };
        match transact!(call.store(), Failed, |tx| { second_factor::at_login(tx, call, &proven, self.code).await }) {
            Ok(step) => super::second_factor::step(call, &user, step).await,
            Err(failure) => Err(refused(call, &user, failure).await?),
        }
    }
}

/// Why a login didn't get its session. One that the session limit refused is told of, and is no failure of the person.
pub(super) async fn refused(call: &Call, user: &User, failure: Failed) -> Result<Failed, StoreError> {
    if failure.is("session_limit") {
        limit_refused(call, user).await?;
    }
    Ok(failure)
}

/// A body in JSON whatever its type says, or in a form's encoding where that is its type. An object in a body that is typed as a
/// form, as curl's `--data` types everything, is meant as JSON: a form that begins so has no member that is known here.
fn form_or_json<T: DeserializeOwned>(headers: &HeaderMap, bytes: &axum::body::Bytes) -> Result<T, Problem> {
    let typ = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let typ = typ.split(';').next().unwrap_or_default().trim();
    let form = typ.eq_ignore_ascii_case("application/x-www-form-urlencoded");
    if !form || bytes.trim_ascii_start().starts_with(b"{") {
        return body_of(bytes);
    }
    let mut members = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(bytes).filter(|(name, _)| MEMBERS.contains(&name.as_ref())) {
        let flag = matches!(name.as_ref(), "remember_me" | "cookies");
        let value = match flag.then(|| flag_of(&value)).flatten() {
            Some(flag) => Value::Bool(flag),
            None => Value::String(value.into_owned()),
        };
        if members.insert(name.into_owned(), value).is_some() {
            return Err(Problem::invalid_request("a member of the form stands twice"));
        }
    }
    let body = serde_json::to_vec(&members).map_err(|error| Problem::internal(&error))?;
    body_of(&body.into())
}

/// A flag as forms have it: boxes that are ticked say `on`, and Python writes capitals. None when it is no flag.
fn flag_of(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "on" | "yes" => Some(true),
        "false" | "0" | "off" | "no" | "" => Some(false),
        _ => None,
    }
}

/// A label of the client's own: shortened, never refused for its looks.
fn label(text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if text.len() > 256 || text.chars().any(char::is_control) => {
            Err(Problem::validation("device_id has at most 256 bytes and no control characters"))
        }
        text => Ok(text.filter(|text| !text.is_empty())),
    }
}

/// The account of a name or an address.
pub(crate) async fn account(call: &Call, folded: &str) -> Result<Option<User>, StoreError> {
    let (policy, store) = (&call.policy.name, call.store());
    match looked_up_by(folded) {
        LoginName::Email(address) => store.user_by_email(policy, address).await,
        LoginName::Name(name) => store.user_by_name(policy, name).await,
    }
}

/// What an account is looked up by: what can be no name by the empty one, which nobody has.
fn looked_up_by(folded: &str) -> LoginName<'_> {
    if folded.len() > MAX_NAME || folded.contains('\0') {
        LoginName::Name("")
    } else if folded.contains('@') {
        LoginName::Email(folded)
    } else {
        LoginName::Name(folded)
    }
}

/// Holds a password against what is kept; without that the same work is done in vain.
pub(super) async fn check_password(call: &Call, held: Option<&Password>, password: &str) -> Result<Match, Failed> {
    let cost = call.login()?.cost;
    let checked = call.issuer.parts.passwords.verify(password, held.map(|held| held.hash.as_str()), cost).await;
    match checked {
        Ok(Ok(matched)) => Ok(matched),
        Ok(Err(error)) => {
            tracing::warn!(policy = %call.policy.name, %error, "an account's password can't be checked");
            Ok(Match::No)
        }
        Err(_) => Err(Problem::overloaded().into()),
    }
}

/// Puts the present kind of hash in the place of an old one.
async fn rehash(call: &Call, user: &User, held: &Password, password: &str) -> Result<(), Failed> {
    // When too much is asked for the next login does it.
    let Ok(Ok(hash)) = call.issuer.parts.passwords.hash(password, call.login()?.cost).await else { return Ok(()) };
    let hash = countersign_store::PasswordHash::new(hash);
    transact!(call.store(), |tx| { tx.rehash_password(&call.policy.name, &user.id, &held.hash, &hash).await })?;
    Ok(())
}

async fn failed(call: &Call, counter: &Counter, name: &str, settings: &EffectiveLockout) -> Result<Response, Failed> {
    let subject = if let Counter::Account(id) = counter { Some(id.as_str()) } else { None };
    let hash = call.issuer.parts.secrets.short_hash("name", name);
    transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&call.policy.name, subject.unwrap_or(&hash)).await?;
        let now = tx.database_now().await?;
        // Whoever guessed right at the same moment is told the same.
        if let Some(until) = counter.locked_in(tx, &call.policy.name, now).await? {
            return Err(lockout::locked(until, now).into());
        }
        let mut event = call.event(EventKind::LoginFailed).detail("reason", "invalid_credentials");
        event = match subject {
            Some(id) => event.subject(id),
            None => event.detail("name", hash.as_str()),
        };
        event.write(tx, now).await?;
        Ok(counter.failed(tx, call, settings, now).await?)
    })?;
    door::failed(call).await?;
    Err(Problem::invalid_credentials().into())
}

/// What keeps an account out though its password was right.
fn may_log_in(call: &Call, user: &User, password: &Password, now: UnixMillis) -> Result<(), Problem> {
    let login = call.login()?;
    let refused = |code, detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, code, detail));
    lockout::closed(user, now)?;
    if user.status == UserStatus::Pending {
        return refused("email_unverified", "the e-mail address is not verified yet");
    }
    let unverified = !user.email_verified && user.email.is_some();
    if unverified && login.settings.registration.email_verification == EmailVerification::Required {
        return refused("email_unverified", "the e-mail address is not verified yet");
    }
    let names: Vec<&str> = [&user.username, &user.email].into_iter().flatten().map(|name| name.folded.as_str()).collect();
    if !login.rolled_out(&call.policy.name, &user.id, &names) {
        return refused("not_rolled_out", "this account logs in elsewhere still");
    }
    let max_age = login.settings.passwords.max_age.map(countersign_api::values::Duration::as_millis);
    if max_age.is_some_and(|age| password.changed.plus(age) <= now) {
        return Err(Problem::forbidden("the password is too old: it must be changed").fix("POST /auth/forgot-password"));
    }
    Ok(())
}

/// Tells of a login that was refused by the session limit.
async fn limit_refused(call: &Call, user: &User) -> Result<(), StoreError> {
    transact!(call.store(), |tx| {
        let now = tx.database_now().await?;
        call.event(EventKind::ConcurrentLimitExceeded).subject(&user.id).detail("refused", true).write(tx, now).await
    })
}

/// The tokens of a login.
pub(super) async fn answer(call: &Call, opened: Opened, mfa_enabled: bool) -> Result<Response, Failed> {
    let Opened { session, user, grant, refresh, device, cookies, ended } = opened;
    let published = call.publish(ended).await;
    let issued_at = grant.issued_at();
    let minted = grant.sign()?;
    let mut body = json!({
        "access_token": minted.token,
        "refresh_token": opening::refresh_text(&refresh),
        "token_type": "bearer",
        "expires_in": minted.expires_at.as_secs() - issued_at.as_secs(),
        "session_id": session.id,
        "device_token": device,
        "user": opening::user_json(call, &user, mfa_enabled),
    });
    // Sessions that ended for this one: the answer says whether verifiers have heard of it.
    let status = match published {
        Published::Nothing => StatusCode::OK,
        published => place(&mut body, published, StatusCode::OK),
    };
    // A policy that has no cookies any more, since the login began, answers as to everybody else.
    let cookies = match browser::settings(call).filter(|_| cookies) {
        Some(settings) => browser::hide(call, settings, &mut body)?,
        None => Vec::new(),
    };
    let mut answer = (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response();
    browser::put(&mut answer, cookies);
    Ok(answer)
}
