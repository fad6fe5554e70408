//! What stands in front of issuers.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::Value;

use crate::http::{Answer, Connection, Request, Target};

/// Issuers of one policy, asked one after the other, as behind a Service.
pub(crate) struct Front {
    issuers: Vec<Target>,
    prefix: String,
    asked: AtomicUsize,
}

impl Front {
    /// The policy's calls are under a path.
    pub(crate) fn of(issuers: Vec<Target>, prefix: &str) -> Self {
        Self { issuers, prefix: prefix.to_owned(), asked: AtomicUsize::new(0) }
    }

    fn next(&self) -> &Target {
        &self.issuers[self.asked.fetch_add(1, Ordering::Relaxed) % self.issuers.len()]
    }

    /// A request with a body, for [`Self::send`] and [`Self::at_once`].
    pub(crate) fn request(&self, path: &str, body: &Value) -> Request {
        Request::post(&format!("{}{path}", self.prefix), body)
    }

    pub(crate) fn send(&self, request: &Request) -> Answer {
        request.send(self.next())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(&self.request(path, body))
    }

    /// With a token of a login.
    pub(crate) fn with_token(&self, method: &str, path: &str, token: &str, body: &Value) -> Answer {
        let request = Request::new(method, &format!("{}{path}", self.prefix));
        self.send(&request.header("authorization", &format!("Bearer {token}")).body(body.to_string()))
    }

    /// Sends requests at once, each on a connection of its own. Every one is answered.
    pub(crate) fn at_once(&self, requests: impl IntoIterator<Item = Request>) -> Vec<Answer> {
        let requests: Vec<Request> = requests.into_iter().collect();
        let ready = Arc::new(Barrier::new(requests.len()));
        let threads: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let (target, ready) = (self.next().clone(), ready.clone());
                // A thousand stacks of the usual size are more memory than what is measured.
                thread::Builder::new().stack_size(256 << 10).spawn(move || {
                    let connection = Connection::open(&target);
                    ready.wait();
                    request.send_on(&mut connection.expect("a connection")).expect("an answer")
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.unwrap().join().unwrap()).collect()
    }
}
