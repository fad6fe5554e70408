//! How much of the machine the hashing of passwords may take: so many threads, so much memory, and a queue that ends.

use std::{
    collections::HashMap,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Match, UnusableHash,
    hash::{self, Argon2idCost},
    memory::{Memory, Spare},
};

/// Memory for each thread of a pool as large as the machine, KiB.
const MEMORY_KIB_PER_THREAD: u32 = 128 << 10;
/// Callers that may wait for each thread of it.
const WAITING_PER_THREAD: usize = 64;

/// Hashes passwords off the event loop, never more at once than threads and memory allow. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    threads: Arc<Semaphore>,
    /// One permit for each KiB.
    memory: Arc<Semaphore>,
    memory_kib: u32,
    waiting: AtomicUsize,
    computed: AtomicU64,
    max_waiting: usize,
    spare: Spare,
    /// A hash of each cost that is nobody's.
    decoys: Mutex<HashMap<Argon2idCost, String>>,
}

/// More is asked for than can be done soon. Try again in a second or so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many passwords are waiting to be hashed")]
pub struct Overloaded;

/// A place in the queue, given up when whoever waits goes away.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// A pool of so many threads, with so much memory (KiB) for all of them, and so many callers that may wait.
    pub fn new(threads: NonZeroUsize, memory_kib: u32, max_waiting: usize) -> Self {
        Self(Arc::new(Inner {
            threads: Arc::new(Semaphore::new(threads.get())),
            memory: Arc::new(Semaphore::new(memory_kib as usize)),
            memory_kib,
            waiting: AtomicUsize::new(0),
            computed: AtomicU64::new(0),
            max_waiting,
            spare: Spare::default(),
            decoys: Mutex::default(),
        }))
    }

    /// A pool as large as this machine: a thread for each processor, and a queue that a second or two works off.
    pub fn of_this_machine() -> Self {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let kib = u32::try_from(threads.get()).unwrap_or(u32::MAX).saturating_mul(MEMORY_KIB_PER_THREAD);
        Self::new(threads, kib, threads.get().saturating_mul(WAITING_PER_THREAD))
    }

    /// How many hashes were computed since the start, those in vain included.
    pub fn computed(&self) -> u64 {
        self.0.computed.load(Ordering::Relaxed)
    }

    /// Hashes a new password.
    pub async fn hash(&self, password: &str, cost: Argon2idCost) -> Result<Result<String, UnusableHash>, Overloaded> {
        let password = zeroize::Zeroizing::new(password.to_owned());
        self.run(cost.memory_kib, move |memory| hash::hash(&password, cost, memory)).await
    }

    /// Holds a password against a hash. Without one the same work is done in vain, so that time tells nothing.
    pub async fn verify(
        &self,
        password: &str,
        hash: Option<&str>,
        cost: Argon2idCost,
    ) -> Result<Result<Match, UnusableHash>, Overloaded> {
        let password = zeroize::Zeroizing::new(password.to_owned());
        let hash = hash.map(str::to_owned);
        let decoy = self.decoy(cost);
        let memory_kib = hash.as_deref().map_or(cost.memory_kib, |hash| hash::memory_kib(hash, cost));
        self.run(memory_kib, move |memory| {
            let decoy = decoy?;
            match &hash {
                // A hash that can't be read costs as much as one that can.
                Some(hash) => hash::verify(&password, hash, cost, memory)
                    .or_else(|error| hash::verify(&password, &decoy, cost, memory).and(Err(error))),
                None => hash::verify(&password, &decoy, cost, memory).map(|_| Match::No),
            }
        })
        .await
    }

    /// A hash that is nobody's, of this cost: passwords of accounts that aren't there are held against it, step by step as
    /// against any other.
    fn decoy(&self, cost: Argon2idCost) -> Result<String, UnusableHash> {
        let mut decoys = self.0.decoys.lock();
        if let Some(decoy) = decoys.get(&cost) {
            return Ok(decoy.clone());
        }
        let decoy = hash::hash("nobody's password", cost, &mut Memory::default())?;
        // Policies are few, and so are their costs.
        decoys.insert(cost, decoy.clone());
        Ok(decoy)
    }

    async fn run<T: Send + 'static>(
        &self,
        memory_kib: u32,
        work: impl FnOnce(&mut Memory) -> T + Send + 'static,
    ) -> Result<T, Overloaded> {
        let places = self.places(memory_kib).await?;
        self.0.computed.fetch_add(1, Ordering::Relaxed);
        let inner = self.0.clone();
        let work = tokio::task::spawn_blocking(move || {
            let mut memory = inner.spare.take(memory_kib);
            let done = work(&mut memory);
            inner.spare.put(memory, inner.waiting.load(Ordering::Relaxed) > 0);
            drop(places);
            done
        });
        // The task is never aborted, and a panic in it is a fault of ours that must not be taken for an answer.
        work.await.map_err(|_| Overloaded)
    }

    /// A thread, and the memory that is needed; one that needs more than there is gets all of it.
    async fn places(&self, memory_kib: u32) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), Overloaded> {
        let inner = &self.0;
        let before = inner.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&inner.waiting);
        let at_once = inner.threads.available_permits();
        if before >= inner.max_waiting.saturating_add(at_once) {
            return Err(Overloaded);
        }
        let memory = inner.memory.clone().acquire_many_owned(memory_kib.min(inner.memory_kib)).await;
        let thread = inner.threads.clone().acquire_owned().await;
        match (thread, memory) {
            (Ok(thread), Ok(memory)) => Ok((thread, memory)),
            // Nobody closes them.
            _ => Err(Overloaded),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Argon2idCost = Argon2idCost { memory_kib: 64, iterations: 1, parallelism: 1 };

    fn pool(threads: usize, memory_kib: u32, max_waiting: usize) -> Pool {
        Pool::new(NonZeroUsize::new(threads).unwrap(), memory_kib, max_waiting)
    }

    #[tokio::test]
    async fn a_hashed_password_is_recognised_and_nobodys_is_not() {
        let pool = pool(2, 1024, 10);
        let hashed = pool.hash("correct horse", CHEAP).await.unwrap().unwrap();
        assert_eq!(pool.verify("correct horse", Some(&hashed), CHEAP).await, Ok(Ok(Match::Yes)));
        assert_eq!(pool.verify("correct horse", None, CHEAP).await, Ok(Ok(Match::No)));
        assert_eq!(pool.verify("x", Some("x"), CHEAP).await, Ok(Err(UnusableHash::UnknownFormat)));
    }

    /// Work that ends when it is told to, and how many of it were at it at once.
    struct Held {
        at_once: Arc<AtomicUsize>,
        most: Arc<AtomicUsize>,
        gate: Arc<(parking_lot::Mutex<bool>, parking_lot::Condvar)>,
    }

    impl Held {
        fn new() -> Self {
            Self { at_once: Arc::default(), most: Arc::default(), gate: Arc::default() }
        }

        fn work(&self) -> impl FnOnce(&mut Memory) + Send + use<> {
            let (at_once, most, gate) = (self.at_once.clone(), self.most.clone(), self.gate.clone());
            move |_| {
                most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let mut open = gate.0.lock();
                while !*open {
                    gate.1.wait(&mut open);
                }
                at_once.fetch_sub(1, Ordering::SeqCst);
            }
        }

        fn open(&self) {
            *self.gate.0.lock() = true;
            self.gate.1.notify_all();
        }

        async fn until_at_once(&self, count: usize) {
            while self.at_once.load(Ordering::SeqCst) != count {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn past_the_queue_callers_are_turned_away_and_those_in_it_are_served() {
        let pool = pool(2, 1024, 3);
        let held = Held::new();
        let callers: Vec<_> = (0..5)
            .map(|_| {
                let (pool, work) = (pool.clone(), held.work());
                tokio::spawn(async move { pool.run(CHEAP.memory_kib, work).await })
            })
            .collect();
        held.until_at_once(2).await;
        while pool.0.waiting.load(Ordering::Relaxed) != 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(CHEAP.memory_kib, |_| ()).await, Err(Overloaded));
        held.open();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), Ok(()));
        }
        assert_eq!(held.most.load(Ordering::SeqCst), 2);
        assert_eq!(pool.run(CHEAP.memory_kib, |_| 7).await, Ok(7));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn memory_is_a_bound_of_its_own_and_the_greedy_get_all_of_it() {
        let pool = pool(8, 128, 100);
        let held = Held::new();
        let callers: Vec<_> = (0..4)
            .map(|_| {
                let (pool, work) = (pool.clone(), held.work());
                tokio::spawn(async move { pool.run(CHEAP.memory_kib, work).await })
            })
            .collect();
        held.until_at_once(2).await;
        held.open();
        for caller in callers {
            assert_eq!(caller.await.unwrap(), Ok(()));
        }
        assert_eq!(held.most.load(Ordering::SeqCst), 2);
        assert_eq!(pool.run(1 << 30, |_| 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_hash_that_was_brought_takes_the_memory_that_it_demands() {
        let pool = pool(8, 128, 100);
        let dearer = Argon2idCost { memory_kib: 128, ..CHEAP };
        let dear = hash::hash("correct horse", dearer, &mut Memory::default()).unwrap();
        let held = Held::new();
        let other = tokio::spawn({
            let (pool, work) = (pool.clone(), held.work());
            async move { pool.run(CHEAP.memory_kib, work).await }
        });
        held.until_at_once(1).await;
        // Half is free: enough for the policy's own hashes, and not for this one.
        let verifying = tokio::spawn({
            let pool = pool.clone();
            async move { pool.verify("correct horse", Some(&dear), CHEAP).await }
        });
        while pool.0.waiting.load(Ordering::Relaxed) != 1 && pool.computed() == 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.computed(), 1, "it waits");
        held.open();
        assert_eq!(other.await.unwrap(), Ok(()));
        assert_eq!(verifying.await.unwrap(), Ok(Ok(Match::YesButOld)));
    }

    #[tokio::test]
    async fn whoever_stops_waiting_gives_the_place_up() {
        let pool = pool(1, 1024, 1);
        let held = Held::new();
        let first = tokio::spawn({
            let (pool, work) = (pool.clone(), held.work());
            async move { pool.run(CHEAP.memory_kib, work).await }
        });
        held.until_at_once(1).await;
        let second = tokio::spawn({
            let pool = pool.clone();
            async move { pool.run(CHEAP.memory_kib, |_| ()).await }
        });
        while pool.0.waiting.load(Ordering::Relaxed) != 1 {
            tokio::task::yield_now().await;
        }
        second.abort();
        assert!(second.await.is_err());
        assert_eq!(pool.0.waiting.load(Ordering::Relaxed), 0);
        held.open();
        assert_eq!(first.await.unwrap(), Ok(()));
    }
}
