//! Applications at work: tokens are made all the time, and every verifier is asked about old and new ones.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde_json::{Value, json};

use super::world::{Minter, World, key_of, names};
use crate::{
    http::{Connection, Request, Target},
    rig::{PATIENCE, eventually},
};

/// How many tokens are remembered; older ones make room.
const KEPT: usize = 4096;
/// Between two questions of one application.
const PAUSE: Duration = Duration::from_millis(2);
/// Between two tokens.
const MINT_PAUSE: Duration = Duration::from_millis(20);

/// Traffic that goes on until it is ended.
pub(super) struct Traffic {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// What has happened.
pub(super) struct Counts {
    pub(super) minted: u64,
    /// Nobody made a token: no operator led, or none was reached.
    pub(super) not_minted: u64,
    pub(super) valid: u64,
    /// A verifier said that it can't know (503).
    pub(super) not_ready: u64,
    /// The verifier's process was gone.
    pub(super) unanswered: u64,
    /// Good tokens that were refused: verifier, key, status and word, how often.
    pub(super) failed: BTreeMap<String, u64>,
    /// Keys that tokens were signed with.
    pub(super) keys: usize,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} tokens minted with {} keys ({} times nobody did), {} verdicts valid, {} times not ready, {} times no process; failed: {:?}",
            self.minted, self.keys, self.not_minted, self.valid, self.not_ready, self.unanswered, self.failed
        )
    }
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    tokens: RwLock<Vec<String>>,
    keys: Mutex<BTreeMap<String, u64>>,
    not_minted: AtomicU64,
    valid: AtomicU64,
    not_ready: AtomicU64,
    unanswered: AtomicU64,
    failed: Mutex<BTreeMap<String, u64>>,
}

impl Traffic {
    /// Begins, with one token made already.
    pub(super) fn begin(world: &World, policy: &Value) -> Self {
        let shared = Arc::new(Shared::default());
        shared.remember(world.minter.mint(policy, "app"));
        let mut threads = Vec::new();
        let (to, minter, of) = (shared.clone(), world.minter.clone(), policy.clone());
        threads.push(std::thread::spawn(move || to.mint(&minter, &of)));
        for (number, verifier) in world.verifiers.iter().enumerate() {
            let (to, socket, of) = (shared.clone(), verifier.socket(), policy.clone());
            threads.push(std::thread::spawn(move || to.verify(number, &socket, &of)));
        }
        Self { shared, threads }
    }

    /// Waits until a token is signed with that key.
    pub(super) fn wait_for_key(&self, key: &str) {
        eventually("a token is signed with the new key", PATIENCE, || {
            self.shared.keys.lock().unwrap().contains_key(key).then_some(())
        });
    }

    /// How many good tokens have been refused so far.
    pub(super) fn failed(&self) -> u64 {
        self.shared.failed.lock().unwrap().values().sum()
    }

    /// Ends it; what has happened.
    pub(super) fn end(self) -> Counts {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        let keys = self.shared.keys.lock().unwrap();
        Counts {
            minted: keys.values().sum(),
            not_minted: self.shared.not_minted.load(Ordering::Relaxed),
            valid: self.shared.valid.load(Ordering::Relaxed),
            not_ready: self.shared.not_ready.load(Ordering::Relaxed),
            unanswered: self.shared.unanswered.load(Ordering::Relaxed),
            failed: self.shared.failed.lock().unwrap().clone(),
            keys: keys.len(),
        }
    }
}

impl Shared {
    fn remember(&self, token: String) {
        *self.keys.lock().unwrap().entry(key_of(&token)).or_default() += 1;
        let mut tokens = self.tokens.write().unwrap();
        if tokens.len() == KEPT {
            tokens.remove(KEPT / 2);
        }
        tokens.push(token);
    }

    fn mint(&self, minter: &Minter, policy: &Value) {
        while !self.stop.load(Ordering::Relaxed) {
            match minter.try_mint(policy, "app") {
                Some(token) => self.remember(token),
                None => drop(self.not_minted.fetch_add(1, Ordering::Relaxed)),
            }
            std::thread::park_timeout(MINT_PAUSE);
        }
    }

    /// Asks about the newest token and an older one by turns.
    fn verify(&self, number: usize, socket: &Target, policy: &Value) {
        let (namespace, name) = names(policy);
        let path = format!("/v1/policies/{namespace}/{name}/verify");
        let mut connection = None;
        let mut turn = 0_usize;
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::park_timeout(PAUSE);
            turn = turn.wrapping_add(1);
            let token = {
                let tokens = self.tokens.read().unwrap();
                let index = if turn.is_multiple_of(2) { tokens.len() - 1 } else { turn.wrapping_mul(7919) % tokens.len() };
                tokens[index].clone()
            };
            if connection.is_none() {
                connection = Connection::open(socket).ok();
            }
            let request = Request::post(&path, &json!({"token": token}));
            let answer = connection.as_mut().and_then(|connection| request.send_on(connection));
            match answer.as_ref().map(|answer| answer.status) {
                Some(200) => drop(self.valid.fetch_add(1, Ordering::Relaxed)),
                Some(503) => drop(self.not_ready.fetch_add(1, Ordering::Relaxed)),
                Some(status) => {
                    let word = answer.map(|answer| answer.word()).unwrap_or_default();
                    let what = format!("verifier {number}, key {}: {status} {word}", key_of(&token));
                    *self.failed.lock().unwrap().entry(what).or_default() += 1;
                }
                None => {
                    connection = None;
                    self.unanswered.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}
