//! `/auth/2fa`: codes of a login, and setting second factors up.

pub(super) mod phone;

use axum::{
    Json,
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use countersign_store::{Session, User, transact};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{browser, door, login, owner::show_password};
use crate::{
    bearer::{self, Person},
    body::{Content, body_of},
    call::Call,
    metrics::Login,
    openapi::shapes,
    problem::{Failed, Problem},
    second_factor::{self, By, Channel, Code, FRESH_MS, Shown, Step},
    serving::Issuer,
};

/// Nothing of this kind stays in a cache.
const NO_STORE: [(header::HeaderName, &str); 1] = [(header::CACHE_CONTROL, "no-store")];

fn answer(body: Value) -> Response {
    (StatusCode::OK, NO_STORE, Json(body)).into_response()
}

fn invalid_code() -> Problem {
    let detail = "the code is wrong, or was used";
    Problem::new(StatusCode::UNAUTHORIZED, "invalid_code", detail)
}

/// What a login is answered with, by how far it has come.
pub(super) async fn step(call: &Call, user: &User, step: Step) -> Result<Response, Failed> {
    let metrics = &call.issuer.parts.metrics;
    match step {
        Step::Opened { opened, second_factor } => {
            // A session that goes on with a code gets no secret for its device: nobody logged in.
            if opened.device.is_some() {
                metrics.login(Login::Success);
            }
            login::answer(call, *opened, second_factor).await
        }
        Step::Challenged { challenge } => {
            metrics.challenged();
            Ok(answer(json!({
                "requires_2fa": true,
                "challenge_id": challenge,
                "methods": second_factor::methods(call, user).await?,
                "expires_in": call.login()?.settings.mfa.challenge_ttl.as_millis() / 1000,
            })))
        }
        Step::SetUp { token } => Ok(answer(json!({
            "requires_2fa_setup": true,
            "setup_token": token,
            "expires_in": FRESH_MS / 1000,
        }))),
        Step::Wrong { left } => {
            metrics.login(Login::Failure);
            door::failed(call).await?;
            let problem = invalid_code();
            Err(left.map_or(problem.clone(), |left| problem.with("attempts_left", left)).into())
        }
    }
}

#[derive(Deserialize, ToSchema)]
#[schema(as = ChallengeAnswer)]
struct Answered {
    challenge_id: String,
    #[schema(pattern = "[0-9A-Za-z]", max_length = 64, example = "123456")]
    code: String,
}

#[utoipa::path(
    post,
    path = "/auth/2fa/verify",
    tag = "second factor",
    summary = "Answer a challenge",
    description = "With the code of an authenticator, a backup code, or one that was sent.",
    request_body = Answered,
    responses(
        (status = 200, description = "Tokens", body = shapes::people::LoginAnswer),
        (status = 202, description = "Tokens; verifiers hear later that another session ended for this one", body = shapes::people::Tokens),
        (status = 401, description = "`invalid_code` or `invalid_challenge`"),
        (status = 403, description = "`session_limit`, `address_blocked`, `account_disabled`; `csrf_failed`: a page of another origin asks for cookies"),
        (status = 423, description = "`account_locked`"),
    )
)]
pub(super) async fn verify(call: Call, headers: HeaderMap, Content(bytes): Content) -> Result<Response, Failed> {
    call.login()?;
    let body: Answered = body_of(&bytes)?;
    let code = Code::parse(&body.code)?;
    door::not_blocked(&call, call.now().await?).await?;
    let cookies = browser::may_be_given(&call, &headers);
    let (user, done) = second_factor::verify(&call, &body.challenge_id, &code, cookies).await?;
    match done {
        Ok(done) => step(&call, &user, done).await,
        Err(failure) => Err(login::refused(&call, &user, failure).await?),
    }
}

#[derive(Deserialize, ToSchema)]
#[schema(as = CodeRequest)]
struct Asked {
    challenge_id: String,
    #[schema(value_type = shapes::Channel)]
    channel: String,
}

