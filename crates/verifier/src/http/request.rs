//! What a caller asks, read from JSON.
//!
//! The usual request is read in one pass that borrows from the body. Whatever that pass doesn't take (members that it doesn't
//! know, wrong types, names or members in unusual shapes, errors) is read again by core's strict parser, which is the one
//! that decides: no duplicate members, at most 64 levels.

use std::{borrow::Cow, fmt, marker::PhantomData, net::IpAddr};

use countersign_core::{
    check::{Ask, Require},
    jose::{MAX_DEPTH, strict_json},
    proxies::address,
    revocation::Position,
    rules,
};
use memchr::memchr;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value};

use super::problem::Problem;

/// One verify request.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct VerifyRequest<'a> {
    pub(crate) token: Cow<'a, str>,
    pub(crate) permissions: Vec<Cow<'a, str>>,
    pub(crate) roles: Vec<Cow<'a, str>>,
    pub(crate) scopes: Vec<Cow<'a, str>>,
    pub(crate) audiences: Vec<Cow<'a, str>>,
    pub(crate) method: Option<Cow<'a, str>>,
    pub(crate) path: Option<Cow<'a, str>>,
    pub(crate) host: Option<Cow<'a, str>>,
    pub(crate) query: Option<Cow<'a, str>>,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) user_agent: Option<Cow<'a, str>>,
    pub(crate) device_id: Option<Cow<'a, str>>,
    pub(crate) min_position: Option<Position>,
}

impl<'a> VerifyRequest<'a> {
    /// Reads a request body.
    pub(crate) fn parse(body: &'a [u8]) -> Result<Self, Problem> {
        Self::parse_within(body, MAX_DEPTH)
    }

    /// A request that only names a token.
    pub(crate) fn of(token: &'a str) -> Self {
        Self { token: Cow::Borrowed(token), ..Self::default() }
    }

    /// Reads a request that may nest `max_depth` levels.
    pub(crate) fn parse_within(body: &'a [u8], max_depth: usize) -> Result<Self, Problem> {
        if let Some(token) = only_token(body) {
            return Ok(Self::of(token));
        }
        if let Ok(wire) = serde_json::from_slice::<Object<Wire<'a>>>(body)
            && let Some(request) = wire.0.into_request()
        {
            return Ok(request);
        }
        let value = strict_json::parse(body, max_depth).map_err(|e| Problem::invalid(format!("the body: {e}")))?;
        VerifyRequest::from_value(&value)
    }

    /// Reads a request from a value that the strict parser made.
    pub(crate) fn from_value(value: &Value) -> Result<Self, Problem> {
        let top = object(Some(value), "the request")?.unwrap_or(&EMPTY);
        let empty = || Problem::invalid("token is missing or empty");
        let token = text(top, "token")?.filter(|t| !t.is_empty()).ok_or_else(empty)?;
        let require = object(top.get("require"), "require")?.unwrap_or(&EMPTY);
        let request = object(top.get("request"), "request")?.unwrap_or(&EMPTY);
        let client = object(top.get("client"), "client")?.unwrap_or(&EMPTY);
        Ok(Self {
            token,
            permissions: list(require, "permissions")?,
            roles: list(require, "roles")?,
            scopes: list(require, "scopes")?,
            audiences: text(require, "audience")?.into_iter().collect(),
            method: text(request, "method")?,
            path: text(request, "path")?,
            host: text(request, "host")?,
            query: text(request, "query")?,
            ip: text(client, "ip")?.map(|ip| address(&ip).ok_or_else(not_an_address)).transpose()?,
            user_agent: text(client, "user_agent")?,
            device_id: text(client, "device_id")?,
            min_position: text(top, "min_position")?
                .map(|p| p.parse().map_err(|_| Problem::invalid("min_position is not a position that was given out")))
                .transpose()?,
        })
    }

    /// What it asks about the token.
    pub(crate) fn ask(&self) -> Ask<'_> {
        Ask {
            require: Require {
                permissions: borrowed(&self.permissions),
                roles: borrowed(&self.roles),
                scopes: borrowed(&self.scopes),
                audiences: borrowed(&self.audiences),
            },
            request: rules::Request {
                method: self.method.as_deref(),
                path: self.path.as_deref(),
                host: self.host.as_deref(),
                query: self.query.as_deref(),
            },
            client: rules::Client {
                ip: self.ip,
                user_agent: self.user_agent.as_deref(),
                device_id: self.device_id.as_deref(),
            },
        }
    }
}

