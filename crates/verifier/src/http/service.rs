//! Which question a request is.

use std::sync::Arc;

use arc_swap::Guard;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use hyper::body::{Body as _, Incoming};

use super::{
    authorize, batch, body,
    forwarded::Options,
    introspect, listing,
    memory::{BodyMemory, HeldBody, Taken},
    problem::Problem,
    request::VerifyRequest,
    verdict,
};
use crate::{
    app::{Absent, App, Question},
    net::{Answer, Connected, Service},
    slot::{PolicySlot, Snapshot},
};
use countersign_core::verdict::Refusal;

/// The largest body of a single question.
const MAX_BODY: usize = 64 << 10;
/// The largest body of a batch.
const MAX_BATCH: usize = 4 << 20;
/// The longest request target.
const MAX_TARGET: usize = 8 << 10;
/// The largest sum of header fields.
const MAX_HEADERS: usize = 16 << 10;

const POLICIES: &str = "/v1/policies/";

/// The verification API.
pub(crate) struct Api {
    app: Arc<App>,
    memory: BodyMemory,
}

/// What a path leads to, within a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call<'a> {
    Verify,
    Batch,
    Introspect,
    Jwks,
    /// With what follows `authorize`, if anything does.
    Authorize(Option<&'a str>),
}

/// What a path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route<'a> {
    Policy { name: &'a str, call: Call<'a> },
    Policies,
    Feed,
}

fn route(path: &str) -> Option<Route<'_>> {
    let Some(rest) = path.strip_prefix(POLICIES) else {
        return match path {
            "/v1/policies" => Some(Route::Policies),
            "/v1/feed" => Some(Route::Feed),
            _ => None,
        };
    };
    let slash = memchr::memchr(b'/', rest.as_bytes())?;
    let end = slash + 1 + memchr::memchr(b'/', &rest.as_bytes()[slash + 1..])?;
    let call = match &rest[end + 1..] {
        "verify" => Call::Verify,
        "verify-batch" => Call::Batch,
        "introspect" => Call::Introspect,
        "jwks.json" => Call::Jwks,
        "authorize" => Call::Authorize(None),
        other => Call::Authorize(Some(other.strip_prefix("authorize").filter(|rest| rest.starts_with('/'))?)),
    };
    Some(Route::Policy { name: &rest[..end], call })
}

impl Service for Api {
    async fn answer(&self, request: Request<Incoming>, connected: &Connected) -> Answer {
        let (head, body) = request.into_parts();
        // Only a body of unknown length can hide a second declaration of it.
        if body.size_hint().exact().is_none()
            && let Err(problem) = check_framing(&head.headers, connected)
        {
            return self.unreadable(&problem, &head);
        }
        if let Err(problem) = check_head(&head) {
            body::drain(body);
            return self.unreadable(&problem, &head);
        }
        let path = head.uri.path();
        let route = route(path);
        if let Some(Route::Policy { name, call: Call::Verify }) = route
            && head.method == Method::POST
        {
            return match self.verify(name, &head.headers, body, connected).await {
                Ok(answer) => answer,
                Err(problem) => self.problem(&problem, &head.method),
            };
        }
        let Some(route) = route else {
            body::drain(body);
            return self.problem(&Problem::not_found(), &head.method);
        };
        let answered = match route {
            Route::Policies | Route::Feed => {
                body::drain(body);
                expect_get(&head.method).and_then(|()| {
                    if route == Route::Feed { Ok(listing::feed(&self.app)) } else { listing::policies(&self.app) }
                })
            }
            Route::Policy { name, call: Call::Jwks } => {
                body::drain(body);
                self.jwks(name, &head.method, &head.headers)
            }
            Route::Policy { name, call: Call::Authorize(rest) } => {
                body::drain(body);
                return authorize::authorize(&self.app, name, rest, &head, connected.peer);
            }
            Route::Policy { name, call: Call::Batch } => Box::pin(self.batch(name, &head, body, connected)).await,
            Route::Policy { name, call: Call::Introspect } => Box::pin(self.introspect(name, &head, body, connected)).await,
            Route::Policy { call: Call::Verify, .. } => {
                body::drain(body);
                Err(Problem::method("POST"))
            }
        };
        match answered {
            Ok(mut answer) => {
                if head.method == Method::HEAD {
                    *answer.body_mut() = http_body_util::Full::default();
                }
                answer
            }
            Err(problem) => self.problem(&problem, &head.method),
        }
    }
}

