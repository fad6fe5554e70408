//! The `countersign` command, run as a user would.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that can't go on says so")]

mod admin;
mod api_server;
mod backing_up;
mod cluster;
mod dev;
mod documented;
mod emergency;
mod environment;
mod first_login;
mod keys;
mod migrating;
mod people;
mod policies;
mod putting_back;
mod revoking;
mod rig;
mod support;
mod test_flow;
mod toolkit;
