//! Setting a telephone number up, and taking it away.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use countersign_store::transact;
use serde::Deserialize;
use serde_json::json;
use utoipa::ToSchema;

use super::{NO_STORE, WithCode, answer, invalid_code, is_fresh};
use crate::{
    bearer::Person,
    body::{Content, body_of},
    openapi::shapes,
    problem::Failed,
    public::owner::show_password,
    second_factor::{Code, phone},
};

#[derive(Deserialize, ToSchema)]
#[schema(as = PhoneRequest)]
struct Number {
    /// As E.164 has it.
    #[schema(example = "+4915112345678")]
    phone: String,
    /// Of the second factor that is on.
    #[schema(pattern = "[0-9A-Za-z]", max_length = 64, example = "123456")]
    code: String,
}

#[utoipa::path(
    post,
    path = "/auth/2fa/setup/sms",
    tag = "second factor",
    summary = "Begin to set up a telephone number",
    description = "Within ten minutes of a login, with a code of the second factor: without one a number is none. The account has \
        a verified address. A code goes to the number; a number that was confirmed before stays until it is shown.",
    request_body = Number,
    security(("bearer" = [])),
    responses(
        (status = 202, description = "On its way", body = shapes::people::PhoneBegun),
        (status = 401, description = "`invalid_code`, or no good credential"),
        (status = 423, description = "`account_locked`"),
        (status = 429, description = "Too many codes were sent"),
    )
)]
pub(in crate::public) async fn set_up(person: Person, Content(bytes): Content) -> Result<Response, Failed> {
    let Person { call, user, session } = person;
    let body: Number = body_of(&bytes)?;
    is_fresh(&call, &session).await?;
    let number = body.phone.trim();
    if !phone::begin(&call, &user, &session, number, &Code::parse(&body.code)?).await? {
        return Err(invalid_code().into());
    }
    let begun = json!({"phone": phone::masked(number), "expires_in": phone::LIFE_MS / 1000});
    Ok((StatusCode::ACCEPTED, NO_STORE, Json(begun)).into_response())
}

#[utoipa::path(
    post,
    path = "/auth/2fa/verify/sms",
    tag = "second factor",
    summary = "Confirm a telephone number",
    description = "With the code that went to it, within ten minutes.",
    request_body = WithCode,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "Codes may go to it", body = shapes::people::PhoneConfirmed),
        (status = 401, description = "`invalid_code`, or no good credential"),
        (status = 423, description = "`account_locked`"),
    )
)]
pub(in crate::public) async fn confirm(person: Person, Content(bytes): Content) -> Result<Response, Failed> {
    let Person { call, user, session } = person;
    let code = Code::parse(&body_of::<WithCode>(&bytes)?.code)?;
    match phone::confirm(&call, &user, &session, &code).await? {
        phone::Proof::Confirmed(number) => Ok(answer(json!({"phone": phone::masked(&number)}))),
        phone::Proof::Wrong(left) => Err(invalid_code().with("attempts_left", left).into()),
    }
}

#[derive(Deserialize, ToSchema)]
#[schema(as = PasswordAndCodeIfAny)]
struct WithPasswordAtLeast {
    password: String,
    /// Of the second factor, where one is on.
    #[schema(pattern = "[0-9A-Za-z]", max_length = 64)]
    code: Option<String>,
    device_token: Option<String>,
}

#[utoipa::path(
    delete,
    path = "/auth/2fa/sms",
    tag = "second factor",
    summary = "Take one's telephone number away",
    description = "With the password, and with a code where a second factor is on.",
    request_body = WithPasswordAtLeast,
    security(("bearer" = [])),
    responses(
        (status = 200, description = "It is gone", body = shapes::people::PhoneRemoved),
        (status = 401, description = "`invalid_credentials`, `invalid_code`, or no good credential"),
        (status = 423, description = "`account_locked`"),
    )
)]
pub(in crate::public) async fn remove(person: Person, Content(bytes): Content) -> Result<Response, Failed> {
    let Person { call, user, session } = person;
    let body: WithPasswordAtLeast = body_of(&bytes)?;
    let code = body.code.as_deref().map(Code::parse).transpose()?;
    let shown = show_password(&call, &user, &session, &body.password, body.device_token.as_deref()).await?;
    let removed = transact!(call.store(), Failed, |tx| {
        tx.lock_subject(&user.policy, &user.id).await?;
        let now = tx.database_now().await?;
        let user = shown.still(tx, &call, &user, now).await?;
        phone::remove(tx, &call, &user, &shown.counter, code.as_ref(), now).await
    })?;
    if removed { Ok(answer(json!({"phone": null}))) } else { Err(invalid_code().into()) }
}
