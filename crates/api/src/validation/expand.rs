//! Defaults in CEL: `$(self.a.b)` becomes the field if it is there, else its default as a literal.
//!
//! A rule over durations says nothing of one that isn't a duration: that has its own message, and "type conversion error"
//! would only bury it.

use serde_json::Value;

use crate::values::Duration;

/// `cel`, attached at `at`, with each `$(…)` replaced.
pub(super) fn expand(cel: &str, at: &str, defaults: &Value) -> String {
    let mut parts = cel.split("$(");
    let mut out = parts.next().unwrap_or_default().to_owned();
    let mut durations: Vec<&str> = Vec::new();
    for part in parts {
        let (path, rest) = part.split_once(')').expect("each $( of a rule has its )");
        if out.ends_with("duration(") && !durations.contains(&path) {
            durations.push(path);
        }
        out.push_str(&field_or_default(path, at, defaults));
        out.push_str(rest);
    }
    let no_duration = |path: &&str| format!("({} && {})", is_there(path), is_no_duration(path));
    match durations.iter().map(no_duration).collect::<Vec<_>>().join(" || ") {
        none if none.is_empty() => out,
        guards => format!("{guards} || ({out})"),
    }
}

/// True of a text that is none.
pub(super) fn is_no_duration(path: &str) -> String {
    format!("!{path}.matches('{}')", Duration::PATTERN)
}

fn names(path: &str) -> Vec<&str> {
    path.strip_prefix("self.").expect("a field of self").split('.').collect()
}

fn is_there(path: &str) -> String {
    let names = names(path);
    let parts: Vec<String> = (1..=names.len()).map(|n| format!("has(self.{})", names[..n].join("."))).collect();
    parts.join(" && ")
}

fn field_or_default(path: &str, at: &str, defaults: &Value) -> String {
    let names = names(path);
    let place =
        at.split('.').chain(names.iter().copied()).try_fold(defaults, |place, name| match name.strip_suffix("[]") {
            Some(list) => place.get(list)?.get(0),
            None => place.get(name),
        });
    let default = literal(place.expect("the field has a default"));
    format!("({} ? {path} : {default})", is_there(path))
}

fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'")),
        Value::Number(_) | Value::Bool(_) => value.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(literal).collect::<Vec<_>>().join(", ")),
        Value::Null | Value::Object(_) => {
            unreachable!("defaults that rules ask for are texts, numbers, booleans and lists")
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_absent_field_is_its_default() {
        let defaults = json!({"spec": {"a": {"b": "15m"}, "n": 8, "l": [{"x": []}]}});
        for (cel, at, expected) in [
            (
                "duration($(self.b)) > x",
                "spec.a",
                "(has(self.b) && !self.b.matches('^([0-9]{1,5}(h|m|s|ms)){1,4}$')) || (duration((has(self.b) ? self.b : '15m')) > x)",
            ),
            (
                "$(self.a.b) == $(self.n)",
                "spec",
                "(has(self.a) && has(self.a.b) ? self.a.b : '15m') == (has(self.n) ? self.n : 8)",
            ),
            ("$(self.x).all(y, true)", "spec.l[]", "(has(self.x) ? self.x : []).all(y, true)"),
            ("self.matches('(/|$)')", "spec", "self.matches('(/|$)')"),
        ] {
            assert_eq!(expand(cel, at, &defaults), expected);
        }
    }
}
