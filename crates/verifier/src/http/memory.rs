//! A bound on what large requests and their answers hold in memory, together and per caller.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::net::Peer;

/// For all callers together.
const TOTAL: usize = 128 << 20;

/// For one caller, so that one who never reads its answers leaves room for others.
const PER_CALLER: usize = 32 << 20;

/// Memory for large bodies.
#[derive(Clone, Debug, Default)]
pub(crate) struct BodyMemory(Arc<Mutex<Used>>);

#[derive(Debug, Default)]
struct Used {
    total: usize,
    by_caller: HashMap<u128, usize>,
}

/// Memory that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    memory: BodyMemory,
    caller: u128,
    bytes: usize,
}

impl BodyMemory {
    /// Takes `bytes` for a caller; `None` when that is too much now.
    pub(crate) fn take(&self, caller: Peer, bytes: usize) -> Option<Taken> {
        let mut used = self.0.lock();
        let key = caller.budget_key();
        let mine = used.by_caller.get(&key).copied().unwrap_or_default();
        if used.total + bytes > TOTAL || mine + bytes > PER_CALLER {
            return None;
        }
        used.total += bytes;
        used.by_caller.insert(key, mine + bytes);
        Some(Taken { memory: self.clone(), caller: key, bytes })
    }
}

impl Taken {
    /// Takes `bytes` more; false when that is too much now.
    pub(crate) fn grow(&mut self, bytes: usize) -> bool {
        let mut used = self.memory.0.lock();
        let mine = used.by_caller.get(&self.caller).copied().unwrap_or_default();
        if used.total + bytes > TOTAL || mine + bytes > PER_CALLER {
            return false;
        }
        used.total += bytes;
        used.by_caller.insert(self.caller, mine + bytes);
        self.bytes += bytes;
        true
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut used = self.memory.0.lock();
        used.total -= self.bytes;
        let left = used.by_caller.get(&self.caller).map_or(0, |mine| mine - self.bytes);
        if left == 0 {
            used.by_caller.remove(&self.caller);
        } else {
            used.by_caller.insert(self.caller, left);
        }
    }
}

/// Bytes of an answer with the memory that they take: given back when the last of them is written.
pub(crate) struct HeldBody {
    pub(crate) bytes: Vec<u8>,
    #[expect(dead_code, reason = "held until this is dropped")]
    pub(crate) taken: Taken,
}

impl AsRef<[u8]> for HeldBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_leaves_room_for_others_and_gets_its_own_back() {
        let memory = BodyMemory::default();
        let caller = |uid| Peer::Local { uid };
        let held: Vec<_> = (0..100).map_while(|_| memory.take(caller(1), 4 << 20)).collect();
        assert_eq!(held.len(), 8);
        let others: Vec<_> = (2..100).map_while(|uid| memory.take(caller(uid), 4 << 20)).collect();
        assert_eq!(others.len(), 24);
        let mut last = others.into_iter().last().unwrap();
        assert!(!last.grow(PER_CALLER), "no more than its share");
        drop(held);
        assert!(last.grow(1 << 20));
        assert_eq!(last.bytes, 5 << 20);
        let others = last;
        assert!(memory.take(caller(1), 4 << 20).is_some());
        drop(others);
        let used = memory.0.lock();
        assert_eq!((used.total, used.by_caller.len()), (0, 0));
    }
}
