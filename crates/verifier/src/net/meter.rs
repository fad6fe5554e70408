//! How long a connection has been at what it is doing, kept cheaply.
//!
//! A timer per request would cost more than the answer. Instead each connection notes in one word what it is waiting for and
//! since which tick of a coarse clock; one sweeper per server looks at all of them a few times a second.

use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

/// The length of a tick.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// How long each thing may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From the first byte of a head to its end.
    pub(crate) head: Duration,
    /// From the start of waiting for a body to its end.
    pub(crate) body: Duration,
    /// Without any request.
    pub(crate) idle: Duration,
    /// For a client to take any byte of an answer.
    pub(crate) write: Duration,
    /// For a TLS handshake.
    pub(crate) handshake: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            idle: Duration::from_mins(3),
            write: Duration::from_secs(10),
            handshake: Duration::from_secs(5),
        }
    }
}

/// A clock that counts ticks. Read by every connection, advanced by the sweeper alone.
#[derive(Debug, Default)]
pub(crate) struct Ticks(AtomicU32);

impl Ticks {
    pub(crate) fn advance(&self) -> u32 {
        self.0.fetch_add(1, Relaxed).wrapping_add(1) & Meter::MASK
    }

    fn now(&self) -> u32 {
        self.0.load(Relaxed) & Meter::MASK
    }
}

const IDLE: u32 = 0;
const HEAD: u32 = 1;
const SERVING: u32 = 2;

/// One connection's notes: a phase in the two highest bits, the tick at which it began below.
#[derive(Debug)]
pub(crate) struct Meter {
    phase: AtomicU32,
    write_blocked: AtomicU32,
    ambiguous_length: AtomicBool,
}

impl Meter {
    const MASK: u32 = (1 << 30) - 1;
    const NOT_BLOCKED: u32 = u32::MAX;

    pub(crate) fn new(ticks: &Ticks) -> Self {
        Self {
            phase: AtomicU32::new(ticks.now()),
            write_blocked: AtomicU32::new(Self::NOT_BLOCKED),
            ambiguous_length: AtomicBool::new(false),
        }
    }

    fn enter(&self, phase: u32, ticks: &Ticks) {
        self.phase.store(phase << 30 | ticks.now(), Relaxed);
    }

    /// Bytes came in.
    pub(crate) fn bytes_read(&self, ticks: &Ticks) {
        if self.phase.load(Relaxed) >> 30 == IDLE {
            self.enter(HEAD, ticks);
        }
    }

    /// A head is complete; the answer is being made.
    pub(crate) fn serving(&self, ticks: &Ticks) {
        self.enter(SERVING, ticks);
    }

    /// The answer is made.
    pub(crate) fn answered(&self, ticks: &Ticks) {
        self.enter(IDLE, ticks);
    }

    /// The client doesn't take what is written.
    pub(crate) fn write_blocks(&self, ticks: &Ticks) {
        let _ = self.write_blocked.compare_exchange(Self::NOT_BLOCKED, ticks.now(), Relaxed, Relaxed);
    }

    /// The client took something.
    pub(crate) fn write_moves(&self) {
        if self.write_blocked.load(Relaxed) != Self::NOT_BLOCKED {
            self.write_blocked.store(Self::NOT_BLOCKED, Relaxed);
        }
    }

    /// A head with two declarations of the body's length was read.
    pub(crate) fn saw_ambiguous_length(&self) {
        self.ambiguous_length.store(true, Relaxed);
    }

    /// Whether such a head was read on this connection.
    pub(crate) fn is_length_ambiguous(&self) -> bool {
        self.ambiguous_length.load(Relaxed)
    }

    /// For how many ticks there has been no request; `None` while there is one.
    pub(crate) fn idle_for(&self, ticks: &Ticks) -> Option<u32> {
        let word = self.phase.load(Relaxed);
        (word >> 30 == IDLE).then(|| ticks.now().wrapping_sub(word & Self::MASK) & Self::MASK)
    }

    /// Whether the peer has used up our patience at tick `now`.
    pub(crate) fn is_overdue(&self, now: u32, patience: &Patience) -> bool {
        let over = |since: u32, limit: Duration| {
            let ticks = now.wrapping_sub(since) & Self::MASK;
            // A clock read just before it advanced may seem to be ahead.
            ticks < Self::MASK / 2 && TICK * ticks > limit
        };
        let blocked = self.write_blocked.load(Relaxed);
        if blocked != Self::NOT_BLOCKED && over(blocked, patience.write) {
            return true;
        }
        let word = self.phase.load(Relaxed);
        let since = word & Self::MASK;
        match word >> 30 {
            IDLE => over(since, patience.idle),
            HEAD => over(since, patience.head),
            // Waiting for a body is timed where it happens, so that it can be answered.
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_wait_for_the_peer_uses_up_patience() {
        let ticks = Ticks::default();
        let meter = Meter::new(&ticks);
        let patience = Patience { head: TICK * 4, idle: TICK * 40, write: TICK * 2, ..Patience::default() };
        let after = |n: u32| (0..n).fold(0, |_, _| ticks.advance());
        assert!(!meter.is_overdue(after(40), &patience));
        assert!(meter.is_overdue(after(1), &patience), "idle for too long");
        meter.bytes_read(&ticks);
        assert!(!meter.is_overdue(after(4), &patience));
        meter.bytes_read(&ticks);
        assert!(meter.is_overdue(after(1), &patience), "a head counts from its first byte");
        meter.serving(&ticks);
        assert!(!meter.is_overdue(after(100), &patience));
        meter.write_blocks(&ticks);
        assert!(!meter.is_overdue(after(2), &patience));
        meter.write_blocks(&ticks);
        assert!(meter.is_overdue(after(1), &patience));
        meter.write_moves();
        assert!(!meter.is_overdue(after(1), &patience));
    }
}
