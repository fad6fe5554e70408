use std::{collections::BTreeSet, path::Path};

use axum::body::to_bytes;
use serde_json::Value;

use super::*;

/// A document, as the default policy's readers get it.
pub(crate) fn of(reference: &Reference) -> Value {
    serde_json::from_str(&reference.document("/")).unwrap()
}

fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().into_iter().flatten();
    paths.flat_map(|(path, item)| {
        item.as_object().into_iter().flatten().map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

fn references<'d>(value: &'d Value, found: &mut BTreeSet<&'d str>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|member| references(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[test]
fn every_call_is_told_of_in_full() {
    for reference in [&*PUBLIC, &*ADMIN] {
        let document = &of(reference);
        assert_eq!(document["openapi"], "3.1.0");
        let tags: Vec<&Value> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
        let mut ids = BTreeSet::new();
        for (path, method, operation) in operations(document) {
            let at = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{at}: the id is another's");
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{at}: no summary");
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{at}: one tag");
            assert!(tags.contains(&&operation["tags"][0]), "{at}: a tag of its own");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{at}: no success");
            for schemes in operation["security"].as_array().into_iter().flatten() {
                for scheme in schemes.as_object().unwrap().keys() {
                    assert!(document["components"]["securitySchemes"].get(scheme).is_some(), "{at}: {scheme}");
                }
            }
        }
        let mut targets = BTreeSet::new();
        references(document, &mut targets);
        for target in targets {
            assert!(document.pointer(target.trim_start_matches('#')).is_some(), "{target}");
        }
        let mut used = BTreeSet::new();
        references(&document["paths"], &mut used);
        references(&document["components"], &mut used);
        for name in document["components"]["schemas"].as_object().unwrap().keys() {
            assert!(used.contains(format!("#/components/schemas/{name}").as_str()), "{name} is nobody's");
        }
    }
}

#[test]
fn the_reference_is_what_the_code_says() {
    let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    for (name, document) in [("openapi.json", of(&PUBLIC)), ("openapi-admin.json", of(&ADMIN))] {
        let wanted = serde_json::to_string_pretty(&document).unwrap() + "\n";
        let path = reference.join(name);
        if std::env::var_os("UPDATE_GENERATED").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        } else {
            let held = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(held == wanted, "docs/reference/{name} is out of date; run: cargo xtask drift --write");
        }
    }
}

#[tokio::test]
async fn the_page_tells_of_every_call_runs_nothing_and_loads_nothing() {
    for reference in [&*PUBLIC, &*ADMIN] {
        let answer = reference.html();
        let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
        assert!(!policy.contains("script-src") && !policy.contains("unsafe"), "{policy}");
        let html = String::from_utf8(to_bytes(answer.into_body(), 1 << 22).await.unwrap().to_vec()).unwrap();
        for foreign in ["<script", " src=", "http://", "https://", "onclick", "<link", "@import", "url("] {
            assert!(!html.contains(foreign), "{foreign}");
        }
        for (path, method, operation) in operations(&of(reference)) {
            let id = operation["operationId"].as_str().unwrap().replace('_', "-");
            assert!(html.contains(&format!("<article id=\"{id}\">")), "{method} {path}");
        }
        for target in html.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert_eq!(html.matches(&format!(" id=\"{target}\"")).count(), 1, "{target}");
        }
    }
}

#[test]
fn a_document_names_the_server_that_its_reader_means() {
    let shop = PolicyName::try_new("shop", "shop").unwrap();
    let other = PolicyName::try_new("shop", "other").unwrap();
    assert_eq!(server_of(&shop, Some(&shop)), "/");
    assert_eq!(server_of(&other, Some(&shop)), "/shop/other");
    assert_eq!(server_of(&other, None), "/shop/other");
}
