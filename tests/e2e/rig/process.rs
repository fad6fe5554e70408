//! A child process with its output kept, ended with its value.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

/// What /proc counts processor time in, on every Linux.
const TICKS_PER_SECOND: u64 = 100;

/// A running child. Its output goes to a file that is shown when it ends unasked.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with standard output and error in one file.
    pub(crate) fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {}: {error}", command.get_program().display()));
        Self { child, log }
    }

    /// Everything it has said.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory now, and at most since it started, KiB.
    pub(crate) fn memory_kib(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
        };
        (field("VmRSS"), field("VmHWM"))
    }

    /// Processor time since it started, milliseconds.
    pub(crate) fn cpu_ms(&self) -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // The name is in parentheses and may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        ticks * 1000 / TICKS_PER_SECOND
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops it as `kill -9` does, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        // Already gone is as good.
        let _ = self.child.kill();
        self.child.wait().unwrap();
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, within: Duration) -> ExitStatus {
        eventually("the process ends", within, || self.child.try_wait().unwrap())
    }

    /// Fails the test, with the log, when the process has ended unasked.
    pub(crate) fn assert_running(&mut self) {
        if let Some(status) = self.ended() {
            panic!("the process ended ({status}):\n{}", self.log());
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
            eprintln!("--- log of process {} ---\n{}", self.child.id(), &log[tail..]);
        }
    }
}
