//! Public keys on the wire (RFC 7517). Private members are never kept: `d`, `p`, `k` and the like are dropped while reading.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    base64url,
    strict_json::{self, StrictJsonError},
};

/// One key, as it stands in a set. Reading one never fails, so that one bad key can't take its set down: what is wrong with
/// it is kept and told when a key is made of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Value")]
pub struct Jwk {
    /// `kty`: `OKP`, `EC`, `RSA`; `oct` is recognised in order to be refused.
    pub kty: String,
    /// `use`: `sig`, `enc` or something unregistered.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    pub public_key_use: Option<String>,
    /// `key_ops`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_ops: Option<Vec<String>>,
    /// `alg`, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alg: Option<String>,
    /// `kid`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// `crv`, of OKP and EC keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crv: Option<String>,
    /// `x`, of OKP and EC keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// `y`, of EC keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// `n`, of RSA keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// `e`, of RSA keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
    /// What made it unreadable, if anything did.
    #[serde(skip)]
    pub(crate) flaw: Option<&'static str>,
}

impl From<Value> for Jwk {
    fn from(value: Value) -> Self {
        let Value::Object(mut members) = value else {
            return Self { flaw: Some("is not a JSON object"), ..Self::default() };
        };
        let mut flaw = None;
        let mut text = |name: &'static str, wrong: &'static str| match members.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => {
                flaw.get_or_insert(wrong);
                None
            }
        };
        let kid = text("kid", "has a kid that is not a string");
        let kty = text("kty", "has a kty that is not a string");
        let public_key_use = text("use", "has a use that is not a string");
        let alg = text("alg", "has an alg that is not a string");
        let crv = text("crv", "has a crv that is not a string");
        let x = text("x", "has an x that is not a string");
        let y = text("y", "has a y that is not a string");
        let n = text("n", "has an n that is not a string");
        let e = text("e", "has an e that is not a string");
        let key_ops = match key_ops(&members) {
            Ok(key_ops) => key_ops,
            Err(wrong) => {
                flaw.get_or_insert(wrong);
                None
            }
        };
        if kty.is_none() {
            flaw.get_or_insert("has no kty");
        }
        Self { kty: kty.unwrap_or_default(), public_key_use, key_ops, alg, kid, crv, x, y, n, e, flaw }
    }
}

fn key_ops(members: &Map<String, Value>) -> Result<Option<Vec<String>>, &'static str> {
    const WRONG: &str = "has key_ops that is not a list of strings";
    match members.get("key_ops") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(ops)) => {
            let ops: Option<Vec<String>> = ops.iter().map(|op| op.as_str().map(str::to_owned)).collect();
            ops.map(Some).ok_or(WRONG)
        }
        Some(_) => Err(WRONG),
    }
}

impl Jwk {
    /// The key's SHA-256 thumbprint (RFC 7638, RFC 8037 section 2), base64url; `None` for a key that lacks a member of its
    /// type.
    pub fn thumbprint(&self) -> Option<String> {
        // RFC 7638 section 3.3: the required members and no others, in lexicographic order.
        let members: &[(&str, Option<&str>)] = match self.kty.as_str() {
            "OKP" => &[("crv", self.crv.as_deref()), ("kty", Some("OKP")), ("x", self.x.as_deref())],
            "EC" => {
                &[("crv", self.crv.as_deref()), ("kty", Some("EC")), ("x", self.x.as_deref()), ("y", self.y.as_deref())]
            }
            "RSA" => &[("e", self.e.as_deref()), ("kty", Some("RSA")), ("n", self.n.as_deref())],
            _ => return None,
        };
        let members: Option<BTreeMap<&str, &str>> = members.iter().map(|(name, value)| Some((*name, (*value)?))).collect();
        let canonical = serde_json::to_vec(&members?).ok()?;
        Some(base64url::encode(digest::digest(&digest::SHA256, &canonical)))
    }
}

/// A JWK Set (RFC 7517 section 5).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Value")]
pub struct JwkSet {
    /// Its keys, in their order.
    pub keys: Vec<Jwk>,
}

/// Why something is no JWK Set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidJwkSet {
    /// Not JSON that means one thing.
    #[error("the key set is refused: {0}")]
    Json(#[from] StrictJsonError),
    /// Not an object, or without a list under `keys`.
    #[error("the key set is not a JSON object with a list named keys")]
    NotASet,
}

impl JwkSet {
    /// Reads a set. Members that it doesn't know are ignored, in the set and in its keys.
    pub fn parse(json: &[u8]) -> Result<Self, InvalidJwkSet> {
        strict_json::parse(json, super::MAX_DEPTH)?.try_into()
    }
}

impl TryFrom<Value> for JwkSet {
    type Error = InvalidJwkSet;

    fn try_from(value: Value) -> Result<Self, InvalidJwkSet> {
        match value {
            Value::Object(mut members) => match members.remove("keys") {
                Some(Value::Array(keys)) => Ok(Self { keys: keys.into_iter().map(Jwk::from).collect() }),
                _ => Err(InvalidJwkSet::NotASet),
            },
            _ => Err(InvalidJwkSet::NotASet),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_past_what_it_does_not_know_and_past_bad_keys() {
        let set = JwkSet::parse(
            br#"{"keys": [
                {"kty": "OKP", "crv": "Ed25519", "x": "abc", "d": "secret", "kid": "a", "new": {"k": 1}, "alg": null},
                {"kty": "RSA", "n": 1, "e": "AQAB"},
                "nonsense",
                {"kid": "no type"},
                {"kty": "EC", "key_ops": ["verify", 1]}
            ], "next": "more"}"#,
        )
        .unwrap();
        let flaws: Vec<_> = set.keys.iter().map(|k| k.flaw).collect();
        let expected = [
            None,
            Some("has an n that is not a string"),
            Some("is not a JSON object"),
            Some("has no kty"),
            Some("has key_ops that is not a list of strings"),
        ];
        assert_eq!(flaws, expected);
        assert_eq!(set.keys[3].kid.as_deref(), Some("no type"));
        let written = serde_json::to_string(&set.keys[0]).unwrap();
        assert_eq!(written, r#"{"kty":"OKP","kid":"a","crv":"Ed25519","x":"abc"}"#, "private and unknown members are gone");
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["[]", "{}", r#"{"keys": {}}"#, r#"{"keys": null}"#, "7", r#""keys""#] {
            assert_eq!(JwkSet::parse(text.as_bytes()), Err(InvalidJwkSet::NotASet), "{text}");
        }
        let twice = JwkSet::parse(br#"{"keys": [{"kty": "RSA", "kty": "EC"}]}"#);
        assert_eq!(twice, Err(InvalidJwkSet::Json(StrictJsonError::DuplicateMember)));
        assert_eq!(JwkSet::parse(b"<html>"), Err(InvalidJwkSet::Json(StrictJsonError::Syntax)));
    }
}
