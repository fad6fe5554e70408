//! What is known of who calls, and under which name they called us.

mod device;

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header, uri::Authority};
use countersign_core::proxies::{NotAnAddress, TrustedProxies};
use uuid::Uuid;

use crate::names::is_invisible;

/// The longest part of a `User-Agent` that is kept, bytes.
const MAX_USER_AGENT: usize = 512;
/// The longest `X-Request-Id` that is taken, characters.
const MAX_REQUEST_ID: usize = 128;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The header that names a request, in both directions.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Who calls, as far as a session, an audit row or a limit needs it. Only the address is worth anything: everything else is
/// what the caller chose to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    /// The address, IPv4 within IPv6 as IPv4.
    pub(crate) ip: IpAddr,
    /// The agent, of at most 512 bytes, without characters that would change how a line around it looks.
    pub(crate) user_agent: Option<String>,
    /// The caller's own name for the request, or one of ours. Visible ASCII.
    pub(crate) request_id: String,
    /// The agent in a few words, as `Firefox on Linux`.
    pub(crate) device: String,
}

/// What a proxy of ours says and can't be understood. Never guessed: a limit or a block would hit somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotUnderstood {
    /// The chain of addresses.
    #[error(transparent)]
    Address(#[from] NotAnAddress),
    /// A host that is none, or two that disagree.
    #[error("{0} does not name one host")]
    Host(&'static str),
}

impl Client {
    /// Who calls, by the connection's peer and what the headers say. `X-Forwarded-For` counts from a trusted proxy alone.
    pub(crate) fn of(headers: &HeaderMap, peer: IpAddr, trusted: &TrustedProxies) -> Result<Self, NotUnderstood> {
        let user_agent = headers.get(header::USER_AGENT).and_then(user_agent);
        Ok(Self {
            ip: address(headers, peer, trusted)?,
            device: device::label(user_agent.as_deref().unwrap_or_default()),
            user_agent,
            request_id: request_id(headers).map_or_else(|| Uuid::now_v7().to_string(), str::to_owned),
        })
    }
}

fn address(headers: &HeaderMap, peer: IpAddr, trusted: &TrustedProxies) -> Result<IpAddr, NotUnderstood> {
    let peer = peer.to_canonical();
    if !trusted.contains(peer) {
        return Ok(peer);
    }
    let lines = headers.get_all(FORWARDED_FOR).iter().map(|line| line.to_str().map_err(|_| NotAnAddress));
    let lines = lines.collect::<Result<Vec<&str>, _>>()?;
    Ok(trusted.client(lines.into_iter(), Some(peer))?.unwrap_or(peer))
}

/// The host, and port if any, by which a request came, in lower case: a trusted proxy's `X-Forwarded-Host`, else the target's
/// own (RFC 9112 section 3.2.2), else `Host`. Nothing that is mailed or signed ever comes from it.
pub(crate) fn host(
    headers: &HeaderMap,
    uri: &Uri,
    peer: IpAddr,
    trusted: &TrustedProxies,
) -> Result<Option<String>, NotUnderstood> {
    if trusted.contains(peer) && headers.contains_key(FORWARDED_HOST) {
        return one_host(headers, &FORWARDED_HOST, "X-Forwarded-Host");
    }
    match uri.authority() {
        Some(authority) => plain_host(authority.as_str()).map(Some).ok_or(NotUnderstood::Host("the request's target")),
        None => one_host(headers, &header::HOST, "Host"),
    }
}

/// The host that every line of a header names alike.
fn one_host(headers: &HeaderMap, name: &HeaderName, shown: &'static str) -> Result<Option<String>, NotUnderstood> {
    let read = |line: &HeaderValue| line.to_str().ok().and_then(plain_host).ok_or(NotUnderstood::Host(shown));
    headers.get_all(name).iter().try_fold(None, |seen: Option<String>, line| {
        let host = read(line)?;
        if seen.is_some_and(|seen| seen != host) { Err(NotUnderstood::Host(shown)) } else { Ok(Some(host)) }
    })
}

fn plain_host(text: &str) -> Option<String> {
    let text = text.trim();
    let authority: Authority = text.parse().ok()?;
    let plain = !text.contains('@') && !authority.host().is_empty();
    plain.then(|| text.to_ascii_lowercase())
}

/// The caller's name for the request, if it can stand in a log.
fn request_id(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(REQUEST_ID).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return None };
    let id = value.to_str().ok()?;
    ((1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())).then_some(id)
}

