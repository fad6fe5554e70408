//! `GET /users/me`.

use axum::Json;
use serde_json::Value;

use super::login::has_second_factor;
use crate::{bearer::Permitted, opening::user_json, problem::Failed};

/// The account that a token speaks for: a person's, or the owner's of an API key.
pub(super) async fn me(permitted: Permitted) -> Result<Json<Value>, Failed> {
    let Permitted { call, caller } = permitted;
    call.login()?;
    let user = caller.user(&call).await?;
    let mfa_enabled = has_second_factor(call.store(), &user).await?;
    Ok(Json(user_json(&call, &user, mfa_enabled)))
}
