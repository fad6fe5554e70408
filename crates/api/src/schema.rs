//! The resources' schemas: made of the types, finished for Kubernetes, and checked here as the API server checks them.
//!
//! One schema decides in both places, so a file that `countersign dev` accepts is one that the API server accepts. What is
//! wrong is told all at once, each with its field and the way to mend it.

mod check;
mod texts;

use std::sync::LazyLock;

use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

pub(crate) use check::{check, repaired, wrong_type};

use crate::{policy::AuthPolicy, session::Session, settings::Resolve, validation};

/// A mistake in a resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: `spec.trustedIssuers[0].issuer`.
    pub field: String,
    /// What is wrong, and how to mend it.
    pub message: String,
    /// It is about a key that is no good: too weak, or a private one.
    pub weak_key: bool,
}

impl Problem {
    /// A problem.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into(), weak_key: false }
    }

    /// A problem of a key that is no good.
    pub fn weak_key(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { weak_key: true, ..Self::new(field, message) }
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The finished definition of `AuthPolicy`, as JSON.
pub(crate) static AUTH_POLICY: LazyLock<Value> = LazyLock::new(|| {
    let defaults = json!({"spec": validation::sample_policy().resolve()});
    finished(&AuthPolicy::crd(), &defaults, validation::policy_rules())
});

/// The finished definition of `Session`, as JSON.
pub(crate) static SESSION: LazyLock<Value> = LazyLock::new(|| {
    let defaults = json!({"spec": validation::sample_session().resolve()});
    finished(&Session::crd(), &defaults, validation::session_rules())
});

/// The schema of a definition's objects.
pub(crate) fn schema_of(definition: &Value) -> &Value {
    &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// The schema of a policy's spec.
pub(crate) fn policy_spec_schema() -> &'static Value {
    &schema_of(&AUTH_POLICY)["properties"]["spec"]
}

/// The schema of a session's spec.
pub(crate) fn session_spec_schema() -> &'static Value {
    &schema_of(&SESSION)["properties"]["spec"]
}

fn finished<C: serde::Serialize>(crd: &C, defaults: &Value, rules: &[validation::CelRule]) -> Value {
    let mut crd = serde_json::to_value(crd).expect("a definition always serialises");
    let root = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    tidy(root);
    if let Some(root) = root.as_object_mut() {
        root.remove("title");
    }
    tell_defaults(&mut root["properties"]["spec"], &defaults["spec"]);
    judge_values(root);
    for rule in rules {
        if let Some(place) = place_mut(root, rule.at) {
            let rules = place.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
            if let Some(rules) = rules.as_array_mut() {
                let mut shown = json!({"rule": rule.cel, "message": rule.message});
                if !rule.field.is_empty() {
                    shown["fieldPath"] = json!(rule.field);
                }
                rules.push(shown);
            }
        }
    }
    root["properties"]["status"]["default"] = json!({"conditions": [{
        "type": "Ready",
        "status": "Unknown",
        "reason": "Pending",
        "message": "Waiting for the operator",
        "lastTransitionTime": "1970-01-01T00:00:00Z",
    }]});
    crd
}

/// No field gives null a meaning, formats that the API server doesn't know go, and descriptions are of one line.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.get("nullable") == Some(&Value::Bool(true)) {
                members.remove("nullable");
            }
            if members.get("format").and_then(Value::as_str).is_some_and(|f| f.starts_with("uint")) {
                members.remove("format");
            }
            if let Some(Value::Array(words)) = members.get_mut("enum") {
                words.retain(|word| !word.is_null());
            }
            for bound in ["minimum", "maximum"] {
                if let Some(whole) = members.get(bound).and_then(Value::as_f64) {
                    #[expect(clippy::cast_possible_truncation, reason = "bounds are small whole numbers")]
                    members.insert(bound.into(), json!(whole as i64));
                }
            }
            if let Some(Value::String(text)) = members.get_mut("description") {
                *text = text.split_whitespace().collect::<Vec<_>>().join(" ");
            }
            members.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Adds to each pattern its words, and what it can't tell.
fn judge_values(schema: &mut Value) {
    if let (Some(text), Some(members)) = (texts::of(schema), schema.as_object_mut()) {
        members.insert("x-kubernetes-validations".into(), json!([text.validation()]));
    }
    let Some(members) = schema.as_object_mut() else { return };
    if let Some(Value::Object(properties)) = members.get_mut("properties") {
        properties.values_mut().for_each(judge_values);
    }
    for below in ["items", "additionalProperties"] {
        members.get_mut(below).into_iter().for_each(judge_values);
    }
}

/// Adds to each description what holds when the field is absent.
fn tell_defaults(schema: &mut Value, defaults: &Value) {
    let required = schema["required"].clone();
    let is_required = |name: &str| required.as_array().is_some_and(|list| list.iter().any(|n| n == name));
    let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, property) in properties {
        let Some(default) = defaults.get(name) else { continue };
        let sample = default.get(0).unwrap_or(default);
        let nested = if property.get("items").is_some_and(|i| i.get("properties").is_some()) { "items" } else { "" };
        if nested.is_empty() {
            tell_defaults(property, default);
        } else {
            tell_defaults(&mut property[nested], sample);
        }
        if let Some(text) = default_text(default).filter(|_| !is_required(name))
            && let Some(Value::String(description)) = property.get_mut("description")
        {
            *description = format!("{description} Default: {text}.");
        }
    }
}

/// A default in words; none for groups, empty texts and lists of groups.
pub(crate) fn default_text(default: &Value) -> Option<String> {
    match default {
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(format!("`{text}`")),
        Value::Array(items) if items.iter().any(Value::is_object) => None,
        Value::Array(items) if items.is_empty() => Some("none".into()),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => Some(format!("`{default}`")),
        Value::Null | Value::Object(_) => None,
    }
}

/// The schema at a path such as `spec.trustedIssuers[].jwks`.
fn place_mut<'s>(root: &'s mut Value, path: &str) -> Option<&'s mut Map<String, Value>> {
    path.split('.')
        .filter(|name| !name.is_empty())
        .try_fold(root, |schema, name| {
            let (name, is_list) = name.strip_suffix("[]").map_or((name, false), |name| (name, true));
            let property = schema.get_mut("properties")?.get_mut(name)?;
            if is_list { property.get_mut("items") } else { Some(property) }
        })?
        .as_object_mut()
}
