//! What helps when something is wrong: gates with their states, and what a support case needs to know.

use axum::Json;
use serde_json::Value;

use super::{Content, administered::Acting, body_of};
use crate::{
    openapi::shapes,
    problem::Failed,
    public::{
        debug_report_of,
        diagnosis::{Diagnosed, diagnosis},
    },
};

/// `POST …/diagnose`
#[utoipa::path(
    post,
    path = "/diagnose",
    tag = "administration",
    summary = "What keeps somebody out",
    description = "Every gate with its state, and what opens it. At least one member is needed. Looking is no try and no use.",
    request_body = Diagnosed,
    security(("bearer" = [])),
    responses((status = 200, description = "The gates", body = shapes::operations::Diagnosis))
)]
pub(super) async fn diagnose(asking: Acting, Content(bytes): Content) -> Result<Json<Value>, Failed> {
    Ok(Json(diagnosis(&asking.0, &body_of(&bytes)?).await?))
}

/// `GET …/debug-report`
#[utoipa::path(
    get,
    path = "/debug-report",
    tag = "administration",
    summary = "What a support case needs to know",
    description = "Nothing of it is secret.",
    security(("bearer" = [])),
    responses((status = 200, description = "The report", body = shapes::operations::DebugReport))
)]
pub(super) async fn debug_report(asking: Acting) -> Result<Json<Value>, Failed> {
    Ok(Json(debug_report_of(&asking.0).await?))
}
