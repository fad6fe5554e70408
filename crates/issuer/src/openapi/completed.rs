//! What isn't said beside each handler, because it is the same of all.

use serde_json::{Map, Value, json};
use utoipa::{PartialSchema as _, ToSchema as _, openapi::OpenApi};

use super::shapes::{Problem, services::OauthProblem};

/// What a method is called in a document.
const METHODS: [&str; 5] = ["get", "post", "patch", "put", "delete"];

/// A document in which every operation has a name, its path's parameters, its ways to prove who calls, and all its answers.
pub(super) fn completed(document: OpenApi) -> Value {
    let mut document = serde_json::to_value(document).unwrap_or_default();
    let mut tags = Vec::new();
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for method in METHODS {
            if let Some(operation) = item.get_mut(method) {
                complete(operation, method, path);
                for tag in operation["tags"].as_array().into_iter().flatten() {
                    if !tags.contains(tag) {
                        tags.push(tag.clone());
                    }
                }
            }
        }
    }
    document["tags"] = TAGS
        .iter()
        .filter(|(name, _)| tags.contains(&json!(name)))
        .map(|(name, description)| json!({"name": name, "description": description}))
        .collect();
    let used = document["paths"].to_string();
    let shared = refusals().into_iter().filter(|(name, _)| used.contains(&format!("responses/{name}\"")));
    let shared = Value::Object(shared.collect());
    let mut schemas = vec![("Problem".to_owned(), Problem::schema())];
    Problem::schemas(&mut schemas);
    if used.contains("schemas/OauthProblem\"") {
        schemas.push(("OauthProblem".to_owned(), OauthProblem::schema()));
    }
    let components = &mut document["components"];
    for (name, schema) in schemas {
        components["schemas"][name] = json!(schema);
    }
    for (name, members) in ONE_OF_THESE {
        if let Some(schema) = components["schemas"].get_mut(name) {
            schema["anyOf"] = members.iter().map(|member| json!({"required": [member]})).collect();
        }
    }
    components["responses"] = shared;
    components["securitySchemes"] = security_schemes();
    document
}

/// Requests of which at least one of these members is needed.
const ONE_OF_THESE: [(&str, &[&str]); 2] =
    [("LoginRequest", &["username", "email"]), ("DiagnoseRequest", &["token", "user_id", "ip"])];

/// Groups of calls, in the order in which a reader wants them.
const TAGS: [(&str, &str); 12] = [
    ("accounts", "Registering, verifying, passwords, one's own profile."),
    ("sessions", "Logging in, staying in, logging out."),
    ("second factor", "Codes at a login, and setting a second factor up."),
    ("API keys", "Keys of programs that act for somebody."),
    ("OAuth", "What services and libraries of OAuth ask (RFC 6749, 7662, 7009)."),
    ("metadata", "Keys, metadata and this reference."),
    ("audit", "What happened; permission `audit:read`."),
    ("stats", "Figures; permission `stats:read`."),
    ("operations", "How it runs; permission `ops:read`, except where another is named."),
    ("tokens", "Minting and revoking."),
    ("administration", "Accounts and what they hold, as administrators see them."),
    ("process", "The whole process; on `admin.sock` alone."),
];

fn security_schemes() -> Value {
    json!({
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": "An access token of the policy."},
        "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key of the policy."},
        "cookie": {
            "type": "apiKey", "in": "cookie", "name": "__Host-cs_access",
            "description": "The access token in cookie mode; the prefix is the policy's `login.cookies.prefix`.",
        },
        "csrf": {
            "type": "apiKey", "in": "header", "name": "X-CSRF-Token",
            "description": "What an unsafe call needs beside a cookie: `GET /auth/csrf` gives one.",
        },
        "client": {"type": "http", "scheme": "basic", "description": "A client of the policy's `login.clients`."},
    })
}

fn complete(operation: &mut Value, method: &str, path: &str) {
    operation["operationId"] = json!(name(method, path));
    add_path_parameters(operation, path);
    for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
        not_null(&mut parameter["schema"]);
        if parameter["in"] == "query" && parameter["required"] != true {
            may_be_empty(&mut parameter["schema"]);
        }
    }
    let bodies = operation.pointer_mut("/requestBody/content").and_then(Value::as_object_mut);
    for (_, body) in bodies.into_iter().flatten() {
        not_null(&mut body["schema"]);
    }
    let is_admin = path.starts_with("/admin/");
    let open = match operation.get_mut("security").and_then(Value::as_array_mut) {
        None => true,
        Some(ways) => {
            let takes_bearer = ways.iter().any(|way| way.get("bearer").is_some());
            if takes_bearer && !is_admin {
                ways.push(if method == "get" { json!({"cookie": []}) } else { json!({"cookie": [], "csrf": []}) });
            }
            ways.iter().any(|way| way.as_object().is_some_and(Map::is_empty))
        }
    };
    let has_body = operation.get("requestBody").is_some();
    let has_query = operation["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["in"] == "query"));
    let may_answer = |status: u16| match status {
        400 | 404 | 500 | 503 => true,
        401 => !open,
        // Who may not come from where they are is turned away from these whatever they show.
        403 => !open || path.starts_with("/auth/"),
        408 | 413 => has_body,
        422 => has_body || has_query,
        429 => !open && !is_admin,
        _ => false,
    };
    let kind = if path.starts_with("/oauth/") { "Oauth" } else { "" };
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for (status, response) in responses.iter_mut() {
        if let Some(status) = status.parse().ok().filter(|status| *status >= 400) {
            let description = response["description"].as_str().unwrap_or_default();
            *response = refusal(kind, status, description);
        }
    }
    for (status, _) in REFUSALS.into_iter().filter(|(status, _)| may_answer(*status)) {
        let shared = format!("#/components/responses/{kind}Refused{status}");
        responses.entry(status.to_string()).or_insert_with(|| json!({"$ref": shared}));
    }
}

