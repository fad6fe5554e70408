//! What a proxy says about the request that it asks about.

use std::net::IpAddr;

use countersign_core::proxies::NotAnAddress;
pub(crate) use countersign_core::proxies::TrustedProxies;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::{
    problem::Problem,
    target::{Target, form_pairs, normalised},
};
use crate::net::Peer;

const REQUIRE: HeaderName = HeaderName::from_static("x-countersign-require");

/// Whether a peer's word about other requests is taken.
fn trusts(trusted: &TrustedProxies, peer: Peer) -> bool {
    match peer {
        Peer::Local { .. } => trusted.socket,
        Peer::Remote(ip) => trusted.contains(ip),
    }
}

/// The original request, as far as it is known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Original {
    pub(crate) method: Option<String>,
    pub(crate) path: Option<String>,
    pub(crate) query: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) ip: Option<IpAddr>,
    /// Somebody whose word isn't taken sent such headers.
    pub(crate) ignored: bool,
}

impl Original {
    /// Reads the headers of a forward-auth request.
    pub(crate) fn from_headers(headers: &HeaderMap, peer: Peer, trusted: &TrustedProxies) -> Result<Self, Problem> {
        if !trusts(trusted, peer) {
            return Ok(Self::untrusted(headers, peer));
        }
        let mut method = None;
        let mut host = None;
        let mut uri: Option<Target<'_>> = None;
        let mut chain = Vec::new();
        for (name, value) in headers {
            match Told::by(name) {
                None => {}
                Some(Told::Method) => method = agreed(method, Some(text(name, value)?), "methods")?,
                Some(Told::Host) => host = agreed(host, Some(text(name, value)?), "hosts")?,
                Some(Told::For) => chain.push(value),
                Some(Told::Uri) => {
                    let target = Target::parse(text(name, value)?)?;
                    uri = Some(match uri {
                        None => target,
                        Some(seen) if (&seen.path, seen.query) == (&target.path, target.query) => {
                            Target { host: agreed(seen.host, target.host, "hosts")?, ..seen }
                        }
                        Some(_) => return Err(disagree("targets")),
                    });
                }
            }
        }
        let host = agreed(host, uri.as_ref().and_then(|u| u.host), "hosts")?;
        Ok(Self {
            method: method.map(str::to_owned),
            query: uri.as_ref().map(|u| u.query.to_owned()),
            path: uri.map(|u| u.path.into_owned()),
            host: host.map(str::to_owned),
            ip: client_address(&chain, peer, trusted)?,
            ignored: false,
        })
    }

    /// Of a request that was sent on under our own path, as Envoy's ext_authz does: method, path and query are its own.
    pub(crate) fn itself(
        method: &Method,
        rest: &str,
        query: Option<&str>,
        headers: &HeaderMap,
        peer: Peer,
        trusted: &TrustedProxies,
    ) -> Result<Self, Problem> {
        let from = if trusts(trusted, peer) {
            let chain: Vec<&HeaderValue> =
                headers.iter().filter(|(n, _)| Told::by(n) == Some(Told::For)).map(|(_, v)| v).collect();
            Self { ip: client_address(&chain, peer, trusted)?, ..Self::default() }
        } else {
            Self::untrusted(headers, peer)
        };
        let path = normalised(rest)?.into_owned();
        Ok(Self {
            method: Some(method.as_str().to_owned()),
            path: Some(path),
            query: Some(query.unwrap_or_default().to_owned()),
            host: own_host(headers)?.map(str::to_owned),
            ..from
        })
    }

    fn untrusted(headers: &HeaderMap, peer: Peer) -> Self {
        Self { ip: own_address(peer), ignored: headers.keys().any(|name| Told::by(name).is_some()), ..Self::default() }
    }
}

/// What a header tells of the original request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Method,
    Uri,
    Host,
    /// Who asked, and by whom it was sent on.
    For,
}

impl Told {
    fn by(name: &HeaderName) -> Option<Self> {
        match name.as_str().strip_prefix("x-")? {
            "forwarded-method" | "original-method" => Some(Self::Method),
            "forwarded-uri" | "original-uri" | "original-url" => Some(Self::Uri),
            "forwarded-host" => Some(Self::Host),
            "forwarded-for" => Some(Self::For),
            _ => None,
        }
    }
}

