//! Sees what the HTTP library hides: a message that declares its length twice.
//!
//! hyper takes `Transfer-Encoding` over `Content-Length` and drops the latter before a service sees the request. Behind a
//! proxy that decides the other way this is request smuggling (RFC 9112 section 6.3, item 3), so such a message must get 400
//! and the connection must close. This scanner reads the bytes on their way to hyper, line by line and without copying.

use memchr::memchr;

/// The longest header name that matters, with its colon.
const WATCHED: usize = b"transfer-encoding:".len();

/// Looks for a head with both `Content-Length` and `Transfer-Encoding` in a stream of bytes, however they are cut into reads.
///
/// It knows no framing: blank lines end a head. A body can only make it see *more* (a raw line of such a name inside a body,
/// which neither JSON nor a form can hold), so nothing that hyper reads as both is missed.
#[derive(Debug, Default)]
pub(crate) struct FramingScanner {
    /// The beginning of a line whose end has not been read yet.
    unfinished: [u8; WATCHED],
    len: usize,
    has_length: bool,
    has_encoding: bool,
}

impl FramingScanner {
    /// Reads on; true when a head with both has come to light in these bytes.
    pub(crate) fn scan(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            if self.len == 0 {
                self.line(line);
            } else {
                self.keep(line);
                let (whole, len) = (self.unfinished, self.len);
                self.len = 0;
                self.line(&whole[..len]);
            }
            found |= self.has_length && self.has_encoding;
            bytes = rest;
        }
        self.keep(bytes);
        found
    }

    fn keep(&mut self, part: &[u8]) {
        let more = part.len().min(WATCHED - self.len);
        self.unfinished[self.len..self.len + more].copy_from_slice(&part[..more]);
        self.len += more;
    }

    fn line(&mut self, line: &[u8]) {
        match line.first() {
            None => self.end_of_head(),
            Some(b'\r') if line.len() == 1 => self.end_of_head(),
            Some(b'c' | b'C') if starts_with(line, b"content-length:") => self.has_length = true,
            Some(b't' | b'T') if starts_with(line, b"transfer-encoding:") => self.has_encoding = true,
            Some(_) => {}
        }
    }

    fn end_of_head(&mut self) {
        self.has_length = false;
        self.has_encoding = false;
    }
}

fn starts_with(line: &[u8], name: &[u8]) -> bool {
    line.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [&str; 4] = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:chunked\r\nX: y\r\nCONTENT-LENGTH:5\r\n\r\n",
        "POST / HTTP/1.1\nContent-Length: 5\nTransfer-Encoding: chunked\n\n",
        "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}POST / HTTP/1.1\r\nTransfer-Encoding: x\r\nContent-Length: 0\r\n\r\n",
    ];
    const ONE: [&str; 3] = [
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nX-Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 60\r\n\r\n{\"token\": \"Transfer-Encoding: chunked\"}",
    ];

    fn found_in(text: &str, cut: usize) -> bool {
        let mut scanner = FramingScanner::default();
        text.as_bytes().chunks(cut).any(|part| scanner.scan(part))
    }

    #[test]
    fn a_head_with_both_lengths_is_seen_however_it_is_cut() {
        for cut in 1..200 {
            for text in BOTH {
                assert!(found_in(text, cut), "{text:?} cut every {cut}");
            }
            for text in ONE {
                assert!(!found_in(text, cut), "{text:?} cut every {cut}");
            }
        }
    }
}
