//! The definitions of our resources, as YAML for `kubectl apply`.

use serde_json::Value;

use crate::schema;

/// The name of the file and the text of each definition. Always the same bytes.
pub fn crd_files() -> [(&'static str, String); 2] {
    [("authpolicies.yaml", to_yaml(&schema::AUTH_POLICY)), ("sessions.yaml", to_yaml(&schema::SESSION))]
}

/// Both definitions in one text.
pub fn crds() -> String {
    crd_files().map(|(_, text)| format!("---\n{text}")).concat()
}

/// Block style; every text that isn't plainly one is quoted, so that no reader takes it for anything else.
pub fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value, 0, false);
    out
}

fn write_value(out: &mut String, value: &Value, indent: usize, in_list: bool) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (index, (key, value)) in members.iter().enumerate() {
                if !(in_list && index == 0) {
                    out.push_str(&"  ".repeat(indent));
                }
                out.push_str(&text(key));
                out.push(':');
                write_below(out, value, indent);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                out.push_str(&"  ".repeat(indent));
                out.push('-');
                match item {
                    Value::Object(members) if !members.is_empty() => {
                        out.push(' ');
                        write_value(out, item, indent + 1, true);
                    }
                    _ => write_below(out, item, indent),
                }
            }
        }
        _ => {
            out.push_str(&"  ".repeat(indent));
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
}

fn write_below(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            out.push('\n');
            write_value(out, value, indent + 1, false);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            write_value(out, value, indent, false);
        }
        _ => {
            out.push(' ');
            out.push_str(&scalar(value));
            out.push('\n');
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(s) => text(s),
        Value::Array(_) => "[]".into(),
        Value::Object(_) => "{}".into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A text plain where nothing in it or about it could mean anything else, else in double quotes (JSON's are YAML's).
fn text(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '$');
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '$')
        && text.chars().all(is_word)
        && crate::yaml::plain_means_text(text);
    if plain { text.to_owned() } else { serde_json::to_string(text).expect("a text always serialises") }
}
