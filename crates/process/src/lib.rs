//! What every process of Countersign does alike: how it starts, logs and ends, whom it trusts, which cluster it works in,
//! until when a watch of that shows the present, certificates that change on disk, variables of the environment that mean nothing.

mod cluster;
mod confirming;
mod logging;
mod starting;
mod telling;
mod tls;
mod trust;
mod variables;

pub use cluster::{ClusterError, UnusableKubeconfig, cluster_of, find_cluster};
pub use confirming::{Unreached, confirm_every, watch_for};
pub use logging::{InvalidLogLevel, log_filter};
pub use starting::{Failure, Process, Signals, causes, exit_code, until_told, warn_of_unknown_variables};
pub use telling::{Telling, TellingError, TellingFlags};
pub use tls::{Begun, HalfTls, ServingTls, Tls, TlsError, TlsFiles, TlsFlags};
pub use trust::{TrustError, TrustFile, Trusted};
pub use variables::{known_variables, unknown_variables, variable_behind};