/// A policy that can be asked, or what to answer instead.
enum Found {
    Slot(Arc<PolicySlot>),
    NotReady,
}

impl Api {
    pub(crate) fn new(app: Arc<App>) -> Self {
        Self { app, memory: BodyMemory::default() }
    }

    fn problem(&self, problem: &Problem, method: &Method) -> Answer {
        self.app.metrics.bad_requests.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        problem.answer(method)
    }

    /// A problem that comes before the question: proxies get it in the form that they ask for.
    fn unreadable(&self, problem: &Problem, head: &http::request::Parts) -> Answer {
        match route(head.uri.path()) {
            Some(Route::Policy { call: Call::Authorize(_), .. }) => {
                authorize::wrong(&self.app, problem, &Options::default())
            }
            _ => self.problem(problem, &head.method),
        }
    }

    fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.app.snapshot.load()
    }

    fn find(&self, name: &str) -> Result<Found, Problem> {
        let snapshot = self.snapshot();
        match snapshot.find(name) {
            Some(slot) => Ok(Found::Slot(slot.clone())),
            None => match self.app.absent(&snapshot, name) {
                Absent::Unknown => Err(Problem::unknown_policy()),
                Absent::NotReady => Ok(Found::NotReady),
            },
        }
    }

    async fn verify(
        &self,
        name: &str,
        headers: &HeaderMap,
        body: Incoming,
        connected: &Connected,
    ) -> Result<Answer, Problem> {
        let found = match self.find(name).and_then(|found| body::expect_json(headers).map(|()| found)) {
            Ok(found) => found,
            Err(problem) => {
                body::drain(body);
                return Err(problem);
            }
        };
        let body = body::read(body, MAX_BODY).await?;
        let request = VerifyRequest::parse(&body)?;
        let Found::Slot(slot) = found else { return Ok(verdict::refused(&Refusal::NotReady)) };
        let behind = match request.min_position {
            None => false,
            position => Box::pin(self.app.is_behind(position)).await,
        };
        let app = &self.app;
        let question = Question { token: &request.token, ask: request.ask(), caller: connected.peer, behind };
        Ok(app.judge(&slot, &question, app.moment(&slot), |outcome| match outcome {
            Ok(granted) => {
                let ending = verdict::Ending::of(&granted.allowed, granted.position);
                verdict::json(verdict::valid_body(&granted.proven.prefix, &ending))
            }
            Err(refusal) => verdict::refused(&refusal),
        }))
    }

    async fn batch(
        &self,
        name: &str,
        head: &http::request::Parts,
        body: Incoming,
        connected: &Connected,
    ) -> Result<Answer, Problem> {
        let mut taken: Option<Taken> = None;
        let room = |size: usize| {
            taken = self.memory.take(connected.peer, if size > MAX_BODY { size } else { 0 });
            if taken.is_some() { Ok(()) } else { Err(Problem::overloaded()) }
        };
        let (found, body) = self.posted(name, head, body, body::expect_json, MAX_BATCH, room).await?;
        let items = batch::parse(&body)?;
        let slot = match found {
            Found::Slot(slot) => Some(slot),
            Found::NotReady => None,
        };
        let Some(mut taken) = taken else { return Err(Problem::overloaded()) };
        let results = batch::answer(&self.app, slot.as_deref(), &items, connected.peer, &mut taken).await;
        Ok(verdict::json(Bytes::from_owner(HeldBody { bytes: results, taken })))
    }

    async fn introspect(
        &self,
        name: &str,
        head: &http::request::Parts,
        body: Incoming,
        connected: &Connected,
    ) -> Result<Answer, Problem> {
        let (found, body) = self.posted(name, head, body, body::expect_form, MAX_BODY, |_| Ok(())).await?;
        let token = introspect::token(&body)?;
        let Found::Slot(slot) = found else { return Ok(verdict::refused(&Refusal::NotReady)) };
        Ok(introspect::answer(&self.app, &slot, &token, connected.peer))
    }

    /// What every POST goes through, in the order in which its errors win: 405, 404, 415, 413.
    async fn posted(
        &self,
        name: &str,
        head: &http::request::Parts,
        body: Incoming,
        expect: fn(&HeaderMap) -> Result<(), Problem>,
        limit: usize,
        room: impl FnOnce(usize) -> Result<(), Problem>,
    ) -> Result<(Found, Bytes), Problem> {
        let size = body.size_hint().exact().and_then(|n| usize::try_from(n).ok()).unwrap_or(limit);
        let checked = || {
            if head.method != Method::POST {
                return Err(Problem::method("POST"));
            }
            let found = self.find(name)?;
            expect(&head.headers)?;
            if size <= limit {
                room(size)?;
            }
            Ok(found)
        };
        match checked() {
            Ok(found) => Ok((found, body::read(body, limit).await?)),
            Err(problem) => {
                body::drain(body);
                Err(problem)
            }
        }
    }

    fn jwks(&self, name: &str, method: &Method, headers: &HeaderMap) -> Result<Answer, Problem> {
        expect_get(method)?;
        match self.find(name)? {
            Found::Slot(slot) => Ok(listing::jwks(&self.app, &slot, headers)),
            Found::NotReady => Ok(verdict::refused(&Refusal::NotReady)),
        }
    }
}

