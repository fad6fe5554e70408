//! Tokens in cookies, for web pages: no script of a page can read them, and no other page's form can use them, because an
//! unsafe method needs a CSRF token beside them.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use countersign_api::policy::{EffectiveCookies, SameSite};

/// The header that carries the CSRF token.
pub(crate) const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");

/// What a cookie of ours holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cookie {
    /// The access token.
    Access,
    /// The refresh token.
    Refresh,
    /// The secret by which a known device is told.
    Device,
}

impl Cookie {
    /// What follows the policy's prefix in its name.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::Refresh => "refresh",
            Self::Device => "device",
        }
    }
}

/// A cookie that can't be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoCookie {
    /// Whoever could plant a second one would choose which counts.
    #[error("two cookies of that name")]
    Twice,
    /// Not text.
    #[error("the cookie is not plain text")]
    Unreadable,
}

/// The value of a cookie that a request carries. An empty one is absent.
pub(crate) fn read<'h>(
    settings: &EffectiveCookies,
    headers: &'h HeaderMap,
    cookie: Cookie,
) -> Result<Option<&'h str>, NoCookie> {
    let pairs = headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|b| *b == b';'));
    let mut values = pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|b| *b == b'=')?;
        let (name, value) = (pair.get(..at)?, pair.get(at + 1..)?);
        let ours = name.strip_prefix(settings.prefix.as_bytes()) == Some(cookie.suffix().as_bytes());
        ours.then_some(value)
    });
    match (values.next(), values.next()) {
        (None | Some(b""), None) => Ok(None),
        (Some(value), None) => match std::str::from_utf8(value) {
            Ok(value) if value.bytes().all(|b| b.is_ascii_graphic()) => Ok(Some(value)),
            _ => Err(NoCookie::Unreadable),
        },
        (_, Some(_)) => Err(NoCookie::Twice),
    }
}

/// Sets a cookie that lives for so long, seconds; absent: until the browser ends. `None` for a value that no cookie can have.
pub(crate) fn set(settings: &EffectiveCookies, cookie: Cookie, value: &str, max_age_s: Option<i64>) -> Option<HeaderValue> {
    // RFC 6265 section 4.1.1: what a value may hold. Tokens are base64url and dots.
    let fits = |b: u8| b.is_ascii_graphic() && !b"\",;\\".contains(&b);
    if value.is_empty() || !value.bytes().all(fits) {
        return None;
    }
    let age = max_age_s.map(|age| format!("; Max-Age={}", age.max(0))).unwrap_or_default();
    HeaderValue::try_from(format!("{}{}={value}{age}{}", settings.prefix, cookie.suffix(), attributes(settings))).ok()
}

/// Takes a cookie away.
pub(crate) fn clear(settings: &EffectiveCookies, cookie: Cookie) -> Option<HeaderValue> {
    let name = format!("{}{}", settings.prefix, cookie.suffix());
    HeaderValue::try_from(format!("{name}=; Max-Age=0{}", attributes(settings))).ok()
}

/// What every cookie of ours has. The path is always the whole host: `__Host-` demands it (RFC 6265bis section 4.1.3), and so
/// does a token that other programs behind the same host read. `__Host-` also forbids a domain, whatever the policy says.
fn attributes(settings: &EffectiveCookies) -> String {
    let same_site = match settings.same_site {
        SameSite::Lax => "Lax",
        SameSite::Strict => "Strict",
        SameSite::None => "None",
    };
    let domain = settings.domain.as_deref().filter(|_| !settings.prefix.starts_with("__Host-"));
    let domain = domain.map(|domain| format!("; Domain={domain}")).unwrap_or_default();
    format!("; Path=/{domain}; Secure; HttpOnly; SameSite={same_site}")
}

/// Whether a method changes nothing (RFC 9110 section 9.2.1), so that a cookie alone may make it.
pub(crate) fn is_safe(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE].contains(method)
}

