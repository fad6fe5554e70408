//! A round robin in front of servers, whose turn it is request by request, as behind a proxy that keeps nobody at one.

use std::{
    io::{BufReader, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::service::{Service, message};

/// It hands requests on until its value ends.
pub(crate) struct Balancer {
    service: Service,
}

impl Balancer {
    /// To servers by their addresses.
    pub(crate) fn over(servers: Vec<String>) -> Self {
        let (servers, asked) = (Arc::new(servers), Arc::<AtomicUsize>::default());
        let next = move || servers[asked.fetch_add(1, Ordering::Relaxed) % servers.len()].clone();
        let service = Service::start(move |client| {
            // A client that goes away is none of ours.
            let _ = hand_on(client, &next);
        });
        Self { service }
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        self.service.address()
    }
}

/// Hands one request after the other on; `None` when either end is gone.
fn hand_on(client: TcpStream, next: &dyn Fn() -> String) -> Option<()> {
    let mut client = BufReader::new(client);
    loop {
        let (head, body) = message(&mut client)?;
        let mut server = BufReader::new(TcpStream::connect(next()).ok()?);
        server.get_mut().write_all(&[head.as_bytes(), &body].concat()).ok()?;
        let (head, body) = message(&mut server)?;
        client.get_mut().write_all(&[head.as_bytes(), &body].concat()).ok()?;
    }
}
