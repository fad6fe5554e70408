//! Tests of the core against the standards it implements, and against others' implementations of them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says that it failed by panicking")]

mod interop;
mod json_web_keys;
mod json_web_signatures;
mod primitives;
mod ring_bench;
mod ring_model;
mod ring_properties;
mod ring_rules;
mod strangers;

/// A file of `testdata`, as JSON.
fn vectors<T: serde::de::DeserializeOwned>(name: &str) -> T {
    let path = format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}
