//! Bodies and queries as typed values; what is wrong with them in our own words, never in a library's and never with what
//! was sent, which may be a secret.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// How many members are looked at for the one that is wrong.
const MAX_LOOKED_AT: usize = 64;

/// A body's object as a `T`. The error says which member is wrong.
pub(super) fn read<T: DeserializeOwned>(body: &Value) -> Result<T, String> {
    T::deserialize(body).map_err(|error| {
        let text = error.to_string();
        match missing(&text) {
            Some(name) => format!("{name} is missing"),
            None => format!("{} {}", culprit::<T>(body, &text).unwrap_or("a member"), form(&text)),
        }
    })
}

/// What a query's error says, as the framework words it: `…: NAME: …`.
pub(super) fn of_query(text: &str) -> String {
    if let Some(name) = missing(text) {
        return format!("the query lacks {name}");
    }
    let name = text.split(": ").nth(1).filter(|name| !name.is_empty() && !name.contains(char::is_whitespace));
    match name {
        Some(name) => format!("the query's {name} is not of its form"),
        None => "the query can't be read".to_owned(),
    }
}

fn missing(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("missing field `")?;
    rest.split_once('`').map(|(name, _)| name)
}

/// The member without which another error is met, or none.
fn culprit<'a, T: DeserializeOwned>(body: &'a Value, text: &str) -> Option<&'a str> {
    let members = body.as_object()?;
    members.keys().take(MAX_LOOKED_AT).map(String::as_str).find(|name| {
        let mut without = members.clone();
        without.remove(*name);
        serde_json::from_value::<T>(Value::Object(without)).err().is_none_or(|error| error.to_string() != text)
    })
}

/// What the member should have been.
fn form(text: &str) -> String {
    match text.rsplit_once(", expected ").map(|(_, expected)| expected.trim()) {
        Some(words) if words.contains('`') => format!("must be {}", words.replace('`', "")),
        Some("a string" | "string") => "must be a string".to_owned(),
        Some("f64") => "must be a number".to_owned(),
        Some("i64" | "u64" | "u32") => "must be a whole number in range".to_owned(),
        Some("a boolean") => "must be true or false".to_owned(),
        Some("a sequence") => "must be a list".to_owned(),
        _ => "is not of its form".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use countersign_core::revocation::Kind;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only how it is read counts")]
    struct Body {
        name: String,
        kind: Option<Kind>,
        at: Option<f64>,
        count: Option<i64>,
        sure: Option<bool>,
        list: Option<Vec<String>>,
    }

    #[test]
    fn an_error_names_the_member_and_its_form_and_never_what_was_sent() {
        for (body, said) in [
            (json!({}), "name is missing"),
            (json!({"name": 5}), "name must be a string"),
            (json!({"name": "a", "at": "secret"}), "at must be a number"),
            (json!({"name": "a", "count": "secret"}), "count must be a whole number in range"),
            (json!({"name": "a", "count": 1.5}), "count must be a whole number in range"),
            (json!({"name": "a", "sure": "secret"}), "sure must be true or false"),
            (json!({"name": "a", "list": "secret"}), "list must be a list"),
            (json!({"name": "a", "list": ["b", 7]}), "list must be a string"),
        ] {
            assert_eq!(read::<Body>(&body).unwrap_err(), said, "{body}");
        }
        let kind = read::<Body>(&json!({"name": "a", "kind": "secret"})).unwrap_err();
        assert!(kind.starts_with("kind must be one of token, ") && !kind.contains("secret"), "{kind}");
    }

    #[test]
    fn a_query_s_error_names_the_option() {
        let said = "Failed to deserialize query string: wait_ms: invalid digit found in string";
        assert_eq!(of_query(said), "the query's wait_ms is not of its form");
        assert_eq!(of_query("Failed to deserialize query string: missing field `position`"), "the query lacks position");
        assert_eq!(of_query("something else"), "the query can't be read");
    }
}
