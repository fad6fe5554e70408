//! What every process of Countersign does alike: certificates that change on disk, words for log levels, variables of the
//! environment that mean nothing.

mod logging;
mod tls;
mod variables;

pub use logging::{InvalidLogLevel, log_filter};
pub use tls::{ServingTls, TlsError};
pub use variables::{known_variables, unknown_variables, variable_behind};
