//! Forward-auth: a proxy asks with the request's own headers, and reads status and headers.

use std::{
    borrow::Cow,
    fmt::Write as _,
    sync::{OnceLock, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use countersign_core::{
    check::{Ask, Authenticated, Require},
    rules,
    verdict::{Denial, DenialReason, Refusal, VALID},
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header, request::Parts};

use super::{
    csrf,
    forwarded::{Options, Original},
    problem::Problem,
    verdict::{add_refusal_headers, status_of},
};
use crate::{
    app::{Absent, App, Granted, Question},
    net::{Answer, Peer},
    slot::PolicySlot,
};

const SUBJECT: HeaderName = HeaderName::from_static("x-auth-subject");
const SESSION: HeaderName = HeaderName::from_static("x-auth-session");
const ROLES: HeaderName = HeaderName::from_static("x-auth-roles");
const EXPIRES: HeaderName = HeaderName::from_static("x-auth-expires");
const VERDICT: HeaderName = HeaderName::from_static("x-auth-verdict");
const STALE: HeaderName = HeaderName::from_static("x-auth-stale");
const STATUS: HeaderName = HeaderName::from_static("x-auth-status");
const PERMISSIONS: HeaderName = HeaderName::from_static("x-auth-permissions");
const TRUNCATED: HeaderName = HeaderName::from_static("x-auth-truncated");
const ERROR: HeaderName = HeaderName::from_static("x-auth-error");

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What all `X-Auth-…` headers may take, names and values.
const MAX_AUTH_HEADERS: usize = 4096;

/// Answers `…/authorize` and, with `rest`, `…/authorize/{rest}`.
pub(crate) fn authorize(app: &App, name: &str, rest: Option<&str>, head: &Parts, peer: Peer) -> Answer {
    let mut options = Options::default();
    match judged(app, name, rest, head, peer, &mut options) {
        Ok(answer) => answer,
        Err(problem) => wrong(app, &problem, &options),
    }
}

/// The answer to a request that is itself wrong.
pub(crate) fn wrong(app: &App, problem: &Problem, options: &Options) -> Answer {
    app.metrics.bad_requests.fetch_add(1, Relaxed);
    let mut answer = blank(problem.status, "", options);
    let headers = answer.headers_mut();
    if let Ok(detail) = HeaderValue::from_str(&problem.detail) {
        headers.insert(ERROR, detail);
    }
    if problem.close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

fn judged(
    app: &App,
    name: &str,
    rest: Option<&str>,
    head: &Parts,
    peer: Peer,
    options: &mut Options,
) -> Result<Answer, Problem> {
    // Read first and applied to every answer: what nginx can't understand, it must never get.
    let query = head.uri.query();
    let read = if rest.is_none() { options.add_query(query.unwrap_or_default()) } else { Ok(()) };
    let read = read.and_then(|()| options.add_headers(&head.headers));
    let snapshot = app.snapshot.load();
    let Some(slot) = snapshot.find(name) else {
        return match app.absent(&snapshot, name) {
            Absent::Unknown => Err(Problem::unknown_policy()),
            Absent::NotReady => Ok(refused(&Refusal::NotReady, options)),
        };
    };
    read?;
    let trusted = &app.settings.trusted_proxies;
    let original = match rest {
        Some(rest) => Original::itself(&head.method, rest, query, &head.headers, peer, trusted)?,
        None => Original::from_headers(&head.headers, peer, trusted)?,
    };
    if original.ignored {
        app.metrics.ignored_headers.fetch_add(1, Relaxed);
    }
    let credential = match credential(slot, &head.headers)? {
        Ok(credential) => credential,
        Err(refusal) => {
            slot.counters.verdict(Some(&refusal), false);
            return Ok(refused(&refusal, options));
        }
    };
    Ok(judge(app, slot, &credential, &original, options, &head.headers, peer))
}

fn judge(
    app: &App,
    slot: &PolicySlot,
    credential: &Credential<'_>,
    original: &Original,
    options: &Options,
    headers: &HeaderMap,
    peer: Peer,
) -> Answer {
    let list = |items: &[String]| items.iter().map(|i| Cow::Owned(i.clone())).collect();
    let user_agent = headers.get(header::USER_AGENT).and_then(|v| v.to_str().ok());
    let ask = Ask {
        require: Require {
            permissions: list(&options.permissions),
            roles: list(&options.roles),
            scopes: list(&options.scopes),
            audiences: list(&options.audiences),
        },
        request: rules::Request {
            method: original.method.as_deref(),
            path: original.path.as_deref(),
            host: original.host.as_deref(),
            query: original.query.as_deref(),
        },
        client: rules::Client { ip: original.ip, user_agent, device_id: None },
    };
    let moment = app.moment(slot);
    let needs_csrf = credential.from_cookie && !csrf::is_safe(original.method.as_deref());
    let question = Question { token: &credential.token, ask, caller: peer, behind: false };
    let forged = |credential: &Authenticated| {
        let holds = !needs_csrf || csrf::holds(app, slot.policy(), credential, headers, moment.now);
        (!holds).then(|| Refusal::Denied(Denial::of(DenialReason::Csrf)))
    };
    app.judge_also(slot, &question, moment, forged, |outcome| match outcome {
        Ok(granted) => allowed(&granted, options),
        Err(refusal) => refused(&refusal, options),
    })
}

/// A credential and where it was.
struct Credential<'a> {
    token: Cow<'a, str>,
    from_cookie: bool,
}

/// The one credential of a request: bearer, API key or cookie, in this order. A bad one is never passed over for the next.
fn credential<'a>(slot: &PolicySlot, headers: &'a HeaderMap) -> Result<Result<Credential<'a>, Refusal>, Problem> {
    const UNREADABLE: Refusal = Refusal::Malformed("the credential is not plain text");
    const EMPTY: Refusal = Refusal::Malformed("the credential is empty");
    let given = |value: &'a [u8], from_cookie| match std::str::from_utf8(value.trim_ascii()) {
        Ok("") => Err(EMPTY),
        Ok(token) => Ok(Credential { token: Cow::Borrowed(token), from_cookie }),
        Err(_) => Err(UNREADABLE),
    };
    if let Some(value) = only(headers, &header::AUTHORIZATION, "two Authorization headers")? {
        let value = value.as_bytes().trim_ascii();
        let end = value.iter().position(u8::is_ascii_whitespace).unwrap_or(value.len());
        if value[..end].eq_ignore_ascii_case(b"bearer") {
            return Ok(given(&value[end..], false));
        }
    }
    if let Some(value) = only(headers, &API_KEY, "two X-API-Key headers")? {
        return Ok(given(value.as_bytes(), false));
    }
    let Some(prefix) = &slot.loaded.cookie_prefix else { return Ok(Err(Refusal::Missing)) };
    let cookies = headers.get_all(header::COOKIE).iter().flat_map(|value| value.as_bytes().split(|b| *b == b';'));
    let mut found = cookies.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = memchr::memchr(b'=', pair)?;
        let (name, value) = (&pair[..at], &pair[at + 1..]);
        (name.strip_prefix(prefix.as_bytes()) == Some(b"access")).then_some(value)
    });
    match (found.next(), found.next()) {
        (None, _) => Ok(Err(Refusal::Missing)),
        (Some(value), None) => Ok(given(value, true)),
        // Whoever could plant a second one would choose which counts.
        (Some(_), Some(_)) => Ok(Err(Refusal::Malformed("two cookies of that name"))),
    }
}

