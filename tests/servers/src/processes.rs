//! Processes by their ids.

use std::{
    fs, io,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};

/// How long the system may take to end what was killed.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn stop(pid: u32) -> io::Result<()> {
    Ok(kill_process(known(pid)?, Signal::STOP)?)
}

/// One that has ended by itself is as good.
pub(crate) fn kill(pid: u32) -> io::Result<()> {
    match kill_process(known(pid)?, Signal::KILL) {
        Ok(()) | Err(Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// What a process has started and is still there.
pub(crate) fn children(of: u32) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if stat(pid).is_some_and(|(_, parent)| parent == of) {
            children.push(pid);
        }
    }
    Ok(children)
}

pub(crate) fn wait_until_gone(pids: &[u32]) -> io::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // A zombie has ended: nobody but its parent can make it go.
    while pids.iter().any(|pid| stat(*pid).is_some_and(|(state, _)| state != 'Z')) {
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "what was killed does not end"));
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    Ok(())
}

fn known(pid: u32) -> io::Result<Pid> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.ok_or_else(|| io::Error::other("not a process id"))
}

/// State and parent of a process; absent when there is none. Its name, in parentheses, may hold anything.
fn stat(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}
