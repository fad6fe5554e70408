//! Callers whom somebody else vouches for: in a cluster, Kubernetes knows who asks and what they may.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use axum::{
    body::Body,
    extract::{ConnectInfo, FromRequestParts as _, MatchedPath, Path, Request, State},
    http::{HeaderMap, Method, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use countersign_core::names::PolicyName;

use super::{Named, body_of_judged};
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

/// What tells who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The headers of the call.
    pub headers: &'a HeaderMap,
    /// The address that its connection comes from; absent: none that could be told.
    pub source: Option<IpAddr>,
}

impl<'a> Caller<'a> {
    fn of(parts: &'a Parts) -> Self {
        let source = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
        Self { headers: &parts.headers, source }
    }
}

/// Whoever says who a caller is, and whether they may.
pub trait Authority: Send + Sync + 'static {
    /// The caller's name, if they may do this to `policy` (`None`: to all). Whether there is such a policy is no part of the
    /// question: who may not hears the same either way.
    fn admit<'a>(
        &'a self,
        caller: Caller<'a>,
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

/// Lets a call about a policy through, in its caller's name. Who asks and what they may is settled by the call alone, before its
/// body is read and before it is looked whether there is such a policy: neither is for strangers.
pub(super) async fn of_policy(
    State((issuer, authority)): State<(Issuer, Arc<dyn Authority>)>,
    request: Request,
    next: Next,
) -> Response {
    match admitted(&issuer, &*authority, request).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

async fn admitted(issuer: &Issuer, authority: &dyn Authority, request: Request) -> Result<Request, Problem> {
    let (mut parts, body) = request.into_parts();
    let Path(Named { namespace, name }) =
        Path::<Named>::from_request_parts(&mut parts, issuer).await.map_err(|_| Problem::not_found("no such call"))?;
    let unknown = || Problem::not_found(format!("there is no policy {namespace}/{name}"));
    let policy = PolicyName::try_new(&namespace, &name).map_err(|_| unknown())?;
    let call = parts.extensions.get::<MatchedPath>().and_then(|path| path.as_str().strip_prefix(OF_POLICY));
    let Some(right) = right(&parts.method, call.unwrap_or_default()) else {
        return Err(Problem::forbidden("no right of the cluster lets anybody make this call"));
    };
    let admit = async |right| authority.admit(Caller::of(&parts), right, Some(&policy)).await;
    let mut actor = admit(right).await?;
    if issuer.parts.policies.one(&policy).is_none() {
        return Err(unknown());
    }
    let (bytes, late) = body_of_judged(&parts, body, issuer).await?;
    if late {
        actor = admit(right).await?;
    }
    if right == MINTS && is_emergency(&bytes) {
        actor = admit(BREAKS_THE_GLASS).await?;
    }
    parts.extensions.insert(Actor::Vouched { name: actor });
    Ok(Request::from_parts(parts, Body::from(bytes)))
}

/// Lets a call about the whole process through.
pub(super) async fn of_process(State(authority): State<Arc<dyn Authority>>, request: Request, next: Next) -> Response {
    let everything = Right { verb: "list", part: "" };
    let (parts, body) = request.into_parts();
    match authority.admit(Caller::of(&parts), everything, None).await {
        Ok(_) => next.run(Request::from_parts(parts, body)).await,
        Err(refusal) => Problem::from(refusal).into_response(),
    }
}

/// To make a token.
const MINTS: Right = Right { verb: "create", part: "token" };
/// What an emergency token needs beside [`MINTS`]: neither right holds the other.
const BREAKS_THE_GLASS: Right = Right { verb: "create", part: "emergency" };

/// What a call needs: by the route that will answer it, never by the path as it was sent. `None`: nobody has thought of it.
fn right(method: &Method, call: &str) -> Option<Right> {
    let right = |verb, part| Right { verb, part };
    let reads = method == Method::GET || method == Method::HEAD;
    Some(match call.trim_start_matches('/') {
        "tokens" => MINTS,
        "revocations" if !reads => right("create", "revocations"),
        "keys/rotate" => right("update", "keys"),
        "audit" | "audit/verify" => right("get", "audit"),
        "verifiers" | "keys" | "effective" | "revocations" if reads => right("get", ""),
        call if PEOPLE.iter().any(|part| call.split('/').next() == Some(part)) => right("update", "users"),
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
        for (method, call, verb, part) in [
            (Method::POST, "/tokens", "create", "token"),
            (Method::POST, "/revocations", "create", "revocations"),
            (Method::GET, "/revocations", "get", ""),
            (Method::POST, "/keys/rotate", "update", "keys"),
            (Method::GET, "/keys", "get", ""),
            (Method::GET, "/audit", "get", "audit"),
            (Method::POST, "/audit/verify", "get", "audit"),
            (Method::GET, "/users", "update", "users"),
            (Method::DELETE, "/sessions/{id}", "update", "users"),
            (Method::POST, "/blocks", "update", "users"),
        ] {
            assert_eq!(right(&method, call), Some(Right { verb, part }), "{method} {call}");
        }
        for (method, call) in [(Method::POST, "/something-new"), (Method::POST, "/keys"), (Method::GET, "")] {
            assert_eq!(right(&method, call), None, "{method} {call}");
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
                    assert!(right(&method, call).is_some(), "{method} {path}");
                }
            }
        }
        assert!(seen > 20, "{seen}");
    }
}
