//! What `policy check` says of files that stand in the tree.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says that it failed by panicking")]

mod corpus;
mod documented;
