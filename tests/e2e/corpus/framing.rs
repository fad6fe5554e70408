//! Request smuggling, and heads that proxies and servers read differently (RFC 9112 sections 2 to 7).

use serde_json::json;

use super::{Expected, RequestCase};
use crate::rig::Policies;

const VERIFY: &str = "/v1/policies/shop/shop/verify";

/// Refused, and the connection closed: nothing after it may be taken for a request.
const REFUSED: Expected = Expected::status(&[400]).closing();
const ANSWERED: Expected = Expected::status(&[200]).word("valid");

pub(super) fn cases(policies: &Policies) -> Vec<RequestCase> {
    let body = json!({"token": policies.partner.token("ES256")}).to_string();
    let mut cases = lengths(&body);
    cases.extend(chunks(&body));
    cases.extend(heads(&body));
    cases.extend(limits(&body));
    cases
}

fn head(lines: &[&str]) -> String {
    let mut head = format!("POST {VERIFY} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n");
    for line in lines {
        head.push_str(line);
        head.push_str("\r\n");
    }
    head + "\r\n"
}

fn chunked(body: &str) -> String {
    format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())
}

/// What a smuggler hides behind the first request.
const HIDDEN: &str = "GET /v1/feed HTTP/1.1\r\nHost: x\r\n\r\n";

fn lengths(body: &str) -> Vec<RequestCase> {
    let length = format!("Content-Length: {}", body.len());
    let chunked = chunked(body);
    let mut cases = Vec::new();
    let mut refused =
        |what: &str, bytes: String| cases.push(RequestCase::new(format!("smuggling: {what}"), bytes, REFUSED));
    refused("length, then chunked", head(&[&length, "Transfer-Encoding: chunked"]) + &chunked + HIDDEN);
    refused("chunked, then length", head(&["Transfer-Encoding: chunked", &length]) + &chunked + HIDDEN);
    refused("length 0 and chunked", head(&["Content-Length: 0", "Transfer-Encoding: chunked"]) + &chunked + HIDDEN);
    refused("length and chunked in capitals", head(&[&length, "TRANSFER-ENCODING: CHUNKED"]) + &chunked + HIDDEN);
    refused("length and an unknown coding", head(&[&length, "Transfer-Encoding: xchunked"]) + body + HIDDEN);
    refused("length and identity", head(&[&length, "Transfer-Encoding: identity"]) + body + HIDDEN);
    refused("two lengths that differ", head(&[&length, "Content-Length: 1"]) + body + HIDDEN);
    refused("two lengths in one line that differ", head(&[&format!("{length}, 1")]) + body + HIDDEN);
    refused("a length with a plus", head(&[&format!("Content-Length: +{}", body.len())]) + body + HIDDEN);
    refused("a negative length", head(&["Content-Length: -1"]) + body + HIDDEN);
    refused("a length in hex", head(&[&format!("Content-Length: 0x{:x}", body.len())]) + body + HIDDEN);
    refused("a length that is a word", head(&["Content-Length: all"]) + body + HIDDEN);
    refused("an empty length", head(&["Content-Length:"]) + body + HIDDEN);
    refused("a length beyond 64 bits", head(&["Content-Length: 99999999999999999999999"]) + body + HIDDEN);
    refused("a length with a fraction", head(&["Content-Length: 10.0"]) + body + HIDDEN);
    refused("a length of two numbers", head(&[&format!("{length} 5")]) + body + HIDDEN);
    refused("an unknown coding", head(&["Transfer-Encoding: gzip"]) + &chunked + HIDDEN);
    refused("chunked not last", head(&["Transfer-Encoding: chunked, gzip"]) + &chunked + HIDDEN);
    refused("chunked in quotes", head(&["Transfer-Encoding: \"chunked\""]) + &chunked + HIDDEN);
    refused("a blank before the colon of the length", head(&[&format!("Content-Length : {}", body.len())]) + body + HIDDEN);
    refused("a blank before the colon of the coding", head(&["Transfer-Encoding : chunked"]) + &chunked + HIDDEN);
    cases.push(RequestCase::new("chunked is read", head(&["Transfer-Encoding: chunked"]) + &chunked, ANSWERED));
    cases
}