#[utoipa::path(
    post,
    path = "/auth/2fa/otp/send",
    tag = "second factor",
    summary = "Have a code sent",
    description = "It is good for this challenge alone.",
    request_body = Asked,
    responses(
        (status = 202, description = "On its way", body = shapes::people::CodeSent),
        (status = 401, description = "`invalid_challenge`"),
        (status = 403, description = "`address_blocked`"),
        (status = 423, description = "`account_locked`"),
        (status = 429, description = "Too many codes were sent"),
    )
)]
pub(super) async fn send(call: Call, Content(bytes): Content) -> Result<Response, Failed> {
    call.login()?;
    let body: Asked = body_of(&bytes)?;
    let channel = Channel::of(&body.channel).ok_or_else(|| Problem::validation("channel is email or sms"))?;
    door::not_blocked(&call, call.now().await?).await?;
    second_factor::send(&call, &body.challenge_id, channel).await?;
    Ok((StatusCode::ACCEPTED, NO_STORE, Json(json!({"channel": channel.word()}))).into_response())
}

/// Whoever may set up a second factor: a person, or the bearer of a set-up token.
pub(super) struct Enrolling {
    call: Call,
    user: User,
    by: By,
}

impl FromRequestParts<Issuer> for Enrolling {
    type Rejection = Failed;

    async fn from_request_parts(parts: &mut Parts, issuer: &Issuer) -> Result<Self, Failed> {
        let call = Call::from_request_parts(parts, issuer).await?;
        let token = bearer::credential(&call.policy, &parts.headers).ok().map(|shown| shown.token);
        let token = token.filter(|text| second_factor::is_setup_token(text));
        let Some(token) = token.map(second_factor::setup_token_hash) else {
            let Person { call, user, session } = Person::from_request_parts(parts, issuer).await?;
            return Ok(Self { call, user, by: By::Session(Box::new(session)) });
        };
        call.login()?;
        let invalid = || Problem::invalid_token("the set-up token is not good, or not any more").fix("log in again");
        let token = token.ok_or_else(invalid)?;
        let user = second_factor::user_of_setup_token(&call, &token).await?.ok_or_else(invalid)?;
        Ok(Self { call, user, by: By::SetUpToken(token) })
    }
}

#[utoipa::path(
    post,
    path = "/auth/2fa/setup/totp",
    tag = "second factor",
    summary = "Begin to set up an authenticator",
    description = "With a set-up token, or within ten minutes of a login.",
    security(("bearer" = [])),
    responses((status = 200, description = "The secret", body = shapes::people::TotpSecret))
)]
pub(super) async fn set_up(enrolling: Enrolling) -> Result<Response, Failed> {
    let Enrolling { call, user, by } = enrolling;
    if let By::Session(session) = &by {
        is_fresh(&call, session).await?;
    }
    let shown = second_factor::begin_setup(&call, &user, &by).await?;
    Ok(answer(json!({
        "secret": *shown.secret,
        "otpauth_url": *shown.otpauth_url,
        "qr_code": *shown.qr_code,
    })))
}

/// 403 in a session whose login is too long ago to change what protects the account.
async fn is_fresh(call: &Call, session: &Session) -> Result<(), Failed> {
    if session.auth_time.plus(FRESH_MS) > call.now().await? {
        return Ok(());
    }
    let problem = Problem::forbidden("a second factor is set up within ten minutes of a login");
    Err(problem.fix("log in again, by POST /auth/login, and set it up then").into())
}

#[derive(Deserialize, ToSchema)]
#[schema(as = CodeShown)]
struct WithCode {
    #[schema(pattern = "[0-9A-Za-z]", max_length = 64, example = "123456")]
    code: String,
}

