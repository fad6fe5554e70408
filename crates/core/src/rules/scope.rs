//! What an expression sees, borrowed from the input and made into CEL values only where it is looked at.

use std::{collections::HashMap, sync::OnceLock};

use cel::{
    common::{
        types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelTimestamp, CelUInt},
        value::{CowVal, Val},
    },
    context::VariableResolver,
};
use serde_json::{Map, Number, Value};

use super::{
    RuleInput,
    cost::{self, BUDGET, Budget},
    expression::NOW_SECONDS,
    pattern::{self, Pattern},
    vocabulary::CALLER_SENDS,
};
use crate::time::UnixMillis;

/// Something that an expression can be evaluated over.
pub(crate) trait Scope: Sync {
    /// The value of a variable, or of a path of names joined by dots.
    fn value<'b>(&'b self, path: &str) -> Option<CowVal<'b, 'b>>;
    /// About how many bytes there are to see.
    fn input_bytes(&self) -> u64;
}

/// What a rule sees.
pub(crate) struct RuleScope<'a> {
    input: &'a RuleInput<'a>,
    client_ip: Option<&'a str>,
    claims: LazyClaims<'a>,
}

/// What a claim mapping sees.
pub(crate) struct ClaimScope<'a>(LazyClaims<'a>);

struct LazyClaims<'a> {
    json: &'a Map<String, Value>,
    map: OnceLock<CelMap<'a>>,
}

/// A scope with the budget of one evaluation.
pub(super) struct Budgeted<'s, S: ?Sized> {
    pub(super) scope: &'s S,
    pub(super) patterns: &'s [Pattern],
    pub(super) budget: Budget,
}

impl<S: Scope + Send + ?Sized> VariableResolver for Budgeted<'_, S> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        match variable {
            BUDGET => Some(CowVal::Borrowed(&self.budget)),
            _ => match pattern::named(self.patterns, variable) {
                Some(pattern) => Some(CowVal::Borrowed(pattern)),
                None => self.scope.value(variable),
            },
        }
    }
}

impl<'a> RuleScope<'a> {
    pub(super) fn new(input: &'a RuleInput<'a>, client_ip: Option<&'a str>) -> Self {
        Self { input, client_ip, claims: LazyClaims::new(input.credential.claims) }
    }

    /// Those of the names that the caller didn't send.
    pub(super) fn missing_of(&self, needs: &[&'static str]) -> Vec<&'static str> {
        needs.iter().copied().filter(|name| self.sent(name).is_none()).collect()
    }

    fn sent(&self, path: &str) -> Option<&'a str> {
        let (request, client) = (&self.input.request, &self.input.client);
        match path {
            "request.method" => request.method,
            "request.path" => request.path,
            "request.host" => request.host,
            "request.query" => request.query,
            "client.ip" => self.client_ip,
            "client.user_agent" => client.user_agent,
            "client.device_id" => client.device_id,
            _ => None,
        }
    }

    fn sent_of(&self, variable: &str) -> CelMap<'a> {
        let fields = CALLER_SENDS.iter().filter(|(v, _, _)| *v == variable);
        let entries = fields.filter_map(|(_, field, path)| {
            let value: Box<dyn Val + 'a> = Box::new(CelString::from(self.sent(path)?));
            Some((CelMapKey::String(CelString::from(*field)), value))
        });
        CelMap::from(entries.collect::<HashMap<_, _>>())
    }
}

impl Scope for RuleScope<'_> {
    fn value<'b>(&'b self, path: &str) -> Option<CowVal<'b, 'b>> {
        let facts = &self.input.credential;
        let text = |text: &'b str| Some(CowVal::owned(CelString::from(text)));
        match path {
            "subject" => text(facts.subject),
            "kind" => text(facts.kind),
            "issuer" => text(facts.issuer),
            "roles" => Some(list(facts.roles)),
            "permissions" => Some(list(facts.permissions)),
            "scopes" => Some(list(facts.scopes)),
            "audience" => Some(list(facts.audience)),
            "amr" => Some(list(facts.amr)),
            "request" | "client" => Some(CowVal::owned(self.sent_of(path))),
            "now" => timestamp(self.input.now).map(CowVal::owned),
            NOW_SECONDS => Some(CowVal::owned(CelInt::from(self.input.now.as_secs()))),
            _ => self.sent(path).and_then(text).or_else(|| self.claims.value(path)),
        }
    }

    fn input_bytes(&self) -> u64 {
        let facts = &self.input.credential;
        let lists = [facts.roles, facts.permissions, facts.scopes, facts.audience, facts.amr];
        let in_lists: usize = lists.into_iter().flatten().map(|item| item.len() + 32).sum();
        let sent: usize = CALLER_SENDS.iter().filter_map(|(_, _, path)| self.sent(path)).map(str::len).sum();
        let texts = facts.subject.len() + facts.issuer.len();
        (in_lists + sent + texts) as u64 + cost::size_of_claims(facts.claims)
    }
}

