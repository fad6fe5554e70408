//! What texts must look like, in words: one message for each pattern, told by the API server and by `policy check` alike.
//!
//! The API server's own message for a pattern repeats the pattern. So each field with one carries a rule besides, which says
//! how to write it.

use serde_json::{Value, json};

use crate::values::{Duration, Memory, Network, OBJECT_NAME, Time};

/// A pattern, and what to tell of a text that doesn't match it.
pub(super) struct TextRule {
    pattern: &'static str,
    /// What the text must be besides, which no pattern can tell. Evaluated only when the pattern matches.
    beyond: &'static str,
    /// Follows the field's name or the text itself.
    pub(super) words: &'static str,
}

const fn rule(pattern: &'static str, words: &'static str) -> TextRule {
    TextRule { pattern, beyond: "", words }
}

const TEXTS: &[TextRule] = &[
    TextRule {
        pattern: Duration::PATTERN,
        beyond: Duration::CEL,
        words: "must be a duration such as 15m, 720h or 1h30m, and at most 99999h",
    },
    TextRule {
        pattern: Network::PATTERN,
        beyond: Network::CEL,
        words: "must be a network such as 10.0.0.0/8 or 2001:db8::/32, without bits beyond its prefix",
    },
    TextRule {
        pattern: Time::PATTERN,
        beyond: Time::CEL,
        words: "must be a time such as 2027-03-01T00:00:00Z (RFC 3339), on a day that exists",
    },
    rule(Memory::PATTERN, "must be an amount of memory such as 19Mi (Ki, Mi or Gi)"),
    rule(
        OBJECT_NAME,
        "must be a name of small letters, digits, dashes and dots, such as legacy-jwt; each part begins and ends with a letter or digit",
    ),
    rule(
        crate::policy::patterns::LABEL,
        "must be a name of small letters, digits and dashes, such as temp-reads-only, that begins and ends with a letter or digit",
    ),
    rule(
        crate::policy::patterns::DATA_KEY,
        "must be a key of letters, digits, dashes, dots and underscores, such as keys.json",
    ),
    rule(
        crate::policy::patterns::ISSUER,
        "must be an address such as https://auth.shop.example, without a trailing slash, query, fragment or spaces: remove those",
    ),
    rule(
        crate::policy::patterns::FOREIGN_ISSUER,
        "must be the iss of the tokens, such as https://kc.example/realms/shop, without spaces: remove those",
    ),
    rule(
        crate::policy::patterns::ADDRESS,
        "must be an address such as https://idp.example/keys, without a fragment (#) or spaces: remove those",
    ),
    rule(
        crate::policy::patterns::PAGE,
        "must be an address such as https://shop.example/page?token={token}, without spaces",
    ),
    rule(
        crate::policy::patterns::ORIGIN,
        "must be an origin such as https://shop.example, without a path or trailing slash, or \"*\"",
    ),
    rule(crate::policy::patterns::ROLE, "must be a name such as orders-clerk, without spaces: put dashes in their place"),
    rule(
        crate::policy::patterns::PERMISSION,
        "must be words joined by colons, such as orders:read, where * stands for a whole word, as in orders:*",
    ),
    rule(
        crate::policy::patterns::COOKIE_PREFIX,
        "must be the beginning of a cookie's name, such as __Host-cs_: letters, digits, dashes and underscores",
    ),
    rule(crate::policy::patterns::SENDER, "must be a sender such as Shop <no-reply@shop.example>, on one line"),
    rule(
        crate::policy::patterns::CLIENT_ID,
        "must be an id such as billing, of ASCII letters, digits and signs, without spaces",
    ),
    rule(
        crate::session::LABEL_VALUE,
        "must be a label's value such as team-a: letters, digits, dashes, dots and underscores, beginning and ending with a letter or digit",
    ),
];

/// The rule of a field's pattern.
pub(super) fn of(schema: &Value) -> Option<&'static TextRule> {
    let pattern = schema.get("pattern").and_then(Value::as_str)?;
    TEXTS.iter().find(|text| text.pattern == pattern)
}

impl TextRule {
    /// For the API server.
    pub(super) fn validation(&self) -> Value {
        // A raw text: a backslash is the pattern's.
        let quote = if self.pattern.contains('\'') { '"' } else { '\'' };
        let matches = format!("self.matches(r{quote}{}{quote})", self.pattern);
        let holds = if self.beyond.is_empty() { matches } else { format!("{matches} && {}", self.beyond) };
        json!({"rule": holds, "message": self.words})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{policy_spec_schema, session_spec_schema};

    fn each_pattern(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
        if schema.get("pattern").is_some() {
            visit(path, schema);
        }
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            each_pattern(property, &format!("{path}.{name}"), visit);
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(inner) = schema.get(inner).filter(|s| s.is_object()) {
                each_pattern(inner, &format!("{path}[]"), visit);
            }
        }
    }

    #[test]
    fn every_field_with_a_pattern_says_how_to_write_it() {
        let mut used = std::collections::BTreeSet::new();
        for schema in [policy_spec_schema(), session_spec_schema()] {
            each_pattern(schema, "spec", &mut |path, field| {
                let text = of(field).unwrap_or_else(|| panic!("{path}: {}", field["pattern"]));
                used.insert(text.pattern);
                let rules = field["x-kubernetes-validations"].as_array().cloned().unwrap_or_default();
                assert!(rules.contains(&text.validation()), "{path}");
            });
        }
        for text in TEXTS {
            assert!(used.contains(text.pattern), "nothing uses {}", text.pattern);
            assert!(text.words.starts_with("must be ") && text.words.contains(" such as "), "{}", text.words);
        }
    }
}
