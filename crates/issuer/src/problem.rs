//! Errors as the contract words them: `{"error": code, "detail": …}`, with the fix where one is known.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use countersign_store::{Failure, StoreError};
use serde_json::{Map, Value, json};

use crate::{
    limits::{Standing, rate_limit_headers},
    minter::MintError,
};

/// What is wrong with a request, or with us. The detail is safe to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    error: &'static str,
    detail: String,
    fix: Option<String>,
    bare_challenge: bool,
    suspicious: bool,
    members: Map<String, Value>,
    retry_after_s: Option<u64>,
    limit: Option<Box<Standing>>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, error: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            error,
            detail: detail.into(),
            fix: None,
            bare_challenge: false,
            suspicious: false,
            members: Map::new(),
            retry_after_s: None,
            limit: None,
        }
    }

    /// 400: not understood at all.
    pub(crate) fn invalid_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// 422: understood, and wrong.
    pub(crate) fn validation(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed", detail)
    }

    /// 404.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 401 without any credential: the challenge then names no error (RFC 6750 section 3.1).
    pub(crate) fn no_credential(detail: impl Into<String>) -> Self {
        Self { bare_challenge: true, ..Self::new(StatusCode::UNAUTHORIZED, "invalid_token", detail) }
    }

    /// Whether it is the refusal of who showed no credential at all.
    pub(crate) const fn is_of_nobody(&self) -> bool {
        self.bare_challenge
    }

    /// 405.
    pub(crate) fn method_not_allowed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    /// 408.
    pub(crate) fn too_slow(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail)
    }

    /// 413.
    pub(crate) fn too_large(limit: usize) -> Self {
        let detail = format!("the body is over {} KiB", limit / 1024);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
    }

    /// 401.
    pub(crate) fn invalid_token(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_token", detail)
    }

    /// 403.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 403: from an address that the policy's lists, or a block, turn away.
    pub(crate) fn not_from_there() -> Self {
        Self::new(StatusCode::FORBIDDEN, "address_blocked", "the client's address is not allowed")
    }

    /// 503: to be tried again.
    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", detail)
    }

    /// 503 while the store is out of reach, else 500; in the log.
    pub(crate) fn of_store(error: &StoreError) -> Self {
        if error.is_away() {
            tracing::warn!(%error, "the store is out of reach");
            return Self::unavailable("the store is out of reach; try again soon");
        }
        Self::internal(error)
    }

    /// 500: ours, and in the log.
    pub(crate) fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request failed here; the log says why")
    }

    /// 401: wrong name or wrong password, in one answer.
    pub(crate) fn invalid_credentials() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_credentials", "the name or the password is wrong")
    }

    /// 503: too much at once.
    pub(crate) fn overloaded() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "overloaded",
            "too many passwords are waiting to be checked; try again soon",
        )
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// In how many seconds to try again, where it says so.
    pub(crate) fn retry_after_s(&self) -> Option<u64> {
        self.retry_after_s.or((self.status == StatusCode::SERVICE_UNAVAILABLE).then_some(1))
    }

    /// What it tells beside its code and detail.
    pub(crate) fn into_members(self) -> Map<String, Value> {
        self.members
    }

    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// 429, with how the limit stands.
    pub(crate) fn rate_limited(standing: Standing) -> Self {
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many tries; wait, and try again");
        Self { limit: Some(Box::new(standing)), ..problem }
    }

    /// Worth a line in the audit trail.
    #[must_use]
    pub(crate) fn suspicious(self) -> Self {
        Self { suspicious: true, ..self }
    }

    pub(crate) const fn is_suspicious(&self) -> bool {
        self.suspicious
    }

    /// 409: a name or an address that another account has.
    pub(crate) fn already_registered(what: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "already_registered", format!("{what} is taken"))
    }

    /// Another member of the answer.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.members.insert(name.to_owned(), value.into());
        self
    }

    /// `Retry-After`, seconds.
    #[must_use]
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    #[must_use]
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let retry_after = self.retry_after_s();
        let mut body = json!({"error": self.error, "detail": self.detail});
        if let Some(fix) = self.fix {
            body["fix"] = json!(fix);
        }
        if let Value::Object(body) = &mut body {
            body.extend(self.members);
        }
        let mut response = (self.status, axum::Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            let challenge = if self.bare_challenge { "Bearer" } else { "Bearer error=\"invalid_token\"" };
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(standing) = &self.limit {
            rate_limit_headers(response.headers_mut(), standing);
        }
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Why a call was not done: its own fault or ours, or the store's, which is tried again where that helps.
#[derive(Debug)]
pub(crate) enum Failed {
    /// What the caller is told.
    Problem(Box<Problem>),
    /// The store.
    Store(StoreError),
}

impl Failed {
    /// Whether the caller is told this code.
    pub(crate) fn is(&self, code: &str) -> bool {
        matches!(self, Self::Problem(problem) if problem.error == code)
    }
}

impl From<Problem> for Failed {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<MintError> for Failed {
    fn from(error: MintError) -> Self {
        match error {
            MintError::Store(error) => Self::Store(error),
            error => Problem::from(&error).into(),
        }
    }
}

impl From<&MintError> for Problem {
    fn from(error: &MintError) -> Self {
        match error {
            MintError::Invalid(_) | MintError::VerifiesOnly(_) | MintError::SessionEnded | MintError::Ended => {
                Self::validation(error.to_string())
            }
            MintError::NoEmergency(..) => Self::forbidden(error.to_string()),
            MintError::NoSigningKey(..) | MintError::Unconfirmed(..) | MintError::ClockBehind { .. } => {
                Self::unavailable(error.to_string())
            }
            MintError::Store(error) => Self::of_store(error),
            MintError::Sign(_) => Self::internal(error),
        }
    }
}

impl Failure for Failed {
    fn of_store(&self) -> Option<&StoreError> {
        if let Self::Store(error) = self { Some(error) } else { None }
    }
}

impl From<Failed> for Problem {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Problem(problem) => *problem,
            Failed::Store(StoreError::Nul) => Self::validation("a text holds a NUL character"),
            Failed::Store(error) => Self::of_store(&error),
        }
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
