//! The verification API over HTTP: from a request to an answer.

pub(crate) mod authorize;
mod batch;
mod body;
mod csrf;
pub(crate) mod forwarded;
pub(crate) mod health;
mod introspect;
mod listing;
pub(crate) mod memory;
mod problem;
mod request;
pub(crate) mod service;
mod target;
pub(crate) mod verdict;
