//! Sockets and connections: everything below a request. Knows nothing of policies.

mod connection;
mod framing;
mod listener;
mod meter;
mod server;
mod stream;

pub(crate) use connection::{Answer, Connected, Service};
pub use listener::BindError;
pub(crate) use listener::{Bound, Peer};
pub(crate) use meter::Patience;
pub(crate) use server::{OpenConnections, Server, ServerLimits, raise_open_files};
