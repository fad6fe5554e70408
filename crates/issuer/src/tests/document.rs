//! The OpenAPI document held against what is answered: every answer that a test of this crate gets is looked up in it, and is
//! of the shape that stands there.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::http::{Method, header};
use serde_json::{Map, Value};

use super::rig::{Answer, QUICK, Rig};
use crate::openapi;

static PUBLIC: LazyLock<Value> = LazyLock::new(|| openapi::tests::of(&openapi::PUBLIC));
static ADMIN: LazyLock<Value> = LazyLock::new(|| openapi::tests::of(&openapi::ADMIN));

/// Panics unless the document tells of this answer.
pub(super) fn assert_told_of(method: &Method, target: &str, answer: &Answer) {
    if let Err(problem) = told_of(method, target, answer) {
        panic!("{method} {target} {}: {problem}: {}", answer.status, answer.body);
    }
}

fn told_of(method: &Method, target: &str, answer: &Answer) -> Result<(), String> {
    let path = target.split('?').next().unwrap_or_default();
    let status = answer.status.as_u16();
    let document = if path.starts_with("/admin/") { &*ADMIN } else { &*PUBLIC };
    // As the router does: a policy's name first, then the default policy's other prefix.
    let within = path.strip_prefix("/shop/shop").unwrap_or(path);
    let ways = [Some(within), within.strip_prefix("/api")];
    let item = ways.into_iter().flatten().find_map(|path| item(document, path));
    let operation = item.and_then(|item| item.get(method.as_str().to_ascii_lowercase()));
    let Some(operation) = operation else {
        // What browsers ask beforehand, and what isn't there.
        let fine = method == Method::OPTIONS || matches!(status, 400 | 404 | 405);
        return if fine { Ok(()) } else { Err("the document has no such call".into()) };
    };
    let Some(response) = operation["responses"].get(status.to_string()) else {
        return Err("the document has no such status".into());
    };
    let response = resolved(document, response);
    let typ = answer.headers.get(header::CONTENT_TYPE).and_then(|typ| typ.to_str().ok());
    let typ = typ.and_then(|typ| typ.split(';').next());
    match (response["content"].as_object(), typ) {
        (None, None) => Ok(()),
        (Some(content), Some(typ)) if typ.ends_with("json") => {
            let media = content.get(typ).ok_or_else(|| format!("the document has no {typ} here"))?;
            fits(document, &media["schema"], &answer.body, "the body")
        }
        (Some(content), Some(typ)) if content.contains_key(typ) => Ok(()),
        (told, typ) => Err(format!("the answer is {typ:?}, the document says {:?}", told.map(|told| told.keys()))),
    }
}

/// What the document says of a path.
fn item<'d>(document: &'d Value, path: &str) -> Option<&'d Value> {
    let paths = document["paths"].as_object()?;
    let fits = |template: &str| {
        let (mut template, mut path) = (template.split('/'), path.split('/'));
        loop {
            match (template.next(), path.next()) {
                (None, None) => return true,
                (Some(a), Some(b)) if a == b || a.starts_with('{') && !b.is_empty() => {}
                _ => return false,
            }
        }
    };
    paths.get(path).or_else(|| paths.iter().find(|(template, _)| fits(template)).map(|(_, item)| item))
}

fn resolved<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    match schema["$ref"].as_str() {
        Some(target) => resolved(document, document.pointer(target.trim_start_matches('#')).unwrap()),
        None => schema,
    }
}

/// The members of an object, with those of everything that it is composed of; whether each must be there.
fn members<'d>(document: &'d Value, schema: &'d Value, found: &mut BTreeMap<&'d str, (&'d Value, bool)>) {
    let schema = resolved(document, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let required = schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name));
        found.insert(name, (property, required));
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        members(document, part, found);
    }
}

/// Whether a value is of a schema. A member that the schema doesn't name is an error: whoever reads the document would miss it.
fn fits(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    let schema = resolved(document, schema);
    for alternatives in ["oneOf", "anyOf"] {
        if let Some(all) = schema[alternatives].as_array() {
            let tried: Vec<_> = all.iter().map(|one| fits(document, one, value, at)).collect();
            return if tried.iter().any(Result::is_ok) { Ok(()) } else { Err(format!("{at} is nothing of {tried:?}")) };
        }
    }
    let is = |typ: &str| match typ {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        _ => value.is_object(),
    };
    let right = match &schema["type"] {
        Value::String(typ) => is(typ),
        Value::Array(types) => types.iter().filter_map(Value::as_str).any(is),
        _ => true,
    };
    if !right {
        return Err(format!("{at} is {value}, not {}", schema["type"]));
    }
    if let Some(values) = schema["enum"].as_array()
        && !values.contains(value)
    {
        return Err(format!("{at} is {value}, which is none of {values:?}"));
    }
    if let Some(items) = value.as_array() {
        return items.iter().try_for_each(|item| fits(document, &schema["items"], item, &format!("one of {at}")));
    }
    value.as_object().map_or(Ok(()), |object| object_fits(document, schema, object, at))
}

