//! Requests to the verification API that are themselves wrong, or meant to cost much.

use serde_json::{Value, json};

use super::{Expected, RequestCase};
use crate::{http::Request, rig::Policies};

const VERIFY: &str = "/v1/policies/shop/shop/verify";
const BATCH: &str = "/v1/policies/shop/shop/verify-batch";

const BAD_REQUEST: Expected = Expected::status(&[400]);
const ANSWERED: Expected = Expected::status(&[200]).word("valid");

pub(super) fn cases(policies: &Policies) -> Vec<RequestCase> {
    let mut cases = texts(policies);
    cases.extend(members(policies));
    cases.extend(sizes(policies));
    cases.extend(routes(policies));
    cases.extend(batches(policies));
    cases
}

fn post(path: &str, body: impl Into<Vec<u8>>) -> Vec<u8> {
    Request::new("POST", path).header("content-type", "application/json").body(body).bytes()
}

fn texts(policies: &Policies) -> Vec<RequestCase> {
    let token = policies.partner.token("ES256");
    let mut cases = Vec::new();
    for (what, body) in [
        ("nothing", String::new()),
        ("a blank", " ".into()),
        ("a form", format!("token={token}")),
        ("the token itself", token.clone()),
        ("the token as a JSON text", format!("\"{token}\"")),
        ("a list", format!("[{{\"token\":\"{token}\"}}]")),
        ("null", "null".into()),
        ("an open brace", format!("{{\"token\":\"{token}\"")),
        ("a comma at the end", format!("{{\"token\":\"{token}\",}}")),
        ("text after it", format!("{{\"token\":\"{token}\"}}x")),
        ("two objects", format!("{{\"token\":\"{token}\"}}{{}}")),
        ("a byte-order mark", format!("\u{feff}{{\"token\":\"{token}\"}}")),
        ("the token twice", format!("{{\"token\":\"{token}\",\"token\":\"{token}\"}}")),
        ("a bad token, then a good one", format!("{{\"token\":\"x\",\"token\":\"{token}\"}}")),
        ("a good token, then a bad one", format!("{{\"token\":\"{token}\",\"tok\\u0065n\":\"x\"}}")),
        ("require twice", format!("{{\"token\":\"{token}\",\"require\":{{\"roles\":[\"admin\"]}},\"require\":{{}}}}")),
        (
            "a member of require twice",
            format!("{{\"token\":\"{token}\",\"require\":{{\"roles\":[\"admin\"],\"roles\":[]}}}}"),
        ),
        ("a member of something unknown twice", format!("{{\"token\":\"{token}\",\"x\":{{\"y\":1,\"y\":1}}}}")),
        ("65 levels", format!("{{\"token\":\"{token}\",\"x\":{}{}}}", "[".repeat(64), "]".repeat(64))),
        ("30,000 levels", format!("{{\"token\":\"{token}\",\"x\":{}{}}}", "[".repeat(15_000), "]".repeat(15_000))),
        ("30,000 levels never closed", format!("{{\"token\":\"{token}\",\"x\":{}", "{\"x\":".repeat(6_000))),
        ("a lone surrogate", format!("{{\"token\":\"{token}\",\"x\":\"\\ud800\"}}")),
        ("a raw newline in a text", format!("{{\"token\":\"{token}\",\"x\":\"\n\"}}")),
        ("a comment", format!("{{\"token\":\"{token}\"/**/}}")),
        ("YAML", format!("token: {token}")),
        ("XML", format!("<token>{token}</token>")),
    ] {
        cases.push(RequestCase::new(format!("body: {what}"), post(VERIFY, body), BAD_REQUEST));
    }
    let not_utf8 = [b"{\"x\":\"\xff\",\"token\":\"".as_slice(), token.as_bytes(), b"\"}"].concat();
    cases.push(RequestCase::new("body: no UTF-8", post(VERIFY, not_utf8), BAD_REQUEST));
    cases.push(RequestCase::new(
        "body: 64 levels are read",
        post(VERIFY, format!("{{\"token\":\"{token}\",\"x\":{}{}}}", "[".repeat(63), "]".repeat(63))),
        ANSWERED,
    ));
    cases
}