impl<'a> ClaimScope<'a> {
    pub(crate) fn new(claims: &'a Map<String, Value>) -> Self {
        Self(LazyClaims::new(claims))
    }
}

impl Scope for ClaimScope<'_> {
    fn value<'b>(&'b self, path: &str) -> Option<CowVal<'b, 'b>> {
        self.0.value(path)
    }

    fn input_bytes(&self) -> u64 {
        cost::size_of_claims(self.0.json)
    }
}

impl<'a> LazyClaims<'a> {
    fn new(json: &'a Map<String, Value>) -> Self {
        Self { json, map: OnceLock::new() }
    }

    /// `claims`, or the claim at `claims.a.b`. A null claim is an absent one.
    fn value<'b>(&'b self, path: &str) -> Option<CowVal<'b, 'b>> {
        let mut names = path.split('.');
        if names.next() != Some("claims") {
            return None;
        }
        let Some(first) = names.next() else {
            let map = self.map.get_or_init(|| {
                let present = self.json.iter().filter(|(_, value)| !value.is_null());
                CelMap::from(present.map(|(name, value)| (key(name), cel_of(value))).collect::<HashMap<_, _>>())
            });
            return Some(CowVal::Borrowed(map));
        };
        let top = self.json.get(first).filter(|value| !value.is_null())?;
        names.try_fold(top, |value, name| value.as_object()?.get(name)).map(|value| CowVal::Owned(cel_of(value)))
    }
}

fn list<'b>(items: &'b [String]) -> CowVal<'b, 'b> {
    let boxed = |item: &'b String| Box::new(CelString::from(item.as_str())) as Box<dyn Val + 'b>;
    CowVal::owned(CelList::from(items.iter().map(boxed).collect::<Vec<_>>()))
}

fn timestamp(instant: UnixMillis) -> Option<CelTimestamp> {
    chrono::DateTime::from_timestamp_millis(instant.0).map(|time| CelTimestamp::from(time.fixed_offset()))
}

fn key(name: &str) -> CelMapKey<'_> {
    CelMapKey::String(CelString::from(name))
}

/// JSON as a CEL value. Whole numbers are `int` (or `uint` beyond that), others `double`.
fn cel_of(value: &Value) -> Box<dyn Val + '_> {
    match value {
        Value::Null => Box::new(CelNull),
        Value::Bool(b) => Box::new(CelBool::from(*b)),
        Value::Number(n) => number(n),
        Value::String(s) => Box::new(CelString::from(s.as_str())),
        Value::Array(items) => Box::new(CelList::from(items.iter().map(cel_of).collect::<Vec<_>>())),
        Value::Object(members) => {
            Box::new(CelMap::from(members.iter().map(|(k, v)| (key(k), cel_of(v))).collect::<HashMap<_, _>>()))
        }
    }
}

fn number(n: &Number) -> Box<dyn Val> {
    match (n.as_i64(), n.as_u64()) {
        (Some(int), _) => Box::new(CelInt::from(int)),
        (None, Some(uint)) => Box::new(CelUInt::from(uint)),
        (None, None) => Box::new(CelDouble::from(n.as_f64().unwrap_or(f64::NAN))),
    }
}

/// A string, or a list of strings: what a claim mapping can make of an expression's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Texts {
    /// `null` or an empty optional.
    Nothing,
    /// One string.
    One(String),
    /// A list of them.
    Many(Vec<String>),
}

/// Reads strings out of a value; `None` when it is anything else.
pub(crate) fn texts_of(value: &dyn Val) -> Option<Texts> {
    let text = |value: &dyn Val| value.downcast_ref::<CelString>().map(|s| s.inner().to_owned());
    if value.downcast_ref::<CelNull>().is_some() {
        return Some(Texts::Nothing);
    }
    if let Some(list) = value.downcast_ref::<CelList>() {
        return list.inner().iter().map(|item| text(item.as_ref())).collect::<Option<_>>().map(Texts::Many);
    }
    text(value).map(Texts::One)
}
