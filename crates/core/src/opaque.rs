//! API keys from before a migration: random strings without structure, known by their SHA-256 alone.

use std::collections::HashMap;

use aws_lc_rs::digest;
use serde::Deserialize;

use crate::time::UnixMillis;

/// How many keys one `keys.json` may hold.
pub const MAX_KEYS_PER_FILE: usize = 4_000;
/// How large one `keys.json` may be.
pub const MAX_FILE_BYTES: usize = 1 << 20;
/// How many roles, and how many scopes, one key may have.
const MAX_NAMES: usize = 64;
/// How long a subject, role or scope may be.
const MAX_NAME_BYTES: usize = 256;

/// What an imported key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpaqueKey {
    /// SHA-256 of the key's text.
    pub sha256: [u8; 32],
    /// Whom it speaks for.
    pub subject: String,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// Its roles.
    pub roles: Vec<String>,
    /// From this instant on it is expired.
    pub not_after: Option<UnixMillis>,
}

impl OpaqueKey {
    /// The SHA-256 in lower-case hex: its token id, and what revocations name it by.
    pub fn id(&self) -> String {
        hex::encode(self.sha256)
    }
}

/// A policy's imported keys.
#[derive(Clone, Debug, Default)]
pub struct OpaqueKeys {
    by_hash: HashMap<[u8; 32], OpaqueKey>,
}

/// What is wrong with a `keys.json`. Names places, never content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpaqueKeysError {
    /// Over [`MAX_FILE_BYTES`].
    #[error("is over 1 MiB")]
    TooLarge,
    /// Over [`MAX_KEYS_PER_FILE`].
    #[error("holds {0} keys; at most {MAX_KEYS_PER_FILE} fit into one Secret, and a policy may name three")]
    TooMany(usize),
    /// Not the JSON that is expected.
    #[error("is not a JSON list of keys: {0} (line {1}, column {2})")]
    Syntax(&'static str, usize, usize),
    /// A key's entry is wrong.
    #[error("entry {index}: {what}")]
    Entry {
        /// Counted from 0.
        index: usize,
        /// What is wrong.
        what: &'static str,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    sha256: String,
    subject: String,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(rename = "notAfter", default, deserialize_with = "present")]
    not_after: Option<String>,
}

/// Null is not absence here.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// Reads one `keys.json`: `[{"sha256": "<64 hex digits>", "subject", "scopes", "roles", "notAfter"}]`, the last three optional.
pub fn parse_keys(bytes: &[u8]) -> Result<Vec<OpaqueKey>, OpaqueKeysError> {
    if bytes.len() > MAX_FILE_BYTES {
        return Err(OpaqueKeysError::TooLarge);
    }
    let entries: Vec<Entry> = serde_json::from_slice(bytes).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => {
                "an entry has a member that is unknown, missing, given twice or of a wrong type"
            }
            _ => "it does not parse",
        };
        OpaqueKeysError::Syntax(what, error.line(), error.column())
    })?;
    if entries.len() > MAX_KEYS_PER_FILE {
        return Err(OpaqueKeysError::TooMany(entries.len()));
    }
    let mut seen = std::collections::HashSet::new();
    entries
        .into_iter()
        .enumerate()
        .map(|(index, entry)| {
            let key = entry.validate().map_err(|what| OpaqueKeysError::Entry { index, what })?;
            if seen.insert(key.sha256) {
                Ok(key)
            } else {
                Err(OpaqueKeysError::Entry { index, what: "the same sha256 as an entry before it" })
            }
        })
        .collect()
}

impl Entry {
    fn validate(self) -> Result<OpaqueKey, &'static str> {
        let mut sha256 = [0; 32];
        hex::decode_to_slice(&self.sha256, &mut sha256).map_err(|_| "sha256 is not 64 hex digits")?;
        if sha256 == crate::digest::sha256(b"") {
            return Err("sha256 is that of no text at all");
        }
        if self.subject.is_empty() {
            return Err("subject is empty");
        }
        let names = [&self.scopes, &self.roles];
        if names.iter().any(|list| list.len() > MAX_NAMES) {
            return Err("over 64 scopes or roles");
        }
        let odd = |text: &String| text.is_empty() || text.len() > MAX_NAME_BYTES || text.chars().any(char::is_control);
        if odd(&self.subject) || names.into_iter().flatten().any(odd) {
            return Err("a subject, scope or role is empty, over 256 bytes, or has control characters");
        }
        let not_after = match self.not_after {
            None => None,
            Some(text) => {
                let time: jiff::Timestamp = text.parse().map_err(|_| "notAfter is not an RFC 3339 time")?;
                Some(UnixMillis(time.as_millisecond()))
            }
        };
        Ok(OpaqueKey { sha256, subject: self.subject, scopes: self.scopes, roles: self.roles, not_after })
    }
}