fn members(policies: &Policies) -> Vec<RequestCase> {
    let token = policies.partner.token("ES256");
    let mut cases = Vec::new();
    let mut push = |what: &str, body: Value, expected| {
        cases.push(RequestCase::new(format!("request: {what}"), post(VERIFY, body.to_string()), expected));
    };
    for (what, body) in
        [("no token", json!({})), ("token null", json!({"token": null})), ("an empty token", json!({"token": ""}))]
    {
        push(what, body, BAD_REQUEST);
    }
    for value in [json!(1), json!(true), json!([]), json!([token]), json!({}), json!({"token": token})] {
        push(&format!("token {value:.40}"), json!({"token": value}), BAD_REQUEST);
    }
    for (member, wrongs) in [
        ("require", vec![json!(1), json!([]), json!("x"), json!(true)]),
        ("request", vec![json!(1), json!([]), json!("x")]),
        ("client", vec![json!(1), json!([]), json!("x")]),
        (
            "min_position",
            vec![
                json!(1),
                json!([]),
                json!({}),
                json!("x"),
                json!(""),
                json!("0x10"),
                json!("-1"),
                json!("99999999999999999999999999"),
            ],
        ),
    ] {
        for wrong in wrongs {
            push(&format!("{member} {wrong}"), json!({"token": token, member: wrong}), BAD_REQUEST);
        }
        push(&format!("{member} null is absent"), json!({"token": token, member: null}), ANSWERED);
    }
    for member in ["permissions", "roles", "scopes"] {
        for wrong in [json!("x"), json!(1), json!({}), json!([1]), json!([null]), json!([["x"]])] {
            push(&format!("require.{member} {wrong}"), json!({"token": token, "require": {member: wrong}}), BAD_REQUEST);
        }
    }
    for (object, member) in [
        ("require", "audience"),
        ("request", "method"),
        ("request", "path"),
        ("request", "host"),
        ("client", "ip"),
        ("client", "user_agent"),
        ("client", "device_id"),
    ] {
        for wrong in [json!(1), json!(["x"]), json!({}), json!(true)] {
            push(&format!("{object}.{member} {wrong}"), json!({"token": token, object: {member: wrong}}), BAD_REQUEST);
        }
        push(&format!("{object}.{member} null is absent"), json!({"token": token, object: {member: null}}), ANSWERED);
    }
    for address in [
        "",
        " ",
        "x",
        "1",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "01.2.3.4",
        "1.2.3.4:80",
        "[::1]",
        "::1%eth0",
        "1.2.3.4/32",
        "localhost",
        "127.1",
        "0x7f000001",
        "::ffff:1.2.3.400",
        "1.2.3.4, 5.6.7.8",
    ] {
        push(&format!("client.ip {address:?}"), json!({"token": token, "client": {"ip": address}}), BAD_REQUEST);
    }
    for address in ["203.0.113.7", "::1", "::ffff:203.0.113.7", "2001:DB8::1"] {
        push(&format!("client.ip {address:?} is one"), json!({"token": token, "client": {"ip": address}}), ANSWERED);
    }
    push("unknown members are ignored", json!({"token": token, "x": {"y": [1]}, "require": {"z": 1}}), ANSWERED);
    let denied = Expected::status(&[403]).word("denied");
    for require in [
        json!({"permissions": ["orders:write"]}),
        json!({"roles": ["admin"]}),
        json!({"scopes": ["a"]}),
        json!({"audience": "other"}),
        json!({"permissions": [""]}),
        json!({"roles": [""]}),
        json!({"permissions": ["*"]}),
    ] {
        push(&format!("require {require}"), json!({"token": token, "require": require}), denied.clone());
    }
    cases
}

