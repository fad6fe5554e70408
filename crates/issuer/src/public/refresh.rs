//! `POST /auth/refresh` and `POST /auth/logout`.

use std::time::Instant;

use axum::{
    Json,
    extract::{FromRequestParts as _, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use countersign_api::policy::{OnChange, OnLimit};
use countersign_core::time::UnixMillis;
use countersign_store::{Appended, Failure, RefreshToken, Session, StoreError, Tx, Use, Used, UserStatus, transact};
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{browser, ended, placed, rate_limits};
use crate::{
    audit::EventKind,
    bearer::Person,
    body::{Content, body_of},
    call::Call,
    cookies::Cookie,
    csrf,
    minter::{Grant, MintError},
    openapi::shapes,
    opening::{self, random, token_of},
    problem::{Failed, Problem},
    second_factor,
    serving::Issuer,
};

#[derive(Default, Deserialize, ToSchema)]
#[schema(as = RefreshRequest)]
struct Body {
    #[schema(required, nullable = false)]
    refresh_token: Option<String>,
}

/// Where a refresh token came from.
#[derive(Clone, Copy)]
pub(crate) enum By<'h> {
    /// Whoever has it, sent it.
    Body,
    /// The browser sent it, whoever made it ask: these headers must hold the session's CSRF token.
    Cookie(&'h HeaderMap),
}

/// A session that goes on.
pub(crate) struct Renewed {
    pub(crate) grant: Grant,
    pub(crate) token: RefreshToken,
}

/// What came of a refresh token, all of which is committed.
enum Outcome {
    Renewed(Box<Renewed>),
    /// Its session was over, or is now: what has ended, if anything.
    Refused(Option<Appended>),
}

#[utoipa::path(
    post,
    path = "/auth/refresh",
    tag = "sessions",
    summary = "Get the next tokens",
    description = "Each refresh token is good once, and again within the policy's grace; under `refreshRotation: \
        Never` it stays. In cookie mode the body is empty and the refresh cookie is read, beside `X-CSRF-Token`.",
    request_body = Option<Body>,
    responses(
        (status = 200, description = "The next tokens", body = shapes::people::Refreshed),
        (status = 401, description = "`invalid_refresh_token`: not to be tried again"),
        (status = 403, description = "`mfa_required`: the session comes from elsewhere, and goes on with a code; `csrf_failed`"),
        (status = 429, description = "Too many refreshes, or too many tokens that are none"),
    )
)]
pub(super) async fn refresh(call: Call, headers: HeaderMap, Content(bytes): Content) -> Result<Response, Failed> {
    call.login()?;
    let settings = browser::settings(&call);
    let body: Body = if bytes.is_empty() && settings.is_some() { Body::default() } else { body_of(&bytes)? };
    let of_cookie = settings.and_then(|settings| browser::shown(settings, &headers, Cookie::Refresh));
    let (text, cookies) = match (&body.refresh_token, of_cookie) {
        (Some(text), _) => (text.as_str(), None),
        (None, Some(text)) => (text, settings),
        (None, None) if bytes.is_empty() => return Err(invalid().into()),
        (None, None) => return Err(Problem::validation("refresh_token is missing").into()),
    };
    let by = if cookies.is_some() { By::Cookie(&headers) } else { By::Body };
    let Renewed { grant, token } = renew(&call, text, by).await?;
    let issued_at = grant.issued_at();
    let minted = grant.sign()?;
    let mut body = json!({
        "access_token": minted.token,
        "refresh_token": opening::refresh_text(&token),
        "token_type": "bearer",
        "expires_in": minted.expires_at.as_secs() - issued_at.as_secs(),
        "session_id": minted.session_id,
    });
    let cookies = match cookies {
        Some(settings) => browser::hide(&call, settings, &mut body)?,
        None => Vec::new(),
    };
    let mut answer = (StatusCode::OK, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response();
    browser::put(&mut answer, cookies);
    Ok(answer)
}

/// 401: not to be tried again.
fn invalid() -> Problem {
    let detail = "the refresh token is not good, or its session has ended";
    Problem::new(StatusCode::UNAUTHORIZED, "invalid_refresh_token", detail)
}

/// Why a use of a refresh token is undone: the token is as good as before.
enum Undone {
    Failed(Failed),
    /// A code is to be shown first.
    StepUp(Box<Session>),
}

impl<T: Into<Failed>> From<T> for Undone {
    fn from(failed: T) -> Self {
        Self::Failed(failed.into())
    }
}

impl Failure for Undone {
    fn of_store(&self) -> Option<&StoreError> {
        if let Self::Failed(failed) = self { failed.of_store() } else { None }
    }
}

/// Uses a refresh token.
pub(crate) async fn renew(call: &Call, text: &str, by: By<'_>) -> Result<Renewed, Failed> {
    let began = Instant::now();
    let renewed = try_renew(call, text, by).await;
    call.issuer.parts.metrics.refreshed(began.elapsed());
    renewed
}

async fn try_renew(call: &Call, text: &str, by: By<'_>) -> Result<Renewed, Failed> {
    let token = opening::refresh_token(text.trim());
    let held = match &token {
        Some(token) => call.store().refresh_standing(&call.policy.name, token).await?,
        None => None,
    };
    let (Some(token), Some(standing)) = (token, held) else {
        rate_limits::useless_refresh_token(call, Some("a refresh token that nobody was given")).await?;
        return Err(invalid().into());
    };
    // Not counted as its owner's: who kept the token of a session that is over, or that goes on with others, keeps nobody from
    // refreshing.
    if !standing.is_live(call.now().await?) {
        // One that has merely run out is nothing to tell of.
        let told = match (standing.session.ended, standing.ended) {
            (Some(_), _) => Some("a refresh token of a session that was ended"),
            (None, true) => Some("a refresh token that a code has put another in the place of"),
            (None, false) => None,
        };
        rate_limits::useless_refresh_token(call, told).await?;
        return Err(invalid().into());
    }
    let held = standing.session;
    if let By::Cookie(headers) = by
        && !csrf::holds(&call.issuer, &call.policy, &held.id, headers)
    {
        return Err(csrf::failed().into());
    }
    rate_limits::may_refresh(call, &held.subject).await?;
    let bits = random()?;
    let outcome = transact!(call.store(), Undone, |tx| {
        // Before the clock is read: what was committed while this waited is in the past.
        tx.lock_subject(&call.policy.name, &held.subject).await?;
        used(tx, call, &held.subject, &token, &bits).await
    });
    match outcome {
        Ok(Outcome::Renewed(renewed)) => Ok(*renewed),
        Ok(Outcome::Refused(Some(ended))) => Err(placed(invalid(), call.publish(ended).await).into()),
        Ok(Outcome::Refused(None)) => Err(invalid().into()),
        Err(Undone::StepUp(session)) => Err(step_up(call, &session, matches!(by, By::Cookie(_))).await?),
        Err(Undone::Failed(failed)) => Err(failed),
    }
}

/// Asks for a code before the session goes on: 403.
async fn step_up(call: &Call, session: &Session, cookies: bool) -> Result<Failed, Failed> {
    let policy = &call.policy.name;
    let asked = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(policy, &session.subject).await?;
        let now = tx.database_now().await?;
        let user = tx.user(policy, &session.subject).await?;
        let held = tx.session(policy, &session.id).await?.filter(|held| held.is_live(now));
        let (Some(user), Some(held)) = (user, held) else { return Err(invalid().into()) };
        let asked = second_factor::ask(tx, call, &held, cookies, now).await?;
        if asked.new {
            for change in changes(call, &held)? {
                change.tell(tx, call, &held, now).await?;
            }
        }
        Ok((asked.challenge, user))
    })?;
    let (challenge, user) = asked;
    let methods = second_factor::methods(call, &user).await?;
    let detail = "the session comes from elsewhere: it goes on with a code of the second factor";
    let problem = Problem::new(StatusCode::FORBIDDEN, "mfa_required", detail).fix("POST /auth/2fa/verify");
    Ok(problem.with("challenge_id", challenge).with("methods", methods).into())
}

