//! A value against a schema, as the API server checks it.

use std::{collections::BTreeMap, sync::LazyLock};

use countersign_core::rules::closest;
use regex::Regex;
use serde_json::{Map, Value, json};

use super::{AUTH_POLICY, Problem, SESSION, schema_of, texts};
use crate::values::{Duration, Memory, Network, Time};

/// Every pattern in the schemas, compiled once.
static PATTERNS: LazyLock<BTreeMap<String, Regex>> = LazyLock::new(|| {
    let mut patterns = BTreeMap::new();
    for definition in [&*AUTH_POLICY, &*SESSION] {
        collect_patterns(schema_of(definition), &mut patterns);
    }
    patterns
});

fn collect_patterns(schema: &Value, patterns: &mut BTreeMap<String, Regex>) {
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
        // For the API server \s is what it is in RE2: ASCII alone. It stands in classes only.
        let regex = Regex::new(&pattern.replace(r"\s", r"\t\n\x0c\r "));
        let regex = regex.expect("the patterns of the types are regular expressions");
        patterns.insert(pattern.to_owned(), regex);
    }
    let properties = schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::values);
    let below = ["items", "additionalProperties"].into_iter().filter_map(|name| schema.get(name));
    properties.chain(below).for_each(|inner| collect_patterns(inner, patterns));
}

/// Checks a value as the API server does: types, unknown fields, bounds, patterns.
pub(crate) fn check(schema: &Value, value: &Value, field: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    check_value(schema, value, field, &mut problems);
    problems
}

fn check_value(schema: &Value, value: &Value, field: &str, problems: &mut Vec<Problem>) {
    let mut tell = |message: String| problems.push(Problem::new(field, message));
    if value.is_null() {
        return tell("null means nothing here; leave the field out".into());
    }
    let wanted = schema.get("type").and_then(Value::as_str);
    if let Some(wanted) = wanted
        && let Some(message) = wrong_type(wanted, schema.get("pattern").and_then(Value::as_str).unwrap_or_default(), value)
    {
        return tell(message);
    }
    match value {
        Value::String(text) => check_text(schema, text, &mut tell),
        Value::Number(number) => check_number(schema, number, &mut tell),
        Value::Array(items) => {
            check_length(schema, items.len(), ["minItems", "maxItems"], "entries", &mut tell);
            // That there are too many was told; what they are doesn't matter then.
            let items = &items[..items.len().min(most(schema))];
            for (index, item) in items.iter().enumerate() {
                if let Some(item_schema) = schema.get("items") {
                    check_value(item_schema, item, &format!("{field}[{index}]"), problems);
                }
            }
            check_twins(schema, items, field, problems);
        }
        Value::Object(members) => check_object(schema, members, field, problems),
        Value::Bool(_) | Value::Null => {}
    }
}

/// How many items a list may have.
fn most(schema: &Value) -> usize {
    schema.get("maxItems").and_then(Value::as_u64).and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}

/// What to say when a value is of another type than wanted; `pattern` is that of a text, if it has one.
pub(crate) fn wrong_type(wanted: &str, pattern: &str, value: &Value) -> Option<String> {
    let fits = match (wanted, value) {
        ("integer", Value::Number(n)) => n.is_i64() || n.is_u64() || n.as_f64().is_some_and(|f| f.fract() == 0.0),
        ("string", Value::String(_))
        | ("number", Value::Number(_))
        | ("boolean", Value::Bool(_))
        | ("array", Value::Array(_))
        | ("object", Value::Object(_)) => true,
        _ => false,
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    };
    let hint = match (wanted, value) {
        // In quotes it would be the next mistake.
        ("string", Value::Number(_)) if pattern == Duration::PATTERN => {
            format!("; write its unit: {value}s, {value}m or {value}h")
        }
        ("string", Value::Number(_)) if pattern == Memory::PATTERN => format!("; write its unit: {value}Mi"),
        ("string", Value::Number(_)) => format!("; quote it: \"{value}\""),
        ("string", Value::Bool(_)) => "; quote it (unquoted yes, no, on, off, y and n are booleans in YAML)".to_owned(),
        ("integer" | "boolean", Value::String(_)) => "; write it without quotes".to_owned(),
        ("array", _) => "; write it as [a, b] or one `- ` a line".to_owned(),
        _ => String::new(),
    };
    let wanted = match wanted {
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        _ => "a text",
    };
    if fits { None } else { Some(format!("is {is}, but must be {wanted}{hint}")) }
}

fn check_text(schema: &Value, text: &str, tell: &mut impl FnMut(String)) {
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        let words: Vec<&str> = words.iter().filter_map(Value::as_str).collect();
        if !words.contains(&text) {
            let close = closest(text, words.iter().copied()).map(|word| format!("; did you mean {word}?"));
            tell(format!("{text:?} is not one of {}{}", words.join(", "), close.unwrap_or_default()));
        }
        return;
    }
    check_length(schema, text.chars().count(), ["minLength", "maxLength"], "characters", tell);
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && !PATTERNS.get(pattern).is_some_and(|regex| regex.is_match(text))
    {
        tell(in_words(schema, text));
        return;
    }
    // What a pattern can't tell.
    let is_sound = match schema.get("pattern").and_then(Value::as_str) {
        Some(Duration::PATTERN) => text.parse::<Duration>().is_ok(),
        Some(Network::PATTERN) => text.parse::<Network>().is_ok(),
        Some(Time::PATTERN) => text.parse::<Time>().is_ok(),
        _ => true,
    };
    if !is_sound {
        tell(in_words(schema, text));
    }
}

/// What to tell of a text that doesn't match its field's pattern.
fn in_words(schema: &Value, text: &str) -> String {
    let words = texts::of(schema).map_or("is not of the right form", |rule| rule.words);
    format!("{:?} {words}", shortened(text))
}