fn sizes(policies: &Policies) -> Vec<RequestCase> {
    let token = policies.partner.token("ES256");
    let padded = |size: usize| {
        let empty = json!({"token": token, "pad": ""}).to_string().len();
        json!({"token": token, "pad": "x".repeat(size - empty)}).to_string()
    };
    let too_large = Expected::status(&[413]);
    vec![
        RequestCase::new("a body of 64 KiB", post(VERIFY, padded(64 * 1024)), ANSWERED),
        RequestCase::new("a body of 64 KiB and a byte", post(VERIFY, padded(64 * 1024 + 1)), too_large.clone()),
        RequestCase::new("a body of 4 MiB", post(VERIFY, vec![b' '; 4 * 1024 * 1024]), Expected::status(&[413, 0])),
        RequestCase::new(
            "a body said to be of a terabyte",
            format!(
                "POST {VERIFY} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1099511627776\r\n\r\n"
            ),
            too_large.clone(),
        ),
        RequestCase::new(
            "a chunked body over 64 KiB",
            {
                let mut bytes = format!("POST {VERIFY} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n").into_bytes();
                for _ in 0..5 {
                    bytes.extend(format!("4000\r\n{}\r\n", " ".repeat(0x4000)).bytes());
                }
                bytes.extend(b"0\r\n\r\n");
                bytes
            },
            too_large,
        ),
        RequestCase::new(
            "a form over 64 KiB",
            Request::new("POST", "/v1/policies/shop/shop/introspect")
                .header("content-type", "application/x-www-form-urlencoded")
                .body(format!("token={}", "x".repeat(70_000)))
                .bytes(),
            Expected::status(&[413]),
        ),
    ]
}

fn routes(policies: &Policies) -> Vec<RequestCase> {
    let token = policies.partner.token("ES256");
    let body = json!({"token": token}).to_string();
    let mut cases = Vec::new();
    let not_found = Expected::status(&[404]);
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/policies/",
        "/v1/policies/shop",
        "/v1/policies/shop/shop",
        "/v1/policies/shop/shop/",
        "/v1/policies/shop/nobody/verify",
        "/v1/policies/nobody/shop/verify",
        "/v1/policies/shop/shop/verify/",
        "/v1/policies/shop/shop/Verify",
        "/v1/policies/SHOP/shop/verify",
        "/v1/policies//shop/verify",
        "/v1/policies/shop//verify",
        "//v1/policies/shop/shop/verify",
        "/v1/policies/shop/../shop/verify",
        "/v1/policies/shop/shop/../shop/verify",
        "/v1/policies/shop/%2e%2e/verify",
        "/v1/policies/shop%2Fshop/verify",
        "/v1/policies/shop/shop%00/verify",
        "/v1/policies/shop/shop/verify%20",
        "/v2/policies/shop/shop/verify",
        "/admin/v1/policies/shop/shop/tokens",
        "/admin/v1/policies/shop/shop/keys",
    ] {
        cases.push(RequestCase::new(format!("path {path}"), post(path, body.clone()), not_found.clone()));
    }
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY", "post", "POSTX"] {
        let bytes = Request::new(method, VERIFY).header("content-type", "application/json").body(body.clone()).bytes();
        cases.push(RequestCase::new(format!("method {method}"), bytes, Expected::status(&[405])));
    }
    for (path, method) in [
        (BATCH, "GET"),
        ("/v1/policies", "POST"),
        ("/v1/feed", "DELETE"),
        ("/v1/policies/shop/shop/jwks.json", "POST"),
        ("/v1/policies/shop/shop/introspect", "GET"),
    ] {
        let bytes = Request::new(method, path).header("content-type", "application/json").body(body.clone()).bytes();
        cases.push(RequestCase::new(format!("{method} {path}"), bytes, Expected::status(&[405])));
    }
    for declared in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/jsonp",
        "application/",
        "json",
        "text/json",
        "application/octet-stream",
    ] {
        let bytes = Request::new("POST", VERIFY).header("content-type", declared).body(body.clone()).bytes();
        cases.push(RequestCase::new(format!("declared {declared}"), bytes, Expected::status(&[415])));
    }
    for declared in ["application/json; charset=utf-8", "APPLICATION/JSON", "application/json;charset=UTF-8"] {
        let bytes = Request::new("POST", VERIFY).header("content-type", declared).body(body.clone()).bytes();
        cases.push(RequestCase::new(format!("declared {declared}"), bytes, ANSWERED));
    }
    cases.push(RequestCase::new("nothing declared", Request::new("POST", VERIFY).body(body.clone()).bytes(), ANSWERED));
    // When several apply: 405, 404, 415, 413, 400.
    let huge = " ".repeat(70_000);
    for (what, method, path, declared, body, expected) in [
        ("wrong method and type", "PUT", VERIFY, "text/plain", "x", Expected::status(&[405])),
        ("unknown policy and type", "POST", "/v1/policies/shop/nobody/verify", "text/plain", "x", Expected::status(&[404])),
        ("wrong type and size", "POST", VERIFY, "text/plain", huge.as_str(), Expected::status(&[415])),
        ("wrong size and no JSON", "POST", VERIFY, "application/json", huge.as_str(), Expected::status(&[413])),
        (
            "unknown policy and no JSON",
            "POST",
            "/v1/policies/shop/nobody/verify",
            "application/json",
            "x",
            Expected::status(&[404]),
        ),
    ] {
        let bytes = Request::new(method, path).header("content-type", declared).body(body).bytes();
        cases.push(RequestCase::new(what, bytes, expected));
    }
    cases
}

