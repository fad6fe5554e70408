//! `GET /openapi.json` and `GET /docs`: what there is to call.

use axum::response::Response;

use crate::{
    call::Call,
    openapi::{PUBLIC, server_of},
};

#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "metadata",
    summary = "This reference, for programs",
    responses((status = 200, description = "An OpenAPI 3.1 document", body = serde_json::Value))
)]
pub(super) async fn document(call: Call) -> Response {
    let held = call.issuer.parts.policies.load();
    PUBLIC.json(&server_of(&call.policy.name, held.default.as_ref()))
}

#[utoipa::path(
    get,
    path = "/docs",
    tag = "metadata",
    summary = "This reference, for people",
    description = "A page without scripts that loads nothing.",
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
pub(super) async fn page() -> Response {
    PUBLIC.html()
}
