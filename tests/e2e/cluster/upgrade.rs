//! An upgrade of the verifiers: each is replaced in turn while applications ask, and no request fails.
//!
//! As the DaemonSet does it (`maxSurge`): the new process starts beside the old one and takes the socket's name over; the old
//! one is asked to end only when the new one is ready. On TCP the test plays the Service: it learns of a pod that ends some time
//! after the pod does.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::world::{LONG, World, active_key, names, policy};
use crate::{
    http::{Connection, Request, Target},
    rig::{PATIENCE, eventually, object_path, report},
};

/// How long a Service goes on sending connections to a pod that was asked to end.
const SERVICE_LAG: Duration = Duration::from_millis(500);
/// How long each verifier serves before the next is replaced.
const BETWEEN: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(1);

#[test]
#[ignore = "needs the test cluster: cargo xtask test"]
fn replacing_every_verifier_under_load_fails_no_request_on_the_socket_or_on_tcp_and_keys_wait_for_the_new_ones() {
    const NODES: usize = 2;

    let mut world = World::start(NODES, 1);
    let sockets = tempfile::tempdir().unwrap();
    let socket = |node: usize| -> PathBuf { sockets.path().join(format!("{node}.sock")) };
    for node in 0..NODES {
        world.verifiers[node].kill();
        world.verifiers[node] = world.installation.launch_verifier_at(node, &socket(node));
        world.verifiers[node].wait_until_ready();
    }
    let policy = world.enforced(&policy("upgraded", "shop"));
    let path = object_path(&policy);
    let token = world.minter.mint(&policy, "ann");
    world.eventually(&policy, &token, (200, "valid"));

    let services: Vec<Service> = world.verifiers.iter().map(|verifier| Service::of(vec![verifier.tcp()])).collect();
    let load = Load::begin(&policy, &token, (0..NODES).map(socket), &services);
    world.installation.renew_verifier_pods();
    // The pods that are listed now haven't acknowledged anything yet, whoever answers for them.
    let key = active_key(&policy).unwrap();
    world.api().merge(&path, &json!({"metadata": {"annotations": {"countersign.dev/rotate": "amid the upgrade"}}}));
    for (node, service) in services.iter().enumerate() {
        let present = active_key(&world.api().object(&path).unwrap());
        assert_eq!(present.as_ref(), Some(&key), "verifier {node} doesn't hold the new key yet");
        let mut new = world.installation.launch_verifier_at(node, &socket(node));
        new.wait_until_ready();
        service.set(vec![world.verifiers[node].tcp(), new.tcp()]);
        rest(BETWEEN);
        let mut old = std::mem::replace(&mut world.verifiers[node], new);
        old.terminate();
        rest(SERVICE_LAG);
        service.set(vec![world.verifiers[node].tcp()]);
        old.process().wait(PATIENCE);
        rest(BETWEEN);
    }
    world.api().wait(&path, "another key signs", LONG, |policy| active_key(policy).is_some_and(|active| active != key));
    let next = world.minter.mint(&policy, "ann");
    world.eventually(&policy, &next, (200, "valid"));
    let (answered, failed) = load.end();
    report(&format!("{NODES} verifiers replaced in turn: {answered:?} requests answered, {failed:?} failed"));
    assert_eq!(failed, BTreeMap::new());
    assert!(answered.values().all(|count| *count > 100), "{answered:?}");
}

fn rest(time: Duration) {
    let began = Instant::now();
    eventually("a moment passes", PATIENCE, || (began.elapsed() >= time).then_some(()));
}

/// Where connections to a node's verifier go.
#[derive(Clone)]
struct Service(Arc<RwLock<Vec<Target>>>);

impl Service {
    fn of(endpoints: Vec<Target>) -> Self {
        Self(Arc::new(RwLock::new(endpoints)))
    }

    fn set(&self, endpoints: Vec<Target>) {
        *self.0.write().unwrap() = endpoints;
    }

    /// The next in turn.
    fn pick(&self, turn: u64) -> Target {
        let endpoints = self.0.read().unwrap();
        endpoints[usize::try_from(turn).unwrap() % endpoints.len()].clone()
    }
}

/// Clients that ask until they are told to end: on each node and way, one that keeps its connection and one that doesn't.
struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    turn: AtomicU64,
    answered: Mutex<BTreeMap<&'static str, u64>>,
    failed: Mutex<BTreeMap<String, u64>>,
}

impl Load {
    fn begin(policy: &Value, token: &str, sockets: impl Iterator<Item = PathBuf>, services: &[Service]) -> Self {
        let shared = Arc::new(Shared::default());
        let (namespace, name) = names(policy);
        let path = format!("/v1/policies/{namespace}/{name}/verify");
        let body = json!({"token": token});
        let sockets = sockets.map(|path| ("socket", Service::of(vec![Target::Unix(path)])));
        let ways: Vec<_> = sockets.chain(services.iter().map(|service| ("TCP", service.clone()))).collect();
        let mut threads = Vec::new();
        for (way, service) in ways {
            for keep in [true, false] {
                let (shared, service, path, body) = (shared.clone(), service.clone(), path.clone(), body.clone());
                threads.push(std::thread::spawn(move || shared.ask(way, &service, &Request::post(&path, &body), keep)));
            }
        }
        Self { shared, threads }
    }

    /// How many requests were answered with 200, by way; and what became of others.
    fn end(self) -> (BTreeMap<&'static str, u64>, BTreeMap<String, u64>) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        let failed = self.shared.failed.lock().unwrap().clone();
        let answered = self.shared.answered.lock().unwrap().clone();
        (answered, failed)
    }
}

impl Shared {
    /// A connection is kept until its server says that it closes.
    fn ask(&self, way: &'static str, service: &Service, request: &Request, keep: bool) {
        let mut kept: Option<Connection> = None;
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(PAUSE);
            let used = kept.is_some();
            let opened =
                kept.take().map_or_else(|| Connection::open(&service.pick(self.turn.fetch_add(1, Ordering::Relaxed))), Ok);
            let mut connection = match opened {
                Ok(connection) => connection,
                Err(error) => {
                    self.failure(format!("{way}: could not connect: {error}"));
                    continue;
                }
            };
            match request.send_on(&mut connection) {
                Some(answer) if answer.status == 200 => {
                    *self.answered.lock().unwrap().entry(way).or_default() += 1;
                    let closes = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
                    kept = (keep && !closes).then_some(connection);
                }
                Some(answer) => self.failure(format!("{way}: {} {}", answer.status, answer.word())),
                None => self.failure(format!("{way}: closed without an answer ({})", if used { "kept" } else { "new" })),
            }
        }
    }

    fn failure(&self, what: String) {
        *self.failed.lock().unwrap().entry(what).or_default() += 1;
    }
}