fn batches(policies: &Policies) -> Vec<RequestCase> {
    let token = policies.partner.token("ES256");
    let items = |count: usize| json!({"items": vec![json!({"token": "x"}); count]}).to_string();
    let answered = Expected::status(&[200]);
    let mut cases = vec![
        RequestCase::new("a batch of none", post(BATCH, items(0)), answered.clone()),
        RequestCase::new("a batch of 1,000", post(BATCH, items(1_000)), answered.clone()),
        RequestCase::new("a batch of 1,001", post(BATCH, items(1_001)), BAD_REQUEST),
        RequestCase::new(
            "a batch over 4 MiB",
            post(BATCH, json!({"items": [{"token": "x".repeat(4 * 1024 * 1024)}]}).to_string()),
            Expected::status(&[413]),
        ),
        RequestCase::new(
            "a batch just under 4 MiB",
            post(BATCH, json!({"items": [{"token": "x".repeat(4 * 1024 * 1024 - 100)}]}).to_string()),
            answered.clone(),
        ),
        RequestCase::new(
            "a batch with wrong items",
            post(BATCH, json!({"items": [1, null, {}, {"token": 1}, [], {"token": token}]}).to_string()),
            answered.clone(),
        ),
        RequestCase::new(
            "a batch with a member twice",
            post(BATCH, format!("{{\"items\":[{{\"token\":\"{token}\",\"token\":\"{token}\"}}]}}")),
            answered.clone(),
        ),
    ];
    for (what, body) in [
        ("no items", json!({})),
        ("items null", json!({"items": null})),
        ("items an object", json!({"items": {}})),
        ("items a text", json!({"items": "x"})),
        ("a bare list", json!([{"token": token}])),
    ] {
        cases.push(RequestCase::new(format!("a batch: {what}"), post(BATCH, body.to_string()), BAD_REQUEST));
    }
    let deep = format!("{{\"items\":[{{\"token\":\"{token}\",\"x\":{}{}}}]}}", "[".repeat(70), "]".repeat(70));
    cases.push(RequestCase::new("a batch nested too deep", post(BATCH, deep), Expected::status(&[200])));
    cases
}
