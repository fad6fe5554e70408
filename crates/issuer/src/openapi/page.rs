//! The document as a page for people: plain HTML, made once, without scripts and without anything from elsewhere.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::LazyLock,
};

use aws_lc_rs::digest::{SHA256, digest};
use axum::http::HeaderValue;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

const STYLE: &str = include_str!("page.css");

/// Nothing but the one style that is in the page, by its hash.
pub(super) static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(digest(&SHA256, STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).ok()
});

/// Text as it stands between tags and in attributes.
struct Escaped<'t>(&'t str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Text whose `code` is marked as such.
struct Prose<'t>(&'t str);

impl fmt::Display for Prose<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, part) in self.0.split('`').enumerate() {
            if index % 2 == 1 { write!(f, "<code>{}</code>", Escaped(part))? } else { write!(f, "{}", Escaped(part))? }
        }
        Ok(())
    }
}

/// An operation, and where it is.
struct Call<'d> {
    method: &'d str,
    path: &'d str,
    operation: &'d Value,
}

pub(super) fn of(document: &Value) -> String {
    let mut html = String::new();
    // Writing to a string can't fail.
    let _ = write(&mut html, document);
    html
}

fn write(html: &mut String, document: &Value) -> fmt::Result {
    let text = |value: &'_ Value| value.as_str().unwrap_or_default().to_owned();
    let title = text(&document["info"]["title"]);
    write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>{0}</title>\
         <style>{STYLE}</style></head>\n<body><header><h1>{0} <small>{1}</small></h1>\n<p>{2}</p>\n\
         <p>For programs: <a href=\"openapi.json\">openapi.json</a></p></header>\n",
        Escaped(&title),
        Escaped(&text(&document["info"]["version"])),
        Prose(&text(&document["info"]["description"])),
    )?;
    let groups = groups(document);
    html.push_str("<nav aria-label=\"Calls\"><ul>\n");
    for (tag, _, calls) in &groups {
        writeln!(html, "<li><a href=\"#{}\">{}</a><ul>", anchor(tag), Escaped(tag))?;
        for call in calls {
            let id = text(&call.operation["operationId"]);
            let summary = text(&call.operation["summary"]);
            writeln!(html, "<li><a href=\"#{}\">{}</a></li>", anchor(&id), Escaped(&summary))?;
        }
        html.push_str("</ul></li>\n");
    }
    html.push_str("<li><a href=\"#ways\">Who calls</a></li><li><a href=\"#shapes\">Shapes</a></li></ul></nav>\n<main>\n");
    for (tag, description, calls) in &groups {
        write!(html, "<section id=\"{}\"><h2>{}</h2>\n<p>{}</p>\n", anchor(tag), Escaped(tag), Prose(description))?;
        for call in calls {
            write_call(html, document, call)?;
        }
        html.push_str("</section>\n");
    }
    write_ways(html, &document["components"]["securitySchemes"])?;
    html.push_str("<section id=\"shapes\"><h2>Shapes</h2>\n");
    for (name, schema) in document["components"]["schemas"].as_object().into_iter().flatten() {
        writeln!(html, "<article id=\"{}\"><h3>{}</h3>", anchor(name), Escaped(name))?;
        write_schema(html, schema)?;
        html.push_str("</article>\n");
    }
    html.push_str("</section></main></body></html>\n");
    Ok(())
}

/// Calls by tag, in the order of the document's tags.
fn groups(document: &Value) -> Vec<(String, String, Vec<Call<'_>>)> {
    let mut by_tag: BTreeMap<&str, Vec<Call<'_>>> = BTreeMap::new();
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        for (method, operation) in item.as_object().into_iter().flatten() {
            let tag = operation["tags"][0].as_str().unwrap_or_default();
            by_tag.entry(tag).or_default().push(Call { method, path, operation });
        }
    }
    let tags = document["tags"].as_array().into_iter().flatten();
    tags.filter_map(|tag| {
        let name = tag["name"].as_str()?;
        Some((name.to_owned(), tag["description"].as_str().unwrap_or_default().to_owned(), by_tag.remove(name)?))
    })
    .collect()
}

