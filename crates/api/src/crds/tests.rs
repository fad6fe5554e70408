//! The definitions as the API server needs them, and as they stand in the tree.

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::yaml;

/// Compares a generated file with the one in the tree, or writes it when `UPDATE_GENERATED` is set.
fn assert_generated(path: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    if std::env::var_os("UPDATE_GENERATED").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let held = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(held == text, "{} is out of date: run the tests with UPDATE_GENERATED=1", path.display());
}

/// Calls `visit` with each schema in a definition and its path.
fn each_schema(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        each_schema(property, &format!("{path}.{name}"), visit);
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get(inner).filter(|s| s.is_object()) {
            each_schema(inner, &format!("{path}[]"), visit);
        }
    }
}

fn each_field(visit: &mut impl FnMut(&str, &Value)) {
    each_schema(schema::policy_spec_schema(), "spec", visit);
    each_schema(schema::session_spec_schema(), "spec", visit);
}

#[test]
fn the_definitions_in_the_tree_are_the_generated_ones() {
    assert_generated("crds/countersign.dev.yaml", &crds());
    assert_generated("docs/reference/policy.md", &crate::reference::policy_reference());
    assert_generated("docs/reference/status.md", &crate::reference::status_reference());
}

#[test]
fn the_yaml_reads_back_to_what_was_written() {
    let documents = yaml::parse(&crds()).unwrap();
    let values: Vec<&Value> = documents.iter().map(|d| &d.value).collect();
    assert_eq!(values, [&*schema::AUTH_POLICY, &*schema::SESSION]);
    let odd = json!({"yes": "no", "y": ["n", "~", "1.5", "0x1", "2027-01-01", "a: b", "#", "ü\n", "", "- x", "null", "a b"], "e": [{}, [], [[1]]],
        "n": [{"a": [1, {"b": {"c": null}}]}, -1.5, true]});
    assert_eq!(yaml::parse(&to_yaml(&odd)).unwrap()[0].value, odd);
}

#[test]
fn every_field_is_described_and_every_list_and_text_has_a_bound() {
    each_field(&mut |path, schema| {
        let is_free = schema.get("x-kubernetes-preserve-unknown-fields").is_some();
        match schema.get("type").and_then(Value::as_str) {
            Some("array") => assert!(schema.get("maxItems").is_some(), "{path} has no maxItems"),
            Some("string") if schema.get("enum").is_none() && !path.ends_with("[]") => {
                assert!(schema.get("maxLength").is_some(), "{path} has no maxLength");
            }
            Some("integer") => assert!(schema.get("maximum").is_some(), "{path} has no maximum"),
            None => assert!(is_free, "{path} has no type"),
            _ => {}
        }
        assert!(path.ends_with("[]") || schema.get("description").is_some(), "{path} has no description");
    });
}

#[test]
fn the_schema_stores_no_default_gives_null_no_meaning_and_has_no_word_that_yaml_reads_otherwise() {
    each_field(&mut |path, schema| {
        for unwanted in ["default", "nullable", "oneOf", "anyOf", "allOf", "$ref", "title", "format"] {
            let found = schema.get(unwanted).filter(|v| *v != "date-time");
            assert!(found.is_none(), "{path} has {unwanted}");
        }
        for word in schema.get("enum").and_then(Value::as_array).into_iter().flatten() {
            assert!(crate::yaml::plain_means_text(word.as_str().unwrap()), "{path}: {word}");
        }
    });
}

/// Reasons and events are the operator's words; a page that lacks one, or has one that nobody says, misleads.
#[test]
fn every_reason_and_event_of_the_operator_is_documented_and_no_other() {
    fn sources(directory: &std::path::Path, all: &mut String) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                sources(&path, all);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                all.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let mut code = String::new();
    sources(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../operator/src"), &mut code);
    let page = include_str!("../../assets/status.md");
    let is_reason = |word: &&str| {
        word.len() > 4
            && word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.chars().all(|c| c.is_ascii_alphabetic())
    };
    let documented: std::collections::BTreeSet<&str> = page.split('`').skip(1).step_by(2).filter(is_reason).collect();
    for word in &documented {
        let conditions_and_kinds = ["True", "False", "Unknown", "AuthPolicy", "Session"];
        let is_said = code.contains(&format!("\"{word}\"")) || conditions_and_kinds.contains(word);
        assert!(is_said, "{word} is documented, and the operator never says it");
    }
    // Where the code says a reason: the word is the first text after one of these.
    for marker in ["Remark::new(", "not(", "events.normal(", "events.warning("] {
        for after in code.split(marker).skip(1) {
            let said = after.split('"').nth(1).filter(is_reason).filter(|_| after.find('"') < after.find(';'));
            assert!(said.is_none_or(|word| documented.contains(word)), "{said:?} isn't documented in assets/status.md");
        }
    }
}

#[test]
fn kubectl_shows_what_the_design_says() {
    let columns = |crd: &Value| {
        let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap().clone();
        columns.iter().map(|c| c["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let path = |crd: &Value, name: &str| {
        let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap();
        columns.iter().find(|c| c["name"] == name).unwrap()["jsonPath"].clone()
    };
    // What holds, not what was written: most policies write neither.
    assert_eq!(path(&schema::AUTH_POLICY, "Algorithm"), ".status.keys[?(@.state==\"Active\")].algorithm");
    assert_eq!(path(&schema::AUTH_POLICY, "Verifiers"), ".status.enforcement.summary");
    let names =
        |crd: &Value| (crd["spec"]["names"]["shortNames"][0].clone(), crd["spec"]["names"]["categories"][0].clone());
    assert_eq!(
        columns(&schema::AUTH_POLICY),
        "Ready Enforced Verifiers Key-Age Age Issuer Algorithm Next-Rotation Generation Reason"
    );
    assert_eq!(columns(&schema::SESSION), "Ready Policy Subject Expires Renewed Age Secret Session-ID Reason");
    assert_eq!(names(&schema::AUTH_POLICY), (json!("authp"), json!("countersign")));
    assert_eq!(names(&schema::SESSION), (json!("authsess"), json!("countersign")));
    for crd in [&*schema::AUTH_POLICY, &*schema::SESSION] {
        let status = &schema::schema_of(crd)["properties"]["status"]["default"]["conditions"][0];
        assert_eq!(
            (&status["type"], &status["status"], &status["reason"]),
            (&json!("Ready"), &json!("Unknown"), &json!("Pending"))
        );
    }
}
