use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Query, State},
    response::{IntoResponse as _, Response},
};
use futures_util::stream;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;

/// An API server that says where it stands, and whose watches show what a test has them show.
#[derive(Clone, Default)]
struct ApiServer(Arc<Inner>);

#[derive(Default)]
struct Inner {
    version: AtomicU64,
    hangs: AtomicBool,
    watch: parking_lot::Mutex<Option<mpsc::UnboundedSender<Value>>>,
}

impl ApiServer {
    fn at(version: u64) -> Self {
        let server = Self::default();
        server.stands_at(version);
        server
    }

    fn stands_at(&self, version: u64) {
        self.0.version.store(version, SeqCst);
    }

    fn following(&self, within_ms: i64) -> Following<ConfigMap> {
        let client = Client::new(Router::new().fallback(answer).with_state(self.clone()), "default");
        Following::new(Api::namespaced(client, "shop"), None, watch::channel(within_ms).1)
    }

    /// The watch that is open shows this.
    fn shows(&self, typ: &str, version: u64) {
        let object = object(version);
        let told = self.0.watch.lock().as_ref().map(|watch| watch.send(json!({"type": typ, "object": object})));
        assert!(matches!(told, Some(Ok(()))), "no watch is open");
    }
}

fn object(version: u64) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "resourceVersion": version.to_string()}})
}

async fn answer(State(server): State<ApiServer>, Query(asked): Query<BTreeMap<String, String>>) -> Response {
    if server.0.hangs.load(SeqCst) {
        return std::future::pending().await;
    }
    let version = server.0.version.load(SeqCst);
    if asked.get("watch").is_some_and(|watch| watch == "true") {
        let (send, receive) = mpsc::unbounded_channel::<Value>();
        *server.0.watch.lock() = Some(send);
        let lines = stream::unfold(receive, async |mut receive| {
            let event = receive.recv().await?;
            Some((Ok::<_, std::io::Error>(format!("{event}\n")), receive))
        });
        return Body::from_stream(lines).into_response();
    }
    let items = if asked.contains_key("fieldSelector") { vec![] } else { vec![object(version)] };
    let metadata = json!({"resourceVersion": version.to_string()});
    Json(json!({"apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items})).into_response()
}

/// Hands on what it hears.
struct Hears(mpsc::UnboundedSender<Seen<ConfigMap>>);

impl Listener<ConfigMap> for Hears {
    async fn hear(&mut self, seen: Seen<ConfigMap>) -> bool {
        self.0.send(seen).is_ok()
    }
}

type Heard = mpsc::UnboundedReceiver<Seen<ConfigMap>>;

/// Follows until something ends it.
fn follow(mut following: Following<ConfigMap>) -> (Heard, tokio::task::JoinHandle<(Ended, Following<ConfigMap>)>) {
    let (send, heard) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let ended = following.go_on(&mut Hears(send)).await;
        (ended, following)
    });
    (heard, task)
}

fn said(seen: Option<Seen<ConfigMap>>) -> String {
    match seen {
        Some(Seen::Listed(objects)) => format!("listed {}", objects.len()),
        Some(Seen::Applied(_)) => "applied".to_owned(),
        Some(Seen::Gone(_)) => "gone".to_owned(),
        Some(Seen::Confirmed(_)) => "confirmed".to_owned(),
        None => "over".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_listed_is_confirmed_and_then_only_what_the_watch_has_come_to() {
    let server = ApiServer::at(5);
    let (mut heard, task) = follow(server.following(300_000));
    for expected in ["listed 1", "confirmed", "confirmed"] {
        assert_eq!(said(heard.recv().await), expected);
    }
    // Something else was written: whether it concerns us the watch alone can tell.
    server.stands_at(9);
    assert!(timeout(Duration::from_secs(90), heard.recv()).await.is_err(), "a watch that is silent proves nothing");
    server.shows("MODIFIED", 8);
    assert_eq!(said(heard.recv().await), "applied");
    assert!(timeout(Duration::from_secs(5), heard.recv()).await.is_err(), "there is more to come");
    server.shows("BOOKMARK", 9);
    assert_eq!(said(heard.recv().await), "confirmed");
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_not_heard_of_any_more_confirms_nothing_and_is_resumed_where_it_was() {
    let server = ApiServer::at(5);
    let (mut heard, task) = follow(server.following(300_000));
    for _ in 0..3 {
        assert_ne!(said(heard.recv().await), "over");
    }
    server.0.hangs.store(true, SeqCst);
    assert_eq!(said(heard.recv().await), "over", "nothing is confirmed by an API server that is away");
    let (ended, following) = task.await.unwrap();
    assert!(matches!(ended, Ended::Late | Ended::Silent), "{ended}");
    let (mut heard, task) = follow(following);
    assert_eq!(said(heard.recv().await), "over");
    let (_, following) = task.await.unwrap();

    server.0.hangs.store(false, SeqCst);
    let (mut heard, task) = follow(following);
    assert_eq!(said(heard.recv().await), "confirmed", "it recovers by itself, and lists nothing again");
    server.shows("DELETED", 6);
    assert_eq!(said(heard.recv().await), "gone");
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn what_can_t_be_gone_on_with_is_listed_anew() {
    for (case, ends) in [
        ("it was restored", (|server: &ApiServer| server.stands_at(3)) as fn(&ApiServer)),
        ("out of order", |server| server.shows("MODIFIED", 4)),
        ("forgotten", |server| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "code": 410, "message": "", "reason": "Expired"});
            let event = json!({"type": "ERROR", "object": status});
            server.0.watch.lock().as_ref().unwrap().send(event).unwrap();
        }),
    ] {
        let server = ApiServer::at(5);
        let (mut heard, task) = follow(server.following(300_000));
        for _ in 0..3 {
            assert_ne!(said(heard.recv().await), "over", "{case}");
        }
        ends(&server);
        assert_eq!(said(heard.recv().await), "over", "{case}");
        let (ended, following) = task.await.unwrap();
        assert!(!ended.can_be_resumed(), "{case}: {ended}");
        let (mut heard, task) = follow(following);
        assert_eq!(said(heard.recv().await), "listed 1", "{case}");
        task.abort();
    }
}

#[test]
fn what_is_held_is_confirmed_well_within_the_time_that_is_allowed() {
    for (within, length, every) in [(300_000, 100, 50), (30_000, 10, 5), (10_000, 3, 1), (i64::MAX, 290, 60)] {
        assert_eq!((watch_for(within).as_secs(), confirm_every(within).as_secs()), (length, every), "{within}");
    }
}
