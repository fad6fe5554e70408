//! HTTP/1.1 byte by byte: a client that sends whatever it is told to, well-formed or not.

use std::{
    fmt::Write as _,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;

/// Where a server listens.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Unix(PathBuf),
    Tcp(String),
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// An answer, taken apart.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The first header of that name (lower case).
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Its body as JSON; null when it isn't.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// `verdict`, else `error`, else an empty text.
    pub(crate) fn word(&self) -> String {
        let json = self.json();
        ["verdict", "error"].iter().find_map(|name| json[*name].as_str()).unwrap_or_default().to_owned()
    }
}

/// A connection.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
    /// Nothing came for as long as one waits.
    hung: bool,
}

const PATIENCE: Duration = Duration::from_mins(1);

impl Connection {
    /// Connects, or says why not.
    pub(crate) fn open(target: &Target) -> std::io::Result<Self> {
        Self::open_for(target, PATIENCE)
    }

    /// Connects to wait no longer than that for anything.
    pub(crate) fn open_for(target: &Target, patience: Duration) -> std::io::Result<Self> {
        let stream: Box<dyn Stream> = match target {
            Target::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                Box::new(stream)
            }
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        };
        Ok(Self { stream, buffer: Vec::new(), hung: false })
    }

    /// Sends bytes. A server that has already refused may have closed: what it said can still be read.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer; `None` when the server closed without one.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        loop {
            if let Some((answer, length)) = parse(&self.buffer) {
                self.buffer.drain(..length);
                return Some(answer);
            }
            if !self.read_more() {
                return None;
            }
        }
    }

    /// Whether the server closes now, having sent nothing more.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.read_more() && self.buffer.is_empty() && !self.hung
    }

    /// Whether the server neither answered nor closed in time.
    pub(crate) fn hung(&self) -> bool {
        self.hung
    }

    fn read_more(&mut self) -> bool {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&chunk[..n]);
                true
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                self.hung = true;
                false
            }
            Err(_) => false,
        }
    }
}

/// Reads an answer with its body, and how many bytes it took. A 204, a 304 and an informational answer have no body.
fn parse(bytes: &[u8]) -> Option<(Answer, usize)> {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&bytes[..end]).ok()?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, value)| value.parse().unwrap());
    let body = bytes.get(end..end + length)?.to_vec();
    Some((Answer { status, headers, body }, end + length))
}

/// One request on a connection of its own; `None` when the server closed without an answer.
pub(crate) fn exchange(target: &Target, bytes: &[u8]) -> Option<Answer> {
    let mut connection = Connection::open(target).unwrap_or_else(|error| panic!("could not reach {target:?}: {error}"));
    // The server may refuse before it has read everything.
    let _ = connection.send(bytes);
    connection.answer()
}

/// A request that is as it should be.
pub(crate) struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self { method: method.into(), path: path.into(), headers: Vec::new(), body: None }
    }

    pub(crate) fn get(path: &str) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn post(path: &str, json: &Value) -> Self {
        Self::new("POST", path).header("content-type", "application/json").body(json.to_string())
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\nhost: localhost\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        if let Some(body) = &self.body {
            let _ = write!(head, "content-length: {}\r\n", body.len());
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Sends it on a connection of its own.
    pub(crate) fn send(&self, target: &Target) -> Answer {
        exchange(target, &self.bytes())
            .unwrap_or_else(|| panic!("{} {}: the server closed without an answer", self.method, self.path))
    }

    /// Sends it on an open connection; `None` when that closed.
    pub(crate) fn send_on(&self, connection: &mut Connection) -> Option<Answer> {
        connection.send(&self.bytes()).ok()?;
        connection.answer()
    }
}