fn chunks(body: &str) -> Vec<RequestCase> {
    let start = head(&["Transfer-Encoding: chunked"]);
    let mut cases = Vec::new();
    for (what, tail) in [
        ("a size that is no hex", format!("zz\r\n{body}\r\n0\r\n\r\n")),
        ("a negative size", format!("-1\r\n{body}\r\n0\r\n\r\n")),
        ("a size with 0x", format!("0x{:x}\r\n{body}\r\n0\r\n\r\n", body.len())),
        ("a size beyond 64 bits", format!("fffffffffffffffff\r\n{body}\r\n0\r\n\r\n")),
        ("no size", format!("\r\n{body}\r\n0\r\n\r\n")),
        ("a chunk longer than its size", format!("5\r\n{body}\r\n0\r\n\r\n")),
    ] {
        // What hyper has already begun to answer it may also just cut off.
        cases.push(RequestCase::new(
            format!("chunks: {what}"),
            format!("{start}{tail}{HIDDEN}"),
            Expected::status(&[400, 0]).closing(),
        ));
    }
    cases
}

fn heads(body: &str) -> Vec<RequestCase> {
    let length = format!("Content-Length: {}", body.len());
    let mut cases = Vec::new();
    let mut refused = |what: &str, bytes: Vec<u8>| {
        cases.push(RequestCase::new(format!("head: {what}"), bytes, Expected::status(&[400]).closing()));
    };
    refused("a NUL in a value", (head(&[&length, "X: a\0b"]) + body).into_bytes());
    refused("a NUL in a name", (head(&[&length, "X\0: a"]) + body).into_bytes());
    refused("a name with a blank", (head(&[&length, "X Y: a"]) + body).into_bytes());
    refused("a line without a colon", (head(&[&length, "X"]) + body).into_bytes());
    refused("no name", (head(&[&length, ": a"]) + body).into_bytes());
    refused("a folded line", (head(&[&length, "X: a", " b"]) + body).into_bytes());
    refused("a bare carriage return in a value", (head(&[&length, "X: a\rb"]) + body).into_bytes());
    refused("a blank before the first name", format!("POST {VERIFY} HTTP/1.1\r\n Host: x\r\n\r\n").into_bytes());
    refused("no version", format!("POST {VERIFY}\r\n\r\n").into_bytes());
    refused("HTTP/2 in text", format!("POST {VERIFY} HTTP/2.0\r\nHost: x\r\n\r\n").into_bytes());
    refused("HTTP/1.2", format!("POST {VERIFY} HTTP/1.2\r\nHost: x\r\n\r\n").into_bytes());
    refused("a word for a version", format!("POST {VERIFY} FTP/1.1\r\nHost: x\r\n\r\n").into_bytes());
    refused("two blanks in the first line", format!("POST  {VERIFY} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes());
    refused("a tab in the first line", format!("POST\t{VERIFY}\tHTTP/1.1\r\nHost: x\r\n\r\n").into_bytes());
    refused("a control in the target", format!("POST {VERIFY}\x01 HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes());
    refused("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(8));
    refused("a word", b"hello\r\n\r\n".to_vec());
    refused("bytes", (0..=255_u8).cycle().take(4096).collect());
    cases.push(RequestCase::new(
        "head: the HTTP/2 preface",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        Expected::status(&[400, 0]).closing(),
    ));
    cases.push(RequestCase::new("head: a blank line before", format!("\r\n{}{body}", head(&[&length])), ANSWERED));
    cases
}

fn limits(body: &str) -> Vec<RequestCase> {
    let length = format!("Content-Length: {}", body.len());
    let with = |lines: usize| {
        let mut all: Vec<String> = (0..lines).map(|n| format!("X-{n}: y")).collect();
        all.push(length.clone());
        let lines: Vec<&str> = all.iter().map(String::as_str).collect();
        head(&lines) + body
    };
    let large = |bytes: usize| head(&[&length, &format!("X: {}", "y".repeat(bytes))]) + body;
    let target = |bytes: usize| {
        format!(
            "POST {VERIFY}?{} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{length}\r\n\r\n{body}",
            "q".repeat(bytes)
        )
    };
    let too_large = Expected::status(&[431]);
    vec![
        RequestCase::new("97 more headers", with(97), ANSWERED),
        RequestCase::new("101 headers and more", with(120), too_large.clone()),
        RequestCase::new("5,000 headers", with(5_000), too_large.clone()),
        RequestCase::new("headers of 15 KiB", large(15 * 1024), ANSWERED),
        RequestCase::new("headers of 17 KiB", large(17 * 1024), too_large.clone()),
        RequestCase::new("headers of 1 MiB", large(1024 * 1024), Expected::status(&[431, 0])),
        RequestCase::new("a target of 8 KiB", target(8 * 1024 - VERIFY.len() - 1), ANSWERED),
        RequestCase::new("a target of over 8 KiB", target(9 * 1024), Expected::status(&[414, 431, 400])),
        RequestCase::new(
            "a head that never ends",
            format!("POST {VERIFY} HTTP/1.1\r\n{}", "X: y\r\n".repeat(20_000)),
            Expected::status(&[431, 0]),
        ),
    ]
}
