//! `countersign-operator`.
fn main() {}
