//! Verdicts on the wire.

use bytes::Bytes;
use countersign_core::{
    check::{Allowed, Authenticated},
    revocation::Position,
    time::UnixMillis,
    verdict::{DenialReason, Refusal, VALID},
};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::net::Answer;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// All of a 200 body that depends on the credential alone, up to the value of `position`.
pub(crate) fn valid_prefix(credential: &Authenticated) -> Vec<u8> {
    #[derive(Serialize)]
    struct Prefix<'a> {
        verdict: &'static str,
        kind: &'static str,
        issuer: Option<&'a str>,
        subject: &'a str,
        audience: &'a [String],
        session_id: Option<&'a str>,
        token_id: Option<&'a str>,
        issued_at: Option<i64>,
        expires_at: Option<i64>,
        roles: &'a [String],
        permissions: &'a [String],
        scopes: &'a [String],
        amr: &'a [String],
        claims: &'a serde_json::Map<String, serde_json::Value>,
        position: (),
    }
    let prefix = Prefix {
        verdict: VALID,
        kind: credential.kind().word(),
        issuer: credential.issuer(),
        subject: credential.subject(),
        audience: credential.audience(),
        session_id: credential.session_id(),
        token_id: credential.token_id(),
        issued_at: credential.issued_at().map(UnixMillis::as_secs),
        expires_at: credential.expires_at().map(UnixMillis::as_secs),
        roles: credential.roles(),
        permissions: credential.permissions(),
        scopes: credential.scopes(),
        amr: credential.amr(),
        claims: credential.claims(),
        position: (),
    };
    let mut body = serde_json::to_vec(&prefix).expect("strings, numbers and JSON values always serialise");
    body.truncate(body.len() - b"null}".len());
    body
}

/// A 200 body: `prefix` and what the moment adds.
pub(crate) fn valid_body(prefix: &[u8], allowed: &Allowed<'_>, position: Option<Position>) -> Vec<u8> {
    let mut body = Vec::with_capacity(prefix.len() + 96);
    body.extend_from_slice(prefix);
    add_moment(&mut body, allowed, position);
    body
}

/// One result of a batch: a 200 body with its status.
pub(crate) fn valid_item(out: &mut Vec<u8>, prefix: &[u8], allowed: &Allowed<'_>, position: Option<Position>) {
    out.extend_from_slice(b"{\"status\":200,");
    out.extend_from_slice(&prefix[1..]);
    add_moment(out, allowed, position);
}

/// What the moment adds to a prefix, and the end of the body.
fn add_moment(body: &mut Vec<u8>, allowed: &Allowed<'_>, position: Option<Position>) {
    let mut number = itoa::Buffer::new();
    match position {
        Some(position) => {
            body.extend_from_slice(b"\"e");
            body.extend_from_slice(number.format(position.epoch()).as_bytes());
            body.push(b'n');
            body.extend_from_slice(number.format(position.place()).as_bytes());
            body.push(b'"');
        }
        None => body.extend_from_slice(b"null"),
    }
    body.extend_from_slice(if allowed.stale() {
        b",\"stale\":true,\"stale_ms\":"
    } else {
        b",\"stale\":false,\"stale_ms\":"
    });
    match allowed.stale_ms() {
        Some(ms) => body.extend_from_slice(number.format(ms).as_bytes()),
        None => body.extend_from_slice(b"null"),
    }
    body.push(b'}');
}

/// The body of a refusal.
pub(crate) fn refused_body(refusal: &Refusal) -> Vec<u8> {
    #[derive(Serialize)]
    struct Refused<'a> {
        verdict: &'static str,
        detail: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<&'a str>,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        missing: &'a [&'static str],
    }
    let denial = match refusal {
        Refusal::Denied(denial) => Some(denial),
        _ => None,
    };
    let body = Refused {
        verdict: refusal.word(),
        detail: &refusal.detail(),
        reason: denial.map(|d| d.reason.word()),
        rule: denial.and_then(|d| d.rule.as_deref()),
        missing: denial.map_or(&[], |d| &d.missing),
    };
    serde_json::to_vec(&body).expect("strings always serialise")
}

