//! Registered claims (RFC 7519 section 4.1, RFC 9068 section 2.2) read leniently enough to name what is wrong with each.

mod set;

use serde_json::{Map, Value};

pub(crate) use set::claims_tree;
pub use set::{ClaimSet, NotClaims};

use crate::time::UnixMillis;

/// Claims that can be asked for by name.
pub trait ClaimSource {
    /// The claim of that name.
    fn claim(&self, name: &str) -> Option<Value>;

    /// All of them.
    fn tree(&self) -> Map<String, Value>;
}

impl ClaimSource for Map<String, Value> {
    fn claim(&self, name: &str) -> Option<Value> {
        self.get(name).cloned()
    }

    fn tree(&self) -> Self {
        self.clone()
    }
}

/// A token's payload with its registered claims read out. A claim that is null counts as absent; one of a wrong type is an
/// `Err`, so that refusals keep their order whatever else is wrong.
#[derive(Clone, Debug)]
pub struct Claims<S = Map<String, Value>> {
    /// `iss`.
    pub issuer: Claim<String>,
    /// `sub`.
    pub subject: Claim<String>,
    /// `aud`, a string or a list of strings.
    pub audience: Claim<Vec<String>>,
    /// `exp`.
    pub expires: Claim<UnixMillis>,
    /// `nbf`.
    pub not_before: Claim<UnixMillis>,
    /// `iat`.
    pub issued_at: Claim<UnixMillis>,
    /// `iat_ms`, ours alone: milliseconds.
    pub issued_at_ms: Claim<UnixMillis>,
    /// `jti`.
    pub token_id: Claim<String>,
    /// `sid`.
    pub session_id: Claim<String>,
    /// `amr`.
    pub amr: Claim<Vec<String>>,
    /// All of them.
    pub all: S,
}

/// A claim: there, absent, or of a wrong type.
pub type Claim<T> = Result<Option<T>, WrongType>;

/// A claim's value is not of the type that its registration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongType(pub &'static str);

/// A claim that must be equal to a value.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimMatch {
    /// A top-level name.
    pub claim: String,
    /// What it must equal.
    pub value: Value,
}

impl<S: ClaimSource> Claims<S> {
    /// Reads the registered claims of a payload.
    pub fn new(all: S) -> Self {
        Self {
            issuer: string(&all, "iss", WrongType("iss is not a string")),
            subject: string(&all, "sub", WrongType("sub is not a string")),
            audience: strings(&all, "aud", WrongType("aud is neither a string nor a list of strings")),
            expires: numeric_date(&all, "exp", WrongType("exp is not a number of seconds")),
            not_before: numeric_date(&all, "nbf", WrongType("nbf is not a number of seconds")),
            issued_at: numeric_date(&all, "iat", WrongType("iat is not a number of seconds")),
            issued_at_ms: millis(&all, "iat_ms", WrongType("iat_ms is not a whole number of milliseconds")),
            token_id: string(&all, "jti", WrongType("jti is not a string")),
            session_id: string(&all, "sid", WrongType("sid is not a string")),
            amr: strings(&all, "amr", WrongType("amr is not a list of strings")),
            all,
        }
    }
}

fn present(all: &impl ClaimSource, name: &str) -> Option<Value> {
    all.claim(name).filter(|v| !v.is_null())
}

/// A string claim.
pub fn string(all: &impl ClaimSource, name: &str, wrong: WrongType) -> Claim<String> {
    match present(all, name) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(_) => Err(wrong),
    }
}

/// A claim that is a string or a list of strings.
pub fn strings(all: &impl ClaimSource, name: &str, wrong: WrongType) -> Claim<Vec<String>> {
    match present(all, name) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(vec![s])),
        Some(Value::Array(items)) => {
            let text = |item| if let Value::String(text) = item { Ok(text) } else { Err(wrong) };
            items.into_iter().map(text).collect::<Result<Vec<_>, _>>().map(Some)
        }
        Some(_) => Err(wrong),
    }
}

/// `scope` (space-separated, RFC 8693 section 4.2) and `scp` (a list or a string), together.
pub fn scopes(all: &impl ClaimSource) -> Result<Vec<String>, WrongType> {
    let wrong = WrongType("scope or scp is neither a string nor a list of strings");
    let mut found: Vec<String> = Vec::new();
    for name in ["scope", "scp"] {
        for item in strings(all, name, wrong)?.unwrap_or_default() {
            for scope in item.split(' ').filter(|s| !s.is_empty()) {
                if !found.iter().any(|f| f == scope) {
                    found.push(scope.to_owned());
                }
            }
        }
    }
    Ok(found)
}

/// NumericDate (RFC 7519 section 2): seconds, possibly with a fraction.
fn numeric_date(all: &impl ClaimSource, name: &str, wrong: WrongType) -> Claim<UnixMillis> {
    /// Far beyond every calendar, and still exact in milliseconds.
    const LIMIT: f64 = 1e12;
    match present(all, name) {
        None => Ok(None),
        Some(Value::Number(n)) => {
            let seconds = n.as_f64().filter(|s| s.is_finite()).ok_or(wrong)?;
            #[expect(clippy::cast_possible_truncation, reason = "clamped to a range in which milliseconds fit an i64")]
            let millis = (seconds.clamp(-LIMIT, LIMIT) * 1000.0).floor() as i64;
            Ok(Some(UnixMillis(millis)))
        }
        Some(_) => Err(wrong),
    }
}

fn millis(all: &impl ClaimSource, name: &str, wrong: WrongType) -> Claim<UnixMillis> {
    match present(all, name) {
        None => Ok(None),
        Some(value) => value.as_i64().map(|ms| Some(UnixMillis(ms))).ok_or(wrong),
    }
}
