//! A way to the API server that can be cut: the server is there for everybody else.

use std::{
    io,
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

/// Forwards connections to one address until it is cut.
pub(crate) struct Cable {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    cut: bool,
    ended: bool,
    open: Vec<TcpStream>,
}

impl Cable {
    /// Lays one to an address.
    pub(crate) fn to(destination: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, destination) = (state.clone(), destination.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut state = shared.lock().unwrap();
                if state.ended {
                    return;
                }
                // A refused connection is dropped, and so closed.
                if let (false, Ok(server)) = (state.cut, TcpStream::connect(&destination)) {
                    state.open.extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                    let (to_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                    std::thread::spawn(move || forward(&client, &to_server));
                    std::thread::spawn(move || forward(&server, &to_client));
                }
            }
        });
        Self { address, state }
    }

    /// Where to connect.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Breaks every connection, and lets none come up.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock().unwrap();
        state.cut = true;
        for stream in state.open.drain(..) {
            // Closed by its end already is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn mend(&self) {
        self.state.lock().unwrap().cut = false;
    }
}

fn forward(mut from: &TcpStream, mut to: &TcpStream) {
    // Either end may close, or the cable is cut.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.cut();
        self.state.lock().unwrap().ended = true;
        // Wakes the listener, which looks and ends.
        let _ = TcpStream::connect(&self.address);
    }
}