/// The refusals that operations share.
fn refusals() -> Map<String, Value> {
    let of = |kind: &'static str| {
        let shared = REFUSALS.into_iter();
        shared.map(move |(status, about)| (format!("{kind}Refused{status}"), refusal(kind, status, about)))
    };
    of("").chain(of("Oauth")).collect()
}

fn refusal(kind: &str, status: u16, description: &str) -> Value {
    let schema = json!({"$ref": format!("#/components/schemas/{kind}Problem")});
    let mut refusal = json!({"description": description, "content": {"application/json": {"schema": schema}}});
    if let Some(headers) = headers_of(status) {
        refusal["headers"] = headers;
    }
    refusal
}

/// What any call may be refused with.
const REFUSALS: [(u16, &str); 10] = [
    (400, "The request can't be understood"),
    (401, "No good credential"),
    (403, "The credential doesn't let this be done, or `address_blocked`: not from this address"),
    (404, "There is no such policy or thing, or the policy has no login"),
    (408, "The body came too slowly"),
    (413, "The body is over 64 KiB"),
    (422, "A member is missing or wrong"),
    (429, "Too many calls"),
    (500, "The issuer's own fault; its log says why"),
    (503, "Not now: to be tried again"),
];

fn headers_of(status: u16) -> Option<Value> {
    let seconds = |description: &str| json!({"description": description, "schema": {"type": "integer", "minimum": 0}});
    match status {
        401 => Some(json!({"WWW-Authenticate": {"description": "RFC 6750 section 3", "schema": {"type": "string"}}})),
        423 | 503 => Some(json!({"Retry-After": seconds("Seconds")})),
        429 => Some(json!({
            "Retry-After": seconds("Seconds"),
            "RateLimit-Limit": seconds("How many there may be in the window"),
            "RateLimit-Remaining": seconds("How many are left"),
            "RateLimit-Reset": seconds("Seconds until the window ends"),
        })),
        _ => None,
    }
}

/// `post_auth_2fa_verify`, as generated clients call it.
fn name(method: &str, path: &str) -> String {
    let path = path.strip_prefix("/admin/v1").unwrap_or(path);
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(method).chain(words).collect::<Vec<_>>().join("_")
}

fn add_path_parameters(operation: &mut Value, path: &str) {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let parameters: Vec<Value> = names
        .map(|name| {
            let description = match name {
                "namespace" => "The policy's namespace",
                "name" => "The policy's name",
                _ if path.contains("/users/") => "The account's id, name or e-mail address",
                _ => "The id",
            };
            let schema = json!({"type": "string", "minLength": 1});
            json!({"name": name, "in": "path", "required": true, "description": description, "schema": schema})
        })
        .collect();
    let given = operation["parameters"].as_array().cloned().unwrap_or_default();
    let all: Vec<Value> = parameters.into_iter().chain(given).collect();
    if !all.is_empty() {
        operation["parameters"] = Value::Array(all);
    }
}

/// An option of a query without a value is as one that isn't there: a text of a form of its own may be empty as well.
fn may_be_empty(schema: &mut Value) {
    let is_text = |one: &Value| one["type"] == "string";
    let has_form = ["pattern", "format", "enum", "minLength"].iter().any(|word| schema.get(word).is_some());
    let either = schema["anyOf"].as_array().is_some_and(|all| all.iter().all(is_text));
    if either || (is_text(schema) && has_form) {
        *schema = json!({"anyOf": [schema.take(), {"type": "string", "maxLength": 0}]});
    }
}

/// What stands in a query, and a whole body, is there or not: neither is null.
fn not_null(schema: &mut Value) {
    if let Some(types) = schema.get_mut("type").and_then(Value::as_array_mut) {
        types.retain(|one| one != "null");
        if let [one] = types.as_slice() {
            schema["type"] = one.clone();
        }
    }
    let alternatives = schema["oneOf"].as_array().map(|all| all.iter().filter(|one| one["type"] != "null").cloned());
    if let Some(mut alternatives) = alternatives
        && let (Some(one), None) = (alternatives.next(), alternatives.next())
    {
        *schema = one;
    }
}