fn only<'a>(headers: &'a HeaderMap, name: &HeaderName, twice: &'static str) -> Result<Option<&'a HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        _ => Err(Problem::invalid(twice)),
    }
}

/// An answer with every header that a proxy may copy, so that it overwrites what a client sent under those names.
fn blank(status: StatusCode, verdict: &'static str, options: &Options) -> Answer {
    let mut answer = Response::new(http_body_util::Full::default());
    let masked = options.only_401_403
        && matches!(status, StatusCode::NOT_FOUND | StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    *answer.status_mut() = if masked { StatusCode::FORBIDDEN } else { status };
    let headers = answer.headers_mut();
    headers.reserve(10);
    for name in [SUBJECT, SESSION, ROLES, EXPIRES, STALE] {
        headers.insert(name, HeaderValue::from_static(""));
    }
    if options.show_permissions {
        headers.insert(PERMISSIONS, HeaderValue::from_static(""));
    }
    headers.insert(VERDICT, HeaderValue::from_static(verdict));
    headers.insert(STATUS, status.as_u16().into());
    answer
}

fn refused(refusal: &Refusal, options: &Options) -> Answer {
    let mut answer = blank(status_of(refusal), refusal.word(), options);
    add_refusal_headers(answer.headers_mut(), refusal);
    if *refusal == Refusal::Stale {
        answer.headers_mut().insert(STALE, HeaderValue::from_static("true"));
    }
    answer
}

fn allowed(granted: &Granted<'_>, options: &Options) -> Answer {
    let mut answer = Response::new(http_body_util::Full::default());
    let headers = answer.headers_mut();
    headers.clone_from(granted.proven.answer_headers.of(&granted.proven.credential, options.show_permissions));
    if granted.allowed.stale() {
        headers.insert(STALE, HeaderValue::from_static("true"));
    }
    answer
}

/// The headers of an allowed credential's answer, which never change but for `X-Auth-Stale`: made when first asked for.
#[derive(Debug, Default)]
pub(crate) struct AnswerHeaders {
    plain: OnceLock<HeaderMap>,
    with_permissions: OnceLock<HeaderMap>,
}

impl AnswerHeaders {
    fn of(&self, credential: &Authenticated, show_permissions: bool) -> &HeaderMap {
        let made = if show_permissions { &self.with_permissions } else { &self.plain };
        made.get_or_init(|| fresh_headers(credential, show_permissions))
    }
}

fn fresh_headers(credential: &Authenticated, show_permissions: bool) -> HeaderMap {
    let options = Options { show_permissions, ..Options::default() };
    let mut headers = std::mem::take(blank(StatusCode::OK, VALID, &options).headers_mut());
    headers.insert(STALE, HeaderValue::from_static("false"));
    if let Some(expires) = credential.expires_at() {
        headers.insert(EXPIRES, expires.as_secs().into());
    }
    let taken: usize = headers.iter().filter(|(name, _)| is_ours(name)).map(|(n, v)| n.as_str().len() + v.len()).sum();
    let mut room = Room { left: MAX_AUTH_HEADERS - taken - (TRUNCATED.as_str().len() + 1), cut: false };
    if let Some(subject) = room.whole(credential.subject()) {
        headers.insert(SUBJECT, subject);
    }
    if let Some(session) = credential.session_id().and_then(|session| room.whole(session)) {
        headers.insert(SESSION, session);
    }
    headers.insert(ROLES, room.list(credential.roles()));
    if show_permissions {
        headers.insert(PERMISSIONS, room.list(credential.permissions()));
    }
    if room.cut {
        headers.insert(TRUNCATED, HeaderValue::from_static("1"));
    }
    pack(&mut headers);
    headers
}

/// Lets the values share one allocation: a clone of them then counts in one place.
fn pack(headers: &mut HeaderMap) {
    let whole: Bytes = headers.values().flat_map(|value| value.as_bytes().iter().copied()).collect();
    let mut start = 0;
    for value in headers.values_mut() {
        let end = start + value.len();
        if start < end {
            *value = HeaderValue::from_maybe_shared(whole.slice(start..end)).expect("parts of headers stand in headers");
        }
        start = end;
    }
}

fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-auth-")
}

