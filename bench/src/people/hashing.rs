//! Bare Argon2id: what logins cannot be faster than.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use argon2::{Algorithm, Argon2, Params, Version};
use clap::Args;

use crate::{affinity, load::Measured, server};

#[derive(Args)]
pub(crate) struct Options {
    /// KiB.
    #[arg(long)]
    memory: u32,
    /// Passes.
    #[arg(long)]
    iterations: u32,
    /// Lanes.
    #[arg(long)]
    parallelism: u32,
    /// How long to measure.
    #[arg(long)]
    millis: u64,
}

/// Hashes on the server's core, in a process of its own.
pub(super) fn measure((memory, iterations, parallelism): (u32, u32, u32), millis: u64) -> Result<Measured> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("hash").arg("--millis").arg(millis.to_string()).arg("--memory").arg(memory.to_string());
    command.arg("--iterations").arg(iterations.to_string()).arg("--parallelism").arg(parallelism.to_string());
    super::found(&mut command)
}

pub(crate) fn run(options: &Options) -> Result<()> {
    affinity::pin(affinity::SERVER)?;
    let failed = |error| anyhow!("Argon2id: {error}");
    let params = Params::new(options.memory, options.iterations, options.parallelism, None).map_err(failed)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash_for = |length: Duration| -> Result<u64> {
        let (began, mut made, mut tag) = (Instant::now(), 0_u64, [0; 32]);
        while began.elapsed() < length {
            let salt = u128::from(made).to_le_bytes();
            argon2.hash_password_into(b"the password of a measurement", &salt, &mut tag).map_err(failed)?;
            made += 1;
        }
        Ok(made)
    };
    let length = Duration::from_millis(options.millis);
    hash_for(length / 4)?;
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let (began, before) = (Instant::now(), server::cpu_time(std::process::id())?);
    let answers = hash_for(length)?;
    let used = server::cpu_time(std::process::id())?.saturating_sub(before);
    let measured = Measured { answers, server_cpu_ns: nanos(used), beside_cpu_ns: 0, wall_ns: nanos(began.elapsed()) };
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}
