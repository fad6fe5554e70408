//! JSON that means one thing: no duplicate members, bounded nesting, nothing after the value.
//!
//! Two parsers that disagree on which of two equal members counts are how a check and its use come apart (RFC 8259 section 4
//! leaves it open, RFC 7515 section 4 and RFC 7519 section 4 let a parser refuse). Names are compared after unescaping, so
//! `"alg"` and `"\u0061lg"` are one name.

use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, map::Entry};

/// Why a text is refused. Which of several faults is named is the one met first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrictJsonError {
    /// Not JSON (RFC 8259), not UTF-8, a lone surrogate, or a number beyond every floating point number.
    #[error("not JSON")]
    Syntax,
    /// An object names a member twice.
    #[error("a JSON object has two members of one name")]
    DuplicateMember,
    /// Objects and arrays within each other beyond the limit.
    #[error("JSON nests too deep")]
    TooDeep,
}

/// Parses one JSON value. A value that holds no other counts as no level, an object or array as one.
///
/// `max_depth` may be at most 127, the JSON library's own limit.
pub fn parse(bytes: &[u8], max_depth: usize) -> Result<Value, StrictJsonError> {
    let mut fault = None;
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict { levels_left: max_depth, fault: &mut fault }.deserialize(&mut deserializer);
    match value.and_then(|v| deserializer.end().map(|()| v)) {
        Ok(value) => Ok(value),
        Err(_) => Err(fault.unwrap_or(StrictJsonError::Syntax)),
    }
}

struct Strict<'a> {
    levels_left: usize,
    fault: &'a mut Option<StrictJsonError>,
}

impl Strict<'_> {
    fn one_level_down<E: de::Error>(&mut self) -> Result<Strict<'_>, E> {
        match self.levels_left.checked_sub(1) {
            Some(levels_left) => Ok(Strict { levels_left, fault: self.fault }),
            None => Err(self.refuse(StrictJsonError::TooDeep)),
        }
    }

    fn refuse<E: de::Error>(&mut self, fault: StrictJsonError) -> E {
        *self.fault = Some(fault);
        E::custom(fault)
    }

    fn again(&mut self) -> Strict<'_> {
        Strict { levels_left: self.levels_left, fault: self.fault }
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(mut self, value: f64) -> Result<Value, E> {
        match serde_json::Number::from_f64(value) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(self.refuse(StrictJsonError::Syntax)),
        }
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Value, A::Error> {
        let mut inner = self.one_level_down()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inner.again())? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Value, A::Error> {
        let mut inner = self.one_level_down()?;
        let mut members = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let Entry::Vacant(member) = members.entry(name) else {
                return Err(inner.refuse(StrictJsonError::DuplicateMember));
            };
            member.insert(map.next_value_seed(inner.again())?);
        }
        Ok(Value::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{StrictJsonError::*, *};

    #[test]
    fn ordinary_json_reads_as_everywhere() {
        let text = br#" {"a": [1, -2, 2.5, true, null, "\u00e9\ud83d\ude00"], "b": {"a": {}}, "": 18446744073709551615} "#;
        let expected = json!({"a": [1, -2, 2.5, true, null, "é😀"], "b": {"a": {}}, "": u64::MAX});
        assert_eq!(parse(text, 64), Ok(expected));
        assert_eq!(parse(b"1e300", 0), Ok(json!(1e300)));
        assert_eq!(parse(br#"{"$serde_json::private::Number": "1"}"#, 1), Ok(json!({"$serde_json::private::Number": "1"})));
        assert_eq!(
            parse(br#"{"$serde_json::private::RawValue": "{"}"#, 1),
            Ok(json!({"$serde_json::private::RawValue": "{"}))
        );
    }

    #[test]
    fn what_is_not_exactly_one_unambiguous_value_is_refused() {
        let cases: [(&[u8], StrictJsonError); 26] = [
            (b"", Syntax),
            (b"{", Syntax),
            (b"{} {}", Syntax),
            (b"{}x", Syntax),
            (b"{},", Syntax),
            (b"{\"a\":1,}", Syntax),
            (b"{'a':1}", Syntax),
            (b"{a:1}", Syntax),
            (b"[1,]", Syntax),
            (b"01", Syntax),
            (b"+1", Syntax),
            (b".5", Syntax),
            (b"NaN", Syntax),
            (b"Infinity", Syntax),
            (b"1e999", Syntax),
            (b"// c\n{}", Syntax),
            (b"\xef\xbb\xbf{}", Syntax),
            (b"\"\xff\"", Syntax),
            (b"\"a\nb\"", Syntax),
            (br#""\ud800""#, Syntax),
            (br#""\udc00\ud800""#, Syntax),
            (br#"{"a":1,"a":1}"#, DuplicateMember),
            (br#"{"alg":1,"\u0061lg":1}"#, DuplicateMember),
            (br#"[{"x":{"a":1,"b":2,"a":3}}]"#, DuplicateMember),
            (br#"{"a":1,"a":"#, DuplicateMember),
            (br#"{"a":{"b":1},"a":{"c":1}}"#, DuplicateMember),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text, 64), Err(expected), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn nesting_is_bounded_exactly() {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = |levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
            assert!(parse(nested(64).as_bytes(), 64).is_ok());
            assert_eq!(parse(nested(65).as_bytes(), 64), Err(TooDeep));
            assert_eq!(parse(nested(100_000).as_bytes(), 64), Err(TooDeep));
            assert_eq!(parse(open.repeat(100_000).as_bytes(), 64), Err(TooDeep));
        }
    }
}
