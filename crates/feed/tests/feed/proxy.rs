//! A TCP relay whose far end can be changed: what a failover looks like from here.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinHandle},
};

pub(crate) struct Proxy {
    port: u16,
    target: Arc<Mutex<u16>>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let own = listener.local_addr().unwrap().port();
        let target = Arc::new(Mutex::new(port));
        let connections = Arc::new(Mutex::new(Vec::new()));
        let (to, held) = (Arc::clone(&target), Arc::clone(&connections));
        let accepting = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let port = *to.lock();
                let relay = tokio::spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
                held.lock().push(relay.abort_handle());
            }
        });
        Self { port: own, target, connections, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Ends every connection; new ones go to `port`.
    pub(crate) fn fail_over_to(&self, port: u16) {
        *self.target.lock() = port;
        for connection in self.connections.lock().drain(..) {
            connection.abort();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        for connection in self.connections.lock().drain(..) {
            connection.abort();
        }
    }
}
