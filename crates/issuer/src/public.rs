//! The issuer's own routes: keys and discovery.
//!
//! A request whose host and path prefix are a policy's `issuer` goes to that policy, the prefix removed; `/{ns}/{name}/…`
//! always works; a host that no policy names gets the default policy, which also answers under `/api`.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use countersign_core::names::PolicyName;
use serde_json::json;

use crate::{IssuerPolicy, policies::Held, problem::Problem, serving::Issuer};

const JWKS: &str = "/.well-known/jwks.json";
const OAUTH: &str = "/.well-known/oauth-authorization-server";
const OPENID: &str = "/.well-known/openid-configuration";

pub(crate) fn routes(issuer: Issuer) -> Router {
    Router::new().fallback(answer).with_state(issuer)
}

async fn answer(State(issuer): State<Issuer>, request: Request) -> Response {
    let held = issuer.parts.policies.load();
    let Some((policy, path)) = route(&held, host(request.headers(), request.uri()), request.uri().path()) else {
        return Problem::not_found("no policy answers here").into_response();
    };
    let known = [JWKS, OAUTH, OPENID].contains(&path.as_str());
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = Problem::method_not_allowed("this is for GET and HEAD").into_response();
        response.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path.as_str() {
        JWKS => jwks(&policy, request.headers()),
        OAUTH | OPENID => discovery(&policy),
        _ => Problem::not_found("no such call").into_response(),
    }
}

fn host<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> &'a str {
    let named = uri.authority().map(axum::http::uri::Authority::as_str);
    named.or_else(|| headers.get(header::HOST)?.to_str().ok()).unwrap_or_default()
}

/// The policy that a request is for, and the path within it.
fn route(held: &Held, host: &str, path: &str) -> Option<(Arc<IssuerPolicy>, String)> {
    by_name(held, path).or_else(|| by_issuer(held, host, path)).or_else(|| by_default(held, host, path))
}

fn by_issuer(held: &Held, host: &str, path: &str) -> Option<(Arc<IssuerPolicy>, String)> {
    let candidates = held.by_name.values().filter_map(|policy| {
        let (authority, prefix) = split_issuer(&policy.own.as_ref()?.issuer)?;
        if !authority.eq_ignore_ascii_case(host) {
            return None;
        }
        // RFC 8414 section 3.1 puts the well-known part before an issuer's path; everybody else behind it.
        let inserted = [OAUTH, OPENID].into_iter().find(|known| path.strip_prefix(known) == Some(prefix));
        let within = match inserted {
            Some(known) => known.to_owned(),
            None => path.strip_prefix(prefix).filter(|rest| rest.starts_with('/'))?.to_owned(),
        };
        Some((prefix.len(), policy.clone(), within))
    });
    // The longest prefix is the most particular; of two policies with one issuer the first in name order answers.
    let mut best: Option<(usize, Arc<IssuerPolicy>, String)> = None;
    for candidate in candidates {
        if best.as_ref().is_none_or(|held| candidate.0 > held.0) {
            best = Some(candidate);
        }
    }
    best.map(|(_, policy, path)| (policy, path))
}

fn split_issuer(issuer: &str) -> Option<(&str, &str)> {
    let (_, rest) = issuer.split_once("://")?;
    Some(rest.split_once('/').map_or((rest, ""), |(host, path)| (host, &rest[host.len()..host.len() + 1 + path.len()])))
}

fn by_name(held: &Held, path: &str) -> Option<(Arc<IssuerPolicy>, String)> {
    let mut parts = path.strip_prefix('/')?.splitn(3, '/');
    let name = PolicyName::try_new(parts.next()?, parts.next()?).ok()?;
    let rest = parts.next()?;
    Some((held.by_name.get(&name)?.clone(), format!("/{rest}")))
}

fn by_default(held: &Held, host: &str, path: &str) -> Option<(Arc<IssuerPolicy>, String)> {
    let named = |policy: &Arc<IssuerPolicy>| {
        let issuer = policy.own.as_ref().and_then(|own| split_issuer(&own.issuer));
        issuer.is_some_and(|(authority, _)| authority.eq_ignore_ascii_case(host))
    };
    let default = held.by_name.get(held.default.as_ref()?)?;
    if held.by_name.values().any(named) && !named(default) {
        return None;
    }
    let within = path.strip_prefix("/api").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    Some((default.clone(), within.to_owned()))
}

fn jwks(policy: &IssuerPolicy, headers: &HeaderMap) -> Response {
    let body = match serde_json::to_string(&policy.jwks()) {
        Ok(body) => body,
        Err(error) => return Problem::internal(&error).into_response(),
    };
    let etag = format!(
        "\"{}\"",
        hex::encode(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes()).as_ref()[..16])
    );
    // Half of prepublish: whoever keeps a copy has the next key before it signs. Never longer than five minutes, so that a
    // revoked key leaves copies soon.
    let max_age = (policy.prepublish_ms / 2000).clamp(0, 300);
    let cache = [(header::ETAG, etag.clone()), (header::CACHE_CONTROL, format!("public, max-age={max_age}"))];
    let asked = headers.get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if asked.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag || tag.trim() == "*") {
        return (StatusCode::NOT_MODIFIED, cache).into_response();
    }
    (cache, [(header::CONTENT_TYPE, "application/jwk-set+json")], body).into_response()
}

/// RFC 8414, as far as it is true: keys are published, and no grant is offered.
fn discovery(policy: &IssuerPolicy) -> Response {
    let Some(own) = &policy.own else {
        return Problem::not_found("this policy only verifies other issuers' tokens").into_response();
    };
    let body = json!({
        "issuer": own.issuer,
        "jwks_uri": format!("{}{JWKS}", own.issuer),
        "response_types_supported": [],
        "grant_types_supported": [],
    });
    Json(body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issuer_splits_into_host_and_prefix() {
        assert_eq!(split_issuer("https://auth.shop.example"), Some(("auth.shop.example", "")));
        assert_eq!(split_issuer("http://127.0.0.1:7490/a/b"), Some(("127.0.0.1:7490", "/a/b")));
        assert_eq!(split_issuer("nonsense"), None);
    }
}