fn borrowed<'a>(list: &'a [Cow<'_, str>]) -> Vec<Cow<'a, str>> {
    list.iter().map(|item| Cow::Borrowed(&**item)).collect()
}

fn not_an_address() -> Problem {
    Problem::invalid("client.ip is not an IP address")
}

/// `{"token":"…"}` and nothing else, the token in characters that need no unescaping.
fn only_token(body: &[u8]) -> Option<&str> {
    let (token, rest) = token_object(body)?;
    skip_space(rest).is_empty().then_some(token)
}

/// `{"items":[{"token":"…"},…]}` and nothing else, with such tokens: what nearly every batch is.
pub(crate) fn only_tokens(body: &[u8]) -> Option<Vec<&str>> {
    let rest = skip_space(body).strip_prefix(b"{")?;
    let rest = skip_space(rest).strip_prefix(b"\"items\"")?;
    let rest = skip_space(rest).strip_prefix(b":")?;
    let mut rest = skip_space(rest).strip_prefix(b"[")?;
    let mut tokens = Vec::new();
    loop {
        let (token, after) = token_object(rest)?;
        tokens.push(token);
        rest = skip_space(after);
        match rest.split_first()? {
            (b',', more) => rest = more,
            (b']', more) => {
                let rest = skip_space(more).strip_prefix(b"}")?;
                return skip_space(rest).is_empty().then_some(tokens);
            }
            _ => return None,
        }
    }
}

/// The token of a `{"token":"…"}`, and what follows.
fn token_object(body: &[u8]) -> Option<(&str, &[u8])> {
    let rest = skip_space(body).strip_prefix(b"{")?;
    let rest = skip_space(rest).strip_prefix(b"\"token\"")?;
    let rest = skip_space(rest).strip_prefix(b":")?;
    let rest = skip_space(rest).strip_prefix(b"\"")?;
    let end = memchr(b'"', rest)?;
    let (token, rest) = (&rest[..end], &rest[end + 1..]);
    let rest = skip_space(rest).strip_prefix(b"}")?;
    #[expect(clippy::needless_bitwise_bool, reason = "without an early end many bytes are looked at a time")]
    let odd = token.iter().fold(false, |odd, b| odd | !(0x21..=0x7e).contains(b) | (*b == b'\\'));
    if odd || token.is_empty() {
        return None;
    }
    Some((std::str::from_utf8(token).ok()?, rest))
}

fn skip_space(bytes: &[u8]) -> &[u8] {
    let space = bytes.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')).count();
    &bytes[space..]
}

/// The shape that the borrowing pass takes. The derive refuses duplicate members; a null is an absent member.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire<'a> {
    #[serde(borrow)]
    token: Text<'a>,
    #[serde(borrow, default)]
    require: Option<Object<WireRequire<'a>>>,
    #[serde(borrow, default)]
    request: Option<Object<WireSource<'a>>>,
    #[serde(borrow, default)]
    client: Option<Object<WireClient<'a>>>,
    #[serde(borrow, default)]
    min_position: Option<Text<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WireRequire<'a> {
    #[serde(borrow)]
    permissions: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    roles: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    scopes: Option<Vec<Text<'a>>>,
    #[serde(borrow)]
    audience: Option<Text<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WireSource<'a> {
    #[serde(borrow)]
    method: Option<Text<'a>>,
    #[serde(borrow)]
    path: Option<Text<'a>>,
    #[serde(borrow)]
    host: Option<Text<'a>>,
    #[serde(borrow)]
    query: Option<Text<'a>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct WireClient<'a> {
    #[serde(borrow)]
    ip: Option<Text<'a>>,
    #[serde(borrow)]
    user_agent: Option<Text<'a>>,
    #[serde(borrow)]
    device_id: Option<Text<'a>>,
}

/// A JSON object and nothing else: the derive alone would take a list of the members' values too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Members(PhantomData))
    }
}

/// A string that borrows where it can, also inside lists and options.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Wire<'a> {
    /// `None` where something is wrong: the strict pass then says what.
    fn into_request(self) -> Option<VerifyRequest<'a>> {
        let require = self.require.map(|o| o.0).unwrap_or_default();
        let request = self.request.map(|o| o.0).unwrap_or_default();
        let client = self.client.map(|o| o.0).unwrap_or_default();
        let list = |items: Option<Vec<Text<'a>>>| items.unwrap_or_default().into_iter().map(|t| t.0).collect();
        let text = |item: Option<Text<'a>>| item.map(|t| t.0);
        Some(VerifyRequest {
            token: Some(self.token.0).filter(|t| !t.is_empty())?,
            permissions: list(require.permissions),
            roles: list(require.roles),
            scopes: list(require.scopes),
            audiences: text(require.audience).into_iter().collect(),
            method: text(request.method),
            path: text(request.path),
            host: text(request.host),
            query: text(request.query),
            ip: match client.ip {
                Some(ip) => Some(address(&ip.0)?),
                None => None,
            },
            user_agent: text(client.user_agent),
            device_id: text(client.device_id),
            min_position: match self.min_position {
                Some(position) => Some(position.0.parse().ok()?),
                None => None,
            },
        })
    }
}

