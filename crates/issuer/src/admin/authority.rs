//! Callers whom somebody else vouches for: in a cluster, Kubernetes knows who asks and what they may.

use std::{future::Future, pin::Pin, sync::Arc};

use axum::{
    body::Body,
    extract::{FromRequest as _, FromRequestParts as _, MatchedPath, Request, State},
    http::{HeaderMap, Method},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use countersign_core::names::PolicyName;

use super::{Content, OfPolicy};
use crate::{actor::Actor, problem::Problem, serving::Issuer};

/// What a caller wants to do, as a verb and a part of an AuthPolicy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// `get`, `create`, `update`; of no policy in particular `list`.
    pub verb: &'static str,
    /// The part; empty: the policy itself.
    pub part: &'static str,
}

/// Why somebody is not let in. The texts are shown to callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdmitted {
    /// Nobody knows who it is.
    Unknown(String),
    /// They may not.
    Forbidden(String),
    /// It can't be said now.
    Unavailable(String),
}

/// Whoever says who a caller is, and whether they may.
pub trait Authority: Send + Sync + 'static {
    /// The caller's name, if they may do this to `policy` (`None`: to all).
    fn admit<'a>(
        &'a self,
        headers: &'a HeaderMap,
        right: Right,
        policy: Option<&'a PolicyName>,
    ) -> Pin<Box<dyn Future<Output = Result<String, NotAdmitted>> + Send + 'a>>;
}

impl From<NotAdmitted> for Problem {
    fn from(refusal: NotAdmitted) -> Self {
        match refusal {
            NotAdmitted::Unknown(detail) => Self::invalid_token(detail),
            NotAdmitted::Forbidden(detail) => Self::forbidden(detail),
            NotAdmitted::Unavailable(detail) => Self::unavailable(detail),
        }
    }
}

/// What the routes of a policy begin with.
pub(super) const OF_POLICY: &str = "/admin/v1/policies/{namespace}/{name}";

/// Lets a call about a policy through, in its caller's name.
pub(super) async fn of_policy(
    State((issuer, authority)): State<(Issuer, Arc<dyn Authority>)>,
    request: Request,
    next: Next,
) -> Response {
    // The whole request first: who may is judged when it is done, however long its body took.
    let (mut parts, body) = request.into_parts();
    let Content(bytes) = match Content::from_request(Request::from_parts(parts.clone(), body), &issuer).await {
        Ok(content) => content,
        Err(problem) => return problem.into_response(),
    };
    let policy = match OfPolicy::from_request_parts(&mut parts, &issuer).await {
        Ok(OfPolicy(policy)) => policy,
        Err(problem) => return problem.into_response(),
    };
    let call =
        parts.extensions.get::<MatchedPath>().and_then(|path| path.as_str().strip_prefix(OF_POLICY)).unwrap_or_default();
    let Some(rights) = rights(&parts.method, call, &bytes) else {
        return Problem::forbidden("no right of the cluster lets anybody make this call").into_response();
    };
    for right in rights {
        match authority.admit(&parts.headers, right, Some(&policy.name)).await {
            Ok(name) => drop(parts.extensions.insert(Actor::Vouched { name })),
            Err(refusal) => return Problem::from(refusal).into_response(),
        }
    }
    next.run(Request::from_parts(parts, Body::from(bytes))).await
}

/// Lets a call about the whole process through.
pub(super) async fn of_process(State(authority): State<Arc<dyn Authority>>, request: Request, next: Next) -> Response {
    let everything = Right { verb: "list", part: "" };
    match authority.admit(request.headers(), everything, None).await {
        Ok(_) => next.run(request).await,
        Err(refusal) => Problem::from(refusal).into_response(),
    }
}

/// What a call needs, each of which is asked for: by the route that will answer it, never by the path as it was sent. `None`:
/// nobody has thought of it.
fn rights(method: &Method, call: &str, body: &[u8]) -> Option<Vec<Right>> {
    let right = |verb, part| Right { verb, part };
    let reads = method == Method::GET || method == Method::HEAD;
    Some(match call.trim_start_matches('/') {
        "tokens" if is_emergency(body) => vec![right("create", "token"), right("create", "emergency")],
        "tokens" => vec![right("create", "token")],
        "revocations" if !reads => vec![right("create", "revocations")],
        "keys/rotate" => vec![right("update", "keys")],
        "audit" | "audit/verify" => vec![right("get", "audit")],
        "verifiers" | "keys" | "effective" | "revocations" if reads => vec![right("get", "")],
        call if PEOPLE.iter().any(|part| call.split('/').next() == Some(part)) => vec![right("update", "users")],
        _ => return None,
    })
}

/// Accounts and what they hold, and what is told of them.
const PEOPLE: [&str; 7] = ["users", "sessions", "api-keys", "blocks", "imports", "diagnose", "debug-report"];

fn is_emergency(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body).is_ok_and(|body| body["emergency"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_asks_for_the_right_that_it_needs_and_one_that_nobody_thought_of_is_nobody_s() {
        for (method, call, body, expected) in [
            (Method::POST, "/tokens", "{}", &[("create", "token")][..]),
            (Method::POST, "/tokens", r#"{"emergency": true}"#, &[("create", "token"), ("create", "emergency")]),
            (Method::POST, "/revocations", "{}", &[("create", "revocations")]),
            (Method::GET, "/revocations", "", &[("get", "")]),
            (Method::POST, "/keys/rotate", "{}", &[("update", "keys")]),
            (Method::GET, "/keys", "", &[("get", "")]),
            (Method::GET, "/audit", "", &[("get", "audit")]),
            (Method::POST, "/audit/verify", "", &[("get", "audit")]),
            (Method::GET, "/users", "", &[("update", "users")]),
            (Method::DELETE, "/sessions/{id}", "", &[("update", "users")]),
            (Method::POST, "/blocks", "{}", &[("update", "users")]),
        ] {
            let found = rights(&method, call, body.as_bytes());
            let expected: Vec<Right> = expected.iter().map(|(verb, part)| Right { verb, part }).collect();
            assert_eq!(found, Some(expected), "{method} {call}");
        }
        for (method, call) in [(Method::POST, "/something-new"), (Method::POST, "/keys"), (Method::GET, "")] {
            assert_eq!(rights(&method, call, b"{}"), None, "{method} {call}");
        }
    }

    #[test]
    fn every_call_of_the_admin_api_has_a_right() {
        let document: serde_json::Value = serde_json::from_str(&crate::openapi::ADMIN.document("/")).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let mut seen = 0;
        for (path, calls) in paths {
            let Some(call) = path.strip_prefix(OF_POLICY) else { continue };
            for method in calls.as_object().unwrap().keys().filter_map(|name| name.to_uppercase().parse::<Method>().ok()) {
                if ["GET", "POST", "PATCH", "PUT", "DELETE"].contains(&method.as_str()) {
                    seen += 1;
                    assert!(rights(&method, call, b"{}").is_some(), "{method} {path}");
                }
            }
        }
        assert!(seen > 20, "{seen}");
    }
}
