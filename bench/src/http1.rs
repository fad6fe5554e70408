//! As little HTTP/1.1 as a load generator and an admin client need.

use std::{
    fmt::Write as _,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Where a server listens: `unix:PATH` or `ADDR:PORT`.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Unix(PathBuf),
    Tcp(String),
}

impl FromStr for Target {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text.strip_prefix("unix:") {
            Some(path) => Self::Unix(path.into()),
            None => Self::Tcp(text.into()),
        })
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// The head of an answer, once all of it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// The status.
    pub(crate) status: u16,
    /// Bytes of the head, the empty line included.
    pub(crate) length: usize,
    /// Bytes of the body that follows.
    pub(crate) body: usize,
}

/// Reads an answer's head. `None`: it hasn't all arrived.
pub(crate) fn head(bytes: &[u8]) -> Result<Option<Head>> {
    let Some(length) = bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4) else {
        return Ok(None);
    };
    let status = bytes
        .get(9..12)
        .filter(|_| bytes.starts_with(b"HTTP/1.1 "))
        .and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok())
        .ok_or_else(|| anyhow!("not an HTTP/1.1 answer"))?;
    let mut body = 0;
    for line in bytes[..length].split(|&byte| byte == b'\n') {
        const NAME: &[u8] = b"content-length:";
        if line.len() > NAME.len() && line[..NAME.len()].eq_ignore_ascii_case(NAME) {
            body = std::str::from_utf8(&line[NAME.len()..])?.trim().parse()?;
        } else if line.len() > 18 && line[..18].eq_ignore_ascii_case(b"transfer-encoding:") {
            bail!("the answer is chunked, which this client does not read");
        }
    }
    Ok(Some(Head { status, length, body }))
}

/// A request with a JSON body, or without one.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], json: Option<&[u8]>) -> Vec<u8> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: countersign\r\n");
    for (name, value) in headers {
        let _ = write!(request, "{name}: {value}\r\n");
    }
    if let Some(json) = json {
        let _ = write!(request, "content-type: application/json\r\ncontent-length: {}\r\n", json.len());
    }
    request.push_str("\r\n");
    let mut request = request.into_bytes();
    request.extend_from_slice(json.unwrap_or_default());
    request
}

/// Sends a request and reads the whole answer into the buffer.
pub(crate) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> Result<Head> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            bail!("the server closed the connection");
        }
        if let Some(head) = head(buffer)?
            && buffer.len() >= head.length + head.body
        {
            return Ok(head);
        }
    }
}

/// A blocking connection, for everything that isn't measured.
pub(crate) struct Client {
    stream: Box<dyn ReadWrite>,
    buffer: Vec<u8>,
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

impl Client {
    /// Connects; every read and write may take 30 seconds.
    pub(crate) fn connect(target: &Target) -> Result<Self> {
        let patience = Some(Duration::from_secs(30));
        let stream: Box<dyn ReadWrite> = match target {
            Target::Unix(path) => Box::new(connect_unix(path, patience)?),
            Target::Tcp(address) => {
                let stream = TcpStream::connect(address).with_context(|| format!("could not reach {address}"))?;
                stream.set_read_timeout(patience)?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
        };
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends a request and reads the answer: its status, head and body.
    pub(crate) fn call(&mut self, request: &[u8]) -> Result<(u16, Vec<u8>, Vec<u8>)> {
        self.stream.write_all(request)?;
        self.buffer.clear();
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(head) = head(&self.buffer)?
                && self.buffer.len() >= head.length + head.body
            {
                let (top, body) = self.buffer.split_at(head.length);
                return Ok((head.status, top.to_vec(), body.to_vec()));
            }
            match self.stream.read(&mut chunk)? {
                0 => bail!("the server closed the connection in the middle of an answer"),
                n => self.buffer.extend_from_slice(&chunk[..n]),
            }
        }
    }
}

fn connect_unix(path: &Path, patience: Option<Duration>) -> Result<UnixStream> {
    let stream = UnixStream::connect(path).with_context(|| format!("could not reach {}", path.display()))?;
    stream.set_read_timeout(patience)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_only_when_it_is_all_there() {
        let answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 12\r\n\r\n{\"verdict\":1";
        assert_eq!(head(&answer[..20]).unwrap(), None);
        assert_eq!(head(answer).unwrap(), Some(Head { status: 401, length: 49, body: 12 }));
    }
}