fn own_address(peer: Peer) -> Option<IpAddr> {
    match peer {
        Peer::Local { .. } => None,
        Peer::Remote(ip) => Some(ip),
    }
}

fn client_address(chain: &[&HeaderValue], peer: Peer, trusted: &TrustedProxies) -> Result<Option<IpAddr>, Problem> {
    let wrong = |_| Problem::invalid(NotAnAddress.to_string());
    let lines = chain.iter().map(|value| value.to_str().map_err(|_| wrong(NotAnAddress)));
    let lines = lines.collect::<Result<Vec<&str>, _>>()?;
    trusted.client(lines.into_iter(), own_address(peer)).map_err(wrong)
}

fn text<'h>(name: &HeaderName, value: &'h HeaderValue) -> Result<&'h str, Problem> {
    value.to_str().map_err(|_| Problem::invalid(format!("the header {name} is not plain text")))
}

/// The request's own `Host`, which may be repeated but not contradict itself.
fn own_host(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(header::HOST).iter();
    values.try_fold(None, |seen, value| agreed(seen, Some(text(&header::HOST, value)?), "hosts"))
}

fn agreed<'h>(one: Option<&'h str>, other: Option<&'h str>, what: &str) -> Result<Option<&'h str>, Problem> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => Err(disagree(what)),
        (one, other) => Ok(one.or(other)),
    }
}

fn disagree(what: &str) -> Problem {
    Problem::invalid(format!("two {what} of the original request disagree"))
}

/// What a forward-auth call asks for, beside the credential.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) permissions: Vec<String>,
    pub(crate) roles: Vec<String>,
    pub(crate) scopes: Vec<String>,
    pub(crate) audiences: Vec<String>,
    /// Show the permissions.
    pub(crate) show_permissions: bool,
    /// Answer 403 where only 401 and 403 are understood.
    pub(crate) only_401_403: bool,
}

impl Options {
    /// Adds those of a query. Unknown ones are ignored.
    pub(crate) fn add_query(&mut self, query: &str) -> Result<(), Problem> {
        let pairs = form_pairs(query.as_bytes()).ok_or_else(|| Problem::invalid("the query is badly encoded"))?;
        for (name, value) in pairs {
            self.add(&name, value)?;
        }
        Ok(())
    }