/// The one CSRF token that a request carries.
pub(crate) fn csrf_token(headers: &HeaderMap) -> Option<&str> {
    let mut sent = headers.get_all(CSRF_HEADER).iter();
    match (sent.next(), sent.next()) {
        (Some(token), None) => token.to_str().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use countersign_api::{Resolve as _, policy::Cookies};
    use proptest::prelude::*;

    use super::*;

    fn settings(prefix: &str, domain: Option<&str>, same_site: SameSite) -> EffectiveCookies {
        let prefix = Some(prefix.to_owned());
        Cookies { prefix, domain: domain.map(str::to_owned), same_site: Some(same_site), ..Cookies::default() }.resolve()
    }

    fn host() -> EffectiveCookies {
        settings("__Host-cs_", None, SameSite::Lax)
    }

    fn lines(lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (header::COOKIE, HeaderValue::from_bytes(line.as_bytes()).unwrap())).collect()
    }

    #[test]
    fn a_cookie_is_out_of_reach_of_scripts_and_of_other_hosts() {
        let shown = |value: Option<HeaderValue>| value.unwrap().to_str().unwrap().to_owned();
        let secure = settings("__Secure-cs_", Some("shop.example"), SameSite::Strict);
        let wrong = settings("__Host-cs_", Some("shop.example"), SameSite::None);
        for (found, expected) in [
            (
                shown(set(&host(), Cookie::Access, "a.b-c_d", Some(900))),
                "__Host-cs_access=a.b-c_d; Max-Age=900; Path=/; Secure; HttpOnly; SameSite=Lax",
            ),
            (
                shown(set(&secure, Cookie::Refresh, "x", None)),
                "__Secure-cs_refresh=x; Path=/; Domain=shop.example; Secure; HttpOnly; SameSite=Strict",
            ),
            (
                shown(set(&wrong, Cookie::Device, "x", Some(-1))),
                "__Host-cs_device=x; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=None",
            ),
            (
                shown(clear(&host(), Cookie::Refresh)),
                "__Host-cs_refresh=; Max-Age=0; Path=/; Secure; HttpOnly; SameSite=Lax",
            ),
        ] {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn no_value_adds_an_attribute() {
        for value in ["", "a; Domain=evil.example", "a,b", "a b", "a\r\nSet-Cookie: x=y", "é", "\"a\"", "a\\"] {
            assert_eq!(set(&host(), Cookie::Access, value, None), None, "{value:?}");
        }
    }

    #[test]
    fn the_one_cookie_of_a_name_is_read() {
        for (sent, expected) in [
            (&["__Host-cs_access=a.b"][..], Ok(Some("a.b"))),
            (&["x=1; __Host-cs_access=a.b ;y=2"], Ok(Some("a.b"))),
            (&["x=1", "__Host-cs_access=a=b"], Ok(Some("a=b"))),
            (&["__Host-cs_access="], Ok(None)),
            (&["__host-cs_access=a"], Ok(None)),
            (&["__Host-cs_access2=a; xx__Host-cs_access=b; __Host-cs_refresh=c"], Ok(None)),
            (&[], Ok(None)),
            (&["__Host-cs_access=a; __Host-cs_access=a"], Err(NoCookie::Twice)),
            (&["__Host-cs_access=a", "__Host-cs_access="], Err(NoCookie::Twice)),
            (&["__Host-cs_access=é"], Err(NoCookie::Unreadable)),
            (&["__Host-cs_access=a b"], Err(NoCookie::Unreadable)),
        ] {
            assert_eq!(read(&host(), &lines(sent), Cookie::Access), expected, "{sent:?}");
        }
    }

    #[test]
    fn one_csrf_token_is_read_and_two_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(csrf_token(&headers), None);
        headers.append(CSRF_HEADER, HeaderValue::from_static("a"));
        assert_eq!(csrf_token(&headers), Some("a"));
        headers.append(CSRF_HEADER, HeaderValue::from_static("a"));
        assert_eq!(csrf_token(&headers), None);
        for (method, safe) in [(Method::GET, true), (Method::HEAD, true), (Method::DELETE, false), (Method::PATCH, false)] {
            assert_eq!(is_safe(&method), safe, "{method}");
        }
    }

    proptest! {
        #[test]
        fn what_is_set_is_read(value in "[A-Za-z0-9._~-]{1,80}", other in "[ -:<-~]{0,40}") {
            let set = set(&host(), Cookie::Refresh, &value, None).unwrap();
            let pair = set.to_str().unwrap().split(';').next().unwrap().to_owned();
            let sent = lines(&[&format!("other={other}; {pair}")]);
            prop_assert_eq!(read(&host(), &sent, Cookie::Refresh), Ok(Some(value.as_str())));
        }

        #[test]
        fn no_header_makes_reading_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let Ok(line) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let headers: HeaderMap = [(header::COOKIE, line)].into_iter().collect();
            let _ = read(&host(), &headers, Cookie::Access);
        }
    }
}
