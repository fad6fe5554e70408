//! The reference of all fields, generated from the schemas: what `kubectl explain` shows, on one page.

use std::fmt::Write as _;

use serde_json::Value;

use crate::schema;

/// `docs/reference/policy.md`.
pub fn policy_reference() -> String {
    let mut page = String::from(
        "# AuthPolicy and Session: every field\n\n\
         Generated from the resources' schemas; `kubectl explain authpolicies.spec --recursive` shows the same. Absent means the \
         default. No field gives null a meaning. Durations are written as in `15m`, `720h` or `1h30m` (GEP-2257), times as in \
         `2027-03-01T00:00:00Z`. `countersign policy show --effective` shows a policy with every default filled in, \
         `countersign policy check FILE` what is wrong with it.\n",
    );
    section(&mut page, "AuthPolicy: spec", schema::policy_spec_schema());
    section(&mut page, "Session: spec", schema::session_spec_schema());
    page
}

/// `docs/reference/status.md`: in words what no schema tells, and then columns and fields as the schemas have them.
pub fn status_reference() -> String {
    let mut page = String::from(include_str!("../assets/status.md"));
    page.push_str("\nThe rest of this page is generated from the resources' definitions.\n");
    for (kind, definition) in [("AuthPolicy", &*schema::AUTH_POLICY), ("Session", &*schema::SESSION)] {
        let names = &definition["spec"]["names"];
        let (plural, short) = (names["plural"].as_str(), names["shortNames"][0].as_str());
        let _ = write!(
            page,
            "\n## {kind}: columns\n\n`kubectl get {}` (short: `{}`); the last ones with `-o wide`.\n\n| column | shows |\n|---|---|\n",
            plural.unwrap_or_default(),
            short.unwrap_or_default()
        );
        let columns = definition["spec"]["versions"][0]["additionalPrinterColumns"].as_array();
        for column in columns.into_iter().flatten() {
            let wide = if column["priority"].as_i64().unwrap_or_default() > 0 { " (wide)" } else { "" };
            let text = |name: &str| column[name].as_str().unwrap_or_default();
            let _ = writeln!(page, "| {}{wide} | `{}` |", text("name").to_uppercase(), text("jsonPath"));
        }
    }
    section(&mut page, "AuthPolicy: status", &schema::schema_of(&schema::AUTH_POLICY)["properties"]["status"]);
    section(&mut page, "Session: status", &schema::schema_of(&schema::SESSION)["properties"]["status"]);
    page
}

/// A group's fields in a table, and then its groups.
fn section(page: &mut String, title: &str, group: &Value) {
    let _ = write!(page, "\n## `{}`\n", title.replace(": ", "` · `"));
    if let Some(description) = group.get("description").and_then(Value::as_str) {
        let _ = write!(page, "\n{description}\n");
    }
    page.push_str("\n| field | takes | meaning |\n|---|---|---|\n");
    let mut groups = Vec::new();
    let required: Vec<&str> = group["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in group.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let below = if field.get("items").is_some() { &field["items"] } else { field };
        // What a condition is, Kubernetes says.
        if below.get("properties").is_some() && name != "conditions" {
            groups.push((format!("{title}.{name}{}", if field.get("items").is_some() { "[]" } else { "" }), below));
        }
        let must = if required.contains(&name.as_str()) { " **Required.**" } else { "" };
        let meaning = field.get("description").and_then(Value::as_str).unwrap_or_default();
        let _ = writeln!(page, "| `{name}` | {} | {}{must} |", takes(field), meaning.replace('|', "\\|"));
    }
    let rules = group.get("x-kubernetes-validations").and_then(Value::as_array);
    let messages: Vec<&str> = rules.into_iter().flatten().filter_map(|rule| rule["message"].as_str()).collect();
    if !messages.is_empty() {
        page.push('\n');
        for message in messages {
            let _ = writeln!(page, "- {message}");
        }
    }
    for (title, group) in groups {
        section(page, &title, group);
    }
}

/// The values that a field takes.
fn takes(field: &Value) -> String {
    let bound = |name: &str| field.get(name).and_then(Value::as_i64);
    let words = |schema: &Value| {
        let words = schema["enum"].as_array()?;
        Some(words.iter().filter_map(Value::as_str).map(|w| format!("`{w}`")).collect::<Vec<_>>().join(" "))
    };
    match field.get("type").and_then(Value::as_str) {
        Some("array") => {
            let of = words(&field["items"]).unwrap_or_else(|| match field["items"]["type"].as_str() {
                Some("object") => "groups".into(),
                _ => "texts".into(),
            });
            match bound("maxItems") {
                Some(most) => format!("list of up to {most}: {of}"),
                None => format!("list: {of}"),
            }
        }
        Some("object") if field.get("properties").is_some() => "group".into(),
        Some("object") => "mapping".into(),
        Some("integer") => match (bound("minimum"), bound("maximum")) {
            (None, None) => "number".into(),
            (least, most) => format!("{} to {}", least.unwrap_or_default(), most.unwrap_or_default()),
        },
        Some("boolean") => "true or false".into(),
        Some("string") => words(field).unwrap_or_else(|| kind_of_text(field)),
        _ => "a text, a number or a boolean".into(),
    }
}

fn kind_of_text(field: &Value) -> String {
    use crate::values::{Duration, Memory, Network, Time};
    match (field.get("pattern").and_then(Value::as_str), field.get("format").and_then(Value::as_str)) {
        (Some(Duration::PATTERN), _) => "duration".into(),
        (Some(Memory::PATTERN), _) => "memory, as in `19Mi`".into(),
        (Some(Network::PATTERN), _) => "network".into(),
        (Some(Time::PATTERN), _) | (_, Some("date-time")) => "time".into(),
        _ => match field.get("maxLength").and_then(Value::as_i64) {
            Some(most) => format!("text of up to {most}"),
            None => "text".into(),
        },
    }
}
