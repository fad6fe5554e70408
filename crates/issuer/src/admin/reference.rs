//! `GET /admin/v1/openapi.json` and `GET /admin/v1/docs`: what there is to call. Open to whoever reaches the listener.

use axum::response::Response;

use crate::openapi::ADMIN;

#[utoipa::path(
    get,
    path = "/admin/v1/openapi.json",
    tag = "metadata",
    summary = "This reference, for programs",
    responses((status = 200, description = "An OpenAPI 3.1 document", body = serde_json::Value))
)]
pub(super) async fn document() -> Response {
    ADMIN.json("/")
}

#[utoipa::path(
    get,
    path = "/admin/v1/docs",
    tag = "metadata",
    summary = "This reference, for people",
    description = "A page without scripts that loads nothing.",
    responses((status = 200, description = "The page", body = String, content_type = "text/html"))
)]
pub(super) async fn page() -> Response {
    ADMIN.html()
}
