use axum::{
    body::Bytes,
    routing::{get, post},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::Notify,
};

use super::*;

/// Long enough for anything that happens at all.
const SOON: Duration = Duration::from_secs(10);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

struct Rig {
    address: SocketAddr,
    stop: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    /// Rung when a call to `/slow` is under way; what ends it.
    entered: Arc<Notify>,
    leave: Arc<Notify>,
}

impl Rig {
    async fn start(bounds: Bounds) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (enter, left) = (entered.clone(), leave.clone());
        let slowly = async move || {
            enter.notify_one();
            left.notified().await;
            "slow"
        };
        let routes = Router::new()
            .route("/", get(async || "ok"))
            .route("/slow", get(slowly))
            .route("/much", get(async || "x".repeat(16 << 20)))
            .route("/body", post(async |body: Bytes| body));
        let server = tokio::spawn(serve(Door::Tcp(listener, Tls::Off), routes, bounds, stop.clone()));
        Self { address, stop, server, entered, leave }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

fn brief() -> Patience {
    let moment = Duration::from_millis(150);
    Patience {
        handshake: moment,
        head: moment,
        body: moment,
        write: moment,
        idle: Duration::from_mins(1),
        idle_when_crowded: Duration::from_millis(50),
    }
}

fn bounds() -> Bounds {
    Bounds { connections: 8, patience: brief() }
}

/// All that comes until the other side closes.
async fn rest(stream: &mut TcpStream) -> String {
    let mut all = Vec::new();
    // A reset is an end, too.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut all)).await.expect("not closed");
    String::from_utf8_lossy(&all).into_owned()
}

async fn answers(stream: &mut TcpStream) -> bool {
    stream.write_all(GET).await.unwrap();
    let mut start = [0; 15];
    tokio::time::timeout(SOON, stream.read_exact(&mut start)).await.expect("no answer").is_ok()
        && start.starts_with(b"HTTP/1.1 200 OK")
}

#[tokio::test]
async fn a_head_that_never_ends_is_waited_for_no_longer_than_it_may_take() {
    let rig = Rig::start(bounds()).await;
    let mut slow = rig.connect().await;
    slow.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    assert_eq!(rest(&mut slow).await, "");
    assert!(answers(&mut rig.connect().await).await);
}

#[tokio::test]
async fn a_body_that_never_comes_fails_its_request() {
    let rig = Rig::start(bounds()).await;
    let mut slow = rig.connect().await;
    slow.write_all(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{").await.unwrap();
    let answer = rest(&mut slow).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answers(&mut rig.connect().await).await);
}

#[tokio::test]
async fn a_call_that_is_refused_before_its_body_is_read_is_answered_all_the_same_and_the_connection_kept() {
    let rig = Rig::start(Bounds { patience: Patience::default(), ..bounds() }).await;
    let large = 4 << 20;
    for (request, status) in [
        ("POST /nowhere", "404"),
        ("POST /", "405"),
        // Over the framework's own bound of 2 MiB.
        ("POST /body", "413"),
    ] {
        let mut stream = rig.connect().await;
        let head = format!("{request} HTTP/1.1\r\nHost: x\r\nContent-Length: {large}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; large]).await.unwrap_or_else(|e| panic!("{request}: cut off: {e}"));
        let mut answer = vec![0; 4096];
        let n = tokio::time::timeout(SOON, stream.read(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer[..n]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        assert!(answers(&mut stream).await, "{request}: the connection is not kept");
    }
}

#[tokio::test]
async fn a_client_that_never_reads_its_answer_is_let_go() {
    let rig = Rig::start(Bounds { connections: 1, ..bounds() }).await;
    let mut deaf = rig.connect().await;
    deaf.write_all(b"GET /much HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // It held the only place.
    assert!(answers(&mut rig.connect().await).await);
}

#[tokio::test]
async fn while_others_wait_for_a_place_nobody_keeps_one_without_asking_anything() {
    let rig = Rig::start(bounds()).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut stream = rig.connect().await;
        assert!(answers(&mut stream).await);
        idle.push(stream);
    }
    assert!(answers(&mut rig.connect().await).await);
}

#[tokio::test]
async fn without_a_crowd_a_connection_is_kept() {
    let rig = Rig::start(bounds()).await;
    let mut stream = rig.connect().await;
    for _ in 0..3 {
        stream.write_all(GET).await.unwrap();
        let mut answer = [0; 1024];
        let n = tokio::time::timeout(SOON, stream.read(&mut answer)).await.unwrap().unwrap();
        assert!(answer[..n].starts_with(b"HTTP/1.1 200 OK"));
        // Longer than a crowd would have left it.
        tokio::time::sleep(brief().idle_when_crowded * 4).await;
    }
}

#[tokio::test]
async fn what_is_under_way_is_answered_after_the_stop_and_then_all_is_closed() {
    let rig = Rig::start(bounds()).await;
    let mut idle = rig.connect().await;
    assert!(answers(&mut idle).await);
    let mut busy = rig.connect().await;
    busy.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    rig.entered.notified().await;
    rig.stop.cancel();
    rest(&mut idle).await;
    rig.leave.notify_one();
    let answer = rest(&mut busy).await;
    assert!(answer.ends_with("slow") && answer.contains("connection: close"), "{answer}");
    tokio::time::timeout(SOON, rig.server).await.unwrap().unwrap();
}