async fn used(tx: &mut Tx, call: &Call, subject: &str, token: &RefreshToken, bits: &[u8; 32]) -> Result<Outcome, Undone> {
    let policy = &call.policy;
    let now = tx.database_now().await?;
    let ending = policy.ending(now, "refresh token used again");
    let using = Use {
        policy: &policy.name,
        subject,
        token,
        bits,
        grace_ms: policy.tokens.refresh_grace_ms,
        lifetime_ms: policy.tokens.refresh_ttl_ms,
        ending: &ending,
    };
    let (session, token) = match tx.use_refresh_token(&using).await? {
        Used::Unknown | Used::Over => return Ok(Outcome::Refused(None)),
        Used::Reused { session, ended } => {
            let event = call.event(EventKind::RefreshReuse).subject(&session.subject).session(&session.id);
            event.write(tx, now).await?;
            let why = Some(("reason", "refresh token used again"));
            call.tell_ended(tx, &session.subject, &ended, why, now).await?;
            return Ok(Outcome::Refused(Some(ended.revocations)));
        }
        Used::Renewed { session, token, .. } => (*session, token),
    };
    // Read again under the subject's lock: an account that was closed has no tokens, whatever became of its sessions.
    let user = tx.user(&policy.name, &session.subject).await?.filter(|user| user.status == UserStatus::Active);
    let Some(user) = user else { return Ok(end(tx, call, &session, now, "the account is closed").await?) };
    let changed = changes(call, &session)?;
    let strictest = |reaction| changed.iter().find(|change| change.reaction == reaction);
    let over = match (strictest(OnChange::Deny), strictest(OnChange::StepUp)) {
        (Some(deny), _) => Some(deny.reason),
        (None, Some(_)) if second_factor::is_on_in(tx, call, &user).await? => {
            return Err(Undone::StepUp(Box::new(session)));
        }
        // Nobody can be asked for a code: who must prove themselves anew logs in again.
        (None, step_up) => step_up.map(|change| change.reason),
    };
    for change in &changed {
        change.tell(tx, call, &session, now).await?;
    }
    if let Some(reason) = over {
        return Ok(end(tx, call, &session, now, reason).await?);
    }
    if !changed.is_empty() {
        let ip = call.client.ip.to_string();
        let agent = (call.client.user_agent.as_deref(), Some(call.client.device.as_str()));
        tx.session_client(&policy.name, &session.id, Some(&ip), agent, session.auth_time).await?;
    }
    // The session ends by what is written of its activity: not each time, unless somebody goes by which was seen last.
    let by_last_seen = call.login()?.settings.sessions.on_limit == OnLimit::EvictIdle;
    if by_last_seen {
        tx.session_used(&policy.name, &session.id, now).await?;
    }
    let written = by_last_seen || now.since(session.last_seen) >= session.seen_every_ms();
    let last_seen = if written { now } else { session.last_seen };
    let seen = Session { last_seen, ..session.clone() };
    match call.issuer.parts.minter.grant(tx, policy, &token_of(&user, &session), Some(seen.ends())).await {
        Ok(grant) => Ok(Outcome::Renewed(Box::new(Renewed { grant, token }))),
        // A cut-off since the login: the session is over, though nobody has said so of this one.
        Err(MintError::SessionEnded | MintError::Ended) => Ok(end(tx, call, &session, now, "revoked").await?),
        Err(error) => Err(error.into()),
    }
}

