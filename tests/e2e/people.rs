//! People's accounts on `dev`, as clients keep account of them: what was answered holds, though its process, its Redis and its
//! database are killed at any moment, and Redis comes back empty.

mod idle;
mod lives;

use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use countersign_test_servers::Postgres;
use serde_json::{Value, json};

use self::lives::Told;
use crate::{
    http::{Answer, Connection, Request, Target},
    rig::{Dev, PATIENCE, Policies, Redis, eventually},
};

/// Clients at once.
const CLIENTS: u32 = 4;

/// What is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Victim {
    Issuer,
    Redis,
    Database,
    All,
}

impl Victim {
    fn is(self, one: Self) -> bool {
        self == one || self == Self::All
    }
}

/// A policy whose passwords are cheap to hash and that limits nothing, so that a test gets on.
fn policies() -> Policies {
    let policies = Policies::new();
    policies.write(
        "people",
        &json!({
            "audiences": ["shop-api"], "issuer": "https://auth.people.example",
            "roles": [{"name": "user", "permissions": ["orders:read"]}],
            // Longer than any of this takes: whoever was not answered asks again and gets what was meant for them.
            "tokens": {"refreshGrace": "5m"},
            "login": {
                "passwords": {"argon2id": {"memory": "64Ki", "iterations": 1}, "history": 0},
                "registration": {"emailVerification": "Disabled", "defaultRoles": ["user"]},
                "rateLimits": {"login": {}, "register": {}, "passwordReset": {}, "api": {}},
                "lockout": {"maxFailures": 3},
            },
        }),
    );
    policies
}

/// A person's call; none when the process went away before it answered, or its database before it was done.
fn call(target: &Target, method: &str, path: &str, token: Option<&str>, body: &Value) -> Option<Answer> {
    let mut request = Request::new(method, &format!("/shop/people{path}")).body(body.to_string());
    if let Some(token) = token {
        request = request.header("authorization", &format!("Bearer {token}"));
    }
    answer(target, &request)
}

/// An administrator's.
fn administer(target: &Target, path: &str, body: &Value) -> Option<Answer> {
    answer(target, &Request::post(&format!("/admin/v1/policies/shop/people/{path}"), body))
}

fn answer(target: &Target, request: &Request) -> Option<Answer> {
    let mut connection = Connection::open(target).ok()?;
    request.send_on(&mut connection).filter(|answer| answer.status != 503)
}

fn text(body: &Value, name: &str) -> String {
    body[name].as_str().unwrap_or_else(|| panic!("{name} in {body}")).to_owned()
}

/// Waits until so many accounts have lived.
fn lived(told: &Mutex<Vec<Told>>, wanted: usize) {
    eventually("some accounts have lived", Duration::from_mins(1), || (told.lock().unwrap().len() >= wanted).then_some(()));
}

/// Waits until each place of the policy's chain is in the audit log, in the chain's order; what came again after a kill is
/// what came before it. How many lines came again.
fn logged(path: &Path, places: u64) -> usize {
    eventually("the whole chain is in the audit log", PATIENCE, || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        // A kill in the middle of a line leaves a piece of it.
        let events: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let logged: Vec<u64> = events.iter().map(|event| event["place"].as_u64().unwrap()).collect();
        let once: BTreeSet<u64> = logged.iter().copied().collect();
        assert!(once.iter().copied().eq(1..=once.len() as u64), "some are left out: {logged:?}");
        assert!(logged.windows(2).all(|pair| pair[1] <= pair[0] + 1), "not in the chain's order: {logged:?}");
        assert!(!text.contains("password of"), "a secret");
        (once.len() as u64 >= places).then(|| logged.len() - once.len())
    })
}

/// Kills one after the other in the middle of people's calls, and holds against the end what they were answered.
fn kill(victims: &[Victim], database: Option<&Postgres>) {
    let policies = policies();
    let mut redis = Redis::start();
    let (url, of_database) = (redis.url(), database.map(|server| server.url("people")));
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.jsonl");
    let mut environment = vec![("REDIS_URL", url.as_str()), ("COUNTERSIGN_AUDIT_LOG", log.to_str().unwrap())];
    environment.extend(of_database.as_deref().map(|url| ("DATABASE_URL", url)));
    let mut dev = Dev::start_on(policies.directory(), &environment);
    let told: Arc<Mutex<Vec<Told>>> = Arc::default();
    let number = Arc::new(AtomicU32::new(0));
    for (kill, victim) in victims.iter().enumerate() {
        let (issuer, admin, before) = (dev.issuer(), dev.admin(), told.lock().unwrap().len());
        let over = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (issuer, admin) = (issuer.clone(), admin.clone());
                let (told, number, over) = (told.clone(), number.clone(), over.clone());
                thread::spawn(move || {
                    while !over.load(SeqCst) {
                        if let Some(one) = Told::live(&issuer, &admin, number.fetch_add(1, SeqCst)) {
                            told.lock().unwrap().push(one);
                        }
                    }
                })
            })
            .collect();
        // Some lives have come to their end, others are in the middle of theirs.
        lived(&told, before + 3 + 2 * kill);
        if victim.is(Victim::Redis) {
            redis.kill();
            // People go on without it.
            let before = told.lock().unwrap().len();
            lived(&told, before + 2);
        }
        if let Some(server) = database.filter(|_| victim.is(Victim::Database)) {
            server.kill().unwrap();
            server.restart().unwrap();
            let before = told.lock().unwrap().len();
            lived(&told, before + 2);
        }
        if victim.is(Victim::Issuer) {
            dev.kill();
        }
        over.store(true, SeqCst);
        for client in clients {
            client.join().unwrap();
        }
        if victim.is(Victim::Redis) {
            redis.restart_empty();
        }
        if victim.is(Victim::Issuer) {
            dev.restart();
        }
    }
    let told = told.lock().unwrap();
    let counts = lives::counts(&told);
    for (what, count) in counts {
        assert!(count > 0, "nobody was told of {what}");
    }
    eventually("the verifier is up to date", PATIENCE, || {
        let feed = Request::get("/v1/feed").send(&dev.socket()).json();
        (feed["fresh"] == true).then_some(())
    });
    told.iter().for_each(|one| one.check(&dev));
    let sealed = eventually("the audit trail is sealed and whole", PATIENCE, || {
        let verify = Request::post("/admin/v1/policies/shop/people/audit/verify", &json!({})).send(&dev.admin()).json();
        assert_eq!(verify["intact"], true, "{verify}");
        verify["place"].as_u64().filter(|place| *place >= told.len() as u64)
    });
    let (kills, again) = (victims.len(), logged(&log, sealed));
    crate::rig::report(&format!(
        "people: {} accounts over {kills} kills ({}), {sealed} events in one chain, {again} twice in the audit log",
        told.len(),
        counts.map(|(what, count)| format!("{what}: {count}")).join(", ")
    ));
}

#[test]
fn what_was_answered_holds_though_issuer_and_redis_are_killed_again_and_again() {
    kill(&[Victim::Issuer, Victim::Redis, Victim::All, Victim::Issuer], None);
}

#[test]
#[ignore = "needs PostgreSQL's programs; `cargo xtask test` installs them"]
fn what_was_answered_holds_though_issuer_redis_and_postgresql_are_killed_again_and_again() {
    let server = Postgres::start(&["fsync=off"]).unwrap();
    server.create("people", None).unwrap();
    kill(&[Victim::Database, Victim::Issuer, Victim::All, Victim::Database], Some(&server));
}
