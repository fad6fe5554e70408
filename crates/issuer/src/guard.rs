//! What every answer says to browsers, and which web pages may ask.

mod cors;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};

pub(crate) use self::cors::{allow_origin, is_foreign, preflight};

/// A year, and every host below: what is once reached by https is never reached otherwise (RFC 6797).
const HSTS: HeaderValue = HeaderValue::from_static("max-age=31536000; includeSubDomains");
/// An answer is data: nothing in it is loaded, run or framed.
const NOTHING: HeaderValue = HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; base-uri 'none'");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Whether an answer may be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// By nobody: it holds tokens, or is about a person.
    Never,
    /// As it says itself: keys and discovery.
    AsItSays,
}

/// Writes the headers that every answer has. What the answer says itself stays, so that a page of ours keeps its own policy.
/// `https`: the policy's issuer is reached by it.
pub(crate) fn protect(headers: &mut HeaderMap, https: bool, keeping: Keeping) {
    let mut unless_said = |name: HeaderName, value: HeaderValue| {
        headers.entry(name).or_insert(value);
    };
    unless_said(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    unless_said(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    unless_said(header::CONTENT_SECURITY_POLICY, NOTHING);
    unless_said(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    unless_said(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    if https {
        unless_said(header::STRICT_TRANSPORT_SECURITY, HSTS);
    }
    if keeping == Keeping::Never {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::PRAGMA, HeaderValue::from_static("no-cache"));
    }
}

/// Whether a request that came by this name is answered. `trusted` holds hosts, each with a port or without (then any), and
/// `*.shop.example` for every host below one; an empty list trusts all.
pub(crate) fn host_allowed(host: &str, trusted: &[String]) -> bool {
    let (name, port) = split_port(host);
    trusted.is_empty()
        || trusted.iter().any(|allowed| {
            let (allowed_name, allowed_port) = split_port(allowed);
            let fits = match allowed_name.strip_prefix('*') {
                Some(domain) if domain.starts_with('.') => ends_with(name, domain),
                _ => name.eq_ignore_ascii_case(allowed_name),
            };
            fits && (allowed_port.is_none() || allowed_port == port)
        })
}

fn ends_with(name: &str, domain: &str) -> bool {
    let at = name.len().checked_sub(domain.len()).filter(|at| *at > 0);
    at.and_then(|at| name.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(domain))
}

/// Name and port. An IPv6 address stands in brackets, which hold its colons.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(headers: &HeaderMap, name: &str) -> Option<String> {
        headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn every_answer_is_data_that_nobody_frames_or_keeps() {
        let mut headers = HeaderMap::new();
        protect(&mut headers, true, Keeping::Never);
        for (name, part) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("content-security-policy", "frame-ancestors 'none'"),
            ("referrer-policy", "no-referrer"),
            ("strict-transport-security", "max-age=31536000"),
            ("cache-control", "no-store"),
            ("pragma", "no-cache"),
        ] {
            assert!(told(&headers, name).is_some_and(|value| value.contains(part)), "{name}");
        }
    }

    #[test]
    fn plain_http_promises_nothing_and_keys_may_be_kept() {
        let mut headers = HeaderMap::new();
        headers.insert("cache-control", HeaderValue::from_static("public, max-age=300"));
        headers.insert("content-security-policy", HeaderValue::from_static("its own"));
        protect(&mut headers, false, Keeping::AsItSays);
        assert_eq!(told(&headers, "strict-transport-security"), None);
        assert_eq!(told(&headers, "cache-control").as_deref(), Some("public, max-age=300"));
        assert_eq!(told(&headers, "content-security-policy").as_deref(), Some("its own"));
    }

    #[test]
    fn a_host_is_trusted_by_name_by_port_or_by_domain() {
        let trusted = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        for (hosts, host, allowed) in [
            (&[][..], "anything", true),
            (&["auth.shop.example"], "auth.shop.example", true),
            (&["auth.shop.example"], "AUTH.shop.example:8443", true),
            (&["auth.shop.example:8443"], "auth.shop.example:8443", true),
            (&["auth.shop.example:8443"], "auth.shop.example", false),
            (&["auth.shop.example"], "auth.shop.example.evil.example", false),
            (&["*.shop.example"], "a.b.shop.example", true),
            (&["*.shop.example"], "shop.example", false),
            (&["*.shop.example"], ".shop.example", false),
            (&["*.shop.example"], "evilshop.example", false),
            (&["*"], "anything", false),
            (&["[::1]"], "[::1]:7490", true),
            (&["[::1]:7490"], "[::1]", false),
            (&["a.example", "b.example"], "b.example", true),
            (&["a.example"], "", false),
        ] {
            assert_eq!(host_allowed(host, &trusted(hosts)), allowed, "{hosts:?} {host}");
        }
    }

    proptest! {
        #[test]
        fn no_host_makes_it_panic_and_none_but_its_own_passes(host in "\\PC{0,40}") {
            let trusted = ["auth.shop.example".to_owned(), "*.cdn.example".to_owned()];
            if host_allowed(&host, &trusted) {
                let name = split_port(&host).0.to_ascii_lowercase();
                prop_assert!(name == "auth.shop.example" || name.ends_with(".cdn.example"));
            }
        }
    }
}