fn shortened(text: &str) -> String {
    if text.chars().count() > 80 { text.chars().take(80).chain(['…']).collect() } else { text.to_owned() }
}

fn check_number(schema: &Value, number: &serde_json::Number, tell: &mut impl FnMut(String)) {
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let value = number.as_f64().unwrap_or(f64::NAN);
    match (bound("minimum"), bound("maximum")) {
        (Some(min), _) if value < min => tell(format!("{number} is too small; the least is {min}")),
        (_, Some(max)) if value > max => tell(format!("{number} is too large; the most is {max}")),
        _ => {}
    }
}

fn check_length(schema: &Value, length: usize, names: [&str; 2], what: &str, tell: &mut impl FnMut(String)) {
    let bound = |name: &str| schema.get(name).and_then(Value::as_u64);
    let length = length as u64;
    match (bound(names[0]), bound(names[1])) {
        (Some(1), _) if length == 0 => tell("must not be empty".into()),
        (Some(min), _) if length < min => tell(format!("has {length} {what}; at least {min} are needed")),
        (_, Some(max)) if length > max => tell(format!("has {length} {what}; at most {max} are allowed")),
        _ => {}
    }
}

/// Entries of a list that must differ: in their keys, or altogether.
fn check_twins(schema: &Value, items: &[Value], field: &str, problems: &mut Vec<Problem>) {
    let keys: Vec<&str> = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .map(|keys| keys.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let is_set = schema.get("x-kubernetes-list-type").and_then(Value::as_str) == Some("set");
    for (index, item) in items.iter().enumerate() {
        if let Some(key) = keys.first()
            && let Some(name) = item.get(key).filter(|name| items[..index].iter().any(|i| i.get(key) == Some(name)))
        {
            let message = format!("{name} stands twice in {field}; each {key} may stand once");
            problems.push(Problem::new(format!("{field}[{index}].{key}"), message));
        }
        if is_set && items[..index].contains(item) {
            problems.push(Problem::new(format!("{field}[{index}]"), format!("{item} stands twice")));
        }
    }
}

fn check_object(schema: &Value, members: &Map<String, Value>, field: &str, problems: &mut Vec<Problem>) {
    check_length(schema, members.len(), ["minProperties", "maxProperties"], "members", &mut |message| {
        problems.push(Problem::new(field, message));
    });
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let more = schema.get("additionalProperties").filter(|more| more.is_object());
    let is_free = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    let path = |name: &str| if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") };
    for (name, value) in members {
        match properties.get(name).or(more) {
            Some(property) => check_value(property, value, &path(name), problems),
            None if is_free => {}
            None => {
                let hint = match closest(name, properties.keys().map(String::as_str)) {
                    Some(close) => format!("did you mean {close}?"),
                    None => format!("there are {}", properties.keys().cloned().collect::<Vec<_>>().join(", ")),
                };
                problems.push(Problem::new(path(name), format!("there is no such field; {hint}")));
            }
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            problems.push(Problem::new(path(name), "is missing and has no default; add it"));
        }
    }
}

/// The value without what makes no sense in it: fields that don't fit are left out, or, where there must be one, replaced by
/// something that fits. Only for checks that go on after a mistake was told.
pub(crate) fn repaired(schema: &Value, value: &Value) -> Value {
    let wanted = schema.get("type").and_then(Value::as_str);
    match (wanted, value) {
        (Some("object"), Value::Object(members)) => {
            let is_free = schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            let properties = schema.get("properties").and_then(Value::as_object).filter(|_| !is_free);
            let Some(properties) = properties else { return value.clone() };
            let mut kept = Map::new();
            for (name, property) in properties {
                let given = members.get(name).filter(|value| fits(property, value));
                let is_required = schema["required"].as_array().is_some_and(|list| list.iter().any(|n| n == name));
                match given {
                    Some(given) => drop(kept.insert(name.clone(), repaired(property, given))),
                    None if is_required => drop(kept.insert(name.clone(), stand_in(property))),
                    None => {}
                }
            }
            Value::Object(kept)
        }
        (Some("array"), Value::Array(items)) => {
            let item_schema = &schema["items"];
            let repair =
                |item: &Value| if fits(item_schema, item) { repaired(item_schema, item) } else { stand_in(item_schema) };
            items.iter().take(most(schema)).map(repair).collect()
        }
        _ => value.clone(),
    }
}

/// Whether a value can be read, bounds of lists and texts aside.
fn fits(schema: &Value, value: &Value) -> bool {
    match value {
        Value::Array(_) | Value::Object(_) => {
            let wanted = schema.get("type").and_then(Value::as_str);
            wanted.is_none_or(|wanted| wrong_type(wanted, "", value).is_none())
        }
        _ => check(schema, value, "").is_empty(),
    }
}

fn stand_in(schema: &Value) -> Value {
    if let Some(word) = schema.get("enum").and_then(|words| words.get(0)) {
        return word.clone();
    }
    let pattern = schema.get("pattern").and_then(Value::as_str);
    match (schema.get("type").and_then(Value::as_str), pattern) {
        (Some("string"), Some(Duration::PATTERN)) => json!("1m"),
        (Some("string"), Some(Memory::PATTERN)) => json!("19Mi"),
        (Some("string"), Some(Network::PATTERN)) => json!("127.0.0.1"),
        (Some("integer" | "number"), _) => schema.get("minimum").cloned().unwrap_or_else(|| json!(0)),
        (Some("boolean"), _) => json!(false),
        (Some("array"), _) => json!([]),
        (Some("object"), _) => repaired(schema, &json!({})),
        _ => json!(""),
    }
}