/// The status that mirrors a refusal.
pub(crate) fn status_of(refusal: &Refusal) -> StatusCode {
    StatusCode::from_u16(refusal.status()).expect("refusals have statuses that exist")
}

/// What a refusal says in headers (RFC 6750 section 3, RFC 9110 section 10.2.3).
pub(crate) fn add_refusal_headers(headers: &mut HeaderMap, refusal: &Refusal) {
    let challenge = match refusal {
        Refusal::Missing => Some("Bearer"),
        Refusal::Denied(denial) if denial.reason == DenialReason::Scope => Some("Bearer error=\"insufficient_scope\""),
        refusal if refusal.status() == 401 => Some("Bearer error=\"invalid_token\""),
        _ => None,
    };
    if let Some(challenge) = challenge {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    if let Refusal::RateLimited { retry_after_s } = refusal {
        headers.insert(header::RETRY_AFTER, (*retry_after_s).into());
    }
}

/// 200 with a JSON body.
pub(crate) fn json(body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    answer.headers_mut().insert(header::CONTENT_TYPE, JSON);
    answer
}

/// A refusal as the answer to one question.
pub(crate) fn refused(refusal: &Refusal) -> Answer {
    let mut answer = json(refused_body(refusal));
    *answer.status_mut() = status_of(refusal);
    add_refusal_headers(answer.headers_mut(), refusal);
    answer
}

/// One result of a batch: `{"status":…,` and the members of `body`, which is a JSON object.
pub(crate) fn batch_item(out: &mut Vec<u8>, status: u16, body: &[u8]) {
    debug_assert!(serde_json::from_slice::<&RawValue>(body).is_ok());
    out.extend_from_slice(b"{\"status\":");
    out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
    out.push(b',');
    out.extend_from_slice(&body[1..]);
}

#[cfg(test)]
mod tests {
    use countersign_core::verdict::Denial;

    use super::*;

    #[test]
    fn a_refusal_says_what_applies_and_nothing_else() {
        let rule = Refusal::Denied(Denial {
            reason: DenialReason::Rule,
            rule: Some("temp".into()),
            missing: vec!["request.method"],
        });
        let body: serde_json::Value = serde_json::from_slice(&refused_body(&rule)).unwrap();
        assert_eq!(body["verdict"], "denied");
        assert_eq!(
            (&body["reason"], &body["rule"], &body["missing"][0]),
            (&"rule".into(), &"temp".into(), &"request.method".into())
        );
        let expired: serde_json::Value = serde_json::from_slice(&refused_body(&Refusal::Expired)).unwrap();
        assert_eq!(expired.as_object().unwrap().keys().collect::<Vec<_>>(), ["detail", "verdict"]);
    }

    #[test]
    fn challenges_follow_rfc_6750() {
        let challenge = |refusal: &Refusal| {
            refused(refusal).headers().get(header::WWW_AUTHENTICATE).map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(challenge(&Refusal::Missing).as_deref(), Some("Bearer"));
        assert_eq!(challenge(&Refusal::Expired).as_deref(), Some("Bearer error=\"invalid_token\""));
        let denied = |reason| Refusal::Denied(Denial::of(reason));
        assert_eq!(challenge(&denied(DenialReason::Scope)).as_deref(), Some("Bearer error=\"insufficient_scope\""));
        assert_eq!(challenge(&denied(DenialReason::Role)), None);
        assert_eq!(challenge(&Refusal::Stale), None);
        let limited = refused(&Refusal::RateLimited { retry_after_s: 7 });
        assert_eq!((limited.status().as_u16(), limited.headers()[header::RETRY_AFTER].as_bytes()), (429, &b"7"[..]));
    }
}
