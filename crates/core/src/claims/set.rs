//! A token's claims as one text.

use serde_json::{Map, Value};

use super::ClaimSource;
use crate::jose::{
    MAX_DEPTH,
    plain_json::{self, Member},
    strict_json::{self, StrictJsonError},
};

/// A token's claims in canonical JSON: members by name, no white space, each number and string in one writing. Claims are read
/// from the text; a tree is built only for expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimSet {
    text: String,
    members: Vec<Member>,
}

/// Why bytes are no claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotClaims {
    /// Not JSON that means one thing.
    #[error(transparent)]
    Json(#[from] StrictJsonError),
    /// JSON, but no object.
    #[error("not a JSON object")]
    NotAnObject,
}

impl ClaimSet {
    /// Reads a payload. What is written plainly is copied; all else goes by way of the strict parser, which decides.
    pub fn parse(json: &[u8]) -> Result<Self, NotClaims> {
        if let Ok(text) = str::from_utf8(json)
            && let Some(members) = plain_json::members(text)
        {
            return Ok(Self::plain(text, &members));
        }
        match strict_json::parse(json, MAX_DEPTH)? {
            Value::Object(members) => Ok(Self::from(&members)),
            _ => Err(NotClaims::NotAnObject),
        }
    }

    fn plain(json: &str, members: &[Member]) -> Self {
        let mut set = Self::with_capacity(json.len(), members.len());
        for member in members {
            set.add(&json[member.name.clone()], |text| text.push_str(&json[member.value.clone()]));
        }
        set.finish()
    }

    fn with_capacity(bytes: usize, members: usize) -> Self {
        Self { text: String::with_capacity(bytes), members: Vec::with_capacity(members) }
    }

    /// Adds a member, its name as it stands between quotes.
    fn add(&mut self, name: &str, value: impl FnOnce(&mut String)) {
        self.text.push_str(if self.members.is_empty() { "{\"" } else { ",\"" });
        let start = self.text.len();
        self.text.push_str(name);
        let name = start..self.text.len();
        self.text.push_str("\":");
        let start = self.text.len();
        value(&mut self.text);
        self.members.push(Member { name, value: start..self.text.len() });
    }

    fn finish(mut self) -> Self {
        self.text.push_str(if self.members.is_empty() { "{}" } else { "}" });
        self
    }

    /// The text.
    pub fn as_json(&self) -> &str {
        &self.text
    }

    /// The text.
    pub fn into_json(self) -> Box<str> {
        self.text.into_boxed_str()
    }

    fn find(&self, name: &str) -> Option<&str> {
        if !plain_json::needs_no_escape(name) {
            return self.find_escaped(&escaped(name));
        }
        self.find_escaped(name)
    }

    fn find_escaped(&self, name: &str) -> Option<&str> {
        let text = self.text.as_bytes();
        let is_it = |member: &&Member| member.name.len() == name.len() && text[member.name.clone()] == *name.as_bytes();
        let member = self.members.iter().find(is_it)?;
        Some(&self.text[member.value.clone()])
    }
}

impl From<&Map<String, Value>> for ClaimSet {
    fn from(members: &Map<String, Value>) -> Self {
        let mut set = Self::with_capacity(64 * members.len(), members.len());
        for (name, value) in members {
            set.add(&escaped(name), |text| text.push_str(&value.to_string()));
        }
        set.finish()
    }
}

impl ClaimSource for ClaimSet {
    fn claim(&self, name: &str) -> Option<Value> {
        let text = self.find(name)?;
        Some(plain_json::value(text).unwrap_or_else(|| tree_of(text)))
    }

    fn tree(&self) -> Map<String, Value> {
        claims_tree(&self.text)
    }
}

/// The tree of claims that were kept as their canonical text.
pub(crate) fn claims_tree(json: &str) -> Map<String, Value> {
    let Value::Object(members) = tree_of(json) else { unreachable!("claims are an object") };
    members
}

fn tree_of(canonical: &str) -> Value {
    strict_json::parse(canonical.as_bytes(), MAX_DEPTH).expect("canonical JSON is strict JSON")
}

