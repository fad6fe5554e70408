//! Keys and metadata, for whoever verifies by themselves.

use std::collections::BTreeSet;

use axum::{
    Json,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use countersign_core::ring::KeyState;
use serde_json::{Value, json};

use crate::{OwnKeys, call::Call, openapi::shapes, problem::Problem};

pub(super) const JWKS: &str = "/.well-known/jwks.json";
pub(super) const OAUTH: &str = "/.well-known/oauth-authorization-server";
pub(super) const OPENID: &str = "/.well-known/openid-configuration";

#[utoipa::path(
    get,
    path = JWKS,
    tag = "metadata",
    summary = "Keys that verify this policy's tokens",
    description = "RFC 7517. With an ETag; nobody keeps it for longer than five minutes.",
    responses(
        (status = 200, description = "Every key that verifies now", body = shapes::services::Jwks, content_type = "application/jwk-set+json"),
        (status = 304, description = "As the caller has it"),
    )
)]
pub(super) async fn jwks(call: Call, headers: HeaderMap) -> Response {
    let body = match serde_json::to_string(&call.policy.jwks()) {
        Ok(body) => body,
        Err(error) => return Problem::internal(&error).into_response(),
    };
    let etag = format!(
        "\"{}\"",
        hex::encode(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes()).as_ref()[..16])
    );
    // Half of prepublish: whoever keeps a copy has the next key before it signs. Never longer than five minutes, so that a
    // revoked key leaves copies soon.
    let max_age = (call.policy.prepublish_ms / 2000).clamp(0, 300);
    let cache = [(header::ETAG, etag.clone()), (header::CACHE_CONTROL, format!("public, max-age={max_age}"))];
    let asked = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if asked.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag || tag.trim() == "*") {
        return (StatusCode::NOT_MODIFIED, cache).into_response();
    }
    (cache, [(header::CONTENT_TYPE, "application/jwk-set+json")], body).into_response()
}

/// RFC 8414 and OpenID Connect Discovery, as far as it is true: there is no authorization endpoint.
#[utoipa::path(
    get,
    path = OAUTH,
    tag = "metadata",
    summary = "Metadata of this issuer",
    description = "RFC 8414, as far as it is true: there is no authorization endpoint.",
    responses((status = 200, description = "What there is", body = shapes::services::Metadata))
)]
pub(super) async fn discovery(call: Call) -> Response {
    match metadata(&call) {
        Ok(body) => shown(&body),
        Err(problem) => problem.into_response(),
    }
}

fn shown(body: &Value) -> Response {
    ([(header::CACHE_CONTROL, "public, max-age=300")], Json(body)).into_response()
}

fn own(call: &Call) -> Result<&OwnKeys, Problem> {
    call.policy.own.as_ref().ok_or_else(|| Problem::not_found("this policy only verifies other issuers' tokens"))
}

fn metadata(call: &Call) -> Result<Value, Problem> {
    let own = own(call)?;
    let at = |path: &str| format!("{}{path}", own.issuer);
    let mut body = json!({
        "issuer": own.issuer,
        "jwks_uri": at(JWKS),
        "response_types_supported": [],
        "grant_types_supported": [],
    });
    if let Some(login) = &call.policy.login {
        let methods = json!(["client_secret_basic", "client_secret_post"]);
        let scopes: BTreeSet<&String> = login.settings.clients.iter().flat_map(|client| &client.scopes).collect();
        body["token_endpoint"] = json!(at("/oauth/token"));
        body["introspection_endpoint"] = json!(at("/oauth/introspect"));
        body["revocation_endpoint"] = json!(at("/oauth/revoke"));
        body["userinfo_endpoint"] = json!(at("/userinfo"));
        body["grant_types_supported"] = json!(["client_credentials", "refresh_token"]);
        body["scopes_supported"] = json!(scopes);
        for endpoint in ["token", "introspection", "revocation"] {
            body[format!("{endpoint}_endpoint_auth_methods_supported")] = methods.clone();
        }
    }
    Ok(body)
}

#[utoipa::path(
    get,
    path = OPENID,
    tag = "metadata",
    summary = "Metadata of this issuer, as OpenID Connect calls it",
    description = "The same as the other, with what OpenID Connect Discovery 1.0 demands beside it. No ID token is issued: the \
        algorithms are those that access tokens are signed with.",
    responses((status = 200, description = "What there is", body = shapes::services::Metadata))
)]
pub(super) async fn openid(call: Call) -> Response {
    match metadata(&call).and_then(|body| Ok((body, own(&call)?))) {
        Ok((mut body, own)) => {
            let good = own.access.ring.keys.iter().filter(|key| key.state != KeyState::Revoked);
            let algorithms: BTreeSet<String> = good.map(|key| key.algorithm.to_string()).collect();
            body["subject_types_supported"] = json!(["public"]);
            body["id_token_signing_alg_values_supported"] = json!(algorithms);
            shown(&body)
        }
        Err(problem) => problem.into_response(),
    }
}
