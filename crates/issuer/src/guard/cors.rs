//! Which pages of other origins may call (Fetch Standard, section 3.2).

use axum::{
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use countersign_api::policy::EffectiveCors;

const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
const REQUEST_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, x-csrf-token, x-api-key, x-request-id");
const EXPOSED: HeaderValue =
    HeaderValue::from_static("RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, X-Request-Id");
/// How long a browser need not ask again, seconds: short, so that a change of the policy soon holds.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");
/// What the answer depends on.
const VARY: HeaderValue = HeaderValue::from_static("Origin, Access-Control-Request-Method, Access-Control-Request-Headers");

/// The answer to a browser that asks before it calls. `None` when the request isn't such a question, or the policy takes no
/// calls from other origins: then OPTIONS is a method like any other. Whatever the origin, 204: one that isn't allowed
/// learns so by what is not in it.
pub(crate) fn preflight(settings: Option<&EffectiveCors>, method: &Method, request: &HeaderMap) -> Option<Response> {
    let settings = settings?;
    let asks = request.contains_key(header::ORIGIN) && request.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if method != Method::OPTIONS || !asks {
        return None;
    }
    let mut answer = StatusCode::NO_CONTENT.into_response();
    let headers = answer.headers_mut();
    if allowed(settings, request, headers) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    }
    headers.insert(header::VARY, VARY);
    Some(answer)
}

/// Says on an answer whether the calling page may read it.
pub(crate) fn allow_origin(settings: Option<&EffectiveCors>, request: &HeaderMap, answer: &mut HeaderMap) {
    let Some(settings) = settings else { return };
    // Also where no origin is told: a cache must not give that answer to one that tells it.
    answer.append(header::VARY, HeaderValue::from_static("Origin"));
    if allowed(settings, request, answer) {
        answer.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
}

/// Whether a page made a browser send a request that is neither of the origin that is asked, nor the issuer's own, nor named
/// by the policy. Who is no browser tells of no origin.
pub(crate) fn is_foreign(settings: Option<&EffectiveCors>, issuer: &str, request: &HeaderMap) -> bool {
    // Browsers alone write this one; `none` is the person themselves.
    let site = request.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site.is_some_and(|site| site == b"same-origin" || site == b"none") {
        return false;
    }
    let mut origins = request.get_all(header::ORIGIN).iter();
    let origin = match (origins.next(), origins.next()) {
        (None, _) => return site.is_some(),
        (Some(origin), None) => origin.to_str().ok(),
        (Some(_), Some(_)) => None,
    };
    let Some((origin, (_, host))) = origin.and_then(|origin| Some((origin, origin.split_once("://")?))) else {
        return true;
    };
    let asked = request.get(header::HOST).and_then(|host| host.to_str().ok());
    let of_asked = asked.is_some_and(|asked| asked.eq_ignore_ascii_case(host));
    let of_issuer = issuer
        .split_at_checked(origin.len())
        .is_some_and(|(start, path)| start.eq_ignore_ascii_case(origin) && (path.is_empty() || path.starts_with('/')));
    !(of_asked || of_issuer || settings.is_some_and(|settings| is_named(settings, origin)))
}

fn is_named(settings: &EffectiveCors, origin: &str) -> bool {
    settings.allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin))
}

/// The origin is named back, never `*` together with credentials, and `null` (a sandboxed page, a local file) is nobody.
fn allowed(settings: &EffectiveCors, request: &HeaderMap, answer: &mut HeaderMap) -> bool {
    let mut origins = request.get_all(header::ORIGIN).iter();
    let (Some(origin), None) = (origins.next(), origins.next()) else { return false };
    let Ok(shown) = origin.to_str() else { return false };
    let named = is_named(settings, shown);
    let credentials = settings.allow_credentials;
    let all = !credentials && settings.allowed_origins.iter().any(|allowed| allowed == "*");
    if shown == "null" || !(named || all) {
        return false;
    }
    let answered = if all { HeaderValue::from_static("*") } else { origin.clone() };
    answer.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, answered);
    if credentials {
        answer.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    }
    true
}

#[cfg(test)]
mod tests {
    use countersign_api::{Resolve as _, policy::Cors};

    use super::*;

    const SHOP: &str = "https://shop.example";

    fn settings(origins: &[&str], credentials: bool) -> EffectiveCors {
        let allowed_origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        Cors { allowed_origins, allow_credentials: Some(credentials) }.resolve()
    }