static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

fn object<'v>(value: Option<&'v Value>, what: &'static str) -> Result<Option<&'v Map<String, Value>>, Problem> {
    match value {
        None => Ok(None),
        Some(Value::Null) if what != "the request" => Ok(None),
        Some(Value::Object(members)) => Ok(Some(members)),
        Some(_) => Err(Problem::invalid(format!("{what} is not a JSON object"))),
    }
}

fn text<'a>(members: &Map<String, Value>, name: &'static str) -> Result<Option<Cow<'a, str>>, Problem> {
    match members.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(Cow::Owned(text.clone()))),
        Some(_) => Err(Problem::invalid(format!("{name} is not a string"))),
    }
}

fn list<'a>(members: &Map<String, Value>, name: &'static str) -> Result<Vec<Cow<'a, str>>, Problem> {
    let wrong = || Problem::invalid(format!("{name} is not a list of strings"));
    match members.get(name) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(items)) => {
            items.iter().map(|i| i.as_str().map(|s| Cow::Owned(s.to_owned())).ok_or_else(wrong)).collect()
        }
        Some(_) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_is_read_alike_by_every_pass() {
        let full = br#"{"token":"a.b.c","require":{"permissions":["p"],"roles":[],"scopes":["s"],"audience":"x"},
            "request":{"method":"GET","path":"/a\u00e9","host":"h"},"client":{"ip":"::ffff:10.0.0.1","user_agent":"u"},"min_position":"e1n2"}"#;
        let fast = VerifyRequest::parse(full).unwrap();
        let strict = VerifyRequest::from_value(&serde_json::from_slice(full).unwrap()).unwrap();
        assert_eq!(fast, strict);
        assert_eq!(fast.path.as_deref(), Some("/aé"));
        assert_eq!(fast.ip, Some("10.0.0.1".parse().unwrap()));
        let unknown = VerifyRequest::parse(br#" {"token":"a","x":{"y":[1]},"client":null} "#).unwrap();
        assert_eq!(unknown, VerifyRequest::parse(br#"{ "token" : "a" }"#).unwrap());
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let deep = format!(r#"{{"token":"a","x":{}{}}}"#, "[".repeat(64), "]".repeat(64));
        let wrong = [
            "",
            "{}",
            "[]",
            "null",
            "\"a\"",
            r#"{"token":""}"#,
            r#"{"token":null}"#,
            r#"{"token":1}"#,
            r#"{"token":"a","token":"a"}"#,
            r#"{"token":"a"} x"#,
            r#"{"token":"a","x":1,"x":2}"#,
            r#"{"token":"a","\u0074oken":"b"}"#,
            r#"{"token":"a","x":{"y":1,"y":1}}"#,
            r#"{"token":"a","require":[]}"#,
            r#"{"token":"a","require":{"roles":"r"}}"#,
            r#"{"token":"a","require":{"roles":[1]}}"#,
            r#"{"token":"a","require":{"roles":[],"roles":[]}}"#,
            r#"{"token":"a","client":{"ip":"10.0.0"}}"#,
            r#"{"token":"a","client":{"ip":5}}"#,
            r#"{"token":"a","min_position":"e1"}"#,
            r#"{"token":"a","min_position":1}"#,
            r#"{"token":"a",}"#,
            "{\"token\":\"a\u{0}\"}",
            deep.as_str(),
        ];
        for body in wrong {
            let problem = VerifyRequest::parse(body.as_bytes()).unwrap_err();
            assert_eq!(problem.status, 400, "{body}");
        }
        assert!(VerifyRequest::parse(b"{\"token\":\"\xff\"}").is_err());
        let bearable = format!(r#"{{"token":"a","x":{}{}}}"#, "[".repeat(63), "]".repeat(63));
        assert!(VerifyRequest::parse(bearable.as_bytes()).is_ok());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), "[a-z\"\\\\é]{0,4}".prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map(name(), inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn name() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["token", "require", "roles", "client", "ip", "request", "method", "min_position", "x"])
            .prop_map(str::to_owned)
    }

    proptest! {
        #[test]
        fn the_fast_pass_takes_nothing_that_the_strict_one_reads_otherwise(value in json()) {
            let text = value.to_string();
            let strict = strict_json::parse(text.as_bytes(), MAX_DEPTH).unwrap();
            prop_assert_eq!(VerifyRequest::parse(text.as_bytes()).ok(), VerifyRequest::from_value(&strict).ok());
        }
    }
}
