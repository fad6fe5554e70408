//! Refusals in OAuth's words.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

use crate::problem::{Failed, Problem};

/// An error of RFC 6749 section 5.2.
#[derive(Debug)]
pub(crate) struct OauthError {
    status: StatusCode,
    error: &'static str,
    description: String,
    /// Whether the client tried to authenticate by `Authorization`.
    basic: bool,
    /// What else is to be told, as the position of what has ended.
    members: Map<String, Value>,
    /// In how many seconds to try again.
    retry_after_s: Option<u64>,
}

impl OauthError {
    pub(super) fn new(error: &'static str, description: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            error,
            description: description.into(),
            basic: false,
            members: Map::new(),
            retry_after_s: None,
        }
    }

    pub(super) fn access_denied(description: &str) -> Self {
        Self { status: StatusCode::FORBIDDEN, ..Self::new("access_denied", description) }
    }

    pub(super) fn invalid_client(basic: bool) -> Self {
        let description = "the client is unknown, or its secret is wrong".to_owned();
        Self { status: StatusCode::UNAUTHORIZED, basic, ..Self::new("invalid_client", description) }
    }
}

impl From<Failed> for OauthError {
    fn from(failed: Failed) -> Self {
        let problem = Problem::from(failed);
        let (status, description, retry_after_s) = (problem.status(), problem.detail().to_owned(), problem.retry_after_s());
        let (status, error) = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => (StatusCode::BAD_REQUEST, "invalid_grant"),
            // RFC 6749 has no word for a limit; what its client should do is the same.
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => (status, "temporarily_unavailable"),
            status if status.is_server_error() => (status, "server_error"),
            // RFC 6749 section 5.2.
            StatusCode::UNPROCESSABLE_ENTITY => (StatusCode::BAD_REQUEST, "invalid_request"),
            status => (status, "invalid_request"),
        };
        Self { status, members: problem.into_members(), retry_after_s, ..Self::new(error, description) }
    }
}

impl From<Problem> for OauthError {
    fn from(problem: Problem) -> Self {
        Failed::from(problem).into()
    }
}

/// The answer to a method that a call doesn't take, in the words of whoever speaks there.
pub(crate) fn no_such_method(path: &str) -> Response {
    let problem = Problem::method_not_allowed("no such method on this call");
    if path.starts_with("/oauth/") {
        OauthError::from(problem).into_response()
    } else if path == "/userinfo" {
        described(problem.into()).into_response()
    } else {
        problem.into_response()
    }
}

/// The answer to who may not come from where they are, in the words of whoever speaks there.
pub(crate) fn turned_away(path: &str, problem: Problem) -> Response {
    if path.starts_with("/oauth/") {
        OauthError::access_denied(problem.detail()).into_response()
    } else {
        problem.into_response()
    }
}

/// A refusal in our words, which says the same in OAuth's (RFC 6750 section 3).
pub(super) fn described(failed: Failed) -> Problem {
    let problem = Problem::from(failed);
    let description = problem.detail().to_owned();
    problem.with("error_description", description)
}

impl IntoResponse for OauthError {
    fn into_response(self) -> Response {
        let mut body = self.members;
        body.insert("error".to_owned(), json!(self.error));
        body.insert("error_description".to_owned(), json!(self.description));
        let mut response = (self.status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response();
        if self.status == StatusCode::UNAUTHORIZED && self.basic {
            let challenge = HeaderValue::from_static("Basic realm=\"oauth\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_now_says_when_to_try_again_and_what_is_wrong_is_400() {
        for (problem, status, retry_after) in [
            (Problem::unavailable("x"), 503, Some("1")),
            (Problem::overloaded(), 503, Some("1")),
            (Problem::unavailable("x").retry_after(7), 503, Some("7")),
            (Problem::validation("a text holds a NUL character"), 400, None),
            (Problem::too_large(1024), 413, None),
        ] {
            let answer = OauthError::from(problem.clone()).into_response();
            let told = answer.headers().get(header::RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!((answer.status().as_u16(), told), (status, retry_after), "{problem:?}");
        }
    }
}