fn anchor(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

fn write_call(html: &mut String, document: &Value, call: &Call<'_>) -> fmt::Result {
    let Call { method, path, operation } = call;
    let text = |name: &str| operation[name].as_str().unwrap_or_default();
    write!(
        html,
        "<article id=\"{}\"><h3>{}</h3>\n<p class=\"call\"><code><b>{}</b> {}</code></p>\n",
        anchor(text("operationId")),
        Escaped(text("summary")),
        method.to_uppercase(),
        Escaped(path),
    )?;
    if !text("description").is_empty() {
        writeln!(html, "<p>{}</p>", Prose(text("description")))?;
    }
    let ways: Vec<String> = operation["security"].as_array().into_iter().flatten().map(way).collect();
    if !ways.is_empty() {
        writeln!(html, "<p>Who calls: {}</p>", ways.join(", or "))?;
    }
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let mut rows = parameters.peekable();
    if rows.peek().is_some() {
        html.push_str("<table><caption>Parameters</caption><tr><th>name</th><th>in</th><th>type</th><th></th></tr>\n");
        for one in rows {
            let name = one["name"].as_str().unwrap_or_default();
            let place = one["in"].as_str().unwrap_or_default();
            let about = one["description"].as_str().unwrap_or_default();
            let need = if one["required"] == true { "" } else { " <i>optional</i>" };
            let kind = kind(&one["schema"]);
            writeln!(
                html,
                "<tr><td><code>{}</code>{need}</td><td>{place}</td><td>{kind}</td><td>{}</td></tr>",
                Escaped(name),
                Prose(about)
            )?;
        }
        html.push_str("</table>\n");
    }
    for (content, body) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
        let need = if operation["requestBody"]["required"] == true { "" } else { ", or nothing" };
        writeln!(html, "<p>Takes {} as <code>{}</code>{need}</p>", kind(&body["schema"]), Escaped(content))?;
    }
    html.push_str("<table><caption>Answers</caption><tr><th>status</th><th>body</th><th></th></tr>\n");
    for (status, response) in operation["responses"].as_object().into_iter().flatten() {
        let shared = response["$ref"].as_str().and_then(|target| document.pointer(target.trim_start_matches('#')));
        let response = shared.unwrap_or(response);
        let bodies = response["content"].as_object().into_iter().flatten();
        let bodies: Vec<String> = bodies.map(|(_, body)| kind(&body["schema"])).collect();
        let about = response["description"].as_str().unwrap_or_default();
        writeln!(html, "<tr><td>{status}</td><td>{}</td><td>{}</td></tr>", bodies.join(", "), Prose(about))?;
    }
    html.push_str("</table></article>\n");
    Ok(())
}

/// One way to prove who calls.
fn way(requirement: &Value) -> String {
    let parts: Vec<String> = requirement
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, _)| format!("<a href=\"#way-{}\">{}</a>", anchor(name), Escaped(name)))
        .collect();
    if parts.is_empty() { "anybody".to_owned() } else { parts.join(" with ") }
}

fn write_ways(html: &mut String, schemes: &Value) -> fmt::Result {
    html.push_str("<section id=\"ways\"><h2>Who calls</h2>\n<dl>\n");
    for (name, scheme) in schemes.as_object().into_iter().flatten() {
        let shown = match scheme["type"].as_str() {
            Some("apiKey") => format!(
                "<code>{}</code> in a {}",
                Escaped(scheme["name"].as_str().unwrap_or_default()),
                Escaped(scheme["in"].as_str().unwrap_or_default())
            ),
            _ => format!("<code>Authorization: {}</code>", Escaped(scheme["scheme"].as_str().unwrap_or_default())),
        };
        let about = scheme["description"].as_str().unwrap_or_default();
        writeln!(html, "<dt id=\"way-{}\">{}</dt><dd>{shown}. {}</dd>", anchor(name), Escaped(name), Prose(about))?;
    }
    html.push_str("</dl></section>\n");
    Ok(())
}

fn write_schema(html: &mut String, schema: &Value) -> fmt::Result {
    if let Some(about) = schema["description"].as_str() {
        writeln!(html, "<p>{}</p>", Prose(about))?;
    }
    let Some(properties) = schema["properties"].as_object() else {
        for part in schema["allOf"].as_array().into_iter().flatten() {
            if part.get("properties").is_some() {
                write_schema(html, part)?;
            } else {
                writeln!(html, "<p>All of {}</p>", kind(part))?;
            }
        }
        let alone = schema.get("allOf").is_none();
        return if alone { writeln!(html, "<p>{}</p>", kind(schema)) } else { Ok(()) };
    };
    let required: Vec<&Value> = schema["required"].as_array().into_iter().flatten().collect();
    html.push_str("<table><tr><th>member</th><th>type</th><th></th></tr>\n");
    for (name, property) in properties {
        let need = if required.iter().any(|one| *one == name) { "" } else { " <i>optional</i>" };
        let about = property["description"].as_str().unwrap_or_default();
        writeln!(
            html,
            "<tr><td><code>{}</code>{need}</td><td>{}</td><td>{}</td></tr>",
            Escaped(name),
            kind(property),
            Prose(about)
        )?;
    }
    html.push_str("</table>\n");
    Ok(())
}

/// What a value is, in a few words.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|target| target.rsplit('/').next()) {
        return format!("<a href=\"#{}\">{}</a>", anchor(name), Escaped(name));
    }
    if let Some(values) = schema["enum"].as_array() {
        let values = values.iter().filter_map(Value::as_str).map(|one| format!("<code>{}</code>", Escaped(one)));
        return values.collect::<Vec<_>>().join(", ");
    }
    for alternatives in ["oneOf", "anyOf"] {
        if let Some(all) = schema[alternatives].as_array() {
            return all.iter().map(kind).collect::<Vec<_>>().join(" or ");
        }
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(all) => all.iter().filter_map(Value::as_str).collect(),
        _ => return "any".to_owned(),
    };
    let shown = types.iter().map(|one| match (*one, &schema["additionalProperties"]) {
        ("array", _) => format!("list of {}", kind(&schema["items"])),
        ("object", values @ Value::Object(_)) => format!("map to {}", kind(values)),
        (one, _) => one.to_owned(),
    });
    shown.collect::<Vec<_>>().join(" or ")
}