fn user_agent(value: &HeaderValue) -> Option<String> {
    let text = String::from_utf8_lossy(value.as_bytes());
    let shown = |c: char| if c.is_control() || is_invisible(c) { char::REPLACEMENT_CHARACTER } else { c };
    let mut agent: String = text.trim().chars().map(shown).collect();
    agent.truncate(agent.floor_char_boundary(MAX_USER_AGENT));
    (!agent.is_empty()).then_some(agent)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        map
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn trusted() -> TrustedProxies {
        "10.0.0.0/8".parse().unwrap()
    }

    #[test]
    fn the_address_is_the_peer_s_unless_a_trusted_proxy_says_otherwise() {
        for (peer, told, expected) in [
            ("198.51.100.9", Some("203.0.113.7"), Ok("198.51.100.9")),
            ("198.51.100.9", Some("junk"), Ok("198.51.100.9")),
            ("::ffff:198.51.100.9", None, Ok("198.51.100.9")),
            ("10.0.0.1", None, Ok("10.0.0.1")),
            ("10.0.0.1", Some("6.6.6.6, 203.0.113.7, 10.0.0.2"), Ok("203.0.113.7")),
            ("::ffff:10.0.0.1", Some("203.0.113.7"), Ok("203.0.113.7")),
            ("10.0.0.1", Some("junk"), Err(NotUnderstood::Address(NotAnAddress))),
            ("10.0.0.1", Some("é"), Err(NotUnderstood::Address(NotAnAddress))),
        ] {
            let map = told.map(|chain| headers(&[("x-forwarded-for", chain)])).unwrap_or_default();
            let found = Client::of(&map, ip(peer), &trusted()).map(|client| client.ip);
            assert_eq!(found, expected.map(ip), "{peer} {told:?}");
        }
        let map = headers(&[("x-forwarded-for", "203.0.113.7")]);
        let found = Client::of(&map, ip("127.0.0.1"), &TrustedProxies::none()).unwrap();
        assert_eq!(found.ip, ip("127.0.0.1"), "not even loopback is trusted without being told");
    }

    #[test]
    fn the_host_is_the_target_s_or_the_header_s_and_a_trusted_proxy_s_first() {
        let wrong = |what| Err(NotUnderstood::Host(what));
        let some = |host: &str| Ok(Some(host.to_owned()));
        for (pairs, target, peer, expected) in [
            (&[("host", "Auth.Shop.example:8443")][..], "/x", "9.9.9.9", some("auth.shop.example:8443")),
            (&[("host", "a.example")], "http://b.example/x", "9.9.9.9", some("b.example")),
            (&[("host", "a.example"), ("x-forwarded-host", "b.example")], "/x", "9.9.9.9", some("a.example")),
            (&[("host", "a.example"), ("x-forwarded-host", "b.example")], "/x", "10.0.0.1", some("b.example")),
            (&[("x-forwarded-host", "b.example, c.example")], "/x", "10.0.0.1", wrong("X-Forwarded-Host")),
            (&[("host", "a.example"), ("host", "A.example")], "/x", "9.9.9.9", some("a.example")),
            (&[("host", "a.example"), ("host", "b.example")], "/x", "9.9.9.9", wrong("Host")),
            (&[("host", "user@a.example")], "/x", "9.9.9.9", wrong("Host")),
            (&[("host", "a.example/evil")], "/x", "9.9.9.9", wrong("Host")),
            (&[("host", "")], "/x", "9.9.9.9", wrong("Host")),
            (&[("host", "[2001:db8::1]:7490")], "/x", "9.9.9.9", some("[2001:db8::1]:7490")),
            (&[], "/x", "9.9.9.9", Ok(None)),
        ] {
            let found = host(&headers(pairs), &target.parse().unwrap(), ip(peer), &trusted());
            assert_eq!(found, expected, "{pairs:?} {target} {peer}");
        }
    }

    #[test]
    fn a_request_s_name_is_the_caller_s_if_it_can_stand_in_a_log() {
        let long = "x".repeat(MAX_REQUEST_ID);
        for (sent, taken) in [
            ("4f2a-91", true),
            (long.as_str(), true),
            (&"x".repeat(MAX_REQUEST_ID + 1), false),
            ("", false),
            ("a b", false),
            ("é", false),
        ] {
            let client = Client::of(&headers(&[("x-request-id", sent)]), ip("9.9.9.9"), &trusted()).unwrap();
            assert_eq!(client.request_id == sent, taken, "{sent:?}");
            assert!(!client.request_id.is_empty());
        }
        let twice = headers(&[("x-request-id", "a"), ("x-request-id", "b")]);
        let client = Client::of(&twice, ip("9.9.9.9"), &trusted()).unwrap();
        assert_eq!(client.request_id.len(), 36, "two names are none");
    }

    #[test]
    fn an_agent_changes_no_line_that_it_stands_in() {
        let agent = |bytes: &[u8]| user_agent(&HeaderValue::from_bytes(bytes).unwrap());
        assert_eq!(agent(b"curl/8.5.0").as_deref(), Some("curl/8.5.0"));
        assert_eq!(agent(b"  "), None);
        assert_eq!(agent(b"a\tb").as_deref(), Some("a\u{fffd}b"));
        assert_eq!(agent("a\u{202e}b".as_bytes()).as_deref(), Some("a\u{fffd}b"), "a change of direction");
        assert_eq!(agent("a\u{9b}31m".as_bytes()).as_deref(), Some("a\u{fffd}31m"), "a terminal's control");
        assert_eq!(agent(b"a\xffb").as_deref(), Some("a\u{fffd}b"));
        assert_eq!(agent("é".repeat(400).as_bytes()).map(|a| a.len()), Some(512));
    }

    proptest! {
        #[test]
        fn whatever_is_sent_is_kept_short_and_visible(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let mut map = HeaderMap::new();
            for name in ["user-agent", "x-request-id", "x-forwarded-for", "x-forwarded-host", "host"] {
                map.insert(name, value.clone());
            }
            let client = Client::of(&map, ip("9.9.9.9"), &trusted()).unwrap();
            if let Some(agent) = &client.user_agent {
                prop_assert!(agent.len() <= MAX_USER_AGENT && !agent.chars().any(char::is_control));
            }
            prop_assert!(client.request_id.bytes().all(|b| b.is_ascii_graphic()) && client.request_id.len() <= MAX_REQUEST_ID);
            prop_assert!(client.device.len() < 64 && client.device.is_ascii());
            if let Ok(Some(host)) = host(&map, &Uri::from_static("/"), ip("10.0.0.1"), &trusted()) {
                prop_assert!(host.parse::<Authority>().is_ok());
            }
            let _ = Client::of(&map, ip("10.0.0.1"), &trusted());
        }
    }
}