/// What is left of the room for headers.
struct Room {
    left: usize,
    cut: bool,
}

impl Room {
    /// A value that would mean something else if it were cut: whole or not at all.
    fn whole(&mut self, text: &str) -> Option<HeaderValue> {
        let mut value = String::new();
        self.push(&mut value, text).then(|| header_value(value))
    }

    /// As many items as fit.
    fn list(&mut self, items: &[String]) -> HeaderValue {
        let mut value = String::new();
        for item in items {
            if !self.push(&mut value, item) {
                break;
            }
        }
        header_value(value)
    }

    fn push(&mut self, value: &mut String, item: &str) -> bool {
        let before = value.len();
        if before > 0 {
            value.push(',');
        }
        encode(value, item);
        if let Some(left) = self.left.checked_sub(value.len() - before) {
            self.left = left;
            true
        } else {
            value.truncate(before);
            self.cut = true;
            false
        }
    }
}

/// Percent-encodes what can't stand in a header or would end an item.
fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b',' | b'%') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
}

fn header_value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("visible ASCII stands in every header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_cut_at_an_item_and_names_never() {
        let mut room = Room { left: 10, cut: false };
        assert_eq!(room.whole("a b").unwrap(), "a%20b");
        assert_eq!(room.list(&["x,y".into(), "z".into()]), "x%2Cy");
        assert!(room.cut);
        assert_eq!(room.whole("é"), None);
    }

    #[test]
    fn only_what_nginx_cannot_take_is_masked() {
        let options = Options { only_401_403: true, ..Options::default() };
        for (status, shown) in [(404, 403), (429, 403), (503, 403), (401, 401), (403, 403), (400, 400), (200, 200)] {
            let answer = blank(StatusCode::from_u16(status).unwrap(), "x", &options);
            assert_eq!(answer.status().as_u16(), shown);
            assert_eq!(answer.headers()[STATUS], status.to_string().as_str());
        }
    }
}