impl OpaqueKeys {
    /// The keys of all a policy's files together. Of two entries for one key the one that ends first counts.
    pub fn new(keys: impl IntoIterator<Item = OpaqueKey>) -> Self {
        let mut by_hash: HashMap<[u8; 32], OpaqueKey> = HashMap::new();
        let end = |key: &OpaqueKey| key.not_after.unwrap_or(UnixMillis::FOREVER);
        for key in keys {
            match by_hash.get(&key.sha256) {
                Some(held) if end(held) <= end(&key) => {}
                _ => {
                    by_hash.insert(key.sha256, key);
                }
            }
        }
        Self { by_hash }
    }

    /// The key with this text. Compares hashes, so the time that it takes tells nothing about any key.
    pub fn lookup(&self, token: &str) -> Option<&OpaqueKey> {
        let hash = digest::digest(&digest::SHA256, token.as_bytes());
        let hash: [u8; 32] = hash.as_ref().try_into().ok()?;
        self.by_hash.get(&hash)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(text: &str) -> String {
        hex::encode(digest::digest(&digest::SHA256, text.as_bytes()))
    }

    fn file(text: &str) -> Result<Vec<OpaqueKey>, OpaqueKeysError> {
        parse_keys(text.as_bytes())
    }

    #[test]
    fn a_key_is_found_by_its_exact_text_alone() {
        let json = format!(
            r#"[{{"sha256": "{}", "subject": "svc-a", "scopes": ["orders:read"], "roles": ["user"], "notAfter": "2027-03-01T00:00:00Z"}},
                {{"sha256": "{}", "subject": "svc-b"}}]"#,
            hash("old-key-1"),
            hash("old-key-2").to_uppercase(),
        );
        let keys = OpaqueKeys::new(file(&json).unwrap());
        let found = keys.lookup("old-key-1").unwrap();
        assert_eq!((found.subject.as_str(), found.id()), ("svc-a", hash("old-key-1")));
        assert_eq!(found.not_after, Some(UnixMillis(1_803_859_200_000)));
        assert_eq!(
            (found.scopes.as_slice(), found.roles.as_slice()),
            (&["orders:read".to_owned()][..], &["user".to_owned()][..])
        );
        assert_eq!(keys.lookup("old-key-2").unwrap().not_after, None);
        for wrong in ["", "old-key-", "old-key-1 ", "OLD-KEY-1", &hash("old-key-1")] {
            assert_eq!(keys.lookup(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn each_mistake_in_a_file_names_its_entry_and_never_its_content() {
        let good = hash("x");
        let entry = |what| OpaqueKeysError::Entry { index: 0, what };
        for (json, expected) in [
            (r#"[{"sha256": "ab", "subject": "s"}]"#.to_owned(), entry("sha256 is not 64 hex digits")),
            (format!(r#"[{{"sha256": "{}", "subject": "s"}}]"#, hash("")), entry("sha256 is that of no text at all")),
            (format!(r#"[{{"sha256": "{good}00", "subject": "s"}}]"#), entry("sha256 is not 64 hex digits")),
            (format!(r#"[{{"sha256": "{good}", "subject": ""}}]"#), entry("subject is empty")),
            (
                format!(r#"[{{"sha256": "{good}", "subject": "s", "notAfter": "tomorrow"}}]"#),
                entry("notAfter is not an RFC 3339 time"),
            ),
            (
                format!(r#"[{{"sha256": "{good}", "subject": "s"}}, {{"sha256": "{good}", "subject": "t"}}]"#),
                OpaqueKeysError::Entry { index: 1, what: "the same sha256 as an entry before it" },
            ),
        ] {
            assert_eq!(file(&json), Err(expected), "{json}");
        }
        for json in [
            "",
            "{}",
            "null",
            "[null]",
            "[{}]",
            "[]x",
            &format!(r#"[{{"sha256": "{good}", "subject": "s", "subject": "t"}}]"#),
            &format!(r#"[{{"sha256": "{good}", "subject": "s", "expires": 1}}]"#),
            &format!(r#"[{{"sha256": "{good}", "subject": "s", "notAfter": null}}]"#),
            &format!(r#"[{{"sha256": "{good}", "subject": "s", "roles": null}}]"#),
        ] {
            assert!(matches!(file(json), Err(OpaqueKeysError::Syntax(..))), "{json}");
        }
        assert_eq!(parse_keys(&vec![b' '; MAX_FILE_BYTES + 1]), Err(OpaqueKeysError::TooLarge));
    }

    #[test]
    fn of_two_entries_for_one_key_the_earlier_end_counts() {
        let key = |not_after| OpaqueKey { sha256: [1; 32], subject: "s".into(), scopes: vec![], roles: vec![], not_after };
        let (forever, soon) = (key(None), key(Some(UnixMillis(5))));
        for order in [[forever.clone(), soon.clone()], [soon.clone(), forever]] {
            assert_eq!(OpaqueKeys::new(order).by_hash[&[1; 32]], soon);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused_without_a_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = parse_keys(&bytes);
        }
    }
}
