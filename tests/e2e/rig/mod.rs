//! The parts under test: started on free ports, ended with their value.

mod balancer;
mod binaries;
mod clock;
mod cluster;
mod collector;
mod dev;
mod mails;
mod policies;
mod process;
mod redis;
mod service;
mod verifier;

use std::{
    io::Write as _,
    time::{Duration, Instant},
};

pub(crate) use balancer::Balancer;
pub(crate) use binaries::path as binary;
pub(crate) use clock::Clock;
pub(crate) use cluster::{
    Api, BUNDLES, Cable, Cluster, Counts, Installation, Issuer, Operator, SYSTEM, Setup, SimulatedFleet, Write, Writes,
    condition, path as object_path,
};
pub(crate) use collector::Collector;
pub(crate) use dev::Dev;
pub(crate) use mails::{MailServer, Mails};
pub(crate) use policies::{LEGACY_SECRET, OPAQUE_KEY, Policies};
pub(crate) use process::Process;
pub(crate) use redis::{Redis, Reply};
pub(crate) use verifier::{Options as VerifierOptions, Verifier};

/// Prints a measured figure. Past the test harness, which shows only what failed tests print.
pub(crate) fn report(figure: &str) {
    let _ = writeln!(std::io::stderr(), "{figure}");
}

/// Waits until a condition holds, looking often; panics with `what` past the deadline.
pub(crate) fn eventually<T>(what: &str, within: Duration, condition: impl FnMut() -> Option<T>) -> T {
    eventually_every(Duration::from_millis(2), what, within, condition)
}

/// The same, looking less often at what is dear to look at.
pub(crate) fn eventually_every<T>(
    pause: Duration,
    what: &str,
    within: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::park_timeout(pause);
    }
}

/// How long anything may take that normally takes well under a second, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
