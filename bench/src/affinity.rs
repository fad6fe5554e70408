//! Which core a process runs on: the server has one for itself, everything else shares another.

use anyhow::{Context as _, Result};
use rustix::thread::{CpuSet, sched_setaffinity};

/// The server's core.
pub(crate) const SERVER: usize = 0;
/// The load generator's core.
pub(crate) const CLIENT: usize = 1;

/// Moves the calling thread, and with it every thread and process that it starts later, to one core. On a machine with a
/// single core there is nothing to choose.
pub(crate) fn pin(core: usize) -> Result<()> {
    if std::thread::available_parallelism()?.get() <= core {
        return Ok(());
    }
    let mut cores = CpuSet::new();
    cores.set(core);
    sched_setaffinity(None, &cores).with_context(|| format!("could not move to core {core}"))
}

/// Lets the calling thread run anywhere again.
pub(crate) fn unpin() -> Result<()> {
    let mut cores = CpuSet::new();
    for core in 0..CpuSet::MAX_CPU {
        cores.set(core);
    }
    sched_setaffinity(None, &cores).context("could not leave the core")
}
