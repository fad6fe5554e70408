//! Requests that are themselves wrong (RFC 9457).

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderValue, Method, Response, StatusCode, header};
use http_body_util::Full;

use crate::net::Answer;

/// Why a request can't be judged at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    /// A word from a fixed set.
    pub(crate) error: &'static str,
    /// A sentence for people. Never repeats what the request said.
    pub(crate) detail: Cow<'static, str>,
    /// For 405.
    pub(crate) allow: Option<&'static str>,
    /// The connection can't be used further.
    pub(crate) close: bool,
}

impl Problem {
    fn new(status: StatusCode, error: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, error, detail: detail.into(), allow: None, close: false }
    }

    /// 400.
    pub(crate) fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", detail)
    }

    /// 400, and the connection closes: where the next request begins isn't certain.
    pub(crate) fn ambiguous_length() -> Self {
        let detail = "the request declares its length in more than one way, or in a way that is not understood";
        Self { close: true, ..Self::invalid(detail) }
    }

    /// 404 for a path that leads nowhere.
    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "no such path")
    }

    /// 404 for a policy that isn't known.
    pub(crate) fn unknown_policy() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_policy", "no such policy")
    }

    /// 405.
    pub(crate) fn method(allow: &'static str) -> Self {
        let detail = format!("this path takes {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail) }
    }

    /// 408, and the connection closes.
    pub(crate) fn too_slow() -> Self {
        let detail = "the request's body did not come in time";
        Self { close: true, ..Self::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", detail) }
    }

    /// 413.
    pub(crate) fn too_large(limit: usize) -> Self {
        let detail = format!("the body is over {} KiB", limit / 1024);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
    }

    /// 414.
    pub(crate) fn target_too_long() -> Self {
        Self::new(StatusCode::URI_TOO_LONG, "uri_too_long", "the request target is over 8 KiB")
    }

    /// 415.
    pub(crate) fn media_type(wanted: &'static str) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", wanted)
    }

    /// 503: no room for large requests now.
    pub(crate) fn overloaded() -> Self {
        let detail = "too many large requests at once; try again later";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail)
    }

    /// 431.
    pub(crate) fn headers_too_large() -> Self {
        let detail = "the header fields are over 16 KiB";
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", detail)
    }

    /// The body: a JSON object.
    pub(crate) fn body(&self) -> Vec<u8> {
        let members = serde_json::json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "error": self.error,
            "detail": self.detail,
        });
        members.to_string().into_bytes()
    }

    /// The answer.
    pub(crate) fn answer(&self, method: &Method) -> Answer {
        let body = if *method == Method::HEAD { Bytes::new() } else { self.body().into() };
        let mut answer = Response::new(Full::new(body));
        *answer.status_mut() = self.status;
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}
