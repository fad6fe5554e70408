//! Verdicts on the wire.

use bytes::Bytes;
use countersign_core::{
    check::{Allowed, Authenticated},
    jose::needs_no_escape,
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
    let mut out = Vec::with_capacity(640 + credential.claims_json().len());
    out.extend_from_slice(b"{\"verdict\":");
    add_text(&mut out, VALID);
    out.extend_from_slice(b",\"kind\":");
    add_text(&mut out, credential.kind().word());
    out.extend_from_slice(b",\"issuer\":");
    add_optional(&mut out, credential.issuer());
    out.extend_from_slice(b",\"subject\":");
    add_text(&mut out, credential.subject());
    out.extend_from_slice(b",\"audience\":");
    add_list(&mut out, credential.audience());
    out.extend_from_slice(b",\"session_id\":");
    add_optional(&mut out, credential.session_id());
    out.extend_from_slice(b",\"token_id\":");
    add_optional(&mut out, credential.token_id());
    out.extend_from_slice(b",\"issued_at\":");
    add_seconds(&mut out, credential.issued_at());
    out.extend_from_slice(b",\"expires_at\":");
    add_seconds(&mut out, credential.expires_at());
    out.extend_from_slice(b",\"roles\":");
    add_list(&mut out, credential.roles());
    out.extend_from_slice(b",\"permissions\":");
    add_list(&mut out, credential.permissions());
    out.extend_from_slice(b",\"scopes\":");
    add_list(&mut out, credential.scopes());
    out.extend_from_slice(b",\"amr\":");
    add_list(&mut out, credential.amr());
    out.extend_from_slice(b",\"claims\":");
    out.extend_from_slice(credential.claims_json().as_bytes());
    out.extend_from_slice(b",\"position\":");
    out
}

fn add_text(out: &mut Vec<u8>, text: &str) {
    if needs_no_escape(text) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        serde_json::to_writer(out, text).expect("a string is always written to memory");
    }
}

fn add_optional(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => add_text(out, text),
        None => out.extend_from_slice(b"null"),
    }
}

fn add_list(out: &mut Vec<u8>, items: &[String]) {
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        add_text(out, item);
    }
    out.push(b']');
}

fn add_seconds(out: &mut Vec<u8>, time: Option<UnixMillis>) {
    match time {
        Some(time) => out.extend_from_slice(itoa::Buffer::new().format(time.as_secs()).as_bytes()),
        None => out.extend_from_slice(b"null"),
    }
}

/// What the moment adds to a 200 body: the same for all that one position and age are told to.
pub(crate) struct Ending {
    text: [u8; Self::MOST],
    len: usize,
}

impl Ending {
    /// A position of two numbers, the members' names, another number.
    const MOST: usize = 128;

    /// The value of `position`, what follows it, and the end of the body.
    pub(crate) fn of(allowed: &Allowed<'_>, position: Option<Position>) -> Self {
        let mut ending = Self { text: [0; Self::MOST], len: 0 };
        let mut number = itoa::Buffer::new();
        match position {
            Some(position) => {
                ending.add(b"\"e");
                ending.add(number.format(position.epoch()).as_bytes());
                ending.add(b"n");
                ending.add(number.format(position.place()).as_bytes());
                ending.add(b"\"");
            }
            None => ending.add(b"null"),
        }
        ending.add(if allowed.stale() { b",\"stale\":true,\"stale_ms\":" } else { b",\"stale\":false,\"stale_ms\":" });
        match allowed.stale_ms() {
            Some(ms) => ending.add(number.format(ms).as_bytes()),
            None => ending.add(b"null"),
        }
        ending.add(b"}");
        ending
    }

    fn add(&mut self, part: &[u8]) {
        self.text[self.len..self.len + part.len()].copy_from_slice(part);
        self.len += part.len();
    }

    fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

/// A 200 body: `prefix` and what the moment adds. Exactly as large as it is: the library then needs no second allocation.
pub(crate) fn valid_body(prefix: &[u8], ending: &Ending) -> Vec<u8> {
    [prefix, ending.as_bytes()].concat()
}

/// One result of a batch: a 200 body with its status.
pub(crate) fn valid_item(out: &mut Vec<u8>, prefix: &[u8], ending: &Ending) {
    out.extend_from_slice(b"{\"status\":200,");
    out.extend_from_slice(&prefix[1..]);
    out.extend_from_slice(ending.as_bytes());
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
    fn what_is_written_by_hand_is_what_the_library_writes() {
        for text in ["", "user-1", "a\"b", "back\\slash", "line\nbreak", "nul\0", "\u{7f}", "zoë 😀", "https://a/b"] {
            let mut out = Vec::new();
            add_text(&mut out, text);
            assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(text).unwrap());
            let list = vec![text.to_owned(), "b".to_owned()];
            let mut out = Vec::new();
            add_list(&mut out, &list);
            assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&list).unwrap());
        }
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
