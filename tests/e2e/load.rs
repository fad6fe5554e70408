//! Slow clients, many clients, greedy clients: each costs only itself.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use crate::{
    forge,
    http::{Connection, Request, Target},
    rig::{Dev, Policies, Redis, Verifier, eventually},
};

const VERIFY: &str = "/v1/policies/shop/shop/verify";

/// A verifier that follows a real Redis.
struct World {
    policies: Policies,
    _redis: Redis,
    _dev: Dev,
    verifier: Verifier,
}

impl World {
    fn start() -> Self {
        let policies = Policies::new();
        let redis = Redis::start();
        let dev = Dev::start(&policies, Some(&redis));
        let mut verifier = Verifier::start(&dev.bundles(), &redis.url());
        verifier.wait_until_fresh();
        Self { policies, _redis: redis, _dev: dev, verifier }
    }

    /// How long a good token takes, which must be answered as such.
    fn answer_time(target: &Target, token: &str) -> Duration {
        let started = Instant::now();
        let answer = Request::post(VERIFY, &json!({"token": token})).send(target);
        assert_eq!(answer.status, 200, "{}", answer.json());
        started.elapsed()
    }
}

/// Well beyond what a verify takes on a busy machine, well below any time-out.
const PROMPT: Duration = Duration::from_secs(2);

#[test]
fn slow_and_stuck_clients_cost_only_themselves() {
    let mut world = World::start();
    let good = world.policies.partner.token("EdDSA");
    for target in [world.verifier.socket(), world.verifier.tcp()] {
        // Heads and bodies that never end, and clients that ask for much and read nothing.
        let mut stuck = Vec::new();
        for _ in 0..100 {
            let mut head = Connection::open(&target).unwrap();
            head.send(format!("POST {VERIFY} HTTP/1.1\r\nHost: x\r\nX-Slow: ").as_bytes()).unwrap();
            let mut body = Connection::open(&target).unwrap();
            body.send(
                format!("POST {VERIFY} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{{\"token\": \"").as_bytes(),
            )
            .unwrap();
            stuck.extend([head, body]);
        }
        let flood = Request::get("/v1/policies").bytes().repeat(2_000);
        let flooders: Vec<_> = (0..20)
            .map(|_| {
                let (target, flood) = (target.clone(), flood.clone());
                thread::spawn(move || {
                    let mut connection = Connection::open(&target).unwrap();
                    // Blocks as soon as neither side reads, and fails when the server gives up: both are as they should be.
                    let _ = connection.send(&flood);
                    connection
                })
            })
            .collect();
        for _ in 0..20 {
            let took = World::answer_time(&target, &good);
            assert!(took < PROMPT, "{took:?} beside stuck clients");
        }
        // None of them waits for ever: each is answered with an error, or closed.
        for connection in &mut stuck {
            let ended = connection.answer().map_or(0, |answer| answer.status);
            assert!(matches!(ended, 0 | 408 | 400), "{ended}");
        }
        drop(flooders);
    }
    world.verifier.process().assert_running();
}

#[test]
fn a_flood_of_bad_signatures_is_limited_and_cached_calls_go_on() {
    let world = World::start();
    let good = world.policies.partner.token("EdDSA");
    let socket = world.verifier.socket();
    World::answer_time(&socket, &good);
    let bad = forge::with_signature(&world.policies.partner.token("ES256"), |mut signature| {
        signature[5] ^= 1;
        signature
    });
    let flood_until = Instant::now() + Duration::from_secs(3);
    let tcp = world.verifier.tcp();
    let flooder = thread::spawn(move || {
        let mut connection = Connection::open(&tcp).unwrap();
        let items = vec![json!({"token": bad}); 500];
        let batch = Request::post("/v1/policies/shop/shop/verify-batch", &json!({"items": items}));
        let mut limited = 0;
        while Instant::now() < flood_until {
            let answer = batch.send_on(&mut connection).expect("an answer");
            assert_eq!(answer.status, 200);
            limited += answer.json()["results"].as_array().unwrap().iter().filter(|result| result["status"] == 429).count();
        }
        limited
    });
    let mut slowest = Duration::ZERO;
    while Instant::now() < flood_until {
        slowest = slowest.max(World::answer_time(&socket, &good));
    }
    let limited = flooder.join().unwrap();
    assert!(slowest < PROMPT, "{slowest:?}");
    eprintln!("slowest cached call beside the flood: {slowest:?}; {limited} of the flood's were over budget");
}

#[test]
fn thousands_of_open_connections_are_held_or_refused_politely() {
    const WANTED: usize = 10_000;

    let mut world = World::start();
    let good = world.policies.partner.token("EdDSA");
    let socket = world.verifier.socket();
    let within = WANTED.min(open_files().saturating_sub(500));
    let mut held = Vec::with_capacity(within);
    let mut refused = 0;
    for _ in 0..within {
        match Connection::open(&socket) {
            Ok(connection) => held.push(connection),
            Err(_) => refused += 1,
        }
    }
    eprintln!("{} connections held, {refused} refused (of {WANTED} wanted)", held.len());
    world.verifier.process().assert_running();
    // Every hundredth is used; one that the verifier refused politely was answered or closed, not left hanging.
    let mut answered = 0;
    for connection in held.iter_mut().step_by(100) {
        match Request::post(VERIFY, &json!({"token": good})).send_on(connection) {
            Some(answer) if answer.status == 200 => answered += 1,
            Some(answer) => assert_eq!(answer.status, 503),
            None => {}
        }
    }
    assert!(answered > 0);
    drop(held);
    eventually("new connections are served", Duration::from_secs(10), || {
        let mut connection = Connection::open(&socket).ok()?;
        (Request::post(VERIFY, &json!({"token": good})).send_on(&mut connection)?.status == 200).then_some(())
    });
}

/// How many files this process may have open.
fn open_files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Keeping the lower limit is no reason to fail.
    let _ = rustix::process::setrlimit(rustix::process::Resource::Nofile, raised);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

#[test]
fn overload_leaves_memory_where_it_was() {
    let mut world = World::start();
    let socket = world.verifier.socket();
    let pid = world.verifier.process().pid();
    let partner = &world.policies.partner;
    let distinct: Vec<String> = (0..2_000).map(|_| partner.token("EdDSA")).collect();
    let burst = |times: usize| {
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut connection = Connection::open(&socket).unwrap();
                    for token in distinct.iter().cycle().take(times) {
                        let answer =
                            Request::post(VERIFY, &json!({"token": token})).send_on(&mut connection).expect("an answer");
                        assert!(matches!(answer.status, 200 | 429), "{}", answer.json());
                    }
                });
            }
        });
    };
    burst(2_000);
    let before = resident(pid);
    burst(8_000);
    let after = resident(pid);
    assert!(after < before + 16 * 1024 * 1024, "{before} bytes grew to {after}");
}

/// Resident memory of a process, bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}
