//! A real `redis-server` on a free port, and just enough of its protocol.

use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;

use super::{PATIENCE, Process, eventually};

/// One server with its directory.
pub(crate) struct Redis {
    process: Process,
    port: u16,
    directory: TempDir,
    options: Vec<String>,
}

/// A reply of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Text(String),
    Error(String),
    Nil,
    List(Vec<Reply>),
}

impl Redis {
    /// Starts one that keeps everything in memory.
    pub(crate) fn start() -> Self {
        Self::with(&[])
    }

    /// Starts one with further `--option value` pairs.
    pub(crate) fn with(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        // Between finding a free port and binding it somebody else may take it: then try the next.
        for _ in 0..10 {
            let port = free_port();
            let mut process = launch(port, &directory, &options);
            let up = eventually("redis answers or ends", PATIENCE, || {
                if process.ended().is_some() {
                    return Some(false);
                }
                call(port, &["PING"]).is_some_and(|reply| reply == Reply::Text("PONG".into())).then_some(true)
            });
            if up {
                return Self { process, port, directory, options };
            }
        }
        panic!("redis-server does not start; is it installed? (cargo xtask test installs it)");
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Runs a command; panics when the server doesn't answer.
    pub(crate) fn command(&self, words: &[&str]) -> Reply {
        call(self.port, words).unwrap_or_else(|| panic!("redis does not answer {words:?}"))
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port, with what its directory holds.
    pub(crate) fn restart(&mut self) {
        self.process.kill();
        self.process = launch(self.port, &self.directory, &self.options);
        eventually("redis answers again", PATIENCE, || {
            call(self.port, &["PING"]).filter(|reply| *reply == Reply::Text("PONG".into()))
        });
    }

    /// SIGSTOP: connections stay open, nothing is answered.
    pub(crate) fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// What it holds now, as a dump.
    pub(crate) fn dump(&self) -> Vec<u8> {
        assert_eq!(self.command(&["SAVE"]), Reply::Text("OK".into()));
        std::fs::read(self.dump_file()).unwrap()
    }

    /// Kills it and starts it on the same port with the data of a dump.
    pub(crate) fn restore(&mut self, dump: &[u8]) {
        self.process.kill();
        std::fs::write(self.dump_file(), dump).unwrap();
        self.restart();
    }

    /// Kills it and starts it on the same port with nothing.
    pub(crate) fn restart_empty(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_file(self.dump_file());
        self.restart();
    }

    /// The keys of one type.
    pub(crate) fn keys_of_type(&self, kind: &str) -> Vec<String> {
        let Reply::List(keys) = self.command(&["KEYS", "*"]) else { panic!("no list of keys") };
        let keys = keys.into_iter().filter_map(|key| if let Reply::Text(key) = key { Some(key) } else { None });
        keys.filter(|key| self.command(&["TYPE", key]) == Reply::Text(kind.into())).collect()
    }

    fn dump_file(&self) -> PathBuf {
        self.directory.path().join("dump.rdb")
    }
}

fn launch(port: u16, directory: &TempDir, options: &[String]) -> Process {
    let mut command = Command::new("redis-server");
    command
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning", "--port"])
        .arg(port.to_string())
        .arg("--dir")
        .arg(directory.path())
        .args(options);
    Process::start(&mut command, directory.path().join("redis.log"))
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn call(port: u16, words: &[&str]) -> Option<Reply> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        let _ = write!(request, "${}\r\n{word}\r\n", word.len());
    }
    stream.write_all(request.as_bytes()).ok()?;
    read(&mut BufReader::new(stream))
}

fn read(stream: &mut BufReader<TcpStream>) -> Option<Reply> {
    let mut line = String::new();
    stream.read_line(&mut line).ok()?;
    let rest = line.get(1..)?.trim_end();
    Some(match line.as_bytes()[0] {
        b'+' | b':' => Reply::Text(rest.into()),
        b'-' => Reply::Error(rest.into()),
        b'$' | b'*' if rest.starts_with('-') => Reply::Nil,
        b'$' => {
            let mut text = vec![0; rest.parse::<usize>().ok()? + 2];
            stream.read_exact(&mut text).ok()?;
            text.truncate(text.len() - 2);
            Reply::Text(String::from_utf8_lossy(&text).into_owned())
        }
        b'*' => Reply::List((0..rest.parse().ok()?).map(|_| read(stream)).collect::<Option<_>>()?),
        _ => return None,
    })
}
