//! What happens to Redis, processes, bundles and disks, done to the real ones. Throughout: what is revoked stays revoked, a
//! verifier that can't know says so, and recovery is by itself.

mod bundles;
mod clocks;
mod disks;
mod processes;
mod redis;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    http::{Connection, Request, Target},
    rig::{Dev, PATIENCE, Policies, Redis, Verifier, eventually},
};

/// A writer, a Redis and a verifier; a token that was revoked and one that was not, at the policy that refuses when stale.
struct World {
    policies: Policies,
    redis: Redis,
    dev: Dev,
    verifier: Verifier,
    live: String,
    dead: String,
}

impl World {
    fn start() -> Self {
        let policies = Policies::new();
        let redis = Redis::start();
        let dev = Dev::start(&policies, Some(&redis));
        let mut verifier = Verifier::start(&dev.bundles(), &redis.url());
        verifier.wait_until_fresh();
        let live = dev.token("strict", "live");
        let dead = dev.token("strict", "dead");
        let world = Self { policies, redis, dev, verifier, live, dead };
        world.revoke("dead");
        world.eventually(&world.dead, (401, "revoked"));
        world.eventually(&world.live, (200, "valid"));
        world
    }

    /// Revokes a subject of `shop/strict`, which must reach the feed; its position.
    fn revoke(&self, subject: &str) -> String {
        self.dev.revoked_at("strict", &json!({"kind": "subject", "id": subject, "reason": "test"}))
    }

    fn verdict(&self, token: &str) -> (u16, String) {
        self.verifier.verify("strict", token)
    }

    /// Waits for a verdict of the verifier; how long it took.
    fn eventually(&self, token: &str, wanted: (u16, &str)) -> Duration {
        let started = Instant::now();
        eventually(&format!("the verifier says {wanted:?}"), PATIENCE, || {
            let said = self.verdict(token);
            ((said.0, said.1.as_str()) == wanted).then_some(())
        });
        started.elapsed()
    }

    /// A verifier that starts with nothing knows what is revoked, once it is fresh.
    fn a_new_verifier_refuses(&self, tokens: &[&str]) {
        let mut verifier = Verifier::start(&self.dev.bundles(), &self.redis.url());
        verifier.wait_until_fresh();
        for token in tokens {
            assert_eq!(verifier.verify("strict", token), (401, "revoked".to_owned()));
        }
        assert_eq!(verifier.verify("strict", &self.live), (200, "valid".to_owned()));
    }

    /// Watches from now on that a revoked token is never accepted by the verifier.
    fn watch(&self, token: &str) -> Watch {
        Watch::start(self.verifier.socket(), token.to_owned())
    }
}

/// A thread that asks for a revoked token over and over.
struct Watch {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    asked: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    fn start(target: Target, token: String) -> Self {
        let (stop, accepted, asked) =
            (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let thread = std::thread::spawn({
            let (stop, accepted, asked) = (stop.clone(), accepted.clone(), asked.clone());
            move || {
                let request = Request::post("/v1/policies/shop/strict/verify", &json!({"token": token}));
                while !stop.load(Ordering::Relaxed) {
                    // A verifier that is just being restarted answers nobody.
                    let answer = Connection::open(&target).ok().and_then(|mut connection| request.send_on(&mut connection));
                    asked.fetch_add(usize::from(answer.is_some()), Ordering::Relaxed);
                    if answer.is_some_and(|answer| answer.status == 200) {
                        accepted.fetch_add(1, Ordering::Relaxed);
                    }
                    std::thread::park_timeout(Duration::from_millis(3));
                }
            }
        });
        Self { stop, accepted, asked, thread: Some(thread) }
    }

    /// Ends the watch: the token was asked for, and not accepted once.
    fn assert_never_accepted(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let (accepted, asked) = (self.accepted.load(Ordering::Relaxed), self.asked.load(Ordering::Relaxed));
        assert_eq!(accepted, 0, "a revoked token was accepted {accepted} of {asked} times");
        assert!(asked > 0);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The body of a policy of the tests, to be edited.
fn spec(policies: &Policies, name: &str) -> Value {
    let text = std::fs::read_to_string(policies.directory().join(format!("{name}.yaml"))).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["spec"].clone()
}