fn expect_get(method: &Method) -> Result<(), Problem> {
    if matches!(*method, Method::GET | Method::HEAD) { Ok(()) } else { Err(Problem::method("GET, HEAD")) }
}

/// A body of unknown length must be chunked, simply and by one declaration.
fn check_framing(headers: &HeaderMap, connected: &Connected) -> Result<(), Problem> {
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let chunked = encodings.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if chunked && encodings.next().is_none() && !connected.is_length_ambiguous() {
        Ok(())
    } else {
        Err(Problem::ambiguous_length())
    }
}

fn check_head(head: &http::request::Parts) -> Result<(), Problem> {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if target > MAX_TARGET {
        return Err(Problem::target_too_long());
    }
    // Each field's name, colon, space, value and line end.
    let fields: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if fields > MAX_HEADERS {
        return Err(Problem::headers_too_large());
    }
    // RFC 9112 section 3.2: who passes it on and who answers it might mean different ones.
    if head.headers.get_all(header::HOST).iter().nth(1).is_some() {
        return Err(Problem::invalid("the request names more than one host"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_their_calls() {
        let of = |path: &'static str| match route(path) {
            Some(Route::Policy { name, call }) => Some((name, call)),
            _ => None,
        };
        for (path, expected) in [
            ("/v1/policies/a/b/verify", Some(("a/b", Call::Verify))),
            ("/v1/policies/a/b/verify-batch", Some(("a/b", Call::Batch))),
            ("/v1/policies/a/b/introspect", Some(("a/b", Call::Introspect))),
            ("/v1/policies/a/b/jwks.json", Some(("a/b", Call::Jwks))),
            ("/v1/policies/a/b/authorize", Some(("a/b", Call::Authorize(None)))),
            ("/v1/policies/a/b/authorize/", Some(("a/b", Call::Authorize(Some("/"))))),
            ("/v1/policies/a/b/authorize/x/verify", Some(("a/b", Call::Authorize(Some("/x/verify"))))),
            ("/v1/policies/a/b/authorizex", None),
            ("/v1/policies/a/b/verify/", None),
            ("/v1/policies/a/b", None),
            ("/v1/policies/a/b/", None),
            ("/v1/policies//", None),
            ("/", None),
        ] {
            assert_eq!(of(path), expected, "{path}");
        }
        assert_eq!(route("/v1/policies"), Some(Route::Policies));
        assert_eq!(route("/v1/feed"), Some(Route::Feed));
    }
}
