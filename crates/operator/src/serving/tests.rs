use std::net::SocketAddr;

use countersign_reviews::self_signed;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// A listener whose strangers are never answered, and whose people are when they are told to leave.
struct Rig {
    address: SocketAddr,
    entered: Arc<Notify>,
    leave: Arc<Notify>,
}

impl Rig {
    async fn new(connections: usize, of_one_address: usize, tls: Tls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (enter, left) = (entered.clone(), leave.clone());
        let door = Door { connections, of_one_address, within: Duration::from_hours(1), tls };
        tokio::spawn(async move {
            let answer = move |request: Request<Incoming>| {
                let (enter, left) = (enter.clone(), left.clone());
                async move {
                    match request.uri().path() {
                        "/stranger" => {
                            enter.notify_one();
                            std::future::pending::<()>().await;
                        }
                        "/person" => {
                            request.extensions().get::<Peer>().unwrap().admit();
                            enter.notify_one();
                            left.notified().await;
                        }
                        _ => {}
                    }
                    Response::new(Body::from("ok"))
                }
            };
            door.serve(&listener, &TaskTracker::new(), answer).await;
        });
        Self { address, entered, leave }
    }

    async fn asks(&self, path: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        stream
    }

    /// The same, once it is being answered.
    async fn enters(&self, path: &str) -> TcpStream {
        let stream = self.asks(path).await;
        tokio::time::timeout(PATIENCE, self.entered.notified()).await.expect("let in");
        stream
    }
}

/// All that comes until the connection ends.
async fn rest(mut stream: impl AsyncRead + Unpin) -> String {
    let mut all = Vec::new();
    // A reset is an end like another.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("an end");
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test]
async fn while_others_wait_strangers_make_room_and_whoever_is_known_does_not() {
    let rig = Rig::new(2, 2, Tls::Off).await;
    let person = rig.enters("/person").await;
    let stranger = rig.enters("/stranger").await;
    assert!(rest(rig.asks("/").await).await.starts_with("HTTP/1.1 200"), "the stranger made room");
    assert_eq!(rest(stranger).await, "");
    rig.leave.notify_one();
    assert!(rest(person).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn one_address_has_so_many_connections_and_gets_their_places_back() {
    let rig = Rig::new(8, 1, Tls::Off).await;
    let person = rig.enters("/person").await;
    assert_eq!(rest(rig.asks("/").await).await, "", "closed");
    rig.leave.notify_one();
    assert!(rest(person).await.starts_with("HTTP/1.1 200"));
    let again = async {
        while rest(rig.asks("/").await).await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("its place is free again");
}

#[tokio::test]
async fn probes_come_with_tls_and_without() {
    let rig = Rig::new(8, 8, Tls::Taken(self_signed("operator", "system").unwrap())).await;
    assert!(rest(rig.asks("/").await).await.starts_with("HTTP/1.1 200"));
    let said = crate::mint::over_tls(rig.address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    let strict = Rig::new(8, 8, Tls::Required(self_signed("operator", "system").unwrap())).await;
    assert!(!rest(strict.asks("/").await).await.contains("200"), "TLS is not optional");
}