async fn end(tx: &mut Tx, call: &Call, session: &Session, now: UnixMillis, reason: &str) -> Result<Outcome, Failed> {
    let ended = tx.end_session(&call.policy.name, &session.id, &call.policy.ending(now, reason)).await?;
    let event = call.event(EventKind::SessionRevoked).subject(&session.subject).session(&session.id);
    event.detail("reason", reason).write(tx, now).await?;
    Ok(Outcome::Refused(ended.map(|ended| ended.revocations)))
}

/// An address or an agent that isn't what a session had, where the policy cares.
struct Change {
    kind: EventKind,
    reaction: OnChange,
    reason: &'static str,
    before: Option<String>,
}

fn changes(call: &Call, session: &Session) -> Result<Vec<Change>, Problem> {
    let binding = &call.login()?.settings.sessions.binding;
    let moved = session.ip.as_deref().is_some_and(|held| held != call.client.ip.to_string());
    let other = session.user_agent.is_some() && session.user_agent != call.client.user_agent;
    let moved = moved.then(|| Change {
        kind: EventKind::IpChange,
        reaction: binding.ip,
        reason: "address changed",
        before: session.ip.clone(),
    });
    let other = other.then(|| Change {
        kind: EventKind::DeviceChange,
        reaction: binding.device,
        reason: "device changed",
        before: session.user_agent.clone(),
    });
    Ok(moved.into_iter().chain(other).filter(|change| change.reaction != OnChange::Disabled).collect())
}

impl Change {
    async fn tell(&self, tx: &mut Tx, call: &Call, session: &Session, now: UnixMillis) -> Result<(), StoreError> {
        let event = call.event(self.kind).subject(&session.subject).session(&session.id);
        event.detail("before", self.before.clone()).write(tx, now).await
    }
}

#[utoipa::path(
    post,
    path = "/auth/logout",
    tag = "sessions",
    summary = "Log out",
    description = "The session, its access tokens and its refresh tokens are dead on every verifier once this says \
        200.",
    security(("bearer" = [])),
    responses(
        (status = 200, description = "What ended", body = shapes::Ended),
        (status = 202, description = "The same, while the feed is out of reach", body = shapes::Ended),
    )
)]
pub(super) async fn logout(State(issuer): State<Issuer>, request: Request) -> Result<Response, Failed> {
    let (mut parts, _) = request.into_parts();
    let (call, session) = match Person::from_request_parts(&mut parts, &issuer).await {
        Ok(Person { call, session, .. }) => (call, session),
        Err(Failed::Problem(problem)) if problem.status() == StatusCode::UNAUTHORIZED => {
            // A page whose access cookie has run out logs out by its refresh cookie.
            let call = Call::from_request_parts(&mut parts, &issuer).await?;
            let session = browser::by_refresh(&call, &parts.headers).await?.ok_or(Failed::Problem(problem))?;
            if !csrf::holds(&issuer, &call.policy, &session.id, &parts.headers) {
                return Err(csrf::failed().into());
            }
            (call, session)
        }
        Err(failed) => return Err(failed),
    };
    let appended = transact!(call.store(), |tx| {
        tx.lock_subject(&call.policy.name, &session.subject).await?;
        let now = tx.database_now().await?;
        let over = tx.end_session(&call.policy.name, &session.id, &call.policy.ending(now, "logout")).await?;
        if over.is_some() {
            let event = call.event(EventKind::SessionRevoked).subject(&session.subject).session(&session.id);
            event.detail("reason", "logout").write(tx, now).await?;
        }
        Ok(over.map(|over| over.revocations))
    })?;
    let mut answer = ended(&call, appended, 1).await?;
    browser::forget(&call, &mut answer);
    Ok(answer)
}