#[utoipa::path(
    post,
    path = "/auth/2fa/verify/totp",
    tag = "second factor",
    summary = "Confirm an authenticator",
    description = "With a code of it, within ten minutes.",
    request_body = WithCode,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "It is on", body = shapes::people::BackupCodes),
        (status = 401, description = "`invalid_code`, or no good credential"),
        (status = 423, description = "`account_locked`"),
    )
)]
pub(super) async fn confirm(enrolling: Enrolling, Content(bytes): Content) -> Result<Response, Failed> {
    let Enrolling { call, user, by } = enrolling;
    let code = Code::parse(&body_of::<WithCode>(&bytes)?.code)?;
    backup_codes(second_factor::confirm(&call, &user, &by, &code).await?)
}

fn backup_codes(shown: Option<Shown>) -> Result<Response, Failed> {
    let Shown(codes) = shown.ok_or_else(invalid_code)?;
    Ok(answer(json!({"enabled": true, "backup_codes": codes})))
}

#[utoipa::path(
    get,
    path = "/auth/2fa",
    tag = "second factor",
    summary = "How one's second factor stands",
    security(("bearer" = [])),
    responses((status = 200, description = "How it stands", body = shapes::people::SecondFactor))
)]
pub(super) async fn state(person: Person) -> Result<Response, Failed> {
    let Person { call, user, .. } = person;
    let enabled = second_factor::is_on(&call, &user).await?;
    let (methods, left) = if enabled {
        let left = call.store().backup_codes_left(&user.policy, &user.id).await?;
        (second_factor::methods(&call, &user).await?, left)
    } else {
        (Vec::new(), 0)
    };
    let phone = call.store().phone(&user.policy, &user.id).await?.map(|number| second_factor::phone::masked(&number));
    Ok(answer(json!({"enabled": enabled, "methods": methods, "backup_codes_left": left, "phone": phone})))
}

#[utoipa::path(
    post,
    path = "/auth/2fa/backup-codes",
    tag = "second factor",
    summary = "Make new backup codes",
    description = "The old ones are void.",
    request_body = WithCode,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "New ones", body = shapes::people::BackupCodes),
        (status = 401, description = "`invalid_code`, or no good credential"),
        (status = 423, description = "`account_locked`"),
    )
)]
pub(super) async fn new_backup_codes(person: Person, Content(bytes): Content) -> Result<Response, Failed> {
    let Person { call, user, .. } = person;
    let code = Code::parse(&body_of::<WithCode>(&bytes)?.code)?;
    backup_codes(second_factor::new_backup_codes(&call, &user, &code).await?)
}

#[derive(Deserialize, ToSchema)]
#[schema(as = PasswordAndCode)]
struct WithPassword {
    password: String,
    #[schema(pattern = "[0-9A-Za-z]", max_length = 64, example = "123456")]
    code: String,
    device_token: Option<String>,
}

#[utoipa::path(
    delete,
    path = "/auth/2fa/totp",
    tag = "second factor",
    summary = "Turn the second factor off",
    description = "With the password and a code.",
    request_body = WithPassword,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "It is off", body = shapes::people::TurnedOff),
        (status = 401, description = "`invalid_credentials`, `invalid_code`, or no good credential"),
        (status = 423, description = "`account_locked`"),
    )
)]
pub(super) async fn turn_off(person: Person, Content(bytes): Content) -> Result<Response, Failed> {
    let Person { call, user, session } = person;
    let body: WithPassword = body_of(&bytes)?;
    let code = Code::parse(&body.code)?;
    let shown = show_password(&call, &user, &session, &body.password, body.device_token.as_deref()).await?;
    let off = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&user.policy, &user.id).await?;
        let now = tx.database_now().await?;
        let user = shown.still(tx, &call, &user, now).await?;
        second_factor::turn_off(tx, &call, &user, &shown.counter, &code, now).await
    })?;
    if !off {
        return Err(invalid_code().into());
    }
    second_factor::tell_removed(&call, &user)?;
    Ok(answer(json!({"enabled": false})))
}