    fn from(origin: &str) -> HeaderMap {
        let pairs = [("origin", origin), ("access-control-request-method", "DELETE")];
        pairs.into_iter().map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_str(v).unwrap())).collect()
    }

    fn told(headers: &HeaderMap, name: &str) -> Option<String> {
        headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_page_is_foreign_unless_it_is_of_the_host_the_issuer_or_the_list() {
        let issuer = "https://auth.example/people";
        let named = settings(&[SHOP], true);
        let all = settings(&["*"], false);
        for (cors, headers, foreign) in [
            (None, &[][..], false),
            (None, &[("sec-fetch-site", "cross-site")], true),
            (None, &[("sec-fetch-site", "same-site")], true),
            (None, &[("sec-fetch-site", "none")], false),
            (None, &[("sec-fetch-site", "same-origin"), ("origin", "https://inner.example")], false),
            (None, &[("origin", "https://auth.example"), ("sec-fetch-site", "cross-site")], false),
            (None, &[("origin", "https://auth.example.evil.example")], true),
            (None, &[("origin", "https://auth.exampl")], true),
            (None, &[("origin", "https://")], true),
            (None, &[("origin", "http://auth.example")], true),
            (None, &[("origin", "https://behind.example:8443"), ("host", "behind.example:8443")], false),
            (None, &[("origin", SHOP)], true),
            (Some(&named), &[("origin", SHOP), ("sec-fetch-site", "cross-site")], false),
            (Some(&named), &[("origin", "null")], true),
            (Some(&named), &[("origin", SHOP), ("origin", SHOP)], true),
            // Whoever may read without cookies may not put any.
            (Some(&all), &[("origin", SHOP)], true),
        ] {
            let mut request = HeaderMap::new();
            for (name, value) in headers {
                request.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(is_foreign(cors, issuer, &request), foreign, "{headers:?}");
        }
    }

    #[test]
    fn a_page_may_call_when_its_origin_is_on_the_list() {
        for (origins, credentials, origin, expected) in [
            (&[SHOP][..], false, SHOP, Some(SHOP)),
            (&[SHOP], true, "https://SHOP.example", Some("https://SHOP.example")),
            (&[SHOP], true, "https://shop.example:8443", None),
            (&[SHOP], true, "http://shop.example", None),
            (&[SHOP], true, "https://shop.example.evil.example", None),
            (&["*"], false, "https://anybody.example", Some("*")),
            (&["*"], true, "https://anybody.example", None),
            (&["*"], false, "null", None),
            (&["null"], false, "null", None),
        ] {
            let mut answer = HeaderMap::new();
            allow_origin(Some(&settings(origins, credentials)), &from(origin), &mut answer);
            assert_eq!(told(&answer, "access-control-allow-origin").as_deref(), expected, "{origins:?} {origin}");
            let with = told(&answer, "access-control-allow-credentials");
            assert_eq!(with.is_some(), credentials && expected.is_some(), "{origins:?} {origin}");
            assert_eq!(told(&answer, "vary").as_deref(), Some("Origin"));
            assert_eq!(told(&answer, "access-control-expose-headers").is_some(), expected.is_some());
        }
    }

    #[test]
    fn a_browser_that_asks_first_is_told_what_it_may() {
        let settings = settings(&[SHOP], true);
        let answer = preflight(Some(&settings), &Method::OPTIONS, &from(SHOP)).unwrap();
        assert_eq!(answer.status(), StatusCode::NO_CONTENT);
        for (name, part) in [
            ("access-control-allow-methods", "DELETE"),
            ("access-control-allow-methods", "PATCH"),
            ("access-control-allow-headers", "x-csrf-token"),
            ("access-control-allow-origin", SHOP),
            ("vary", "Origin"),
        ] {
            assert!(told(answer.headers(), name).is_some_and(|value| value.contains(part)), "{name}");
        }
        let refused = preflight(Some(&settings), &Method::OPTIONS, &from("https://evil.example")).unwrap();
        assert!(refused.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
    }

    #[test]
    fn what_is_no_question_of_a_browser_is_a_call_like_any_other() {
        let settings = settings(&[SHOP], false);
        assert!(preflight(None, &Method::OPTIONS, &from(SHOP)).is_none());
        assert!(preflight(Some(&settings), &Method::POST, &from(SHOP)).is_none());
        assert!(preflight(Some(&settings), &Method::OPTIONS, &HeaderMap::new()).is_none());
        let mut answer = HeaderMap::new();
        allow_origin(None, &from(SHOP), &mut answer);
        assert!(answer.is_empty(), "without a list the browser's own rule holds");
        let mut two = from(SHOP);
        two.append("origin", HeaderValue::from_static(SHOP));
        allow_origin(Some(&settings), &two, &mut answer);
        assert_eq!(told(&answer, "access-control-allow-origin"), None);
    }
}