/// A name as it stands between quotes.
fn escaped(name: &str) -> String {
    let quoted = Value::from(name).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// What the claims are, by the strict parser alone.
    fn reference(json: &[u8]) -> Result<Map<String, Value>, NotClaims> {
        match strict_json::parse(json, MAX_DEPTH)? {
            Value::Object(members) => Ok(members),
            _ => Err(NotClaims::NotAnObject),
        }
    }

    fn assert_agrees(json: &[u8]) {
        let shown = String::from_utf8_lossy(json);
        match (ClaimSet::parse(json), reference(json)) {
            (Ok(set), Ok(members)) => {
                assert_eq!(set.as_json(), Value::Object(members.clone()).to_string(), "{shown}");
                assert_eq!(set.tree(), members, "{shown}");
                for (name, value) in &members {
                    assert_eq!(set.claim(name).as_ref(), Some(value), "{shown}");
                }
                for name in ["", "a", "sub", "\"", "\n"] {
                    assert_eq!(set.claim(name).as_ref(), members.get(name), "{shown}");
                }
                assert_eq!(ClaimSet::parse(set.as_json().as_bytes()), Ok(set));
            }
            (parsed, expected) => assert_eq!(parsed.err(), expected.err(), "{shown}"),
        }
    }

    #[test]
    fn claims_are_what_the_strict_parser_reads_whoever_reads_them() {
        let deep = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        let nested = |levels: usize| format!("{}{}", "{\"a\":".repeat(levels), "}".repeat(levels)).replace(":}", ":{}}");
        let many = |n: usize| json!((0..n).map(|i| (i.to_string(), i.into())).collect::<Map<_, _>>()).to_string();
        for text in [
            "{}",
            r#"{"sub":"u","aud":["a","b"],"exp":1700000000,"a":{"b":1,"c":[{"d":null}]}}"#,
            r#"{"z":1,"a":2,"m":3}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":1}"#,
            r#"{"b":{"y":1,"x":2}}"#,
            r#"{"b":{"x":1,"x":2}}"#,
            r#"{"a":-0}"#,
            r#"{"a":0}"#,
            r#"{"a":01}"#,
            r#"{"a":-1}"#,
            r#"{"a":-}"#,
            r#"{"a":1.5}"#,
            r#"{"a":1e3}"#,
            r#"{"a":999999999999999999}"#,
            r#"{"a":18446744073709551615}"#,
            r#"{"a":1e999}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":"\ud83d\ude00\/"}"#,
            r#"{"\"":1,"\n":2}"#,
            r#"{"a":"é"}"#,
            "{\"a\":\"\u{7f}\"}",
            "{\"a\":\"\n\"}",
            r#"{"a":tru}"#,
            r#"{"a":true"#,
            r#"{"a":true,}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[]}{}"#,
            r#" {"a":1}"#,
            r#"{"$serde_json::private::RawValue":"{"}"#,
            r#"{"a":{"$serde_json::private::RawValue":"{"}}"#,
            "[]",
            "7",
            "",
            &deep(63),
            &deep(64),
            &nested(63),
            &nested(64),
            &many(32),
            &many(33),
        ] {
            assert_agrees(text.as_bytes());
        }
        assert_agrees(b"{\"a\":\"\xff\"}");
    }

    /// JSON as issuers write it.
    fn tree() -> impl Strategy<Value = Value> {
        let text = "[ -~]{0,12}|[a-z]{0,20}|\\PC{0,4}";
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[a-c\"]{0,3}", inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_tree_is_read_alike(members in prop::collection::vec(("[a-d]{1,2}|[ -~]{0,6}", tree()), 0..12)) {
            // In any order, and with names that are there twice.
            let written: Vec<_> = members.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
            assert_agrees(format!("{{{}}}", written.join(",")).as_bytes());
        }

        #[test]
        fn any_tree_that_was_tampered_with_is_read_alike(tree in tree(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
            let mut json = json!({"sub": "u", "x": tree, "b": [1, "two"]}).to_string().into_bytes();
            let at = at.index(json.len());
            json[at] = byte;
            assert_agrees(&json);
            json.truncate(at);
            assert_agrees(&json);
        }

        #[test]
        fn any_string_of_tokens_is_read_alike(tokens in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "\"a\"", "\"b\"", "\"a\":", "\"b\":", "\"\"", "\"", "\\", "1", "-", "0", ".", "e", "9",
                "true", "null", "false", " ", "\"\\u0061\"", "\u{1}", "é", "{\"a\":1", "\"c\":[",
            ]),
            0..24,
        )) {
            assert_agrees(tokens.concat().as_bytes());
            assert_agrees(format!("{{{}}}", tokens.concat()).as_bytes());
        }

        #[test]
        fn any_bytes_are_read_alike(json in prop::collection::vec(any::<u8>(), 0..64)) {
            assert_agrees(&json);
        }
    }
}
