//! A collector of traces, as far as a sender can tell.

use std::{
    io::{BufReader, Write as _},
    net::TcpStream,
    sync::{Arc, Mutex},
};

use super::service::{Service, message};

/// It takes whatever is sent to it. What it got is protobuf, in which every text stands as it is.
pub(crate) struct Collector {
    service: Service,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let received = Arc::<Mutex<Vec<u8>>>::default();
        let to = received.clone();
        let service = Service::start(move |connection| {
            // A sender that goes away is none of ours.
            let _ = take(connection, &to);
        });
        Self { service, received }
    }

    /// Where it is, for `--otlp-endpoint`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.service.address())
    }

    /// Whether a text is in what it got so far.
    pub(crate) fn has(&self, text: &str) -> bool {
        self.received.lock().unwrap().windows(text.len()).any(|window| window == text.as_bytes())
    }
}

/// Takes one request after the other; `None` when the sender is gone.
fn take(connection: TcpStream, to: &Mutex<Vec<u8>>) -> Option<()> {
    let mut reader = BufReader::new(connection);
    loop {
        let (_, body) = message(&mut reader)?;
        to.lock().unwrap().extend(body);
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}