    /// Adds those of `X-Countersign-Require`. An unknown one is an error: a demand that is misspelt must not be dropped.
    pub(crate) fn add_headers(&mut self, headers: &HeaderMap) -> Result<(), Problem> {
        let wrong = || Problem::invalid("X-Countersign-Require is not of the form permission=NAME&role=NAME");
        for value in headers.get_all(REQUIRE) {
            let pairs = form_pairs(value.as_bytes()).filter(|pairs| !pairs.is_empty()).ok_or_else(wrong)?;
            for (name, value) in pairs {
                if !self.add(&name, value)? {
                    return Err(wrong());
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, name: &str, value: String) -> Result<bool, Problem> {
        let list = match name {
            "permission" => &mut self.permissions,
            "role" => &mut self.roles,
            "scope" => &mut self.scopes,
            "audience" => &mut self.audiences,
            "headers" | "codes" => {
                match (name, value.as_str()) {
                    ("headers", "permissions") => self.show_permissions = true,
                    ("codes", "401-403") => self.only_401_403 = true,
                    ("headers", _) => return Err(Problem::invalid("the option headers takes only: permissions")),
                    _ => return Err(Problem::invalid("the option codes takes only: 401-403")),
                }
                return Ok(true);
            }
            _ => return Ok(false),
        };
        if value.is_empty() {
            return Err(Problem::invalid(format!("the option {name} is empty")));
        }
        list.push(value);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    const LOCAL: Peer = Peer::Local { uid: 1 };

    fn read(pairs: &[(&'static str, &'static str)], peer: Peer) -> Result<Original, u16> {
        Original::from_headers(&headers(pairs), peer, &TrustedProxies::default()).map_err(|p| p.status.as_u16())
    }

    #[test]
    fn headers_of_one_meaning_must_agree() {
        let both = [
            ("x-forwarded-method", "GET"),
            ("x-original-method", "GET"),
            ("x-forwarded-uri", "/a?b"),
            ("x-original-url", "https://h/a?b"),
        ];
        let original = read(&both, LOCAL).unwrap();
        let seen =
            (original.method.as_deref(), original.path.as_deref(), original.query.as_deref(), original.host.as_deref());
        assert_eq!(seen, (Some("GET"), Some("/a"), Some("b"), Some("h")));
        for bad in [
            &[("x-forwarded-method", "GET"), ("x-original-method", "POST")][..],
            &[("x-forwarded-method", "GET"), ("x-forwarded-method", "POST")],
            &[("x-forwarded-uri", "/a"), ("x-original-uri", "/b")],
            &[("x-forwarded-uri", "/a?x"), ("x-original-uri", "/a?y")],
            &[("x-forwarded-host", "a"), ("x-original-url", "http://b/")],
            &[("x-forwarded-uri", "/a%2fb")],
            &[("x-forwarded-for", "somebody")],
        ] {
            assert_eq!(read(bad, LOCAL), Err(400), "{bad:?}");
        }
    }

    #[test]
    fn the_address_comes_from_the_right_past_trusted_proxies() {
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for (chain, expected) in [
            ("203.0.113.7", ip("203.0.113.7")),
            ("6.6.6.6, 203.0.113.7, 127.0.0.1", ip("203.0.113.7")),
            ("junk, 203.0.113.7", ip("203.0.113.7")),
            ("127.0.0.2, 127.0.0.1", ip("127.0.0.2")),
            ("::ffff:203.0.113.7", ip("203.0.113.7")),
        ] {
            let pairs = vec![("x-forwarded-for", Box::leak(chain.to_owned().into_boxed_str()) as &'static str)];
            assert_eq!(read(&pairs, LOCAL).unwrap().ip, expected, "{chain}");
        }
        assert_eq!(read(&[], LOCAL).unwrap().ip, None);
        assert_eq!(read(&[], Peer::Remote("127.0.0.1".parse().unwrap())).unwrap().ip, ip("127.0.0.1"));
    }

    #[test]
    fn the_query_of_a_known_target_without_one_is_known_to_be_empty() {
        for (pairs, query) in [
            (vec![("x-forwarded-uri", "/a")], Some("")),
            (vec![("x-forwarded-uri", "/a?b=c")], Some("b=c")),
            (vec![("x-forwarded-method", "GET")], None),
        ] {
            assert_eq!(read(&pairs, LOCAL).unwrap().query.as_deref(), query, "{pairs:?}");
        }
    }

    #[test]
    fn nobody_else_s_word_is_taken() {
        let peer = Peer::Remote("198.51.100.9".parse().unwrap());
        let original = read(&[("x-forwarded-for", "junk"), ("x-forwarded-method", "GET")], peer).unwrap();
        let expected = Original { ip: Some("198.51.100.9".parse().unwrap()), ignored: true, ..Original::default() };
        assert_eq!(original, expected);
    }

    #[test]
    fn demands_add_up_and_a_misspelt_one_is_refused() {
        let mut options = Options::default();
        options.add_query("permission=a&permission=b&x=y&codes=401-403&headers=permissions").unwrap();
        options.add_headers(&headers(&[("x-countersign-require", "permission=c%20d&role=r")])).unwrap();
        assert_eq!(options.permissions, ["a", "b", "c d"]);
        assert_eq!(options.roles, ["r"]);
        assert!(options.only_401_403 && options.show_permissions);
        for bad in ["permission=", "codes=x", "headers=all", "role=%f"] {
            assert!(Options::default().add_query(bad).is_err(), "{bad}");
        }
        for bad in ["", "permission", "permissions=a", "role=%zz"] {
            let map = headers(&[("x-countersign-require", bad)]);
            assert!(Options::default().add_headers(&map).is_err(), "{bad}");
        }
    }
}