fn object_fits(document: &Value, schema: &Value, object: &Map<String, Value>, at: &str) -> Result<(), String> {
    let mut known = BTreeMap::new();
    members(document, schema, &mut known);
    for (name, (_, required)) in &known {
        if *required && !object.contains_key(*name) {
            return Err(format!("{at} lacks {name}"));
        }
    }
    for (name, value) in object {
        let at = format!("{name} in {at}");
        match (known.get(name.as_str()), &schema["additionalProperties"]) {
            (Some((schema, _)), _) => fits(document, schema, value, &at)?,
            (None, values @ Value::Object(_)) => fits(document, values, value, &at)?,
            (None, _) if known.is_empty() => {}
            (None, _) => return Err(format!("the document has no {at}")),
        }
    }
    Ok(())
}

#[tokio::test]
async fn both_documents_and_both_pages_are_served() {
    let rig = Rig::new(QUICK).await;
    for path in ["/openapi.json", "/api/openapi.json", "/shop/shop/openapi.json"] {
        let answer = rig.get(path).send().await;
        assert_eq!((answer.status.as_u16(), &answer.body["servers"][0]["url"]), (200, &Value::from("/")), "{path}");
        assert_eq!(answer.body["paths"], PUBLIC["paths"], "{path}");
    }
    let admin = rig.get("/admin/v1/openapi.json").over_admin_tcp().send().await;
    assert_eq!(admin.body["paths"], ADMIN["paths"]);
    for answer in [rig.get("/docs").send().await, rig.get("/admin/v1/docs").over_admin_socket().send().await] {
        assert_eq!(answer.status.as_u16(), 200);
        assert_eq!(answer.headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
        assert!(
            answer.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap().starts_with("default-src 'none'; style-src")
        );
    }
    let page = rig.get("/docs").send().await;
    assert_eq!(page.headers[header::X_FRAME_OPTIONS], "DENY");
    assert_eq!(page.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
}

#[tokio::test]
async fn every_documented_call_is_there_and_no_other_method_on_its_path() {
    let rig = Rig::new(QUICK).await;
    let methods = [Method::GET, Method::POST, Method::PATCH, Method::PUT, Method::DELETE];
    for (document, admin) in [(&*PUBLIC, false), (&*ADMIN, true)] {
        for (template, item) in document["paths"].as_object().unwrap() {
            let path = template.replace("{namespace}", "shop").replace("{name}", "shop");
            let path = path.replace("{id}", "nobody").replace("{import}", "none");
            for method in &methods {
                let asking = rig.ask(method.clone(), &path);
                let answer = if admin { asking.over_admin_socket().send().await } else { asking.send().await };
                if item.get(method.as_str().to_ascii_lowercase()).is_some() {
                    assert_ne!(answer.status.as_u16(), 405, "{method} {path}");
                    assert_ne!(answer.body["detail"], "no such call", "{method} {path}");
                } else {
                    assert_eq!(answer.status.as_u16(), 405, "{method} {path}");
                    assert!(answer.headers.contains_key(header::ALLOW), "{method} {path}");
                }
            }
        }
    }
}

#[test]
fn an_answer_that_is_not_told_of_is_found() {
    let answer = |status: u16, body: Value| {
        let headers = [(header::CONTENT_TYPE, "application/json".parse().unwrap())].into_iter().collect();
        Answer { status: status.try_into().unwrap(), headers, body }
    };
    let csrf = |body| told_of(&Method::GET, "/auth/csrf", &answer(200, body));
    let good = serde_json::json!({"csrf_token": "a", "session_id": "b", "expires_at": 1});
    assert_eq!(csrf(good.clone()), Ok(()));
    for (member, value) in [("csrf_token", Value::Null), ("expires_at", Value::from("1")), ("more", Value::from(1))] {
        let mut wrong = good.clone();
        wrong[member] = value;
        assert!(csrf(wrong).is_err(), "{member}");
    }
    assert!(csrf(serde_json::json!({"csrf_token": "a", "session_id": "b"})).is_err());
    assert!(told_of(&Method::GET, "/auth/csrf", &answer(418, good.clone())).is_err());
    assert!(told_of(&Method::GET, "/auth/nothing", &answer(200, good)).is_err());
    let problem = serde_json::json!({"error": "made_up", "detail": ""});
    assert!(told_of(&Method::GET, "/auth/csrf", &answer(401, problem)).is_err());
}
