//! The working memory of Argon2, which the next hash uses again.
//!
//! Asking the system for it, and clearing it, takes about a tenth of the time of a hash. While hashes follow one another it is
//! passed from one to the next, and given back when there is none to follow.

use argon2::Block;
use parking_lot::Mutex;
use zeroize::Zeroize as _;

/// As many blocks as some hash needed. What one leaves in it the next overwrites, and the last wipes.
#[derive(Default)]
pub(super) struct Memory {
    /// What it was taken for: Argon2 rounds that down to whole slices of its lanes, so there may be fewer blocks.
    kib: u32,
    blocks: Vec<Block>,
}

impl Memory {
    /// At least so many blocks.
    pub(super) fn of(&mut self, blocks: usize) -> &mut [Block] {
        if self.blocks.len() < blocks {
            self.blocks.zeroize();
            // Anew, instead of by growing: nothing in it is worth copying.
            self.blocks = vec![Block::new(); blocks];
        }
        &mut self.blocks
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.blocks.zeroize();
    }
}

/// What nobody uses at the moment.
#[derive(Default)]
pub(super) struct Spare(Mutex<Vec<Memory>>);

impl Spare {
    /// Some to work in: what a hash of that size has left, else new. What others have left is given back, so that in use and
    /// spare together are never more than was in use at once.
    pub(super) fn take(&self, kib: u32) -> Memory {
        let (memory, freed) = {
            let mut spare = self.0.lock();
            let (mut alike, others): (Vec<_>, Vec<_>) = spare.drain(..).partition(|memory| memory.kib == kib);
            let memory = alike.pop();
            *spare = alike;
            (memory, others)
        };
        drop(freed);
        memory.unwrap_or_else(|| Memory { kib, blocks: Vec::new() })
    }

    /// Gives it back, for those who follow; without any, all of it goes back to the system.
    pub(super) fn put(&self, memory: Memory, others_follow: bool) {
        let freed = {
            let mut spare = self.0.lock();
            spare.push(memory);
            if others_follow { Vec::new() } else { std::mem::take(&mut *spare) }
        };
        // Wiping takes its time, and nobody has to wait for it.
        drop(freed);
    }
}

impl std::fmt::Debug for Spare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spare").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use argon2::Params;

    use super::*;

    #[test]
    fn memory_is_passed_on_while_others_follow_and_given_back_after_the_last() {
        let spare = Spare::default();
        let mut first = spare.take(64);
        let address = first.of(64).as_ptr();
        spare.put(first, true);
        let mut second = spare.take(64);
        assert_eq!(second.of(64).as_ptr(), address);
        spare.put(second, true);
        let mut third = spare.take(8);
        assert!(spare.0.lock().is_empty(), "what is of another size is kept by nobody");
        third.of(8);
        spare.put(third, false);
        assert!(spare.0.lock().is_empty());
    }

    #[test]
    fn memory_of_a_size_that_argon2_rounds_is_passed_on_too() {
        let (kib, lanes) = (70, 4);
        let blocks = Params::new(kib, 1, lanes, None).unwrap().block_count();
        assert_ne!(blocks, kib as usize);
        let spare = Spare::default();
        let mut first = spare.take(kib);
        let address = first.of(blocks).as_ptr();
        spare.put(first, true);
        assert_eq!(spare.take(kib).of(blocks).as_ptr(), address);
    }
}
